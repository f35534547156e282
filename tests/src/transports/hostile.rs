//! Peers that lie, stop half-way or never end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use super::certificates::Certificates;
use super::places::wait_for_count;
use super::{CONNACK, CONNECT, PINGREQ, PINGRESP, exchange, is_product, node_at, port_of};
use crate::node::{DEADLINE, free_port};

/// The first bytes of a ClientHello of 512 bytes that never comes.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream
}

/// Everything that the node says until it closes.
#[track_caller]
fn last_words(stream: &mut TcpStream) -> Vec<u8> {
    let mut words = Vec::new();
    if let Err(error) = stream.read_to_end(&mut words) {
        let is_reset = error.kind() == ErrorKind::ConnectionReset;
        assert!(is_reset, "the node does not close: {error}");
    }
    words
}

fn upgraded(port: u16) -> TcpStream {
    let mut stream = dial(port);
    stream.write_all(UPGRADE).expect("the node reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.extend(byte);
    }
    let text = String::from_utf8(answer).expect("text");
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    assert!(text.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{text}");
    stream
}

/// A masked frame; the mask is zero, so the payload is as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("a short one");
    let mut wire = vec![first, 0x80 | len, 0, 0, 0, 0];
    wire.extend(payload);
    wire
}

#[test]
fn half_open_and_garbled_handshakes_end_and_disturb_nobody() {
    if !is_product() {
        return;
    }
    let certificates = Certificates::new();
    let config = certificates.path("corelane.toml");
    std::fs::write(&config, "[limits]\nconnect-timeout-s = 2\n").expect("a file");
    let metrics = free_port();
    let more = [
        "--config",
        config.to_str().expect("a plain path"),
        "--metrics",
        &format!("127.0.0.1:{metrics}"),
    ];
    let node = node_at(&certificates, &["mqtts://127.0.0.1:0"], &more);
    let port = port_of(&node, "mqtts");
    let mut canary = certificates.dial(port).expect("a handshake");
    exchange(&mut canary, CONNECT, CONNACK);
    let mut halves: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut half = dial(port);
            half.write_all(HALF_HELLO).expect("the node reads");
            half
        })
        .collect();
    for garbage in [CONNECT, b"GET / HTTP/1.1\r\n\r\n", &[0x16; 4096]] {
        let mut liar = dial(port);
        liar.write_all(garbage).expect("the node reads");
        let alert = last_words(&mut liar);
        assert!(alert.is_empty() || alert[0] == 21, "{alert:?}");
        exchange(&mut canary, PINGREQ, PINGRESP);
    }
    wait_for_count(metrics, "corelane_tls_failures_total", 3);
    for half in &mut halves {
        assert_eq!(last_words(half), b"");
    }
    exchange(&mut canary, PINGREQ, PINGRESP);
    wait_for_count(metrics, "corelane_door_timeouts_total", 500);
    wait_for_count(metrics, "corelane_tls_handshakes_total", 1);
}

/// [MQTT-6.0.0-1], [MQTT-6.0.0-2]: packets in parts across frames are served, other frames close.
#[test]
fn frames_are_taken_by_the_book() {
    if !is_product() {
        return;
    }
    let certificates = Certificates::new();
    let node = node_at(&certificates, &["ws://127.0.0.1:0"], &[]);
    let port = port_of(&node, "ws");
    let mut good = upgraded(port);
    let (head, tail) = CONNECT.split_at(5);
    let mut wire = frame(0x02, head);
    wire.extend(frame(0x89, b"ping"));
    wire.extend(frame(0x80, tail));
    exchange(&mut good, &wire, b"\x8a\x04ping");
    let mut connack = [0; 6];
    good.read_exact(&mut connack).expect("CONNACK");
    assert_eq!(&connack[..2], b"\x82\x04", "one binary frame");
    assert_eq!(&connack[2..], CONNACK);
    let two = [PINGREQ, PINGREQ].concat();
    exchange(&mut good, &frame(0x82, &two), b"\x82\x04\xd0\x00\xd0\x00");
    for (bad, code) in [
        (b"\x82\x02\xc0\x00".to_vec(), 1002u16),
        (frame(0x81, b"text"), 1003),
        (frame(0xc2, b"compressed"), 1002),
        (
            b"\x82\xff\x00\x00\x00\x7f\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(),
            1009,
        ),
    ] {
        let mut liar = upgraded(port);
        exchange(
            &mut liar,
            &frame(0x82, CONNECT),
            b"\x82\x04\x20\x02\x00\x00",
        );
        liar.write_all(&bad).expect("the node reads");
        let words = last_words(&mut liar);
        assert_eq!(&words[..2], b"\x88\x02", "a close frame: {words:?}");
        assert_eq!(words[2..4], code.to_be_bytes());
    }
    good.write_all(&frame(0x88, &1000u16.to_be_bytes()))
        .expect("the node reads");
    assert_eq!(
        last_words(&mut good),
        b"\x88\x02\x03\xe8",
        "the close is answered once"
    );
}

/// [MQTT-6.0.0-3]: without the subprotocol there is no connection. [MQTT-6.0.0-4] is in `upgraded`.
#[test]
fn an_upgrade_without_the_subprotocol_is_refused() {
    if !is_product() {
        return;
    }
    let certificates = Certificates::new();
    let node = node_at(&certificates, &["ws://127.0.0.1:0"], &[]);
    let text = String::from_utf8(UPGRADE.to_vec()).expect("text");
    for (request, status) in [
        (text.replace("Protocol: mqtt", "Protocol: chat"), "400"),
        (text.replace("/mqtt", "/other"), "404"),
        ("x".repeat(100), "405"),
    ] {
        let mut stream = dial(port_of(&node, "ws"));
        stream
            .write_all(request.as_bytes())
            .expect("the node reads");
        let words = String::from_utf8(last_words(&mut stream)).expect("text");
        assert!(words.starts_with(&format!("HTTP/1.1 {status} ")), "{words}");
    }
    drop(upgraded(port_of(&node, "ws")));
}
