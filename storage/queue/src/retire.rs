//! The log's start moves up: runs that it has passed are given up whole, and entries below it are
//! seen no more. Nothing is rewritten.
//!
//! One write of the manifest makes it so; the files are removed after that, one per turn.

use storage_io::{Disk, DiskError, DiskQueue, Done, InlineQueue, Op};
use storage_log::{LogOffset, QueueId};

use crate::manifest::State;
use crate::memtable::Memtable;
use crate::{Index, IndexError};

/// What of it is to be done.
#[derive(Debug, Default)]
pub(crate) struct Retiring {
    /// The start that was told last.
    wanted: LogOffset,
    /// The write of the manifest that is under way, and what it says.
    listing: Option<(u64, State)>,
}

impl Retiring {
    pub(crate) const fn is_under_way(&self) -> bool {
        self.listing.is_some()
    }

    pub(crate) fn waits_for(&self, token: u64) -> bool {
        self.listing.as_ref().is_some_and(|(own, _)| *own == token)
    }

    /// Nothing is under way; what is wanted is begun by the next flush.
    pub(crate) const fn is_idle(&self) -> bool {
        self.listing.is_none()
    }
}

impl<D: Disk> Index<D> {
    /// Tells that the log begins at `start` from now on, durably. [`Index::flush`] does the rest,
    /// before anything else; [`Index::start`] tells when it is durable here, too.
    pub fn retire(&mut self, start: LogOffset) {
        self.retiring.wanted = self.retiring.wanted.max(start);
    }

    /// Every entry below is gone.
    #[must_use]
    pub const fn start(&self) -> LogOffset {
        self.manifest.state.start
    }

    /// As [`Index::retire`], at once. Blocks; for start-up and offline tools.
    ///
    /// # Errors
    /// As [`Index::flush`].
    pub fn retire_blocking(&mut self, start: LogOffset) -> Result<(), IndexError> {
        self.retire(start);
        let mut queue = InlineQueue::new(self.disk.clone());
        if self.begin_retirement(&mut queue) {
            while let Some(completion) = queue.poll() {
                self.complete(completion, &mut queue)?;
            }
        }
        Ok(())
    }

    /// Whether a queue may have entries at or above `from`. One that has some is always told so,
    /// one that has none sometimes.
    #[must_use]
    pub fn may_hold(&self, queue: QueueId, from: LogOffset) -> bool {
        let first = self.runs.partition_point(|run| run.id.high <= from);
        let old = self.frozen.iter().filter(|frozen| frozen.high <= from);
        let old: Vec<_> = old.map(|frozen| &raw const frozen.table).collect();
        let mut heads = self.heads(queue).into_iter();
        heads.any(|(table, _)| !old.contains(&(&raw const *table)))
            || self.runs.iter().skip(first).any(|run| run.may_hold(queue))
    }

    /// The next entry of a queue gets at least this queue offset: what was given out before is not
    /// given out again, although its entries are gone.
    pub fn raise_next_offset(&mut self, queue: QueueId, next: u64) {
        self.queues.raise(queue, next);
    }

    /// Forgets a queue that has no entries and will never have one again.
    pub fn forget(&mut self, queue: QueueId) {
        self.queues.forget(queue);
    }

    /// Starts to write the manifest with the start that is wanted, when it has another one. No
    /// operation is under way.
    pub(crate) fn begin_retirement(&mut self, queue: &mut impl DiskQueue<D::File>) -> bool {
        let start = self.retiring.wanted;
        if start <= self.start() {
            return false;
        }
        let mut state = self.manifest.state.clone();
        state.sequence += 1;
        state.start = start;
        state.runs.retain(|run| run.id.high > start);
        let (offset, buf) = state.encode();
        let token = self.token;
        self.token += 1;
        self.retiring.listing = Some((token, state));
        let file = self.manifest.file.clone();
        queue.submit(
            token,
            Op::Write {
                file,
                offset,
                buf,
                sync: true,
            },
        );
        true
    }

    /// Takes the end of that write.
    pub(crate) fn complete_retirement(
        &mut self,
        result: Result<Done, DiskError>,
    ) -> Result<(), IndexError> {
        if let Err(error) = result {
            let error = IndexError::Disk(error);
            self.failed = Some(error.clone());
            return Err(error);
        }
        let Some((_, state)) = self.retiring.listing.take() else {
            return Ok(());
        };
        let start = state.start;
        if self.active.reach(start) > 0 {
            // It has entries on both sides, or below only: its range begins where it did.
            self.freeze();
        }
        self.frozen.retain(|frozen| frozen.high > start);
        if self.active.entries() == 0 {
            self.active = Memtable::default();
            self.last = self.last.max(start);
            self.passed = None;
        }
        let gone = self.runs.partition_point(|run| run.id.high <= start);
        self.holes.retain(|hole| hole.high > start);
        let removed = self.runs.drain(..gone);
        self.unlisted.extend(removed.map(|run| run.id.file_name()));
        if let Some(merge) = self.merging.take_if(|merge| !merge.renumber(gone)) {
            self.unlisted.push_back(merge.file_name());
        }
        self.join_from = 0;
        // A state that was numbered meanwhile keeps its generation.
        let next_generation = self.manifest.state.next_generation;
        self.manifest.state = State {
            next_generation: state.next_generation.max(next_generation),
            ..state
        };
        Ok(())
    }
}
