//! Every client through every feature, a test each: `matrix::CLIENT::FEATURE`.
//!
//! mosquitto's programs publish or subscribe and no more, so they are driven from here
//! ([`super::mosquitto`]); the others know the scenarios themselves.

use super::{Client, Way, mosquitto, node_for_large_packets};
use crate::node::Node;
use crate::transports::{is_product, port_of};

const VERSIONS: [u8; 2] = [4, 5];

/// One feature at both versions, on a node each.
fn try_feature(client: &Client, scheme: &'static str, scenario: &str) {
    if scheme != "mqtt" && !is_product() {
        return;
    }
    for version in VERSIONS {
        let mut node = match scheme {
            "mqtt" => node_for_large_packets(&[]),
            _ => node_for_large_packets(&["--listen", &format!("{scheme}://127.0.0.1:0")]),
        };
        if scenario == "durable" {
            client.run(&way_to(&node, scheme), "durable_before", version);
            node.crash_and_restart();
            client.run(&way_to(&node, scheme), "durable_after", version);
        } else {
            client.run(&way_to(&node, scheme), scenario, version);
        }
    }
}

fn way_to(node: &Node, scheme: &'static str) -> Way<'static> {
    let port = match scheme {
        "mqtt" => node.port(),
        _ => port_of(node, scheme),
    };
    Way {
        scheme,
        port,
        ca: None,
    }
}

/// A module with one test per feature.
macro_rules! features {
    ($module:ident, $try:expr) => {
        mod $module {
            use super::*;

            features!(@ $try, all_qos, "qos");
            features!(@ $try, retained_messages, "retained");
            features!(@ $try, wills, "will");
            features!(@ $try, wildcards, "wildcards");
            features!(@ $try, properties_of_mqtt_5, "properties");
            features!(@ $try, shared_subscriptions, "shared");
            features!(@ $try, a_payload_of_1_mib, "large");
            features!(@ $try, ten_thousand_messages_in_order, "ordered");
            features!(@ $try, a_durable_session_over_kill_9, "durable");
        }
    };
    (@ $try:expr, $name:ident, $scenario:literal) => {
        #[test]
        fn $name() {
            $try($scenario);
        }
    };
}

features!(mosquitto_clients, mosquitto::run);
features!(paho, |scenario| try_feature(
    &Client::paho(),
    "mqtt",
    scenario
));
features!(gmqtt, |scenario| try_feature(
    &Client::gmqtt(),
    "mqtt",
    scenario
));
features!(mqtt_js, |scenario| try_feature(
    &Client::mqtt_js(),
    "mqtt",
    scenario
));
features!(mqtt_js_over_websocket, |scenario| try_feature(
    &Client::mqtt_js(),
    "ws",
    scenario
));
features!(rumqttc, |scenario| try_feature(
    &Client::rumqttc(),
    "mqtt",
    scenario
));
