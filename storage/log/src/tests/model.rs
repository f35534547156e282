//! The model: whatever is appended, committed and crashed, in whatever order the disk works, what
//! was durable is there, and what is there is a prefix of what was appended.

use std::fmt;

use storage_io::sim::{Faults, Rng, SimDisk, SimQueue};

use super::rig::{Rig, Sample, recover, small_options};
use crate::{Durability, LogError, LogOffset, LogOptions};

/// What went wrong in a run.
enum Fault {
    /// A record below a durable watermark is missing or different.
    Lost,
    /// The recovery failed.
    Refused(LogError),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("a durable record is missing or different"),
            Self::Refused(error) => write!(f, "the recovery failed: {error}"),
        }
    }
}

/// One life after the other of one log.
struct Model {
    rig: Rig,
    /// Records that earlier lives have recovered.
    recovered: Vec<(LogOffset, LogOffset, Sample)>,
    /// The highest offset that was ever given out.
    given: LogOffset,
    /// Where the log stood, synced, at the beginning and at the end of every life: what a driver
    /// may have stored.
    positions: Vec<LogOffset>,
    options: LogOptions,
}

impl Model {
    fn new(seed: u64, options: LogOptions) -> Self {
        let rig = Rig::new(seed, options.clone());
        Self {
            rig,
            recovered: Vec::new(),
            given: LogOffset(0),
            positions: Vec::new(),
            options,
        }
    }

    /// A number of random steps of the driver; the disk moves between any two of them. A poisoned
    /// log ends the life early.
    fn live(&mut self, steps: usize) {
        let result = self.try_live(steps);
        assert!(
            matches!(result, Ok(()) | Err(LogError::Poisoned(_))),
            "{result:?}"
        );
        self.given = self.given.max(self.rig.log.appended());
    }

    fn try_live(&mut self, steps: usize) -> Result<(), LogError> {
        let mut now = 0;
        for _ in 0..steps {
            match self.rig.rng.below(10) {
                0..4 if !self.rig.log.is_full() => {
                    let body_max = [16, 300, 3000, 12_000][self.rig.rng.index(4)];
                    let is_large = self.rig.rng.chance(1, 100);
                    self.rig.append(if is_large { 400_000 } else { body_max });
                }
                4..6 => self.rig.log.commit(&mut self.rig.queue)?,
                6 => {
                    now += self.rig.rng.below(150);
                    self.rig.log.tick(now);
                }
                _ => {
                    self.rig.step()?;
                }
            }
        }
        Ok(())
    }

    /// Power is lost; `durable` is what the driver has acknowledged.
    fn crash(&mut self, seed: u64) -> Result<(), Fault> {
        let durable = self.rig.log.synced();
        self.positions.push(durable);
        self.rig.queue = SimQueue::new();
        let faults = self.rig.disk.faults();
        // One life in four ends without a loss of power, unless a sync has failed in it.
        if self.rig.rng.chance(3, 4) || faults.syncs_per_10k > 0 {
            self.rig.disk.crash(seed);
        }
        self.fail_to_recover(seed);
        let from = LogOffset(0);
        let (_, first, records) =
            recover(&self.rig.disk, self.options.clone(), from).map_err(Fault::Refused)?;
        let found = super::rig::samples(&records);
        let mut expected = std::mem::take(&mut self.recovered);
        let old = expected.len();
        expected.append(&mut self.rig.appended);
        let must = expected
            .iter()
            .filter(|(_, end, _)| *end <= durable)
            .count()
            .max(old);
        if found.len() < must
            || found.len() > expected.len()
            || found[..] != expected[..found.len()]
        {
            return Err(Fault::Lost);
        }
        self.recover_again(&first, &found, durable);
        self.recovered = found;
        self.recover_from_a_position()?;
        self.positions.push(self.rig.log.synced());
        Ok(())
    }

    /// A recovery that the disk fails, or that just crashes, at a random place.
    fn fail_to_recover(&mut self, seed: u64) {
        let faults = self.rig.disk.faults();
        if !faults.ignore_syncs && self.rig.rng.chance(1, 3) {
            let broken = Faults {
                writes_per_10k: 2000,
                syncs_per_10k: 1000,
                ..faults.clone()
            };
            self.rig.disk.set_faults(broken);
            drop(recover(&self.rig.disk, self.options.clone(), LogOffset(0)));
            self.rig.disk.crash(!seed);
        }
        self.rig.disk.set_faults(Faults {
            syncs_per_10k: 0,
            writes_per_10k: 0,
            ..faults
        });
    }

    /// A second recovery finds the same, and offsets go on above all that were given out.
    fn recover_again(
        &mut self,
        first: &crate::RecoveryReport,
        found: &[(LogOffset, LogOffset, Sample)],
        durable: LogOffset,
    ) {
        let from = LogOffset(0);
        let (log, second, again) = recover(&self.rig.disk, self.options.clone(), from).unwrap();
        assert!(super::rig::samples(&again) == found, "{first} {second}");
        assert!(
            second.next > first.next && first.next > self.given,
            "{first} {second}"
        );
        assert!(first.end >= found.last().map_or(LogOffset(0), |(_, end, _)| *end));
        assert!(log.durable() == log.appended() && log.durable() >= durable);
        self.rig.log = log;
    }

    /// From wherever a driver may go on, a recovery brings exactly what lies above.
    fn recover_from_a_position(&mut self) -> Result<(), Fault> {
        let position = self.positions[self.rig.rng.index(self.positions.len())];
        let (log, _, records) =
            recover(&self.rig.disk, self.options.clone(), position).map_err(Fault::Refused)?;
        let above = self.recovered.partition_point(|(at, ..)| *at < position);
        assert!(
            super::rig::samples(&records) == self.recovered[above..],
            "{} records from {position}",
            records.len()
        );
        self.rig.log = log;
        Ok(())
    }
}

fn run(seed: u64, lives: u64, options: LogOptions, faults: &Faults) -> Result<usize, Fault> {
    let mut model = Model::new(seed, options);
    for life in 0..lives {
        model.rig.disk.set_faults(faults.clone());
        // One life in four ends before its first step.
        if model.rig.rng.chance(3, 4) {
            let steps = 20 + model.rig.rng.index(200);
            model.live(steps);
        }
        model.crash(seed ^ (life << 32))?;
    }
    Ok(model.recovered.len())
}

#[test]
fn what_was_durable_survives_every_crash() {
    let mut records = 0;
    for seed in 0..60 {
        records += run(seed, 4, small_options(), &Faults::default())
            .unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
    }
    assert!(records > 2000, "{records} records are no test");
}

#[test]
fn failing_writes_and_syncs_lose_nothing_that_was_acknowledged() {
    for seed in 0..60 {
        let faults = Faults {
            writes_per_10k: 100,
            syncs_per_10k: 100,
            ..Faults::default()
        };
        run(seed, 4, small_options(), &faults)
            .unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
    }
}

#[test]
fn every_mode_recovers_what_was_synced() {
    let options = [
        LogOptions {
            durability: Durability::Interval { ms: 50 },
            ..small_options()
        },
        LogOptions {
            durability: Durability::None,
            ..small_options()
        },
        LogOptions {
            pad_tail: true,
            ..small_options()
        },
    ];
    for (number, options) in options.into_iter().enumerate() {
        for seed in 0..25 {
            run(seed, 3, options.clone(), &Faults::default())
                .unwrap_or_else(|fault| panic!("mode {number}, seed {seed}: {fault}"));
        }
    }
}

/// The model can fail: without syncs, acknowledged records are lost, and it says so.
#[test]
fn a_disk_that_ignores_syncs_is_caught() {
    let faults = Faults {
        ignore_syncs: true,
        ..Faults::default()
    };
    let mut caught = 0;
    for seed in 0..20 {
        caught += u32::from(run(seed, 3, small_options(), &faults).is_err());
    }
    assert!(caught >= 15, "caught in {caught} of 20 runs");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let bytes = |seed| {
        let mut model = Model::new(seed, small_options());
        model.live(200);
        assert!(model.crash(seed).is_ok());
        let names = storage_io::Disk::list(&model.rig.disk).unwrap();
        names
            .iter()
            .map(|name| model.rig.disk.contents(name).unwrap())
            .collect::<Vec<_>>()
    };
    assert!(bytes(5) == bytes(5));
    assert!(bytes(5) != bytes(6));
}

#[test]
fn damage_below_the_durable_mark_is_reported() {
    let mut reported = 0;
    for seed in 0..60 {
        let mut rig = Rig::new(seed, small_options());
        let count = 20 + rig.rng.index(20);
        rig.fill(count, 2000);
        rig.log.request_marker();
        rig.settle().unwrap();
        assert!(rig.log.is_settled());
        let (at, end, _) = rig.appended[rig.rng.index(count)];
        let target = at.0 + rig.rng.below(end.0 - at.0);
        flip(&rig.disk, target, &mut rig.rng);
        rig.disk.crash(seed);
        match recover(&rig.disk, small_options(), LogOffset(0)) {
            Err(LogError::Damaged { .. }) => reported += 1,
            Err(other) => panic!("seed {seed}: {other}"),
            Ok((_, report, _)) => panic!("seed {seed}: byte {target} is damaged; {report}"),
        }
    }
    assert_eq!(reported, 60);
}

/// Flips a bit of the byte at a log offset, in whichever segment holds it.
fn flip(disk: &SimDisk, at: u64, rng: &mut Rng) {
    let names = storage_io::Disk::list(disk).unwrap();
    let holder = names.iter().rev().find_map(|name| {
        let base = crate::segment::base_of(name)?;
        at.checked_sub(base.0).map(|position| (name, position))
    });
    let (name, position) = holder.unwrap();
    let bit = u8::try_from(rng.below(8)).unwrap();
    assert!(disk.flip_bit(name, usize::try_from(position).unwrap(), bit));
}
