//! The HTTP request with which a WebSocket begins, and its answer.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::base64;

/// The longest request, bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// The path at which MQTT is served.
const PATH: &str = "/mqtt";

/// The subprotocol [MQTT-6.0.0-3]; the second is what MQTT 3.1 clients ask for.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Mixed into the client's key, by RFC 6455.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads one request.
#[derive(Debug, Default)]
pub(crate) struct Upgrade {
    held: Vec<u8>,
}

/// A refused request: the status line and why.
struct Refusal(&'static str, &'static str);

impl Upgrade {
    /// Takes bytes; gives back those behind the request when it is complete and accepted.
    ///
    /// # Errors
    /// It is refused; the answer says why.
    pub(super) fn inbound(
        &mut self,
        wire: &[u8],
        answer: &mut Vec<u8>,
    ) -> Result<Option<Vec<u8>>, &'static str> {
        // The end of the request may lie across two reads.
        let from = self.held.len().saturating_sub(3);
        self.held.extend_from_slice(wire);
        let tail = self.held.get(from..).unwrap_or_default();
        let end = tail.windows(4).position(|end| end == b"\r\n\r\n");
        let checked = match end.map(|at| from + at + 4) {
            Some(end) if end <= REQUEST_BYTES_MAX => {
                let rest = self.held.split_off(end);
                let request = std::mem::take(&mut self.held);
                accept(&request).map(|accepted| Some((accepted, rest)))
            }
            None if self.held.len() < REQUEST_BYTES_MAX => {
                let is_http = b"GET ".starts_with(self.held.get(..4).unwrap_or(&self.held));
                if is_http {
                    Ok(None)
                } else {
                    Err(Refusal("405 Method Not Allowed", "no GET request"))
                }
            }
            _ => Err(Refusal(
                "431 Request Header Fields Too Large",
                "a request of more than 8 KiB",
            )),
        };
        match checked {
            Ok(None) => Ok(None),
            Ok(Some((accepted, rest))) => {
                answer.extend_from_slice(accepted.as_bytes());
                Ok(Some(rest))
            }
            Err(Refusal(status, problem)) => {
                self.held = Vec::new();
                let text = format!(
                    "HTTP/1.1 {status}\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\n\
                     Content-Length: 0\r\n\r\n"
                );
                answer.extend_from_slice(text.as_bytes());
                Err(problem)
            }
        }
    }

    pub(super) const fn held_bytes(&self) -> usize {
        self.held.len()
    }
}

/// The answer to a complete request.
fn accept(request: &[u8]) -> Result<String, Refusal> {
    const BAD: &str = "400 Bad Request";
    let text = std::str::from_utf8(request).map_err(|_| Refusal(BAD, "no text"))?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if method != Some("GET") {
        return Err(Refusal("405 Method Not Allowed", "no GET request"));
    }
    if version != Some("HTTP/1.1") || words.next().is_some() {
        return Err(Refusal("505 HTTP Version Not Supported", "no HTTP/1.1"));
    }
    let path = target.and_then(|target| target.split('?').next());
    if path != Some(PATH) {
        return Err(Refusal("404 Not Found", "another path than /mqtt"));
    }
    let headers: Vec<(&str, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    let words_of = |name: &'static str| {
        let named = headers
            .iter()
            .filter(move |h| h.0.eq_ignore_ascii_case(name));
        named.flat_map(|(_, value)| value.split(',').map(str::trim))
    };
    let has = |name, word: &str| words_of(name).any(|w| w.eq_ignore_ascii_case(word));
    if !has("Upgrade", "websocket") || !has("Connection", "upgrade") {
        return Err(Refusal("426 Upgrade Required", "no upgrade to WebSocket"));
    }
    if !has("Sec-WebSocket-Version", "13") {
        return Err(Refusal("426 Upgrade Required", "another version than 13"));
    }
    let key = words_of("Sec-WebSocket-Key").next().unwrap_or_default();
    let is_key = key.len() == 24
        && key.ends_with("==")
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    if !is_key {
        return Err(Refusal(BAD, "no key of 16 bytes in base64"));
    }
    let offered = SUBPROTOCOLS
        .into_iter()
        .find(|protocol| words_of("Sec-WebSocket-Protocol").any(|word| word == *protocol));
    let Some(protocol) = offered else {
        return Err(Refusal(BAD, "the subprotocol mqtt is not offered"));
    };
    let accepted = base64::encode(
        digest(
            &SHA1_FOR_LEGACY_USE_ONLY,
            &[key.as_bytes(), KEY_SUFFIX].concat(),
        )
        .as_ref(),
    );
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accepted}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, headers: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n").into_bytes()
    }

    const GOOD: &str = "upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: chat, mqtt\r\n";

    #[test]
    fn the_example_of_the_standard_is_answered_with_mqtt() {
        let mut answer = Vec::new();
        let mut wire = request("/mqtt", GOOD);
        wire.extend(b"frames");
        let rest = Upgrade::default().inbound(&wire, &mut answer).unwrap();
        assert_eq!(rest.unwrap(), b"frames");
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(
            answer.contains("Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"),
            "{answer}"
        );
    }

    #[track_caller]
    fn check_refused(wire: &[u8], status: &str) {
        let mut answer = Vec::new();
        assert!(Upgrade::default().inbound(wire, &mut answer).is_err());
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }

    #[test]
    fn what_is_no_upgrade_to_mqtt_is_told_why() {
        check_refused(&request("/", GOOD), "404");
        check_refused(&request("/mqtt/x", GOOD), "404");
        check_refused(&request("/mqtt", ""), "426");
        check_refused(&request("/mqtt", &GOOD.replace("13", "8")), "426");
        check_refused(&request("/mqtt", &GOOD.replace(", mqtt", "")), "400");
        check_refused(&request("/mqtt", &GOOD.replace("ZQ==", "ZQ=")), "400");
        check_refused(b"POST /mqtt HTTP/1.1\r\n\r\n", "405");
        check_refused(b"\x10\x20\x00\x04MQTT", "405");
        check_refused(b"GET /mqtt HTTP/1.0\r\n\r\n", "505");
        let long = request("/mqtt", &format!("X: {}\r\n", "x".repeat(9000)));
        check_refused(&long, "431");
        check_refused(long.get(..8192).unwrap(), "431");
    }

    #[test]
    fn a_request_may_come_byte_by_byte() {
        let (mut upgrade, mut answer) = (Upgrade::default(), Vec::new());
        let wire = request("/mqtt?token=1", GOOD);
        let (last, first) = wire.split_last().unwrap();
        for byte in first {
            assert_eq!(upgrade.inbound(&[*byte], &mut answer), Ok(None));
        }
        assert_eq!(upgrade.inbound(&[*last], &mut answer), Ok(Some(Vec::new())));
    }
}
