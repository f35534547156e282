//! Writing a frozen memtable to a run: one operation at a time, each of which begins when the one
//! before is complete.
//!
//! Pages (the last write syncs the file), then the directory, then the manifest that lists the
//! run; only then does the run replace the memtable. A crash before leaves a file that no manifest
//! lists, which the next start removes.

use storage_io::{DiskFile, DiskQueue, Op};
use storage_log::LogOffset;

use crate::fields::number;
use crate::limits::FLUSH_STEP_BYTES;
use crate::manifest::{Listed, Manifest, State};
use crate::memtable::Memtable;
use crate::page::Item;
use crate::run::{Run, TOKEN_FLUSH, TOKEN_OWNER};
use crate::run_file::{RunId, RunWriter, Written};
use crate::walk::Walk;

/// A memtable that takes no more entries, and its range of the log.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) table: Memtable,
    /// Its queues in order, as far as that has been made; taken by the flush.
    pub(crate) walk: Option<Walk>,
    pub(crate) low: LogOffset,
    pub(crate) high: LogOffset,
    /// What has to be durable before it may be listed; `high` or above.
    pub(crate) durable_from: LogOffset,
}

impl Frozen {
    /// One small step towards the order of its queues; true when it is made.
    pub(crate) fn prepare(&mut self) -> bool {
        let walk = self.walk.get_or_insert_with(|| self.table.walk());
        self.table.prepare(walk)
    }

    fn prepare_all(&mut self) {
        while !self.prepare() {}
    }
}

/// A flush under way.
#[derive(Debug)]
pub(crate) struct Flush<F> {
    file: F,
    stage: Stage,
    offset: u64,
    token: u64,
}

#[derive(Debug)]
enum Stage {
    /// Pages are being written.
    Pages(Box<Pages>),
    /// The last write and its sync are under way.
    Last(Box<Written>),
    /// The name of the file is being made durable.
    Directory(Box<Written>),
    /// The manifest is being written.
    Listing(Box<Written>, Box<State>),
    /// Only inside a step.
    Between,
}

#[derive(Debug)]
struct Pages {
    writer: RunWriter,
    walk: Walk,
    items: Vec<Item>,
}

/// What a completed operation leads to.
#[derive(Debug)]
pub(crate) enum Progress<F> {
    /// The next operation is under way.
    Going(Flush<F>),
    /// The run is listed, by this state of the manifest.
    Finished(Run<F>, State),
}

impl<F: DiskFile> Flush<F> {
    /// Begins to write a memtable to an empty file; `token` is the number of the flush's first
    /// operation.
    pub(crate) fn start(
        file: F,
        id: RunId,
        frozen: &mut Frozen,
        token: u64,
        queue: &mut impl DiskQueue<F>,
    ) -> Self {
        frozen.prepare_all();
        let walk = frozen.walk.take().unwrap_or_else(|| frozen.table.walk());
        let queues = number(frozen.table.queues());
        let pages = Pages {
            writer: RunWriter::new(id, queues),
            walk,
            items: Vec::new(),
        };
        let mut flush = Self {
            file,
            stage: Stage::Between,
            offset: 0,
            token,
        };
        flush.write_pages(Box::new(pages), frozen, queue);
        flush
    }

    /// Whether a token is that of the operation under way.
    pub(crate) const fn waits_for(&self, token: u64) -> bool {
        token == self.token
    }

    /// The run, while no directory and no manifest knows of it: then its file can be left behind.
    pub(crate) fn unnamed(&self) -> Option<RunId> {
        match &self.stage {
            Stage::Pages(pages) => Some(pages.writer.id()),
            Stage::Last(written) => Some(written.footer.id),
            Stage::Directory(_) | Stage::Listing(..) | Stage::Between => None,
        }
    }

    /// The number that the next operation would have.
    pub(crate) const fn next_token(&self) -> u64 {
        self.token + 1
    }

    /// Goes on after the operation under way has succeeded.
    pub(crate) fn advance(
        mut self,
        frozen: &Frozen,
        manifest: &Manifest<F>,
        queue: &mut impl DiskQueue<F>,
    ) -> Progress<F> {
        self.token += 1;
        match std::mem::replace(&mut self.stage, Stage::Between) {
            Stage::Pages(pages) => self.write_pages(pages, frozen, queue),
            Stage::Last(written) => {
                queue.submit(
                    self.token,
                    Op::SyncDir {
                        file: self.file.clone(),
                    },
                );
                self.stage = Stage::Directory(written);
            }
            Stage::Directory(written) => {
                let mut state = manifest.state.clone();
                state.sequence += 1;
                state.runs.push(Listed {
                    id: written.footer.id,
                    file_len: written.footer.file_len(),
                    footer_sum: written.footer_sum,
                });
                let (offset, buf) = state.encode();
                let file = manifest.file.clone();
                queue.submit(
                    self.token,
                    Op::Write {
                        file,
                        offset,
                        buf,
                        sync: true,
                    },
                );
                self.stage = Stage::Listing(written, Box::new(state));
            }
            Stage::Listing(written, state) => {
                return Progress::Finished(Run::written(self.file, *written), *state);
            }
            Stage::Between => unreachable!("a step leaves no flush between two stages"),
        }
        Progress::Going(self)
    }

    fn write_pages(
        &mut self,
        mut pages: Box<Pages>,
        frozen: &Frozen,
        queue: &mut impl DiskQueue<F>,
    ) {
        let mut ended = false;
        while !ended && pages.writer.buffered() < FLUSH_STEP_BYTES {
            match frozen.table.block(&mut pages.walk, &mut pages.items) {
                Some(start) => pages.writer.push(start, &pages.items),
                None => ended = true,
            }
        }
        let buf = if ended {
            let (buf, written) = pages.writer.finish();
            self.stage = Stage::Last(Box::new(written));
            buf
        } else {
            let buf = pages.writer.take();
            self.stage = Stage::Pages(pages);
            buf
        };
        let (file, offset) = (self.file.clone(), self.offset);
        self.offset += number(buf.len());
        queue.submit(
            self.token,
            Op::Write {
                file,
                offset,
                buf,
                sync: ended,
            },
        );
    }
}

/// The number of the first operation of all.
pub(crate) const FIRST_TOKEN: u64 = TOKEN_OWNER | TOKEN_FLUSH;
