//! Clients with an authentication method: what they proved before they came, and proving it again
//! while messages flow [MQTT-4.12.1]. The proofs are checked outside of the shard.

use std::sync::Arc;

use engine_mqtt::{Auth, PropertiesBuilder, ReasonCode};

use crate::port::ConnectionId;
use crate::shard::Shard;

/// What a client has proved before it came to its shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// The authentication method of its CONNECT.
    pub method: &'static str,
    /// Who it is.
    pub user: Arc<str>,
    /// Authentication data for its CONNACK.
    pub data: Vec<u8>,
}

/// A step of a client that authenticates again; at most one of a connection is out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reauthentication {
    /// Whose.
    pub connection: ConnectionId,
    /// Who it has been so far, and has to be.
    pub user: Arc<str>,
    /// Whether it begins.
    pub is_first: bool,
    /// The client's authentication data.
    pub data: Vec<u8>,
}

/// What has become of such a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proof {
    /// This comes next.
    Continue(Vec<u8>),
    /// It is who it was; this is the last word.
    Good(Vec<u8>),
    /// It is not.
    Bad,
    /// Too many authenticate at once.
    Busy,
}

/// A connection's authentication.
#[derive(Debug)]
pub(crate) struct Authentication {
    pub(crate) admission: Admission,
    step: Step,
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Nobody's.
    Idle,
    /// Ours.
    Asked,
    /// The client's.
    Challenged,
}

impl Shard {
    /// A connection's client has proved who it is; comes before its first bytes.
    pub fn admitted(&mut self, connection: ConnectionId, admission: Admission) {
        if let Some(link) = self.connections.get_mut(&connection) {
            link.authentication = Some(Box::new(Authentication {
                admission,
                step: Step::Idle,
            }));
        }
    }

    /// The next step of somebody who authenticates again; answered by [`Shard::authenticated`].
    pub fn poll_reauthentication(&mut self) -> Option<Reauthentication> {
        self.reauthentications.pop_front()
    }

    /// A client's AUTH. Without a method it is a protocol error [MQTT-4.12.0-7], as with another
    /// one [MQTT-4.12.1-1] or out of turn.
    pub(crate) fn on_auth(&mut self, connection: ConnectionId, auth: &Auth<'_>) {
        let link = self.connections.get_mut(&connection);
        let Some(authentication) = link.and_then(|link| link.authentication.as_mut()) else {
            self.fail(connection, ReasonCode::ProtocolError);
            return;
        };
        let is_first = auth.reason == ReasonCode::ReAuthenticate;
        let expected = if is_first {
            Step::Idle
        } else {
            Step::Challenged
        };
        let method = auth.properties.authentication_method();
        let is_same = method == Some(authentication.admission.method);
        if authentication.step != expected || !is_same || auth.reason == ReasonCode::Success {
            self.fail(connection, ReasonCode::ProtocolError);
            return;
        }
        authentication.step = Step::Asked;
        let data = auth.properties.authentication_data();
        self.reauthentications.push_back(Reauthentication {
            connection,
            user: Arc::clone(&authentication.admission.user),
            is_first,
            data: data.unwrap_or_default().to_vec(),
        });
    }

    /// What has become of a step. A connection that fails ends [MQTT-4.12.1-2].
    pub fn authenticated(&mut self, connection: ConnectionId, proof: &Proof) {
        let link = self.connections.get_mut(&connection);
        let Some(authentication) = link.and_then(|link| link.authentication.as_mut()) else {
            return;
        };
        let method = authentication.admission.method;
        let (step, reason, data) = match proof {
            Proof::Continue(data) => (Step::Challenged, ReasonCode::ContinueAuthentication, data),
            Proof::Good(data) => (Step::Idle, ReasonCode::Success, data),
            Proof::Bad => return self.fail(connection, ReasonCode::NotAuthorized),
            Proof::Busy => return self.fail(connection, ReasonCode::ServerBusy),
        };
        authentication.step = step;
        let mut builder = PropertiesBuilder::new();
        builder
            .authentication_method(method)
            .authentication_data(data);
        if let Ok(properties) = builder.properties() {
            self.write_auth(connection, Auth { reason, properties });
        }
    }
}
