//! A log on a simulated disk with everything that a driver does, step by step.

use storage_io::sim::{Rng, SimDisk, SimQueue};
use storage_io::{Disk, DiskQueue};

use crate::{
    Log, LogError, LogId, LogOffset, LogOptions, NewRecord, QueueId, Record, RecordKind,
    RecoveryReport,
};

pub(super) const LOG: LogId = LogId(3);

/// What a record was made of, and where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) kind: RecordKind,
    pub(super) flags: u16,
    pub(super) stamp: u64,
    pub(super) publisher: u64,
    pub(super) packet_id: u16,
    pub(super) epoch: u32,
    pub(super) tag: u32,
    pub(super) queues: Vec<(QueueId, u64)>,
    pub(super) state: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Sample {
    pub(super) fn random(rng: &mut Rng, body_max: usize) -> Self {
        let mut state = vec![0; if rng.chance(1, 3) { rng.index(64) } else { 0 }];
        rng.fill(&mut state);
        let mut body = vec![0; rng.index(body_max + 1)];
        rng.fill(&mut body);
        Self {
            kind: if rng.chance(1, 4) {
                RecordKind::State
            } else {
                RecordKind::Message
            },
            flags: rng.next_u64().to_le_bytes()[0].into(),
            stamp: rng.next_u64(),
            publisher: rng.next_u64(),
            packet_id: rng.next_u64().to_le_bytes()[0].into(),
            epoch: 7,
            tag: rng.next_u64().to_le_bytes()[1].into(),
            queues: (0..rng.below(4))
                .map(|_| (QueueId(rng.below(9)), rng.below(99)))
                .collect(),
            state,
            body,
        }
    }

    pub(super) fn append<D: Disk>(&self, log: &mut Log<D>) -> crate::Appended {
        let (first, second) = self.body.split_at(self.body.len() / 2);
        log.append(&NewRecord {
            kind: self.kind,
            flags: self.flags,
            stamp: self.stamp,
            publisher: self.publisher,
            packet_id: self.packet_id,
            epoch: self.epoch,
            queues: &self.queues,
            tag: self.tag,
            state: &self.state,
            body: &[first, second],
        })
    }

    pub(super) fn of(record: &Record) -> Self {
        Self {
            kind: record.kind,
            flags: record.flags,
            stamp: record.stamp,
            publisher: record.publisher,
            packet_id: record.packet_id,
            epoch: record.epoch,
            tag: record.tag,
            queues: record.queues.iter().collect(),
            state: record.state.to_vec(),
            body: record.body.to_vec(),
        }
    }
}

pub(super) fn small_options() -> LogOptions {
    LogOptions {
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 128 << 10,
        seed: 11,
        ..LogOptions::default()
    }
}

/// A log, the queue that serves it, and what was appended.
pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) queue: SimQueue,
    pub(super) rng: Rng,
    pub(super) log: Log<SimDisk>,
    /// Everything appended to this log since it was opened, with the end of each.
    pub(super) appended: Vec<(LogOffset, LogOffset, Sample)>,
}

impl Rig {
    pub(super) fn new(seed: u64, options: LogOptions) -> Self {
        let disk = SimDisk::new(seed);
        let log = Log::create(disk.clone(), LOG, options).unwrap();
        Self {
            disk,
            queue: SimQueue::new(),
            rng: Rng::new(seed ^ 0x51),
            log,
            appended: Vec::new(),
        }
    }

    pub(super) fn append(&mut self, body_max: usize) -> LogOffset {
        let sample = Sample::random(&mut self.rng, body_max);
        let put = sample.append(&mut self.log);
        self.appended.push((put.offset, put.end, sample));
        put.offset
    }

    /// Moves one disk operation and gives its completion to the log.
    pub(super) fn step(&mut self) -> Result<bool, LogError> {
        let moved = self.queue.step(&mut self.rng);
        while let Some(completion) = self.queue.poll() {
            assert!(Log::<SimDisk>::owns(completion.token));
            self.log.complete(completion)?;
        }
        Ok(moved)
    }

    /// Commits until everything that was appended is durable and nothing is under way.
    pub(super) fn settle(&mut self) -> Result<(), LogError> {
        loop {
            self.log.commit(&mut self.queue)?;
            if !self.step()? {
                return Ok(());
            }
        }
    }

    /// Appends records of up to `body_max` bytes each and settles after every one.
    pub(super) fn fill(&mut self, records: usize, body_max: usize) {
        for _ in 0..records {
            self.append(body_max);
            self.settle().unwrap();
        }
    }
}

/// Recovers from what is on the disk; returns the records, too.
pub(super) fn recover(
    disk: &SimDisk,
    options: LogOptions,
    from: LogOffset,
) -> Result<(Log<SimDisk>, RecoveryReport, Vec<Record>), LogError> {
    let mut records = Vec::new();
    let (log, report) = Log::recover(disk.clone(), LOG, options, from, &mut |record| {
        records.push(record);
        Ok(())
    })?;
    Ok((log, report, records))
}

pub(super) fn samples(records: &[Record]) -> Vec<(LogOffset, LogOffset, Sample)> {
    records
        .iter()
        .map(|record| (record.address.1, record.end, Sample::of(record)))
        .collect()
}
