//! MQTT over WebSocket (RFC 6455), the server's side.
//!
//! The bytes of data frames go on as they come: MQTT packets and frames have no common borders
//! [MQTT-6.0.0-2], so nothing waits for the end of a frame, whatever its length.
//!
//! | frame, byte | is |
//! |---|---|
//! | 0 | bit 7: last of its message, bits 6-4: 0, bits 3-0: opcode |
//! | 1 | bit 7: masked, bits 6-0: length, 126 or 127 |
//! | 2.. | length in 2 (126) or 8 (127) bytes, big endian |
//! | .. | mask, 4 bytes, from the client only |
//! | .. | payload |

use super::Flow;

use self::upgrade::Upgrade;

mod upgrade;

/// The longest frame that is taken: a packet has at most 256 MiB, and a frame may hold several.
const FRAME_BYTES_MAX: u64 = 272 << 20;

/// The longest payload of a control frame, by the standard.
const CONTROL_BYTES_MAX: u64 = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Why the server closes, as the peer reads it.
#[derive(Clone, Copy)]
enum CloseCode {
    Normal = 1000,
    Protocol = 1002,
    Unacceptable = 1003,
    TooBig = 1009,
}

/// See the module.
#[derive(Debug)]
pub(super) enum WebSocket {
    /// The HTTP request is not complete.
    Upgrading(Upgrade),
    /// Frames.
    Open(Frames),
}

impl Default for WebSocket {
    fn default() -> Self {
        Self::Upgrading(Upgrade::default())
    }
}

impl WebSocket {
    /// Takes bytes; appends the payload of data frames to `plain` and what must be sent to
    /// `answer`, also after an error.
    pub(super) fn inbound(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Result<Flow, &'static str> {
        match self {
            Self::Upgrading(upgrade) => {
                let Some(rest) = upgrade.inbound(wire, answer)? else {
                    return Ok(Flow::Open);
                };
                let mut frames = Frames::default();
                let flow = frames.inbound(&rest, plain, answer);
                *self = Self::Open(frames);
                flow
            }
            Self::Open(frames) => frames.inbound(wire, plain, answer),
        }
    }

    /// The frame that ends the stream in an orderly way, unless one was sent.
    pub(super) fn farewell(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        if let Self::Open(frames) = self {
            frames.close(CloseCode::Normal, &mut wire);
        }
        wire
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    pub(super) const fn held_bytes(&self) -> usize {
        match self {
            Self::Upgrading(upgrade) => upgrade.held_bytes(),
            Self::Open(frames) => frames.control.capacity(),
        }
    }
}

/// One binary frame around `payload`, as [MQTT-6.0.0-1] asks.
pub(super) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(payload.len() + 10);
    write_frame(BINARY, payload, &mut wire);
    wire
}

fn write_frame(opcode: u8, payload: &[u8], wire: &mut Vec<u8>) {
    wire.push(FIN | opcode);
    let len = payload.len();
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short), _) if short < 126 => wire.push(short),
        (_, Ok(medium)) => {
            wire.push(126);
            wire.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            wire.push(127);
            wire.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    wire.extend_from_slice(payload);
}

/// The stream of frames behind the handshake.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The header of the present frame, as far as it has come.
    header: [u8; 14],
    header_len: u8,
    /// The present frame's payload has begun.
    in_payload: bool,
    /// Bytes of payload to come.
    remaining: u64,
    /// Where in the mask the next byte of payload is.
    mask_at: u8,
    /// A data message is not at its end.
    in_message: bool,
    close_sent: bool,
    /// Payload of a control frame that is not complete.
    control: Vec<u8>,
}

impl Frames {
    fn inbound(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Result<Flow, &'static str> {
        let mut ping = None;
        let result = self.take(wire, plain, answer, &mut ping);
        // The last ping of a read stands for those before it.
        if let Some(payload) = ping
            && !self.close_sent
        {
            write_frame(PONG, &payload, answer);
        }
        result
    }

    fn take(
        &mut self,
        mut wire: &[u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
        ping: &mut Option<Vec<u8>>,
    ) -> Result<Flow, &'static str> {
        loop {
            if !self.in_payload {
                wire = self.take_header(wire);
                if self.header_len < self.header_needed() {
                    return Ok(Flow::Open);
                }
                self.begin_payload(answer)?;
            }
            let here = usize::try_from(self.remaining).unwrap_or(usize::MAX);
            let (payload, rest) = wire.split_at(here.min(wire.len()));
            wire = rest;
            self.remaining -= payload.len() as u64;
            if self.is_control() {
                let mut control = std::mem::take(&mut self.control);
                self.unmask(payload, &mut control);
                self.control = control;
            } else {
                self.unmask(payload, plain);
            }
            if self.remaining > 0 {
                return Ok(Flow::Open);
            }
            if self.end_frame(answer, ping) == Flow::Ended {
                return Ok(Flow::Ended);
            }
        }
    }

    fn take_header<'a>(&mut self, mut wire: &'a [u8]) -> &'a [u8] {
        while self.header_len < self.header_needed() {
            let Some((byte, rest)) = wire.split_first() else {
                break;
            };
            if let Some(place) = self.header.get_mut(usize::from(self.header_len)) {
                *place = *byte;
            }
            self.header_len += 1;
            wire = rest;
        }
        wire
    }

    /// Bytes of the present header, as far as its first bytes tell.
    const fn header_needed(&self) -> u8 {
        let [_, second, ..] = self.header;
        if self.header_len < 2 {
            return 2;
        }
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        2 + mask
            + match second & !MASKED {
                126 => 2,
                127 => 8,
                _ => 0,
            }
    }

    const fn opcode(&self) -> u8 {
        let [first, ..] = self.header;
        first & 0x0f
    }

    const fn is_control(&self) -> bool {
        self.opcode() >= CLOSE
    }

    /// The header is complete: checks it.
    fn begin_payload(&mut self, answer: &mut Vec<u8>) -> Result<(), &'static str> {
        let [first, second, a, b, c, d, e, f, g, h, ..] = self.header;
        let len = match second & !MASKED {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        };
        let is_last = first & FIN != 0;
        let is_known = matches!(
            self.opcode(),
            CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG
        );
        let problem = if first & 0x70 != 0 {
            Some((CloseCode::Protocol, "a reserved bit is set"))
        } else if second & MASKED == 0 {
            Some((CloseCode::Protocol, "a frame without a mask"))
        } else if !is_known {
            Some((CloseCode::Protocol, "an unknown opcode"))
        } else if self.is_control() && (len > CONTROL_BYTES_MAX || !is_last) {
            Some((CloseCode::Protocol, "a control frame too long, or in parts"))
        } else if self.opcode() == TEXT {
            Some((CloseCode::Unacceptable, "a text frame"))
        } else if len > FRAME_BYTES_MAX {
            Some((CloseCode::TooBig, "a frame of more than 272 MiB"))
        } else if !self.is_control() && (self.opcode() == CONTINUATION) != self.in_message {
            Some((CloseCode::Protocol, "parts of messages out of order"))
        } else {
            None
        };
        if let Some((code, problem)) = problem {
            self.close(code, answer);
            return Err(problem);
        }
        if !self.is_control() {
            self.in_message = !is_last;
        }
        self.in_payload = true;
        self.remaining = len;
        self.mask_at = 0;
        Ok(())
    }

    fn unmask(&mut self, payload: &[u8], into: &mut Vec<u8>) {
        let end = usize::from(self.header_len);
        let mask = self.header.get(end.saturating_sub(4)..end);
        let mask: [u8; 4] = mask.and_then(|m| m.try_into().ok()).unwrap_or_default();
        let turned = usize::from(self.mask_at);
        let keys = mask.iter().cycle().skip(turned);
        into.extend(payload.iter().zip(keys).map(|(byte, key)| byte ^ key));
        // Modulo 4, so it fits.
        self.mask_at = u8::try_from((turned + payload.len()) % 4).unwrap_or(0);
    }

    fn end_frame(&mut self, answer: &mut Vec<u8>, ping: &mut Option<Vec<u8>>) -> Flow {
        self.in_payload = false;
        self.header_len = 0;
        if !self.is_control() {
            return Flow::Open;
        }
        let payload = std::mem::take(&mut self.control);
        match self.opcode() {
            PING => *ping = Some(payload),
            CLOSE => {
                self.close(CloseCode::Normal, answer);
                return Flow::Ended;
            }
            _ => {}
        }
        Flow::Open
    }

    fn close(&mut self, code: CloseCode, answer: &mut Vec<u8>) {
        if !self.close_sent {
            self.close_sent = true;
            write_frame(CLOSE, &(code as u16).to_be_bytes(), answer);
        }
    }
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
