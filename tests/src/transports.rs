//! MQTT over everything but plain TCP: TLS, WebSocket, Unix sockets, behind a load balancer.
//!
//! Foreign clients bring their own TLS and WebSocket; what they cannot do (lie, stop half-way) is
//! done here with bare sockets. Certificates are made anew by every test.

mod certificates;
mod hostile;
mod places;

use std::io::{Read, Write};
use std::process::Command;

pub(crate) use certificates::Certificates;

use crate::node::{Broker, DEADLINE, Node};

/// A CONNECT of MQTT 3.1.1 without a client id, and the answer to it.
const CONNECT: &[u8] = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";
const PINGREQ: &[u8] = b"\xc0\x00";
const PINGRESP: &[u8] = b"\xd0\x00";

/// The tests of this module are about the product only.
pub(crate) fn is_product() -> bool {
    Broker::chosen() == Broker::Corelane
}

/// The port that the node says to have got for this scheme.
pub(crate) fn port_of(node: &Node, scheme: &str) -> u16 {
    let prefix = format!("{scheme}://");
    let line = node.ready_line();
    let url = line.split(' ').find_map(|word| word.strip_prefix(&prefix));
    let url = url.unwrap_or_else(|| panic!("no {scheme} in: {line}"));
    let port = url.trim_end_matches("?proxy-protocol").rsplit(':').next();
    port.and_then(|port| port.parse().ok())
        .unwrap_or_else(|| panic!("no port in {url}"))
}

/// A node of two shards that also listens at these addresses, with certificates of the test's.
pub(crate) fn node_at(certificates: &Certificates, listen: &[&str], more: &[&str]) -> Node {
    let mut arguments = certificates.arguments();
    for url in listen {
        arguments.extend(["--listen".to_owned(), (*url).to_owned()]);
    }
    arguments.extend(more.iter().map(ToString::to_string));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Node::with_arguments(2, &arguments)
}

/// Sends bytes and expects these as the answer.
#[track_caller]
fn exchange(stream: &mut (impl Read + Write), question: &[u8], answer: &[u8]) {
    stream.write_all(question).expect("the node reads");
    expect(stream, answer);
}

#[track_caller]
fn expect(stream: &mut impl Read, answer: &[u8]) {
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got).expect("an answer");
    assert_eq!(got, answer);
}

/// Publishes with `mosquitto_pub`; whether it could.
fn mosquitto_publishes(port: u16, certificates: &Certificates, more: &[&str]) -> bool {
    let ca = certificates.path("ca.pem");
    let mut command = Command::new("mosquitto_pub");
    command
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1"])
        .args(["-t", "tls", "-m", "hello", "--cafile"])
        .arg(ca)
        .args(more);
    let output = command.output().expect("mosquitto_pub starts");
    output.status.success()
}

#[test]
fn mosquitto_over_tls_1_2_and_1_3() {
    if !is_product() {
        return;
    }
    let certificates = Certificates::new();
    let node = node_at(&certificates, &["mqtts://127.0.0.1:0"], &[]);
    let port = port_of(&node, "mqtts");
    for version in ["tlsv1.2", "tlsv1.3"] {
        let more = ["--tls-version", version];
        assert!(mosquitto_publishes(port, &certificates, &more), "{version}");
    }
    // Its certificate is not signed by who the client trusts.
    let stranger = Certificates::new();
    assert!(!mosquitto_publishes(port, &stranger, &[]));
}

#[test]
fn mutual_tls_serves_those_with_a_good_certificate() {
    if !is_product() {
        return;
    }
    let certificates = Certificates::new();
    let ca = certificates.path("ca.pem");
    let ca = ca.to_str().expect("a plain path");
    let mut more = vec!["--tls-client-ca", ca];
    let node = node_at(&certificates, &["mqtts://127.0.0.1:0"], &more);
    let port = port_of(&node, "mqtts");
    let shows = |of: &Certificates| {
        let text = |name: &str| of.path(name).to_str().expect("a plain path").to_owned();
        let (certificate, key) = (text("client.pem"), text("client-key.pem"));
        mosquitto_publishes(
            port,
            &certificates,
            &["--cert", &certificate, "--key", &key],
        )
    };
    assert!(shows(&certificates));
    assert!(!shows(&Certificates::new()), "signed by a stranger");
    assert!(!mosquitto_publishes(port, &certificates, &[]), "shows none");
    drop(node);
    more.extend(["--tls-client-certificate", "optional"]);
    let node = node_at(&certificates, &["mqtts://127.0.0.1:0"], &more);
    let port = port_of(&node, "mqtts");
    assert!(mosquitto_publishes(port, &certificates, &[]));
}

/// Waits until the node has written this to its log so many times.
fn wait_for_log(node: &Node, text: &str, count: usize) {
    let end = std::time::Instant::now() + DEADLINE;
    while node.stderr().matches(text).count() < count {
        assert!(std::time::Instant::now() < end, "'{text}' is not written");
        std::thread::yield_now();
    }
}

#[test]
fn certificates_change_on_sighup_without_a_disconnect() {
    if !is_product() {
        return;
    }
    let certificates = Certificates::new();
    let node = node_at(&certificates, &["mqtts://127.0.0.1:0"], &[]);
    let port = port_of(&node, "mqtts");
    let mut old = certificates.dial(port).expect("a handshake");
    exchange(&mut old, CONNECT, CONNACK);
    let next = Certificates::new();
    for name in ["chain.pem", "key.pem"] {
        std::fs::copy(next.path(name), certificates.path(name)).expect("a new file");
    }
    node.signal("HUP");
    wait_for_log(&node, "new connections get the certificate", 1);
    let mut new = next.dial(port).expect("a handshake");
    exchange(&mut new, CONNECT, CONNACK);
    assert!(certificates.dial(port).is_err(), "the old one has gone");
    exchange(&mut old, PINGREQ, PINGRESP);
    // A key without its certificate changes nothing.
    let stranger = Certificates::new();
    std::fs::copy(stranger.path("key.pem"), certificates.path("key.pem")).expect("a new file");
    node.signal("HUP");
    wait_for_log(&node, "the old certificate stays", 1);
    wait_for_log(&node, "key.pem", 1);
    let mut again = next.dial(port).expect("a handshake");
    exchange(&mut again, CONNECT, CONNACK);
    exchange(&mut old, PINGREQ, PINGRESP);
}

#[test]
fn files_that_cannot_be_used_refuse_the_start_by_name() {
    if !is_product() {
        return;
    }
    let certificates = Certificates::new();
    std::fs::remove_file(certificates.path("key.pem")).expect("it was there");
    let mut arguments = certificates.arguments();
    arguments.extend(["--listen".to_owned(), "mqtts://127.0.0.1:0".to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let failure = Node::stopped(1, &arguments).try_run().expect_err("no key");
    assert!(failure.contains("key.pem"), "{failure}");
    assert!(failure.contains("exit status: 2"), "{failure}");
}
