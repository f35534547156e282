//! One shard's machine: sessions, routing, lanes, notify and push over store events. Being built; this page fixes how it is driven.
//!
//! One turn, by the server and by the simulator alike:
//! 1. feed inputs, in any order: [`Shard::connected`], [`Shard::received`], [`Shard::disconnected`],
//!    [`Shard::mesh`], [`Shard::read_done`], [`Shard::committed`] (after the store's durable watermark moved), [`Shard::tick`];
//! 2. [`Shard::end_turn`] once;
//! 3. start a commit of the store; drain [`Shard::poll_transmit`] to the sockets (and report each connection's
//!    unsent bytes by [`Shard::transmitted`]) and [`Shard::poll_mesh`] for each peer that has room.
//!
//! `Shard<S: Store>` is not stored with its store: every input takes `&mut S`.
mod port;
pub use port::*;
