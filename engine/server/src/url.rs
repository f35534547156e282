//! Listener addresses as the user writes them: `mqtt://HOST:PORT`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// The port of MQTT without TLS, taken when a URL names none.
pub const PORT_DEFAULT: u16 = 1883;

/// Where to accept clients. Parsed once; the text form is the same again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ListenUrl {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    host: String,
    port: u16,
}

/// Why a text is not a listener address.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UrlError {
    /// There is no `scheme://`, or one that this version does not serve.
    Scheme(String),
    /// The host is empty, or an IPv6 address is not in brackets.
    Host(String),
    /// The port is not a number from 0 to 65535.
    Port(String),
    /// Something follows the port.
    Path(String),
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, problem) = match self {
            Self::Scheme(text) => (text, "the scheme must be mqtt://"),
            Self::Host(text) => (text, "the host is missing, or is IPv6 without [brackets]"),
            Self::Port(text) => (text, "the port must be a number from 0 to 65535"),
            Self::Path(text) => (text, "nothing may follow the port"),
        };
        write!(
            f,
            "listener \"{text}\": {problem}; write for example mqtt://127.0.0.1:1883"
        )
    }
}

impl std::error::Error for UrlError {}

impl ListenUrl {
    /// The addresses that the host stands for, at least one.
    ///
    /// # Errors
    /// When the name cannot be resolved.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let addresses: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the host has no address",
            ));
        }
        Ok(addresses)
    }

    /// The same host with another port: what a listener on port 0 was given.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self {
            host: self.host.clone(),
            port,
        }
    }

    /// The TCP port; 0 lets the kernel choose.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Default for ListenUrl {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: PORT_DEFAULT,
        }
    }
}

impl FromStr for ListenUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text
            .strip_prefix("mqtt://")
            .ok_or_else(|| UrlError::Scheme(text.to_owned()))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(UrlError::Path(text.to_owned()));
        }
        let bad_host = || UrlError::Host(text.to_owned());
        let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
            let (host, after) = inner.split_once(']').ok_or_else(bad_host)?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(bad_host());
            }
            (host, port_text(after).ok_or_else(bad_host)?)
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        if host.is_empty() || (!rest.starts_with('[') && port.is_some_and(|p| p.contains(':'))) {
            return Err(bad_host());
        }
        let port = match port {
            None => PORT_DEFAULT,
            Some(digits) => parse_port(digits).ok_or_else(|| UrlError::Port(text.to_owned()))?,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// What follows the brackets: nothing or `:PORT`. `None`: something else.
fn port_text(after: &str) -> Option<Option<&str>> {
    if after.is_empty() {
        return Some(None);
    }
    after.strip_prefix(':').map(Some)
}

fn parse_port(digits: &str) -> Option<u16> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "mqtt://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "mqtt://{}:{}", self.host, self.port)
        }
    }
}

impl<'de> serde::Deserialize<'de> for ListenUrl {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        let url: ListenUrl = text.parse().unwrap();
        assert_eq!(url.to_string(), shown);
        assert_eq!(shown.parse::<ListenUrl>().unwrap(), url);
    }

    #[test]
    fn addresses_are_read_and_shown_the_same() {
        check("mqtt://127.0.0.1:1883", "mqtt://127.0.0.1:1883");
        check("mqtt://localhost", "mqtt://localhost:1883");
        check("mqtt://[::1]:1884", "mqtt://[::1]:1884");
        check("mqtt://[::]", "mqtt://[::]:1883");
        check("mqtt://example.org:0/", "mqtt://example.org:0");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| text.parse::<ListenUrl>().unwrap_err();
        assert!(matches!(error("127.0.0.1:1883"), UrlError::Scheme(_)));
        assert!(matches!(
            error("mqtts://127.0.0.1:1883"),
            UrlError::Scheme(_)
        ));
        assert!(matches!(error("mqtt://"), UrlError::Host(_)));
        assert!(matches!(error("mqtt://:1883"), UrlError::Host(_)));
        assert!(matches!(error("mqtt://::1:1883"), UrlError::Host(_)));
        assert!(matches!(error("mqtt://[nonsense]:1"), UrlError::Host(_)));
        assert!(matches!(error("mqtt://[::1]x"), UrlError::Host(_)));
        assert!(matches!(error("mqtt://a:"), UrlError::Port(_)));
        assert!(matches!(error("mqtt://a:65536"), UrlError::Port(_)));
        assert!(matches!(error("mqtt://a:+80"), UrlError::Port(_)));
        assert!(matches!(error("mqtt://a:80/path"), UrlError::Path(_)));
        assert!(error("x").to_string().contains("mqtt://127.0.0.1:1883"));
    }

    #[test]
    fn hosts_resolve() {
        let url: ListenUrl = "mqtt://[::1]:7".parse().unwrap();
        assert_eq!(url.resolve().unwrap(), ["[::1]:7".parse().unwrap()]);
        assert_eq!(url.with_port(9).port(), 9);
    }
}
