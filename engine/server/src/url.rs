//! Listener addresses as the user writes them: `mqtt://HOST:PORT` and its kin.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::transport::Doorway;

/// The port of MQTT without TLS, taken when a URL names none.
pub const PORT_DEFAULT: u16 = 1883;

/// What follows an address whose clients come through a load balancer.
const PROXIED: &str = "?proxy-protocol";

/// The path of MQTT over WebSocket.
const WEBSOCKET_PATH: &str = "/mqtt";

/// What is spoken at a listener, inside a PROXY header if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
    Unix,
}

impl Scheme {
    const ALL: [Self; 5] = [Self::Mqtt, Self::Mqtts, Self::Ws, Self::Wss, Self::Unix];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt://",
            Self::Mqtts => "mqtts://",
            Self::Ws => "ws://",
            Self::Wss => "wss://",
            Self::Unix => "unix://",
        }
    }

    const fn port_default(self) -> u16 {
        match self {
            Self::Mqtt => PORT_DEFAULT,
            Self::Mqtts => 8883,
            Self::Ws => 8083,
            Self::Wss => 8084,
            Self::Unix => 0,
        }
    }

    const fn has_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// Where to accept clients, and what they speak. Parsed once; the text form is the same again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ListenUrl {
    scheme: Scheme,
    is_proxied: bool,
    /// A name, an IPv4 address, an IPv6 address without brackets, or the path of a Unix socket.
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
    /// The path of a Unix socket does not begin with `/`, or is longer than the kernel takes.
    Socket(String),
}

/// Bytes of the path of a Unix socket, at most; the kernel takes 108 with a zero behind.
const SOCKET_PATH_BYTES_MAX: usize = 107;

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, problem) = match self {
            Self::Scheme(text) => (
                text,
                "the scheme must be mqtt://, mqtts://, ws://, wss:// or unix://",
            ),
            Self::Host(text) => (text, "the host is missing, or is IPv6 without [brackets]"),
            Self::Port(text) => (text, "the port must be a number from 0 to 65535"),
            Self::Path(text) => (
                text,
                "nothing may follow the port but /mqtt (WebSocket) and ?proxy-protocol",
            ),
            Self::Socket(text) => (
                text,
                "a Unix socket is an absolute path of at most 107 bytes, as in unix:///run/mqtt",
            ),
        };
        write!(
            f,
            "listener \"{text}\": {problem}; write for example mqtt://127.0.0.1:1883"
        )
    }
}

impl std::error::Error for UrlError {}

impl ListenUrl {
    /// The addresses that the host stands for, at least one; none of a Unix socket.
    ///
    /// # Errors
    /// When the name cannot be resolved.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if self.scheme == Scheme::Unix {
            return Ok(Vec::new());
        }
        let addresses: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the host has no address",
            ));
        }
        Ok(addresses)
    }

    /// The path of a Unix socket.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        (self.scheme == Scheme::Unix).then(|| Path::new(&self.host).to_path_buf())
    }

    /// Whether clients speak TLS here.
    #[must_use]
    pub const fn has_tls(&self) -> bool {
        self.scheme.has_tls()
    }

    /// What is spoken here.
    pub(crate) const fn doorway(&self) -> Doorway {
        Doorway {
            has_tls: self.scheme.has_tls(),
            is_websocket: self.scheme.is_websocket(),
            is_proxied: self.is_proxied,
        }
    }

    /// The same host with another port: what a listener on port 0 was given.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self {
            port,
            ..self.clone()
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
            scheme: Scheme::Mqtt,
            is_proxied: false,
            host: "127.0.0.1".to_owned(),
            port: PORT_DEFAULT,
        }
    }
}

impl FromStr for ListenUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = Scheme::ALL
            .into_iter()
            .find_map(|scheme| Some((scheme, text.strip_prefix(scheme.prefix())?)))
            .ok_or_else(|| UrlError::Scheme(text.to_owned()))?;
        let (rest, is_proxied) = match rest.strip_suffix(PROXIED) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (host, port) = match scheme {
            Scheme::Unix => {
                let is_path = rest.starts_with('/') && rest.len() <= SOCKET_PATH_BYTES_MAX;
                if !is_path || rest.contains(['?', '\0']) {
                    return Err(UrlError::Socket(text.to_owned()));
                }
                (rest, 0)
            }
            Scheme::Mqtt | Scheme::Mqtts | Scheme::Ws | Scheme::Wss => {
                host_and_port(scheme, text, rest)?
            }
        };
        Ok(Self {
            scheme,
            is_proxied,
            host: host.to_owned(),
            port,
        })
    }
}

fn host_and_port<'a>(
    scheme: Scheme,
    text: &str,
    rest: &'a str,
) -> Result<(&'a str, u16), UrlError> {
    let rest = match rest.strip_suffix(WEBSOCKET_PATH) {
        Some(rest) if scheme.is_websocket() => rest,
        _ => rest.strip_suffix('/').unwrap_or(rest),
    };
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
        None => scheme.port_default(),
        Some(digits) => parse_port(digits).ok_or_else(|| UrlError::Port(text.to_owned()))?,
    };
    Ok((host, port))
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
        f.write_str(self.scheme.prefix())?;
        match self.scheme {
            Scheme::Unix => f.write_str(&self.host),
            Scheme::Mqtt | Scheme::Mqtts | Scheme::Ws | Scheme::Wss => {
                if self.host.contains(':') {
                    write!(f, "[{}]:{}", self.host, self.port)
                } else {
                    write!(f, "{}:{}", self.host, self.port)
                }
            }
        }?;
        f.write_str(if self.is_proxied { PROXIED } else { "" })
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
        check("mqtts://localhost", "mqtts://localhost:8883");
        check("ws://localhost/mqtt", "ws://localhost:8083");
        check("wss://[::1]", "wss://[::1]:8084");
        check("unix:///run/corelane.sock", "unix:///run/corelane.sock");
        check(
            "mqtts://[::]:1?proxy-protocol",
            "mqtts://[::]:1?proxy-protocol",
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| text.parse::<ListenUrl>().unwrap_err();
        assert!(matches!(error("127.0.0.1:1883"), UrlError::Scheme(_)));
        assert!(matches!(error("tcp://127.0.0.1"), UrlError::Scheme(_)));
        assert!(matches!(error("mqtt://a:80/mqtt"), UrlError::Path(_)));
        assert!(matches!(error("ws://a:80/other"), UrlError::Path(_)));
        assert!(matches!(error("mqtt://a?proxy"), UrlError::Path(_)));
        assert!(matches!(error("unix://run/mqtt"), UrlError::Socket(_)));
        let long = format!("unix:///{}", "x".repeat(107));
        assert!(matches!(error(&long), UrlError::Socket(_)));
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
