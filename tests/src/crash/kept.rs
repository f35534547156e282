//! More retained messages than a shard knows by heart: what a subscriber gets of them, also after
//! `kill -9`, when the derived files are lost, and when some were replaced or removed meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use engine_mqtt::{Ack, Packet, Properties, Publish, QoS, Version};

use super::retention::{delete_derived, wait_for};
use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, Node, free_port};

/// Together more topics than stay in memory, 32,768.
const SITES: usize = 340;
const THINGS: usize = 100;
/// Publications that are open at once.
const WINDOW: usize = 200;
/// What a subscriber may have unacknowledged.
const RECEIVE_MAX: u16 = 3;

fn topic(site: usize, thing: usize) -> String {
    format!("kept/{site}/{thing}")
}

/// All that should be retained.
type Kept = BTreeMap<String, String>;

/// Retains these payloads; an empty one removes what is there.
fn retain_all(publisher: &mut Client, kept: &mut Kept, all: Vec<(String, String)>) {
    for part in all.chunks(WINDOW) {
        for (topic, payload) in part {
            let packet_id = publisher.packet_id();
            publisher.send(&Packet::Publish(Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: true,
                topic,
                packet_id: Some(packet_id),
                properties: Properties::EMPTY,
                payload: payload.as_bytes(),
            }));
        }
        for _ in part {
            let answer = publisher.answer();
            assert!(
                matches!(answer, Answer::PubAck(_, reason) if !reason.is_failure()),
                "{answer:?}"
            );
        }
    }
    kept.extend(all);
    kept.retain(|_, payload| !payload.is_empty());
}

/// A new subscriber gets what matches, so many at a time, each once.
fn check(node: &Node, kept: &Kept, filter: &str, wanted: impl Fn(&str) -> bool) {
    let dial = Dial::clean(Version::V5, "reader").receive_maximum(RECEIVE_MAX);
    let mut reader = dial.connect(node);
    reader.subscribe(filter, QoS::AtLeastOnce);
    let expected: BTreeMap<_, _> = kept.iter().filter(|(topic, _)| wanted(topic)).collect();
    let mut open = BTreeSet::new();
    let mut found = Kept::new();
    while found.len() < expected.len() {
        let message = reader.message();
        assert!(message.retain, "{message:?}");
        let payload = message.text().to_owned();
        let again = found.insert(message.topic, payload);
        assert_eq!(again, None, "{filter}");
        open.insert(message.packet_id.expect("QoS 1"));
        assert!(
            open.len() <= usize::from(RECEIVE_MAX),
            "{} are open",
            open.len()
        );
        if open.len() == usize::from(RECEIVE_MAX) || found.len() == expected.len() {
            for id in std::mem::take(&mut open) {
                reader.send(&Packet::PubAck(Ack::success(id)));
            }
        }
    }
    assert!(found.iter().eq(expected), "{filter}");
    reader.ping();
    let mut publisher = Dial::clean(Version::V5, "marker").connect(node);
    reader.subscribe("marker", QoS::AtLeastOnce);
    reader.expect_nothing(&mut publisher, "marker");
}

#[test]
fn more_retained_messages_than_memory_knows_survive_kills_and_all_come() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let metrics = free_port();
    let page = format!("127.0.0.1:{metrics}");
    let mut node = Node::with_arguments(1, &["--metrics", &page]);
    let mut kept = Kept::new();
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let all = (0..SITES).flat_map(|site| (0..THINGS).map(move |thing| topic(site, thing)));
    let first = all.map(|topic| (topic.clone(), topic)).collect();
    retain_all(&mut publisher, &mut kept, first);
    for round in 0..3 {
        node.kill9();
        if round == 1 {
            delete_derived(&node);
        }
        node.run();
        let count = u32::try_from(kept.len()).expect("a small number");
        wait_for(metrics, "corelane_retained", f64::from(count));
        check(&node, &kept, "kept/+/7", |topic| topic.ends_with("/7"));
        check(&node, &kept, "+/33/#", |topic| {
            topic.starts_with("kept/33/")
        });
        check(&node, &kept, "kept/5/5", |topic| topic == "kept/5/5");
        check(&node, &kept, "kept/+/x", |_| false);
        let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
        let changes = (0..SITES).step_by(5).map(|site| {
            let payload = if site % 2 == 0 { "" } else { "newer" };
            (topic(site, 7 + round), payload.to_owned())
        });
        retain_all(&mut publisher, &mut kept, changes.collect());
    }
    check(&node, &kept, "kept/#", |_| true);
}
