//! The commit log of a shard: the one place where every message is written, and the truth from
//! which everything else can be rebuilt.
//!
//! A log is a sequence of [records](Record) in segment files of fixed size. Their addresses only
//! grow and are never used twice, not even after a crash. Records travel in frames, one per group
//! commit; the formats are in `docs/formats.md` and beside the code that reads and writes them.
//!
//! Invariants:
//! - What [`Log::durable`] has passed is there after every crash, byte for byte, and what is there
//!   after a crash is a prefix of what was appended.
//! - Damage to durable bytes is a named error with the file and the offset. It is never taken for
//!   the torn end of a log, and never cut off in silence.
//! - A failed write or sync poisons the log; it is not retried.
//! - Nothing on the hot path waits for a disk, and every buffer is bounded.
//!
//! Layers: [`Log`] appends and commits through a `DiskQueue`; recovery and inspection use blocking
//! calls. This crate does not know what is in a record's body or state section, does not index,
//! and does not decide what is retired.

mod address;
mod batch;
mod bytes_io;
mod cold;
mod error;
mod frame;
mod inspect;
mod limits;
mod log;
mod options;
mod prepare;
mod record;
mod recover;
mod retire;
mod root;
mod segment;
mod tail;
mod walk;

#[cfg(test)]
#[path = "../../../tests/fuzz/mutate.rs"]
mod mutate;
#[cfg(test)]
mod tests;

pub use address::{LogId, LogOffset, QueueId};
pub use cold::{Chunk, ChunkRead, Lookup, Scan};
pub use error::LogError;
pub use inspect::{Finding, Inspection, inspect};
pub use limits::{RECORD_BYTES_MAX, RECORD_QUEUES_MAX};
pub use log::{Appended, Log, Progress};
pub use options::{Durability, LogOptions};
pub use record::{NewRecord, Queues, Record, RecordKind};
pub use recover::RecoveryReport;
pub use retire::SegmentInfo;
