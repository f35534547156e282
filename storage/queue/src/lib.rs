//! The index of a log: which records belong to a queue, in order.
//!
//! A queue is an ordered list of references into one log. [`Index`] keeps these lists: newest
//! entries in memtables, older ones in immutable run files, each of which covers one contiguous
//! range of log offsets and holds, per queue, packed blocks of entries. Inside a queue, queue
//! offsets and log offsets grow together, and a log grows at one end only; so runs never overlap
//! in a queue, and nothing is ever rewritten to expire.
//!
//! Invariants:
//! - The index is derived: the log can always rebuild it, wholly or from any offset on. Nothing
//!   here is acknowledged to anybody.
//! - A run whose range the log's start has passed is removed, whole; entries below the start are
//!   never seen again.
//! - The listed runs tile the log from its start to [`Index::indexed_upto`], without gap or
//!   overlap; a run is listed only after it is durable, and only with entries whose records are.
//! - Every page, header, fence and footer has a checksum; what fails it is named with file and
//!   offset, and what it covered, nothing else, is made again from the log.
//! - All bounds are in [`limits`].
//!
//! It runs on the shard's core, in its turn: nothing blocks but `open`, `flush_blocking`,
//! `truncate_above`, `mend` and the `_blocking` reads, which are for start-up and offline tools. It
//! does not know the names of queues, nor what a record says.

mod arena;
mod bits;
mod cache;
mod entry;
mod error;
mod fields;
mod filter;
mod flush;
mod groups;
mod index;
mod inspect;
mod join;
pub mod limits;
mod look_up;
mod manifest;
mod memtable;
mod mend;
mod merge;
mod open;
mod page;
mod page_builder;
mod prefetch;
mod retire;
mod roster;
mod run;
mod run_file;
mod walk;

#[cfg(test)]
#[path = "../../../tests/fuzz/mutate.rs"]
mod mutate;
#[cfg(test)]
mod tests;

pub use entry::{Entry, Found, Lookup, PageRead};
pub use error::IndexError;
pub use index::{Counters, Index, Options};
pub use inspect::{FoundQueue, FoundRun, Inspected, inspect};
pub use mend::{Mending, entries_of};
pub use open::Opened;
pub use storage_log::{LogId, LogOffset, QueueId};
