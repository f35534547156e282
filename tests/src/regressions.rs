//! Faults that users of other brokers have reported, each as a test of its own, named after the
//! project and the number of its report.
//!
//! | report | what its users saw |
//! |---|---|
//! | rocketmq-mqtt #196 | a wildcard filter was granted, and without a registration nothing came |
//! | rocketmq-mqtt #215 | messages that were published at the same time were lost |
//! | rocketmq-mqtt #255 | catching up stopped where the disk gave less than was asked for |
//! | rocketmq-mqtt #208 | a message that was sent again came behind newer ones |
//! | rocketmq-mqtt #210 | a durable session got again what it had acknowledged |
//! | rocketmq-mqtt #236 | two connections with one client id lived on, both |
//! | rocketmq-mqtt #287 | every client left queues behind, for ever |
//! | mosquitto #3687 | messages were acknowledged and dropped, as a queue was full |
//! | rmqtt #475 | after a restart sessions were there and nothing was routed to them |
//! | tbmq #320 | of a long absence the last seconds came, and what came again had no DUP |
//! | emqx #15488 | the work for a message grew with the number of durable sessions |
//!
//! The last one is counted in instructions: `perf/instructions`.

use std::fs;
use std::time::{Duration, Instant};

use engine_mqtt::{Ack, Packet, Properties, Publish, QoS, ReasonCode, Version};

use crate::client::{Answer, Client, Dial, Message};
use crate::node::{Broker, DEADLINE, Node, free_port, workspace};
use crate::shards::per_shard;

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
/// Messages of a publisher that are open at once.
const WINDOW: usize = 50;

/// Publishes these payloads at QoS 1, many at once; all are acknowledged with success.
#[track_caller]
fn publish_all(publisher: &mut Client, topic: &str, payloads: &[String]) {
    for part in payloads.chunks(WINDOW) {
        for payload in part {
            let packet_id = publisher.packet_id();
            publisher.send(&Packet::Publish(Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                topic,
                packet_id: Some(packet_id),
                properties: Properties::EMPTY,
                payload: payload.as_bytes(),
            }));
        }
        for _ in part {
            match publisher.answer() {
                Answer::PubAck(_, reason) => assert!(!reason.is_failure(), "{reason:?}"),
                other => panic!("expected PUBACK, got {other:?}"),
            }
        }
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// The next messages have these payloads, in this order.
#[track_caller]
fn expect_all(subscriber: &mut Client, payloads: &[String]) {
    for payload in payloads {
        assert_eq!(subscriber.receive().text(), payload);
    }
}

fn acknowledge(client: &mut Client, message: &Message) {
    let id = message.packet_id.expect("QoS 1");
    client.send(&Packet::PubAck(Ack::success(id)));
}

/// A session that is away and has subscribed to this.
fn leave(dial: &Dial, filters: &[&str], node: &Node) {
    let mut client = dial.connect(node);
    for filter in filters {
        client.subscribe(filter, QoS::AtLeastOnce);
    }
    client.disconnect();
}

#[test]
fn rocketmq_mqtt_196_a_wildcard_that_nobody_registered_gets_its_messages() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let root = format!("plant-{}", version.level());
        let filters = [
            format!("{root}/+/state"),
            format!("{root}/#"),
            format!("+/{root}"),
        ];
        let topics = [
            format!("{root}/7/state"),
            format!("{root}/7/8/9"),
            format!("any/{root}"),
        ];
        let mut publisher = Dial::clean(version, "publisher").connect(&node);
        for (filter, topic) in filters.iter().zip(&topics) {
            let mut online = Dial::clean(version, "online").connect(&node);
            online.subscribe(filter, QoS::AtLeastOnce);
            let away = Dial::durable(version, &format!("away-{filter}"));
            leave(&away, &[filter], &node);
            publisher.publish(topic, "found", QoS::AtLeastOnce);
            online.expect(topic, "found", QoS::AtLeastOnce);
            let mut back = away.connect(&node);
            back.expect(topic, "found", QoS::AtLeastOnce);
        }
    }
}

#[test]
fn rocketmq_mqtt_215_messages_published_at_the_same_time_all_arrive() {
    const PUBLISHERS: usize = 16;
    const EACH: usize = 200;
    let mut node = Node::with_shards(2);
    let away = Dial::durable(Version::V5, "away");
    leave(&away, &["together"], &node);
    let mut online = Dial::clean(Version::V5, "online").connect(&node);
    online.subscribe("together", QoS::AtLeastOnce);
    let address = node.address();
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            scope.spawn(move || {
                let dial = Dial::clean(Version::V5, &format!("publisher-{publisher}"));
                let mut client = dial.attempt(address).expect("the node serves");
                let first = publisher * EACH;
                publish_all(&mut client, "together", &numbers(first..first + EACH));
            });
        }
    });
    // One publisher's messages keep their order; nobody's are lost.
    let check = |client: &mut Client| {
        let mut next: Vec<usize> = (0..PUBLISHERS).map(|one| one * EACH).collect();
        for _ in 0..PUBLISHERS * EACH {
            let number: usize = client.receive().text().parse().expect("a number");
            assert_eq!(number, next[number / EACH]);
            next[number / EACH] += 1;
        }
    };
    check(&mut online);
    node.crash_and_restart();
    check(&mut away.connect(&node));
}

/// What is caught up is larger than any one read, and its messages differ in size a lot.
#[test]
fn rocketmq_mqtt_255_catching_up_from_disk_goes_on_behind_a_short_read() {
    let mut node = Node::with_shards(2);
    let away = Dial::durable(Version::V5, "away");
    leave(&away, &["backlog/#", "backlog"], &node);
    let payloads: Vec<String> = (0..600)
        .map(|number| {
            let len = [10, 40_000, 100, 3_000, 9][number % 5];
            format!("{number} {}", "x".repeat(len))
        })
        .collect();
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    publish_all(&mut publisher, "backlog", &payloads);
    // Nothing of it is in memory any more.
    node.crash_and_restart();
    let mut back = away.connect(&node);
    for payload in &payloads {
        let got = back.receive();
        assert!(
            got.payload == payload.as_bytes(),
            "{} bytes",
            got.payload.len()
        );
    }
    back.expect_nothing(
        &mut Dial::clean(Version::V5, "after").connect(&node),
        "backlog",
    );
}

/// Nothing passes a message that is not acknowledged by sending it again: all that is in flight
/// comes again in its first order, before anything new, and nothing is let go.
#[test]
fn rocketmq_mqtt_208_what_is_sent_again_keeps_its_place() {
    let node = Node::with_shards(2);
    let dial = Dial::durable(Version::V5, "slow").receive_maximum(10);
    let mut slow = dial.connect(&node);
    slow.subscribe("ordered", QoS::AtLeastOnce);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let all = numbers(0..200);
    publish_all(&mut publisher, "ordered", &all);
    for round in 0..3 {
        let flight: Vec<Message> = (0..10).map(|_| slow.message()).collect();
        let texts: Vec<&str> = flight.iter().map(Message::text).collect();
        assert_eq!(texts, numbers(0..10), "round {round}");
        assert!(flight.iter().all(|one| one.dup == (round > 0)));
        // All but the first: 9 newer ones do not push it out.
        slow.vanish();
        slow = dial.connect(&node);
    }
    let first: Vec<Message> = (0..10).map(|_| slow.message()).collect();
    for message in &first[1..] {
        acknowledge(&mut slow, message);
    }
    let newer: Vec<Message> = (0..9).map(|_| slow.message()).collect();
    assert_eq!(newer[8].text(), "18");
    slow.vanish();
    let mut slow = dial.connect(&node);
    expect_all(&mut slow, &numbers(0..1));
    expect_all(&mut slow, &all[10..]);
}

#[test]
fn rocketmq_mqtt_210_what_was_acknowledged_does_not_come_again() {
    let mut node = Node::with_shards(2);
    for version in VERSIONS {
        let name = format!("reader-{}", version.level());
        let topic = format!("read-{}", version.level());
        let dial = Dial::durable(version, &name);
        let mut reader = dial.connect(&node);
        reader.subscribe(&topic, QoS::ExactlyOnce);
        for round in 0..3 {
            let mut publisher = Dial::clean(version, "publisher").connect(&node);
            for number in 0..20 {
                let qos = if number % 2 == 0 {
                    QoS::AtLeastOnce
                } else {
                    QoS::ExactlyOnce
                };
                publisher.publish(&topic, &number.to_string(), qos);
            }
            expect_all(&mut reader, &numbers(0..20));
            reader.disconnect();
            // An absence, an orderly stop.
            if round == 1 {
                assert!(node.terminate().success());
                node.run();
            }
            reader = dial.connect(&node);
            assert!(reader.welcome().session_present);
            let mut publisher = Dial::clean(version, "publisher").connect(&node);
            reader.expect_nothing(&mut publisher, &topic);
        }
    }
}

#[test]
fn rocketmq_mqtt_236_a_client_id_has_one_connection() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        for dial in [Dial::clean(version, "twin"), Dial::durable(version, "twin")] {
            let mut old = dial.connect(&node);
            old.subscribe("twin", QoS::AtLeastOnce);
            let mut new = dial.connect(&node);
            old.expect_disconnect(ReasonCode::SessionTakenOver);
            new.subscribe("twin", QoS::AtLeastOnce);
            let mut publisher = Dial::clean(version, "publisher").connect(&node);
            publisher.publish("twin", "once", QoS::AtLeastOnce);
            new.expect("twin", "once", QoS::AtLeastOnce);
            new.expect_nothing(&mut publisher, "twin");
            new.disconnect();
        }
    }
}

/// Sessions go with their clients or their expiry, queues with the last message in them.
#[test]
fn rocketmq_mqtt_287_clients_that_have_gone_leave_nothing_behind() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let port = free_port();
    let metrics = format!("127.0.0.1:{port}");
    let little: u32 = 32 << 20;
    let bytes_max = little.to_string();
    let arguments = ["--metrics", &metrics, "--retention-bytes", &bytes_max];
    let node = Node::with_arguments(1, &arguments);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    for round in 0..2 {
        for number in 0..150 {
            let id = format!("device-{round}-{number}");
            let dial = match number % 3 {
                0 => Dial::clean(Version::V311, &id),
                1 => Dial::clean(Version::V5, &id),
                _ => Dial::durable(Version::V5, &id).session_expiry(1),
            };
            come_and_go(&dial, &format!("inbox/{id}"), &mut publisher, &node);
        }
        let sum = |name: &str| per_shard(port, name).values().sum::<f64>();
        let end = Instant::now() + DEADLINE;
        loop {
            // Their messages are old at some time, and go; not faster than a slow disk lets them.
            if sum("corelane_log_file_bytes") < 4.0 * f64::from(little) {
                let mut filler = Dial::clean(Version::V5, "filler").connect(&node);
                publish_all(&mut filler, "news", &vec!["x".repeat(60_000); 40]);
                filler.disconnect();
            }
            let gauges = ["sessions", "subscriptions", "queues"];
            let values = gauges.map(|name| sum(&format!("corelane_{name}")));
            let removed = sum("corelane_removed_queues_total");
            // The two that publish may be there, and their topic and the node's own queue.
            let is_gone = removed >= f64::from(150 * (round + 1));
            if is_gone && values[0] <= 2.0 && values[1] < 0.5 && values[2] <= 2.0 {
                break;
            }
            assert!(
                Instant::now() < end,
                "{gauges:?} are {values:?}, {removed} removed"
            );
        }
    }
}

fn come_and_go(dial: &Dial, topic: &str, publisher: &mut Client, node: &Node) {
    let mut client = dial.connect(node);
    client.subscribe(topic, QoS::AtLeastOnce);
    client.subscribe(&format!("{topic}/+/all"), QoS::AtLeastOnce);
    publisher.publish(topic, "for you", QoS::AtLeastOnce);
    client.expect(topic, "for you", QoS::AtLeastOnce);
    client.disconnect();
}

/// More than any window or queue of another broker holds by default: nothing acknowledged is lost.
#[test]
fn mosquitto_3687_nothing_is_acknowledged_and_dropped() {
    let node = Node::with_shards(2);
    let away = Dial::durable(Version::V5, "away").receive_maximum(5);
    leave(&away, &["flood"], &node);
    let mut stuck = Dial::durable(Version::V5, "stuck").connect(&node);
    stuck.subscribe("flood", QoS::AtLeastOnce);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let all = numbers(0..5_000);
    // One is away, one is there and does not read.
    publish_all(&mut publisher, "flood", &all);
    expect_all(&mut away.connect(&node), &all);
    expect_all(&mut stuck, &all);
}

#[test]
fn rmqtt_475_restored_sessions_are_routed_to_at_once_and_survive_a_takeover() {
    let mut node = Node::with_shards(2);
    let away = Dial::durable(Version::V5, "away").receive_maximum(8);
    leave(&away, &["restored/exact", "restored/+/wild"], &node);
    node.crash_and_restart();
    // The first to come after the start is a publisher.
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let all = numbers(0..300);
    publish_all(&mut publisher, "restored/exact", &all[..150]);
    publish_all(&mut publisher, "restored/1/wild", &all[150..]);
    let mut got = Vec::new();
    let mut back = away.connect(&node);
    assert!(back.welcome().session_present);
    // Taken over again and again while the backlog drains.
    while got.len() < all.len() {
        for _ in 0..30.min(all.len() - got.len()) {
            got.push(back.receive().text().to_owned());
        }
        // The node has read the acknowledgements: what it has not read comes again.
        back.ping();
        let next = away.connect(&node);
        back.expect_end();
        back = next;
    }
    got.sort_by_key(|text| text.parse::<usize>().expect("a number"));
    assert_eq!(got, all);
}

/// An absence of eleven seconds, with messages at its beginning and at its end.
#[test]
fn tbmq_320_a_long_absence_is_delivered_whole_and_repeats_say_dup() {
    let node = Node::with_shards(2);
    let away = Dial::durable(Version::V5, "away").receive_maximum(100);
    leave(&away, &["absence"], &node);
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let all = numbers(0..60);
    publish_all(&mut publisher, "absence", &all[..30]);
    // The time passes: this is the test.
    assert_eq!(publisher.next_within(Duration::from_secs(11)), None);
    publish_all(&mut publisher, "absence", &all[30..]);
    let mut back = away.connect(&node);
    let first: Vec<Message> = (0..60).map(|_| back.message()).collect();
    let texts: Vec<&str> = first.iter().map(Message::text).collect();
    assert_eq!(texts, all);
    assert!(
        first.iter().all(|one| !one.dup),
        "a first delivery has no DUP"
    );
    for message in &first[..20] {
        acknowledge(&mut back, message);
    }
    back.ping();
    back.vanish();
    let mut back = away.connect(&node);
    let again: Vec<Message> = (0..40).map(|_| back.message()).collect();
    let texts: Vec<&str> = again.iter().map(Message::text).collect();
    assert_eq!(texts, all[20..]);
    assert!(again.iter().all(|one| one.dup), "a repetition has DUP");
}

/// The counts are exact and kept true by `perf/instructions`, which CI runs.
#[test]
fn emqx_15488_a_message_costs_the_same_with_10_000_durable_sessions() {
    let path = workspace().join("perf/instructions.txt");
    let text = fs::read_to_string(path).expect("the counted instructions");
    let count = |operation: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(operation));
        let number = line.and_then(|rest| rest.trim().parse().ok());
        number.unwrap_or_else(|| panic!("{operation} is not counted"))
    };
    let (one, many) = (count("durable-1 "), count("durable-10000 "));
    let difference = many.abs_diff(one);
    assert!(
        difference * 10 <= one,
        "{one} instructions with 1, {many} with 10,000"
    );
}
