//! PUBACK and PUBREC with reason 0x10: nobody has a subscription that matches.

use engine_mqtt::{Packet, QoS, ReasonCode};

use super::net::{CLEAN, DURABLE, Net, Said};

/// What the acknowledgement of a new publication says.
fn ack(net: &mut Net, topic: &str, qos: QoS, retain: bool) -> ReasonCode {
    if !net.clients.contains_key("p") || net.client("p").connection.is_none() {
        net.connect("p", &CLEAN);
    }
    net.client("p").said.clear();
    net.publish_with("p", topic, "x", qos, 9, retain, false);
    net.settle();
    let said = std::mem::take(&mut net.client("p").said);
    if qos == QoS::ExactlyOnce {
        net.ack("p", Packet::PubRel, 9);
        net.settle();
    }
    match said.first() {
        Some(Said::PubAck(9, reason) | Said::PubRec(9, reason)) => *reason,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(net: &mut Net, topic: &str, is_heard: bool) {
    let expected = if is_heard {
        ReasonCode::Success
    } else {
        ReasonCode::NoMatchingSubscribers
    };
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for retain in [false, true] {
            assert_eq!(ack(net, topic, qos, retain), expected, "{topic} {qos:?}");
        }
    }
}

#[test]
fn a_publisher_is_told_that_nobody_has_subscribed() {
    for shards in [1, 2] {
        let mut net = Net::new(shards);
        check(&mut net, "t/x", false);
        for filter in ["t/x", "t/+", "$share/g/t/x"] {
            let all = [(filter, QoS::AtMostOnce)];
            net.connect("s", &CLEAN);
            net.subscribe("s", &all);
            check(&mut net, "t/x", true);
            check(&mut net, "t/y", filter == "t/+");
            net.unsubscribe("s", &[filter]);
            check(&mut net, "t/x", false);
            net.subscribe("s", &all);
            net.cut("s");
            check(&mut net, "t/x", false);
        }
    }
}

/// An exact filter of a session that is away is in no table.
#[test]
fn a_session_that_is_away_has_subscribed() {
    for shards in [1, 2] {
        for filter in ["t/x", "t/+", "$share/g/t/x"] {
            let mut net = Net::new(shards);
            net.connect("s", &DURABLE);
            net.subscribe("s", &[(filter, QoS::AtLeastOnce)]);
            net.cut("s");
            check(&mut net, "t/x", true);
            net.crash();
            check(&mut net, "t/x", true);
            net.connect("s", &DURABLE);
            check(&mut net, "t/x", true);
            net.unsubscribe("s", &[filter]);
            check(&mut net, "t/x", false);
            net.subscribe("s", &[(filter, QoS::AtLeastOnce)]);
            net.cut("s");
            check(&mut net, "t/x", true);
            net.connect("s", &CLEAN);
            check(&mut net, "t/x", false);
        }
    }
}

/// What it would not get does not count.
#[test]
fn a_session_that_is_away_with_qos_0_does_not_count() {
    for filter in ["t/x", "t/+"] {
        let mut net = Net::new(2);
        net.connect("s", &DURABLE);
        net.subscribe("s", &[(filter, QoS::AtMostOnce)]);
        check(&mut net, "t/x", true);
        net.cut("s");
        check(&mut net, "t/x", false);
    }
}
