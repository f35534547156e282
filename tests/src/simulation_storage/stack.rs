//! Log, index and state store of one shard, joined as the server joins them.

use std::fmt;

use storage_io::sim::{Rng, SimDisk, SimQueue};
use storage_io::{DiskError, DiskFile, DiskQueue as _, ErrorKind};
use storage_log::{
    Appended, Durability, Log, LogError, LogId, LogOffset, LogOptions, Lookup, NewRecord, Record,
    Scan,
};
use storage_queue::{Entry, Index, IndexError, QueueId};
use storage_state::{StateError, StateStore, Writing};

pub(super) const LOG: LogId = LogId(3);

/// The settings of the three parts.
#[derive(Clone, Debug)]
pub(super) struct StackOptions {
    pub(super) log: LogOptions,
    pub(super) index: storage_queue::Options,
    pub(super) state: storage_state::Options,
}

impl StackOptions {
    /// Small sizes, so that everything happens within a few hundred records.
    pub(super) fn random(rng: &mut Rng) -> Self {
        let log = LogOptions {
            durability: match rng.below(8) {
                0 => Durability::Interval { ms: 50 },
                1 => Durability::None,
                _ => Durability::Commit,
            },
            segment_bytes_min: 64 << 10,
            segment_bytes_max: any(rng, [64 << 10, 128 << 10, 256 << 10]),
            tail_bytes_max: any(rng, [0, 40 << 10, 32 << 20]),
            cache_bytes_max: 256 << 10,
            pad_tail: rng.chance(1, 4),
            seed: rng.next_u64(),
            ..LogOptions::default()
        };
        let index = storage_queue::Options {
            memtable_entries_max: 20 + rng.index(200),
            memtable_log_bytes_max: 8_000 + rng.below(60_000),
            cache_pages: 0,
            merge_from_runs: any(rng, [4, 8, usize::MAX]),
            join_from_runs: any(rng, [4, 6, 12, usize::MAX]),
        };
        let state = storage_state::Options {
            overlay_bytes_max: 20_000,
            batch_bytes_min: 3_000,
            ..storage_state::Options::default()
        };
        Self { log, index, state }
    }
}

/// One of some values.
fn any<T: Copy + Default, const N: usize>(rng: &mut Rng, of: [T; N]) -> T {
    of.get(rng.index(N)).copied().unwrap_or_default()
}

/// What a part of the storage said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum StackError {
    Log(LogError),
    Index(IndexError),
    State(StateError),
    Disk(DiskError),
}

impl StackError {
    /// The error of the disk beneath, when it is one.
    pub(super) fn disk(&self) -> Option<&DiskError> {
        match self {
            Self::Log(LogError::Disk(error) | LogError::Poisoned(error))
            | Self::Index(IndexError::Disk(error))
            | Self::State(StateError::Disk(error))
            | Self::Disk(error) => Some(error),
            Self::Log(_) | Self::Index(_) | Self::State(_) => None,
        }
    }

    /// Whether a fault of the simulated disk is all there is to it.
    pub(super) fn is_fault(&self) -> bool {
        self.disk().is_some_and(|error| {
            matches!(error.kind, ErrorKind::Injected | ErrorKind::Short { .. })
                || error.is_shortage()
        })
    }
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Index(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
            Self::Disk(error) => error.fmt(f),
        }
    }
}

impl From<LogError> for StackError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<IndexError> for StackError {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<StateError> for StackError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<DiskError> for StackError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// One life of the storage.
pub(super) struct Stack {
    pub(super) log: Log<SimDisk>,
    pub(super) index: Index<SimDisk>,
    pub(super) state: StateStore,
    pub(super) queue: SimQueue,
    /// Parts of derived files that were rebuilt at the start.
    pub(super) mended: usize,
}

impl Stack {
    /// Opens what is in `disk`, in the server's order: state store, index, log, replay.
    pub(super) fn open(
        disk: &SimDisk,
        options: &StackOptions,
        boot: u64,
    ) -> Result<Self, StackError> {
        let (mut state, opened) =
            StateStore::open_or_rebuild(disk, options.state.clone(), Writing::Inline)?;
        let mut mended = usize::from(opened != storage_state::Opened::Sound);
        let opened = Index::open(disk.clone(), LOG, options.index.clone())?;
        mended += opened.damage.len();
        let mut index = opened.index;
        let from = state.applied(LOG.0).min(index.indexed_upto().0);
        let log_options = LogOptions {
            known_end: LogOffset(state.applied(LOG.0)),
            seed: options.log.seed ^ boot << 8,
            ..options.log.clone()
        };
        let mut failed = None;
        let (mut log, _) = Log::recover(
            disk.clone(),
            LOG,
            log_options,
            LogOffset(from),
            &mut |record| {
                if failed.is_none() {
                    failed = replay(&mut index, &mut state, &record).err();
                }
                Ok(())
            },
        )?;
        if let Some(error) = failed {
            return Err(error);
        }
        index.truncate_above(log.durable())?;
        index.mend_from::<StackError>(&mut log)?;
        let queue = SimQueue::new();
        Ok(Self {
            log,
            index,
            state,
            queue,
            mended,
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.log.is_full() || self.index.is_full() || self.state.is_full()
    }

    /// Appends a record, as `record` says, to log, index and state store.
    pub(super) fn append(&mut self, record: &NewRecord<'_>) -> Result<Appended, StackError> {
        let put = self.log.append(record);
        let size = u32::try_from(put.end.0 - put.offset.0).unwrap_or(u32::MAX);
        let entries = entries(record.queues.iter().copied(), put.offset, size, record.tag);
        self.index.append(&entries)?;
        self.state.apply(LOG.0, put.end.0, record.state)?;
        Ok(put)
    }

    /// The end of a turn.
    pub(super) fn turn(&mut self, now_ms: u64, settles_state: bool) -> Result<(), StackError> {
        self.log.tick(now_ms);
        self.log.commit(&mut self.queue)?;
        self.index.advance(self.log.appended());
        self.index.flush(self.log.synced(), &mut self.queue)?;
        let synced = self.log.synced().0;
        if settles_state {
            self.state.flush_now(|_| synced)?;
        } else {
            self.state.flush(|_| synced)?;
        }
        Ok(())
    }

    /// Moves one operation of the disk and takes what is complete. False: there was none.
    pub(super) fn step(&mut self, rng: &mut Rng) -> Result<bool, StackError> {
        let moved = self.queue.step(rng);
        while let Some(completion) = self.queue.poll() {
            if Log::<SimDisk>::owns(completion.token) {
                self.log.complete(completion)?;
            } else {
                self.index.complete(completion, &mut self.queue)?;
            }
        }
        Ok(moved)
    }

    /// Turns until nothing is under way and everything that was appended is on the device.
    pub(super) fn settle(&mut self, now_ms: u64, rng: &mut Rng) -> Result<(), StackError> {
        for _ in 0..10_000 {
            self.log.request_marker();
            self.turn(now_ms, true)?;
            if !self.step(rng)? && self.log.is_settled() {
                break;
            }
        }
        let synced = self.log.synced().0;
        self.state.settle(|_| synced)?;
        Ok(())
    }

    /// A record, from memory or from disk.
    pub(super) fn read(&mut self, at: u64, size: usize) -> Result<Record, StackError> {
        loop {
            match self.log.read(LogOffset(at), size)? {
                Lookup::Ready(record) => return Ok(record),
                Lookup::Missing(read) => {
                    let bytes = read.file.read_at(read.offset, read.len)?;
                    self.log.insert_chunk(read.chunk, bytes);
                }
            }
        }
    }

    /// All durable records at or above `from`, at most `max` of them.
    pub(super) fn scan(&mut self, from: u64, max: usize) -> Result<Vec<Record>, StackError> {
        let (mut at, mut found) = (LogOffset(from), Vec::new());
        while found.len() < max {
            match self.log.scan(at, LogOffset(u64::MAX))? {
                Scan::Ready(record) => {
                    at = record.end;
                    found.push(record);
                }
                Scan::Missing(read) => {
                    let bytes = read.file.read_at(read.offset, read.len)?;
                    self.log.insert_chunk(read.chunk, bytes);
                }
                Scan::End => break,
            }
        }
        Ok(found)
    }

    /// The entries of a queue from a queue offset on.
    pub(super) fn by_offset(
        &mut self,
        queue: u64,
        from: u64,
        max: usize,
    ) -> Result<Vec<Entry>, StackError> {
        let (mut at, mut found): (u64, Vec<Entry>) = (from, Vec::new());
        while found.len() < max {
            match self
                .index
                .read_by_offset(QueueId(queue), at, max - found.len())?
            {
                storage_queue::Lookup::Ready(more) if more.entries.is_empty() => break,
                storage_queue::Lookup::Ready(more) => {
                    at = more.next;
                    found.extend(more.entries);
                }
                storage_queue::Lookup::Missing(page) => {
                    let bytes = page.file.read_at(page.offset, page.len)?;
                    self.index.insert_page(page.token, bytes)?;
                }
            }
        }
        Ok(found)
    }
}

fn entries(
    queues: impl Iterator<Item = (QueueId, u64)>,
    at: LogOffset,
    size: u32,
    tag: u32,
) -> Vec<Entry> {
    queues
        .map(|(queue, queue_offset)| Entry {
            queue,
            queue_offset,
            at,
            size,
            tag,
        })
        .collect()
}

fn replay(
    index: &mut Index<SimDisk>,
    state: &mut StateStore,
    record: &Record,
) -> Result<(), StackError> {
    let at = record.address.1;
    let size = u32::try_from(record.end.0 - at.0).unwrap_or(u32::MAX);
    index.append(&entries(record.queues.iter(), at, size, record.tag))?;
    if index.is_full() {
        index.flush_blocking(record.end)?;
    }
    state.apply(LOG.0, record.end.0, &record.state)?;
    if state.is_full() {
        state.settle(|_| u64::MAX)?;
    }
    Ok(())
}
