//! Which bytes of the log are read next, for all reads that wait: in ascending order from where
//! the last one ended, round and round. Neighbours come with one read of the disk, and whoever
//! waits for bytes that it brings goes on: however many wait, a round costs one pass over the log.

use std::collections::BTreeMap;

use engine_shard::ReadToken;
use storage_log::{Chunk, LogOffset};

/// Reads of the disk under way, at most.
const READS_MAX: usize = 32;

/// Bytes of reads under way above which none is begun: with one more, the log's cache has room for
/// all of them.
const BYTES_MAX: u64 = 4 << 20;

/// Bytes of a read of the disk for many, at most.
const READ_BYTES: u64 = 1 << 20;

/// Bytes that nobody waits for and that are read rather than left out between two that are wanted.
const GAP_BYTES: u64 = 64 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Where the bytes begin that a read waits for, which read, and where they end.
    waiting: BTreeMap<(LogOffset, ReadToken), LogOffset>,
    /// Where the last read of the disk ended.
    head: LogOffset,
    /// Reads of the disk under way, by token.
    under_way: BTreeMap<u64, Chunk>,
}

const fn first_at(at: LogOffset) -> (LogOffset, ReadToken) {
    (at, ReadToken(0))
}

impl Sweep {
    /// `read` waits for these bytes, and for no others.
    pub(super) fn wait(&mut self, read: ReadToken, bytes: Chunk) {
        self.waiting.insert((bytes.start(), read), bytes.end());
    }

    /// `read` does not wait any more for the bytes that begin at `at`.
    pub(super) fn forget(&mut self, read: ReadToken, at: LogOffset) {
        self.waiting.remove(&(at, read));
    }

    /// The bytes to be read next; `None`: nobody waits for others than are under way, or enough is
    /// under way.
    pub(super) fn next(&self) -> Option<(LogOffset, LogOffset)> {
        let bytes = self.under_way.values().map(Chunk::len).sum::<u64>();
        if self.under_way.len() >= READS_MAX || bytes > BYTES_MAX {
            return None;
        }
        self.first_from(self.head)
            .or_else(|| self.first_from(LogOffset(0)))
    }

    fn first_from(&self, mut from: LogOffset) -> Option<(LogOffset, LogOffset)> {
        loop {
            let ((at, _), end) = self.waiting.range(first_at(from)..).next()?;
            let mut under_way = self.under_way.values();
            match under_way.find(|chunk| chunk.start() <= *at && *at < chunk.end()) {
                Some(chunk) => from = chunk.end(),
                None => return Some((*at, self.stretch(*at, *end))),
            }
        }
    }

    /// Where a read that begins at `at`, and has to go to `end`, ends with its neighbours.
    fn stretch(&self, at: LogOffset, mut end: LogOffset) -> LogOffset {
        let limit = LogOffset(at.0 + READ_BYTES);
        for ((next, _), upto) in self.waiting.range(first_at(at)..first_at(limit)) {
            if next.0 > end.0 + GAP_BYTES {
                break;
            }
            end = end.max(*upto);
        }
        let starts = self.under_way.values().map(Chunk::start);
        let others = starts.filter(|start| *start > at);
        end.min(limit).min(others.min().unwrap_or(limit))
    }

    /// These bytes are being read.
    pub(super) fn begin(&mut self, disk_token: u64, bytes: Chunk) {
        self.head = bytes.end();
        self.under_way.insert(disk_token, bytes);
    }

    /// Whether these bytes are being read.
    pub(super) fn brings(&self, bytes: Chunk) -> bool {
        let has_all = |chunk: &Chunk| chunk.start() <= bytes.start() && bytes.end() <= chunk.end();
        self.under_way.values().any(has_all)
    }

    /// A read of the disk has ended: of which bytes, if it was one of the log.
    pub(super) fn ended(&mut self, disk_token: u64) -> Option<Chunk> {
        self.under_way.remove(&disk_token)
    }

    /// Who waits for bytes that begin at or above `from` and below `upto`, in ascending order; they
    /// do not wait any more.
    pub(super) fn wake(&mut self, from: LogOffset, upto: LogOffset) -> Vec<ReadToken> {
        let range = first_at(from)..first_at(upto);
        let keys: Vec<_> = self.waiting.range(range).map(|(key, _)| *key).collect();
        for key in &keys {
            self.waiting.remove(key);
        }
        keys.into_iter().map(|(_, read)| read).collect()
    }
}
