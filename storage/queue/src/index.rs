//! The index of one log: memtables, runs, and what joins them.

use std::collections::VecDeque;
use std::fmt;

use storage_io::{Completion, Disk, DiskError, DiskQueue, InlineQueue};
use storage_log::{LogOffset, QueueId};

use crate::cache::PageCache;
use crate::fields::number;
use crate::flush::{FIRST_TOKEN, Flush, Frozen, Progress};
use crate::groups::Bounds;
use crate::limits::{
    CACHE_PAGES, FROZEN_MAX, JOIN_FROM_RUNS, JOIN_STEPS_PER_FLUSH_STEP, MEMTABLE_ENTRIES_MAX,
    MEMTABLE_LOG_BYTES_MAX, MERGE_FROM_RUNS,
};
use crate::manifest::Manifest;
use crate::memtable::Memtable;
use crate::merge::Merge;
use crate::retire::Retiring;
use crate::roster::{Known, NOWHERE, Roster};
use crate::run::Run;
use crate::run_file::RunId;
use crate::{Entry, IndexError};

/// How much the index may use, and when it writes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Entries of a memtable from which it is frozen.
    pub memtable_entries_max: usize,
    /// Bytes of log that a memtable covers at most; at most [`MEMTABLE_LOG_BYTES_MAX`] counts.
    pub memtable_log_bytes_max: u64,
    /// Pages in the cache, of 4 KiB each.
    pub cache_pages: usize,
    /// Runs from which opening joins adjacent ones.
    pub merge_from_runs: usize,
    /// Small runs from which adjacent ones are joined while the index is in use.
    pub join_from_runs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memtable_entries_max: MEMTABLE_ENTRIES_MAX,
            memtable_log_bytes_max: MEMTABLE_LOG_BYTES_MAX,
            cache_pages: CACHE_PAGES,
            merge_from_runs: MERGE_FROM_RUNS,
            join_from_runs: JOIN_FROM_RUNS,
        }
    }
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries taken.
    pub entries_appended: u64,
    /// Entries in runs.
    pub entries_in_runs: u64,
    /// Entries in memtables.
    pub entries_in_memory: u64,
    /// Runs.
    pub runs: u64,
    /// Runs that were joined to others, starts not counted.
    pub runs_joined: u64,
    /// Frozen memtables that wait for a flush; bounded by [`FROZEN_MAX`] through back-pressure.
    pub memtables_frozen: u64,
    /// Pages in the cache.
    pub pages_cached: u64,
    /// Pages that were read from disk for look-ups.
    pub pages_read: u64,
}

/// Entries of a batch whose memory is asked for together.
const LOOK_AHEAD: usize = 64;

/// The index of one log.
pub struct Index<D: Disk> {
    pub(crate) disk: D,
    pub(crate) options: Options,
    pub(crate) bounds: Bounds,
    pub(crate) manifest: Manifest<D::File>,
    pub(crate) runs: Vec<Run<D::File>>,
    /// Runs that are listed and lost, in order, all below some run; see `mend`.
    pub(crate) holes: Vec<RunId>,
    pub(crate) frozen: VecDeque<Frozen>,
    pub(crate) active: Memtable,
    /// Every queue that ever had an entry.
    pub(crate) queues: Roster,
    /// The record of the last entry; the next entry is of this one or a later one.
    pub(crate) last: LogOffset,
    /// While the active memtable is empty: an offset that the log had appended up to.
    pub(crate) passed: Option<LogOffset>,
    pub(crate) cache: PageCache,
    pub(crate) flushing: Option<Flush<D::File>>,
    /// The queues of the oldest frozen memtable are being put in order.
    pub(crate) is_preparing: bool,
    pub(crate) merging: Option<Merge<D::File>>,
    pub(crate) retiring: Retiring,
    /// Files that the manifest does not list any more, to be removed.
    pub(crate) unlisted: VecDeque<String>,
    /// No look for runs to join before there are so many.
    pub(crate) join_from: usize,
    /// Steps of joining that go before the next flush.
    pub(crate) owed: u64,
    pub(crate) token: u64,
    pub(crate) failed: Option<IndexError>,
    /// What a flush ran out of; none is begun before [`Index::try_again`].
    pub(crate) shortage: Option<DiskError>,
    pub(crate) counters: Counters,
}

impl<D: Disk> Index<D> {
    /// Adds entries, in log order; a look-up sees all of them or none. Entries below
    /// [`Index::indexed_upto`] are skipped, so a replay may begin anywhere below it.
    ///
    /// # Errors
    /// [`IndexError::OutOfOrder`]; then the index has to be opened again.
    pub fn append(&mut self, batch: &[Entry]) -> Result<(), IndexError> {
        let indexed_upto = self.indexed_upto();
        for (place, entry) in batch.iter().enumerate() {
            if place.is_multiple_of(LOOK_AHEAD) {
                self.look_ahead(batch.iter().skip(place).take(LOOK_AHEAD));
            }
            if entry.at < indexed_upto {
                continue;
            }
            if entry.at > self.last && self.is_due(entry.at) {
                self.freeze();
            }
            self.append_one(entry)?;
            self.last = entry.at;
            self.counters.entries_appended += 1;
        }
        Ok(())
    }

    fn append_one(&mut self, entry: &Entry) -> Result<(), IndexError> {
        let known = self.queues.get(entry.queue).unwrap_or(Known {
            next: 0,
            head: NOWHERE,
        });
        let in_order = entry.at >= self.last && entry.queue_offset >= known.next;
        let head = in_order
            .then(|| self.active.push(entry, known.head))
            .flatten()
            .ok_or(IndexError::OutOfOrder {
                queue: entry.queue,
                queue_offset: entry.queue_offset,
                expected: known.next,
                at: entry.at,
                last: self.last,
            })?;
        let next = entry.queue_offset.saturating_add(1);
        self.queues.set(entry.queue, Known { next, head });
        Ok(())
    }

    /// Asks for the memory that appending these entries needs, in the order in which one place
    /// names the next: the waits of all of them become three.
    fn look_ahead<'a>(&self, entries: impl Iterator<Item = &'a Entry> + Clone) {
        for entry in entries.clone() {
            self.queues.prefetch(entry.queue);
        }
        let mut heads = [NOWHERE; LOOK_AHEAD];
        for (entry, head) in entries.zip(&mut heads) {
            *head = self.queues.head(entry.queue);
            self.active.prefetch_head(*head);
        }
        for head in heads {
            self.active.prefetch_tail(head);
        }
    }

    /// Tells that the log has appended everything below `appended`, and the index every entry of
    /// it; freezes the memtable when it covers enough. Cheap; for every turn.
    pub fn advance(&mut self, appended: LogOffset) {
        if self.active.entries() > 0 {
            self.passed = None;
            if self.is_due(appended) {
                self.freeze();
            }
            return;
        }
        // A log without entries for queues is covered by a run without entries. Its range must not
        // end above the log, also after a crash. Behind a recovery the log may have appended
        // nothing yet, although its offset is far above its end; but an offset that it has left
        // behind since is below its end for good, as soon as what follows is durable.
        let low = self.low();
        let far = LogOffset(low.0.saturating_add(self.log_bytes_max()));
        match self.passed {
            Some(high) if high >= far => {
                if appended > high {
                    let table = Memtable::default();
                    self.frozen.push_back(Frozen {
                        table,
                        walk: None,
                        low,
                        high,
                        durable_from: appended,
                    });
                    self.passed = Some(appended);
                }
            }
            _ => self.passed = Some(appended),
        }
    }

    /// Freezes the memtable, so that the next flush writes it: for an idle log and the orderly
    /// stop; otherwise [`Index::append`] and [`Index::advance`] see to it. Its range ends with the
    /// record of its last entry.
    pub fn freeze(&mut self) {
        if self.active.entries() > 0 {
            let low = self.low();
            let high = LogOffset(self.last.0.saturating_add(1));
            let table = std::mem::take(&mut self.active);
            self.frozen.push_back(Frozen {
                table,
                walk: None,
                low,
                high,
                durable_from: high,
            });
        }
    }

    /// Begins to write the oldest frozen memtable, when there is one whose records are all below
    /// `durable`, or goes on joining runs, when there are many: one operation at a time, of either.
    /// Does nothing while one is under way. For every turn. `durable` is what is on the device
    /// (`Log::synced`), whatever weaker promise was made to publishers.
    ///
    /// # Errors
    /// When the disk failed, now or earlier, or a page that was read to be joined is damaged: the
    /// process has to end. That space or descriptors have run out is none, see
    /// [`Index::shortage`].
    pub fn flush(
        &mut self,
        durable: LogOffset,
        queue: &mut impl DiskQueue<D::File>,
    ) -> Result<(), IndexError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let is_joining = self.merging.as_ref().is_some_and(Merge::is_waiting);
        if self.flushing.is_some() || is_joining || self.retiring.is_under_way() {
            return Ok(());
        }
        if self.begin_retirement(queue) {
            return Ok(());
        }
        // The manifest lists so many runs and no more: then joining goes first.
        let is_due = self.shortage.is_none()
            && self.manifest.state.runs.len() < self.bounds.runs_max
            && self
                .frozen
                .front()
                .is_some_and(|oldest| oldest.durable_from <= durable);
        let joins_first = !is_due || self.owed > 0;
        if joins_first && self.join(queue)? {
            self.owed = self.owed.saturating_sub(1);
        } else if is_due && self.prepare_flush() {
            self.owed = 0;
            self.begin_flush(queue)?;
        }
        Ok(())
    }

    /// Puts the queues of the oldest frozen memtable in order, a step per turn; true when it is
    /// done.
    fn prepare_flush(&mut self) -> bool {
        let prepared = self.frozen.front_mut().is_none_or(Frozen::prepare);
        self.is_preparing = !prepared;
        prepared
    }

    fn begin_flush(&mut self, queue: &mut impl DiskQueue<D::File>) -> Result<(), IndexError> {
        let Some(oldest) = self.frozen.front_mut() else {
            return Ok(());
        };
        let state = &mut self.manifest.state;
        let generation = state.next_generation;
        let id = RunId {
            log: state.log,
            low: oldest.low,
            high: oldest.high,
            generation,
        };
        let file = match self.disk.create(&id.file_name()) {
            Ok(file) => file,
            Err(error) if error.is_shortage() => {
                self.shortage = Some(error);
                return Ok(());
            }
            Err(error) => return Err(self.fail(error.into())),
        };
        state.next_generation += 1;
        self.flushing = Some(Flush::start(file, id, oldest, self.token, queue));
        Ok(())
    }

    /// Whether a token is one of a flush's, or of the joining of runs: its completion goes to
    /// [`Index::complete`].
    #[must_use]
    pub const fn is_flush(token: u64) -> bool {
        token & (0xFF << 56 | FIRST_TOKEN) == FIRST_TOKEN
    }

    /// Takes the completion of an operation that [`Index::flush`] or this has submitted. Submits
    /// the next one of a flush; the next one of a merge is left to the next turn.
    ///
    /// # Errors
    /// When the operation failed: the process has to end.
    pub fn complete(
        &mut self,
        completion: Completion,
        queue: &mut impl DiskQueue<D::File>,
    ) -> Result<(), IndexError> {
        let token = completion.token;
        let joins = self.merging.as_ref();
        if joins.is_some_and(|merge| merge.waits_for(token)) {
            return self.complete_merge(completion.result);
        }
        if self.retiring.waits_for(token) {
            return self.complete_retirement(completion.result);
        }
        let Some(flush) = self.flushing.take_if(|flush| flush.waits_for(token)) else {
            return Ok(());
        };
        if let Err(error) = completion.result {
            self.token = flush.next_token();
            let Some(id) = flush.unnamed().filter(|_| error.is_shortage()) else {
                return Err(self.fail(error.into()));
            };
            // Nobody knows of the file, and the memtable is as good as before.
            self.unlisted.push_back(id.file_name());
            self.shortage = Some(error);
            return Ok(());
        }
        let Some(oldest) = self.frozen.front() else {
            return Ok(());
        };
        self.token = flush.next_token();
        self.owed += JOIN_STEPS_PER_FLUSH_STEP;
        match flush.advance(oldest, &self.manifest, queue) {
            Progress::Going(flush) => self.flushing = Some(flush),
            Progress::Finished(run, state) => {
                self.token += 1;
                self.manifest.state = state;
                self.runs.push(run);
                self.frozen.pop_front();
            }
        }
        Ok(())
    }

    /// Writes all frozen memtables whose records are below `durable`, and joins runs when there are
    /// many. Blocks; for replay, the orderly stop and offline tools, never while an operation is
    /// under way.
    ///
    /// # Errors
    /// As [`Index::flush`].
    pub fn flush_blocking(&mut self, durable: LogOffset) -> Result<(), IndexError> {
        let is_joining = self.merging.as_ref().is_some_and(Merge::is_waiting);
        assert!(
            self.flushing.is_none() && !is_joining && !self.retiring.is_under_way(),
            "an operation is under way"
        );
        let mut queue = InlineQueue::new(self.disk.clone());
        loop {
            let was_idle = self.is_idle();
            self.flush(durable, &mut queue)?;
            if was_idle && self.is_idle() {
                return Ok(());
            }
            while let Some(completion) = queue.poll() {
                self.complete(completion, &mut queue)?;
            }
        }
    }

    fn is_idle(&self) -> bool {
        let is_busy = self.flushing.is_some() || self.merging.is_some();
        !is_busy && !self.is_preparing && self.unlisted.is_empty() && self.retiring.is_idle()
    }

    /// What the last flush ran out of, space or descriptors: no other is begun before
    /// [`Index::try_again`]. Memtables pile up meanwhile, until the index calls itself full.
    #[must_use]
    pub const fn shortage(&self) -> Option<&DiskError> {
        self.shortage.as_ref()
    }

    /// Allows a flush again after a shortage: about once a second.
    pub fn try_again(&mut self) {
        self.shortage = None;
    }

    /// The queue offset that the next entry of a queue gets.
    #[must_use]
    pub fn next_offset(&self, queue: QueueId) -> u64 {
        self.queues.next(queue)
    }

    /// Every entry of a record below is in a run, or in a hole: the replay begins here.
    #[must_use]
    pub fn indexed_upto(&self) -> LogOffset {
        let start = self.manifest.state.start;
        self.runs.last().map_or(start, |run| run.id.high.max(start))
    }

    /// So many memtables wait for their flush that nothing should be appended: a replay calls
    /// [`Index::flush_blocking`], a shard stops reading sockets.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.frozen.len() >= FROZEN_MAX
    }

    /// Twice as many memtables wait as [`Index::is_full`] allows: then nothing may be appended.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.frozen.len() >= 2 * FROZEN_MAX
    }

    /// Whether operations of a flush are under way.
    #[must_use]
    pub const fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            entries_in_runs: self.runs.iter().map(|run| run.entries).sum(),
            entries_in_memory: self.tables().map(|table| number(table.entries())).sum(),
            runs: number(self.runs.len()),
            memtables_frozen: number(self.frozen.len()),
            pages_cached: number(self.cache.len()),
            ..self.counters
        }
    }

    /// The memtables that have a queue, oldest first, and its place in each.
    pub(crate) fn heads(&self, queue: QueueId) -> Vec<(&Memtable, u32)> {
        let mut found = Vec::new();
        let mut head = self.queues.head(queue);
        let frozen = self.frozen.iter().rev().map(|frozen| &frozen.table);
        for table in [&self.active].into_iter().chain(frozen) {
            if head == NOWHERE {
                break;
            }
            if let Some(own) = table.find(queue, head) {
                found.push((table, own));
                head = table.older(own);
            }
        }
        found.reverse();
        found
    }

    /// The memtables, oldest first.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Memtable> {
        self.frozen
            .iter()
            .map(|frozen| &frozen.table)
            .chain([&self.active])
    }

    /// Where the range of the active memtable begins.
    pub(crate) fn low(&self) -> LogOffset {
        self.frozen
            .back()
            .map_or_else(|| self.indexed_upto(), |last| last.high)
    }

    /// Whether the active memtable covers enough of the log when this record is not in it.
    fn is_due(&self, at: LogOffset) -> bool {
        self.active.entries() >= self.options.memtable_entries_max
            || self.active.reach(at) >= self.log_bytes_max()
    }

    pub(crate) fn log_bytes_max(&self) -> u64 {
        self.options
            .memtable_log_bytes_max
            .min(MEMTABLE_LOG_BYTES_MAX)
    }
}

impl<D: Disk> fmt::Debug for Index<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
