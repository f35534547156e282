//! The commit log, through its own interface: records of 304 bytes, so many of which wait to be
//! durable; then its replay, and many readers of one stretch that is not in memory.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use storage_io::{AlignedBuf, DirectDisk, Disk, DiskFile, DiskQueue, Op, RingQueue};
use storage_log::{Log, LogId, LogOffset, LogOptions, Lookup, NewRecord, QueueId, RecordKind};
use storage_queue::{Entry, Index, IndexError};

use super::figures::Quantiles;
use super::gauge::{Gauge, Spent};
use super::ours::nanoseconds;
use super::plan::{Plan, Progress, failed};
use crate::BenchError;
use crate::latency::Recorder;

const LOG: LogId = LogId(1);
const RECORD_BYTES: usize = 304;
const OUTSTANDING: usize = 256;
/// Records that are appended one by one.
const LONE: usize = 2000;
const READERS: usize = 64;
/// Records that all readers read.
const SHARED: usize = 20_000;
/// A block that is written and synced by itself, for comparison.
const RAW_BYTES: usize = 64 << 10;
const RAW_WRITES: usize = 2000;

/// What was measured of the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LogFigures {
    pub(crate) records: u64,
    pub(crate) append: Spent,
    /// From append to durable.
    pub(crate) durable: Quantiles,
    /// Bytes that the log took, by bytes of records.
    pub(crate) log_bytes_ratio: f64,
    /// The same with one record waiting at a time.
    pub(crate) lone_bytes_ratio: f64,
    /// One block of 64 KiB written and synced by the same ring.
    pub(crate) raw: Quantiles,
    pub(crate) replay_bytes: u64,
    pub(crate) replay_s: f64,
    /// Opening an index that has none of the records, the log, and a replay of it into the index.
    pub(crate) restart_s: f64,
    /// Chunks that many readers of one stretch read, by chunks that it has.
    pub(crate) fan_out: f64,
}

struct Subject {
    log: Log<DirectDisk>,
    queue: RingQueue,
    event: OwnedFd,
    body: Vec<u8>,
    /// Records so far; each is in a queue of its own, which costs an index most.
    appended: u64,
    waiting: VecDeque<(LogOffset, Instant)>,
    latencies: Recorder,
}

impl Subject {
    fn create(disk: &DirectDisk) -> Result<Self, BenchError> {
        let event = eventfd(0, EventfdFlags::empty()).map_err(failed)?;
        let queue = RingQueue::new(event.as_fd()).map_err(failed)?;
        let log = Log::create(disk.clone(), LOG, LogOptions::default()).map_err(failed)?;
        let head = record(&[(QueueId(0), 0)], &[]).encoded_len();
        Ok(Self {
            log,
            queue,
            event,
            body: vec![7; RECORD_BYTES.saturating_sub(head)],
            appended: 0,
            waiting: VecDeque::new(),
            latencies: Recorder::new(),
        })
    }

    /// Appends so many records, with so many at most that wait to be durable; gives where each is.
    fn append(&mut self, count: usize, outstanding: usize) -> Result<Vec<LogOffset>, BenchError> {
        let mut places = Vec::with_capacity(count);
        let body = std::mem::take(&mut self.body);
        while places.len() < count || !self.waiting.is_empty() {
            while places.len() < count && self.waiting.len() < outstanding {
                self.appended += 1;
                let queues = [(QueueId(self.appended), 0)];
                let appended = self.log.append(&record(&queues, &[&body]));
                places.push(appended.offset);
                self.waiting.push_back((appended.end, Instant::now()));
            }
            self.log.commit(&mut self.queue).map_err(failed)?;
            self.take_completions()?;
        }
        self.body = body;
        Ok(places)
    }

    fn take_completions(&mut self) -> Result<(), BenchError> {
        let mut any = false;
        while let Some(completion) = self.queue.poll() {
            any = true;
            let durable = self.log.complete(completion).map_err(failed)?.durable;
            while let Some((_, from)) = self.waiting.pop_front_if(|(end, _)| *end <= durable) {
                self.latencies.record(nanoseconds(from));
            }
        }
        if !any && self.queue.under_way() > 0 {
            let mut count = [0; 8];
            rustix::io::read(&self.event, &mut count).map_err(failed)?;
        }
        Ok(())
    }
}

const fn record<'a>(queues: &'a [(QueueId, u64)], body: &'a [&'a [u8]]) -> NewRecord<'a> {
    NewRecord {
        kind: RecordKind::Message,
        flags: 0,
        stamp: 1,
        publisher: 1,
        packet_id: 0,
        epoch: 0,
        queues,
        tag: 0,
        state: &[],
        body,
    }
}

/// Everything that is measured of the log.
pub(super) fn measure(plan: &Plan, path: &Path) -> Result<LogFigures, BenchError> {
    let progress = Progress::new("log", plan);
    let disk = DirectDisk::open(path).map_err(failed)?;
    let mut figures = LogFigures {
        records: plan.entries,
        raw: raw_writes(&disk)?,
        ..LogFigures::default()
    };
    progress.say("appending");
    let disk = disk.sub("log").map_err(failed)?;
    let mut subject = Subject::create(&disk)?;
    let from = subject.log.appended();
    subject.append(LONE, 1)?;
    let lone = subject.log.appended().0 - from.0;
    subject.latencies = Recorder::new();
    let count = usize::try_from(plan.entries).map_err(failed)?;
    let (gauge, from) = (Gauge::now(), subject.log.appended());
    let places = subject.append(count, OUTSTANDING)?;
    figures.append = gauge.spent();
    let ratio = |bytes: u64, records: usize| bytes as f64 / (records * RECORD_BYTES) as f64;
    figures.log_bytes_ratio = ratio(subject.log.appended().0 - from.0, count);
    figures.lone_bytes_ratio = ratio(lone, LONE);
    figures.durable = Quantiles::of(subject.latencies);
    drop(subject.log);
    progress.say("replaying");
    figures.restart_s = restart(&disk, &path.join("index"))?;
    let (from, mut records) = (Instant::now(), 0);
    let recovered = Log::recover(disk, LOG, LogOptions::default(), LogOffset(0), &mut |_| {
        records += 1;
        Ok(())
    });
    let (log, report) = recovered.map_err(failed)?;
    figures.replay_s = from.elapsed().as_secs_f64();
    figures.replay_bytes = report.end.0;
    if records < count + LONE {
        return Err(failed(format!(
            "{records} of {} records came back",
            count + LONE
        )));
    }
    figures.fan_out = fan_out(log, places.get(..SHARED.min(count)).unwrap_or_default())?;
    Ok(figures)
}

/// What a start does after a SIGKILL, when no entry of the log is in a run.
fn restart(log: &DirectDisk, index: &Path) -> Result<f64, BenchError> {
    let from = Instant::now();
    let disk = DirectDisk::open(index).map_err(failed)?;
    let opened = Index::open(disk, LOG, storage_queue::Options::default());
    let mut index = opened.map_err(failed)?.index;
    let (mut entries, mut fault) = (Vec::new(), None);
    let options = LogOptions::default();
    let recovered = Log::recover(log.clone(), LOG, options, LogOffset(0), &mut |record| {
        let (at, end) = (record.address.1, record.end);
        entries.clear();
        entries.extend(record.queues.iter().map(|(queue, queue_offset)| Entry {
            queue,
            queue_offset,
            at,
            size: u32::try_from(end.0 - at.0).unwrap_or(u32::MAX),
            tag: record.tag,
        }));
        let mut append = || {
            index.append(&entries)?;
            if index.is_full() {
                index.flush_blocking(end)?;
            }
            Ok::<(), IndexError>(())
        };
        fault = fault.take().or_else(|| append().err());
        Ok(())
    });
    recovered.map_err(failed)?;
    match fault {
        None => Ok(from.elapsed().as_secs_f64()),
        Some(fault) => Err(failed(fault)),
    }
}

/// Blocks written and synced one after the other, over blocks that were written before.
fn raw_writes(disk: &DirectDisk) -> Result<Quantiles, BenchError> {
    let event = eventfd(0, EventfdFlags::empty()).map_err(failed)?;
    let mut queue = RingQueue::new(event.as_fd()).map_err(failed)?;
    let file = disk.create("raw").map_err(failed)?;
    let mut buf = AlignedBuf::zeroed(RAW_BYTES);
    for block in 0..64 {
        let offset = block * RAW_BYTES as u64;
        file.write_at(offset, &buf).map_err(failed)?;
    }
    file.sync().map_err(failed)?;
    let mut latencies = Recorder::new();
    for write in 0..RAW_WRITES {
        let offset = ((write % 64) * RAW_BYTES) as u64;
        let from = Instant::now();
        let file = file.clone();
        let (token, sync) = (3 << 56, true);
        queue.submit(
            token,
            Op::Write {
                file,
                offset,
                buf,
                sync,
            },
        );
        let completion = loop {
            if let Some(completion) = queue.poll() {
                break completion;
            }
            let mut count = [0; 8];
            rustix::io::read(&event, &mut count).map_err(failed)?;
        };
        latencies.record(nanoseconds(from));
        completion.result.map_err(failed)?;
        buf = AlignedBuf::zeroed(RAW_BYTES);
    }
    Ok(Quantiles::of(latencies))
}

/// All readers read the same records, none of which is in memory.
fn fan_out(mut log: Log<DirectDisk>, places: &[LogOffset]) -> Result<f64, BenchError> {
    let (mut reads, mut chunk_bytes) = (0_u64, 1);
    for at in places {
        for _ in 0..READERS {
            while let Lookup::Missing(read) = log.read(*at, RECORD_BYTES).map_err(failed)? {
                reads += 1;
                chunk_bytes = read.len as u64;
                let bytes = read.file.read_at(read.offset, read.len).map_err(failed)?;
                log.insert_chunk(read.chunk, bytes);
            }
        }
    }
    let bytes = match (places.first(), places.last()) {
        (Some(first), Some(last)) => last.0 - first.0,
        _ => 0,
    };
    Ok(reads as f64 / bytes.div_ceil(chunk_bytes).max(1) as f64)
}
