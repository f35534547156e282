//! Which bytes of the log are read next, for all reads that wait: in ascending order from where
//! the last one ended, round and round. Neighbours come with one read of the disk, and whoever
//! waits for bytes that it brings goes on: however many wait, a round costs one pass over the log.
//!
//! Records that are larger than a usual read are read beside that, one at a time.

use std::collections::{BTreeMap, VecDeque};

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
    /// Which read waits for which large record, in the order in which they came.
    waiting_large: VecDeque<(ReadToken, Chunk)>,
    /// The large record that is being read, and the token of that.
    large: Option<(u64, Chunk)>,
}

const fn first_at(at: LogOffset) -> (LogOffset, ReadToken) {
    (at, ReadToken(0))
}

impl Sweep {
    /// `read` waits for these bytes, and for no others.
    pub(super) fn wait(&mut self, read: ReadToken, bytes: Chunk) {
        if bytes.is_large() {
            self.waiting_large.push_back((read, bytes));
            return;
        }
        self.waiting.insert((bytes.start(), read), bytes.end());
    }

    /// `read` does not wait any more for these bytes.
    pub(super) fn forget(&mut self, read: ReadToken, bytes: Chunk) {
        if bytes.is_large() {
            self.waiting_large.retain(|(one, _)| *one != read);
            return;
        }
        self.waiting.remove(&(bytes.start(), read));
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

    /// The large record to be read next; `None`: nobody waits for one, or one is being read.
    pub(super) fn next_large(&self) -> Option<Chunk> {
        let (_, first) = self.waiting_large.front()?;
        self.large.is_none().then_some(*first)
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
        if bytes.is_large() {
            self.large = Some((disk_token, bytes));
            return;
        }
        self.head = bytes.end();
        self.under_way.insert(disk_token, bytes);
    }

    /// Whether these bytes are being read, or have to wait for another large record.
    pub(super) fn brings(&self, bytes: Chunk) -> bool {
        if bytes.is_large() {
            return self.large.is_some();
        }
        let has_all = |chunk: &Chunk| chunk.start() <= bytes.start() && bytes.end() <= chunk.end();
        self.under_way.values().any(has_all)
    }

    /// A read of the disk has ended: of which bytes, if it was one of the log.
    pub(super) fn ended(&mut self, disk_token: u64) -> Option<Chunk> {
        let large = self.large.take_if(|(token, _)| *token == disk_token);
        match large {
            Some((_, chunk)) => Some(chunk),
            None => self.under_way.remove(&disk_token),
        }
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

    /// Who waits for the large record that these bytes are; they do not wait any more.
    pub(super) fn wake_large(&mut self, bytes: Chunk) -> Vec<ReadToken> {
        let all = self.waiting_large.drain(..);
        let (woken, waiting): (Vec<_>, _) =
            all.partition(|(_, chunk)| chunk.start() == bytes.start());
        self.waiting_large = waiting.into();
        woken.into_iter().map(|(read, _)| read).collect()
    }
}
