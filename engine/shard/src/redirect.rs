//! Clients that are to go elsewhere, and clients that have to go.

use std::sync::Arc;

use engine_mqtt::{ReasonCode, Version};
use engine_session::Now;

use crate::ending::Ending;
use crate::port::ConnectionId;
use crate::shard::Shard;

/// Where clients are sent instead of being served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// For good (0x9D), not for now (0x9C).
    pub has_moved: bool,
    /// Server Reference: hosts with their ports, apart by a space [MQTT 5, section 4.11].
    pub servers: Arc<str>,
}

impl Redirect {
    const fn reason(&self) -> ReasonCode {
        if self.has_moved {
            ReasonCode::ServerMoved
        } else {
            ReasonCode::UseAnotherServer
        }
    }
}

impl Shard {
    /// Disconnects a client with 0x98, or with where to go instead; its session stays as with any
    /// lost connection. Returns whether it was connected.
    pub fn kick(&mut self, now: Now, client_id: &str, redirect: Option<&Redirect>) -> bool {
        self.begin_call(now);
        let index = self.by_client_id.get(client_id).copied();
        let connection = index.and_then(|index| self.clients[index].connection);
        match (connection, redirect) {
            (Some(connection), None) => {
                self.counters.kicked += 1;
                self.close(connection, Some(ReasonCode::AdministrativeAction), true);
            }
            (Some(connection), Some(redirect)) => {
                self.counters.redirected += 1;
                self.send_elsewhere(connection, redirect.reason(), &redirect.servers);
                self.close_as(connection, Ending::Told(redirect.reason()));
            }
            (None, _) => {}
        }
        connection.is_some()
    }

    /// Answers a CONNECT with where to go, if that is so.
    pub(crate) fn redirected(&mut self, connection: ConnectionId, version: Version) -> bool {
        let Some(redirect) = self.config.redirect.clone() else {
            return false;
        };
        let reason = redirect.reason();
        self.counters.redirected += 1;
        if let Some(link) = self.connections.get_mut(&connection) {
            link.version = version;
        }
        self.write_redirection(connection, reason, &redirect.servers);
        self.close(connection, None, true);
        true
    }
}
