//! Subscriptions that every client has by the configuration.

use engine_mqtt::{QoS, ReasonCode, Version};

use crate::client::{Client, Dial};
use crate::node::{Broker, Node};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

const TABLES: &str = "
    [[auto-subscribe]]
    filter = 'to/%c/#'
    qos = 1
    retain-handling = 1
    [[auto-subscribe]]
    filter = 'by/%u'
    qos = 2
    [[auto-subscribe]]
    filter = 'all/+'
    no-local = true
    retain-handling = 2
";

/// A node with these tables, unless another broker is tested.
fn node() -> Option<Node> {
    if Broker::chosen() != Broker::Corelane {
        return None;
    }
    let mut node = Node::stopped(2, &[]);
    node.configure(TABLES);
    node.run();
    Some(node)
}

/// The SUBACK says that what it was given before is there.
#[track_caller]
fn settle(client: &mut Client) {
    client.subscribe("something/else", QoS::AtMostOnce);
}

#[test]
fn every_client_has_them_without_a_subscribe() {
    let Some(node) = node() else { return };
    for version in VERSIONS {
        let mut publisher = Dial::clean(version, "p").connect(&node);
        settle(&mut publisher);
        // On both shards.
        for id in ["a", "b", "c", "d"] {
            let dial = Dial::clean(version, id).password("ann", "any");
            let mut client = dial.connect(&node);
            settle(&mut client);
            let own = format!("to/{id}/x");
            publisher.publish("to/other/x", "not for it", QoS::AtLeastOnce);
            publisher.publish(&own, "for it", QoS::ExactlyOnce);
            client.expect(&own, "for it", QoS::AtLeastOnce);
            publisher.publish("by/ann", "hello", QoS::ExactlyOnce);
            client.expect("by/ann", "hello", QoS::ExactlyOnce);
            client.publish("all/news", "its own", QoS::AtMostOnce);
            publisher.expect("all/news", "its own", QoS::AtMostOnce);
            publisher.publish("all/news", "others'", QoS::AtMostOnce);
            client.expect("all/news", "others'", QoS::AtMostOnce);
            let filter = format!("to/{id}/#");
            assert_eq!(client.unsubscribe(&filter), ReasonCode::Success);
            let other = client.unsubscribe("to/other/#");
            if version == Version::V5 {
                assert_eq!(other, ReasonCode::NoSubscriptionExisted);
            }
            publisher.publish(&own, "too late", QoS::AtLeastOnce);
            publisher.publish("by/ann", "last", QoS::AtLeastOnce);
            client.expect("by/ann", "last", QoS::AtLeastOnce);
        }
    }
}

/// It is the session's own: it needs neither the client nor its next CONNECT.
#[test]
fn a_session_keeps_them_and_its_place_over_kill_9() {
    let Some(mut node) = node() else { return };
    for version in VERSIONS {
        let id = format!("durable-{}", version.level());
        let own = format!("to/{id}/x");
        let mut publisher = Dial::clean(version, "p").connect(&node);
        publisher.retain(&own, "retained", QoS::AtLeastOnce);
        let mut client = Dial::durable(version, &id).connect(&node);
        settle(&mut client);
        let first = client.expect(&own, "retained", QoS::AtLeastOnce);
        assert!(first.retain);
        client.ping();
        client.vanish();
        publisher.publish(&own, "before", QoS::AtLeastOnce);
        node.crash_and_restart();
        let mut publisher = Dial::clean(version, "p").connect(&node);
        publisher.publish(&own, "after", QoS::AtLeastOnce);
        let mut client = Dial::durable(version, &id).connect(&node);
        assert!(client.welcome().session_present);
        client.expect(&own, "before", QoS::AtLeastOnce);
        client.expect(&own, "after", QoS::AtLeastOnce);
        // And not what is retained again.
        publisher.publish(&own, "now", QoS::AtLeastOnce);
        client.expect(&own, "now", QoS::AtLeastOnce);
    }
}

#[test]
fn a_subscription_that_cannot_be_had_ends_the_start() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let refuse = |table: &str, problem: &str| {
        let mut node = Node::stopped(1, &[]);
        node.configure(&format!("{TABLES}\n[[auto-subscribe]]\n{table}\n"));
        let failure = node.try_run().expect_err("a bad configuration");
        assert!(failure.contains(problem), "{failure}");
        assert!(failure.contains("exit status: 2"), "{failure}");
    };
    let place = "[[auto-subscribe]] number 4";
    refuse("filter = 'a+'", &format!("{place}: filter is \"a+\""));
    refuse("filter = 'a'\nqos = 3", &format!("{place}: qos is 3"));
    refuse("filter = 'a'\nflags = 1", "`flags`");
}
