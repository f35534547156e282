//! `$exclusive/` and a filter: one client has it for itself.

use std::time::Instant;

use engine_mqtt::{QoS, ReasonCode, SubscriptionOptions, Version};

use super::{VERSIONS, named};
use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, DEADLINE, Node};

const OPTIONS: SubscriptionOptions = SubscriptionOptions {
    qos: QoS::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: engine_mqtt::RetainHandling::Send,
};
const GRANTED: ReasonCode = ReasonCode::GrantedQoS1;

/// A node that knows exclusive subscriptions; mosquitto does not.
fn node() -> Option<Node> {
    (Broker::chosen() == Broker::Corelane).then(|| Node::with_shards(3))
}

const fn refused(version: Version) -> ReasonCode {
    match version {
        Version::V5 => ReasonCode::QuotaExceeded,
        Version::V31 | Version::V311 => ReasonCode::UnspecifiedError,
    }
}

fn ask(client: &mut Client, filter: &str) -> ReasonCode {
    client.subscribe_with(filter, OPTIONS, None)
}

/// Asks until the filter is free: the end of another's connection takes its time.
fn ask_again(client: &mut Client, filter: &str) {
    let start = Instant::now();
    while ask(client, filter) != GRANTED {
        assert!(start.elapsed() < DEADLINE, "{filter} is never free");
    }
}

#[test]
fn one_client_has_it_and_others_subscribe_as_usual() {
    let Some(node) = node() else { return };
    for version in VERSIONS {
        let topic = named(version, "own");
        let filter = format!("$exclusive/{topic}");
        let dial = |role: &str| Dial::clean(version, &named(version, role)).connect(&node);
        let [mut holder, mut other, mut usual] = ["holder", "other", "usual"].map(dial);
        assert_eq!(ask(&mut holder, &filter), GRANTED);
        assert_eq!(ask(&mut other, &filter), refused(version));
        assert_eq!(ask(&mut holder, &filter), GRANTED);
        usual.subscribe(&topic, QoS::AtLeastOnce);
        other.publish(&topic, "1", QoS::AtLeastOnce);
        holder.expect(&topic, "1", QoS::AtLeastOnce);
        usual.expect(&topic, "1", QoS::AtLeastOnce);
        // Free with UNSUBACK, and for the next one with the end of the connection.
        assert_eq!(holder.unsubscribe(&filter), ReasonCode::Success);
        assert_eq!(ask(&mut other, &filter), GRANTED);
        assert_eq!(ask(&mut holder, &filter), refused(version));
        other.disconnect();
        ask_again(&mut holder, &filter);
        holder.vanish();
        ask_again(&mut usual, &filter);
    }
}

#[test]
fn of_many_that_ask_at_once_one_is_granted() {
    let Some(node) = node() else { return };
    let clients = (0..12).map(|n| {
        let version = VERSIONS[n % VERSIONS.len()];
        (
            version,
            Dial::clean(version, &format!("race-{n}")).connect(&node),
        )
    });
    let mut clients: Vec<_> = clients.collect();
    for round in 0..20 {
        let filter = format!("$exclusive/race/{round}");
        for (_, client) in &mut clients {
            client.send_subscribe(&filter, OPTIONS, None);
        }
        let mut winners = 0;
        for (version, client) in &mut clients {
            let Answer::SubAck(_, codes) = client.answer() else {
                panic!("SUBACK comes");
            };
            if codes != [refused(*version)] {
                assert_eq!(codes, [GRANTED]);
                winners += 1;
            }
        }
        assert_eq!(winners, 1, "round {round}");
    }
}

#[test]
fn a_session_keeps_it_without_its_client() {
    let Some(node) = node() else { return };
    for version in VERSIONS {
        let topic = named(version, "kept");
        let filter = format!("$exclusive/{topic}");
        let dial = Dial::durable(version, &named(version, "keeper"));
        let mut keeper = dial.connect(&node);
        assert_eq!(ask(&mut keeper, &filter), GRANTED);
        keeper.disconnect();
        let mut other = Dial::clean(version, &named(version, "taker")).connect(&node);
        assert_eq!(ask(&mut other, &filter), refused(version));
        other.publish(&topic, "1", QoS::AtLeastOnce);
        let mut first = dial.connect(&node);
        first.expect(&topic, "1", QoS::AtLeastOnce);
        // A second connection takes the session over, with all that it has.
        let second = dial.connect(&node);
        assert!(second.welcome().session_present);
        assert_eq!(ask(&mut other, &filter), refused(version));
        drop(second);
        let clean = Dial::clean(version, &named(version, "keeper")).connect(&node);
        ask_again(&mut other, &filter);
        drop(clean);
    }
}

/// From the first moment after `kill -9`: nobody gets what an offline session has, and what a
/// session had that ended with its connection is free.
#[test]
fn kill_9_leaves_every_holder_the_only_one() {
    let Some(mut node) = node() else { return };
    let name = |n: usize| format!("crash/{n}");
    let dial = |n: usize| Dial::durable(VERSIONS[n % 2], &format!("crash-{n}"));
    for n in 0..24 {
        let mut holder = dial(n).connect(&node);
        assert_eq!(
            ask(&mut holder, &format!("$exclusive/{}", name(n))),
            GRANTED
        );
    }
    let mut brief = Dial::clean(Version::V5, "brief").connect(&node);
    assert_eq!(ask(&mut brief, "$exclusive/crash/brief"), GRANTED);
    node.crash_and_restart();
    let mut other = Dial::clean(Version::V5, "other").connect(&node);
    for n in 0..24 {
        let filter = format!("$exclusive/{}", name(n));
        assert_eq!(
            ask(&mut other, &filter),
            ReasonCode::QuotaExceeded,
            "{filter}"
        );
    }
    assert_eq!(ask(&mut other, "$exclusive/crash/brief"), GRANTED);
    for n in 0..24 {
        other.publish(&name(n), "after", QoS::AtLeastOnce);
        let mut holder = dial(n).connect(&node);
        holder.expect(&name(n), "after", QoS::AtLeastOnce);
        let filter = format!("$exclusive/{}", name(n));
        assert_eq!(holder.unsubscribe(&filter), ReasonCode::Success);
        assert_eq!(ask(&mut other, &filter), GRANTED);
    }
    node.crash_and_restart();
    let mut again = dial(0).connect(&node);
    assert_eq!(
        ask(&mut again, "$exclusive/crash/0"),
        GRANTED,
        "the other one has ended"
    );
}

#[test]
fn holders_are_the_same_with_another_number_of_shards() {
    let Some(mut node) = node() else { return };
    let dial = |n: usize| Dial::durable(VERSIONS[n % 2], &format!("moves-{n}"));
    for n in 0..12 {
        let mut holder = dial(n).connect(&node);
        assert_eq!(ask(&mut holder, &format!("$exclusive/moves/{n}")), GRANTED);
    }
    for shards in [5, 2] {
        node.set_shards(shards);
        node.crash_and_restart();
        for n in 0..12 {
            let filter = format!("$exclusive/moves/{n}");
            let mut other = dial(n + 1).connect(&node);
            let no = refused(VERSIONS[(n + 1) % 2]);
            assert_eq!(ask(&mut other, &filter), no, "{filter}, {shards} shards");
        }
    }
    for n in 0..12 {
        let filter = format!("$exclusive/moves/{n}");
        assert_eq!(
            dial(n).connect(&node).unsubscribe(&filter),
            ReasonCode::Success
        );
        assert_eq!(ask(&mut dial(n + 1).connect(&node), &filter), GRANTED);
    }
}

#[test]
fn what_is_no_exclusive_subscription_is_refused() {
    let Some(node) = node() else { return };
    let mut client = Dial::clean(Version::V5, "refused").connect(&node);
    for filter in [
        "$exclusive/",
        "$exclusive/a+",
        "$exclusive/$share/g/a",
        "$exclusive/$exclusive/a",
        "$share/g/$exclusive/a",
    ] {
        assert_eq!(
            ask(&mut client, filter),
            ReasonCode::TopicFilterInvalid,
            "{filter}"
        );
    }
    assert_eq!(
        client.unsubscribe("$exclusive/a"),
        ReasonCode::NoSubscriptionExisted
    );
    assert_eq!(ask(&mut client, "$exclusive/a"), GRANTED);
    assert_eq!(client.unsubscribe("a"), ReasonCode::NoSubscriptionExisted);
    assert_eq!(client.unsubscribe("$exclusive/a"), ReasonCode::Success);
}
