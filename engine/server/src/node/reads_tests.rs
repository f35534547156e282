//! Many readers that are far behind: what they get, and what it costs.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use engine_mqtt::QoS;
use engine_shard::{
    LogOffset, NewMessage, NewRecord, QueueName, ReadAnswer, ReadRequest, ReadToken, Store,
};
use storage_io::DiskQueue;
use storage_io::sim::{Rng, SimDisk, SimFile, SimQueue};
use storage_io::{Completion, Op};

use super::now::Now;
use super::open::{NodeOptions, open_node};
use super::reads::ReadOptions;
use super::store::ShardStore;

const READERS: u32 = 600;
const RECORDS_EACH: u32 = 60;

/// Turns after which reads that wait are taken to wait for ever.
const TURNS_MAX: usize = 100_000;

/// A disk queue that counts what is read.
#[derive(Debug)]
struct Counting {
    queue: SimQueue,
    rng: Rng,
    read_bytes: u64,
}

impl DiskQueue<SimFile> for Counting {
    fn submit(&mut self, token: u64, op: Op<SimFile>) {
        if let Op::Read { len, .. } = &op {
            self.read_bytes += *len as u64;
        }
        self.queue.submit(token, op);
    }

    fn poll(&mut self) -> Option<Completion> {
        self.queue.poll()
    }
}

struct Rig {
    store: ShardStore<SimDisk, Counting>,
    rng: Rng,
}

fn now() -> Now {
    Now {
        monotonic_us: 1_000_000,
        wall_ms: 1_000_000_000,
    }
}

fn queue(reader: u32) -> QueueName {
    QueueName::Topic(format!("reader/{reader}").into())
}

impl Rig {
    /// A log with as many records for each reader, in no order, of which memory has few.
    fn new(reads: ReadOptions) -> Self {
        let mut options = NodeOptions::new(1, 7);
        options.log.tail_bytes_max = 64 << 10;
        options.log.cache_bytes_max = 6 << 20;
        options.reads = reads;
        Self::open(&options)
    }

    /// As [`Rig::new`], with most of the index on the disk, in many runs.
    fn with_runs() -> Self {
        let mut options = NodeOptions::new(1, 7);
        options.log.tail_bytes_max = 64 << 10;
        options.index.memtable_entries_max = 4_096;
        options.index.cache_pages = 64;
        Self::open(&options)
    }

    fn open(options: &NodeOptions) -> Self {
        let disk = SimDisk::new(7);
        let mut opened = open_node(&disk, options, now(), None).unwrap();
        let parts = opened.shards.pop().unwrap();
        let queue = Counting {
            queue: SimQueue::new(),
            rng: Rng::new(7),
            read_bytes: 0,
        };
        let store = ShardStore::new(parts.store, queue);
        let mut rig = Self {
            store,
            rng: Rng::new(8),
        };
        rig.fill();
        rig
    }

    fn fill(&mut self) {
        let mut left: Vec<u32> = (0..READERS * RECORDS_EACH).map(|n| n % READERS).collect();
        let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
        while !left.is_empty() {
            for _ in 0..500.min(left.len()) {
                let reader = left.swap_remove(self.rng.index(left.len()));
                let number = numbers.entry(reader).or_default();
                self.append(reader, *number);
                *number += 1;
            }
            self.commit();
        }
        self.store.queue.read_bytes = 0;
    }

    fn append(&mut self, reader: u32, number: u32) {
        self.append_bytes(reader, number, 300);
    }

    fn append_bytes(&mut self, reader: u32, number: u32, len: usize) {
        let mut body = vec![0; len];
        body[..4].copy_from_slice(&reader.to_le_bytes());
        body[4..8].copy_from_slice(&number.to_le_bytes());
        self.append_to(reader..=reader, &body);
    }

    /// One message in the queues of these readers.
    fn append_to(&mut self, readers: RangeInclusive<u32>, body: &[u8]) {
        let queues: Vec<_> = readers
            .map(|reader| self.store.queue(&queue(reader)).unwrap())
            .collect();
        self.store.append(&NewRecord {
            message: Some(NewMessage {
                qos: QoS::AtLeastOnce,
                retain: false,
                publisher: 1,
                packet_id: 1,
                stamp: 1 << 16,
                queues: &queues,
                body,
            }),
            changes: &[],
        });
    }

    fn commit(&mut self) {
        while self.store.durable() < self.store.appended() {
            self.store.end_turn(now(), &[]).unwrap();
            self.turn();
        }
    }

    /// The disk does what it was asked for, and reads go on.
    fn turn(&mut self) {
        let Counting { queue, rng, .. } = &mut self.store.queue;
        queue.run(rng);
        self.store.complete_all().unwrap();
        self.store.step_reads().unwrap();
    }

    /// A token has the reader's number, and how often it has asked before.
    fn pull(&mut self, reader: u32, again: u64, from: LogOffset) {
        self.pull_all(&[reader], again, from);
    }

    /// As [`Rig::pull`], of all these readers' queues at once, as the first of them.
    fn pull_all(&mut self, readers: &[u32], again: u64, from: LogOffset) {
        let reader = readers[0];
        let request = ReadRequest::Pull {
            queues: readers.iter().map(|reader| queue(*reader)).collect(),
            from,
            upto: self.store.durable(),
            limit: 1_000,
            bytes: 1 << 20,
        };
        let token = ReadToken(again << 32 | u64::from(reader));
        self.store.read(token, request);
    }

    /// Until all reads are answered.
    fn run(&mut self, mut see: impl FnMut(&mut Self, u64, &ReadAnswer)) {
        let mut turns = 0;
        while self.store.reads.len() > 0 || !self.store.answers.is_empty() {
            self.turn();
            turns += 1;
            assert!(turns < TURNS_MAX, "{} reads wait", self.store.reads.len());
            while let Some((ReadToken(token), answer)) = self.store.answers.pop_front() {
                see(self, token, &answer);
            }
        }
    }

    /// The numbers of the messages that each reader got, and how many answers there were.
    fn drain(&mut self, mut see: impl FnMut(&mut Self, u64, &ReadAnswer)) -> Drained {
        let mut drained = Drained::default();
        self.run(|rig, token, answer| {
            drained.answers += 1;
            for message in &answer.messages {
                let body = message.body.first_chunk::<8>().unwrap();
                let of = u32::from_le_bytes(*body.first_chunk().unwrap());
                assert_eq!(u64::from(of), token & 0xFFFF_FFFF);
                let number = u32::from_le_bytes(*body.last_chunk().unwrap());
                drained.numbers.entry(of).or_default().push(number);
            }
            see(rig, token, answer);
        });
        drained
    }

    /// Bytes of the log.
    fn log_bytes(&self) -> u64 {
        self.store.durable().0 - self.store.log.start().0
    }
}

#[derive(Default)]
struct Drained {
    numbers: BTreeMap<u32, Vec<u32>>,
    answers: usize,
}

impl Drained {
    #[track_caller]
    fn check_complete(&self) {
        assert_eq!(self.numbers.len(), READERS as usize);
        for (reader, numbers) in &self.numbers {
            let all: Vec<u32> = (0..RECORDS_EACH).collect();
            assert_eq!(numbers, &all, "reader {reader}");
        }
    }
}

#[test]
fn scattered_readers_cost_one_pass_over_the_log() {
    let mut rig = Rig::new(ReadOptions::default());
    for reader in 0..READERS {
        rig.pull(reader, 0, LogOffset::ZERO);
    }
    let drained = rig.drain(|_, _, _| {});
    drained.check_complete();
    assert_eq!(drained.answers, READERS as usize);
    let (read, log) = (rig.store.queue.read_bytes, rig.log_bytes());
    assert!(log > 10 << 20, "{log} bytes do not show much");
    assert!(read < log + log / 4, "{read} bytes read of {log}");
}

#[test]
fn with_little_memory_they_answer_in_part_and_cost_the_same() {
    let kept_bytes_max = 256 << 10;
    let mut rig = Rig::new(ReadOptions {
        kept_bytes_max,
        ..ReadOptions::default()
    });
    for reader in 0..READERS {
        rig.pull(reader, 0, LogOffset::ZERO);
    }
    let drained = rig.drain(|_, _, _| {});
    drained.check_complete();
    assert!(
        drained.answers > 5 * READERS as usize,
        "{}",
        drained.answers
    );
    let (read, log) = (rig.store.queue.read_bytes, rig.log_bytes());
    assert!(read < log + log / 4, "{read} bytes read of {log}");
    assert_eq!(rig.store.reads.kept_bytes(), 0);
}

#[test]
fn who_goes_away_between_two_parts_leaves_nothing() {
    let mut rig = Rig::new(ReadOptions {
        found_max: 2_000,
        kept_bytes_max: 64 << 10,
    });
    for reader in 0..READERS {
        rig.pull(reader, 0, LogOffset::ZERO);
    }
    // Every third one goes on later, from where it was.
    let mut later = BTreeMap::new();
    let drained = rig.drain(|rig, token, answer| {
        let Ok(reader) = u32::try_from(token) else {
            return;
        };
        if reader % 3 == 0 && answer.more {
            rig.store.cancel(ReadToken(token));
            rig.store.answers.retain(|(other, _)| other.0 != token);
            later.insert(reader, answer.next);
            rig.pull(reader, 1, answer.next);
        }
    });
    drained.check_complete();
    assert!(later.len() > 100, "{} were cancelled", later.len());
    assert_eq!(rig.store.reads.kept_bytes(), 0);
    assert_eq!(rig.store.reads.found(), 0);
}

#[test]
fn who_goes_away_before_or_while_it_looks_up_holds_nobody_up() {
    let mut rig = Rig::with_runs();
    for round in 0..3 {
        for reader in 0..200 {
            rig.pull(reader, round, LogOffset::ZERO);
        }
        if round > 0 {
            // Some of them look up.
            rig.store.step_reads().unwrap();
        }
        for reader in 0..200 {
            rig.store.cancel(ReadToken(round << 32 | reader));
        }
        rig.store.step_reads().unwrap();
    }
    rig.pull(0, 9, LogOffset::ZERO);
    assert!(!rig.drain(|_, _, _| {}).numbers[&0].is_empty());
}

#[test]
fn a_message_in_several_records_is_read_once() {
    let mut rig = Rig::with_runs();
    let (first, last, start) = (1_000, 20_000, rig.store.durable());
    rig.append_to(first..=last, &[first.to_le_bytes(), [7; 4]].concat());
    rig.commit();
    // More than fits into memory, and into a run.
    for number in 0..5_000 {
        rig.append(0, number);
    }
    rig.commit();
    let sets: [&[u32]; 4] = [
        &[first],
        &[first, 6_000, last],
        &[6_000, 6_001, 11_000, last],
        &[last],
    ];
    for (again, readers) in (0..).zip(sets) {
        let (mut found, mut from) = (0, start);
        while from < rig.store.durable() {
            rig.pull_all(readers, again, from);
            rig.run(|_, _, answer| {
                found += answer.messages.len();
                from = answer.next;
            });
        }
        assert_eq!(found, 1, "{readers:?}");
    }
}

#[test]
fn large_records_are_read_once_and_one_at_a_time_beside_the_others() {
    const LARGE: u32 = 6;
    const BYTES: usize = 3 << 20;
    let mut rig = Rig::new(ReadOptions::default());
    let from = rig.store.durable();
    for reader in 0..LARGE {
        rig.append_bytes(reader, RECORDS_EACH, BYTES);
        rig.commit();
    }
    rig.append(LARGE, RECORDS_EACH);
    rig.commit();
    rig.store.queue.read_bytes = 0;
    for again in 0..4 {
        for reader in 0..=LARGE {
            rig.pull(reader, again, from);
        }
    }
    // One of them does not wait for it.
    rig.store.cancel(ReadToken(3 << 32 | 1));
    let drained = rig.drain(|_, _, _| {});
    for reader in 0..=LARGE {
        let times = if reader == 1 { 3 } else { 4 };
        assert_eq!(drained.numbers[&reader], vec![RECORDS_EACH; times]);
    }
    let (read, large) = (rig.store.queue.read_bytes, LARGE as usize * BYTES);
    assert!(
        read < (large + large / 4) as u64,
        "{read} bytes read of {large}"
    );
    assert!(rig.store.log.has_large_chunk());
    let later = Now {
        monotonic_us: now().monotonic_us + 2_000_000,
        ..now()
    };
    rig.store.end_turn(later, &[]).unwrap();
    assert!(!rig.store.log.has_large_chunk(), "its memory is given back");
}
