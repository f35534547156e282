//! Look-ups: runs first, then memtables; never waiting for a page.

use storage_io::{AlignedBuf, Disk, DiskFile};
use storage_log::{LogOffset, QueueId};

use crate::limits::READ_ENTRIES_MAX;
use crate::run::{Search, Seek};
use crate::{Found, Index, IndexError, Lookup};

impl<D: Disk> Index<D> {
    /// The entries of a queue whose records are at or above `from` and below `upto`, at most
    /// `max` (and [`READ_ENTRIES_MAX`]) of them. [`Found::next`] is `upto` when there are no more.
    ///
    /// # Errors
    /// When a page in memory is not sound.
    pub fn read(
        &mut self,
        queue: QueueId,
        from: LogOffset,
        upto: LogOffset,
        max: usize,
    ) -> Result<Lookup<D::File, LogOffset>, IndexError> {
        assert!(self.holes.is_empty(), "an index with holes is mended first");
        let max = max.clamp(1, READ_ENTRIES_MAX);
        let from = from.max(self.start());
        if from >= upto {
            return Ok(Lookup::Ready(Found {
                entries: Vec::new(),
                next: upto,
            }));
        }
        let position = from;
        let seek = Seek::At(from);
        let mut search = Search {
            queue,
            seek,
            upto,
            max,
            entries: Vec::new(),
            position,
        };
        let first = self.runs.partition_point(|run| run.id.high <= from);
        for run in self
            .runs
            .iter()
            .skip(first)
            .take_while(|run| run.id.low < upto)
        {
            if let Some(page) = run.search(&mut search, &mut self.cache)? {
                let next = search.reached();
                if next > from {
                    return Ok(Lookup::Ready(Found {
                        entries: search.entries,
                        next,
                    }));
                }
                return Ok(Lookup::Missing(page));
            }
            if search.is_full() {
                break;
            }
        }
        for (table, head) in self.heads(queue) {
            if !search.is_full() {
                table.read(head, from, upto, max, &mut search.entries);
            }
        }
        let next = if search.is_full() {
            search.reached()
        } else {
            upto
        };
        Ok(Lookup::Ready(Found {
            entries: search.entries,
            next,
        }))
    }

    /// The entries of a queue from a queue offset on, at most `max` (and [`READ_ENTRIES_MAX`]) of
    /// them, durable or not. There are no more when none is returned; the first one may lie higher
    /// than asked for when the log's start has passed others.
    ///
    /// # Errors
    /// When a page in memory is not sound.
    pub fn read_by_offset(
        &mut self,
        queue: QueueId,
        from: u64,
        max: usize,
    ) -> Result<Lookup<D::File, u64>, IndexError> {
        let mut from = from;
        loop {
            let mut found = self.read_from_offset(queue, from, max)?;
            let Lookup::Ready(ready) = &mut found else {
                return Ok(found);
            };
            let any = !ready.entries.is_empty();
            ready.entries.retain(|entry| entry.at >= self.start());
            if !any || !ready.entries.is_empty() {
                return Ok(found);
            }
            // All of these are below the start of the log; others may follow.
            from = ready.next;
        }
    }

    fn read_from_offset(
        &mut self,
        queue: QueueId,
        from: u64,
        max: usize,
    ) -> Result<Lookup<D::File, u64>, IndexError> {
        assert!(self.holes.is_empty(), "an index with holes is mended first");
        let max = max.clamp(1, READ_ENTRIES_MAX);
        let (seek, upto, position) = (Seek::Offset(from), LogOffset(u64::MAX), LogOffset(0));
        let mut search = Search {
            queue,
            seek,
            upto,
            max,
            entries: Vec::new(),
            position,
        };
        // Queue offsets grow from runs to memtables: what a memtable begins below is in no run.
        let heads = self.heads(queue);
        let oldest = heads.first().map(|(table, head)| table.first(*head));
        let runs = if oldest.is_some_and(|first| first <= from) {
            &[]
        } else {
            self.runs.as_slice()
        };
        for run in runs {
            if search.is_full() {
                break;
            }
            if let Some(page) = run.search(&mut search, &mut self.cache)? {
                if search.entries.is_empty() {
                    return Ok(Lookup::Missing(page));
                }
                return Ok(Lookup::Ready(search.found_by_offset(from)));
            }
        }
        for (table, head) in self.heads(queue) {
            if !search.is_full() {
                table.read_by_offset(head, from, max, &mut search.entries);
            }
        }
        Ok(Lookup::Ready(search.found_by_offset(from)))
    }

    /// Takes a page that [`Lookup::Missing`] asked for.
    ///
    /// # Errors
    /// [`IndexError::Damaged`], with file and offset: the process has to end; the next start
    /// removes the run and replays its range from the log.
    pub fn insert_page(&mut self, token: u64, bytes: AlignedBuf) -> Result<(), IndexError> {
        let found = self
            .runs
            .iter()
            .find_map(|run| Some((run, run.page_of(token)?)));
        let Some((run, page)) = found else {
            return Ok(());
        };
        run.check(page, &bytes)?;
        self.cache.insert(run.id.generation, page, bytes);
        self.counters.pages_read += 1;
        Ok(())
    }

    /// As [`Index::read`], with the pages read from disk; fewer entries than `max` (and
    /// [`READ_ENTRIES_MAX`]) are all there are. Blocks; for offline tools and tests.
    ///
    /// # Errors
    /// When the disk fails or a page is damaged.
    pub fn read_blocking(
        &mut self,
        queue: QueueId,
        from: LogOffset,
        upto: LogOffset,
        max: usize,
    ) -> Result<Found<LogOffset>, IndexError> {
        let max = max.clamp(1, READ_ENTRIES_MAX);
        let mut all = Found {
            entries: Vec::new(),
            next: from,
        };
        while all.next < upto && all.entries.len() < max {
            match self.read(queue, all.next, upto, max - all.entries.len())? {
                Lookup::Ready(found) => {
                    all.entries.extend(found.entries);
                    all.next = found.next;
                }
                Lookup::Missing(page) => {
                    let bytes = page.file.read_at(page.offset, page.len)?;
                    self.insert_page(page.token, bytes)?;
                }
            }
        }
        Ok(all)
    }
}

impl Search {
    /// Below this, everything has been looked at.
    fn reached(&self) -> LogOffset {
        let behind_last = self
            .entries
            .last()
            .map_or(0, |entry| entry.at.0.saturating_add(1));
        self.position.max(LogOffset(behind_last)).min(self.upto)
    }

    fn found_by_offset(self, from: u64) -> Found<u64> {
        let next = self
            .entries
            .last()
            .map_or(from, |entry| entry.queue_offset.saturating_add(1));
        Found {
            entries: self.entries,
            next,
        }
    }
}
