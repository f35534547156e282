//! What was appended, as simply as can be.

use std::collections::BTreeMap;

use storage_io::sim::Rng;
use storage_log::{NewRecord, QueueId, Record, RecordKind};
use storage_state::section::{decode, encode};
use storage_state::{Change, SectionError};

/// Queues that records are put into.
const QUEUES: u64 = 30;
const KEYS: u64 = 40;

/// Keys and values of the state store.
pub(super) type Rows = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// A record with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sample {
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) kind: RecordKind,
    pub(super) stamp: u64,
    pub(super) publisher: u64,
    pub(super) packet_id: u16,
    pub(super) tag: u32,
    pub(super) queues: Vec<(QueueId, u64)>,
    pub(super) state: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Sample {
    /// The record as the log takes it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&NewRecord<'_>) -> T) -> T {
        let (head, tail) = self.body.split_at(self.body.len() / 3);
        act(&NewRecord {
            kind: self.kind,
            flags: 5,
            stamp: self.stamp,
            publisher: self.publisher,
            packet_id: self.packet_id,
            epoch: 0,
            queues: &self.queues,
            tag: self.tag,
            state: &self.state,
            body: &[head, tail],
        })
    }

    pub(super) fn of(record: &Record) -> Self {
        Self {
            at: record.address.1.0,
            end: record.end.0,
            kind: record.kind,
            stamp: record.stamp,
            publisher: record.publisher,
            packet_id: record.packet_id,
            tag: record.tag,
            queues: record.queues.iter().collect(),
            state: record.state.to_vec(),
            body: record.body.to_vec(),
        }
    }
}

/// The log as it should be, oldest record first.
#[derive(Default)]
pub(super) struct Model {
    pub(super) records: Vec<Sample>,
    /// Per queue: the entries, by queue offset from 0 on, as indexes of records.
    pub(super) queues: BTreeMap<u64, Vec<usize>>,
    /// Everything below was durable at some time.
    pub(super) durable: u64,
    /// Everything below was written when the process ended: it is there unless power is lost.
    pub(super) written: u64,
    /// The highest offset that was ever given out in a segment that has a file.
    pub(super) given: u64,
    /// The highest start of the log that was asked for, and that was seen.
    pub(super) asked_start: u64,
    pub(super) start: u64,
    stamp: u64,
}

impl Model {
    /// A record that could come next; its place is not known yet.
    pub(super) fn next(&mut self, rng: &mut Rng, body_max: usize) -> Sample {
        let is_state = rng.chance(1, 5);
        let mut body = vec![0; rng.index(body_max + 1)];
        rng.fill(&mut body);
        self.stamp += rng.below(1000);
        let mut sample = Sample {
            at: 0,
            end: 0,
            kind: RecordKind::Message,
            stamp: self.stamp,
            publisher: rng.next_u64(),
            packet_id: rng.next_u64().to_le_bytes()[0].into(),
            tag: rng.next_u64().to_le_bytes()[1].into(),
            queues: Vec::new(),
            state: Vec::new(),
            body,
        };
        if is_state {
            sample.kind = RecordKind::State;
            for _ in 0..1 + rng.below(3) {
                add_change(&mut sample.state, rng);
            }
        } else {
            sample.queues = self.some_queues(rng);
        }
        sample
    }

    /// Any number of queues, each once, with the offset that comes next there.
    fn some_queues(&self, rng: &mut Rng) -> Vec<(QueueId, u64)> {
        let mut queues: Vec<u64> = match rng.below(200) {
            // As many as a record of a quarter of the smallest segment holds.
            0 => (100..100 + 800).collect(),
            1..40 => Vec::new(),
            _ => (0..1 + rng.below(5))
                .map(|_| 1 + rng.below(QUEUES))
                .collect(),
        };
        queues.sort_unstable();
        queues.dedup();
        let next = |queue| self.queues.get(&queue).map_or(0, |list| list.len() as u64);
        queues
            .into_iter()
            .map(|queue| (QueueId(queue), next(queue)))
            .collect()
    }

    /// A state record with all rows as they are: what has to be there before older ones may go.
    pub(super) fn rows_again(&mut self) -> Result<Sample, SectionError> {
        let mut state = Vec::new();
        for ((table, key), value) in &self.rows(|_| true) {
            let (table, key, value) = (*table, key.as_slice(), Some(value.as_slice()));
            encode(&Change { table, key, value }, &mut state)?;
        }
        Ok(Sample {
            at: 0,
            end: 0,
            kind: RecordKind::State,
            stamp: self.stamp,
            publisher: 0,
            packet_id: 0,
            tag: 0,
            queues: Vec::new(),
            state,
            body: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, sample: Sample) {
        for (queue, _) in &sample.queues {
            let list = self.queues.entry(queue.0).or_default();
            list.push(self.records.len());
        }
        self.records.push(sample);
    }

    /// Everything behind the first `count` records is gone.
    pub(super) fn truncate(&mut self, count: usize) {
        self.records.truncate(count);
        for list in self.queues.values_mut() {
            list.retain(|index| *index < count);
        }
    }

    /// The rows that those records make which `wanted` picks.
    pub(super) fn rows(&self, wanted: impl Fn(&Sample) -> bool) -> Rows {
        let mut rows = Rows::new();
        for record in self.records.iter().filter(|record| wanted(record)) {
            for change in decode(&record.state).flatten() {
                let key = (change.table, change.key.to_vec());
                match change.value {
                    Some(value) => drop(rows.insert(key, value.to_vec())),
                    None => drop(rows.remove(&key)),
                }
            }
        }
        rows
    }

    /// The entries of a queue, as (queue offset, record), of records from `from` up to `upto`.
    pub(super) fn entries(&self, queue: u64, from: u64, upto: u64) -> Vec<(u64, &Sample)> {
        let list = self.queues.get(&queue).map_or(&[][..], Vec::as_slice);
        let entries = (0_u64..).zip(list);
        let found = entries.filter_map(|(offset, index)| Some((offset, self.records.get(*index)?)));
        found
            .filter(|(_, record)| record.at >= from && record.at < upto)
            .collect()
    }
}

fn add_change(section: &mut Vec<u8>, rng: &mut Rng) {
    let table = 1 + u8::try_from(rng.below(3)).unwrap_or(0);
    let key = rng.below(KEYS).to_le_bytes();
    let mut value = vec![0; rng.index(120)];
    rng.fill(&mut value);
    let value = (!rng.chance(1, 4)).then_some(value.as_slice());
    let encoded = encode(
        &Change {
            table,
            key: &key,
            value,
        },
        section,
    );
    debug_assert!(encoded.is_ok(), "a small change: {encoded:?}");
}
