//! Replay: a SUBSCRIBE that begins in the past, over segments, shards and a restart.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine_mqtt::{
    Packet, PropertiesBuilder, QoS, ReasonCode, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Version,
};
use engine_shard::home_shard;

use crate::client::{Answer, Client, Dial, Message};
use crate::node::{Broker, Node};

/// Of each publisher.
const MESSAGES: usize = 300;
/// So that they take several segments of 8 MiB.
const MESSAGE_LEN: usize = 32 * 1024;
/// Publishers, each on a shard of its own.
const PUBLISHERS: usize = SHARDS as usize;
const SHARDS: u8 = 3;
/// Several segments, of which none goes, however full the disk is.
const KEEPS_ALL: [&str; 8] = [
    "--segment-bytes",
    "8388608",
    "--disk-clean-percent",
    "97",
    "--disk-force-percent",
    "98",
    "--disk-refuse-percent",
    "99",
];
/// What is published while a replay goes on.
const LIVE: &str = "old/live";

fn publisher_on(shard: usize, node: &Node) -> Client {
    let mut ids = (0..).map(|n| format!("replay-from-{n}"));
    let id = ids.find(|id| home_shard(id, SHARDS).index() == shard);
    Dial::clean(Version::V5, &id.expect("an id")).connect(node)
}

/// Subscribes with a start in the past; returns the code of SUBACK.
fn replay(client: &mut Client, filter: &str, start: &str) -> ReasonCode {
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    let mut properties = PropertiesBuilder::new();
    properties.user_property("corelane-replay", start);
    let packet_id = client.packet_id();
    client.send(&Packet::Subscribe(Subscribe {
        packet_id,
        properties: properties.properties().expect("well-formed properties"),
        filters: Subscriptions::from([Subscription { filter, options }].as_slice()),
    }));
    match client.answer() {
        Answer::SubAck(id, codes) if id == packet_id && codes.len() == 1 => codes[0],
        other => panic!("expected SUBACK, got {other:?}"),
    }
}

fn wall_ms() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock after 1970").as_millis()
}

/// Publishes until the clock of whoever stamps them has surely moved.
fn pass_time(publisher: &mut Client) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(50) {
        publisher.publish("filling", "f", QoS::AtLeastOnce);
    }
}

/// The publisher and the number of a message.
fn named(message: &Message) -> (usize, usize) {
    let from = message.topic.rsplit('/').next().expect("a last level");
    let number = message.text().split(' ').next().expect("a first word");
    let parse = |text: &str| text.parse().expect("a number");
    (parse(from), parse(number))
}

/// Everything from these numbers on, in order for each publisher, and then what is published now.
fn expect_from(client: &mut Client, node: &Node, name: &str, firsts: [usize; PUBLISHERS]) {
    let mut next = firsts;
    let owed: usize = firsts.iter().map(|first| MESSAGES - first).sum();
    let mut got = 0;
    while got < owed {
        let message = client.receive();
        if message.topic == LIVE {
            continue; // Of an earlier reader.
        }
        got += 1;
        let (from, number) = named(&message);
        assert_eq!(number, next[from], "of publisher {from}");
        next[from] += 1;
        let mut all = message.user_properties.iter();
        assert!(
            all.any(|(name, _)| name == "corelane-offset"),
            "{message:?}"
        );
    }
    assert_eq!(next, [MESSAGES; PUBLISHERS]);
    let mut publisher = Dial::clean(Version::V5, "live").connect(node);
    publisher.publish(LIVE, name, QoS::AtLeastOnce);
    while client.receive().text() != name {}
}

#[test]
fn what_was_published_can_be_read_again_from_a_time_or_an_offset() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::with_arguments(SHARDS, &KEEPS_ALL);
    let mut publishers: Vec<Client> = (0..PUBLISHERS)
        .map(|shard| publisher_on(shard, &node))
        .collect();
    let filling = "x".repeat(MESSAGE_LEN);
    let half = MESSAGES / 2;
    let mut time = 0;
    for number in 0..MESSAGES {
        if number == half {
            pass_time(&mut publishers[0]);
            time = wall_ms();
            pass_time(&mut publishers[0]);
        }
        for (from, publisher) in publishers.iter_mut().enumerate() {
            let text = format!("{number} {filling}");
            publisher.publish(&format!("old/{from}"), &text, QoS::AtLeastOnce);
        }
    }
    drop(publishers);
    node.crash_and_restart();
    let mut reader = Dial::clean(Version::V5, "replay-all").connect(&node);
    assert_eq!(
        replay(&mut reader, "old/+", "earliest"),
        ReasonCode::GrantedQoS1
    );
    expect_from(&mut reader, &node, "all", [0; PUBLISHERS]);
    reader.disconnect();
    let mut reader = Dial::clean(Version::V5, "replay-time").connect(&node);
    let start = format!("time:{time}");
    assert_eq!(
        replay(&mut reader, "old/#", &start),
        ReasonCode::GrantedQoS1
    );
    expect_from(&mut reader, &node, "time", [half; PUBLISHERS]);
    reader.disconnect();
    let mut reader = Dial::clean(Version::V5, "replay-exact").connect(&node);
    assert_eq!(
        replay(&mut reader, "old/1", &start),
        ReasonCode::GrantedQoS1
    );
    let mut address = String::new();
    for number in half..MESSAGES {
        let message = reader.receive();
        assert_eq!(named(&message), (1, number));
        if number == half + 9 {
            let (_, value) = message.user_properties.last().expect("its address");
            address.clone_from(value);
        }
    }
    reader.disconnect();
    // One byte behind that record's begin, where no record begins.
    let (log, offset) = address.split_once(':').expect("a log and an offset");
    let offset = offset.parse::<u64>().expect("a number") + 1;
    for filter in ["old/1", "+/1"] {
        let mut reader = Dial::clean(Version::V5, "replay-offset").connect(&node);
        let start = format!("offset:{log}:{offset}");
        assert_eq!(replay(&mut reader, filter, &start), ReasonCode::GrantedQoS1);
        for number in half + 10..MESSAGES {
            assert_eq!(named(&reader.receive()), (1, number), "{filter}");
        }
        reader.disconnect();
    }
}

#[test]
fn a_replay_of_a_durable_session_goes_on_after_a_crash() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::with_shards(2);
    let mut publisher = Dial::clean(Version::V5, "again-from").connect(&node);
    for number in 0..500 {
        publisher.publish("again/a", &number.to_string(), QoS::AtLeastOnce);
    }
    let dial = Dial::durable(Version::V5, "again-to");
    let mut reader = dial.connect(&node);
    assert_eq!(
        replay(&mut reader, "again/+", "earliest"),
        ReasonCode::GrantedQoS1
    );
    for number in 0..100 {
        assert_eq!(reader.receive().text(), number.to_string());
    }
    node.crash_and_restart();
    let mut reader = dial.connect(&node);
    assert!(reader.welcome().session_present);
    // What was acknowledged within the last second may come again.
    let first: usize = reader.receive().text().parse().expect("a number");
    assert!(first <= 100, "{first}");
    for number in first + 1..500 {
        assert_eq!(reader.receive().text(), number.to_string());
    }
}
