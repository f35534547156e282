//! Whoever waits gets an answer, also when nothing else happens, and however long a shard runs.

use engine_mqtt::{Packet, QoS, ReasonCode};

use super::net::{CLEAN, DURABLE, Net, Options, Said};

#[test]
fn a_shard_goes_on_reading_however_long_it_runs() {
    let mut net = Net::tuned(2, |config| config.lane_events_max = 16);
    let publisher = net.id_on("p", 0);
    let subscriber = net.id_on("s", 1);
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, &CLEAN);
    net.subscribe(&subscriber, &[("t", QoS::AtLeastOnce)]);
    for n in 0..200u16 {
        net.publish(&publisher, "t", "x", QoS::AtLeastOnce, n + 1);
        net.pass(50);
        assert!(net.shards.iter().all(crate::Shard::reads_sockets), "{n}");
    }
}

#[test]
fn a_publication_that_comes_again_is_answered_without_another_commit() {
    let mut net = Net::new(1);
    net.connect("p", &DURABLE);
    net.publish("p", "t", "once", QoS::ExactlyOnce, 9);
    net.cut("p");
    net.connect("p", &DURABLE);
    net.pass(5_000);
    net.client("p").said.clear();
    net.publish_with("p", "t", "once", QoS::ExactlyOnce, 9, false, true);
    net.settle();
    assert_eq!(net.client("p").said, [Said::PubRec(9, ReasonCode::Success)]);
}

#[test]
fn a_clean_start_is_answered_when_the_earlier_session_is_gone_for_good() {
    let mut net = Net::new(1);
    net.connect("c", &DURABLE);
    net.frozen.push(0);
    net.begin_connect("c", &CLEAN);
    net.settle();
    net.cut_now("c");
    // The first clean start has removed the session; that is not durable yet.
    net.begin_connect("c", &CLEAN);
    net.client("c").said.clear();
    net.settle();
    assert_eq!(net.client("c").said, []);
    net.frozen.clear();
    net.settle();
    assert_eq!(net.client("c").said.len(), 1, "CONNACK");
}

#[test]
fn a_session_that_starves_is_fed_although_another_one_has_gone() {
    let mut net = Net::tuned(2, |config| config.reads_max = 1);
    let publisher = net.id_on("p", 0);
    net.connect(&publisher, &CLEAN);
    let ids: Vec<String> = ["a", "b", "c"].map(|name| net.id_on(name, 1)).into();
    for id in &ids {
        net.connect(id, &DURABLE);
        net.subscribe(id, &[("t", QoS::AtLeastOnce)]);
        net.cut(id);
    }
    for n in 0..3u16 {
        net.publish(&publisher, "t", "x", QoS::AtLeastOnce, n + 1);
    }
    net.settle();
    for id in &ids {
        net.begin_connect(id, &DURABLE);
    }
    for _ in 0..20 {
        // Until one of them reads and the others starve.
        if net.shards[1].starving() == 2 {
            break;
        }
        net.turn(1);
        net.turn(0);
    }
    assert_eq!(net.shards[1].starving(), 2);
    let starving = net.shards[1].first_starving().expect("two of them");
    net.cut_now(&starving);
    net.settle();
    for id in ids.iter().filter(|id| **id != starving) {
        assert_eq!(net.payloads(id).len(), 3, "{id}");
    }
}

#[test]
fn a_retained_message_and_the_publication_are_two_deliveries() {
    let mut net = Net::new(1);
    let options = Options {
        receive_max: 1,
        ..DURABLE
    };
    net.connect("p", &CLEAN);
    net.connect("s", &options);
    net.subscribe("s", &[("+/x", QoS::ExactlyOnce)]);
    net.client("s").acks = false;
    net.publish("p", "a/x", "first", QoS::AtLeastOnce, 1);
    net.settle();
    // The window is full: this one waits in the log.
    net.publish_with("p", "r/x", "kept", QoS::ExactlyOnce, 2, true, false);
    net.settle();
    net.subscribe("s", &[("r/x", QoS::ExactlyOnce)]);
    net.client("s").acks = true;
    let first = net.client("s").got[0].packet_id;
    net.ack("s", Packet::PubAck, first);
    net.settle();
    let got = net.client("s").got.iter();
    let got: Vec<_> = got.map(|one| (one.payload.as_str(), one.retain)).collect();
    assert_eq!(got, [("first", false), ("kept", true), ("kept", false)]);
}

#[test]
fn without_room_publications_wait_and_everything_else_goes_on() {
    let mut net = Net::new(1);
    net.connect(
        "p",
        &Options {
            keep_alive: 2,
            ..CLEAN
        },
    );
    net.connect("s", &DURABLE);
    net.subscribe("s", &[("t", QoS::AtLeastOnce)]);
    net.publish("p", "t", "before", QoS::AtLeastOnce, 1);
    net.settle();
    net.stores[0].is_full = true;
    // Not stored, so not held.
    net.publish("p", "t", "passing", QoS::AtMostOnce, 0);
    net.publish("p", "t", "first", QoS::AtLeastOnce, 2);
    net.publish("p", "t", "second", QoS::ExactlyOnce, 3);
    net.retain("p", "r", "third", 0);
    net.settle();
    // Longer than the keep-alive of a client that is not read.
    (0..50).for_each(|_| net.pass(100));
    assert_eq!(net.payloads("s"), ["before", "passing"]);
    assert!(!net.client("p").said.contains(&Said::Closed));
    assert!(net.shards[0].reads_sockets());
    net.stores[0].is_full = false;
    assert!(net.shards[0].takes_publications(&net.stores[0]));
    net.send("p", &Packet::PingReq);
    net.settle();
    assert_eq!(net.payloads("s"), ["before", "passing", "first", "second"]);
    net.subscribe("s", &[("r", QoS::AtMostOnce)]);
    assert_eq!(net.payloads("s").last(), Some(&"third"));
}

#[test]
fn a_filter_given_up_and_wanted_again_in_one_turn_ends_as_wanted() {
    let mut net = Net::new(2);
    let (publisher, subscriber) = (net.id_on("p", 0), net.id_on("s", 1));
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, &CLEAN);
    net.subscribe(&subscriber, &[("t/+", QoS::AtLeastOnce)]);
    net.begin_unsubscribe(&subscriber, &["t/+"]);
    net.begin_subscribe(&subscriber, &[("t/+", QoS::AtLeastOnce)], None);
    net.settle();
    net.publish(&publisher, "t/1", "x", QoS::AtLeastOnce, 1);
    net.settle();
    assert_eq!(net.payloads(&subscriber), ["x"]);
}

#[test]
fn nothing_is_sent_before_connack() {
    let mut net = Net::new(2);
    let (publisher, subscriber) = (net.id_on("p", 0), net.id_on("s", 1));
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, &DURABLE);
    net.subscribe(&subscriber, &[("t", QoS::AtLeastOnce)]);
    net.cut(&subscriber);
    // Its CONNACK waits for its log, and publications come meanwhile.
    net.frozen.push(1);
    net.begin_connect(&subscriber, &DURABLE);
    net.client(&subscriber).said.clear();
    net.settle();
    net.publish(&publisher, "t", "x", QoS::AtMostOnce, 0);
    net.publish(&publisher, "t", "y", QoS::AtLeastOnce, 1);
    net.settle();
    assert_eq!(net.payloads(&subscriber), Vec::<&str>::new());
    net.frozen.clear();
    net.settle();
    assert_eq!(net.client(&subscriber).said.len(), 1, "CONNACK");
    assert_eq!(net.payloads(&subscriber), ["y"]);
}

#[test]
fn deliveries_behind_one_that_waits_for_its_packet_id_keep_their_order() {
    let mut net = Net::new(2);
    let (publisher, subscriber) = (net.id_on("p", 0), net.id_on("s", 1));
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, &DURABLE);
    net.subscribe(&subscriber, &[("t", QoS::ExactlyOnce)]);
    net.frozen.push(1);
    net.publish(&publisher, "t", "twice", QoS::ExactlyOnce, 1);
    net.publish(&publisher, "t", "once", QoS::AtLeastOnce, 2);
    net.settle();
    assert_eq!(net.payloads(&subscriber), Vec::<&str>::new());
    net.frozen.clear();
    net.settle();
    assert_eq!(net.payloads(&subscriber), ["twice", "once"]);
}

#[test]
fn a_subscription_to_very_many_filters_needs_no_deep_stack() {
    let mut net = Net::new(1);
    net.connect("p", &CLEAN);
    net.retain("p", "t/2999", "last", 1);
    net.settle();
    net.connect("s", &CLEAN);
    let filters: Vec<String> = (0..3_000).map(|n| format!("t/{n}")).collect();
    let filters: Vec<(&str, QoS)> = filters
        .iter()
        .map(|filter| (filter.as_str(), QoS::AtLeastOnce))
        .collect();
    net.subscribe("s", &filters);
    let granted = |said: &Said| matches!(said, Said::SubAck(_, codes) if codes.len() == 3_000);
    assert!(net.client("s").said.iter().any(granted));
    assert_eq!(net.payloads("s"), ["last"]);
}

/// It is refused before anything has happened, and the next one of the same client is taken.
#[test]
fn a_publication_without_room_is_refused_alone() {
    let much = "x".repeat(2_000);
    let full = ReasonCode::QuotaExceeded;
    for topic in ["t", "$delayed/60/t"] {
        let mut net = Net::new(1);
        net.stores[0].room_bytes = 1_000;
        net.connect("s", &CLEAN);
        net.subscribe("s", &[("t", QoS::ExactlyOnce)]);
        net.connect("p", &CLEAN);
        net.client("p").said.clear();
        let before = net.stores[0].record_count();
        for (qos, id) in [(QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
            net.publish_with("p", topic, &much, qos, id, false, false);
        }
        net.settle();
        let expected = [Said::PubAck(1, full), Said::PubRec(2, full)];
        assert_eq!(net.client("p").said, expected);
        assert_eq!(net.stores[0].record_count(), before);
        net.publish("p", "t", "little", QoS::ExactlyOnce, 2);
        net.settle();
        assert_eq!(net.payloads("s"), ["little"]);
    }
}
