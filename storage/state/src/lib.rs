//! The state store: what sessions, subscriptions, cursors and retained messages are *now*.
//!
//! It is derived: every change is written to a commit log first, as an encoded [`section`] of a
//! record, and reaches the store afterwards. The store knows tables, keys and values, not what
//! they mean. [`StateStore`] keeps
//! - an overlay in memory: changes in log order that are not in the database yet, bounded;
//! - a redb database in one file, `state.redb`, that says for every log up to which offset its
//!   changes are in it.
//!
//! Invariants:
//! - A change reaches the database only when it is durable in its log, and together with the
//!   offset it makes true: a crash leaves the state of one offset, never a mixture.
//! - A change leaves the overlay only when the database has confirmed it.
//! - Deleting the file costs a replay of the logs and nothing else.
//!
//! A shard calls [`StateStore::apply`] and [`StateStore::flush`] in its turn; with
//! [`Writing::Background`] the database is written on a thread of the caller's. `get`, `scan` and
//! `walk` may wait for the disk: whoever serves others meanwhile keeps them short.

mod backend;
mod database;
mod error;
pub mod limits;
mod overlay;
mod room;
mod scan;
pub mod section;
mod store;
mod walk;
mod writer;

#[cfg(test)]
#[path = "../../../tests/fuzz/mutate.rs"]
mod mutate;
#[cfg(test)]
mod tests;

pub use database::FILE_NAME;
pub use error::StateError;
pub use scan::{Row, Scan};
pub use section::{Change, Changes, SectionError};
pub use store::{Counters, Opened, Options, StateStore};
pub use walk::Walk;
pub use writer::{Spawn, Writing};
