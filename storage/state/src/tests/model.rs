//! Logs of changes, a store that follows them, and crashes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use storage_io::sim::{Faults, Rng};

use super::fuse::FuseDisk;
use crate::section::encode;
use crate::{Change, Opened, Options, Row, StateError, StateStore, Walk, Writing};

pub(super) type Rows = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

pub(super) fn options() -> Options {
    Options {
        batch_bytes_min: 3000,
        overlay_bytes_max: 20_000,
        ..Options::default()
    }
}

/// One record of a log.
struct Record {
    log: u32,
    end: u64,
    section: Vec<u8>,
}

/// Two logs, and the store of one shard that follows them.
pub(super) struct Model {
    pub(super) disk: FuseDisk,
    pub(super) store: StateStore,
    rng: Rng,
    /// In the order in which they were appended, and applied.
    records: Vec<Record>,
    durable: [u64; 2],
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let disk = FuseDisk::new(rng.next_u64());
        let (store, opened) =
            StateStore::open_or_rebuild(&disk, options(), Writing::Inline).unwrap();
        assert_eq!(opened, Opened::Sound);
        Self {
            disk,
            store,
            rng,
            records: Vec::new(),
            durable: [0; 2],
        }
    }

    fn end_of(&self, log: u32) -> u64 {
        let last = self.records.iter().rev().find(|record| record.log == log);
        last.map_or(0, |record| record.end)
    }

    pub(super) fn append(&mut self) {
        let log = u32::from(self.rng.chance(1, 4));
        let end = self.end_of(log) + 8 + 8 * self.rng.below(20);
        let mut section = Vec::new();
        for _ in 0..self.rng.below(4) {
            let table = 1 + u8::try_from(self.rng.below(3)).unwrap();
            // Every log has keys of its own: nobody else says which of two logs is right.
            let key = format!("{log}/{}", self.rng.below(40));
            let mut value = vec![0; self.rng.index(200)];
            self.rng.fill(&mut value);
            let value = (!self.rng.chance(1, 4)).then_some(value.as_slice());
            encode(
                &Change {
                    table,
                    key: key.as_bytes(),
                    value,
                },
                &mut section,
            )
            .unwrap();
        }
        self.store.apply(log, end, &section).unwrap();
        self.records.push(Record { log, end, section });
    }

    /// Some of the logs become durable.
    pub(super) fn sync(&mut self) {
        for log in [0, 1] {
            if self.rng.chance(2, 3) {
                self.durable[log as usize] = self.end_of(log);
            }
        }
    }

    pub(super) fn flush(&mut self, now: bool) -> Result<(), StateError> {
        let durable = self.durable;
        let durable = |log: u32| durable[log as usize];
        if now {
            self.store.flush_now(durable)
        } else {
            self.store.flush(durable)
        }
    }

    /// Power is lost. Each log keeps what was durable and by chance some more.
    pub(super) fn crash(&mut self) {
        self.disk.disk.crash(self.rng.next_u64());
        for log in [0, 1] {
            let durable = self.durable[log as usize];
            let lost = |record: &Record| record.log == log && record.end > durable;
            let keep = self
                .rng
                .index(self.records.iter().filter(|r| lost(r)).count() + 1);
            let mut seen = 0;
            self.records.retain(|record| {
                seen += usize::from(lost(record));
                !lost(record) || seen <= keep
            });
            self.durable[log as usize] = self.end_of(log);
        }
        self.restart();
    }

    /// Opens the store again, checks that it holds one state of the past, and replays the logs.
    pub(super) fn restart(&mut self) -> Opened {
        self.disk.arm(u64::MAX);
        // The store before ends first, as a process does.
        let other = StateStore::open(&FuseDisk::new(0), options(), Writing::Inline).unwrap();
        drop(std::mem::replace(&mut self.store, other));
        let (store, opened) =
            StateStore::open_or_rebuild(&self.disk, options(), Writing::Inline).unwrap();
        self.store = store;
        let applied = [self.store.applied(0), self.store.applied(1)];
        for (applied, durable) in applied.iter().zip(self.durable) {
            assert!(
                *applied <= durable,
                "{applied} is applied, {durable} is durable"
            );
        }
        for (log, applied) in (0_u32..).zip(applied) {
            let is_end = |record: &Record| record.log == log && record.end == applied;
            assert!(
                applied == 0 || self.records.iter().any(is_end),
                "{applied} ends no record"
            );
        }
        assert_eq!(
            self.rows(),
            self.expected(|record| record.end <= applied[record.log as usize])
        );
        for log in [0, 1] {
            let from = applied[log as usize].saturating_sub(self.rng.below(300));
            for record in self.records.iter().filter(|r| r.log == log && r.end > from) {
                self.store.apply(log, record.end, &record.section).unwrap();
            }
        }
        opened
    }

    /// The rows that the records make which `wanted` picks.
    fn expected(&self, wanted: impl Fn(&Record) -> bool) -> Rows {
        let mut rows = Rows::new();
        for record in self.records.iter().filter(|record| wanted(record)) {
            for change in crate::section::decode(&record.section) {
                let change = change.unwrap();
                let key = (change.table, change.key.to_vec());
                match change.value {
                    Some(value) => drop(rows.insert(key, value.to_vec())),
                    None => drop(rows.remove(&key)),
                }
            }
        }
        rows
    }

    pub(super) fn rows(&self) -> Rows {
        let rows = self.store.scan_all().unwrap().map(|row| {
            let Row { table, key, value } = row.unwrap();
            ((table, key), value)
        });
        rows.collect()
    }

    /// A walk shows the rows that are asked for and no others, however far they lie apart.
    fn check_walk(&self, table: u8, all: &Rows, stride: usize) {
        let all: Vec<_> = all.iter().filter(|row| row.0.0 == table).collect();
        let mut at = 0;
        let visit = &mut |key: &[u8], value: &[u8]| {
            let wanted = all[at];
            assert_eq!((key, value), (wanted.0.1.as_slice(), wanted.1.as_slice()));
            let next = at + 1;
            // Now and then far, else near.
            at = if next % 3 == 0 {
                next + stride - 1
            } else {
                next
            };
            match all.get(at).map(|row| row.0.1.clone()) {
                None => {
                    at = all.len();
                    Walk::Stop
                }
                Some(_) if at == next && stride > 1 => Walk::Next,
                Some(mut key) if at % 2 == 0 => {
                    // A key that is not there, in front of the row.
                    *key.last_mut().unwrap() -= 1;
                    key.push(0xFF);
                    Walk::Seek(key)
                }
                Some(key) => Walk::Seek(key),
            }
        };
        self.store.walk(table, &[], visit).unwrap();
        assert_eq!(at, all.len(), "table {table}, {stride} at a time");
    }

    /// Every way to read gives what the logs say.
    pub(super) fn check(&self) {
        let expected = self.expected(|_| true);
        assert_eq!(self.rows(), expected);
        for table in 0..5 {
            for stride in [1, 3, 10] {
                self.check_walk(table, &expected, stride);
            }
            for prefix in ["", "0/", "1/", "1/2", "9"] {
                let rows = self.store.scan(table, prefix.as_bytes()).unwrap();
                let rows: Rows = rows
                    .map(|row| row.map(|row| ((row.table, row.key), row.value)).unwrap())
                    .collect();
                let mut wanted = expected.clone();
                wanted.retain(|key, _| key.0 == table && key.1.starts_with(prefix.as_bytes()));
                assert_eq!(rows, wanted, "table {table}, prefix {prefix}");
            }
            for key in 0..40 {
                let key = format!("0/{key}").into_bytes();
                let wanted = expected.get(&(table, key.clone())).cloned();
                assert_eq!(self.store.get(table, &key).unwrap(), wanted);
            }
        }
    }

    /// Everything becomes durable, and is in the database.
    pub(super) fn settle(&mut self) {
        self.store.settle(|_| u64::MAX).unwrap();
        let counters = self.store.counters();
        assert_eq!((counters.overlay_bytes, counters.sections_waiting), (0, 0));
        for log in [0, 1] {
            assert_eq!(self.store.applied(log), self.end_of(log));
            self.durable[log as usize] = self.end_of(log);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u8),
    Sync,
    Flush,
    FlushNow,
    Check,
    Crash,
    /// The device stops after so many operations; what comes of it is a crash.
    Fuse(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u8..30).prop_map(Step::Append),
        3 => Just(Step::Sync),
        3 => Just(Step::Flush),
        1 => Just(Step::FlushNow),
        1 => Just(Step::Check),
        1 => Just(Step::Crash),
        1 => (0_u64..20).prop_map(Step::Fuse),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_the_model(seed in any::<u64>(), steps in steps()) {
        let mut model = Model::new(seed);
        for step in steps {
            match step {
                Step::Append(count) => (0..count).for_each(|_| model.append()),
                Step::Sync => model.sync(),
                Step::Flush | Step::FlushNow => {
                    if let Err(error) = model.flush(matches!(step, Step::FlushNow)) {
                        prop_assert!(matches!(error, StateError::Disk(_)), "{}", error);
                        prop_assert_eq!(model.flush(false), Err(error), "poisoned");
                        model.crash();
                    }
                }
                Step::Check => model.check(),
                Step::Crash => model.crash(),
                Step::Fuse(operations) => model.disk.arm(operations),
            }
        }
        model.check();
        model.crash();
        model.settle();
        model.check();
        prop_assert_eq!(model.restart(), Opened::Sound);
        prop_assert_eq!(model.store.counters().changes_applied, 0, "nothing is replayed");
        model.check();
    }
}

#[test]
fn a_crash_at_any_operation_leaves_one_state_of_the_past() {
    let mut burnt = 0;
    for operations in 0..400 {
        let mut model = Model::new(operations);
        (0..60).for_each(|_| model.append());
        model.settle();
        model.disk.arm(operations);
        (0..60).for_each(|_| model.append());
        model.sync();
        let first = model.flush(true);
        (0..20).for_each(|_| model.append());
        model.sync();
        let second = model.flush(true);
        model.crash();
        model.check();
        model.settle();
        model.check();
        if first.is_ok() && second.is_ok() {
            break;
        }
        burnt += 1;
    }
    assert!(
        (8..400).contains(&burnt),
        "two commits have {burnt} operations"
    );
}

#[test]
fn without_syncs_the_past_is_lost() {
    let noticed = (0..10).filter(|seed| {
        let mut model = Model::new(*seed);
        model.disk.disk.set_faults(Faults {
            ignore_syncs: true,
            ..Faults::default()
        });
        (0..100).for_each(|_| model.append());
        model.settle();
        let applied = model.store.applied(0);
        model.disk.disk.crash(*seed);
        let opened = model.restart();
        model.check();
        opened != Opened::Sound || model.store.applied(0) < applied
    });
    // By chance, a crash may keep every sector.
    assert!(noticed.count() > 6, "the syncs of a commit are not needed");
}

#[test]
fn the_overlay_is_bounded_by_back_pressure() {
    let mut model = Model::new(1);
    let mut records = 0;
    while !model.store.is_full() {
        model.append();
        records += 1;
        assert!(records < 1000, "the store never calls itself full");
    }
    model.flush(true).unwrap();
    assert!(model.store.is_full(), "nothing is durable yet");
    model.settle();
    assert!(!model.store.is_full());
    model.check();
}

#[test]
fn a_thread_writes_the_same() {
    let disk = FuseDisk::new(5);
    let mut threads = Vec::new();
    let mut spawn = |run: Box<dyn FnOnce() + Send>| {
        threads.push(std::thread::Builder::new().spawn(run).unwrap());
    };
    let writing = Writing::Background(&mut spawn);
    let mut store = StateStore::open(&disk, options(), writing).unwrap();
    let mut end = 0;
    for round in 0..50_u32 {
        let mut section = Vec::new();
        let key = (round % 7).to_le_bytes();
        let value = round.to_le_bytes();
        encode(
            &Change {
                table: 1,
                key: &key,
                value: Some(&value),
            },
            &mut section,
        )
        .unwrap();
        end += 100;
        store.apply(3, end, &section).unwrap();
        store.flush_now(|_| end).unwrap();
        assert_eq!(
            store.get(1, &key).unwrap().as_deref(),
            Some(value.as_slice())
        );
    }
    store.settle(|_| end).unwrap();
    assert_eq!(store.applied(3), end);
    drop(store);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let store = StateStore::open(&disk, options(), Writing::Inline).unwrap();
    assert_eq!(store.applied_logs().collect::<Vec<_>>(), [(3, end)]);
    assert_eq!(store.scan(1, &[]).unwrap().count(), 7);
}

fn put(store: &mut StateStore, end: u64, value: &[u8]) {
    let key = end.to_le_bytes();
    let change = Change {
        table: 1,
        key: &key,
        value: Some(value),
    };
    let mut section = Vec::new();
    encode(&change, &mut section).unwrap();
    store.apply(3, end, &section).unwrap();
}

#[test]
fn a_thread_waits_for_room_on_a_full_disk() {
    let disk = FuseDisk::new(5);
    let mut threads = Vec::new();
    let mut spawn = |run: Box<dyn FnOnce() + Send>| {
        threads.push(std::thread::Builder::new().spawn(run).unwrap());
    };
    let full = || {
        let used = disk.contents_len();
        disk.disk.set_faults(Faults {
            space_bytes: Some(used),
            ..Faults::default()
        });
    };
    let writing = Writing::Background(&mut spawn);
    let mut store = StateStore::open(&disk, options(), writing).unwrap();
    let (value, mut end) = (vec![7; 3_000], 0);
    full();
    while !store.waits_for_room() {
        end += 100;
        put(&mut store, end, &value);
        store.settle(|_| end).unwrap();
        assert!(end < 1_000_000, "the disk is not full");
    }
    assert!(store.applied(3) < end);
    while !store.is_full() {
        end += 100;
        put(&mut store, end, &value);
        store.settle(|_| end).unwrap();
    }
    let first = store.get(1, &100_u64.to_le_bytes()).unwrap();
    assert_eq!(first.as_deref(), Some(&value[..]));
    // There is room.
    disk.disk.set_faults(Faults::default());
    while store.applied(3) < end {
        store.settle(|_| end).unwrap();
    }
    assert!(!store.is_full() && !store.waits_for_room());
    // There is none again, and the store is dropped while its thread waits.
    full();
    while !store.waits_for_room() {
        end += 100;
        put(&mut store, end, &value);
        store.settle(|_| end).unwrap();
    }
    let applied = store.applied(3);
    drop(store);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    disk.disk.set_faults(Faults::default());
    let store = StateStore::open(&disk, options(), Writing::Inline).unwrap();
    assert_eq!(store.applied_logs().collect::<Vec<_>>(), [(3, applied)]);
}

#[test]
fn a_failing_thread_is_reported() {
    let disk = FuseDisk::new(6);
    let mut spawn = |run: Box<dyn FnOnce() + Send>| {
        drop(std::thread::Builder::new().spawn(run).unwrap());
    };
    let writing = Writing::Background(&mut spawn);
    let mut store = StateStore::open(&disk, options(), writing).unwrap();
    disk.arm(1);
    let mut section = Vec::new();
    encode(
        &Change {
            table: 1,
            key: b"k",
            value: Some(b"v"),
        },
        &mut section,
    )
    .unwrap();
    store.apply(0, 10, &section).unwrap();
    let error = store.settle(|_| 10).unwrap_err();
    assert!(matches!(error, StateError::Disk(_)), "{error}");
    assert_eq!(store.flush(|_| 10), Err(error));
    assert_eq!(store.applied(0), 0);
}

#[test]
fn changes_come_in_log_order() {
    let mut model = Model::new(7);
    model.store.apply(9, 100, &[]).unwrap();
    let error = model.store.apply(9, 50, &[]).unwrap_err();
    assert_eq!(
        error,
        StateError::Order {
            log: 9,
            end: 50,
            seen: 100
        }
    );
    let error = model.store.apply(9, 200, &[1, 2]).unwrap_err();
    assert!(
        matches!(
            error,
            StateError::Section {
                log: 9,
                end: 200,
                ..
            }
        ),
        "{error}"
    );
    // An empty section only moves the applied offset.
    model.store.flush_now(|_| 80).unwrap();
    assert_eq!(model.store.applied(9), 0, "80 is not the end of a record");
    model.store.apply(9, 150, &[]).unwrap();
    model.store.flush_now(|_| 80).unwrap();
    model.store.apply(9, 200, &[]).unwrap();
    model.store.flush_now(|_| 180).unwrap();
    assert!(
        [100, 150].contains(&model.store.applied(9)),
        "a busy log advances, too"
    );
    model.store.flush_now(|_| 1000).unwrap();
    assert_eq!(model.store.applied(9), 200);
}
