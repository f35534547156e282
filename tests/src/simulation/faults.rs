//! What else goes wrong: every run draws from its seed which classes of faults it has, half of the
//! runs none, so that a crash alone stays well tested. When which fault happens is decided by
//! numbers of their own, so a class that is left out changes little for the others.

use std::fmt;
use std::ops::AddAssign;

use storage_io::sim::{Faults, Rng};

use super::world::World;

/// Words for the classes, by bit.
const CLASSES: [&str; 8] = [
    "clock", "errors", "reads", "slow", "full", "hours", "stops", "homes",
];
const CLOCK: FaultSet = FaultSet(1);
const ERRORS: FaultSet = FaultSet(2);
const READS: FaultSet = FaultSet(4);
const SLOW: FaultSet = FaultSet(8);
const FULL: FaultSet = FaultSet(16);
const HOURS: FaultSet = FaultSet(32);
const STOPS: FaultSet = FaultSet(64);
const HOMES: FaultSet = FaultSet(128);

/// One step in so many begins something.
const STEPS_PER_FAULT: u32 = 150;
/// Milliseconds that a wall clock is set by, at most.
const CLOCK_STEP_MAX_MS: u64 = 40_000;
/// Steps in which operations may fail, at most.
const WINDOW_STEPS: u64 = 120;
/// Changes of the disk before the machine stops, at most: about as many as a start makes.
const CHANGES_MAX: u64 = 60;
/// The same for a start that may move state to other homes.
const MOVING_CHANGES_MAX: u64 = 400;
/// Steps for which the disk has hardly any room, at most.
const FULL_STEPS: u64 = 800;
/// Bytes that a full disk still has, at most: a segment or two of each shard.
const ROOM_BYTES_MAX: u64 = 2_000_000;
/// Milliseconds for which a disk does nothing, at most.
const STALL_MAX_MS: u64 = 3_000;

/// Classes of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultSet(u16);

impl FaultSet {
    /// None.
    pub const NONE: Self = Self(0);

    /// Some classes by their words, separated by commas; `none` for none.
    ///
    /// # Errors
    /// The word that names no class.
    pub fn parse(words: &str) -> Result<Self, String> {
        let mut set = Self::NONE;
        for word in words.split(',').filter(|word| *word != "none") {
            let place = CLASSES.iter().position(|class| *class == word);
            let place = place.ok_or_else(|| format!("no such class of faults: {word}"))?;
            set.0 |= 1 << place;
        }
        Ok(set)
    }

    fn draw(rng: &mut Rng) -> Self {
        if rng.chance(1, 2) {
            return Self::NONE;
        }
        let drawn = (0..CLASSES.len()).filter(|_| rng.chance(2, 5));
        Self(drawn.fold(0, |set, bit| set | 1 << bit))
    }

    const fn has(self, class: Self) -> bool {
        self.0 & class.0 != 0
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = (0..).zip(CLASSES).filter(|(bit, _)| self.0 & 1 << bit != 0);
        let words: Vec<&str> = words.map(|(_, word)| word).collect();
        if words.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&words.join(","))
    }
}

/// How often what happened: a class that never bites shows here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCounts {
    /// Runs that had any class of faults.
    pub runs: u64,
    /// Times that the wall clock was set.
    pub clock_steps: u64,
    /// Times that the node ended because a write failed, or was short.
    pub write_errors: u64,
    /// Times that the node ended because a sync failed.
    pub sync_errors: u64,
    /// Reads that failed, and the node went on.
    pub read_errors: u64,
    /// Times that the node ended because a read failed.
    pub read_ends: u64,
    /// Starts that a fault ended.
    pub failed_starts: u64,
    /// Times that a shard's disk did nothing for a while.
    pub stalls: u64,
    /// Times that the disk had hardly any room.
    pub full_disks: u64,
    /// Times that the node ended because the disk was full.
    pub full_ends: u64,
    /// Times that hours passed at once.
    pub hours: u64,
    /// Times that the machine was to stop at a change of the disk.
    pub stops: u64,
    /// Starts with another number of homes.
    pub homes: u64,
}

impl FaultCounts {
    pub(super) const fn rows(&self) -> [(u64, &'static str); 13] {
        [
            (self.runs, "runs with faults"),
            (self.clock_steps, "clock steps"),
            (self.write_errors, "write errors"),
            (self.sync_errors, "sync errors"),
            (self.read_errors, "read errors"),
            (self.read_ends, "ends by reads"),
            (self.failed_starts, "failed starts"),
            (self.stalls, "stalls"),
            (self.full_disks, "full disks"),
            (self.full_ends, "ends by full disks"),
            (self.hours, "idle hours"),
            (self.stops, "stops at a change"),
            (self.homes, "other homes"),
        ]
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows().map(|(count, what)| format!("{count} {what}"));
        f.write_str(&rows.join(", "))
    }
}

impl AddAssign for FaultCounts {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.clock_steps += other.clock_steps;
        self.write_errors += other.write_errors;
        self.sync_errors += other.sync_errors;
        self.read_errors += other.read_errors;
        self.read_ends += other.read_ends;
        self.failed_starts += other.failed_starts;
        self.stalls += other.stalls;
        self.full_disks += other.full_disks;
        self.full_ends += other.full_ends;
        self.hours += other.hours;
        self.stops += other.stops;
        self.homes += other.homes;
    }
}

/// What goes wrong in one run.
#[derive(Debug)]
pub(super) struct Trouble {
    set: FaultSet,
    pub(super) counts: FaultCounts,
    /// How far the wall clock is ahead of the time since the start, milliseconds.
    pub(super) skew_ms: u64,
    /// The disk is well again at this step.
    window_end: u64,
    /// By shard: its disk does nothing before, milliseconds.
    stalled_ms: Vec<u64>,
}

impl Trouble {
    /// `chosen`: these classes, whatever the seed says.
    pub(super) fn new(rng: &mut Rng, chosen: Option<FaultSet>, shards: u8) -> Self {
        let drawn = FaultSet::draw(rng);
        let set = chosen.unwrap_or(drawn);
        Self {
            set,
            counts: FaultCounts {
                runs: u64::from(set != FaultSet::NONE),
                ..FaultCounts::default()
            },
            skew_ms: 10 * CLOCK_STEP_MAX_MS,
            window_end: 0,
            stalled_ms: vec![0; 1 + usize::from(shards)],
        }
    }

    /// Whether hours pass, and sessions and messages expire. Where the wall clock is set, they may
    /// expire early.
    pub(super) const fn has_hours(&self) -> bool {
        self.set.has(HOURS) && !self.set.has(CLOCK)
    }

    pub(super) fn is_stalled(&self, shard: usize, now_ms: u64) -> bool {
        self.stalled_ms.get(shard).is_some_and(|end| *end > now_ms)
    }

    fn set_clock(&mut self, rng: &mut Rng) {
        let by_ms = 1 + rng.below(CLOCK_STEP_MAX_MS);
        self.skew_ms = if rng.chance(1, 2) {
            self.skew_ms + by_ms
        } else {
            self.skew_ms.saturating_sub(by_ms)
        };
        self.counts.clock_steps += 1;
    }
}

impl World {
    /// What goes wrong in this step, besides what always may.
    pub(super) fn disturb(&mut self) -> Result<(), String> {
        if self.trouble.set == FaultSet::NONE {
            return Ok(());
        }
        let mut rng = self.streams.fault(self.step());
        if self.trouble.window_end == self.step() {
            self.heal();
        }
        if !rng.chance(1, STEPS_PER_FAULT) {
            return Ok(());
        }
        let classes = [CLOCK, ERRORS, READS, SLOW, FULL, HOURS, STOPS];
        let classes = classes.map(|class| self.trouble.set.has(class).then_some(class));
        let classes: Vec<FaultSet> = classes.into_iter().flatten().collect();
        if classes.is_empty() {
            return Ok(());
        }
        let Some(class) = classes.get(rng.index(classes.len())).copied() else {
            return Ok(());
        };
        self.trace.add(self.step(), format_args!("fault: {class}"));
        match class {
            CLOCK => self.trouble.set_clock(&mut rng),
            SLOW => {
                let shard = rng.index(usize::from(self.shards));
                let longest = 1 + rng.below(STALL_MAX_MS);
                let longest = 1 + rng.below(longest);
                let end = self.now_ms + rng.below(longest);
                if let Some(stalled) = self.trouble.stalled_ms.get_mut(shard) {
                    *stalled = end;
                }
                self.trouble.counts.stalls += 1;
            }
            HOURS => return self.idle_hours(),
            FULL => self.fill(&mut rng),
            STOPS => self.stop_at_a_change(&mut rng, CHANGES_MAX),
            class => self.sicken(class, &mut rng),
        }
        Ok(())
    }

    /// The machine stops at one of the next changes of the disk.
    fn stop_at_a_change(&mut self, rng: &mut Rng, changes_max: u64) {
        let faults = self.disk.faults();
        self.disk.set_faults(Faults {
            changes_left: Some(rng.below(changes_max)),
            ..faults
        });
        self.trouble.counts.stops += 1;
    }

    /// The next start may be one with another number of homes: one more than the run began with,
    /// at most.
    pub(super) fn choose_homes(&mut self) {
        let mut rng = self.streams.homes(self.step());
        if self.trouble.set.has(HOMES) && self.has_started() && rng.chance(1, 2) {
            let homes = 1 + rng.index(usize::from(self.options.shards) + 1);
            self.homes = u8::try_from(homes).unwrap_or(u8::MAX);
            self.shards = self.shards.max(self.homes);
            self.trouble.counts.homes += 1;
            self.trace.add(
                self.step(),
                format_args!("homes: {homes} of {}", self.shards),
            );
        }
    }

    /// A start may be stopped at any of its changes.
    pub(super) fn endanger_start(&mut self) {
        let mut rng = self.streams.fault(self.step());
        if self.trouble.set.has(STOPS) && rng.chance(1, 2) {
            let most = if self.trouble.set.has(HOMES) {
                MOVING_CHANGES_MAX
            } else {
                CHANGES_MAX
            };
            self.stop_at_a_change(&mut rng, most);
        }
    }

    /// The disk has hardly any room for some steps.
    fn fill(&mut self, rng: &mut Rng) {
        self.trouble.window_end = self.step() + 1 + rng.below(FULL_STEPS);
        let room = rng.below(ROOM_BYTES_MAX);
        let faults = self.disk.faults();
        self.disk.set_faults(Faults {
            space_bytes: Some(self.disk.used_bytes() + room),
            ..faults
        });
        self.trouble.counts.full_disks += 1;
    }

    /// Operations of the disk fail for some steps.
    fn sicken(&mut self, class: FaultSet, rng: &mut Rng) {
        self.trouble.window_end = self.step() + 1 + rng.below(WINDOW_STEPS);
        let parts = 200 + u32::try_from(rng.below(3000)).unwrap_or(0);
        let faults = self.disk.faults();
        let kind = rng.below(3);
        self.disk.set_faults(match (class, kind) {
            (READS, _) => Faults {
                reads_per_10k: parts,
                ..faults
            },
            (_, 0) => Faults {
                writes_per_10k: parts,
                ..faults
            },
            _ => Faults {
                syncs_per_10k: parts,
                ..faults
            },
        });
    }

    /// The disk does what it is told.
    pub(super) fn heal(&mut self) {
        self.trouble.window_end = 0;
        let faults = self.disk.faults();
        self.disk.set_faults(Faults {
            ignore_syncs: faults.ignore_syncs,
            ..Faults::default()
        });
        self.trouble.stalled_ms.fill(0);
    }

    /// A crash may come with another time.
    pub(super) fn set_clock_at_crash(&mut self) {
        let mut rng = self.streams.fault(self.step());
        if self.trouble.set.has(CLOCK) && rng.chance(1, 2) {
            self.trouble.set_clock(&mut rng);
        }
    }

    /// Whether a fault explains why the node has ended.
    pub(super) fn explains(&mut self, reason: &str) -> bool {
        let is_full = self.trouble.set.has(FULL) && reason.contains("no space is left");
        let counts = &mut self.trouble.counts;
        if is_full {
            counts.full_ends += 1;
            return true;
        }
        if self.trouble.set == FaultSet::NONE || !reason.contains("a fault was injected") {
            return false;
        }
        if reason.contains("no start") {
            counts.failed_starts += 1;
        } else if reason.contains("cannot read") {
            counts.read_ends += 1;
        } else if reason.contains("cannot sync") {
            counts.sync_errors += 1;
        } else {
            counts.write_errors += 1;
        }
        true
    }
}
