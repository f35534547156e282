//! The rules of delivery on a node in memory: shards, stores that forget at a crash, clients.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the tests count to small numbers"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it looks for"
)]

mod auto_subscribe;
mod clock;
mod delayed;
mod delivery;
mod events;
mod exclusive;
mod golden;
mod liveness;
mod names;
mod net;
mod parked;
mod random;
mod replay;
mod retained;
mod rewrite;
mod sessions;
mod shared;
mod shared_random;
mod store;
mod unheard;
mod wills;
