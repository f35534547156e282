//! A session as its shard holds it, and a connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use engine_mqtt::Version;
use engine_session::{Address, Message, Session, Will};

use crate::alias::Aliases;
use crate::authentication::Authentication;
use crate::group::Group;
use crate::output::Output;
use crate::port::{Assignment, ConnectionId};
use crate::rare_queue::RareQueue;
use crate::rate::PublishRate;
use crate::rules::Identity;

/// Names a session over time: an index may be used again, a session id never is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ClientKey {
    pub(crate) index: u32,
    pub(crate) session: u64,
}

/// A session with what it needs while messages are on their way.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) connection: Option<ConnectionId>,
    /// Reasons not to send new publications now: retained messages or a resend come first.
    pub(crate) holds: u16,
    /// QoS 0 publications that wait for the holds to end.
    pub(crate) held: RareQueue<Message>,
    pub(crate) held_bytes: usize,
    /// In flight from an earlier connection, to be sent again in order.
    pub(crate) resend: RareQueue<(u16, Option<Message>)>,
    /// What is to be sent again is being read.
    pub(crate) refetch: Option<Box<Refetch>>,
    /// Retained messages to be delivered, first come first served.
    pub(crate) retained: RareQueue<RetainedJob>,
    /// What shared groups gave and what is not sent.
    pub(crate) assigned: RareQueue<Assignment>,
    /// It is no client, but a shared group.
    pub(crate) group: Option<Box<Group>>,
    /// It is in the queue of sessions to pump.
    pub(crate) queued: bool,
    /// Counts its absences: which of its timers counts.
    pub(crate) absence: u8,
    /// The will of the present connection.
    pub(crate) will: Option<Box<Will>>,
    /// When an offline session ends, monotonic milliseconds; `u64::MAX`: never.
    pub(crate) expires_ms: u64,
}

/// Records of deliveries in flight that are being read.
#[derive(Default, Debug)]
pub(crate) struct Refetch {
    /// The reads that are underway.
    pub(crate) reads: BTreeSet<u64>,
    /// What the others brought.
    pub(crate) messages: BTreeMap<Address, Message>,
}

impl Client {
    pub(crate) fn new(session: Session) -> Self {
        Self {
            session,
            connection: None,
            holds: 0,
            held: RareQueue::new(),
            held_bytes: 0,
            resend: RareQueue::new(),
            refetch: None,
            retained: RareQueue::new(),
            assigned: RareQueue::new(),
            group: None,
            queued: false,
            absence: 0,
            will: None,
            expires_ms: u64::MAX,
        }
    }

    /// Whether somebody may take what it gets.
    pub(crate) fn is_online(&self) -> bool {
        let group = self.group.as_deref();
        group.map_or_else(|| self.connection.is_some(), Group::is_online)
    }
}

/// The retained messages of one new subscription.
#[derive(Debug)]
pub(crate) struct RetainedJob {
    pub(crate) subscription: std::sync::Arc<engine_session::Subscription>,
    /// The owner that is being read.
    pub(crate) owner: u8,
    /// Whether only that owner can have matches: an exact filter.
    pub(crate) single: bool,
    /// Go on behind this topic.
    pub(crate) after: Option<std::sync::Arc<str>>,
    /// Messages that were read and not sent.
    pub(crate) page: VecDeque<Message>,
    /// By log: what is retained below comes from the owners, what is above comes live.
    pub(crate) cuts: std::sync::Arc<[engine_session::LogOffset]>,
    /// The outstanding read.
    pub(crate) reading: Option<u64>,
    /// SUBACK has been sent.
    pub(crate) started: bool,
    /// Every owner has been read to its end.
    pub(crate) finished: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Nothing came yet.
    Fresh,
    /// CONNECT came, CONNACK waits until everything it promises is durable.
    Opening,
    /// CONNACK is sent.
    Open,
}

/// A client's connection. Idle, it owns no buffer.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stage: Stage,
    pub(crate) version: Version,
    pub(crate) client: Option<u32>,
    /// Bytes to send at the end of the turn.
    pub(crate) output: Output,
    /// It is in the list of connections with output.
    pub(crate) queued: bool,
    /// Bytes that the driver holds because the socket did not take them.
    pub(crate) backlog: usize,
    /// Bytes of deliveries that are sent when their packet ids are durable.
    pub(crate) promised: usize,
    /// Bytes that came between CONNECT and CONNACK.
    pub(crate) stalled: Output,
    /// One and a half times the keep-alive interval; 0: none.
    pub(crate) keep_alive_ms: u32,
    pub(crate) last_ms: u64,
    /// Which of its keep-alive timers counts.
    pub(crate) armed: u8,
    /// The client's Maximum Packet Size.
    pub(crate) packet_bytes_max: u32,
    /// The client's Topic Alias Maximum.
    pub(crate) aliases_max: u16,
    /// None as long as neither side has used one.
    pub(crate) aliases: Option<Box<Aliases>>,
    /// Its next packet is a publication that cannot be taken yet.
    pub(crate) is_held: bool,
    /// What it may publish, if that is bounded.
    pub(crate) rate: Option<Box<PublishRate>>,
    /// Inbound QoS 1/2 publications without their last acknowledgement.
    pub(crate) receiving: u16,
    /// SUBSCRIBE and UNSUBSCRIBE packets that wait for an answer.
    pub(crate) subscribing: u16,
    /// With an authentication method.
    pub(crate) authentication: Option<Box<Authentication>>,
    /// Whom rules are asked about.
    pub(crate) identity: Option<Box<Identity>>,
    /// What the CONNACK will say.
    pub(crate) greeting: Option<Box<Greeting>>,
}

/// What a CONNACK says.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) session_present: bool,
    pub(crate) assigned_client_id: Option<String>,
    pub(crate) expiry_s: Option<u32>,
    /// How many of the two conditions (durable, routed) are still open.
    pub(crate) waits: u8,
}

impl Connection {
    pub(crate) const fn new(now_ms: u64) -> Self {
        Self {
            stage: Stage::Fresh,
            version: Version::V311,
            client: None,
            output: Output::EMPTY,
            queued: false,
            backlog: 0,
            promised: 0,
            stalled: Output::EMPTY,
            keep_alive_ms: 0,
            last_ms: now_ms,
            armed: 0,
            packet_bytes_max: u32::MAX,
            aliases_max: 0,
            aliases: None,
            is_held: false,
            rate: None,
            receiving: 0,
            subscribing: 0,
            authentication: None,
            identity: None,
            greeting: None,
        }
    }

    /// Unsent bytes, with those of deliveries that wait for their packet ids.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() + self.backlog + self.promised
    }
}
