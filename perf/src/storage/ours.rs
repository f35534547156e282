//! The index of storage-queue, through its own interface, on direct I/O and a ring as in a node.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use storage_io::{DirectDisk, DiskFile, DiskQueue, RingQueue};
use storage_queue::{Entry, Index, LogId, LogOffset, Lookup, Options, QueueId};

use super::figures::{Figures, Quantiles};
use super::gauge::{
    Gauge, Spent, cpu_ns, reset_peak, resident_bytes, resident_peak_bytes, thread_cpu_ns,
};
use super::plan::{Plan, Progress, failed};
use super::workload::{Draw, Workload};
use crate::BenchError;
use crate::latency::Recorder;

const LOG: LogId = LogId(1);

/// Batches that are drawn before they are appended, so that drawing is not measured.
const BATCHES_AHEAD: usize = 64;

/// An index with its ring.
struct Subject {
    index: Index<DirectDisk>,
    queue: RingQueue,
    event: OwnedFd,
}

impl Subject {
    fn open(path: &Path, options: Options) -> Result<Self, BenchError> {
        let disk = DirectDisk::open(path).map_err(failed)?;
        let opened = Index::open(disk, LOG, options).map_err(failed)?;
        let event = eventfd(0, EventfdFlags::empty()).map_err(failed)?;
        let queue = RingQueue::new(event.as_fd()).map_err(failed)?;
        Ok(Self {
            index: opened.index,
            queue,
            event,
        })
    }

    /// What a shard does for its index once per turn.
    fn turn(&mut self, appended: u64) -> Result<(), BenchError> {
        let appended = LogOffset(appended);
        self.index.advance(appended);
        while let Some(completion) = self.queue.poll() {
            let done = self.index.complete(completion, &mut self.queue);
            done.map_err(failed)?;
        }
        self.index.flush(appended, &mut self.queue).map_err(failed)
    }

    /// Sleeps until an operation completes, when there is one.
    fn wait(&self) -> Result<(), BenchError> {
        if self.queue.under_way() == 0 {
            return Ok(());
        }
        let mut count = [0; 8];
        rustix::io::read(&self.event, &mut count).map_err(failed)?;
        Ok(())
    }

    /// Turns until nothing is left to write or to join.
    fn settle(&mut self, appended: u64) -> Result<(), BenchError> {
        loop {
            self.turn(appended)?;
            if self.queue.under_way() > 0 {
                self.wait()?;
            } else if self.index.counters().memtables_frozen == 0 && !self.is_busy(appended)? {
                return Ok(());
            }
        }
    }

    fn is_busy(&mut self, appended: u64) -> Result<bool, BenchError> {
        // A step that begins nothing has nothing to begin.
        for _ in 0..64 {
            self.turn(appended)?;
            if self.queue.under_way() > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads 32 entries from a queue offset on, or all there are.
    fn read(&mut self, queue: u64, from: u64) -> Result<Vec<Entry>, BenchError> {
        let queue = QueueId(queue);
        let mut entries: Vec<Entry> = Vec::new();
        let mut next = from;
        while entries.len() < 32 {
            let max = 32 - entries.len();
            match self
                .index
                .read_by_offset(queue, next, max)
                .map_err(failed)?
            {
                Lookup::Ready(found) if found.entries.is_empty() => break,
                Lookup::Ready(found) => {
                    next = found.next;
                    entries.extend(found.entries);
                }
                Lookup::Missing(page) => {
                    let read = page.file.read_at(page.offset, page.len);
                    let bytes = read.map_err(failed)?;
                    self.index.insert_page(page.token, bytes).map_err(failed)?;
                }
            }
        }
        Ok(entries)
    }
}

fn entry(draw: &Draw) -> Entry {
    Entry {
        queue: QueueId(draw.queue),
        queue_offset: draw.offset,
        at: LogOffset(draw.at),
        size: draw.size,
        tag: draw.tag,
    }
}

/// Everything that is measured of the index.
pub(super) fn measure(plan: &Plan, path: &Path) -> Result<Figures, BenchError> {
    let mut workload = Workload::new(plan.queues, plan.is_zipf);
    let mut figures = Figures {
        entries: plan.entries,
        queues: workload.queues(),
        ..Figures::default()
    };
    ingest(plan, path, &mut workload, &mut figures)?;
    figures.disk_bytes = files_bytes(path)?;
    reopen(path, &workload, &mut figures)?;
    life(plan, &path.join("life"), &mut figures)?;
    Ok(figures)
}

/// What was seen while entries were appended.
struct Appending {
    batch: Recorder,
    turn: Recorder,
    /// The last queues and offsets.
    recent: Vec<(u64, u64)>,
    drawing_s: f64,
    drawing_ns: u64,
}

fn append_all(
    plan: &Plan,
    subject: &mut Subject,
    workload: &mut Workload,
    progress: &mut Progress,
) -> Result<Appending, BenchError> {
    let mut seen = Appending {
        batch: Recorder::new(),
        turn: Recorder::new(),
        recent: Vec::with_capacity(RECENT),
        drawing_s: 0.0,
        drawing_ns: 0,
    };
    let mut batches = vec![Vec::new(); BATCHES_AHEAD];
    let mut made = 0;
    while made < plan.entries {
        let (from, from_ns) = (Instant::now(), cpu_ns());
        for entries in &mut batches {
            entries.clear();
            while entries.len() < plan.batch && made < plan.entries {
                let draw = workload.next();
                if made + RECENT as u64 >= plan.entries {
                    seen.recent.push((draw.queue, draw.offset));
                }
                entries.push(entry(&draw));
                made += 1;
            }
        }
        seen.drawing_ns += cpu_ns() - from_ns;
        seen.drawing_s += from.elapsed().as_secs_f64();
        for entries in batches.iter().filter(|entries| !entries.is_empty()) {
            append_batch(subject, entries, &mut seen)?;
        }
        progress.tell(made);
    }
    Ok(seen)
}

fn append_batch(
    subject: &mut Subject,
    entries: &[Entry],
    seen: &mut Appending,
) -> Result<(), BenchError> {
    let last = entries.last();
    let appended = last.map_or(0, |last| last.at.0 + u64::from(last.size));
    let (from, from_ns) = (Instant::now(), thread_cpu_ns());
    subject.index.append(entries).map_err(failed)?;
    seen.batch.record(nanoseconds(from));
    subject.turn(appended)?;
    seen.turn.record(thread_cpu_ns() - from_ns);
    while subject.index.is_full() {
        subject.wait()?;
        subject.turn(appended)?;
    }
    Ok(())
}

fn ingest(
    plan: &Plan,
    path: &Path,
    workload: &mut Workload,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    let mut progress = Progress::new("corelane", plan);
    let resident = resident_bytes();
    reset_peak();
    let mut subject = Subject::open(path, Options::default())?;
    let gauge = Gauge::now();
    let seen = append_all(plan, &mut subject, workload, &mut progress)?;
    figures.resident_bytes = resident_bytes().saturating_sub(resident);
    figures.resident_peak_bytes = resident_peak_bytes().saturating_sub(resident);
    let appending = gauge.spent();
    figures.tail = tail_reads(&mut subject, &seen.recent)?;
    let gauge = Gauge::now();
    progress.say("flushing and joining what is left");
    subject.index.freeze();
    subject.settle(workload.cursor())?;
    drop(subject);
    // The rest of the merges: what a start with few runs would leave.
    let options = Options {
        merge_from_runs: 2,
        ..Options::default()
    };
    drop(Subject::open(path, options)?);
    let spent = gauge.spent();
    figures.ingest = Spent {
        wall_s: appending.wall_s + spent.wall_s - seen.drawing_s,
        cpu_s: appending.cpu_s + spent.cpu_s - seen.drawing_ns as f64 / 1e9,
        read: appending.read + spent.read,
        written: appending.written + spent.written,
    };
    Ok(())
}

/// Entries for 40 memtables, small ones: what a batch costs while flushes and merges never pause;
/// then, over as many runs that are not joined, to be rid of the older half.
fn life(plan: &Plan, path: &Path, figures: &mut Figures) -> Result<(), BenchError> {
    let plan = Plan {
        entries: plan.entries.min(LIFE_ENTRIES_MAX),
        ..plan.clone()
    };
    let (_, seen, _) = fill(&plan, &path.join("joined"), 16)?;
    figures.batch = Quantiles::of(seen.batch);
    figures.turn = Some(Quantiles::of(seen.turn));
    let path = path.join("apart");
    let (mut subject, _, cursor) = fill(&plan, &path, usize::MAX)?;
    let before = files_bytes(&path)?;
    let gauge = Gauge::now();
    let start = LogOffset(cursor / 2);
    subject.index.retire(start);
    while subject.index.start() < start {
        subject.turn(cursor)?;
        subject.wait()?;
    }
    subject.settle(cursor)?;
    let spent = gauge.spent();
    // One slot of the manifest is no entry that was written again.
    figures.clean = Some(Spent {
        written: spent.written.saturating_sub(MANIFEST_BYTES),
        ..spent
    });
    figures.clean_disk_ratio = files_bytes(&path)? as f64 / before as f64;
    Ok(())
}

/// An index of 40 memtables that are all flushed, what was seen, and where the log ends.
fn fill(
    plan: &Plan,
    path: &Path,
    join_from_runs: usize,
) -> Result<(Subject, Appending, u64), BenchError> {
    let options = Options {
        memtable_entries_max: usize::try_from(plan.entries / 40).unwrap_or(0).max(1000),
        join_from_runs,
        ..Options::default()
    };
    let mut workload = Workload::new(plan.queues, plan.is_zipf);
    let mut progress = Progress::new("corelane, small memtables", plan);
    let mut subject = Subject::open(path, options)?;
    let seen = append_all(plan, &mut subject, &mut workload, &mut progress)?;
    subject.index.freeze();
    subject.settle(workload.cursor())?;
    Ok((subject, seen, workload.cursor()))
}

const RECENT: usize = 100_000;
const LIFE_ENTRIES_MAX: u64 = 5_000_000;
const MANIFEST_BYTES: u64 = 8192;

fn tail_reads(subject: &mut Subject, recent: &[(u64, u64)]) -> Result<Quantiles, BenchError> {
    let mut latencies = Recorder::new();
    let mut entries = Vec::new();
    for (queue, offset) in recent {
        let from = Instant::now();
        entries = subject.read(*queue, *offset)?;
        latencies.record(nanoseconds(from));
        expect_first(&entries, *offset)?;
    }
    drop(entries);
    Ok(Quantiles::of(latencies))
}

fn reopen(path: &Path, workload: &Workload, figures: &mut Figures) -> Result<(), BenchError> {
    let from = Instant::now();
    let options = Options {
        cache_pages: 0,
        ..Options::default()
    };
    let mut subject = Subject::open(path, options)?;
    let first = workload.reads().next().unwrap_or_default();
    subject.read(first.0, first.1)?;
    figures.restart_s = from.elapsed().as_secs_f64();
    let mut latencies = Recorder::new();
    let gauge = Gauge::now();
    let count = COLD.min(figures.entries);
    for (queue, offset) in workload.reads().take(usize::try_from(count).unwrap_or(0)) {
        let from = Instant::now();
        let entries = subject.read(queue, offset)?;
        latencies.record(nanoseconds(from));
        expect_first(&entries, offset)?;
        let expected = (workload.count(queue) - offset).min(32);
        if entries.len() as u64 != expected {
            let got = entries.len();
            return Err(failed(format!(
                "{got} entries of queue {queue} from {offset}, expected {expected}"
            )));
        }
    }
    let spent = gauge.spent();
    figures.cold = Quantiles::of(latencies);
    figures.cold_per_s = count as f64 / spent.wall_s;
    figures.cold_bytes = spent.read as f64 / count as f64;
    Ok(())
}

/// Cold reads, as many as count.
pub(super) const COLD: u64 = 20_000;

fn expect_first(entries: &[Entry], offset: u64) -> Result<(), BenchError> {
    match entries.first() {
        Some(first) if first.queue_offset == offset => Ok(()),
        found => Err(failed(format!("read at {offset} gave {found:?}"))),
    }
}

pub(super) fn nanoseconds(from: Instant) -> u64 {
    u64::try_from(from.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes of the files in a directory, and in those in it.
pub(super) fn files_bytes(path: &Path) -> Result<u64, BenchError> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        bytes += if metadata.is_dir() {
            files_bytes(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}
