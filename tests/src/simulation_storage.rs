//! The storage of one shard, alone: log, index and state store on a disk that loses, tears, fails,
//! fills up, lies and rots, under one seed.
//!
//! A run is a number of lives. In each, records are appended (in no, one or many queues), read by
//! log offset and by queue offset, flushed, joined and retired, with the disk moving one operation
//! at a time; it ends by an orderly stop, a kill, a loss of power or an error of the disk. Then the
//! disk may spoil or lose derived files, the start may fail at any operation, and what was
//! recovered is held against the `model`. Its last life is for damage in the log itself, which has
//! to be noticed.
//!
//! After every recovery these hold:
//! 1. What was durable is there, byte for byte.
//! 2. The recovered log is a prefix of what was appended.
//! 3. A queue's offsets are contiguous, and every entry's record names it.
//! 4. A queue's next offset never falls below one that was durable.
//! 5. Nothing below the log's start is seen.
//! 6. The files in the directory are those that are in use.
//! 7. The index, and the state, are what the log alone makes of them.
//! 8. A second recovery finds the same.
//! 9. Damage of durable bytes is reported, never cut off.
//! 10. No read gives a record that fails its checksum.

mod checks;
mod command;
mod damage;
mod model;
mod stack;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::simulation::panic_text;

pub use command::command;

/// What a run does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Lives.
    pub lives: u32,
    /// Steps of a life, at most.
    pub steps: u64,
    /// The disk acknowledges syncs without doing them: such runs must fail.
    pub ignores_syncs: bool,
    /// Keep the text of the trace, not its hash alone.
    pub keeps_trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lives: 4,
            steps: 110,
            ignores_syncs: false,
            keeps_trace: false,
        }
    }
}

/// The words of the command line that make these options of the default ones.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::default();
        if self.lives != usual.lives {
            write!(f, " --lives {}", self.lives)?;
        }
        if self.steps != usual.steps {
            write!(f, " --steps {}", self.steps)?;
        }
        if self.ignores_syncs {
            f.write_str(" --ignore-syncs")?;
        }
        Ok(())
    }
}

/// A run that passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// Recoveries that succeeded.
    pub recoveries: u64,
    /// Records that were appended.
    pub records: u64,
    /// What was damaged and noticed.
    pub damages: u64,
    /// A hash of everything that happened, in order.
    pub trace_hash: u64,
    /// The trace, if it was to be kept.
    pub trace: Vec<String>,
}

/// A run that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was run.
    pub options: Options,
    /// The step at which it failed.
    pub step: u64,
    /// What is wrong.
    pub reason: String,
    /// The trace, if it was to be kept.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            options,
            step,
            reason,
            ..
        } = self;
        writeln!(f, "seed {seed} failed at step {step}: {reason}")?;
        write!(
            f,
            "  repeat it: tests/simulate storage --seed {seed}{options} --trace"
        )
    }
}

impl std::error::Error for Failure {}

/// Runs the storage of one shard under a seed.
///
/// # Errors
/// The first promise that was broken, or a panic.
pub fn run_seed(seed: u64, options: Options) -> Result<Summary, Failure> {
    let mut world = world::World::new(seed, options);
    let caught = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = caught.unwrap_or_else(|panic| Err(panic_text(&*panic)));
    let (step, counts) = (world.step(), world.counts());
    let trace = world.into_trace();
    let trace_hash = trace.hash();
    let trace = trace.into_lines();
    match result {
        Ok(()) => Ok(Summary {
            seed,
            recoveries: counts.recoveries,
            records: counts.records,
            damages: counts.damages,
            trace_hash,
            trace,
        }),
        Err(reason) => Err(Failure {
            seed,
            options,
            step,
            reason,
            trace,
        }),
    }
}
