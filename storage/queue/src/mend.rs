//! Filling again, from the log, ranges whose run is damaged or missing while whole runs follow.
//!
//! The manifest lists the lost run until one write of it lists what was made in its place: a crash
//! before leaves files that nobody lists, and the same hole at the next start. Runs behind a hole
//! are kept as they are.

use std::fmt;
use std::ops::Range;

use storage_io::{Disk, DiskFile};
use storage_log::{Log, LogError, LogOffset, Record, Scan};

use crate::fields::number;
use crate::limits::OPEN_READ_BYTES;
use crate::manifest::Listed;
use crate::memtable::Memtable;
use crate::roster::{Known, NOWHERE, Roster};
use crate::run::Run;
use crate::run_file::{RunId, RunWriter};
use crate::{Entry, Index, IndexError};

/// Bytes that are written at once.
const WRITE_BYTES: usize = OPEN_READ_BYTES;

/// A hole that is being filled. When it is dropped before [`Mending::finish`], nothing has
/// changed.
pub struct Mending<'a, D: Disk> {
    index: &'a mut Index<D>,
    hole: RunId,
    table: Memtable,
    /// The queues of the table.
    queues: Roster,
    /// Where the range of the table begins.
    low: LogOffset,
    last: LogOffset,
    made: Vec<(Run<D::File>, Listed)>,
}

impl<D: Disk> Index<D> {
    /// Ranges of the log whose entries are neither here nor at or above [`Index::indexed_upto`]:
    /// their runs were damaged or missing when the index was opened. [`Index::mend`] fills them,
    /// and no look-up comes before.
    #[must_use]
    pub fn holes(&self) -> Vec<Range<LogOffset>> {
        let ranges = self.holes.iter().map(|hole| hole.low..hole.high);
        ranges.collect()
    }

    /// The lowest hole, to be filled; `None` when there is none.
    pub fn mend(&mut self) -> Option<Mending<'_, D>> {
        let hole = *self.holes.first()?;
        Some(Mending {
            index: self,
            hole,
            table: Memtable::default(),
            queues: Roster::default(),
            low: hole.low,
            last: hole.low,
            made: Vec::new(),
        })
    }

    /// Fills all holes from the log, which has been recovered; reads what begins in the segments
    /// of a hole and no other part of it. Tells how many records were read. Blocks; for start-up,
    /// behind [`Index::truncate_above`].
    ///
    /// # Errors
    /// When the disk fails or the log is damaged there.
    pub fn mend_from<E>(&mut self, log: &mut Log<D>) -> Result<u64, E>
    where
        E: From<IndexError> + From<LogError>,
    {
        let mut records = 0;
        while let Some(mut mending) = self.mend() {
            let range = mending.range();
            let starts = log.scan_starts();
            let first = starts.iter().rev().find(|start| **start <= range.start);
            let mut at = first.copied().unwrap_or(range.start);
            loop {
                match log.scan(at, range.end)? {
                    Scan::Ready(record) => {
                        records += 1;
                        mending.append(&entries_of(&record))?;
                        at = record.end;
                    }
                    Scan::Missing(read) => {
                        let bytes = read.file.read_at(read.offset, read.len);
                        let bytes = bytes.map_err(IndexError::Disk)?;
                        log.insert_chunk(read.chunk, bytes);
                    }
                    Scan::End => break,
                }
            }
            mending.finish()?;
        }
        Ok(records)
    }
}

/// What a record adds to the index.
#[must_use]
pub fn entries_of(record: &Record) -> Vec<Entry> {
    let at = record.address.1;
    let size = u32::try_from(record.end.0 - at.0).unwrap_or(u32::MAX);
    let entry = |(queue, queue_offset)| Entry {
        queue,
        queue_offset,
        at,
        size,
        tag: record.tag,
    };
    record.queues.iter().map(entry).collect()
}

impl<D: Disk> Mending<'_, D> {
    /// What of the log is missing.
    #[must_use]
    pub const fn range(&self) -> Range<LogOffset> {
        self.hole.low..self.hole.high
    }

    /// Adds entries in log order; those outside of the range or below [`Index::start`] are
    /// skipped. Blocks.
    ///
    /// # Errors
    /// [`IndexError::OutOfOrder`], or when the disk fails.
    pub fn append(&mut self, batch: &[Entry]) -> Result<(), IndexError> {
        // No run ends at or below the start of the log.
        let range = self.hole.low.max(self.index.start())..self.hole.high;
        for entry in batch.iter().filter(|entry| range.contains(&entry.at)) {
            let options = &self.index.options;
            let is_due = self.table.entries() >= options.memtable_entries_max
                || self.table.reach(entry.at) >= self.index.log_bytes_max();
            if is_due && entry.at > self.last {
                self.write(LogOffset(self.last.0.saturating_add(1)))?;
            }
            self.append_one(entry)?;
        }
        Ok(())
    }

    fn append_one(&mut self, entry: &Entry) -> Result<(), IndexError> {
        let none = Known {
            next: 0,
            head: NOWHERE,
        };
        let known = self.queues.get(entry.queue).unwrap_or(none);
        let in_order = entry.at >= self.last && entry.queue_offset >= known.next;
        let head = in_order
            .then(|| self.table.push(entry, known.head))
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
        self.index.queues.raise(entry.queue, next);
        self.last = entry.at;
        Ok(())
    }

    /// Puts what was added in the place of the lost run. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(mut self) -> Result<(), IndexError> {
        self.write(self.hole.high)?;
        let Self {
            index, hole, made, ..
        } = self;
        index.disk.sync_dir()?;
        let mut state = index.manifest.state.clone();
        state.sequence += 1;
        if let Some(place) = state.runs.iter().position(|listed| listed.id == hole) {
            let made = made.iter().map(|(_, listed)| *listed);
            state.runs.splice(place..=place, made);
        }
        index.manifest.write(state)?;
        let place = index.runs.partition_point(|run| run.id.high <= hole.low);
        let runs = made.into_iter().map(|(run, _)| run);
        index.runs.splice(place..place, runs);
        index.holes.retain(|other| *other != hole);
        Ok(())
    }

    /// Writes the table to a run that ends at `high`; the manifest does not list it yet.
    fn write(&mut self, high: LogOffset) -> Result<(), IndexError> {
        let table = std::mem::take(&mut self.table);
        let state = &mut self.index.manifest.state;
        let id = RunId {
            log: state.log,
            low: self.low,
            high,
            generation: state.next_generation,
        };
        state.next_generation += 1;
        let file = self.index.disk.create(&id.file_name())?;
        let (mut walk, mut items, mut offset) = (table.walk(), Vec::new(), 0);
        while !table.prepare(&mut walk) {}
        let mut writer = RunWriter::new(id, number(table.queues()));
        while let Some(start) = table.block(&mut walk, &mut items) {
            writer.push(start, &items);
            if writer.buffered() >= WRITE_BYTES {
                let bytes = writer.take();
                file.write_at(offset, &bytes)?;
                offset += number(bytes.len());
            }
        }
        let (bytes, written) = writer.finish();
        file.write_at(offset, &bytes)?;
        file.sync()?;
        let listed = Listed {
            id,
            file_len: written.footer.file_len(),
            footer_sum: written.footer_sum,
        };
        self.made.push((Run::written(file, written), listed));
        self.low = high;
        Ok(())
    }
}

impl<D: Disk> fmt::Debug for Mending<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mending")
            .field("range", &self.range())
            .finish_non_exhaustive()
    }
}
