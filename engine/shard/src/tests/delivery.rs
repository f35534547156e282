//! Live delivery, lanes, overlap, windows, slow readers.

use std::collections::BTreeSet;

use engine_mqtt::{Packet, QoS, ReasonCode, Version};

use super::net::{CLEAN, DURABLE, Net, Options, Said};

const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn every_qos_crosses_every_pair_of_shards() {
    let mut net = Net::new(3);
    for from in 0..3 {
        for to in 0..3 {
            let publisher = net.id_on("pub", from);
            let subscriber = net.id_on(&format!("sub{from}"), to);
            net.connect(&publisher, &CLEAN);
            net.connect(&subscriber, &CLEAN);
            let filter = format!("t/{from}/{to}/+");
            net.subscribe(&subscriber, &[(&filter, QoS::ExactlyOnce)]);
            for (n, qos) in ALL.into_iter().enumerate() {
                let topic = format!("t/{from}/{to}/{n}");
                net.publish(&publisher, &topic, "x", qos, n as u16);
                net.settle();
            }
            let qos: Vec<u8> = net
                .client(&subscriber)
                .got
                .iter()
                .map(|got| got.qos)
                .collect();
            assert_eq!(qos, [0, 1, 2], "from shard {from} to shard {to}");
            let said = &net.client(&publisher).said;
            assert!(said.contains(&Said::PubAck(1, ReasonCode::Success)));
            assert!(said.contains(&Said::PubRec(2, ReasonCode::Success)));
        }
    }
}

#[test]
fn the_granted_qos_is_the_smaller_one() {
    let mut net = Net::new(2);
    net.connect("p", &CLEAN);
    for (name, granted) in [
        ("s0", QoS::AtMostOnce),
        ("s1", QoS::AtLeastOnce),
        ("s2", QoS::ExactlyOnce),
    ] {
        net.connect(name, &CLEAN);
        net.subscribe(name, &[("a", granted)]);
    }
    for (n, qos) in ALL.into_iter().enumerate() {
        net.publish("p", "a", "x", qos, n as u16);
        net.settle();
    }
    for (name, expected) in [("s0", [0, 0, 0]), ("s1", [0, 1, 1]), ("s2", [0, 1, 2])] {
        let qos: Vec<u8> = net.client(name).got.iter().map(|got| got.qos).collect();
        assert_eq!(qos, expected, "{name}");
    }
}

#[test]
fn nothing_is_acknowledged_or_delivered_before_it_is_durable() {
    let mut net = Net::new(1);
    net.connect("p", &CLEAN);
    net.connect("s", &CLEAN);
    net.subscribe("s", &[("a", QoS::AtLeastOnce)]);
    net.client("p").said.clear();
    net.frozen.push(0);
    net.publish("p", "a", "one", QoS::AtLeastOnce, 1);
    net.publish("p", "a", "zero", QoS::AtMostOnce, 0);
    net.settle();
    assert!(net.client("p").said.is_empty(), "no PUBACK");
    assert_eq!(net.payloads("s"), ["zero"], "QoS 0 waits for nobody");
    net.frozen.clear();
    net.settle();
    assert_eq!(net.client("p").said, [Said::PubAck(1, ReasonCode::Success)]);
    assert_eq!(net.payloads("s"), ["zero", "one"]);
}

#[test]
fn overlapping_filters_give_one_delivery_with_all_identifiers() {
    let mut net = Net::new(2);
    net.connect("p", &CLEAN);
    net.connect("s", &CLEAN);
    for (n, filter) in ["a/b", "a/+", "#"].iter().enumerate() {
        net.begin_subscribe("s", &[(filter, ALL[n])], Some(n as u32 + 1));
        net.settle();
    }
    net.publish("p", "a/b", "x", QoS::ExactlyOnce, 1);
    net.settle();
    let got = &net.client("s").got;
    assert_eq!(got.len(), 1);
    let mut ids = got[0].ids.clone();
    ids.sort_unstable();
    assert_eq!((got[0].qos, ids), (2, vec![1, 2, 3]));
}

#[test]
fn a_full_window_falls_behind_and_misses_nothing() {
    let mut net = Net::tuned(2, |config| config.ring_events_max = 16);
    let publisher = net.id_on("p", 0);
    let subscriber = net.id_on("s", 1);
    net.connect(&publisher, &CLEAN);
    net.connect(
        &subscriber,
        &Options {
            receive_max: 3,
            ..CLEAN
        },
    );
    net.subscribe(&subscriber, &[("t/#", QoS::AtLeastOnce)]);
    net.client(&subscriber).acks = false;
    for n in 0..100 {
        net.publish(&publisher, "t/x", &n.to_string(), QoS::AtLeastOnce, n + 1);
        net.settle();
    }
    assert_eq!(
        net.payloads(&subscriber),
        ["0", "1", "2"],
        "Receive Maximum"
    );
    net.client(&subscriber).acks = true;
    for packet_id in 1..=3 {
        net.ack(&subscriber, Packet::PubAck, packet_id);
    }
    net.settle();
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(net.payloads(&subscriber), expected);
    assert!(
        net.stores[0].reads > 0,
        "the ring is too short: the log was read"
    );
    net.publish(&publisher, "t/x", "live", QoS::AtLeastOnce, 200);
    net.settle();
    assert_eq!(net.payloads(&subscriber).last(), Some(&"live"));
}

#[test]
fn a_stuck_reader_costs_a_bounded_buffer() {
    let mut net = Net::new(1);
    net.connect("p", &CLEAN);
    net.connect("s", &CLEAN);
    net.subscribe("s", &[("a", QoS::AtLeastOnce)]);
    net.client("s").stuck = true;
    let payload = "x".repeat(2_000);
    for n in 0..500 {
        net.publish("p", "a", &format!("{n} {payload}"), QoS::AtLeastOnce, n + 1);
        net.settle();
    }
    assert!(
        net.unsent("s") <= 64 * 1024,
        "{} bytes wait",
        net.unsent("s")
    );
    net.unstick("s");
    assert_eq!(net.client("s").got.len(), 500);
    let order: Vec<u16> = net
        .client("s")
        .got
        .iter()
        .map(|got| {
            got.payload
                .split(' ')
                .next()
                .expect("a number")
                .parse()
                .expect("a number")
        })
        .collect();
    assert_eq!(order, (0..500).collect::<Vec<u16>>());
}

#[test]
fn full_lanes_in_both_directions_lose_no_qos1() {
    let mut net = Net::tuned(2, |config| config.lane_events_max = 4);
    let ids: Vec<(String, String)> = (0..2)
        .map(|s| (net.id_on("p", s), net.id_on("s", s)))
        .collect();
    for (publisher, subscriber) in &ids {
        net.connect(publisher, &CLEAN);
        net.connect(subscriber, &CLEAN);
        net.subscribe(subscriber, &[("all/#", QoS::AtLeastOnce)]);
    }
    net.ring = 0;
    for n in 0..60u16 {
        for (publisher, _) in &ids {
            let payload = format!("{publisher} {n}");
            net.publish(
                publisher,
                &format!("all/{publisher}"),
                &payload,
                QoS::AtLeastOnce,
                n + 1,
            );
        }
        net.turn(0);
        net.turn(1);
    }
    let collapses: u64 = net
        .shards
        .iter()
        .map(|shard| shard.counters().lane_collapses)
        .sum();
    assert!(collapses >= 2, "both lanes collapsed");
    net.ring = 4;
    net.settle();
    for (_, subscriber) in &ids {
        for (publisher, _) in &ids {
            let expected: Vec<String> = (0..60).map(|n| format!("{publisher} {n}")).collect();
            let got: Vec<&str> = net
                .payloads(subscriber)
                .into_iter()
                .filter(|payload| payload.starts_with(publisher.as_str()))
                .collect();
            assert_eq!(got, expected, "in order, once");
        }
    }
}

#[test]
fn a_subscribe_that_races_publishers_misses_nothing_after_suback() {
    for pause in 0..12 {
        let mut net = Net::new(3);
        let publisher = net.id_on("p", 1);
        let subscriber = net.id_on("s", 2);
        net.connect(&publisher, &CLEAN);
        net.connect(&subscriber, &CLEAN);
        net.begin_subscribe(&subscriber, &[("r/+", QoS::AtLeastOnce)], None);
        let mut after = None;
        for n in 0..40u16 {
            net.turn(usize::from(n + pause) % 3);
            if after.is_none()
                && net
                    .client(&subscriber)
                    .said
                    .iter()
                    .any(|s| matches!(s, Said::SubAck(..)))
            {
                after = Some(n);
            }
            net.publish(&publisher, "r/x", &n.to_string(), QoS::AtLeastOnce, n + 1);
        }
        net.settle();
        let first = after.expect("SUBACK came");
        let got: Vec<u16> = net
            .payloads(&subscriber)
            .iter()
            .map(|p| p.parse().expect("a number"))
            .collect();
        let wanted: Vec<u16> = (got.first().copied().unwrap_or(40).min(first)..40).collect();
        assert_eq!(got, wanted, "SUBACK came before {first}");
    }
}

#[test]
fn a_wildcard_filter_per_device_reaches_only_its_device() {
    let mut net = Net::new(2);
    net.connect("p", &CLEAN);
    let ids: Vec<String> = (0..50).map(|n| format!("dev{n}")).collect();
    for id in &ids {
        net.connect(id, &CLEAN);
        net.subscribe(id, &[(&format!("dev/{id}/#"), QoS::AtLeastOnce)]);
    }
    for (n, id) in ids.iter().enumerate() {
        net.publish(
            "p",
            &format!("dev/{id}/cmd"),
            id,
            QoS::AtLeastOnce,
            n as u16 + 1,
        );
    }
    net.settle();
    for id in &ids {
        assert_eq!(net.payloads(id), [id.as_str()]);
    }
}

#[test]
fn an_unsubscribed_filter_delivers_no_more() {
    let mut net = Net::new(2);
    net.connect("p", &CLEAN);
    net.connect("s", &DURABLE);
    net.subscribe("s", &[("a", QoS::AtLeastOnce), ("b", QoS::AtLeastOnce)]);
    net.unsubscribe("s", &["a"]);
    for (n, topic) in ["a", "b"].into_iter().enumerate() {
        net.publish("p", topic, topic, QoS::AtLeastOnce, n as u16 + 1);
    }
    net.settle();
    assert_eq!(net.payloads("s"), ["b"]);
    assert!(net.client("s").said.contains(&Said::UnsubAck(78)));
}

#[test]
fn a_session_that_comes_back_gets_one_delivery_at_the_highest_qos() {
    let mut net = Net::new(2);
    let publisher = net.id_on("p", 0);
    let (other, subscriber) = (net.id_on("o", 1), net.id_on("s", 1));
    net.connect(&publisher, &CLEAN);
    net.connect(&other, &CLEAN);
    net.subscribe(&other, &[("t", QoS::AtMostOnce)]);
    net.connect(&subscriber, &DURABLE);
    net.subscribe(
        &subscriber,
        &[("t", QoS::AtMostOnce), ("+", QoS::AtLeastOnce)],
    );
    net.cut(&subscriber);
    // It is routed while only the filter of the other one is online, and arrives afterwards.
    net.frozen.push(0);
    net.publish(&publisher, "t", "x", QoS::AtLeastOnce, 1);
    net.begin_connect(&subscriber, &DURABLE);
    net.settle();
    net.frozen.clear();
    net.settle();
    let got = &net.client(&subscriber).got;
    let levels: Vec<u8> = got.iter().map(|one| one.qos).collect();
    assert_eq!(levels, [1]);
    assert_eq!(net.payloads(&other), ["x"]);
}

#[test]
fn deliveries_that_wait_for_their_packet_ids_count_as_unsent() {
    let mut net = Net::tuned(2, |config| config.output_bytes_max = 1_000);
    let (publisher, subscriber) = (net.id_on("p", 0), net.id_on("s", 1));
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, &DURABLE);
    net.subscribe(&subscriber, &[("t", QoS::ExactlyOnce)]);
    net.frozen.push(1);
    let texts: Vec<String> = (0..10).map(|n| format!("{n:0400}")).collect();
    for (text, packet_id) in texts.iter().zip(1..) {
        net.publish(&publisher, "t", text, QoS::ExactlyOnce, packet_id);
    }
    net.settle();
    assert_eq!(
        net.shards[1].census().in_flight,
        3,
        "1,000 bytes and one more"
    );
    net.frozen.clear();
    net.settle();
    assert_eq!(net.payloads(&subscriber), texts);
    assert_eq!(net.shards[1].census().unsent_bytes, 0);
}

#[test]
fn a_client_that_asks_and_does_not_read_is_closed() {
    let mut net = Net::tuned(1, |config| {
        config.output_bytes_max = 1_024;
        config.packet_bytes_max = 1_024;
    });
    net.connect("a", &CLEAN);
    net.client("a").stuck = true;
    // 2 bytes each: 128 KiB and what deliveries may take beside it.
    let mut most = 0;
    for _ in 0..67_000 {
        net.send("a", &Packet::PingReq);
        most = most.max(net.shards[0].census().unsent_bytes);
    }
    net.settle();
    assert!(most > 128 * 1024 && most < 132 * 1024, "{most}");
    assert_eq!(net.shards[0].census().connections, 0);
}

#[test]
fn a_large_payload_is_one_block_for_all_its_receivers() {
    let mut net = Net::tuned(2, |config| config.shared_payload_min = 1_000);
    net.connect("p", &CLEAN);
    let levels = [QoS::AtMostOnce, QoS::AtLeastOnce];
    let subscribers: Vec<String> = (0..8).map(|n| format!("s{n}")).collect();
    for (subscriber, n) in subscribers.iter().zip(0..) {
        let version = [Version::V5, Version::V311][n / 2 % 2];
        net.connect(subscriber, &Options { version, ..CLEAN });
        net.subscribe(subscriber, &[("t", levels[n % 2])]);
    }
    let (small, large) = ("s".repeat(999), "l".repeat(5_000));
    for (text, packet_id) in [(&small, 1), (&large, 2), (&small, 3)] {
        net.publish("p", "t", text, QoS::AtLeastOnce, packet_id);
    }
    net.settle();
    let mut at = BTreeSet::new();
    for subscriber in &subscribers {
        assert_eq!(net.payloads(subscriber), [&small, &large, &small]);
        at.extend(net.client(subscriber).large.drain(..));
    }
    // Each shard has its own copy of a message that comes from a log, at most.
    assert!(at.len() <= 2, "{} blocks", at.len());
}
