//! Foreign clients against the process: each brings its own reading of the standard.
//!
//! | client | from | driven by |
//! |---|---|---|
//! | paho-mqtt 2.x | PyPI, pinned in `tests/interop/requirements.txt` | `client_paho.py` |
//! | MQTT.js | npm, pinned in `tests/interop/package-lock.json` | `client_mqttjs.mjs` |
//! | mosquitto_pub, mosquitto_sub | Debian's mosquitto-clients | [`mosquitto`] |
//!
//! The scripts also run over TLS and WebSocket ([`transports`]).
//!
//! Each runs at MQTT 3.1.1 and 5.0 on a node of two shards: all QoS, retained messages, wills,
//! wildcards, shared subscriptions, and a durable session across `kill -9`.

mod mosquitto;
mod transports;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::{Node, scratch_root, workspace};

/// The scenarios that both scripts know; between the last two the node is killed.
const SCENARIOS: [&str; 6] = [
    "qos",
    "retained",
    "will",
    "wildcards",
    "properties",
    "shared",
];

/// What the scripts are told about the way to the node.
struct Way<'a> {
    scheme: &'static str,
    port: u16,
    ca: Option<&'a Path>,
}

/// Where the clients are installed: made once per target folder by `tests/interop/install`.
fn clients() -> PathBuf {
    let folder = scratch_root()
        .parent()
        .expect("a target folder")
        .join("interop");
    let install = workspace().join("tests/interop/install");
    let status = Command::new(&install)
        .arg(&folder)
        .status()
        .expect("bash runs");
    assert!(status.success(), "{}: {status}", install.display());
    folder
}

fn run(program: &Path, script: &Path, node: &Node, scenario: &str, version: u8) {
    let way = Way {
        scheme: "mqtt",
        port: node.port(),
        ca: None,
    };
    run_over(&way, program, script, scenario, version);
}

/// Runs one scenario of a script.
fn run_over(way: &Way<'_>, program: &Path, script: &Path, scenario: &str, version: u8) {
    let mut command = Command::new(program);
    command.env("CORELANE_SCHEME", way.scheme);
    if let Some(ca) = way.ca {
        command.env("CORELANE_CA", ca);
    }
    let output = command
        .arg(script)
        .args([
            way.port.to_string(),
            scenario.to_owned(),
            version.to_string(),
        ])
        .output()
        .expect("the client's interpreter starts");
    assert!(
        output.status.success(),
        "{} {scenario} version {version}: {}\n{}{}",
        script.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn run_all(program: &Path, script: &Path, version: u8) {
    let mut node = Node::with_shards(2);
    for scenario in SCENARIOS {
        run(program, script, &node, scenario, version);
    }
    run(program, script, &node, "durable_before", version);
    node.crash_and_restart();
    run(program, script, &node, "durable_after", version);
}

#[test]
fn paho_speaks_3_1_1() {
    let python = clients().join("venv/bin/python");
    run_all(
        &python,
        &workspace().join("tests/interop/client_paho.py"),
        4,
    );
}

#[test]
fn paho_speaks_5() {
    let python = clients().join("venv/bin/python");
    run_all(
        &python,
        &workspace().join("tests/interop/client_paho.py"),
        5,
    );
}

#[test]
fn mqtt_js_speaks_3_1_1() {
    run_all(Path::new("node"), &clients().join("client_mqttjs.mjs"), 4);
}

#[test]
fn mqtt_js_speaks_5() {
    run_all(Path::new("node"), &clients().join("client_mqttjs.mjs"), 5);
}
