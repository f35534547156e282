//! Publications to `$delayed/<seconds>/<topic>`.

use std::sync::Arc;

use engine_mqtt::{Packet, PacketId, PropertiesBuilder, Publish, QoS, ReasonCode, Version};

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use crate::{Counters, Pattern, Rewrite, Rewrites, Rule, Rules, ShardConfig, Table};

const V3: Options = Options {
    version: Version::V311,
    ..CLEAN
};

/// A node with a publisher `p` and a durable subscriber `s` of everything.
fn net(shards: usize) -> Net {
    with_tune(shards, |_| {})
}

fn with_tune(shards: usize, tune: fn(&mut ShardConfig)) -> Net {
    let mut net = Net::tuned(shards, tune);
    net.connect("p", &CLEAN);
    net.connect("s", &DURABLE);
    net.subscribe("s", &[("t/#", QoS::ExactlyOnce)]);
    net
}

fn rows(net: &Net) -> usize {
    let stores = net.stores.iter();
    stores.map(|store| store.rows_of(Table::Delayed)).sum()
}

fn count(net: &Net, of: fn(&Counters) -> u64) -> u64 {
    net.shards.iter().map(|shard| of(shard.counters())).sum()
}

/// Nothing is left of what was delayed.
fn assert_empty(net: &Net) {
    assert_eq!((rows(net), count(net, |c| c.delayed)), (0, 0));
    let census: Vec<_> = net.shards.iter().map(crate::Shard::census).collect();
    assert!(census.iter().all(|one| one.delayed_rows_most == 0));
    assert!(census.iter().all(|one| one.delayed_bytes_most == 0));
}

fn back(net: &mut Net) {
    net.crash();
    net.connect("s", &DURABLE);
    net.connect("p", &CLEAN);
}

#[test]
fn it_is_published_when_it_is_due_and_once() {
    for shards in [1, 3] {
        let mut net = net(shards);
        for (id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
            let payload = format!("q{id}");
            net.publish("p", "$delayed/2/t/a", &payload, qos, id);
        }
        net.publish("p", "$delayed/2/t/a", "q0", QoS::AtMostOnce, 0);
        net.pass(1_950);
        assert!(net.payloads("s").is_empty());
        assert_eq!((rows(&net), count(&net, |c| c.delayed)), (3, 3));
        assert!(
            net.client("p")
                .said
                .contains(&Said::PubAck(1, ReasonCode::Success))
        );
        assert!(
            net.client("p")
                .said
                .contains(&Said::PubRec(2, ReasonCode::Success))
        );
        net.pass(100);
        let mut got = net.payloads("s");
        got.sort_unstable();
        assert_eq!(got, ["q0", "q1", "q2"]);
        assert!(net.client("s").got.iter().all(|got| got.topic == "t/a"));
        let qos: u8 = net.client("s").got.iter().map(|got| got.qos).sum();
        assert_eq!(qos, 3, "each with its own");
        net.pass(10_000);
        assert_eq!(net.payloads("s").len(), 3, "once");
        assert_eq!(count(&net, |c| c.delayed_published), 3);
        assert_empty(&net);
    }
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    let mut net = net(1);
    net.client("p").said.clear();
    net.frozen.push(0);
    net.publish("p", "$delayed/1/t", "a", QoS::AtLeastOnce, 1);
    net.publish("p", "$delayed/1/t", "b", QoS::ExactlyOnce, 2);
    net.settle();
    assert_eq!(net.client("p").said, []);
    net.pass(2_000);
    assert!(net.payloads("s").is_empty(), "nor seen, late as it is");
    net.frozen.clear();
    net.pass(50);
    assert_eq!(net.client("p").said.len(), 2);
    assert_eq!(net.payloads("s"), ["a", "b"]);
}

/// [MQTT-4.6.0-2]
#[test]
fn acknowledgements_keep_the_order_of_what_they_answer() {
    let mut net = net(1);
    net.client("p").said.clear();
    for id in 1..=6 {
        let topic = if id % 2 == 1 { "$delayed/1/t" } else { "t" };
        net.publish("p", topic, "a", QoS::AtLeastOnce, id);
    }
    net.settle();
    let expected: Vec<_> = (1..=6)
        .map(|id| Said::PubAck(id, ReasonCode::Success))
        .collect();
    assert_eq!(net.client("p").said, expected);
}

#[test]
fn equal_times_keep_the_order_and_earlier_ones_come_first() {
    let mut net = with_tune(1, |config| config.delayed_window_max = 4);
    for n in 0..40u16 {
        let (topic, payload) = (format!("$delayed/{}/t", 3 - n % 2), format!("{n:02}"));
        net.publish("p", &topic, &payload, QoS::AtLeastOnce, n + 1);
    }
    net.settle();
    assert_eq!(rows(&net), 40);
    assert_eq!(net.shards[0].census().delayed_rows_most, 4);
    net.pass(4_000);
    let (odd, even) = ((1..40).step_by(2), (0..40).step_by(2));
    let expected: Vec<String> = odd.chain(even).map(|n| format!("{n:02}")).collect();
    assert_eq!(net.payloads("s"), expected);
    assert_empty(&net);
}

#[test]
fn a_crash_in_the_moment_it_is_due_repeats_and_loses_nothing() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut net = with_tune(2, |config| config.delayed_window_max = 2);
        for n in 0..5 {
            let id = if qos == QoS::AtMostOnce { 0 } else { n + 1 };
            net.publish("p", "$delayed/1/t", &n.to_string(), qos, id);
        }
        net.settle();
        net.pass(900);
        // Due, and not durable that it is published.
        net.frozen.extend([0, 1]);
        net.pass(200);
        assert!(net.payloads("s").is_empty());
        back(&mut net);
        net.pass(100);
        // At QoS 0 nobody is there who hears of it.
        let expected: &[&str] = match qos {
            QoS::AtMostOnce => &[],
            _ => &["0", "1", "2", "3", "4"],
        };
        assert_eq!(net.payloads("s"), expected, "{qos:?}");
        back(&mut net);
        net.pass(5_000);
        assert_eq!(count(&net, |c| c.delayed_published), 0, "once");
        if qos == QoS::ExactlyOnce {
            assert_eq!(net.client("s").fresh.len(), 5, "delivered once");
        }
        assert_empty(&net);
    }
}

#[test]
fn what_waits_survives_crashes_and_keeps_its_time() {
    let mut net = net(2);
    net.publish("p", "$delayed/10/t", "a", QoS::AtLeastOnce, 1);
    net.pass(4_000);
    back(&mut net);
    net.publish("p", "$delayed/5/t", "b", QoS::AtLeastOnce, 1);
    net.pass(4_000);
    back(&mut net);
    net.pass(900);
    assert!(net.payloads("s").is_empty());
    net.pass(200);
    assert_eq!(net.payloads("s"), ["b"]);
    net.pass(1_000);
    assert_eq!(net.payloads("s"), ["b", "a"]);
    assert_empty(&net);
}

#[test]
fn what_was_due_while_the_node_was_down_is_published_at_the_start() {
    let mut net = net(1);
    net.publish("p", "$delayed/10/t", "a", QoS::AtLeastOnce, 1);
    net.settle();
    net.now.wall_ms += 60_000;
    back(&mut net);
    assert_eq!(net.payloads("s"), ["a"]);
}

#[test]
fn an_orderly_stop_publishes_nothing() {
    let mut net = net(1);
    net.publish("p", "$delayed/1/t", "a", QoS::AtLeastOnce, 1);
    net.settle();
    net.pass(900);
    net.shards[0].stop(net.now, &mut net.stores[0]);
    net.pass(500);
    assert!(net.shards[0].stopped());
    assert_eq!(rows(&net), 1);
    back(&mut net);
    net.pass(50);
    assert_eq!(net.payloads("s"), ["a"]);
}

#[test]
fn one_too_many_is_refused() {
    let mut net = with_tune(1, |config| config.delayed_max = 2);
    net.connect("old", &V3);
    for n in 1..=3 {
        net.publish("p", "$delayed/1/t", "a", QoS::AtLeastOnce, n);
    }
    net.publish("p", "$delayed/1/t", "a", QoS::AtMostOnce, 0);
    net.publish("old", "$delayed/1/t", "a", QoS::AtLeastOnce, 1);
    net.settle();
    let said = &net.client("p").said;
    assert!(said.contains(&Said::PubAck(2, ReasonCode::Success)));
    assert!(said.contains(&Said::PubAck(3, ReasonCode::QuotaExceeded)));
    assert_eq!(net.client("old").said.last(), Some(&Said::Closed));
    assert_eq!(count(&net, |c| c.refused), 3);
    net.pass(1_100);
    assert_eq!(net.payloads("s").len(), 2);
    net.publish("p", "$delayed/1/t", "b", QoS::AtLeastOnce, 4);
    net.pass(1_100);
    assert_eq!(net.payloads("s"), ["a", "a", "b"], "there is room again");
}

#[test]
fn a_bad_delay_is_an_invalid_topic_name() {
    let mut net = net(1);
    for (n, topic) in [
        "$delayed/0/t",
        "$delayed/4294968/t",
        "$delayed/x/t",
        "$delayed/1",
    ]
    .into_iter()
    .enumerate()
    {
        let id = n as u16 + 1;
        net.publish("p", topic, "a", QoS::AtLeastOnce, id);
        let reason = ReasonCode::TopicNameInvalid;
        net.settle();
        assert_eq!(net.client("p").said.last(), Some(&Said::PubAck(id, reason)));
        net.connect("old", &V3);
        net.publish("old", topic, "a", QoS::AtLeastOnce, id);
        net.settle();
        assert_eq!(net.client("old").said.last(), Some(&Said::Closed));
    }
    net.publish("p", "$delayed/x/t", "a", QoS::AtMostOnce, 0);
    net.settle();
    let end = Said::Disconnect(ReasonCode::TopicNameInvalid);
    assert!(net.client("p").said.contains(&end));
    assert_eq!(rows(&net), 0);
}

fn publish_with_life(net: &mut Net, topic: &str, life_s: u32) {
    let mut builder = PropertiesBuilder::new();
    builder.message_expiry(life_s);
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
        packet_id: PacketId::new(9),
        properties: builder.properties().unwrap(),
        payload: b"a",
    };
    net.send("p", &Packet::Publish(publish));
}

#[test]
fn its_life_begins_when_it_is_due() {
    let mut net = net(1);
    publish_with_life(&mut net, "$delayed/5/t", 2);
    net.pass(5_100);
    assert_eq!(net.payloads("s"), ["a"], "it lives longer than it waits");
    net.disconnect("s");
    publish_with_life(&mut net, "$delayed/5/t", 2);
    net.pass(8_000);
    net.connect("s", &DURABLE);
    assert_eq!(net.payloads("s"), ["a"], "the second one's is over");
}

#[test]
fn it_can_be_retained_and_be_a_will() {
    let mut net = net(2);
    net.retain("p", "$delayed/2/t/kept", "a", 1);
    let with_will = Options {
        will: Some(("$delayed/2/t/will", "gone", 0)),
        ..CLEAN
    };
    net.connect("w", &with_will);
    net.cut("w");
    net.pass(1_900);
    net.connect("early", &CLEAN);
    net.subscribe("early", &[("t/kept", QoS::AtLeastOnce)]);
    assert!(net.payloads("early").is_empty());
    assert_eq!(rows(&net), 2);
    back(&mut net);
    net.pass(200);
    let mut got = net.payloads("s");
    got.sort_unstable();
    assert_eq!(got, ["a", "gone"]);
    net.connect("late", &CLEAN);
    net.subscribe("late", &[("t/kept", QoS::AtLeastOnce)]);
    assert_eq!(net.payloads("late"), ["a"]);
    assert_empty(&net);
    let refused = Options {
        will: Some(("$delayed/x/t", "gone", 0)),
        ..CLEAN
    };
    net.connect("x", &refused);
    let reason = ReasonCode::TopicNameInvalid;
    assert!(
        net.client("x")
            .said
            .iter()
            .any(|said| matches!(said, Said::ConnAck { reason: got, .. } if *got == reason))
    );
}

#[test]
fn at_qos_2_it_is_kept_once_however_often_it_is_sent() {
    let mut net = net(1);
    net.connect("p2", &DURABLE);
    net.publish("p2", "$delayed/1/t", "a", QoS::ExactlyOnce, 5);
    net.settle();
    net.crash();
    net.connect("s", &DURABLE);
    net.connect("p2", &DURABLE);
    net.publish_with("p2", "$delayed/1/t", "a", QoS::ExactlyOnce, 5, false, true);
    net.settle();
    assert_eq!(
        net.client("p2").said.last(),
        Some(&Said::PubRec(5, ReasonCode::Success))
    );
    assert_eq!(rows(&net), 1);
    net.ack("p2", Packet::PubRel, 5);
    net.pass(1_100);
    assert_eq!(net.client("s").fresh.len(), 1);
}

#[test]
fn what_is_due_waits_for_room() {
    let mut net = net(1);
    net.publish("p", "$delayed/1/t", "a", QoS::AtLeastOnce, 1);
    net.settle();
    net.stores[0].is_full = true;
    net.publish("p", "$delayed/1/t", "b", QoS::AtMostOnce, 0);
    net.pass(3_000);
    assert!(net.payloads("s").is_empty());
    assert_eq!(count(&net, |c| c.delayed), 1);
    net.stores[0].is_full = false;
    net.pass(100);
    assert_eq!(net.payloads("s"), ["a"]);
}

#[test]
fn many_that_are_due_take_turns() {
    let mut net = with_tune(1, |config| {
        config.delayed_window_max = 16;
        config.delayed_window_bytes_max = 200;
    });
    for n in 0..300u16 {
        net.publish("p", "$delayed/1/t", &n.to_string(), QoS::AtLeastOnce, n + 1);
        net.settle();
    }
    assert!(net.shards[0].census().delayed_bytes_most <= 200);
    net.now.wall_ms += 2_000;
    net.now.monotonic_ms += 2_000;
    net.turn(0);
    let first = count(&net, |c| c.delayed_published);
    assert!((16..300).contains(&first), "{first} in one turn");
    net.settle();
    let expected: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(net.payloads("s"), expected);
    assert_empty(&net);
}

#[test]
fn the_rules_are_asked_about_its_topic() {
    fn tune(config: &mut ShardConfig) {
        let rule = Rule {
            allows: true,
            user: None,
            client: None,
            address: None,
            action: None,
            topics: vec![Pattern::parse("t/#").unwrap()],
        };
        config.rules = Some(Arc::new(Rules {
            rules: vec![rule],
            otherwise_allows: false,
        }));
    }
    let mut net = with_tune(1, tune);
    net.publish("p", "$delayed/1/u", "a", QoS::AtLeastOnce, 1);
    net.publish("p", "$delayed/1/t", "b", QoS::AtLeastOnce, 2);
    net.settle();
    let said = &net.client("p").said;
    assert!(said.contains(&Said::PubAck(1, ReasonCode::NotAuthorized)));
    assert!(said.contains(&Said::PubAck(2, ReasonCode::Success)));
    assert_eq!(rows(&net), 1);
}

#[test]
fn rules_rewrite_its_topic_and_may_delay() {
    fn tune(config: &mut ShardConfig) {
        let rule = |from, to| Rewrite::new(None, from, to).expect("a rule");
        config.rewrites = Some(Arc::new(Rewrites::new(vec![
            rule("d/#", "t/$1"),
            rule("slow/#", "$delayed/2/t/$1"),
            rule("bad/#", "$delayed/0/t/$1"),
        ])));
    }
    let mut net = with_tune(1, tune);
    let with_will = Options {
        will: Some(("$delayed/3/d/will", "w", 0)),
        ..CLEAN
    };
    net.connect("w", &with_will);
    net.cut("w");
    net.publish("p", "$delayed/1/d/a", "a", QoS::AtLeastOnce, 1);
    net.publish("p", "slow/b", "b", QoS::AtLeastOnce, 2);
    net.publish("p", "$delayed/2/slow/c", "c", QoS::AtLeastOnce, 3);
    net.publish("p", "bad/d", "d", QoS::AtLeastOnce, 4);
    net.settle();
    let refused = Said::PubAck(4, ReasonCode::TopicNameInvalid);
    assert!(net.client("p").said.contains(&refused));
    for topics in 1..=4 {
        net.pass(1_010);
        assert_eq!(net.payloads("s").len(), topics);
    }
    let topics: Vec<_> = net.clients["s"].got.iter().map(|got| &got.topic).collect();
    assert_eq!(topics, ["t/a", "t/b", "t/will", "t/c"]);
    assert_empty(&net);
}
