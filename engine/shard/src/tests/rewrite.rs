//! What clients publish and subscribe to becomes something else.

use std::sync::Arc;

use engine_mqtt::{Packet, PropertiesBuilder, Publish, QoS, ReasonCode, Version};

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use crate::{Action, Pattern, Rewrite, Rewrites, Rule, Rules, ShardConfig};

const OLD: Options = Options {
    version: Version::V311,
    ..CLEAN
};

/// Devices say `d/NAME/..`, and everybody else knows them as `fleet/CLIENT/NAME/..`.
fn tune(config: &mut ShardConfig) {
    let rule = |action, from, to| Rewrite::new(action, from, to).expect("a rule");
    config.rewrites = Some(Arc::new(Rewrites::new(vec![
        rule(None, "d/+/#", "fleet/%c/$1/$2"),
        rule(Some(Action::Publish), "up/#", "$1"),
        rule(Some(Action::Subscribe), "in/#", "$1"),
        rule(Some(Action::Subscribe), "mid/+/#", "m/$2/$1"),
    ])));
}

fn said(net: &mut Net, id: &str) -> Vec<Said> {
    net.settle();
    std::mem::take(&mut net.client(id).said)
}

fn topics(net: &Net, id: &str) -> Vec<String> {
    let all = net.clients[id].got.iter();
    all.map(|got| got.topic.clone()).collect()
}

#[test]
fn publications_of_every_qos_go_where_the_rule_says() {
    for options in [OLD, CLEAN] {
        let mut net = Net::tuned(2, tune);
        net.connect("s", &CLEAN);
        net.subscribe("s", &[("#", QoS::ExactlyOnce)]);
        net.connect("p", &options);
        for (packet_id, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
            .into_iter()
            .enumerate()
        {
            net.publish("p", "d/a/b", "x", qos, packet_id as u16);
            net.settle();
        }
        net.publish("p", "other", "x", QoS::AtMostOnce, 0);
        net.settle();
        let one = "fleet/p/a/b";
        assert_eq!(topics(&net, "s"), [one, one, one, "other"]);
        let rewritten: u64 = net.shards.iter().map(|one| one.counters().rewritten).sum();
        assert_eq!(rewritten, 3);
    }
}

#[test]
fn an_alias_stands_for_what_the_client_said() {
    let mut net = Net::tuned(1, tune);
    net.connect("s", &CLEAN);
    net.subscribe("s", &[("#", QoS::AtMostOnce)]);
    net.connect("p", &CLEAN);
    let mut alias = PropertiesBuilder::new();
    alias.topic_alias(1);
    for topic in ["d/a", ""] {
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic,
            packet_id: None,
            properties: alias.properties().expect("one property"),
            payload: b"x",
        };
        net.send("p", &Packet::Publish(publish));
        net.settle();
    }
    assert_eq!(topics(&net, "s"), ["fleet/p/a", "fleet/p/a"]);
}

#[test]
fn a_retained_message_and_a_will_are_found_under_the_new_name() {
    let mut net = Net::tuned(2, tune);
    let will = Some(("d/gone", "bye", 0));
    net.connect("p", &Options { will, ..CLEAN });
    net.retain("p", "d/a", "kept", 1);
    net.settle();
    net.connect("s", &CLEAN);
    net.subscribe("s", &[("fleet/p/#", QoS::AtLeastOnce)]);
    assert_eq!(topics(&net, "s"), ["fleet/p/a"]);
    net.cut("p");
    net.settle();
    assert_eq!(topics(&net, "s"), ["fleet/p/a", "fleet/p/gone"]);
}

#[test]
fn a_filter_is_subscribed_and_ended_under_the_new_name() {
    for options in [OLD, CLEAN] {
        let mut net = Net::tuned(2, tune);
        net.connect("p", &CLEAN);
        net.connect("s", &options);
        let filters = [
            ("d/+/#", QoS::AtLeastOnce),
            ("$share/g/in/q/+", QoS::AtLeastOnce),
        ];
        net.subscribe("s", &filters);
        for (packet_id, topic) in (1..).zip(["fleet/s/a/b", "fleet/p/a/b", "q/1", "in/q/1"]) {
            net.publish("p", topic, "x", QoS::AtLeastOnce, packet_id);
            net.settle();
        }
        assert_eq!(topics(&net, "s"), ["fleet/s/a/b", "q/1"]);
        net.unsubscribe("s", &["d/+/#", "$share/g/in/q/+"]);
        let counts = net.shards.iter().map(|one| one.counters().subscriptions);
        assert_eq!(counts.sum::<u64>(), 0);
        // One by its own name, as it was before there was a rule.
        net.subscribe(
            "s",
            &[("fleet/s/x", QoS::AtLeastOnce), ("m/b/a", QoS::AtLeastOnce)],
        );
        net.unsubscribe("s", &["fleet/s/x", "mid/a/b"]);
        let counts = net.shards.iter().map(|one| one.counters().subscriptions);
        assert_eq!(counts.sum::<u64>(), 0);
    }
}

#[test]
fn a_result_that_is_no_filter_fails_alone() {
    for (options, refused) in [
        (OLD, ReasonCode::UnspecifiedError),
        (CLEAN, ReasonCode::TopicFilterInvalid),
    ] {
        let mut net = Net::tuned(1, tune);
        net.connect("s", &options);
        said(&mut net, "s");
        // `#` in the middle, a share in a share, nothing at all.
        let bad = ["mid/a/#", "in/$share/g/a", "in", "$share/g/in/$queue/a"];
        let mut filters: Vec<_> = bad.map(|filter| (filter, QoS::AtMostOnce)).into();
        filters.push(("mid/a/b", QoS::AtMostOnce));
        net.subscribe("s", &filters);
        let mut codes = vec![refused; bad.len()];
        codes.push(ReasonCode::Success);
        assert_eq!(said(&mut net, "s"), [Said::SubAck(77, codes)]);
        net.unsubscribe("s", &["mid/a/#"]);
        assert_eq!(said(&mut net, "s"), [Said::UnsubAck(78)]);
        assert_eq!(net.shards[0].counters().rewrites_refused, 5);
    }
}

#[test]
fn a_result_that_is_no_topic_name_is_refused() {
    for options in [OLD, CLEAN] {
        let is_told = options.version == Version::V5;
        let mut net = Net::tuned(1, tune);
        net.connect("p", &options);
        said(&mut net, "p");
        net.publish("p", "up", "x", QoS::AtMostOnce, 0);
        assert_eq!(said(&mut net, "p"), [], "dropped");
        net.publish("p", "up", "x", QoS::AtLeastOnce, 1);
        let invalid = ReasonCode::TopicNameInvalid;
        let expected = if is_told {
            Said::PubAck(1, invalid)
        } else {
            Said::Closed
        };
        assert_eq!(said(&mut net, "p"), [expected]);
        let will = Some(("up", "x", 0));
        net.begin_connect("w", &Options { will, ..options });
        let refused = said(&mut net, "w");
        assert!(
            matches!(refused.first(), Some(Said::ConnAck { reason, .. })
                if *reason != ReasonCode::Success),
            "{refused:?}"
        );
        assert_eq!(net.shards[0].counters().rewrites_refused, 2);
    }
}

/// `fleet/+/..` would be everybody's.
#[test]
fn a_client_id_is_no_wildcard() {
    let mut net = Net::tuned(1, tune);
    for id in ["+", "#", "a/b"] {
        net.connect(id, &CLEAN);
        said(&mut net, id);
        net.subscribe(id, &[("d/a", QoS::AtMostOnce)]);
        let refused = Said::SubAck(77, vec![ReasonCode::TopicFilterInvalid]);
        assert_eq!(said(&mut net, id), [refused], "{id}");
        net.publish(id, "d/a", "x", QoS::AtLeastOnce, 1);
        let refused = Said::PubAck(1, ReasonCode::TopicNameInvalid);
        assert_eq!(said(&mut net, id), [refused], "{id}");
    }
}

#[test]
fn access_rules_are_asked_about_the_new_name() {
    let mut net = Net::tuned(1, |config| {
        tune(config);
        let deny = |topic| Rule {
            allows: false,
            user: None,
            client: None,
            address: None,
            action: None,
            topics: vec![Pattern::parse(topic).expect("a filter")],
        };
        config.rules = Some(Arc::new(Rules {
            rules: vec![deny("fleet/bad/#"), deny("d/#"), deny("secret")],
            otherwise_allows: true,
        }));
    });
    for (id, reason) in [
        ("good", ReasonCode::Success),
        ("bad", ReasonCode::NotAuthorized),
    ] {
        net.connect(id, &CLEAN);
        said(&mut net, id);
        net.subscribe(id, &[("d/a", QoS::AtMostOnce)]);
        assert_eq!(said(&mut net, id), [Said::SubAck(77, vec![reason])]);
        net.publish(id, "d/a", "x", QoS::AtLeastOnce, 1);
        assert_eq!(said(&mut net, id), [Said::PubAck(1, reason)]);
        let will = Some(("d/gone", "x", 0));
        net.connect(id, &Options { will, ..CLEAN });
        let all = said(&mut net, id);
        let told = |one: &Said| matches!(one, Said::ConnAck { reason: own, .. } if *own == reason);
        assert!(all.iter().any(told), "{all:?}");
    }
    net.connect("p", &CLEAN);
    said(&mut net, "p");
    net.publish("p", "up/secret", "x", QoS::AtLeastOnce, 1);
    let denied = Said::PubAck(1, ReasonCode::NotAuthorized);
    assert_eq!(said(&mut net, "p"), [denied]);
}

/// A user's name is kept for rules that ask for it.
#[test]
fn users_have_their_own_topics() {
    let mut net = Net::tuned(1, |config| {
        let rule = Rewrite::new(None, "a", "by/%u").expect("a rule");
        config.rewrites = Some(Arc::new(Rewrites::new(vec![rule])));
    });
    net.connect("s", &CLEAN);
    net.subscribe("s", &[("#", QoS::AtMostOnce)]);
    let user = Some("ann");
    net.connect("p", &Options { user, ..CLEAN });
    net.connect("q", &CLEAN);
    for id in ["p", "q"] {
        said(&mut net, id);
        net.publish(id, "a", "x", QoS::AtLeastOnce, 1);
    }
    let refused = Said::PubAck(1, ReasonCode::TopicNameInvalid);
    assert_eq!(said(&mut net, "q"), [refused]);
    assert_eq!(topics(&net, "s"), ["by/ann"]);
}

/// What came twice is answered twice and published once.
#[test]
fn exactly_once_is_once_under_the_new_name() {
    let mut net = Net::tuned(2, tune);
    net.connect("s", &CLEAN);
    net.subscribe("s", &[("fleet/#", QoS::ExactlyOnce)]);
    net.connect("p", &DURABLE);
    net.publish("p", "d/a", "x", QoS::ExactlyOnce, 1);
    net.publish_with("p", "d/a", "x", QoS::ExactlyOnce, 1, false, true);
    net.settle();
    assert_eq!(topics(&net, "s"), ["fleet/p/a"]);
}

#[test]
fn a_result_is_no_longer_than_what_clients_may_say() {
    let mut net = Net::tuned(1, |config| {
        tune(config);
        config.topic_bytes_max = 16;
        config.topic_levels_max = 4;
    });
    let id = "p";
    for (topic, may) in [
        ("d/a/bcdefg", true),
        ("d/a/bcdefgh", false),
        ("d/a/b/c", false),
    ] {
        net.connect(id, &CLEAN);
        said(&mut net, id);
        net.subscribe(id, &[(topic, QoS::AtMostOnce)]);
        net.publish(id, topic, "x", QoS::AtLeastOnce, 1);
        let (code, reason) = if may {
            (ReasonCode::Success, ReasonCode::Success)
        } else {
            (ReasonCode::TopicFilterInvalid, ReasonCode::TopicNameInvalid)
        };
        let expected = [Said::SubAck(77, vec![code]), Said::PubAck(1, reason)];
        assert_eq!(said(&mut net, id), expected, "{topic}");
    }
    assert_eq!(net.shards[0].counters().rewrites_refused, 4);
}
