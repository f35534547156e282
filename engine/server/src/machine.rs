//! What the runtime drives: one shard's machine with its store, seen from outside.
//!
//! Everything in here happens on the shard's thread, inside a turn. The trait keeps sockets, rings
//! and the mesh free of MQTT and of storage, and lets tests drive them with a small machine.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use engine_shard::{Admission, Proof, Reauthentication, Redirect, Rules, TopicRules};
pub(crate) use engine_shard::{Hold, Output};

use crate::auth::Claim;
pub(crate) use crate::node::Now;
use crate::slots::Key;

/// Bytes for a client.
#[derive(Debug)]
pub(crate) struct Transmit {
    /// To whom.
    pub(crate) connection: Key,
    /// Behind everything sent before; may be empty.
    pub(crate) output: Output,
    /// Close behind the bytes; the machine has forgotten the connection.
    pub(crate) close: bool,
}

/// Where a new connection belongs, as far as its first bytes tell.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Routing {
    /// The first packet is not complete.
    NeedMore,
    /// To this shard.
    Home(usize),
}

/// Why a shard cannot go on. The process ends; recovery at the next start does the rest.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A counter or gauge: name, help and whether it only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Meter {
    /// Without the `corelane_` in front and the `_total` behind.
    pub(crate) name: &'static str,
    /// One sentence.
    pub(crate) help: &'static str,
    /// A counter, not a gauge.
    pub(crate) only_grows: bool,
}

/// See the module.
pub(crate) trait Machine: 'static {
    /// What it tells another shard in one turn.
    type Batch: Send + 'static;

    /// Where a connection with these first bytes belongs.
    fn route(&self, input: &[u8]) -> Routing;
    /// Who the client of these first bytes says it is. Asked only where that matters.
    fn claim(&self, _input: &[u8]) -> Claim {
        Claim::Unreadable
    }
    /// A connection has come home; `received` follows with its first bytes.
    fn connected(&mut self, now: Now, connection: Key);
    /// Its client has proved who it is; before its first bytes.
    fn admitted(&mut self, _connection: Key, _admission: Admission) {}
    /// The next step of a client that authenticates again.
    fn poll_reauthentication(&mut self) -> Option<Reauthentication> {
        None
    }
    /// What has become of it.
    fn authenticated(&mut self, _connection: Key, _proof: &Proof) {}
    /// Disconnects a client, perhaps with where to go; returns whether it was connected.
    fn kick(&mut self, _now: Now, _client_id: &str, _redirect: Option<&Redirect>) -> bool {
        false
    }
    /// Where it comes from; before its first bytes, and only where rules may ask.
    fn comes_from(&mut self, _connection: Key, _address: IpAddr) {}
    /// Whether the node's numbers are to be announced now; asked about once a second.
    fn numbers_due(&mut self, _now: Now) -> bool {
        false
    }
    /// Announces one of them.
    fn announce(&mut self, _now: Now, _topic: &str, _payload: &str) {}
    /// Other rules for clients.
    fn set_rules(&mut self, _now: Now, _rules: Arc<Rules>) {}
    /// Other rules for topics.
    fn set_topics(&mut self, _now: Now, _topics: TopicRules) {}
    /// Bytes from a packet boundary on; returns how many were used. The others come again, with
    /// more behind them.
    fn received(&mut self, now: Now, connection: Key, bytes: &[u8]) -> usize;
    /// The peer has gone, or the socket failed.
    fn disconnected(&mut self, now: Now, connection: Key);
    /// Another shard's batch, in the order it was sent.
    fn mesh(&mut self, now: Now, from: usize, batch: Self::Batch);
    /// Takes what the disk has finished; returns whether there was anything.
    fn disk(&mut self, now: Now) -> Result<bool, Failure>;
    /// `next_timeout` has come.
    fn tick(&mut self, now: Now);
    /// When `tick` is due, in monotonic milliseconds.
    fn next_timeout(&self) -> u64;
    /// When a commit that waits for more is due, in monotonic microseconds; a turn must end then.
    fn commit_due_us(&self) -> Option<u64> {
        None
    }
    /// Ends the turn and starts a commit of what it appended.
    fn end_turn(&mut self, now: Now) -> Result<(), Failure>;
    /// Whether it has room for more bytes from clients.
    fn reads_sockets(&self) -> bool;
    /// The next bytes for a client.
    fn poll_transmit(&mut self) -> Option<Transmit>;
    /// A send is over, and so many bytes still wait for the socket; `spent` is a used buffer.
    fn transmitted(&mut self, connection: Key, backlog: usize, spent: Output);
    /// What to tell a shard; asked only when there is room for one batch.
    fn poll_mesh(&mut self, to: usize) -> Option<Self::Batch>;
    /// Tells the clients, and comes to an orderly end over the next turns.
    fn stop(&mut self, now: Now);
    /// Whether the end is reached: nothing is left that must become durable.
    fn stopped(&self) -> bool;
    /// Whether it has room for what connections are held in front of.
    fn takes_publications(&self) -> bool;
    /// Whether it has stopped in front of something of this connection that it has no room for.
    fn holds(&self, connection: Key) -> Hold;
    /// How long a client may take to send its CONNECT, milliseconds.
    fn connect_timeout_ms(&self) -> u64;
    /// Files that it has open.
    fn open_files(&self) -> usize;
    /// Visits every counter and gauge, always in the same order.
    fn meters(&self, visit: &mut dyn FnMut(Meter, u64));
}
