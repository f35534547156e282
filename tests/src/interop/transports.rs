//! The scripts of paho and MQTT.js over TLS and WebSocket.

use super::{Client, Way};
use crate::transports::{Certificates, is_product, node_at, port_of};

const OVER_ALL: [&str; 3] = [
    "mqtts://127.0.0.1:0",
    "ws://127.0.0.1:0",
    "wss://127.0.0.1:0",
];

/// A scenario of all QoS, and a durable session across `kill -9`, over each transport.
fn foreign(client: &Client, version: u8) {
    let certificates = Certificates::new();
    let mut node = node_at(&certificates, &OVER_ALL, &[]);
    let ca = certificates.path("ca.pem");
    for scheme in ["mqtts", "ws", "wss"] {
        for scenario in ["qos", "durable_before", "durable_after"] {
            if scenario == "durable_after" {
                node.crash_and_restart();
            }
            let way = Way {
                scheme,
                port: port_of(&node, scheme),
                ca: Some(&ca),
            };
            client.run(&way, scenario, version);
        }
        // The next transport finds nothing of this one.
        node.kill9();
        std::fs::remove_dir_all(node.data()).expect("the data");
        node.run();
    }
}

#[test]
fn paho_over_tls_and_websocket() {
    if is_product() {
        foreign(&Client::paho(), 4);
        foreign(&Client::paho(), 5);
    }
}

#[test]
fn mqtt_js_over_tls_and_websocket() {
    if is_product() {
        foreign(&Client::mqtt_js(), 4);
        foreign(&Client::mqtt_js(), 5);
    }
}
