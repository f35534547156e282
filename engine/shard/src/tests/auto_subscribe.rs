//! What every client is subscribed to from its CONNACK on.

use std::sync::Arc;

use engine_mqtt::{QoS, RetainHandling, SubscriptionOptions, Version};

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use crate::{AutoSubscription, Pattern, Rule, Rules, ShardConfig};

const OLD: Options = Options {
    version: Version::V311,
    ..CLEAN
};

const ONE: SubscriptionOptions = SubscriptionOptions {
    qos: QoS::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: RetainHandling::SendIfNew,
};

type Tune = fn(&mut ShardConfig);

fn all(filters: &[(&str, SubscriptionOptions)]) -> Option<Arc<[AutoSubscription]>> {
    let one = |(filter, options): &(&str, _)| AutoSubscription::new(filter, *options);
    Some(
        filters
            .iter()
            .map(|it| one(it).expect("a filter"))
            .collect(),
    )
}

fn inbox(config: &mut ShardConfig) {
    config.auto_subscriptions = all(&[("to/%c/#", ONE)]);
}

fn said(net: &mut Net, id: &str) -> Vec<Said> {
    net.settle();
    std::mem::take(&mut net.client(id).said)
}

fn sum(net: &Net, count: fn(&crate::Counters) -> u64) -> u64 {
    net.shards.iter().map(|one| count(one.counters())).sum()
}

#[test]
fn every_client_gets_them_and_hears_of_no_suback() {
    for options in [OLD, CLEAN] {
        let mut net = Net::tuned(2, inbox);
        net.connect("p", &options);
        for id in ["a", "b", "c"] {
            net.connect(id, &options);
            let welcome = said(&mut net, id);
            assert!(
                matches!(welcome.as_slice(), [Said::ConnAck { .. }]),
                "{welcome:?}"
            );
        }
        for (packet_id, id) in (1..).zip(["a", "b", "c"]) {
            let topic = format!("to/{id}/x");
            net.publish("p", &topic, id, QoS::AtLeastOnce, packet_id);
            net.settle();
            assert_eq!(net.payloads(id), [id]);
        }
        // It can be ended like any other.
        net.unsubscribe("a", &["to/a/#"]);
        net.publish("p", "to/a/x", "again", QoS::AtLeastOnce, 9);
        net.settle();
        assert_eq!(net.payloads("a"), ["a"]);
        for id in ["a", "b", "c", "p"] {
            net.cut(id);
        }
        assert_eq!(sum(&net, |counters| counters.subscriptions), 0);
    }
}

#[test]
fn users_have_their_own() {
    let mut net = Net::tuned(1, |config| {
        config.auto_subscriptions = all(&[("by/%u", ONE)]);
    });
    for user in ["ann", "bob"] {
        let options = Options {
            user: Some(user),
            ..CLEAN
        };
        net.connect(user, &options);
    }
    net.publish("bob", "by/ann", "hello", QoS::AtMostOnce, 0);
    net.settle();
    assert_eq!(net.payloads("ann"), ["hello"]);
    assert!(net.payloads("bob").is_empty());
}

/// What comes right behind CONNECT finds them.
#[test]
fn a_suback_says_that_they_are_there_as_well() {
    let mut net = Net::tuned(2, inbox);
    net.begin_connect("a", &CLEAN);
    net.begin_subscribe("a", &[("own", QoS::AtMostOnce)], None);
    net.begin_unsubscribe("a", &["to/a/#"]);
    let all = said(&mut net, "a");
    assert!(
        matches!(
            all.as_slice(),
            [
                Said::ConnAck { .. },
                Said::UnsubAck(78),
                Said::SubAck(77, _)
            ]
        ),
        "{all:?}"
    );
    assert_eq!(sum(&net, |counters| counters.subscriptions), 1);
}

#[test]
fn a_session_keeps_its_place_over_crashes() {
    let mut net = Net::tuned(2, inbox);
    let id = net.id_on("d", 1);
    let topic = format!("to/{id}/x");
    net.connect("p", &CLEAN);
    net.connect(&id, &DURABLE);
    net.retain("p", &topic, "kept", 1);
    net.settle();
    assert_eq!(net.payloads(&id), ["kept"]);
    net.cut(&id);
    for (packet_id, payload) in [(2, "2"), (3, "3")] {
        net.publish("p", &topic, payload, QoS::AtLeastOnce, packet_id);
        net.settle();
    }
    net.crash();
    net.connect("p", &CLEAN);
    let before = net.shards[1].counters().routing_version;
    net.connect(&id, &DURABLE);
    // Once each, and the retained message does not come again.
    assert_eq!(net.payloads(&id), ["kept", "2", "3"]);
    // The session came back, and no subscription was made.
    assert_eq!(net.shards[1].counters().routing_version, before + 1);
    // A new session has none of it.
    net.connect(&id, &CLEAN);
    net.connect(&id, &DURABLE);
    assert_eq!(net.payloads(&id), ["kept", "2", "3", "kept", "kept"]);
}

#[test]
fn retained_messages_come_as_the_operator_says() {
    fn news(config: &mut ShardConfig, retain_handling: RetainHandling) {
        let options = SubscriptionOptions {
            retain_handling,
            ..ONE
        };
        config.auto_subscriptions = all(&[("news", options)]);
    }
    let cases: [(Tune, usize); 3] = [
        (|config| news(config, RetainHandling::Send), 2),
        (|config| news(config, RetainHandling::SendIfNew), 1),
        (|config| news(config, RetainHandling::DoNotSend), 0),
    ];
    for (tune, expected) in cases {
        let mut net = Net::new(2);
        net.connect("p", &CLEAN);
        net.retain("p", "news", "kept", 1);
        net.settle();
        net.tune = tune;
        net.crash();
        for _ in 0..2 {
            net.connect("d", &DURABLE);
            net.cut("d");
        }
        assert_eq!(net.payloads("d").len(), expected);
    }
}

/// The other subscription's options hold from the next connection on, its place stays.
#[test]
fn what_the_operator_changes_reaches_stored_sessions() {
    let mut net = Net::tuned(1, inbox);
    net.connect("d", &DURABLE);
    net.cut("d");
    net.tune = |config| {
        let qos = QoS::ExactlyOnce;
        config.auto_subscriptions = all(&[("to/%c/#", SubscriptionOptions { qos, ..ONE })]);
    };
    net.crash();
    net.connect("p", &CLEAN);
    net.publish("p", "to/d/1", "1", QoS::ExactlyOnce, 1);
    net.settle();
    net.connect("d", &DURABLE);
    net.publish("p", "to/d/2", "2", QoS::ExactlyOnce, 2);
    net.settle();
    assert_eq!(net.payloads("d"), ["1", "2"]);
    assert_eq!(net.clients["d"].got.last().map(|got| got.qos), Some(2));
    net.cut("p");
    assert_eq!(sum(&net, |counters| counters.subscriptions), 1);
}

#[test]
fn a_shared_one_makes_every_client_a_member() {
    let mut net = Net::tuned(2, |config| {
        config.auto_subscriptions = all(&[("$share/g/work/#", ONE)]);
    });
    net.connect("p", &CLEAN);
    net.unsubscribe("p", &["$share/g/work/#"]);
    for id in ["a", "b"] {
        net.connect(id, &DURABLE);
    }
    for packet_id in 1..=8 {
        net.publish("p", "work/x", "x", QoS::AtLeastOnce, packet_id);
        net.settle();
    }
    let counts = ["a", "b"].map(|id| net.payloads(id).len());
    assert_eq!(counts, [4, 4]);
    net.cut("a");
    net.connect("a", &DURABLE);
    net.publish("p", "work/x", "x", QoS::AtLeastOnce, 9);
    net.publish("p", "work/x", "x", QoS::AtLeastOnce, 10);
    net.settle();
    let counts = ["a", "b"].map(|id| net.payloads(id).len());
    assert_eq!(counts, [5, 5]);
}

#[test]
fn a_client_gets_what_it_may_have_and_nothing_else() {
    let mut net = Net::tuned(1, |config| {
        config.auto_subscriptions = all(&[
            ("secret/#", ONE),
            ("to/%c/#", ONE),
            ("by/%u", ONE),
            ("open", ONE),
            ("over/the/limit", ONE),
            ("one/level/too/many", ONE),
        ]);
        config.topic_levels_max = 3;
        config.subscriptions_max = 3;
        let topics = vec![Pattern::parse("secret/+").expect("a filter")];
        let rule = Rule {
            allows: false,
            user: None,
            client: None,
            address: None,
            action: None,
            topics,
        };
        config.rules = Some(Arc::new(Rules {
            rules: vec![rule],
            otherwise_allows: true,
        }));
    });
    net.connect("p", &CLEAN);
    net.unsubscribe("p", &["to/p/#", "open", "over/the/limit"]);
    // A user with three, one without a name, and one whose id is a wildcard.
    let user = Some("ann");
    net.connect("a", &Options { user, ..CLEAN });
    net.connect("b", &CLEAN);
    net.connect("+", &CLEAN);
    let topics = [
        "secret/x",
        "to/a/x",
        "to/x/x",
        "by/ann",
        "open",
        "over/the/limit",
    ];
    for topic in topics {
        net.publish("p", topic, topic, QoS::AtMostOnce, 0);
        net.settle();
    }
    assert_eq!(net.payloads("a"), ["to/a/x", "by/ann", "open"]);
    assert_eq!(net.payloads("b"), ["open", "over/the/limit"]);
    assert_eq!(net.payloads("+"), ["open", "over/the/limit"]);
    let counters = net.shards[0].counters();
    // p and b: secret and by; a: secret and the limit; +: secret, to and by; all: the last one.
    assert_eq!(counters.auto_subscriptions_refused, 13);
    // And the publication.
    assert_eq!(counters.denied, 5);
}

/// A connection that is gone before they are made leaves nothing.
#[test]
fn a_client_that_leaves_at_once_leaves_nothing() {
    let mut net = Net::tuned(2, inbox);
    net.begin_connect("a", &CLEAN);
    net.cut_now("a");
    net.settle();
    net.begin_connect("b", &CLEAN);
    net.begin_connect("b", &CLEAN);
    net.settle();
    assert_eq!(sum(&net, |counters| counters.subscriptions), 1);
    net.cut("b");
    assert_eq!(sum(&net, |counters| counters.subscriptions), 0);
    assert_eq!(sum(&net, |counters| counters.barriers), 0);
}
