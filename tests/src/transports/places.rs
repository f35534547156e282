//! Unix sockets, and connections through a load balancer that speaks the PROXY protocol.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;

use super::{CONNACK, CONNECT, PINGREQ, PINGRESP, exchange, is_product, port_of};
use crate::node::{DEADLINE, Node, free_port};
use crate::shards::per_shard;

#[test]
fn a_unix_socket_serves_and_goes_with_its_node() {
    if !is_product() {
        return;
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("mqtt.sock");
    let url = format!("unix://{}", path.display());
    let mut node = Node::with_arguments(2, &["--listen", &url]);
    assert!(node.ready_line().contains(&url), "{}", node.ready_line());
    let talk = || {
        // Some stay on the shard that listens, some move.
        for _ in 0..8 {
            let mut stream = UnixStream::connect(&path).expect("a listener");
            stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
            exchange(&mut stream, CONNECT, CONNACK);
            exchange(&mut stream, PINGREQ, PINGRESP);
        }
    };
    talk();
    // What a killed node leaves behind is taken over.
    node.crash_and_restart();
    talk();
    assert!(node.terminate().success());
    assert!(!path.exists(), "the name stays behind");
}

#[test]
fn a_load_balancers_header_comes_first_in_either_version() {
    if !is_product() {
        return;
    }
    let metrics = free_port();
    let node = Node::with_arguments(
        2,
        &[
            "--listen",
            "mqtt://127.0.0.1:0?proxy-protocol",
            "--metrics",
            &format!("127.0.0.1:{metrics}"),
        ],
    );
    let line = node
        .ready_line()
        .replace(&format!("mqtt://127.0.0.1:{}", node.port()), "");
    assert!(line.contains("?proxy-protocol"), "{line}");
    let port = proxied_port(&line);
    let dial = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        stream
    };
    let line = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 1883\r\n".as_slice();
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    binary.extend([192, 0, 2, 7, 192, 0, 2, 1, 15, 160, 7, 91]);
    for header in [line, &binary] {
        exchange(&mut dial(), &[header, CONNECT].concat(), CONNACK);
        let mut slow = dial();
        for byte in header {
            slow.write_all(&[*byte]).expect("the node reads");
        }
        exchange(&mut slow, CONNECT, CONNACK);
        exchange(&mut slow, PINGREQ, PINGRESP);
    }
    // Without the header nobody is served.
    let mut bare = dial();
    bare.write_all(CONNECT).expect("the node reads");
    assert_eq!(bare.read(&mut [0; 8]).unwrap_or(0), 0, "no answer");
    wait_for_count(metrics, "corelane_proxy_failures_total", 1);
    wait_for_count(metrics, "corelane_proxy_headers_total", 4);
}

fn proxied_port(line: &str) -> u16 {
    let end = line.split("?proxy-protocol").next().unwrap_or_default();
    let digits = end.rsplit(':').next().unwrap_or_default();
    digits.parse().expect("a port")
}

/// Waits until the metrics, which are published once a second, say this.
pub(super) fn wait_for_count(metrics: u16, name: &str, count: u32) {
    let end = std::time::Instant::now() + DEADLINE;
    loop {
        let sum: f64 = per_shard(metrics, name).values().sum();
        if sum >= f64::from(count) {
            assert!((sum - f64::from(count)).abs() < 0.5, "{name} is {sum}");
            return;
        }
        assert!(std::time::Instant::now() < end, "{name} is {sum}");
        std::thread::yield_now();
    }
}

#[test]
fn a_port_is_found_by_its_scheme() {
    if is_product() {
        let node = Node::with_arguments(1, &["--listen", "ws://127.0.0.1:0"]);
        assert_ne!(port_of(&node, "ws"), node.port());
    }
}
