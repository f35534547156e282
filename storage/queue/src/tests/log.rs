//! The index beside a real log, on one simulated disk: crashes, recoveries, replays.

use std::collections::BTreeMap;

use storage_io::sim::{Rng, SimDisk, SimQueue};
use storage_io::{Disk, DiskQueue};
use storage_log::{Log, LogError, LogOptions, NewRecord, Record, RecordKind};

use super::model::{LOG, options};
use crate::run_file::generation_of;
use crate::{Entry, Index, IndexError, LogOffset, QueueId, entries_of};

struct Shard {
    disk: SimDisk,
    rng: Rng,
    queue: SimQueue,
    log: Log<SimDisk>,
    index: Index<SimDisk>,
}

fn log_options() -> LogOptions {
    LogOptions {
        segment_bytes_min: 64 << 10,
        segment_bytes_max: SEGMENT,
        ..Default::default()
    }
}

const SEGMENT: u64 = 256 << 10;

#[derive(Debug)]
#[expect(dead_code, reason = "a test prints it when it fails")]
enum Error {
    Log(LogError),
    Index(IndexError),
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl Shard {
    fn open(disk: SimDisk, rng: Rng) -> Self {
        let mut index = Index::open(disk.clone(), LOG, options()).unwrap().index;
        let from = index.indexed_upto();
        let (mut log, report) = Log::recover(
            disk.clone(),
            LOG,
            log_options(),
            from,
            &mut |record: Record| {
                index.append(&entries_of(&record)).unwrap();
                if index.is_full() {
                    index.flush_blocking(record.end).unwrap();
                }
                Ok(())
            },
        )
        .unwrap();
        assert!(
            report.end >= from,
            "the index never claims more than the log has"
        );
        assert_eq!(index.truncate_above(report.end), Ok(index.indexed_upto()));
        // A hole is read from the beginning of its segment on; no record is below 40 bytes.
        let holes = index.holes();
        let bytes = holes.iter().map(|hole| hole.end.0 - hole.start.0 + SEGMENT);
        let most = bytes.sum::<u64>() / 40;
        let read = index.mend_from::<Error>(&mut log).unwrap();
        assert!(read <= most, "{read} records were read for {holes:?}");
        Self {
            disk,
            rng,
            queue: SimQueue::new(),
            log,
            index,
        }
    }

    fn append(&mut self) {
        let mut queues: Vec<_> = (0..self.rng.below(4)).map(|_| self.rng.below(30)).collect();
        queues.sort_unstable();
        queues.dedup();
        let queues: Vec<_> = queues
            .into_iter()
            .map(|queue| (QueueId(queue), self.index.next_offset(QueueId(queue))))
            .collect();
        let body = vec![7; self.rng.index(500)];
        let appended = self.log.append(&NewRecord {
            kind: RecordKind::Message,
            flags: 0,
            stamp: 1,
            publisher: 2,
            packet_id: 3,
            epoch: 0,
            queues: &queues,
            tag: 5,
            state: &[],
            body: &[&body],
        });
        let size = u32::try_from(appended.end.0 - appended.offset.0).unwrap();
        let entry = |(queue, queue_offset)| {
            let at = appended.offset;
            Entry {
                queue,
                queue_offset,
                at,
                size,
                tag: 5,
            }
        };
        let batch: Vec<_> = queues.into_iter().map(entry).collect();
        self.index.append(&batch).unwrap();
    }

    fn turn(&mut self) {
        self.log.commit(&mut self.queue).unwrap();
        self.index.advance(self.log.appended());
        self.index
            .flush(self.log.synced(), &mut self.queue)
            .unwrap();
        for _ in 0..self.rng.below(5) {
            self.queue.step(&mut self.rng);
        }
        while let Some(completion) = self.queue.poll() {
            if Index::<SimDisk>::is_flush(completion.token) {
                self.index.complete(completion, &mut self.queue).unwrap();
            } else {
                self.log.complete(completion).unwrap();
            }
        }
    }

    fn crash(mut self) -> Self {
        self.disk.crash(self.rng.next_u64());
        if self.rng.chance(1, 2) {
            let mut names = self.disk.list().unwrap();
            names.retain(|name| generation_of(name).is_some());
            for name in names {
                if self.rng.chance(1, 3) {
                    self.disk.remove(&name).unwrap();
                }
            }
        }
        let Self { disk, rng, .. } = self;
        let mut shard = Self::open(disk, rng);
        shard.check();
        shard
    }

    /// The index is what an index would be that is made of the log alone.
    fn check(&mut self) {
        let mut model: BTreeMap<QueueId, Vec<Entry>> = BTreeMap::new();
        let disk = self.disk.clone();
        let (log, report) = Log::recover(
            disk,
            LOG,
            log_options(),
            LogOffset(0),
            &mut |record: Record| {
                for entry in entries_of(&record) {
                    model.entry(entry.queue).or_default().push(entry);
                }
                Ok(())
            },
        )
        .unwrap();
        self.log = log;
        for queue in (0..30).map(QueueId) {
            let wanted = model.remove(&queue).unwrap_or_default();
            let (from, upto) = (LogOffset(0), report.next);
            let found = self
                .index
                .read_blocking(queue, from, upto, usize::MAX)
                .unwrap();
            assert_eq!(found.entries, wanted);
            assert_eq!(self.index.next_offset(queue), wanted.len() as u64);
        }
    }
}

#[test]
fn the_index_follows_its_log_through_crashes() {
    for seed in 0..6 {
        let disk = SimDisk::new(seed).sub("shard-0").unwrap();
        let mut shard = Shard::open(disk, Rng::new(seed));
        let mut runs = 0;
        for _ in 0..12 {
            for _ in 0..shard.rng.below(60) {
                for _ in 0..shard.rng.below(6) {
                    shard.append();
                }
                shard.turn();
            }
            shard = shard.crash();
            runs = runs.max(shard.index.counters().runs);
        }
        assert!(runs > 2, "the index was never flushed");
    }
}
