//! Joining adjacent runs into one, by one operation of the disk after the other.
//!
//! Ranges of adjacent runs follow each other, so a queue's entries in the joined run are those of
//! the first, then those of the second, and so on: a merge compares queues, never entries. The new
//! run is durable, with its name, before the manifest names it in place of the old ones, and these
//! are removed after that: a crash in between leaves one set or the other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use storage_io::{AlignedBuf, DiskFile, DiskQueue, Done, Op};
use storage_log::QueueId;

use crate::fields::{index, number};
use crate::limits::{BLOCK_ENTRIES_MAX, FLUSH_STEP_BYTES, PAGE_BYTES};
use crate::manifest::{Listed, Manifest, State};
use crate::page::{Blocks, Item, Start};
use crate::run::Run;
use crate::run_file::{RunId, RunWriter, Written, page_offset};
use crate::{Entry, IndexError};

/// Pages that a cursor reads at once, 64 KiB: as much as a step writes.
const PAGES_PER_READ: u32 = 16;

/// A merge under way.
#[derive(Debug)]
pub(crate) struct Merge<F> {
    id: RunId,
    file: F,
    /// Which runs are joined, by place. Others are only added behind them meanwhile.
    inputs: Range<usize>,
    stage: Stage,
    /// Bytes of the file that were written.
    offset: u64,
    /// The operation under way, if there is one.
    token: Option<u64>,
}

/// How far it is, once the operation under way is complete.
#[derive(Debug)]
enum Stage {
    /// Entries are read, put in order, and written.
    Entries(Box<Entries>),
    /// All is written and synced.
    Written(Box<Written>),
    /// The file's name is durable.
    Named(Box<Written>),
    /// The manifest lists it.
    Listed(Box<Written>, Box<State>),
    /// Only inside a step.
    Between,
}

/// What a completed operation leads to.
#[derive(Debug)]
pub(crate) enum Progress<F> {
    /// There is more to do.
    Going(Merge<F>),
    /// The run is listed.
    Finished(Finished<F>),
}

/// What a merge has come to.
#[derive(Debug)]
pub(crate) struct Finished<F> {
    /// The runs to be replaced, by place.
    pub(crate) inputs: Range<usize>,
    pub(crate) run: Run<F>,
    /// The state of the manifest that lists it in their place.
    pub(crate) state: State,
}

impl<F: DiskFile> Merge<F> {
    /// A merge of these runs into an empty file, with at most about `queues` queues.
    pub(crate) fn new(file: F, id: RunId, inputs: Range<usize>, queues: u64) -> Self {
        let entries = Entries {
            writer: RunWriter::new(id, queues),
            start: None,
            items: Vec::new(),
            cursors: inputs.clone().map(|_| Cursor::default()).collect(),
            placed: 0,
            order: BinaryHeap::new(),
            current: None,
            reading: 0,
        };
        Self {
            id,
            file,
            inputs,
            stage: Stage::Entries(Box::new(entries)),
            offset: 0,
            token: None,
        }
    }

    /// So many runs at the front are gone. False: one of them was to be joined.
    pub(crate) fn renumber(&mut self, gone: usize) -> bool {
        let is_whole = self.inputs.start >= gone;
        if is_whole {
            self.inputs = self.inputs.start - gone..self.inputs.end - gone;
        }
        is_whole
    }

    /// The file that is being written.
    pub(crate) fn file_name(&self) -> String {
        self.id.file_name()
    }

    /// Whether a token is that of the operation under way.
    pub(crate) fn waits_for(&self, token: u64) -> bool {
        self.token == Some(token)
    }

    /// Whether an operation is under way.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.token.is_some()
    }

    /// Whether nothing has been promised of the new file yet, so that it can be left behind.
    pub(crate) const fn is_unnamed(&self) -> bool {
        matches!(self.stage, Stage::Entries(_) | Stage::Written(_))
    }

    /// Begins the next operation; none is under way.
    ///
    /// # Errors
    /// When a page that was read is damaged.
    pub(crate) fn step(
        &mut self,
        runs: &[Run<F>],
        manifest: &Manifest<F>,
        token: u64,
        queue: &mut impl DiskQueue<F>,
    ) -> Result<(), IndexError> {
        debug_assert!(self.token.is_none());
        let inputs = runs.get(self.inputs.clone()).unwrap_or_default();
        let op = match std::mem::replace(&mut self.stage, Stage::Between) {
            Stage::Entries(entries) => self.go_on(entries, inputs)?,
            Stage::Written(written) => {
                self.stage = Stage::Named(written);
                let file = self.file.clone();
                Op::SyncDir { file }
            }
            Stage::Named(written) => self.list(written, manifest),
            Stage::Listed(..) | Stage::Between => unreachable!("a merge ends when it is listed"),
        };
        self.token = Some(token);
        queue.submit(token, op);
        Ok(())
    }

    fn go_on(&mut self, mut entries: Box<Entries>, inputs: &[Run<F>]) -> Result<Op<F>, IndexError> {
        let (buf, sync) = match entries.advance(inputs)? {
            Want::Pages(op) => {
                self.stage = Stage::Entries(entries);
                return Ok(op);
            }
            Want::Room => {
                let buf = entries.writer.take();
                self.stage = Stage::Entries(entries);
                (buf, false)
            }
            Want::Nothing => {
                let (buf, written) = entries.writer.finish();
                self.stage = Stage::Written(Box::new(written));
                (buf, true)
            }
        };
        let (file, offset) = (self.file.clone(), self.offset);
        self.offset += number(buf.len());
        Ok(Op::Write {
            file,
            offset,
            buf,
            sync,
        })
    }

    /// The operation that lists the new run in place of the others.
    fn list(&mut self, written: Box<Written>, manifest: &Manifest<F>) -> Op<F> {
        let mut state = manifest.state.clone();
        state.sequence += 1;
        let listed = Listed {
            id: written.footer.id,
            file_len: written.footer.file_len(),
            footer_sum: written.footer_sum,
        };
        state.runs.splice(self.inputs.clone(), [listed]);
        let (offset, buf) = state.encode();
        self.stage = Stage::Listed(written, Box::new(state));
        let file = manifest.file.clone();
        Op::Write {
            file,
            offset,
            buf,
            sync: true,
        }
    }

    /// Takes what the operation under way has given; at the end, the run.
    pub(crate) fn complete(mut self, done: Done) -> Progress<F> {
        self.token = None;
        if let (Stage::Entries(entries), Done::Read(pages)) = (&mut self.stage, done) {
            entries.take(pages);
        }
        let Self {
            file,
            inputs,
            stage: Stage::Listed(written, state),
            ..
        } = self
        else {
            return Progress::Going(self);
        };
        Progress::Finished(Finished {
            inputs,
            run: Run::written(file, *written),
            state: *state,
        })
    }
}

/// The entries between the old runs and the new one.
#[derive(Debug)]
struct Entries {
    writer: RunWriter,
    /// The block that is being filled.
    start: Option<Start>,
    items: Vec<Item>,
    /// One for each old run.
    cursors: Vec<Cursor>,
    /// So many cursors, from the first on, have a place in the order, or nothing left.
    placed: usize,
    /// The queues at which the cursors are, but that of the current one.
    order: BinaryHeap<Reverse<(QueueId, usize)>>,
    /// The queue that is being taken, and from which cursor.
    current: Option<(QueueId, usize)>,
    /// Which cursor waits for pages.
    reading: usize,
}

/// What the entries cannot go on without.
enum Want<F> {
    /// Pages of an old run.
    Pages(Op<F>),
    /// The writing of what is ready.
    Room,
    /// All entries have been taken.
    Nothing,
}

impl Entries {
    /// Takes entries, in order, as far as it goes: about [`FLUSH_STEP_BYTES`] of the new run.
    fn advance<F: DiskFile>(&mut self, runs: &[Run<F>]) -> Result<Want<F>, IndexError> {
        while let (Some(run), Some(cursor)) =
            (runs.get(self.placed), self.cursors.get_mut(self.placed))
        {
            if cursor.wants_pages(run)? {
                return Ok(self.read(self.placed, run));
            }
            if let Some(entry) = cursor.entry() {
                self.order.push(Reverse((entry.queue, self.placed)));
            }
            self.placed += 1;
        }
        while self.writer.buffered() < FLUSH_STEP_BYTES {
            let next = || self.order.pop().map(|Reverse(next)| next);
            let Some((queue, place)) = self.current.take().or_else(next) else {
                self.end_block();
                return Ok(Want::Nothing);
            };
            let (Some(run), Some(cursor)) = (runs.get(place), self.cursors.get_mut(place)) else {
                continue;
            };
            if cursor.wants_pages(run)? {
                self.current = Some((queue, place));
                return Ok(self.read(place, run));
            }
            let Some(entry) = cursor.entry() else {
                continue;
            };
            if entry.queue == queue {
                cursor.place += 1;
                self.current = Some((queue, place));
                self.push(&entry);
            } else {
                self.order.push(Reverse((entry.queue, place)));
            }
        }
        Ok(Want::Room)
    }

    fn read<F: DiskFile>(&mut self, place: usize, run: &Run<F>) -> Want<F> {
        self.reading = place;
        let next = self.cursors.get(place).map_or(0, |cursor| cursor.next_page);
        let pages = run.pages().saturating_sub(next).min(PAGES_PER_READ);
        Want::Pages(Op::Read {
            file: run.file.clone(),
            offset: page_offset(next),
            len: PAGE_BYTES * index(u64::from(pages)),
        })
    }

    fn take(&mut self, pages: AlignedBuf) {
        if let Some(cursor) = self.cursors.get_mut(self.reading) {
            cursor.take(pages);
        }
    }

    fn push(&mut self, entry: &Entry) {
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
            self.end_block();
            let (queue, queue_offset) = (entry.queue, entry.queue_offset);
            self.start = Some(Start {
                queue,
                queue_offset,
                at: item.at,
            });
        }
        self.items.push(item);
    }

    fn end_block(&mut self) {
        if let Some(start) = self.start.take() {
            self.writer.push(start, &self.items);
            self.items.clear();
        }
    }
}

/// How far the entries of one old run have been taken.
#[derive(Debug, Default)]
struct Cursor {
    /// Pages that were read, and how many of them have been unpacked.
    pages: Option<AlignedBuf>,
    unpacked: u32,
    /// The next page to read.
    next_page: u32,
    /// The entries of the page that was unpacked last, and the next of them.
    entries: Vec<Entry>,
    place: usize,
}

impl Cursor {
    /// The next entry, once [`Cursor::wants_pages`] has said no; `None` at the end.
    fn entry(&self) -> Option<Entry> {
        self.entries.get(self.place).copied()
    }

    /// Unpacks the page of the next entry; true: it has to be read.
    fn wants_pages<F: DiskFile>(&mut self, run: &Run<F>) -> Result<bool, IndexError> {
        while self.place == self.entries.len() {
            let pages = self.pages.as_deref().unwrap_or_default();
            let at = index(u64::from(self.unpacked)) * PAGE_BYTES;
            let Some(bytes) = pages.get(at..at + PAGE_BYTES) else {
                self.pages = None;
                return Ok(self.next_page < run.pages());
            };
            let count = u32::try_from(pages.len() / PAGE_BYTES).unwrap_or(u32::MAX);
            let page = self.next_page - count + self.unpacked;
            // Checked again: this is another read than the one that opened the run.
            run.check(page, bytes)?;
            self.entries.clear();
            self.place = 0;
            let blocks = Blocks::new(bytes);
            for block in blocks.into_iter().flatten() {
                block
                    .entries(&mut self.entries)
                    .ok_or_else(|| run.id.damaged_page(page, "it has impossible entries"))?;
            }
            self.unpacked += 1;
        }
        Ok(false)
    }

    fn take(&mut self, pages: AlignedBuf) {
        self.next_page += u32::try_from(pages.len() / PAGE_BYTES).unwrap_or(u32::MAX);
        self.unpacked = 0;
        self.pages = Some(pages);
    }
}
