//! Sessions over reconnects and crashes: cursors, exactly once, retained messages, wills.

use engine_mqtt::{Packet, QoS, ReasonCode, Version};

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use crate::Table;

fn connacks(net: &mut Net, id: &str) -> Vec<bool> {
    let said = &net.client(id).said;
    said.iter()
        .filter_map(|one| match one {
            Said::ConnAck {
                session_present, ..
            } => Some(*session_present),
            _ => None,
        })
        .collect()
}

#[test]
fn an_offline_session_gets_everything_when_it_is_back() {
    for crash in [false, true] {
        for filter in ["t/x", "t/+"] {
            let mut net = Net::new(2);
            let publisher = net.id_on("p", 0);
            let subscriber = net.id_on("s", 1);
            net.connect(&publisher, &CLEAN);
            net.connect(&subscriber, &DURABLE);
            net.subscribe(&subscriber, &[(filter, QoS::AtLeastOnce)]);
            net.cut(&subscriber);
            for n in 0..100u16 {
                net.publish(&publisher, "t/x", &n.to_string(), QoS::AtLeastOnce, n + 1);
                net.publish(&publisher, "t/x", "zero", QoS::AtMostOnce, 0);
            }
            net.settle();
            if crash {
                net.crash();
                net.connect(&publisher, &CLEAN);
            }
            net.connect(&subscriber, &DURABLE);
            let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
            assert_eq!(
                net.payloads(&subscriber),
                expected,
                "{filter}, crash {crash}"
            );
            assert_eq!(connacks(&mut net, &subscriber), [false, true]);
            net.publish(&publisher, "t/x", "live", QoS::AtLeastOnce, 500);
            net.settle();
            assert_eq!(net.payloads(&subscriber).last(), Some(&"live"));
        }
    }
}

#[test]
fn clean_start_forgets_the_session_and_its_rows() {
    let mut net = Net::new(1);
    net.connect("s", &DURABLE);
    net.subscribe("s", &[("a/#", QoS::ExactlyOnce)]);
    net.connect("p", &DURABLE);
    net.publish("p", "a/b", "x", QoS::ExactlyOnce, 5);
    net.settle();
    net.connect("s", &CLEAN);
    net.connect("p", &CLEAN);
    net.settle();
    for table in [
        Table::Session,
        Table::Subscription,
        Table::Progress,
        Table::Outbound,
        Table::Inbound,
    ] {
        assert_eq!(net.stores[0].rows_of(table), 0, "{table:?}");
    }
    assert_eq!(connacks(&mut net, "s"), [false, false]);
}

#[test]
fn a_second_connection_takes_over() {
    let mut net = Net::new(1);
    net.connect("c", &DURABLE);
    let old = net.client("c").connection;
    net.begin_connect("c", &DURABLE);
    net.clients.get_mut("c").expect("it is there").said.clear();
    net.settle();
    assert_ne!(net.client("c").connection, old);
    assert_eq!(connacks(&mut net, "c"), [true]);
    assert_eq!(net.shards[0].counters().takeovers, 1);
    assert_eq!(net.shards[0].counters().connections, 1);
}

#[test]
fn a_crash_sends_at_most_the_last_second_again() {
    let mut net = Net::new(2);
    let publisher = net.id_on("p", 0);
    let subscriber = net.id_on("s", 1);
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, &DURABLE);
    net.subscribe(&subscriber, &[("t", QoS::AtLeastOnce)]);
    for n in 0..50u16 {
        net.publish(&publisher, "t", &n.to_string(), QoS::AtLeastOnce, n + 1);
        net.pass(100);
    }
    net.client(&subscriber).got.clear();
    net.crash();
    net.connect(&subscriber, &DURABLE);
    let again = net.client(&subscriber).got.len();
    assert!(
        again <= 12,
        "{again} of 50 came again, 10 a second were published"
    );
    let order: Vec<u16> = net
        .payloads(&subscriber)
        .iter()
        .map(|p| p.parse().expect("a number"))
        .collect();
    assert!(
        order.is_sorted() && order.iter().all(|n| *n >= 38),
        "{order:?}"
    );
}

#[test]
fn unacknowledged_deliveries_come_again_in_order_after_a_crash() {
    let mut net = Net::new(2);
    let publisher = net.id_on("p", 0);
    let subscriber = net.id_on("s", 1);
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, &DURABLE);
    net.subscribe(&subscriber, &[("t", QoS::ExactlyOnce)]);
    net.client(&subscriber).acks = false;
    for n in 0..20u16 {
        let qos = if n % 2 == 0 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        net.publish(&publisher, "t", &n.to_string(), qos, n + 1);
        net.pass(100);
    }
    let first: Vec<_> = net.client(&subscriber).got.drain(..).collect();
    assert_eq!(first.len(), 20);
    net.pass(3_000);
    net.crash();
    net.connect(&subscriber, &DURABLE);
    let again = &net.client(&subscriber).got;
    for qos in [1, 2] {
        let before: Vec<_> = first
            .iter()
            .filter(|g| g.qos == qos)
            .map(|g| &g.payload)
            .collect();
        let after: Vec<_> = again
            .iter()
            .filter(|g| g.qos == qos)
            .map(|g| &g.payload)
            .collect();
        assert_eq!(after, before, "QoS {qos}");
    }
    for got in again.iter().filter(|got| got.qos == 2) {
        let before = first
            .iter()
            .find(|one| one.payload == got.payload)
            .expect("it came before");
        assert_eq!(
            (got.packet_id, got.dup),
            (before.packet_id, true),
            "{}",
            got.payload
        );
    }
}

/// Runs one QoS 2 exchange to the subscriber with a crash after `steps` turns, and counts what a
/// client that keeps its state sees.
fn exactly_once_outbound(steps: usize) {
    let mut net = Net::new(2);
    let publisher = net.id_on("p", 0);
    let subscriber = net.id_on("s", 1);
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, &DURABLE);
    net.subscribe(&subscriber, &[("t", QoS::ExactlyOnce)]);
    for n in 0..4u16 {
        net.publish(&publisher, "t", &n.to_string(), QoS::ExactlyOnce, n + 1);
    }
    for step in 0..steps {
        if step % 5 == 4 {
            net.now.monotonic_ms += 300;
            net.now.wall_ms += 300;
        }
        net.turn(step % 2);
    }
    let acknowledged = net
        .client(&publisher)
        .said
        .iter()
        .filter(|s| matches!(s, Said::PubRec(..)))
        .count();
    net.crash();
    net.connect(&subscriber, &DURABLE);
    net.pass(2_000);
    // A client takes a QoS 2 message when its packet id is not open; PUBREL closes it.
    let mut seen: Vec<String> = Vec::new();
    for got in &net.client(&subscriber).got {
        let again = got.dup && seen.contains(&got.payload);
        assert!(
            !seen.contains(&got.payload) || again,
            "{} twice without DUP",
            got.payload
        );
        if !again {
            seen.push(got.payload.clone());
        }
    }
    assert!(
        seen.len() >= acknowledged,
        "{acknowledged} acknowledged, {seen:?} delivered"
    );
    let expected: Vec<String> = (0..seen.len()).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected, "in order");
}

#[test]
fn qos2_is_delivered_exactly_once_over_a_crash_at_any_step() {
    for steps in 0..40 {
        exactly_once_outbound(steps);
    }
}

#[test]
fn an_inbound_qos2_publication_is_taken_once_over_a_crash() {
    let mut net = Net::new(2);
    let publisher = net.id_on("p", 0);
    let subscriber = net.id_on("s", 1);
    net.connect(&publisher, &DURABLE);
    net.connect(&subscriber, &DURABLE);
    net.subscribe(&subscriber, &[("t", QoS::ExactlyOnce)]);
    net.publish(&publisher, "t", "once", QoS::ExactlyOnce, 9);
    net.settle();
    net.crash();
    net.connect(&publisher, &DURABLE);
    net.connect(&subscriber, &DURABLE);
    net.publish_with(&publisher, "t", "once", QoS::ExactlyOnce, 9, false, true);
    net.settle();
    net.ack(&publisher, Packet::PubRel, 9);
    net.settle();
    net.crash();
    net.connect(&publisher, &DURABLE);
    net.connect(&subscriber, &DURABLE);
    // The packet id is free: the same id is a new publication.
    net.publish(&publisher, "t", "twice", QoS::ExactlyOnce, 9);
    net.settle();
    let mut payloads = net.payloads(&subscriber);
    payloads.dedup();
    assert_eq!(payloads, ["once", "twice"]);
    assert!(net.client(&publisher).said.contains(&Said::PubComp(9)));
}

#[test]
fn retained_messages_come_with_the_subscription() {
    let mut net = Net::new(3);
    let publisher = net.id_on("p", 0);
    net.connect(&publisher, &CLEAN);
    for n in 0..300u16 {
        net.retain(&publisher, &format!("r/{n}/x"), &n.to_string(), n + 1);
        if n % 100 == 0 {
            net.settle();
        }
    }
    net.retain(&publisher, "r/7/x", "", 400);
    net.retain(&publisher, "r/8/x", "new", 401);
    net.settle();
    let subscriber = net.id_on("s", 2);
    net.connect(
        &subscriber,
        &Options {
            receive_max: 5,
            ..CLEAN
        },
    );
    net.subscribe(&subscriber, &[("r/+/x", QoS::AtLeastOnce)]);
    let got = &net.client(&subscriber).got;
    assert_eq!(got.len(), 299);
    assert!(got.iter().all(|one| one.retain));
    assert!(
        got.iter()
            .any(|one| one.payload == "new" && one.topic == "r/8/x")
    );
    assert_eq!(
        net.client(&publisher).said.len(),
        303,
        "all are acknowledged"
    );
    net.crash();
    net.connect(
        "late",
        &Options {
            version: Version::V311,
            ..CLEAN
        },
    );
    net.subscribe(
        "late",
        &[("r/8/x", QoS::AtLeastOnce), ("r/7/x", QoS::AtLeastOnce)],
    );
    assert_eq!(net.payloads("late"), ["new"]);
}

#[test]
fn a_retained_message_that_changes_during_subscribe_ends_at_its_last_value() {
    for pause in 0..30usize {
        let mut net = Net::new(3);
        let publisher = net.id_on("p", 1);
        let subscriber = net.id_on("s", 2);
        net.connect(&publisher, &CLEAN);
        net.connect(&subscriber, &CLEAN);
        net.retain(&publisher, "r", "0", 1);
        net.settle();
        net.begin_subscribe(&subscriber, &[("r", QoS::AtLeastOnce)], None);
        for n in 1..6u16 {
            for turn in 0..pause {
                net.turn((turn + usize::from(n)) % 3);
            }
            net.retain(&publisher, "r", &n.to_string(), n + 1);
        }
        net.settle();
        let got: Vec<u16> = net
            .payloads(&subscriber)
            .iter()
            .map(|p| p.parse().expect("a number"))
            .collect();
        assert!(got.is_sorted(), "pause {pause}: {got:?}");
        assert_eq!(got.last(), Some(&5), "pause {pause}");
    }
}

#[test]
fn wills_are_published_for_lost_connections_only() {
    let mut net = Net::new(2);
    net.connect("watch", &CLEAN);
    net.subscribe("watch", &[("will/#", QoS::AtLeastOnce)]);
    let with_will = |topic| Options {
        will: Some((topic, "gone", 0)),
        ..CLEAN
    };
    net.connect("a", &with_will("will/a"));
    net.cut("a");
    net.connect("b", &with_will("will/b"));
    net.disconnect("b");
    let late = Options {
        will: Some(("will/c", "gone", 2)),
        expiry_s: 60,
        clean: false,
        ..CLEAN
    };
    net.connect("c", &late);
    net.cut("c");
    net.pass(1_000);
    net.connect("c", &late);
    net.pass(3_000);
    let topics: Vec<_> = net
        .client("watch")
        .got
        .iter()
        .map(|got| got.topic.clone())
        .collect();
    assert_eq!(topics, ["will/a"], "c came back in time");
    net.cut("c");
    net.pass(2_500);
    assert_eq!(
        net.client("watch").got.last().map(|got| got.topic.clone()),
        Some("will/c".into())
    );
}

#[test]
fn wills_survive_a_crash_and_wait_for_their_client() {
    let mut net = Net::new(2);
    for id in ["a", "b"] {
        let topic = if id == "a" { "will/a" } else { "will/b" };
        net.connect(
            id,
            &Options {
                will: Some((topic, "gone", 0)),
                ..CLEAN
            },
        );
    }
    net.crash();
    net.connect("watch", &CLEAN);
    net.subscribe("watch", &[("will/#", QoS::AtLeastOnce)]);
    net.connect("b", &CLEAN);
    net.pass(29_000);
    assert!(net.client("watch").got.is_empty(), "too early");
    net.pass(2_000);
    assert_eq!(net.payloads("watch"), ["gone"]);
    assert_eq!(net.client("watch").got[0].topic, "will/a");
    let rows: usize = net
        .stores
        .iter()
        .map(|store| store.rows_of(Table::Will))
        .sum();
    assert_eq!(rows, 0);
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let mut net = Net::new(1);
    net.connect(
        "c",
        &Options {
            keep_alive: 2,
            ..CLEAN
        },
    );
    net.pass(2_000);
    net.send("c", &Packet::PingReq);
    net.pass(2_900);
    assert!(net.client("c").connection.is_some());
    net.pass(300);
    assert!(net.client("c").connection.is_none());
    assert!(
        net.client("c")
            .said
            .contains(&Said::Disconnect(ReasonCode::KeepAliveTimeout))
    );
}

#[test]
fn a_session_expires_with_all_it_owns() {
    let mut net = Net::new(1);
    net.connect(
        "c",
        &Options {
            expiry_s: 5,
            clean: false,
            ..CLEAN
        },
    );
    net.subscribe("c", &[("a/#", QoS::AtLeastOnce)]);
    net.cut("c");
    net.pass(2_000);
    net.crash();
    net.pass(2_000);
    assert_eq!(net.stores[0].rows_of(Table::Session), 1);
    net.pass(2_000);
    assert_eq!(net.stores[0].rows_of(Table::Session), 0);
    assert_eq!(net.stores[0].rows_of(Table::Subscription), 0);
    assert_eq!(net.shards[0].counters().sessions, 0);
}

#[test]
fn an_orderly_stop_stores_every_place() {
    let mut net = Net::new(2);
    net.connect("p", &CLEAN);
    net.connect("s", &DURABLE);
    net.subscribe("s", &[("t", QoS::AtLeastOnce)]);
    for n in 0..10u16 {
        net.publish("p", "t", &n.to_string(), QoS::AtLeastOnce, n + 1);
    }
    net.settle();
    for index in 0..2 {
        let now = net.now;
        net.shards[index].stop(now, &mut net.stores[index]);
    }
    net.settle();
    assert!(net.shards.iter().all(crate::Shard::stopped));
    assert!(
        net.client("s")
            .said
            .contains(&Said::Disconnect(ReasonCode::ServerShuttingDown))
    );
    net.crash();
    net.client("s").got.clear();
    net.connect("s", &DURABLE);
    assert!(net.client("s").got.is_empty(), "all had been acknowledged");
}

#[test]
fn an_idle_node_writes_nothing() {
    let mut net = Net::new(2);
    net.connect("s", &DURABLE);
    net.subscribe("s", &[("t", QoS::AtLeastOnce)]);
    net.publish("s", "t", "x", QoS::AtLeastOnce, 1);
    net.pass(5_000);
    let before: usize = net
        .stores
        .iter()
        .map(super::store::MemoryStore::record_count)
        .sum();
    net.pass(60_000);
    let after: usize = net
        .stores
        .iter()
        .map(super::store::MemoryStore::record_count)
        .sum();
    assert_eq!(before, after);
}

#[test]
fn a_session_that_ends_with_its_connection_leaves_nothing() {
    let mut net = Net::new(1);
    net.settle();
    let empty = net.shards[0].census();
    net.connect("a", &CLEAN);
    net.subscribe("a", &[("t/#", QoS::ExactlyOnce), ("u", QoS::AtMostOnce)]);
    net.client("a").acks = false;
    net.publish("a", "t/1", "x", QoS::ExactlyOnce, 1);
    net.publish("a", "u", "y", QoS::AtLeastOnce, 2);
    net.settle();
    let busy = net.shards[0].census();
    assert_eq!(
        (busy.connections, busy.subscriptions, busy.members),
        (1, 2, 2)
    );
    assert_eq!(
        (busy.in_flight, busy.inbound, busy.routed_filters),
        (1, 1, 2)
    );
    net.cut("a");
    // Timers are not cancelled: the one of CONNECT fires after ten seconds.
    net.pass(11_000);
    let kept = crate::Census {
        ring_events_most: busy.ring_events_most,
        ring_bytes_most: busy.ring_bytes_most,
        buffers: net.shards[0].census().buffers,
        ..empty
    };
    assert_eq!(net.shards[0].census(), kept);
}
