//! A simulated disk, seeded and deterministic: it loses, tears, corrupts and fails.
//!
//! A [`SimDisk`] keeps for every file what is durable and the writes that no sync has covered yet,
//! and likewise for the names in a directory. [`SimDisk::crash`] is a power loss: every sector of
//! every uncovered write is kept or lost on its own, and one that lies where the file held no
//! durable bytes before may come back as garbage. A sector that held durable bytes comes back old
//! or new, never as garbage: the assumption on which rewriting the tail block of a log rests.
//! Names that no directory sync covered come back as they were after some prefix of the changes.
//!
//! [`SimQueue`] is the submit-and-poll half: operations progress only when the simulation steps
//! it, in an order that the seed decides. [`Faults`] makes operations fail.
//!
//! Nothing here is random but by [`Rng`], and nothing depends on addresses, time or threads: the
//! same seed and the same calls give the same bytes.

mod disk;
mod queue;
mod rng;
mod world;

pub use disk::{SimByteFile, SimDisk, SimFile};
pub use queue::SimQueue;
pub use rng::Rng;
pub use world::{Decay, Faults};

/// Bytes that the simulated device writes atomically.
pub const SECTOR: usize = 512;

#[cfg(test)]
mod tests;
