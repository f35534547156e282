//! The requests of an administrator: `POST /clients/ID/kick`, `.../use-another/SERVERS` and
//! `.../moved/SERVERS`, ID and SERVERS percent-encoded.
//!
//! Only from the node's own machine, and not from a page in a browser there.

use std::net::IpAddr;

use engine_shard::Redirect;
use tracing::info;

use crate::orders::Orders;
use crate::redirect::redirect;

/// What is answered: HTTP status and text.
pub(crate) type Answer = (&'static str, &'static str);

/// Answers a POST to this path.
pub(crate) fn post(path: &[u8], headers: &[u8], peer: IpAddr, orders: &Orders) -> Answer {
    if !peer.to_canonical().is_loopback() || has_origin(headers) {
        return ("403 Forbidden", "only from the node's own machine\n");
    }
    let Some((id, redirect)) = kicked(path) else {
        return (
            "404 Not Found",
            "POST /clients/ID/kick, /clients/ID/use-another/SERVERS or /clients/ID/moved/SERVERS, \
             ID and SERVERS percent-encoded\n",
        );
    };
    match orders.kick(&id, redirect) {
        Some(true) => {
            info!(client = %id, "disconnected by an administrator");
            ("200 OK", "disconnected\n")
        }
        Some(false) => ("404 Not Found", "not connected\n"),
        None => ("503 Service Unavailable", "its shard does not answer\n"),
    }
}

/// Who is to be disconnected, and where to send it.
fn kicked(path: &[u8]) -> Option<(String, Option<Redirect>)> {
    let rest = path.strip_prefix(b"/clients/")?;
    let mut parts = rest.split(|byte| *byte == b'/');
    let id = percent_decoded(parts.next()?).filter(|id| !id.is_empty())?;
    let has_moved = match parts.next()? {
        b"kick" => return parts.next().is_none().then_some((id, None)),
        b"use-another" => false,
        b"moved" => true,
        _ => return None,
    };
    let redirect = redirect(percent_decoded(parts.next()?)?, has_moved).ok()?;
    parts.next().is_none().then_some((id, Some(redirect)))
}

/// Browsers say where a POST comes from.
fn has_origin(headers: &[u8]) -> bool {
    headers.split(|byte| *byte == b'\n').any(|line| {
        line.len() >= 7
            && line
                .get(..7)
                .is_some_and(|n| n.eq_ignore_ascii_case(b"origin:"))
    })
}

fn percent_decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        rest = rest.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_percent_encoded() {
        let decoded = |text: &str| percent_decoded(text.as_bytes());
        assert_eq!(decoded("a%2Fb%20%c3%A4").unwrap(), "a/b \u{e4}");
        for bad in ["%", "%2", "%+2", "%zz", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_own_machine_may_order_and_no_browser() {
        let orders = Orders::default();
        let ask = |path: &str, headers: &str, peer: &str| {
            let peer = peer.parse().unwrap();
            post(path.as_bytes(), headers.as_bytes(), peer, &orders).0
        };
        let kick = "/clients/a/kick";
        assert_eq!(ask(kick, "", "192.0.2.1"), "403 Forbidden");
        assert_eq!(
            ask(kick, "Host: x\r\nOrigin: y\r\n", "::1"),
            "403 Forbidden"
        );
        assert_eq!(ask("/clients//kick", "", "127.0.0.1"), "404 Not Found");
        assert_eq!(ask("/clients/a", "", "::ffff:127.0.0.1"), "404 Not Found");
        for bad in [
            "/clients/a/moved",
            "/clients/a/moved/",
            "/clients/a/moved/b/c",
            "/clients/a/x/b",
        ] {
            assert_eq!(ask(bad, "", "127.0.0.1"), "404 Not Found", "{bad}");
        }
        // Without shards nobody answers.
        assert_eq!(
            ask(kick, "Host: x\r\n", "127.0.0.1"),
            "503 Service Unavailable"
        );
    }
}
