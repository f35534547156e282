//! Foreign clients against the process: each brings its own reading of the standard.
//!
//! | client | from | driven by |
//! |---|---|---|
//! | mosquitto_pub, mosquitto_sub | Debian's mosquitto-clients | [`mosquitto`] |
//! | paho-mqtt | PyPI, pinned in `tests/interop/requirements.txt` | `client_paho.py` |
//! | gmqtt | PyPI, pinned in the same file | `client_gmqtt.py` |
//! | MQTT.js | npm, pinned in `tests/interop/package-lock.json` | `client_mqttjs.mjs` |
//! | rumqttc | a crate, pinned in `tests/interop/rumqttc/Cargo.lock` | `interop-rumqttc` |
//!
//! [`matrix`] runs every client through every feature, a test each; MQTT.js a second time over
//! WebSocket. [`transports`] adds the ways that need certificates.
//!
//! A test runs at MQTT 3.1.1 and at 5.0, each on a node of two shards.

mod matrix;
mod mosquitto;
mod transports;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::{Node, scratch_root, workspace};

/// What the programs are told about the way to the node.
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

/// A client that runs one scenario at a time: a program and what it is given first.
struct Client {
    program: PathBuf,
    script: Option<PathBuf>,
}

impl Client {
    fn paho() -> Self {
        Self::python("client_paho.py")
    }

    fn gmqtt() -> Self {
        Self::python("client_gmqtt.py")
    }

    fn python(script: &str) -> Self {
        Self {
            program: clients().join("venv/bin/python"),
            script: Some(workspace().join("tests/interop").join(script)),
        }
    }

    fn mqtt_js() -> Self {
        Self {
            program: PathBuf::from("node"),
            script: Some(clients().join("client_mqttjs.mjs")),
        }
    }

    fn rumqttc() -> Self {
        Self {
            program: clients().join("rumqttc/debug/interop-rumqttc"),
            script: None,
        }
    }

    /// Runs one scenario at one version.
    fn run(&self, way: &Way<'_>, scenario: &str, version: u8) {
        let mut command = Command::new(&self.program);
        command.env("CORELANE_SCHEME", way.scheme);
        if let Some(ca) = way.ca {
            command.env("CORELANE_CA", ca);
        }
        let output = command
            .args(&self.script)
            .args([
                way.port.to_string(),
                scenario.to_owned(),
                version.to_string(),
            ])
            .output()
            .expect("the client's program starts");
        assert!(
            output.status.success(),
            "{:?} {scenario} version {version}: {}\n{}{}",
            self.script.as_ref().unwrap_or(&self.program),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A node of two shards that takes packets a little above 1 MiB, with these further arguments.
fn node_for_large_packets(more: &[&str]) -> Node {
    let mut node = Node::stopped(2, more);
    node.configure("[limits]\npacket-bytes = 2097152\n");
    node.run();
    node
}
