//! Frames by the book, and against it; any split of bytes.

use proptest::prelude::*;

use super::*;
use crate::mutate::fuzz;

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// As a client sends it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut wire = vec![first];
    match payload.len() {
        len @ 0..126 => wire.push(MASKED | u8::try_from(len).unwrap()),
        len @ 126..65_536 => {
            wire.push(MASKED | 126);
            wire.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            wire.push(MASKED | 127);
            wire.extend((len as u64).to_be_bytes());
        }
    }
    wire.extend(mask);
    wire.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    wire
}

fn open() -> WebSocket {
    let mut websocket = WebSocket::default();
    let (mut plain, mut answer) = (Vec::new(), Vec::new());
    let flow = websocket.inbound(REQUEST, &mut plain, &mut answer);
    assert_eq!((flow, plain), (Ok(Flow::Open), Vec::new()));
    websocket
}

/// What comes out of an open WebSocket: flow, MQTT bytes, answer.
fn pass(wire: &[u8]) -> (Result<Flow, &'static str>, Vec<u8>, Vec<u8>) {
    let (mut plain, mut answer) = (Vec::new(), Vec::new());
    let flow = open().inbound(wire, &mut plain, &mut answer);
    (flow, plain, answer)
}

/// [MQTT-6.0.0-2]: packets begin and end anywhere in frames, whole or in parts.
#[test]
fn payloads_join_across_frames_and_fragments() {
    let mut wire = masked(BINARY, b"ab");
    wire.extend(masked(CONTINUATION, b""));
    wire.extend(masked(FIN | PING, b"hello"));
    wire.extend(masked(FIN | CONTINUATION, b"cd"));
    wire.extend(masked(FIN | BINARY, &[b'e'; 70_000]));
    wire.extend(masked(FIN | BINARY, &[b'f'; 300]));
    let (flow, plain, answer) = pass(&wire);
    assert_eq!(flow, Ok(Flow::Open));
    assert_eq!(
        plain,
        [b"abcd".as_slice(), &[b'e'; 70_000], &[b'f'; 300]].concat()
    );
    assert_eq!(answer, [&[FIN | PONG, 5], b"hello".as_slice()].concat());
}

#[test]
fn a_close_is_answered_and_ends_the_stream() {
    let mut wire = masked(FIN | BINARY, b"x");
    wire.extend(masked(FIN | CLOSE, &1000u16.to_be_bytes()));
    wire.extend(masked(FIN | BINARY, b"y"));
    let (flow, plain, answer) = pass(&wire);
    assert_eq!((flow, plain), (Ok(Flow::Ended), b"x".to_vec()));
    assert_eq!(answer, [FIN | CLOSE, 2, 3, 232]);
}

#[track_caller]
fn check_refused(wire: &[u8], code: u16) {
    let (flow, plain, answer) = pass(wire);
    assert!(flow.is_err(), "{wire:?}");
    assert_eq!(plain, b"");
    assert_eq!(
        answer,
        [&[FIN | CLOSE, 2], code.to_be_bytes().as_slice()].concat()
    );
}

/// [MQTT-6.0.0-1]: what is not in a binary frame closes the connection.
#[test]
fn what_clients_must_not_send_closes_with_a_code() {
    check_refused(&masked(FIN | TEXT, b"text"), 1003);
    check_refused(&frame(b"unmasked"), 1002);
    check_refused(&masked(FIN | 0x40 | BINARY, b"compressed"), 1002);
    check_refused(&masked(FIN | 3, b""), 1002);
    check_refused(&masked(FIN | CONTINUATION, b""), 1002);
    check_refused(&masked(FIN | PING, &[0; 126]), 1002);
    check_refused(&masked(PING, b""), 1002);
    check_refused(
        &[FIN | BINARY, 255, 0, 0, 0, 0, 17, 0, 0, 1, 1, 2, 3, 4],
        1009,
    );
    check_refused(
        &[
            FIN | BINARY,
            255,
            255,
            255,
            255,
            255,
            255,
            255,
            255,
            255,
            1,
            2,
            3,
            4,
        ],
        1009,
    );
    check_refused(&[masked(BINARY, b""), masked(BINARY, b"")].concat(), 1002);
}

#[test]
fn frames_out_have_the_shortest_length() {
    assert_eq!(frame(b"ab"), [FIN | BINARY, 2, b'a', b'b']);
    assert_eq!(frame(&[0; 126])[..4], [FIN | BINARY, 126, 0, 126]);
    assert_eq!(frame(&[0; 65_535])[..4], [FIN | BINARY, 126, 255, 255]);
    assert_eq!(
        frame(&[0; 65_536])[..10],
        [FIN | BINARY, 127, 0, 0, 0, 0, 0, 1, 0, 0]
    );
}

#[test]
fn a_flood_of_pings_gets_one_pong_per_read_and_farewell_closes_once() {
    let wire: Vec<u8> = (0..1000u16)
        .flat_map(|n| masked(FIN | PING, &n.to_be_bytes()))
        .collect();
    assert_eq!(pass(&wire).2, [FIN | PONG, 2, 3, 231]);
    let mut websocket = open();
    assert_eq!(websocket.farewell(), [FIN | CLOSE, 2, 3, 232]);
    assert_eq!(websocket.farewell(), []);
}

proptest! {
    /// Handshake and frames give the same bytes however they are cut; nothing is kept.
    #[test]
    fn any_split_gives_the_same(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..5),
        cuts in prop::collection::vec(1usize..200, 1..40),
    ) {
        let mut wire = REQUEST.to_vec();
        for payload in &payloads {
            wire.extend(masked(FIN | BINARY, payload));
            wire.extend(masked(FIN | PONG, b"unasked"));
        }
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        let mut websocket = WebSocket::default();
        let mut rest = wire.as_slice();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (part, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            prop_assert_eq!(websocket.inbound(part, &mut plain, &mut answer), Ok(Flow::Open));
            rest = after;
        }
        prop_assert_eq!(plain, payloads.concat());
        prop_assert_eq!(websocket.held_bytes(), 0);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (flow, ..) = pass(&bytes);
        prop_assert!(matches!(flow, Ok(_) | Err(_)));
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        let mut fresh = WebSocket::default();
        prop_assert!(matches!(fresh.inbound(&bytes, &mut plain, &mut answer), Ok(_) | Err(_)));
    }
}

#[test]
fn mutated_requests() {
    let other = b"GET /mqtt HTTP/1.1\r\nhost:b\r\nX: y\r\nupgrade: WebSocket\r\n\
        connection: keep-alive, upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        sec-websocket-version: 13\r\nsec-websocket-protocol: a, mqttv3.1\r\n\r\n\x81\0";
    fuzz(
        &[REQUEST.to_vec(), other[..other.len() - 2].to_vec()],
        |bytes| {
            let (mut plain, mut answer) = (Vec::new(), Vec::new());
            let mut fresh = WebSocket::default();
            let flow = fresh.inbound(bytes, &mut plain, &mut answer);
            fresh.farewell();
            flow.is_ok() && fresh.is_open()
        },
    );
}

#[test]
fn mutated_frames() {
    let all = [
        masked(BINARY, b"ab"),
        masked(FIN | PING, b"hello"),
        masked(FIN | CONTINUATION, b"cd"),
        masked(FIN | BINARY, &[b'e'; 300]),
        masked(FIN | BINARY, &[b'f'; 16_000]),
        masked(FIN | CLOSE, &[3, 232]),
    ];
    let samples = [all[..3].concat(), all[3..].concat(), all[5].clone()];
    fuzz(&samples, |bytes| {
        let (flow, plain, answer) = pass(bytes);
        assert!(plain.len() + answer.len() <= 2 * bytes.len() + 64);
        flow.is_ok()
    });
}
