//! One shard without its runtime: the machine, its store, and the order of a turn. The server and
//! the simulator drive the same [`ShardCore`]; only disk, sockets, mesh rings and clock differ.
//!
//! It runs on its shard's thread and never waits: reads and writes go to a
//! [`storage_io::DiskQueue`], their completions come back through [`ShardCore::disk`].

mod carry;
mod error;
mod meta;
mod names;
mod now;
mod open;
mod pace;
mod reads;
#[cfg(test)]
mod reads_tests;
mod rehome;
mod reserve;
mod retain;
mod search;
mod store;
mod sweep;
mod turn;

pub use error::{CoreError, OpenError};
pub use meta::{FORMAT_VERSION, Meta};
pub use now::Now;
pub use open::{NodeOptions, OpenedNode, ShardParts, open_node};
pub use reads::ReadOptions;
pub use retain::{RetentionCounters, RetentionOptions};
pub use store::{ShardStore, StoreCounters};
pub use turn::ShardCore;
