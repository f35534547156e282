//! The scripts of paho and MQTT.js over TLS and WebSocket.

use std::path::Path;

use super::{Way, clients, run_over};
use crate::node::workspace;
use crate::transports::{Certificates, is_product, node_at, port_of};

const OVER_ALL: [&str; 3] = [
    "mqtts://127.0.0.1:0",
    "ws://127.0.0.1:0",
    "wss://127.0.0.1:0",
];

/// A scenario of all QoS, and a durable session across `kill -9`, over each transport.
fn foreign(program: &Path, script: &Path, version: u8) {
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
            run_over(&way, program, script, scenario, version);
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
        let python = clients().join("venv/bin/python");
        let script = workspace().join("tests/interop/client_paho.py");
        foreign(&python, &script, 4);
        foreign(&python, &script, 5);
    }
}

#[test]
fn mqtt_js_over_tls_and_websocket() {
    if is_product() {
        let script = clients().join("client_mqttjs.mjs");
        foreign(Path::new("node"), &script, 4);
        foreign(Path::new("node"), &script, 5);
    }
}
