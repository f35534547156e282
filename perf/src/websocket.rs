//! The client's side of a WebSocket (RFC 6455), as far as MQTT over it needs: one upgrade, binary
//! frames both ways, pings answered. Pure.
//!
//! A client's frames must be masked: these are, with the key 0, which changes no byte and so costs
//! nothing. The server's answer to the key is not checked: whoever speaks MQTT afterwards is the
//! right server.

use std::fmt;

/// The longest answer to the upgrade that is taken for one, bytes.
const ANSWER_LEN_MAX: usize = 16 * 1024;
/// The longest payload of a control frame (section 5.5).
const CONTROL_LEN_MAX: u64 = 125;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What is wrong with the server's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WebSocketError {
    /// The server does not speak WebSocket here: the first line of what it says.
    Refused(String),
    /// A frame that a server may not send.
    Frame(&'static str),
    /// The server closes.
    Closed,
}

impl fmt::Display for WebSocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(line) => write!(f, "the server answered the upgrade with: {line}"),
            Self::Frame(what) => write!(f, "malformed WebSocket frame: {what}"),
            Self::Closed => write!(f, "the server closed the WebSocket"),
        }
    }
}

/// Where the reader is.
#[derive(Debug)]
enum State {
    /// In the answer to the upgrade.
    Answer(Vec<u8>),
    /// In a frame's header.
    Header(Vec<u8>),
    /// In a payload: so many bytes are left.
    Payload { opcode: u8, left: u64 },
}

/// One WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    state: State,
    /// The payload of a control frame so far.
    control: Vec<u8>,
}

impl WebSocket {
    /// A WebSocket, and the request that opens it.
    pub(crate) fn open(host: &str, path: &str, out: &mut Vec<u8>) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        out.extend_from_slice(request.as_bytes());
        Self {
            state: State::Answer(Vec::new()),
            control: Vec::new(),
        }
    }

    /// Whether the server has agreed.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Answer(_))
    }

    /// Appends bytes in one frame.
    pub(crate) fn wrap(bytes: &[u8], out: &mut Vec<u8>) {
        frame(BINARY, bytes, out);
    }

    /// Appends the payloads in some input to `plain`, and answers to `out`.
    pub(crate) fn unwrap(
        &mut self,
        mut input: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), WebSocketError> {
        while !input.is_empty() {
            match &mut self.state {
                State::Answer(_) => input = self.answer(input)?,
                State::Header(header) => {
                    let Some((byte, rest)) = input.split_first() else {
                        break;
                    };
                    header.push(*byte);
                    input = rest;
                    if let Some(next) = parse_header(header)? {
                        self.state = next;
                        self.finish_empty(out)?;
                    }
                }
                State::Payload { opcode, left } => {
                    let len = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(input.len());
                    let (bytes, rest) = input.split_at(len);
                    match *opcode {
                        BINARY | CONTINUATION => plain.extend_from_slice(bytes),
                        _ => self.control.extend_from_slice(bytes),
                    }
                    *left -= len as u64;
                    input = rest;
                    self.finish_empty(out)?;
                }
            }
        }
        Ok(())
    }

    /// Collects the answer to the upgrade; what follows it.
    fn answer<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], WebSocketError> {
        let State::Answer(head) = &mut self.state else {
            return Ok(input);
        };
        let before = head.len();
        head.extend_from_slice(input);
        let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else {
            if head.len() > ANSWER_LEN_MAX {
                return Err(WebSocketError::Refused("more than 16 KiB".to_owned()));
            }
            return Ok(&[]);
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            let text = String::from_utf8_lossy(head);
            let line = text.lines().next().unwrap_or_default();
            return Err(WebSocketError::Refused(line.to_owned()));
        }
        self.state = State::Header(Vec::new());
        Ok(input.get(end + 4 - before..).unwrap_or_default())
    }

    /// Ends the frame whose payload is complete.
    fn finish_empty(&mut self, out: &mut Vec<u8>) -> Result<(), WebSocketError> {
        let State::Payload { opcode, left: 0 } = self.state else {
            return Ok(());
        };
        self.state = State::Header(Vec::new());
        let payload = std::mem::take(&mut self.control);
        match opcode {
            CLOSE => return Err(WebSocketError::Closed),
            PING => frame(PONG, &payload, out),
            _ => {}
        }
        Ok(())
    }
}

/// The state after a header; `None` while bytes of it are missing.
fn parse_header(header: &[u8]) -> Result<Option<State>, WebSocketError> {
    let &[first, second, ref rest @ ..] = header else {
        return Ok(None);
    };
    if second & 0x80 != 0 {
        return Err(WebSocketError::Frame("masked by a server"));
    }
    let left = match second {
        126 => match rest {
            [a, b] => u64::from(u16::from_be_bytes([*a, *b])),
            _ => return Ok(None),
        },
        127 => match <[u8; 8]>::try_from(rest) {
            Ok(bytes) => u64::from_be_bytes(bytes),
            Err(_) => return Ok(None),
        },
        short => u64::from(short),
    };
    let opcode = first & 0x0f;
    match opcode {
        CONTINUATION | BINARY => {}
        CLOSE | PING | PONG if left <= CONTROL_LEN_MAX => {}
        _ => return Err(WebSocketError::Frame("of an unknown kind")),
    }
    Ok(Some(State::Payload { opcode, left }))
}

/// Appends a frame of a client.
fn frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len), _) if len < 126 => out.push(0x80 | len),
        (_, Ok(len)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    /// What a server sends: an answer, and frames of these payloads.
    fn from_server(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = ANSWER.to_vec();
        for payload in payloads {
            let mut masked = Vec::new();
            frame(BINARY, payload, &mut masked);
            let header = masked.len() - payload.len() - 4;
            masked[1] &= 0x7f;
            bytes.extend_from_slice(&masked[..header]);
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    #[test]
    fn payloads_come_out_however_the_bytes_are_cut() {
        let long = vec![7; 70_000];
        let bytes = from_server(&[b"abc", b"", &long[..300], &long]);
        let expected = [b"abc".as_slice(), &long[..300], &long].concat();
        for step in [1, 2, 3, 1_000, bytes.len()] {
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            let mut socket = WebSocket::open("h", "/mqtt", &mut out);
            assert!(out.starts_with(b"GET /mqtt HTTP/1.1\r\n") && !socket.is_open());
            out.clear();
            for part in bytes.chunks(step) {
                socket.unwrap(part, &mut plain, &mut out).unwrap();
            }
            assert!(
                plain == expected && out.is_empty() && socket.is_open(),
                "step {step}"
            );
        }
    }

    #[test]
    fn pings_are_answered_and_a_close_ends() {
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let mut socket = WebSocket::open("h", "/mqtt", &mut out);
        out.clear();
        socket.unwrap(ANSWER, &mut plain, &mut out).unwrap();
        socket
            .unwrap(&[0x89, 2, b'h', b'i'], &mut plain, &mut out)
            .unwrap();
        assert_eq!(out, [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i']);
        let end = socket.unwrap(&[0x88, 0], &mut plain, &mut out);
        assert_eq!(end, Err(WebSocketError::Closed));
    }

    #[test]
    fn what_is_no_websocket_is_named() {
        let mut socket = WebSocket::open("h", "/", &mut Vec::new());
        let answer = b"HTTP/1.1 404 Not Found\r\n\r\n";
        let error = socket.unwrap(answer, &mut Vec::new(), &mut Vec::new());
        assert!(error.unwrap_err().to_string().contains("404 Not Found"));
        for bytes in [&[0x82, 0x80][..], &[0x81, 1, b'x'], &[0x89, 126, 1, 0]] {
            let mut socket = WebSocket::open("h", "/", &mut Vec::new());
            let (mut plain, mut out) = (Vec::new(), Vec::new());
            socket.unwrap(ANSWER, &mut plain, &mut out).unwrap();
            assert!(
                socket.unwrap(bytes, &mut plain, &mut out).is_err(),
                "{bytes:?}"
            );
        }
    }
}
