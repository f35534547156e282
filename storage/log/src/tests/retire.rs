//! Segments that retire: whatever is retired, recycled and crashed in between, what was durable at
//! or above the start is there, nothing else is, and the directory stays small.

use storage_io::Disk;
use storage_io::sim::{Faults, SimQueue};

use super::reading::read_cold;
use super::rig::{Rig, Sample, recover, samples};
use crate::{LogError, LogOffset, LogOptions};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        seed: 11,
        ..LogOptions::default()
    }
}

/// What one life of the log did.
struct Model {
    rig: Rig,
    /// Everything that is or was in the log, in order.
    all: Vec<(LogOffset, LogOffset, Sample)>,
    /// The highest start that was ever asked for.
    asked: LogOffset,
    now: u64,
    recycled: usize,
    retired: usize,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            rig: Rig::new(seed, options()),
            all: Vec::new(),
            asked: LogOffset(0),
            now: 0,
            recycled: 0,
            retired: 0,
        }
    }

    fn live(&mut self, steps: usize) -> Result<(), LogError> {
        for _ in 0..steps {
            let rig = &mut self.rig;
            match rig.rng.below(20) {
                0..6 if !rig.log.is_full() => {
                    let body_max = [16, 300, 3000, 12_000][rig.rng.index(4)];
                    let is_large = rig.rng.chance(1, 100);
                    rig.append(if is_large { 150_000 } else { body_max });
                }
                6..9 => {
                    let before = rig.log.spares.len();
                    rig.log.commit(&mut rig.queue)?;
                    self.recycled += usize::from(rig.log.spares.len() < before);
                }
                9 => {
                    self.now += rig.rng.below(150);
                    rig.log.tick(self.now);
                }
                10 => self.retire(),
                11 => {
                    let keeps_spares = rig.rng.chance(4, 5);
                    rig.log.release(keeps_spares, &mut rig.queue)?;
                }
                _ => {
                    rig.step()?;
                }
            }
        }
        Ok(())
    }

    fn retire(&mut self) {
        let log = &mut self.rig.log;
        let limit = log.retirable();
        let bases: Vec<_> = log.segments().map(|one| one.base).collect();
        let allowed = bases.iter().filter(|base| **base <= limit).count();
        if allowed > 0 {
            let start = bases[self.rig.rng.index(allowed)];
            if log.retire(start, &mut self.rig.queue) {
                assert!(start > log.start(), "it moves when that is durable");
                self.asked = start;
                self.retired += 1;
            }
        }
    }

    fn crash(&mut self, seed: u64) {
        let durable = self.rig.log.synced();
        let least_start = self.rig.log.start();
        self.rig.queue = SimQueue::new();
        if self.rig.rng.chance(3, 4) {
            self.rig.disk.crash(seed);
        }
        if self.rig.rng.chance(1, 4) {
            let broken = Faults {
                writes_per_10k: 2000,
                syncs_per_10k: 1000,
                ..Faults::default()
            };
            self.rig.disk.set_faults(broken);
            drop(recover(&self.rig.disk, options(), LogOffset(0)));
            self.rig.disk.crash(!seed);
            self.rig.disk.set_faults(Faults::default());
        }
        let (log, report, records) = recover(&self.rig.disk, options(), LogOffset(0))
            .unwrap_or_else(|error| panic!("seed {seed:x}: {error}"));
        self.all.append(&mut self.rig.appended);
        let start = log.start();
        assert!(start >= least_start && start <= self.asked, "{start}");
        let first = self.all.partition_point(|(at, ..)| *at < start);
        let found = samples(&records);
        let must = self.all.iter().filter(|(_, end, _)| *end <= durable);
        let must = must.count().saturating_sub(first);
        assert!(
            found.len() >= must,
            "seed {seed:x}: {} of {must}",
            found.len()
        );
        let expected = &self.all[first..first + found.len()];
        assert!(found == expected, "seed {seed:x}: {report}");
        self.all.truncate(first + found.len());
        self.rig.log = log;
        self.check_reads(first);
        self.check_files();
    }

    /// Records below the start are told to be gone, the others are there.
    fn check_reads(&mut self, first: usize) {
        let log = &mut self.rig.log;
        let start = log.start();
        if let Some((at, ..)) = first.checked_sub(1).and_then(|last| self.all.get(last)) {
            let expected = LogError::Retired { at: *at, start };
            assert_eq!(log.read(*at, 0).unwrap_err(), expected);
        }
        if let Some((at, _, sample)) = self.all.get(first) {
            assert_eq!(Sample::of(&read_cold(log, *at).unwrap()), *sample);
        }
    }

    /// Below the start there is nothing but spares, two at most, and stamps bound what they date.
    fn check_files(&self) {
        let names = self.rig.disk.list().unwrap();
        let start = self.rig.log.start();
        let below = names
            .iter()
            .filter_map(|name| crate::segment::base_of(name));
        assert_eq!(below.filter(|base| *base < start).count(), 0, "{names:?}");
        let spares = names.iter().filter(|name| name.starts_with("spare-"));
        assert!(spares.count() <= 2, "{names:?}");
        assert!(self.rig.log.segments().next().unwrap().base == start);
    }
}

#[test]
fn segments_retire_and_return_through_every_crash() {
    let (mut recycled, mut retired) = (0, 0);
    for seed in 0..60 {
        let mut model = Model::new(seed);
        for life in 0..4 {
            let steps = 100 + model.rig.rng.index(600);
            model.live(steps).unwrap();
            model.crash(seed ^ (life << 32));
        }
        recycled += model.recycled;
        retired += model.retired;
    }
    assert!(recycled > 60 && retired > 200, "{recycled} {retired}");
}

/// The newest stamp of a segment is known while it is written, and bounded after a restart that has
/// not walked it.
#[test]
fn segments_know_how_new_they_are() {
    let mut rig = Rig::new(1, options());
    for stamp in 1..400 {
        let mut sample = Sample::random(&mut rig.rng, 1500);
        sample.stamp = stamp;
        let put = sample.append(&mut rig.log);
        rig.appended.push((put.offset, put.end, sample));
        rig.settle().unwrap();
    }
    let newest_of = |base: LogOffset, next: LogOffset| {
        let inside = rig.appended.iter();
        let inside = inside.filter(|(at, ..)| *at >= base && *at < next);
        inside.map(|(_, _, sample)| sample.stamp).max().unwrap_or(0)
    };
    let before: Vec<_> = rig.log.segments().collect();
    assert!(before.len() > 3, "{before:?}");
    for pair in before.windows(2) {
        assert_eq!(pair[0].newest_stamp, newest_of(pair[0].base, pair[1].base));
    }
    let (log, ..) = recover(&rig.disk, options(), rig.log.synced()).unwrap();
    for (old, new) in before.iter().zip(log.segments()) {
        let bound = new.newest_stamp;
        assert!(
            (old.newest_stamp..=old.newest_stamp + 1).contains(&bound),
            "{old:?} {bound}"
        );
    }
}

/// A start that is no base, or too high, moves nothing; only one move is under way at a time.
#[test]
fn only_whole_segments_that_are_written_retire() {
    let mut rig = Rig::new(1, options());
    rig.fill(250, 1500);
    let limit = rig.log.retirable();
    let bases: Vec<_> = rig.log.segments().map(|one| one.base).collect();
    for start in [0, 8, limit.0 + 8, limit.0 + (64 << 10)] {
        assert!(!rig.log.retire(LogOffset(start), &mut rig.queue), "{start}");
    }
    assert!(rig.log.retire(bases[1], &mut rig.queue) && rig.log.is_retiring());
    assert!(!rig.log.retire(limit, &mut rig.queue), "one at a time");
    rig.settle().unwrap();
    assert_eq!(rig.log.start(), bases[1]);
    assert!(rig.log.is_retiring() && !rig.log.retire(limit, &mut rig.queue));
    rig.log.release(true, &mut rig.queue).unwrap();
    rig.settle().unwrap();
    assert!(!rig.log.is_retiring() && rig.log.retire(limit, &mut rig.queue));
}

/// A start that was written, and not synced, before the process ended: a recovery that believes it
/// makes it durable before it removes what lies below.
#[test]
fn a_start_that_is_believed_is_durable() {
    for seed in 0..20 {
        let mut model = Model::new(seed);
        while model.rig.log.segments().count() < 4 {
            model.rig.fill(1, 3000);
        }
        let start = model.rig.log.retirable();
        assert!(model.rig.log.retire(start, &mut model.rig.queue));
        // The write has reached the device's cache; its sync has not happened.
        assert!(model.rig.queue.step(&mut model.rig.rng));
        let (log, ..) = recover(&model.rig.disk, options(), LogOffset(0)).unwrap();
        assert_eq!(log.start(), start);
        model.rig.disk.crash(seed);
        let (log, ..) = recover(&model.rig.disk, options(), LogOffset(0)).unwrap();
        assert_eq!(log.start(), start, "seed {seed}");
    }
}
