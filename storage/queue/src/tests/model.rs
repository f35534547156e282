//! Appends, flushes, look-ups, crashes and replays, in an order that a seed decides.

use std::collections::BTreeMap;

use proptest::prelude::*;
use storage_io::sim::{Faults, Rng, SimDisk, SimFile, SimQueue};
use storage_io::{Disk, DiskQueue, Done};

use crate::groups::Bounds;
use crate::run_file::generation_of;
use crate::{
    Entry, Found, Index, IndexError, LogId, LogOffset, Lookup, Mending, Opened, Options, QueueId,
};

pub(super) const LOG: LogId = LogId(7);
const QUEUES: u64 = 40;

pub(super) fn options() -> Options {
    Options {
        memtable_entries_max: 150,
        memtable_log_bytes_max: 20_000,
        cache_pages: 0,
        merge_from_runs: 12,
        join_from_runs: usize::MAX,
    }
}

/// Options with which runs are joined all the time.
pub(super) fn joining() -> Options {
    Options {
        merge_from_runs: usize::MAX,
        join_from_runs: 6,
        ..options()
    }
}

type Recorded = (u64, u64, Vec<Entry>);

/// The log as the index knows it, and an index of it on a simulated disk.
pub(super) struct Model {
    pub(super) options: Options,
    pub(super) bounds: Bounds,
    pub(super) disk: SimDisk,
    pub(super) queue: SimQueue,
    pub(super) index: Index<SimDisk>,
    rng: Rng,
    /// Every record: where it is, where it ends, and its entries.
    records: Vec<Recorded>,
    entries: BTreeMap<u64, Vec<Entry>>,
    end: u64,
    durable: u64,
    /// Where the log begins, durably; the index may not know yet.
    start: u64,
    /// Bytes of the log from which holes were filled.
    pub(super) mended: u64,
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, options())
    }

    pub(super) fn with(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(rng.next_u64()).sub("cq").unwrap();
        let opened = Index::open(disk.clone(), LOG, options.clone()).unwrap();
        assert_eq!(opened.damage, []);
        let (queue, index) = (SimQueue::new(), opened.index);
        let (records, entries) = (Vec::new(), BTreeMap::new());
        Self {
            options,
            bounds: Bounds::default(),
            disk,
            queue,
            index,
            rng,
            records,
            entries,
            end: 4096,
            durable: 4096,
            start: 0,
            mended: 0,
        }
    }

    pub(super) fn append(&mut self) {
        let at = self.end;
        let size = 64 + u32::try_from(self.rng.below(300)).unwrap();
        let mut record = Vec::new();
        // One queue has everything, some records are in a few others.
        let mut queues = vec![1_000_000];
        queues.extend((0..self.rng.below(4)).map(|_| self.rng.below(QUEUES) * 3));
        queues.sort_unstable();
        queues.dedup();
        for queue in queues {
            let list: &mut Vec<Entry> = self.entries.entry(queue).or_default();
            let next = list.last().map_or(0, |entry| entry.queue_offset + 1);
            assert_eq!(self.index.next_offset(QueueId(queue)), next);
            // A log that lost records leaves a gap now and then.
            let gap = if self.rng.chance(1, 200) {
                self.rng.below(5)
            } else {
                0
            };
            let tag = u32::try_from(self.rng.below(3)).unwrap();
            let queue_offset = next + gap;
            let (queue, at) = (QueueId(queue), LogOffset(at));
            let entry = Entry {
                queue,
                queue_offset,
                at,
                size,
                tag,
            };
            list.push(entry);
            record.push(entry);
        }
        self.index.append(&record).unwrap();
        self.index.advance(LogOffset(self.end));
        let lonely = if self.rng.chance(1, 50) {
            self.rng.below(5000) * 8
        } else {
            0
        };
        self.end += u64::from(size) + lonely;
        self.records.push((at, self.end, record));
    }

    /// The log's start moves to some record that is durable.
    pub(super) fn retire(&mut self) {
        let durable = self
            .records
            .partition_point(|(_, end, _)| *end <= self.durable);
        if durable > 0 {
            let (at, ..) = self.records[self.rng.index(durable)];
            self.start = self.start.max(at);
            self.index.retire(LogOffset(self.start));
        }
    }

    /// What a queue has above the start that the index knows.
    fn visible(&self, queue: QueueId) -> Vec<Entry> {
        let start = self.index.start();
        let list = self.entries.get(&queue.0).into_iter().flatten();
        list.filter(|entry| entry.at >= start).copied().collect()
    }

    /// First and last queue offset and number of entries, by queue.
    pub(super) fn summary(&self) -> BTreeMap<QueueId, (u64, u64, u64)> {
        let mut all = BTreeMap::new();
        for queue in self.entries.keys().map(|queue| QueueId(*queue)) {
            let list = self.visible(queue);
            if let (Some(first), Some(last)) = (list.first(), list.last()) {
                let count = list.len() as u64;
                all.insert(queue, (first.queue_offset, last.queue_offset, count));
            }
        }
        all
    }

    pub(super) fn sync(&mut self) {
        self.durable = self.end;
    }

    /// One turn of the shard: begin a flush, move some operations, take what is complete.
    pub(super) fn turn(&mut self) -> Result<(), IndexError> {
        self.index.flush(LogOffset(self.durable), &mut self.queue)?;
        assert!(self.queue.under_way() <= 1, "the manifest has one writer");
        for _ in 0..self.rng.below(4) {
            self.queue.step(&mut self.rng);
        }
        while let Some(completion) = self.queue.poll() {
            assert!(Index::<SimDisk>::is_flush(completion.token));
            self.index.complete(completion, &mut self.queue)?;
        }
        Ok(())
    }

    /// A turn in which the disk moves once at most; false when there was nothing to do.
    pub(super) fn step(&mut self) -> bool {
        let index = &mut self.index;
        let mut is_busy = !index.unlisted.is_empty();
        index
            .flush(LogOffset(self.durable), &mut self.queue)
            .unwrap();
        is_busy |= index.flushing.is_some() || index.merging.is_some() || index.is_preparing;
        self.queue.step(&mut self.rng);
        while let Some(completion) = self.queue.poll() {
            self.index.complete(completion, &mut self.queue).unwrap();
        }
        is_busy
    }

    /// Turns until everything is in runs.
    pub(super) fn settle(&mut self) {
        self.sync();
        self.freeze();
        for _ in 0..10_000 {
            self.turn().unwrap();
            let is_retired = self.index.start().0 >= self.start;
            if self.index.counters().memtables_frozen == 0 && is_retired {
                assert_eq!(self.index.counters().entries_in_memory, 0);
                return;
            }
        }
        panic!("a flush does not end");
    }

    pub(super) fn freeze(&mut self) {
        self.index.freeze();
    }

    /// A look-up that begins anywhere, by log offset or by queue offset.
    pub(super) fn look_up(&mut self) {
        let queue = QueueId(match self.rng.below(3) {
            0 => 1_000_000,
            _ => self.rng.below(QUEUES * 3 + 1),
        });
        let max = 1 + self.rng.index(50);
        let list = self.visible(queue);
        if self.rng.chance(1, 2) {
            let from = LogOffset(self.rng.below(self.end + 100));
            let upto = LogOffset(self.rng.below(self.end + 100));
            let wanted: Vec<_> = list
                .iter()
                .filter(|e| e.at >= from && e.at < upto)
                .take(max)
                .copied()
                .collect();
            assert_eq!(
                self.all(queue, from, upto, max),
                wanted,
                "{queue:?} {from} {upto}"
            );
        } else {
            let last = list.last().map_or(0, |entry| entry.queue_offset);
            let from = self.rng.below(last + 3);
            let wanted: Vec<_> = list
                .iter()
                .filter(|e| e.queue_offset >= from)
                .take(max)
                .copied()
                .collect();
            assert_eq!(
                self.all_by_offset(queue, from, max),
                wanted,
                "{queue:?} {from}"
            );
        }
    }

    /// Reads until `max` entries are found or there are no more.
    fn all(&mut self, queue: QueueId, from: LogOffset, upto: LogOffset, max: usize) -> Vec<Entry> {
        let mut all = Vec::new();
        let mut next = from;
        while all.len() < max {
            let found = loop {
                match self.index.read(queue, next, upto, max - all.len()).unwrap() {
                    Lookup::Ready(found) => break found,
                    Lookup::Missing(page) => {
                        let token = page.token;
                        assert!(!Index::<SimDisk>::is_flush(token));
                        let mut reads = SimQueue::new();
                        reads.submit(token, page.op());
                        self.insert(&mut reads);
                    }
                }
            };
            assert!(
                found.next > next || found.next == upto,
                "a look-up has to go on"
            );
            next = found.next;
            all.extend(found.entries);
            if next >= upto {
                break;
            }
        }
        all
    }

    fn all_by_offset(&mut self, queue: QueueId, from: u64, max: usize) -> Vec<Entry> {
        let mut all = Vec::new();
        let mut next = from;
        while all.len() < max {
            match self
                .index
                .read_by_offset(queue, next, max - all.len())
                .unwrap()
            {
                Lookup::Ready(Found { entries, next: on }) => {
                    if entries.is_empty() {
                        break;
                    }
                    all.extend(entries);
                    next = on;
                }
                Lookup::Missing(page) => {
                    let mut reads = SimQueue::new();
                    reads.submit(page.token, page.op());
                    self.insert(&mut reads);
                }
            }
        }
        all
    }

    fn insert(&mut self, reads: &mut SimQueue) {
        reads.run(&mut self.rng);
        let completion = DiskQueue::<SimFile>::poll(reads).unwrap();
        let Ok(Done::Read(bytes)) = completion.result else {
            panic!("a read failed")
        };
        self.index.insert_page(completion.token, bytes).unwrap();
    }

    /// Power is lost. The log keeps what was durable and a little more, by chance.
    pub(super) fn crash(&mut self) {
        self.disk.crash(self.rng.next_u64());
        let tail = self
            .records
            .partition_point(|(_, end, _)| *end <= self.durable);
        let kept = tail + self.rng.index(self.records.len() - tail + 1);
        self.records.truncate(kept);
        self.restart();
        // The first offset behind a recovery is above all that could have been assigned.
        self.end += 100_000;
    }

    /// Opens the index again and replays what it asks for.
    pub(super) fn restart(&mut self) -> Vec<IndexError> {
        self.end = self.records.last().map_or(4096, |(_, end, _)| *end);
        self.durable = self.end;
        self.entries.clear();
        for (_, _, record) in &self.records {
            for entry in record {
                self.entries.entry(entry.queue.0).or_default().push(*entry);
            }
        }
        self.queue = SimQueue::new();
        let opened = Index::open(self.disk.clone(), LOG, self.options.clone()).unwrap();
        let Opened { index, damage } = opened;
        self.index = index;
        let from = self.index.truncate_above(LogOffset(self.end)).unwrap();
        self.index.bounds = self.bounds;
        self.index.retire_blocking(LogOffset(self.start)).unwrap();
        self.mend();
        let from = from.max(self.index.start());
        assert!(
            from <= LogOffset(self.end),
            "{from} is above the end {}",
            self.end
        );
        // A replay may begin earlier, as another part of the store may need it.
        let earlier = from.0 - from.0.min(self.rng.below(2000));
        for (at, _, record) in &self.records {
            if *at >= earlier.max(self.start) {
                self.index.append(record).unwrap();
                if self.index.is_full() {
                    self.index.flush_blocking(LogOffset(self.durable)).unwrap();
                }
            }
        }
        // Whoever names the queues knows how far their offsets were given out.
        for (queue, list) in &self.entries {
            let next = list.last().map_or(0, |entry| entry.queue_offset + 1);
            self.index.raise_next_offset(QueueId(*queue), next);
        }
        damage
    }

    /// Fills the holes with what the log has there; some records around them are offered, too.
    fn mend(&mut self) {
        while let Some(mut mending) = self.index.mend() {
            let range = mending.range();
            self.mended += range.end.0 - range.start.0;
            offer(&self.records, &mut mending).unwrap();
            mending.finish().unwrap();
        }
    }

    /// Offers to a hole of another index what the log has there.
    pub(super) fn offer(&self, mending: &mut Mending<'_, SimDisk>) -> Result<(), IndexError> {
        offer(&self.records, mending)
    }

    /// A file of the index is lost or damaged; all of it comes back.
    fn spoil(&mut self) {
        let mut names = self.disk.list().unwrap();
        names.retain(|name| generation_of(name).is_some());
        for _ in 0..=self.rng.below(2) {
            if names.is_empty() {
                break;
            }
            let name = names.swap_remove(self.rng.index(names.len()));
            if self.rng.chance(1, 2) {
                self.disk.remove(&name).unwrap();
            } else {
                let len = self.disk.contents(&name).unwrap().len();
                // A flush that was cut short may have left an empty one.
                if len > 0 {
                    self.disk.flip_bit(&name, self.rng.index(len), 1);
                }
            }
        }
        // Until now all that was flushed is durable; a crash would lose more.
        self.restart();
        self.end += 100_000;
    }

    /// Every queue, whole.
    pub(super) fn check(&mut self) {
        for (queue, all) in self.entries.clone() {
            let queue = QueueId(queue);
            let list = self.visible(queue);
            let last = list.last().map_or(LogOffset(0), |entry| entry.at);
            assert!(list.is_empty() || self.index.may_hold(queue, last));
            let upto = LogOffset(self.end);
            assert_eq!(self.all(queue, LogOffset(0), upto, usize::MAX), list);
            assert_eq!(self.all_by_offset(queue, 0, usize::MAX), list);
            let next = all.last().map_or(0, |entry| entry.queue_offset + 1);
            assert_eq!(self.index.next_offset(queue), next);
        }
        let absent = QueueId(u64::MAX);
        assert_eq!(self.all(absent, LogOffset(0), LogOffset(self.end), 10), []);
        assert_eq!(self.index.next_offset(absent), 0);
    }
}

fn offer(records: &[Recorded], mending: &mut Mending<'_, SimDisk>) -> Result<(), IndexError> {
    let range = mending.range();
    for (at, _, record) in records {
        if *at + 1000 >= range.start.0 && *at < range.end.0 + 1000 {
            mending.append(record)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u16),
    Sync,
    Turn(u8),
    Freeze,
    LookUp(u8),
    Retire,
    Crash,
    Spoil,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u16..120).prop_map(Step::Append),
        3 => Just(Step::Sync),
        6 => (1_u8..20).prop_map(Step::Turn),
        1 => Just(Step::Freeze),
        3 => (1_u8..8).prop_map(Step::LookUp),
        1 => Just(Step::Retire),
        1 => Just(Step::Crash),
        1 => Just(Step::Spoil),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_index_is_the_model(seed in any::<u64>(), joins in any::<bool>(), steps in steps()) {
        let mut model = Model::with(seed, if joins { joining() } else { options() });
        for step in steps {
            match step {
                Step::Append(count) => (0..count).for_each(|_| model.append()),
                Step::Sync => model.sync(),
                Step::Turn(count) => (0..count).for_each(|_| model.turn().unwrap()),
                Step::Freeze => model.freeze(),
                Step::LookUp(count) => (0..count).for_each(|_| model.look_up()),
                Step::Retire => model.retire(),
                Step::Crash => model.crash(),
                Step::Spoil => model.spoil(),
            }
        }
        model.check();
        model.settle();
        model.check();
        let start = model.start;
        let runs = model.index.runs.iter().map(|run| run.id.high.0);
        prop_assert!(runs.min().is_none_or(|high| high > start), "a run outlives its range");
        let replayed = model.index.counters();
        prop_assert_eq!(model.restart(), []);
        model.check();
        prop_assert_eq!(model.index.counters().entries_in_runs, replayed.entries_in_runs);
    }
}

#[test]
fn a_disk_that_lies_about_syncs_is_noticed() {
    let noticed = (0..20).filter(|seed| {
        let mut model = Model::new(*seed);
        model.disk.set_faults(Faults {
            ignore_syncs: true,
            ..Faults::default()
        });
        (0..500).for_each(|_| model.append());
        model.settle();
        model.disk.crash(*seed);
        let damage = model.restart();
        model.check();
        !damage.is_empty() || model.index.counters().entries_in_memory > 0
    });
    assert_eq!(noticed.count(), 20, "the syncs of a flush are not needed");
}

#[test]
fn a_failed_write_ends_flushing_and_loses_nothing() {
    let mut failures = 0;
    for seed in 0..20 {
        let mut model = Model::new(seed);
        (0..300).for_each(|_| model.append());
        model.sync();
        let (writes_per_10k, syncs_per_10k) = (500, 500);
        model.disk.set_faults(Faults {
            writes_per_10k,
            syncs_per_10k,
            ..Faults::default()
        });
        let failed = (0..200).find_map(|_| model.turn().err());
        model.disk.set_faults(Faults::default());
        if let Some(error) = failed {
            assert!(matches!(error, IndexError::Disk(_)), "{error}");
            assert_eq!(
                model.index.flush(LogOffset(u64::MAX), &mut model.queue),
                Err(error)
            );
            failures += 1;
        }
        model.crash();
        model.check();
        model.settle();
        model.check();
    }
    assert!(failures > 3, "only {failures} of 20 runs met a fault");
}

#[test]
fn a_start_joins_small_runs() {
    let mut model = Model::new(1);
    (0..1500).for_each(|_| model.append());
    model.settle();
    let before = model.index.counters();
    assert!(before.runs > 12);
    assert_eq!(model.restart(), []);
    let after = model.index.counters();
    assert_eq!(
        (after.runs, after.entries_in_runs),
        (1, before.entries_in_runs)
    );
    assert_eq!(
        model.disk.list().unwrap().len(),
        2,
        "the joined runs are gone"
    );
    model.check();
    (0..300).for_each(|_| model.append());
    model.settle();
    model.crash();
    model.check();
    assert_eq!(model.restart(), []);
    model.check();
}

#[test]
fn a_crash_while_runs_are_joined_leaves_one_set_or_the_other() {
    let mut failures = 0;
    for seed in 0..25 {
        let mut model = Model::new(seed);
        (0..1000).for_each(|_| model.append());
        model.settle();
        let before = model.index.counters();
        let (writes_per_10k, syncs_per_10k) = (1000, 1000);
        model.disk.set_faults(Faults {
            writes_per_10k,
            syncs_per_10k,
            ..Faults::default()
        });
        failures += u32::from(Index::open(model.disk.clone(), LOG, options()).is_err());
        model.disk.set_faults(Faults::default());
        model.disk.crash(seed);
        assert_eq!(model.restart(), [], "no run is missing or damaged");
        assert_eq!(
            model.index.counters().entries_in_runs,
            before.entries_in_runs
        );
        model.check();
    }
    assert!(failures > 3, "only {failures} of 25 merges met a fault");
}

#[test]
fn a_log_without_entries_is_covered_and_never_beyond_its_end() {
    let disk = SimDisk::new(1).sub("cq").unwrap();
    let mut index = Index::open(disk.clone(), LOG, options()).unwrap().index;
    // Behind a recovery: the log ends below 5,000 and goes on at 1,000,000.
    let next = LogOffset(1_000_000);
    for _ in 0..3 {
        index.advance(next);
        index.flush_blocking(next).unwrap();
        assert_eq!(
            index.indexed_upto(),
            LogOffset(0),
            "a crash now leaves a shorter log"
        );
    }
    index.advance(LogOffset(next.0 + 100));
    index.flush_blocking(next).unwrap();
    assert_eq!(
        index.indexed_upto(),
        LogOffset(0),
        "what came behind is not durable"
    );
    index.flush_blocking(LogOffset(next.0 + 100)).unwrap();
    assert_eq!(index.indexed_upto(), next);
    let entry = |queue_offset, at| {
        let (queue, at) = (QueueId(1), LogOffset(at));
        Entry {
            queue,
            queue_offset,
            at,
            size: 8,
            tag: 0,
        }
    };
    index.append(&[entry(0, next.0 + 100)]).unwrap();
    index.advance(LogOffset(next.0 + 108));
    index.freeze();
    index.flush_blocking(LogOffset(next.0 + 108)).unwrap();
    assert_eq!(
        index.indexed_upto(),
        LogOffset(next.0 + 101),
        "just behind the record's start"
    );
    let mut index = Index::open(disk, LOG, options()).unwrap().index;
    let found = index
        .read_blocking(QueueId(1), LogOffset(0), LogOffset(u64::MAX), 9)
        .unwrap();
    assert_eq!(found.entries, [entry(0, next.0 + 100)]);
}
