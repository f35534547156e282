//! Retained messages that are not in memory: what reads cost, what ends, what stays.

use bytes::Bytes;
use engine_mqtt::{Packet, PacketId, PropertiesBuilder, Publish, QoS, ReasonCode};

use super::net::{CLEAN, Net, Options, Said};
use crate::state::retained_change;
use crate::{Address, LogId, LogOffset, Message, ShardConfig, Store, Table};
use engine_session::{Body, NO_EXPIRY};

/// A node with one shard that has these topics retained, each with itself as its payload.
fn holding(topics: impl Iterator<Item = String>, tune: fn(&mut ShardConfig)) -> Net {
    let mut net = Net::tuned(1, tune);
    for (offset, topic) in (0..).zip(topics) {
        let address = Address {
            log: LogId(0),
            offset: LogOffset(offset),
        };
        let mut body = Vec::new();
        let parts = Body {
            published_ms: net.now.wall_ms,
            expiry_s: NO_EXPIRY,
            topic: &topic,
            properties: &[],
            payload: topic.as_bytes(),
            block: None,
        };
        parts.encode(&mut body);
        let message = Message {
            address,
            stamp: 1,
            publisher: 1,
            qos: QoS::AtLeastOnce,
            retain: true,
            body: Bytes::from(body),
        };
        let change = retained_change(&message, net.now.wall_ms).unwrap();
        net.stores[0].apply(address, change);
    }
    net.crash();
    net
}

fn topics(net: &Net, id: &str) -> Vec<String> {
    let got = net.clients[id].got.iter();
    got.map(|one| {
        assert!(one.retain);
        one.topic.clone()
    })
    .collect()
}

/// A retained message that expires, after whose acknowledgement it returns.
fn retain_for(net: &mut Net, id: &str, topic: &str, seconds: u32) {
    let mut properties = PropertiesBuilder::new();
    properties.message_expiry(seconds);
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic,
        packet_id: PacketId::new(9),
        properties: properties.properties().unwrap(),
        payload: b"short",
    };
    net.send(id, &Packet::Publish(publish));
    net.settle();
}

fn retained_rows(net: &mut Net) -> usize {
    let mut rows = 0;
    net.stores[0].walk(Table::Retained, &[], &mut |_, _| {
        rows += 1;
        crate::Walk::Next
    });
    rows
}

#[test]
fn a_subscription_costs_by_its_matches_and_all_come_under_flow_control() {
    let all = || (0..60).flat_map(|a| (0..100).map(move |b| format!("{a:02}/{b:02}/x")));
    let mut net = holding(all(), |config| config.retained_cached_max = 8);
    assert_eq!(net.shards[0].counters().retained, 6_000);
    for (n, (filter, found, most)) in [
        ("07/+/x", 100, 210),
        ("07/#", 100, 110),
        ("+/07/#", 60, 200),
        ("+/07/y", 0, 130),
        ("07/08/x", 1, 0),
        ("99/#", 0, 0),
        ("#", 6_000, 6_100),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("s{n}");
        let options = Options {
            receive_max: 3,
            ..CLEAN
        };
        net.connect(&id, &options);
        net.client(&id).acks = true;
        net.stores[0].walked = 0;
        net.subscribe(&id, &[(filter, QoS::AtLeastOnce)]);
        let expected: Vec<String> = all().filter(|t| engine_topic::matches(filter, t)).collect();
        assert_eq!(topics(&net, &id), expected, "{filter}");
        assert_eq!(expected.len(), found, "{filter}");
        let walked = net.stores[0].walked;
        assert!(walked <= most, "{filter} looks at {walked} rows");
    }
}

#[test]
fn no_turn_gets_long_however_much_is_looked_at() {
    let mut net = holding((0..30_000).map(|n| format!("{n:05}/x")), |_| {});
    let clients = ["s0", "s1", "s2"];
    for id in clients {
        net.connect(id, &CLEAN);
        net.begin_subscribe(id, &[("+/y", QoS::AtLeastOnce)], None);
    }
    let (mut turns, mut most) = (0, 0);
    loop {
        net.stores[0].walked = 0;
        let busy = net.turn(0) || net.shards[0].next_timeout() <= net.now.monotonic_ms;
        most = most.max(net.stores[0].walked);
        if !busy {
            break;
        }
        turns += 1;
        assert!(turns < 10_000, "it does not end");
    }
    // A row and a search for each first level, a page beyond the bound.
    assert!((10..=3_000).contains(&most), "{most} rows in one turn");
    let census = net.shards[0].census();
    assert_eq!((census.retained_reads, census.retained_jobs), (0, 0));
}

#[test]
fn what_has_expired_is_removed_and_counts_no_more() {
    let mut net = Net::tuned(1, |config| config.retained_max = 3);
    net.shards[0].set_oldest_stamps(&[0]);
    net.connect("p", &CLEAN);
    retain_for(&mut net, "p", "short", 10);
    retain_for(&mut net, "p", "long", 1_000);
    net.retain("p", "ever", "ever", 3);
    net.retain("p", "refused", "no room", 4);
    net.settle();
    let counts = |net: &Net| {
        let counters = net.shards[0].counters();
        (counters.retained, counters.retained_expired)
    };
    assert_eq!(
        (counts(&net), net.shards[0].counters().refused),
        ((3, 0), 1)
    );
    net.pass(9_000);
    assert_eq!(counts(&net), (3, 0), "too early");
    net.pass(32_000);
    assert_eq!(counts(&net), (2, 1));
    net.crash();
    assert_eq!(counts(&net).0, 2, "after a crash");
    net.connect("s", &CLEAN);
    net.subscribe("s", &[("#", QoS::AtLeastOnce)]);
    assert_eq!(topics(&net, "s"), ["ever", "long"]);
    // It is a delete now, which is forgotten when no log has an older publication.
    assert_eq!(retained_rows(&mut net), 3);
    net.shards[0].set_oldest_stamps(&[0]);
    let margin_ms = ShardConfig::new(crate::ShardId(0), 1, 1, 1).tombstone_margin_ms;
    let oldest = (net.now.wall_ms + margin_ms + 1) << 16;
    net.shards[0].retired(net.now, oldest, &mut net.stores[0]);
    net.pass(31_000);
    assert_eq!(retained_rows(&mut net), 2);
    assert_eq!(net.shards[0].counters().tombstones_freed, 1);
}

#[test]
fn a_pass_notes_what_is_due_later() {
    let mut net = Net::tuned(1, |_| {});
    net.shards[0].set_oldest_stamps(&[0]);
    net.connect("p", &CLEAN);
    retain_for(&mut net, "p", "first", 10);
    retain_for(&mut net, "p", "second", 1_000);
    retain_for(&mut net, "p", "third", 1_900);
    let counts = |net: &Net| {
        let counters = net.shards[0].counters();
        (counters.retained, counters.retained_expired)
    };
    for (pause_s, expected) in [(40, (2, 1)), (930, (2, 1)), (60, (1, 2)), (900, (0, 3))] {
        net.pass(pause_s * 1_000);
        assert_eq!(counts(&net), expected, "after another {pause_s} s");
    }
}

#[test]
fn a_delete_is_kept_until_no_log_has_an_older_publication() {
    let mut net = Net::tuned(1, |config| config.tombstone_margin_ms = 1_000);
    net.shards[0].set_oldest_stamps(&[0]);
    net.connect("p", &CLEAN);
    for n in 0..2_000_u16 {
        net.retain("p", &format!("{n}"), "", n + 1);
        if n % 100 == 99 {
            net.settle();
        }
    }
    net.settle();
    let deleted_ms = net.now.wall_ms;
    let retire = |net: &mut Net, oldest_ms: u64| {
        net.shards[0].retired(net.now, oldest_ms << 16, &mut net.stores[0]);
        net.pass(31_000);
        retained_rows(net)
    };
    assert_eq!(retire(&mut net, deleted_ms + 1_000), 2_000, "not yet");
    net.retain("p", "7", "again", 1);
    net.settle();
    assert_eq!(retire(&mut net, deleted_ms + 1_001), 1);
    assert_eq!(net.shards[0].counters().tombstones_freed, 1_999);
    assert_eq!(net.shards[0].counters().retained, 1);
}

#[test]
fn who_finds_no_room_is_told_wherever_the_topic_is_at_home() {
    let mut net = Net::tuned(2, |config| config.retained_max = 1);
    let publisher = net.id_on("p", 0);
    let options = Options {
        expiry_s: 100,
        ..CLEAN
    };
    net.connect(&publisher, &options);
    for owner in [0, 1] {
        let (first, second) = (net.id_on("t", owner), net.id_on("u", owner));
        net.retain(&publisher, &first, "x", 1);
        net.settle();
        // Twice with each packet id: it is free again at once.
        for packet_id in [2, 3, 2, 3] {
            let qos = [QoS::ExactlyOnce, QoS::AtLeastOnce][usize::from(packet_id) % 2];
            let publish = Publish {
                dup: false,
                qos,
                retain: true,
                topic: &second,
                packet_id: PacketId::new(packet_id),
                properties: engine_mqtt::Properties::EMPTY,
                payload: b"x",
            };
            net.send(&publisher, &Packet::Publish(publish));
            net.settle();
            let full = ReasonCode::QuotaExceeded;
            let expected = match qos {
                QoS::ExactlyOnce => Said::PubRec(packet_id, full),
                _ => Said::PubAck(packet_id, full),
            };
            assert_eq!(net.client(&publisher).said.last(), Some(&expected));
        }
        let inbound = net.stores[0].rows_of(Table::Inbound);
        assert_eq!((net.shards[owner].census().inbound, inbound), (0, 0));
        // Who has one may replace it.
        net.retain(&publisher, &first, "y", 4);
        net.settle();
        let done = Said::PubAck(4, ReasonCode::NoMatchingSubscribers);
        assert_eq!(net.client(&publisher).said.last(), Some(&done));
    }
}
