//! Shared subscriptions: one copy for a group, whoever of its members is there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engine_mqtt::{Ack, Packet, QoS, ReasonCode, SubscriptionOptions, Version};

use super::{VERSIONS, named};
use crate::client::{Answer, Client, Dial};
use crate::node::{DEADLINE, Node};

/// How long one member is waited for before the next one's turn.
const TURN: Duration = Duration::from_millis(5);

/// Takes messages from whoever has one, with the whole exchange, until so many have come; returns
/// how often each payload came, and how many each member got.
fn take(members: &mut [Client], count: usize) -> (BTreeMap<String, usize>, Vec<usize>) {
    let mut payloads: BTreeMap<String, usize> = BTreeMap::new();
    let mut shares = vec![0; members.len()];
    let start = Instant::now();
    while shares.iter().sum::<usize>() < count {
        assert!(start.elapsed() < DEADLINE, "{shares:?} of {count}");
        for (member, share) in members.iter_mut().zip(&mut shares) {
            if let Some(payload) = take_one(member) {
                *payloads.entry(payload).or_default() += 1;
                *share += 1;
            }
        }
    }
    (payloads, shares)
}

/// The payload of the next message, if one is there.
fn take_one(member: &mut Client) -> Option<String> {
    let Some(Answer::Message(message)) = member.next_within(TURN) else {
        return None;
    };
    let payload = message.text().to_owned();
    let Some(id) = message.packet_id else {
        return Some(payload);
    };
    if message.qos == QoS::AtLeastOnce {
        member.send(&Packet::PubAck(Ack::success(id)));
    } else {
        member.send(&Packet::PubRec(Ack::success(id)));
        // What comes before PUBREL is kept by `answer` and counted by nobody, so nothing may.
        assert_eq!(member.next(), Answer::PubRel(id, ReasonCode::Success));
        member.send(&Packet::PubComp(Ack::success(id)));
    }
    Some(payload)
}

fn publish(publisher: &mut Client, topic: &str, from: usize, count: usize, qos: QoS) {
    for number in from..from + count {
        publisher.publish(topic, &number.to_string(), qos);
    }
}

/// [MQTT-4.8.2-3]: members at home on several shards, publishers as well.
#[test]
fn equal_members_share_what_comes_from_every_shard() {
    let node = Node::with_shards(3);
    for version in VERSIONS {
        let filter = format!("$share/equal/{}/#", named(version, "equal"));
        let mut members: Vec<Client> = (0..4)
            .map(|n| {
                let id = named(version, &format!("equal-to-{n}"));
                let mut member = Dial::durable(version, &id).connect(&node);
                member.subscribe(&filter, QoS::AtLeastOnce);
                member
            })
            .collect();
        for n in 0..4 {
            let id = named(version, &format!("equal-from-{n}"));
            let mut publisher = Dial::clean(version, &id).connect(&node);
            let topic = format!("{}/{n}", named(version, "equal"));
            publish(&mut publisher, &topic, 50 * n, 50, QoS::AtLeastOnce);
        }
        let (payloads, shares) = take(&mut members, 200);
        assert!(payloads.len() == 200 && payloads.values().all(|n| *n == 1));
        let (most, least) = (shares.iter().max(), shares.iter().min());
        assert!(
            most.zip(least)
                .is_some_and(|(most, least)| 10 * most <= 11 * least)
        );
    }
}

/// What a member did not acknowledge goes to another one, when it leaves and after `kill -9`.
#[test]
fn unacknowledged_messages_go_to_another_member() {
    let mut node = Node::with_shards(3);
    for kills in [false, true] {
        let name = |role: &str| format!("again-{role}-{kills}");
        let filter = format!("$share/again/{}", name("topic"));
        let dial = |role: &str| Dial::durable(Version::V5, &name(role));
        let mut silent = dial("silent").connect(&node);
        silent.subscribe(&filter, QoS::AtLeastOnce);
        let mut publisher = dial("publisher").connect(&node);
        publish(&mut publisher, &name("topic"), 0, 20, QoS::AtLeastOnce);
        for _ in 0..20 {
            silent.message();
        }
        let mut other = dial("other").connect(&node);
        other.subscribe(&filter, QoS::AtLeastOnce);
        if kills {
            node.crash_and_restart();
            other = dial("other").connect(&node);
        } else {
            silent.vanish();
        }
        let (payloads, _) = take(std::slice::from_mut(&mut other), 20);
        assert_eq!(payloads.len(), 20, "kills {kills}");
        // The group's cursor is behind them: they come to nobody any more.
        let mut back = dial("silent").connect(&node);
        assert!(back.welcome().session_present);
        assert_eq!(back.next_within(Duration::from_millis(200)), None);
    }
}

/// [MQTT-4.8.2-4]: a QoS 2 message stays with the session that has it, over `kill -9` too.
#[test]
fn a_qos_2_message_waits_for_its_member() {
    let mut node = Node::with_shards(3);
    for kills in [false, true] {
        let name = |role: &str| format!("stays-{role}-{kills}");
        let filter = format!("$share/stays/{}", name("topic"));
        let dial = |role: &str| Dial::durable(Version::V5, &name(role));
        let mut silent = dial("silent").connect(&node);
        silent.subscribe(&filter, QoS::ExactlyOnce);
        let mut publisher = dial("publisher").connect(&node);
        publish(&mut publisher, &name("topic"), 0, 10, QoS::ExactlyOnce);
        let ids: Vec<_> = (0..10).map(|_| silent.message().packet_id).collect();
        let mut other = dial("other").connect(&node);
        other.subscribe(&filter, QoS::ExactlyOnce);
        if kills {
            node.crash_and_restart();
            other = dial("other").connect(&node);
            publisher = dial("publisher").connect(&node);
        } else {
            silent.vanish();
        }
        publisher.publish(&name("topic"), "new", QoS::ExactlyOnce);
        other.expect(&name("topic"), "new", QoS::ExactlyOnce);
        let mut back = dial("silent").connect(&node);
        let again: Vec<_> = (0..10).map(|_| back.message()).collect();
        for (number, (message, id)) in again.iter().zip(&ids).enumerate() {
            assert!(message.dup, "sent again");
            assert_eq!(message.packet_id, *id);
            assert_eq!(message.text(), number.to_string());
        }
        for id in ids.into_iter().flatten() {
            back.send(&Packet::PubRec(Ack::success(id)));
            assert_eq!(back.answer(), Answer::PubRel(id, ReasonCode::Success));
            back.send(&Packet::PubComp(Ack::success(id)));
        }
        back.ping();
        assert_eq!(other.next_within(Duration::from_millis(200)), None);
    }
}

/// A group without an online member keeps what comes, over `kill -9`, and delivers it once.
#[test]
fn an_offline_group_catches_up_after_kill_9() {
    let mut node = Node::with_shards(3);
    let dial = |n: usize| Dial::durable(Version::V5, &format!("away-{n}"));
    for n in 0..3 {
        let mut member = dial(n).connect(&node);
        member.subscribe("$share/away/away/+", QoS::ExactlyOnce);
        member.disconnect();
    }
    let mut publisher = Dial::clean(Version::V5, "away-from").connect(&node);
    publish(&mut publisher, "away/1", 0, 100, QoS::AtLeastOnce);
    publish(&mut publisher, "away/2", 100, 100, QoS::ExactlyOnce);
    node.crash_and_restart();
    let mut member = [dial(1).receive_maximum(1).connect(&node)];
    let (payloads, _) = take(&mut member, 200);
    assert!(payloads.len() == 200 && payloads.values().all(|n| *n == 1));
}

/// [MQTT-3.8.3-4], [MQTT-4.8.2-1], [MQTT-4.8.2-2], and what CONNACK says.
#[test]
fn what_is_no_shared_subscription_is_refused() {
    let node = Node::with_shards(2);
    let mut client = Dial::clean(Version::V5, "refused").connect(&node);
    assert_ne!(client.welcome().shared_subscriptions, Some(false));
    let options = SubscriptionOptions::default();
    for filter in [
        "$share//a",
        "$share/g",
        "$share/g/",
        "$share/+/a",
        "$share/#/a",
        "$share/g/$share/h/a",
        "$queue/",
    ] {
        let reason = client.subscribe_with(filter, options, None);
        assert_eq!(reason, ReasonCode::TopicFilterInvalid, "{filter}");
    }
    client.subscribe("$share/g/a", QoS::AtLeastOnce);
    assert_eq!(client.unsubscribe("$share/g/a"), ReasonCode::Success);
    let reason = client.unsubscribe("$share/g/a");
    assert_eq!(reason, ReasonCode::NoSubscriptionExisted);
    let no_local = SubscriptionOptions {
        no_local: true,
        ..options
    };
    client.send_subscribe("$share/g/a", no_local, None);
    client.expect_disconnect(ReasonCode::ProtocolError);
}

/// Retained messages are not sent; identifiers and Retain As Published are the member's own; the
/// old form of the filter works.
#[test]
fn options_hold_for_shared_subscriptions() {
    let node = Node::with_shards(2);
    let mut publisher = Dial::clean(Version::V5, "options-from").connect(&node);
    publisher.retain("options", "old", QoS::AtLeastOnce);
    for filter in ["$share/options/options", "$queue/options"] {
        let mut member = Dial::clean(Version::V5, "options-to").connect(&node);
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            retain_as_published: true,
            ..SubscriptionOptions::default()
        };
        let granted = member.subscribe_with(filter, options, Some(9));
        assert_eq!(granted, ReasonCode::GrantedQoS1);
        publisher.retain("options", "new", QoS::ExactlyOnce);
        let message = member.expect("options", "new", QoS::AtLeastOnce);
        assert!(message.retain);
        assert_eq!(message.subscription_ids, [9]);
        member.disconnect();
    }
}

/// `--share-strategy hash-topic`: each topic has its member, and keeps its order.
#[test]
fn a_topic_has_one_member_when_topics_are_hashed() {
    let node = Node::with_arguments(2, &["--share-strategy", "hash-topic"]);
    let mut members: Vec<Client> = (0..3)
        .map(|n| {
            let mut member = Dial::clean(Version::V5, &format!("hash-to-{n}")).connect(&node);
            member.subscribe("$share/hash/hash/+", QoS::AtLeastOnce);
            member
        })
        .collect();
    let mut publisher = Dial::clean(Version::V5, "hash-from").connect(&node);
    // All members are known to the group once they have got something.
    let mut known = 0;
    for round in 0.. {
        let topic = format!("hash/warm-{round}");
        publisher.publish(&topic, "warm", QoS::AtLeastOnce);
        let (_, shares) = take(&mut members, 1);
        let bits = shares.iter().enumerate().map(|(n, share)| share << n);
        known |= bits.sum::<usize>();
        if known == 0b111 {
            break;
        }
    }
    for number in 0..120 {
        let topic = format!("hash/{}", number % 12);
        publisher.publish(&topic, &number.to_string(), QoS::AtLeastOnce);
    }
    let mut last: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let start = Instant::now();
    let mut left = 120;
    while left > 0 {
        assert!(start.elapsed() < DEADLINE, "{left} are missing");
        for (n, member) in members.iter_mut().enumerate() {
            let Some(payload) = take_one(member) else {
                continue;
            };
            left -= 1;
            let number: usize = payload.parse().expect("a number");
            let before = last.insert(number % 12, (n, number));
            assert!(before.is_none_or(|(who, before)| who == n && before < number));
        }
    }
}
