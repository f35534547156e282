//! Topic names, topic filters and the routing table.
//!
//! This crate answers one question: which filters does a topic match, and which shards care? It
//! parses names and filters into checked types ([`TopicName`], [`Filter`]), has a naive matcher
//! ([`matches()`]) that serves as the definition, and the [`RoutingTable`]: one immutable snapshot
//! per version that every shard shares, changed in batches by one [`Writer`].
//!
//! The crate is pure: no I/O, no clock, no randomness (a hash seed comes in as an argument), no
//! locks. Snapshots are `Send + Sync`, look-ups run on any shard's core without waiting; the
//! writer lives on one core and copies the paths that it touches.
//!
//! It does not know who subscribed: a filter's entry names shards, and each shard maps filter ids
//! to its own sessions. It does not choose members of shared subscriptions.
//!
//! Statement ids such as `[MQTT-4.7.1-1]` are those of the MQTT 5.0 specification.

mod change;
mod error;
mod filter;
mod hamt;
mod hash;
mod heap;
mod limits;
mod matching;
mod name;
mod shard_set;
mod skip;
mod table;
mod trie;
mod writer;

pub use change::{Change, FilterEntry, FilterId, Match};
pub use error::TopicError;
pub use filter::{Filter, FilterKind, is_shared, strip_exclusive};
pub use limits::{LEVELS_MAX, Limits, SHARDS_MAX, TEXT_LEN_MAX};
pub use matching::matches;
pub use name::TopicName;
pub use shard_set::ShardSet;
pub use skip::{NextMatch, first_match, next_match};
pub use table::RoutingTable;
pub use writer::Writer;
