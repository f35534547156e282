//! What the index takes and gives.

use storage_io::Op;
use storage_log::{LogOffset, QueueId};

/// One entry of a queue: a reference to a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The queue.
    pub queue: QueueId,
    /// The place in the queue; grows by one per entry.
    pub queue_offset: u64,
    /// The record; grows from entry to entry of a queue.
    pub at: LogOffset,
    /// Bytes of the record in the log.
    pub size: u32,
    /// Whatever the writer wants to filter by.
    pub tag: u32,
}

/// The entries that a look-up found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<N> {
    /// Entries of the queue, in order. May be fewer than asked for, or none, although there are
    /// more: go on at `next`.
    pub entries: Vec<Entry>,
    /// Everything of the queue below this has been looked at.
    pub next: N,
}

/// The answer to a look-up.
#[derive(Clone, Debug)]
pub enum Lookup<F, N> {
    /// As much as can be told without the disk.
    Ready(Found<N>),
    /// Nothing can be told before this page is read: submit [`PageRead::op`], give the bytes to
    /// [`Index::insert_page`](crate::Index::insert_page), ask again.
    Missing(PageRead<F>),
}

/// A page that has to be read.
#[derive(Clone, Debug)]
pub struct PageRead<F> {
    /// Names the page, and the owner of the read in its high byte (2). Look-ups that miss the same
    /// page get the same token: submit it once.
    pub token: u64,
    /// The run file.
    pub file: F,
    /// Where the page lies, in bytes.
    pub offset: u64,
    /// Bytes to read.
    pub len: usize,
}

impl<F: Clone> PageRead<F> {
    /// The read as an operation for a `DiskQueue`.
    #[must_use]
    pub fn op(&self) -> Op<F> {
        Op::Read {
            file: self.file.clone(),
            offset: self.offset,
            len: self.len,
        }
    }
}
