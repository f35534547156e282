//! What is published to one client reaches it without a subscription.

use engine_mqtt::{QoS, Version};

use crate::client::Dial;
use crate::node::{Broker, Node};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn node() -> Option<Node> {
    (Broker::chosen() == Broker::Corelane).then(|| Node::with_arguments(2, &["--p2p"]))
}

#[test]
fn every_client_gets_what_is_for_it_and_nothing_else() {
    let Some(node) = node() else { return };
    for version in [Version::V311, Version::V5] {
        let mut publisher = Dial::clean(version, "p").connect(&node);
        // On both shards.
        for id in ["a", "b", "c", "d"] {
            let mut client = Dial::clean(version, id).connect(&node);
            // Its SUBACK says that what it was given before is there.
            client.subscribe("something/else", QoS::AtLeastOnce);
            for other in ["alerts/p2p/other", "p2p/a", "alerts/p2p", "alerts/p2p/ab/a"] {
                publisher.publish(other, "not for it", QoS::AtLeastOnce);
            }
            for qos in LEVELS {
                for topic in [
                    format!("alerts/p2p/{id}"),
                    format!("/p2p/{id}"),
                    format!("alerts/p2p/{id}/"),
                    format!("alerts/p2p/{id}/door/open"),
                ] {
                    publisher.publish(&topic, "for it", qos);
                    client.expect(&topic, "for it", qos);
                }
            }
            publisher.publish(&format!("a/b/p2p/{id}"), "another topic", QoS::AtLeastOnce);
            client.expect_nothing(&mut publisher, "something/else");
        }
    }
}

#[test]
fn a_client_that_is_away_gets_it_after_kill_9() {
    let Some(mut node) = node() else { return };
    for version in [Version::V311, Version::V5] {
        let id = format!("away-{}", version.level());
        let topic = format!("alerts/p2p/{id}");
        let mut client = Dial::durable(version, &id).connect(&node);
        client.subscribe("something/else", QoS::AtLeastOnce);
        client.disconnect();
        let mut publisher = Dial::clean(version, "p").connect(&node);
        for number in 0..10 {
            publisher.publish(&topic, &number.to_string(), QoS::ExactlyOnce);
        }
        node.crash_and_restart();
        let mut client = Dial::durable(version, &id).connect(&node);
        assert!(client.welcome().session_present);
        for number in 0..10 {
            client.expect(&topic, &number.to_string(), QoS::ExactlyOnce);
        }
        let mut publisher = Dial::clean(version, "p").connect(&node);
        client.expect_nothing(&mut publisher, "something/else");
    }
}
