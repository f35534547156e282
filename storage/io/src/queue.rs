//! The other half of the door: submit now, poll later. A shard's hot path never waits for a disk.

use crate::{AlignedBuf, DiskError};

/// One operation on a file. Offsets and lengths are multiples of [`ALIGN`](crate::ALIGN).
#[derive(Debug)]
pub enum Op<F> {
    /// Writes `buf` at `offset`; with `sync`, then makes all completed writes of the file durable.
    Write {
        /// The file.
        file: F,
        /// Where, in bytes.
        offset: u64,
        /// What; it comes back in [`Done::Written`].
        buf: AlignedBuf,
        /// Whether the completion means "durable" rather than "written".
        sync: bool,
    },
    /// Reads `len` bytes at `offset`.
    Read {
        /// The file.
        file: F,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// Makes all writes of the file durable that completed before this was submitted.
    Sync {
        /// The file.
        file: F,
    },
    /// Makes the names in the directory of the file durable.
    SyncDir {
        /// A file in the directory.
        file: F,
    },
}

/// What an operation gave.
#[derive(Debug)]
pub enum Done {
    /// The write is complete (and durable, when a sync was asked for).
    Written {
        /// The buffer of the operation.
        buf: AlignedBuf,
    },
    /// The bytes that were read.
    Read(AlignedBuf),
    /// The sync succeeded.
    Synced,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// What the submitter called it. The high byte names the owner: 1 log, 2 queue, 3 free.
    pub token: u64,
    /// What came of it.
    pub result: Result<Done, DiskError>,
}

/// Operations under way. They run and complete in any order: whoever needs an order (a write
/// before the sync that covers it, two writes of one block) submits the second after the first
/// has completed.
pub trait DiskQueue<F> {
    /// Starts an operation. Never blocks; errors come as completions.
    fn submit(&mut self, token: u64, op: Op<F>);

    /// Takes one completion, if there is any.
    fn poll(&mut self) -> Option<Completion>;
}
