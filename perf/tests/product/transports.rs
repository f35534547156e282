//! TLS, WebSocket and both at once, in both versions; and the ramp, which needs a real process.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::node::Node;
use super::{check_on, run_on};

/// Writes an authority (`ca.pem`) and a node's certificate into a folder; the node's arguments.
fn certificates(folder: &Path) -> Vec<String> {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let node = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let node = node.signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    };
    write("ca.pem", issuer.pem());
    let chain = write("chain.pem", node.pem());
    let key = write("key.pem", key.serialize_pem());
    ["--tls-certificate", &chain, "--tls-key", &key]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn tls_carries_large_and_many_messages_in_both_versions() {
    let node = Node::start_at("mqtts", certificates);
    let ca = node.path("ca.pem").display().to_string();
    for version in ["3.1.1", "5"] {
        let line = format!("--tls --ca {ca} --mqtt-version {version} --qos 1 --duration 0.2");
        check_on(&node, &format!("p2p --pairs 3 --rate 3000 {line}"), 600);
        check_on(
            &node,
            &format!("p2p --pairs 2 --rate 40 --size 200000 {line}"),
            8,
        );
    }
}

#[test]
fn websockets_carry_large_and_many_messages_in_both_versions() {
    for (scheme, tls) in [("ws", false), ("wss", true)] {
        let node = Node::start_at(scheme, |folder| {
            if tls {
                certificates(folder)
            } else {
                Vec::new()
            }
        });
        let ca = node.path("ca.pem").display().to_string();
        let tls = if tls {
            format!("--tls --ca {ca}")
        } else {
            String::new()
        };
        for version in ["3.1.1", "5"] {
            let line = format!("--websocket {tls} --mqtt-version {version} --duration 0.2");
            check_on(
                &node,
                &format!("p2p --pairs 3 --qos 2 --rate 1500 {line}"),
                300,
            );
            check_on(
                &node,
                &format!("p2p --pairs 2 --rate 40 --size 200000 {line}"),
                8,
            );
        }
    }
}

#[test]
fn a_broker_that_others_have_signed_is_refused() {
    let node = Node::start_at("mqtts", certificates);
    let other = Node::start_at("mqtts", certificates);
    let line = format!(
        "corelane-bench conn --clients 1 --hold 0 --tls --ca {} --port {} --quiet",
        other.path("ca.pem").display(),
        node.port
    );
    let cli = corelane_bench::parse(line.split_whitespace()).unwrap();
    let error = corelane_bench::measure(&cli.command)
        .unwrap_err()
        .to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn a_plain_broker_is_no_websocket() {
    let node = Node::start_at("ws", |_| Vec::new());
    let line = format!(
        "corelane-bench conn --clients 1 --hold 0 --websocket --websocket-path /none --port {} \
         --quiet",
        node.port
    );
    let cli = corelane_bench::parse(line.split_whitespace()).unwrap();
    let error = corelane_bench::measure(&cli.command)
        .unwrap_err()
        .to_string();
    assert!(error.contains("upgrade"), "{error}");
}

#[test]
fn a_ramp_ends_near_the_share_that_was_asked_for() {
    let node = Node::start();
    let report = run_on(
        &node,
        "p2p --pairs 2 --qos 0 --duration 0.3 --ramp-to 20% --rate 200",
    );
    let ramp = report.ramp.as_ref().unwrap();
    let last = ramp.trials.last().unwrap();
    assert!((0.1..0.3).contains(&last.cores), "{report}\n{ramp:?}");
    assert!(report.messages.as_ref().unwrap().is_faultless(), "{report}");
}
