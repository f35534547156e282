//! A whole node and its clients in one thread, under one seed.
//!
//! The node is the shipped code: every shard's machine, store, log, index and state store, driven
//! as the server drives them. Simulated are the disk (`storage_io::sim`: a crash loses, tears and
//! corrupts what was not synced), the mesh's rings, the sockets (bytes arrive in pieces of any
//! size, connections are cut, readers are slow, the node may hear late that a client has gone) and
//! the clock. The seed decides everything, so a run is repeated by its seed.
//!
//! A run is [`Options::steps`] steps of chaos, then rest: every client comes back, everything is
//! drained, and the [history](crate::history) must hold. Then the node loses power once more, and
//! must hold it again.
//!
//! `tests/simulate node --seeds A..B` runs a range, `--seed N --trace` shows one. A seed that fails
//! is [shrunk](shrink()) to a short run of few clients that fails in the same way.

mod actor;
mod age;
mod claims;
mod faults;
mod leaks;
mod link;
mod node;
mod outbox;
mod rest;
mod rot;
mod shrink;
mod streams;
pub(crate) mod trace;
mod world;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::history::Totals;

pub use faults::{FaultCounts, FaultSet};
pub use rot::RotCounts;
pub use shrink::{Shrunk, shrink};

/// What a run does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Shards of the node.
    pub shards: u8,
    /// Clients.
    pub clients: u32,
    /// Clients that take no part, as bits by number; those above 63 always do.
    pub absent: u64,
    /// Steps of chaos.
    pub steps: u64,
    /// Crashes in 1,000 steps, on average; 1,000 at most.
    pub crashes: u64,
    /// The disk acknowledges syncs without doing them: such runs must fail.
    pub ignores_syncs: bool,
    /// The node subscribes every client to what nobody publishes to.
    pub auto_subscribes: bool,
    /// These classes of faults; `None`: those that the seed draws.
    pub faults: Option<FaultSet>,
    /// Keep the text of the trace, not its hash alone.
    pub keeps_trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 3,
            clients: 6,
            absent: 0,
            steps: 2500,
            crashes: 2,
            ignores_syncs: false,
            auto_subscribes: false,
            faults: None,
            keeps_trace: false,
        }
    }
}

impl Options {
    /// Whether a client takes part.
    #[must_use]
    pub const fn has(&self, client: u32) -> bool {
        client >= u64::BITS || self.absent & (1 << client) == 0
    }

    /// How many clients take part.
    #[must_use]
    pub fn present(&self) -> usize {
        (0..self.clients).filter(|client| self.has(*client)).count()
    }

    /// The same without one client more.
    #[must_use]
    pub const fn without(self, client: u32) -> Self {
        let bit = if client < u64::BITS { 1 << client } else { 0 };
        Self {
            absent: self.absent | bit,
            ..self
        }
    }

    /// The same with another number of steps.
    #[must_use]
    pub const fn with_steps(self, steps: u64) -> Self {
        Self { steps, ..self }
    }
}

/// The words of the command line that make these options of the default ones.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::default();
        if self.shards != usual.shards {
            write!(f, " --shards {}", self.shards)?;
        }
        if self.clients != usual.clients {
            write!(f, " --clients {}", self.clients)?;
        }
        if self.steps != usual.steps {
            write!(f, " --steps {}", self.steps)?;
        }
        if self.crashes != usual.crashes {
            write!(f, " --crashes {}", self.crashes)?;
        }
        if self.auto_subscribes {
            f.write_str(" --auto-subscribe")?;
        }
        if self.present() < self.clients as usize {
            let here = (0..self.clients).filter(|client| self.has(*client));
            let here: Vec<String> = here.map(|client| client.to_string()).collect();
            write!(f, " --actors {}", here.join(","))?;
        }
        if let Some(faults) = self.faults {
            write!(f, " --faults {faults}")?;
        }
        if self.ignores_syncs {
            f.write_str(" --ignore-syncs")?;
        }
        Ok(())
    }
}

/// What retention did in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retained {
    /// Segments that it took.
    pub segments: u64,
    /// Times that it took something from a session that was behind.
    pub cuts: u64,
    /// Deletes of retained messages that could be forgotten.
    pub tombstones: u64,
}

/// A run that passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// Times that the node lost power.
    pub crashes: u32,
    /// What the clients did.
    pub totals: Totals,
    /// What went wrong.
    pub faults: FaultCounts,
    /// What retention did.
    pub retained: Retained,
    /// What went bad on the disk.
    pub rot: RotCounts,
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
    /// What is wrong: the kind of failure, a colon, and the failure.
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
            "  repeat it: tests/simulate node --seed {seed}{options} --trace"
        )
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// What kind of failure it is: two runs that break the same promise have the same.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.reason.split(':').next().unwrap_or_default()
    }
}

/// Runs the node and its clients under a seed.
///
/// # Errors
/// The first promise that was broken, or a panic of the node.
pub fn run_seed(seed: u64, options: Options) -> Result<Summary, Failure> {
    let mut world = world::World::new(seed, options);
    let caught = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = caught.unwrap_or_else(|panic| Err(panic_text(&*panic)));
    let (step, crashes) = (world.step(), world.crashes());
    world.count_retired();
    let retained = world.retention;
    let (totals, faults, rot, trace) = world.into_results();
    let trace_hash = trace.hash();
    let trace = trace.into_lines();
    match result {
        Ok(()) => Ok(Summary {
            seed,
            crashes,
            totals,
            faults,
            retained,
            rot,
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

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without a text"))
}
