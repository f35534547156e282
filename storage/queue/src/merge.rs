//! Joining adjacent runs at start-up, so that their number stays small.
//!
//! Ranges of adjacent runs follow each other, so a queue's entries in the joined run are those of
//! the first, then those of the second, and so on: a merge compares queues, never entries. The new
//! run is durable before the manifest names it in place of the old ones, and these are removed
//! after that: a crash in between leaves one set or the other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use storage_io::{Disk, DiskFile};

use crate::fields::number;
use crate::limits::{
    BLOCK_ENTRIES_MAX, FLUSH_STEP_BYTES, MERGE_ENTRIES_MAX, MERGE_RUNS_MAX, MERGE_RUNS_MIN,
    PAGE_BYTES,
};
use crate::manifest::{Listed, Manifest};
use crate::page::{Blocks, Item, Start};
use crate::run::Run;
use crate::run_file::{RunId, RunWriter, Written};
use crate::{Entry, IndexError};

/// Pages that a cursor reads at once; unpacked, they are about 0.5 MB.
const PAGES_PER_READ: u32 = 16;

/// Joins what is worth it. The files of joined runs are left behind, unlisted.
pub(crate) fn merge_small_runs<D: Disk>(
    disk: &D,
    manifest: &mut Manifest<D::File>,
    runs: &mut Vec<Run<D::File>>,
) -> Result<(), IndexError> {
    let mut from = 0;
    while let Some(group) = next_group(runs, from) {
        from = group.start + 1;
        let Some(inputs) = runs.get(group.clone()) else {
            return Ok(());
        };
        let run = merge(disk, manifest, inputs)?;
        let mut state = manifest.state.clone();
        state.sequence += 1;
        state.runs.splice(group.clone(), [listed(&run.1)]);
        manifest.write(state)?;
        runs.splice(group, [Run::written(run.0, run.1)]);
    }
    Ok(())
}

/// The first stretch of small runs, at or behind `from`, that is worth a merge.
fn next_group<F>(runs: &[Run<F>], from: usize) -> Option<Range<usize>> {
    let mut group = from..from;
    let mut entries = 0;
    for run in runs.iter().skip(from) {
        let is_small = run.entries < MERGE_ENTRIES_MAX / 2;
        let has_room = entries + run.entries <= MERGE_ENTRIES_MAX && group.len() < MERGE_RUNS_MAX;
        if is_small && has_room {
            entries += run.entries;
            group.end += 1;
            continue;
        }
        if group.len() >= MERGE_RUNS_MIN {
            break;
        }
        // One that does not fit may begin the next stretch.
        group = if is_small {
            group.end..group.end + 1
        } else {
            group.end + 1..group.end + 1
        };
        entries = if is_small { run.entries } else { 0 };
    }
    (group.len() >= MERGE_RUNS_MIN).then_some(group)
}

fn listed(written: &Written) -> Listed {
    Listed {
        id: written.footer.id,
        file_len: written.footer.file_len(),
        footer_sum: written.footer_sum,
    }
}

/// Writes one run with the entries of all inputs, durably.
fn merge<D: Disk>(
    disk: &D,
    manifest: &mut Manifest<D::File>,
    inputs: &[Run<D::File>],
) -> Result<(D::File, Written), IndexError> {
    let low = inputs
        .iter()
        .map(|run| run.id.low)
        .min()
        .unwrap_or_default();
    let high = inputs
        .iter()
        .map(|run| run.id.high)
        .max()
        .unwrap_or_default();
    let state = &mut manifest.state;
    let id = RunId {
        log: state.log,
        low,
        high,
        generation: state.next_generation,
    };
    state.next_generation += 1;
    let file = disk.create(&id.file_name())?;
    let queues = inputs.iter().map(|run| run.queues).sum();
    let mut output = Output {
        file: &file,
        offset: 0,
        writer: RunWriter::new(id, queues),
        start: None,
        items: Vec::new(),
    };
    let mut cursors = Vec::new();
    let mut order = BinaryHeap::new();
    for (place, run) in inputs.iter().enumerate() {
        let mut cursor = Cursor {
            run,
            page: 0,
            entries: Vec::new(),
            place: 0,
        };
        if let Some(entry) = cursor.peek()? {
            order.push(Reverse((entry.queue, place)));
        }
        cursors.push(cursor);
    }
    while let Some(Reverse((queue, place))) = order.pop() {
        let Some(cursor) = cursors.get_mut(place) else {
            break;
        };
        while let Some(entry) = cursor.peek()? {
            if entry.queue != queue {
                order.push(Reverse((entry.queue, place)));
                break;
            }
            output.push(&entry)?;
            cursor.place += 1;
        }
    }
    let written = output.finish()?;
    file.sync()?;
    disk.sync_dir()?;
    Ok((file, written))
}

/// The entries of a run, in order.
struct Cursor<'a, F> {
    run: &'a Run<F>,
    /// The next page to read.
    page: u32,
    entries: Vec<Entry>,
    place: usize,
}

impl<F: DiskFile> Cursor<'_, F> {
    fn peek(&mut self) -> Result<Option<Entry>, IndexError> {
        while self.place == self.entries.len() && self.page < self.run.pages() {
            self.place = 0;
            self.entries.clear();
            let (bytes, pages) = self.run.read_pages(self.page, PAGES_PER_READ)?;
            for (page, bytes) in (self.page..).zip(bytes.chunks(PAGE_BYTES)) {
                // Checked again: this is another read than the one that opened the run.
                self.run.check(page, bytes)?;
                let blocks = Blocks::new(bytes, self.run.id.low.0);
                for block in blocks.into_iter().flatten() {
                    block.entries(&mut self.entries).ok_or_else(|| {
                        self.run.id.damaged_page(page, "it has impossible entries")
                    })?;
                }
            }
            self.page += pages;
        }
        Ok(self.entries.get(self.place).copied())
    }
}

/// The run that is being written, and the block that is being filled.
struct Output<'a, F> {
    file: &'a F,
    offset: u64,
    writer: RunWriter,
    start: Option<Start>,
    items: Vec<Item>,
}

impl<F: DiskFile> Output<'_, F> {
    fn push(&mut self, entry: &Entry) -> Result<(), IndexError> {
        let item = Item {
            at: entry.at.0,
            size: entry.size,
            tag: entry.tag,
        };
        let goes_on = self.start.is_some_and(|start| {
            let reach = self
                .items
                .last()
                .map_or(0, |last| item.at.saturating_sub(last.at));
            start.queue == entry.queue
                && start.queue_offset + number(self.items.len()) == entry.queue_offset
                && self.items.len() < BLOCK_ENTRIES_MAX
                && reach <= u64::from(u32::MAX)
        });
        if !goes_on {
            self.end_block()?;
            let (queue, queue_offset) = (entry.queue, entry.queue_offset);
            self.start = Some(Start {
                queue,
                queue_offset,
                at: item.at,
            });
        }
        self.items.push(item);
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), IndexError> {
        if let Some(start) = self.start.take() {
            self.writer.push(start, &self.items);
            self.items.clear();
        }
        if self.writer.buffered() >= FLUSH_STEP_BYTES {
            let bytes = self.writer.take();
            self.file.write_at(self.offset, &bytes)?;
            self.offset += number(bytes.len());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Written, IndexError> {
        self.end_block()?;
        let (bytes, written) = self.writer.finish();
        self.file.write_at(self.offset, &bytes)?;
        Ok(written)
    }
}
