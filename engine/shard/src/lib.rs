//! One shard's machine: it joins sessions, routing, lanes, notify events and push over a store.
//! Pure: events and the time go in, bytes and batches come out; no socket, file, clock or thread.
//!
//! One turn, by the server and by the simulator alike:
//! 1. feed inputs, in any order: [`Shard::connected`], [`Shard::received`],
//!    [`Shard::disconnected`], [`Shard::mesh`], [`Shard::read_done`], [`Shard::committed`] (after
//!    the store's durable watermark moved), [`Shard::tick`];
//! 2. [`Shard::end_turn`] once;
//! 3. start a commit of the store; drain [`Shard::poll_transmit`] to the sockets (and report each
//!    connection's unsent bytes by [`Shard::transmitted`]) and [`Shard::poll_mesh`] for each peer
//!    that has room.
//!
//! Where to look: `publish` (inbound messages), `waits` (what an acknowledgement waits for),
//! `deliver` and `catch_up` (outbound, live and behind), `acknowledge` and `resend`, `subscribe`,
//! `connect`, `end`, `groups` and `share` (shared subscriptions, at their owner and at the homes of
//! their members), `retained` (and `retained_table`, `retained_read`, `retained_sweep` at the
//! topics' owners), `persist` and `restore` (the state store), `mesh`, `lanes`, `barrier`,
//! `routing` (between shards).

#![expect(
    clippy::indexing_slicing,
    reason = "the slab's indexes name live sessions; a stale one is our own fault"
)]

mod acknowledge;
mod alias;
mod announce;
mod authentication;
mod auto_subscribe;
mod away;
mod barrier;
mod catch_up;
mod census;
mod client;
mod clock;
mod config;
mod connect;
mod connections;
mod counters;
mod delayed;
mod deliver;
mod end;
mod ending;
mod exclusive;
mod group;
mod groups;
mod interest;
mod lanes;
mod limits;
mod mesh;
mod output;
mod packets;
mod park;
mod persist;
mod port;
mod publish;
mod rare_queue;
mod rate;
mod reads;
mod redirect;
mod rehome;
mod replay;
mod reply;
mod resend;
mod restore;
mod retained;
mod retained_read;
mod retained_sweep;
mod retained_table;
mod retire;
mod rewrite;
mod routing;
mod rules;
mod shard;
mod share;
mod slab;
mod state;
mod subscribe;
mod template;
mod waits;
mod wheel;

#[cfg(test)]
#[path = "../../../tests/fuzz/mutate.rs"]
mod mutate;
#[cfg(test)]
mod tests;

pub use authentication::{Admission, Proof, Reauthentication};
pub use auto_subscribe::{AutoSubscription, AutoSubscriptionError};
pub use census::Census;
pub use config::{NAME_BYTES_MAX, ShardConfig, home_shard};
pub use counters::{Counters, Kind};
pub use engine_session::{Address, LogId, LogOffset, Message, Now};
pub use group::{Strategy, UnknownStrategy};
pub use limits::{CONNECT_BYTES_MAX, ClientLimits, Hold};
pub use output::Output;
pub use port::*;
pub use redirect::Redirect;
pub use rehome::{Away, Rehomed, Strays};
pub use replay::{OFFSET_PROPERTY, REPLAY_PROPERTY};
pub use restore::RestoreError;
pub use retire::Cut;
pub use rewrite::{Rewrite, RewriteError, Rewrites, TopicRules};
pub use rules::{Action, Network, Pattern, Rule, Rules, Who};
pub use shard::Shard;
pub use state::{read_retained, retained_change};
