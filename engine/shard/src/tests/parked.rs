//! Sessions that are away are not in memory, and come back as they were.

use engine_mqtt::{QoS, Version};

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use crate::{Census, Table};

/// Longer than a session stays in memory.
const PARKING_MS: u64 = 11_000;

const HOUR: Options = Options {
    expiry_s: 3_600,
    ..DURABLE
};

const TABLES: [Table; 5] = [
    Table::Session,
    Table::Subscription,
    Table::Progress,
    Table::Outbound,
    Table::Inbound,
];

fn census(net: &Net) -> Census {
    net.shards[0].census()
}

/// Sessions out of memory and in it.
fn parked(net: &Net) -> (usize, usize) {
    let census = census(net);
    (census.parked, census.client_ids)
}

fn rows(net: &Net) -> usize {
    let store = &net.stores[0];
    TABLES.iter().map(|table| store.rows_of(*table)).sum()
}

fn is_present(net: &mut Net, id: &str) -> bool {
    let said = net.client(id).said.iter().rev();
    let mut connacks = said.filter_map(|one| match one {
        Said::ConnAck {
            session_present, ..
        } => Some(*session_present),
        _ => None,
    });
    connacks.next().expect("a CONNACK")
}

/// Cuts a client and lets its session leave memory.
fn park(net: &mut Net, id: &str) {
    net.cut(id);
    net.pass(PARKING_MS);
}

#[test]
fn what_was_in_flight_and_what_came_meanwhile_is_there() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for crash in [false, true] {
            let mut net = Net::new(1);
            net.connect("p", &CLEAN);
            net.connect("s", &DURABLE);
            net.subscribe("s", &[("a/b", qos), ("w/+", qos)]);
            net.client("s").acks = false;
            net.publish("p", "a/b", "in flight", qos, 1);
            net.settle();
            park(&mut net, "s");
            assert_eq!(parked(&net), (1, 1), "{qos:?}: only the publisher is here");
            for (n, topic) in [(2, "a/b"), (3, "w/x"), (4, "other")] {
                net.publish("p", topic, topic, qos, n);
            }
            net.settle();
            if crash {
                net.crash();
                assert_eq!(parked(&net).0, 1);
            }
            net.client("s").got.clear();
            net.connect("s", &DURABLE);
            net.settle();
            assert!(is_present(&mut net, "s"));
            assert_eq!(net.payloads("s"), ["in flight", "a/b", "w/x"], "{qos:?}");
            assert_eq!(parked(&net).0, 0);
            let counters = net.shards[0].counters();
            assert_eq!((counters.sessions_parked, counters.unparks), (0, 1));
        }
    }
}

#[test]
fn only_wildcard_filters_of_sessions_that_are_away_are_known() {
    let mut net = Net::new(1);
    net.connect("exact", &DURABLE);
    net.subscribe("exact", &[("a/b", QoS::AtLeastOnce)]);
    net.connect("wild", &DURABLE);
    net.subscribe("wild", &[("w/+", QoS::AtLeastOnce)]);
    net.cut("exact");
    park(&mut net, "wild");
    for _ in 0..2 {
        let census = census(&net);
        assert_eq!((census.parked, census.client_ids), (2, 0));
        // The wildcard filter, and the bucket of the exact one.
        assert_eq!((census.wanted_filters, census.routed_filters), (2, 2));
        assert_eq!(census.timers, 0);
        let counters = net.shards[0].counters();
        assert_eq!((counters.sessions, counters.subscriptions), (2, 2));
        net.crash();
    }
    for id in ["exact", "wild"] {
        net.connect(id, &CLEAN);
        net.disconnect(id);
    }
    net.settle();
    assert_eq!(census(&net).routed_filters, 0);
    let counters = net.shards[0].counters();
    assert_eq!((counters.sessions, counters.subscriptions), (0, 0));
}

#[test]
fn a_parked_session_expires_with_all_it_owns() {
    for crash in [false, true] {
        let mut net = Net::new(1);
        for n in 0..2_100 {
            net.begin_connect(&format!("c{n}"), &HOUR);
        }
        net.settle();
        net.connect("stays", &DURABLE);
        net.subscribe("c7", &[("w/+", QoS::AtLeastOnce), ("x", QoS::ExactlyOnce)]);
        if crash {
            net.crash();
        } else {
            for n in 0..2_100 {
                net.cut_now(&format!("c{n}"));
            }
            park(&mut net, "stays");
        }
        net.pass(1_000);
        assert_eq!(census(&net).parked, 2_101);
        net.pass(3_500_000);
        assert_eq!(census(&net).parked, 2_101, "crash {crash}");
        net.pass(100_000);
        net.pass(1_000);
        net.pass(1_000);
        let census = census(&net);
        assert_eq!((census.parked, census.routed_filters), (1, 0));
        assert_eq!(rows(&net), 2, "the rows of the one that stays");
    }
}

#[test]
fn who_comes_back_too_late_finds_nothing() {
    let mut net = Net::new(1);
    net.connect("c", &HOUR);
    net.subscribe("c", &[("w/+", QoS::AtLeastOnce)]);
    park(&mut net, "c");
    net.now.monotonic_ms += 3_600_000;
    net.now.wall_ms += 3_600_000;
    net.connect("c", &HOUR);
    assert!(!is_present(&mut net, "c"));
    assert_eq!(net.stores[0].rows_of(Table::Subscription), 0);
    assert_eq!(census(&net).parked, 0);
}

#[test]
fn clean_start_ends_a_parked_session() {
    let mut net = Net::new(1);
    net.connect("c", &DURABLE);
    net.subscribe("c", &[("w/+", QoS::AtLeastOnce), ("x", QoS::ExactlyOnce)]);
    park(&mut net, "c");
    assert!(rows(&net) > 0);
    net.connect("c", &CLEAN);
    net.settle();
    assert!(!is_present(&mut net, "c"));
    assert_eq!((rows(&net), census(&net).parked), (0, 0));
}

#[test]
fn what_others_ask_about_or_ends_soon_stays_in_memory() {
    let soon = Options {
        expiry_s: 60,
        ..DURABLE
    };
    let will = Options {
        will: Some(("w", "will", 3_000)),
        ..HOUR
    };
    let mut net = Net::new(1);
    for (id, options, filter) in [
        ("member", &DURABLE, "$share/g/a"),
        ("owner", &DURABLE, "$exclusive/a"),
        ("soon", &soon, "a"),
        ("will", &will, "a"),
    ] {
        net.connect(id, options);
        net.subscribe(id, &[(filter, QoS::AtLeastOnce)]);
        net.cut_now(id);
    }
    net.pass(PARKING_MS);
    net.pass(PARKING_MS);
    assert_eq!(parked(&net), (0, 4));
    net.crash();
    assert_eq!(parked(&net), (0, 4));
    net.pass(60_000);
    assert_eq!(parked(&net).1, 3, "one has ended");
    net.pass(3_000_000);
    net.pass(PARKING_MS);
    assert_eq!(parked(&net), (1, 2), "the will has been published");
}

#[test]
fn parked_sessions_count() {
    let mut net = Net::tuned(1, |config| config.sessions_max = 2);
    net.connect("a", &DURABLE);
    net.connect("b", &DURABLE);
    net.cut("a");
    park(&mut net, "b");
    assert_eq!(parked(&net), (2, 0));
    net.connect("c", &DURABLE);
    assert_eq!(net.shards[0].counters().refused, 1);
    net.connect("a", &DURABLE);
    assert!(is_present(&mut net, "a"));
}

#[test]
fn who_comes_and_goes_is_parked_when_it_stays_away() {
    let mut net = Net::new(1);
    let version = Version::V311;
    for _ in 0..5 {
        net.connect("c", &Options { version, ..DURABLE });
        net.cut("c");
        net.pass(4_000);
    }
    assert_eq!(parked(&net), (0, 1));
    net.pass(PARKING_MS);
    assert_eq!(parked(&net), (1, 0));
    assert_eq!(net.shards[0].counters().parks, 1);
}
