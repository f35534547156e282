//! The PROXY protocol, versions 1 and 2: a load balancer in front of the node says first whom the
//! connection comes from.
//!
//! | version 2, byte | is |
//! |---|---|
//! | 0..12 | signature |
//! | 12 | version (2) << 4, command: 0 local, 1 proxied |
//! | 13 | address family << 4, transport |
//! | 14..16 | length of the rest, big endian |
//! | 16.. | addresses and extensions |
//!
//! Version 1 is one line of at most 107 bytes: `PROXY TCP4 SOURCE DESTINATION PORT PORT` and CRLF.
//! Rules about addresses see the source; a health check of the balancer itself has none.

use std::net::IpAddr;

/// The longest line of version 1, with its CRLF.
const LINE_BYTES_MAX: usize = 107;

/// The longest header of version 2 that is taken: addresses, and extensions such as a TLS name.
const HEADER_BYTES_MAX: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;

/// Reads one header.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    held: Vec<u8>,
    source: Option<IpAddr>,
}

impl Proxy {
    /// Takes bytes; gives back those behind the header as soon as it is complete.
    ///
    /// # Errors
    /// The bytes are no header.
    pub(super) fn inbound(&mut self, wire: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
        self.held.extend_from_slice(wire);
        let Some(len) = header_len(&self.held)? else {
            return Ok(None);
        };
        let rest = self.held.split_off(len);
        self.source = source(&self.held);
        self.held = Vec::new();
        Ok(Some(rest))
    }

    /// Where the connection comes from, when the header is complete and says it.
    pub(super) const fn source(&self) -> Option<IpAddr> {
        self.source
    }

    pub(super) const fn held_bytes(&self) -> usize {
        self.held.len()
    }
}

/// The source address in a whole header that is well formed.
fn source(header: &[u8]) -> Option<IpAddr> {
    if let Some(line) = header.strip_prefix(b"PROXY TCP") {
        let text = std::str::from_utf8(line).ok()?;
        return text.split(' ').nth(1)?.parse().ok();
    }
    let addresses = header.get(FIXED_BYTES..)?;
    match (header.get(12)?, header.get(13)? >> 4) {
        (0x21, 1) => Some(IpAddr::from(*addresses.first_chunk::<4>()?)),
        (0x21, 2) => Some(IpAddr::from(*addresses.first_chunk::<16>()?)),
        _ => None,
    }
}

/// The length of the header that `bytes` begin with, once all of it is there.
fn header_len(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let signature = bytes.get(..SIGNATURE.len()).unwrap_or(bytes);
    if SIGNATURE.starts_with(signature) {
        return version_2(bytes);
    }
    let line = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let prefix = line.get(..6).unwrap_or(line);
    if !b"PROXY ".starts_with(prefix) {
        return Err("neither version 1 nor version 2");
    }
    match line.windows(2).position(|end| end == b"\r\n") {
        Some(end) => {
            check_line(line.get(6..end).unwrap_or_default())?;
            Ok(Some(end + 2))
        }
        None if line.len() == LINE_BYTES_MAX => Err("a line of more than 107 bytes"),
        None => Ok(None),
    }
}

fn version_2(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *fixed;
    let len = usize::from(u16::from_be_bytes([high, low]));
    let needed = match (command, family) {
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11 | 0x12) => 12,
        (0x21, 0x21 | 0x22) => 36,
        (0x21, 0x31 | 0x32) => 216,
        (0x21, _) => return Err("an unknown address family"),
        _ => return Err("an unknown version or command"),
    };
    if len < needed {
        return Err("no room for its addresses");
    }
    if len > HEADER_BYTES_MAX - FIXED_BYTES {
        return Err("a header of more than 4096 bytes");
    }
    Ok((bytes.len() >= FIXED_BYTES + len).then_some(FIXED_BYTES + len))
}

/// What follows `PROXY ` in version 1.
fn check_line(line: &[u8]) -> Result<(), &'static str> {
    const BAD: &str = "a malformed line";
    let text = std::str::from_utf8(line).map_err(|_| BAD)?;
    let words: Vec<&str> = text.split(' ').collect();
    if words.first() == Some(&"UNKNOWN") {
        return Ok(());
    }
    let &[family, source, destination, source_port, destination_port] = words.as_slice() else {
        return Err(BAD);
    };
    let is_address = |text: &str| match family {
        "TCP4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "TCP6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        _ => false,
    };
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let is_good = is_address(source)
        && is_address(destination)
        && is_port(source_port)
        && is_port(destination_port);
    is_good.then_some(()).ok_or(BAD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r\n";

    fn binary(command: u8, family: u8, len: u16) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(len.to_be_bytes());
        header.extend(vec![7; usize::from(len)]);
        header
    }

    #[track_caller]
    fn check(header: &[u8]) {
        let mut wire = header.to_vec();
        wire.extend(b"rest");
        assert_eq!(Proxy::default().inbound(&wire), Ok(Some(b"rest".to_vec())));
    }

    #[track_caller]
    fn check_refused(header: &[u8]) {
        assert!(Proxy::default().inbound(header).is_err(), "{header:?}");
    }

    #[test]
    fn headers_say_where_a_connection_comes_from() {
        let source = |header: &[u8]| {
            let mut proxy = Proxy::default();
            proxy.inbound(header).unwrap().unwrap();
            proxy.source().map(|address| address.to_string())
        };
        assert_eq!(source(LINE).unwrap(), "192.0.2.1");
        assert_eq!(
            source(b"PROXY TCP6 ::1 2001:db8::1 1 65535\r\n").unwrap(),
            "::1"
        );
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(&binary(0x21, 0x11, 12)).unwrap(), "7.7.7.7");
        assert_eq!(
            source(&binary(0x21, 0x21, 36)).unwrap(),
            "707:707:707:707:707:707:707:707"
        );
        assert_eq!(source(&binary(0x20, 0x11, 12)), None);
        assert_eq!(source(&binary(0x21, 0x31, 216)), None);
    }

    #[test]
    fn good_headers_are_taken_off() {
        check(LINE);
        check(b"PROXY TCP6 ::1 2001:db8::1 1 65535\r\n");
        check(b"PROXY UNKNOWN\r\n");
        check(b"PROXY UNKNOWN whatever this is\r\n");
        check(&binary(0x20, 0, 0));
        check(&binary(0x21, 0x11, 12));
        check(&binary(0x21, 0x21, 40));
        check(&binary(0x21, 0x31, 216));
    }

    #[test]
    fn bad_headers_are_refused_as_soon_as_they_are_bad() {
        check_refused(b"\x10");
        check_refused(b"PROXZ");
        check_refused(b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n");
        check_refused(b"PROXY TCP4 ::1 ::1 1 1\r\n");
        check_refused(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n");
        check_refused(b"PROXY TCP4 \xff 1.2.3.4 1 1\r\n");
        check_refused(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 107]].concat());
        check_refused(&binary(0x31, 0x11, 12));
        check_refused(&binary(0x22, 0x11, 12));
        check_refused(&binary(0x21, 0x41, 12));
        check_refused(&binary(0x21, 0x11, 11));
        check_refused(&binary(0x20, 0, 4081));
    }

    proptest! {
        /// However the bytes are cut, the same is left over.
        #[test]
        fn any_split_gives_the_same(is_binary: bool, cut in 0usize..60, second in 0usize..60) {
            let header = if is_binary { binary(0x21, 0x21, 40) } else { LINE.to_vec() };
            let wire = [header.as_slice(), b"0123456789"].concat();
            let (one, two) = (cut.min(second).min(wire.len()), cut.max(second).min(wire.len()));
            let mut proxy = Proxy::default();
            let mut left = None;
            for part in [&wire[..one], &wire[one..two], &wire[two..]] {
                match &mut left {
                    Some(rest) => Vec::extend_from_slice(rest, part),
                    None => left = proxy.inbound(part).unwrap(),
                }
            }
            prop_assert_eq!(left.unwrap(), b"0123456789");
            prop_assert_eq!(proxy.held_bytes(), 0);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut proxy = Proxy::default();
            if let Ok(None) = proxy.inbound(&bytes) {
                prop_assert!(proxy.held_bytes() <= HEADER_BYTES_MAX);
            }
        }
    }

    #[test]
    fn mutated_headers() {
        let samples = [
            LINE.to_vec(),
            b"PROXY TCP6 ::1 2001:db8::1 1 65535\r\nrest".to_vec(),
            b"PROXY UNKNOWN whatever\r\n".to_vec(),
            binary(0x20, 0, 0),
            binary(0x21, 0x11, 12),
            binary(0x21, 0x21, 40),
            [binary(0x21, 0x31, 216), b"rest".to_vec()].concat(),
        ];
        crate::mutate::fuzz(&samples, |bytes| {
            let mut proxy = Proxy::default();
            let taken = proxy.inbound(bytes);
            assert!(proxy.held_bytes() <= bytes.len());
            taken.is_ok_and(|rest| rest.is_some())
        });
    }
}
