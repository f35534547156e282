//! MQTT 3.1.1 and 5.0 statements against the real process, over a raw socket.
//!
//! Tests that hold for every version run in all of them on one node; the client ids and topics
//! then carry the version.
//!
//! With `CORELANE_TEST_TRANSPORT=mqtts` or `ws` all of it goes over TLS or WebSocket.
//!
//! Debian's mosquitto 2.0.11 passes all but five: it closes without DISCONNECT at a second CONNECT,
//! at a take-over and when the keep-alive runs out, lets a PINGREQ with flags pass, and exceeds the
//! receive maximum when QoS 1 and 2 mix.

mod announcements;
mod connect;
mod delayed;
mod exchange;
mod exclusive;
mod limits;
mod malformed;
mod publish;
mod replay;
mod retained;
mod session;
mod shared;
mod slow;
mod subscribe;
mod will;

use engine_mqtt::Version;

/// The versions that differ on the wire in ways that the tests see.
const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// A client id or topic of its own for each version.
fn named(version: Version, name: &str) -> String {
    format!("{name}-{}", version.level())
}
