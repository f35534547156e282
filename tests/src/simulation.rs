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
//! `tests/simulate node --seeds A..B` runs a range, `--seed N --trace` shows one.

mod actor;
mod link;
mod node;
mod outbox;
mod rest;
mod trace;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::Totals;

/// What a run does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Shards of the node.
    pub shards: u8,
    /// Clients.
    pub clients: u32,
    /// Steps of chaos.
    pub steps: u64,
    /// The disk acknowledges syncs without doing them: such runs must fail.
    pub ignores_syncs: bool,
    /// Keep the text of the trace, not its hash alone.
    pub keeps_trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 3,
            clients: 6,
            steps: 2500,
            ignores_syncs: false,
            keeps_trace: false,
        }
    }
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
            seed, step, reason, ..
        } = self;
        writeln!(f, "seed {seed} failed at step {step}: {reason}")?;
        write!(f, "  repeat it: tests/simulate node --seed {seed} --trace")
    }
}

impl std::error::Error for Failure {}

/// Runs the node and its clients under a seed.
///
/// # Errors
/// The first promise that was broken.
pub fn run_seed(seed: u64, options: Options) -> Result<Summary, Failure> {
    let mut world = world::World::new(seed, options);
    let result = world.run();
    let (step, crashes) = (world.step(), world.crashes());
    let (totals, trace) = world.into_results();
    let trace_hash = trace.hash();
    let trace = trace.into_lines();
    match result {
        Ok(()) => Ok(Summary {
            seed,
            crashes,
            totals,
            trace_hash,
            trace,
        }),
        Err(reason) => Err(Failure {
            seed,
            step,
            reason,
            trace,
        }),
    }
}
