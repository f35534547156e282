//! One seed, many streams of random numbers that know nothing of each other: one per step, one per
//! client. So a run that is cut short, or that lacks a client, goes on as the whole run did in all
//! that this does not touch.

use storage_io::sim::Rng;

/// See the module.
#[derive(Debug)]
pub(super) struct Streams {
    root: u64,
}

impl Streams {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            root: Rng::new(seed).next_u64(),
        }
    }

    /// What the scheduler, the disk and the mesh decide in one step.
    pub(super) const fn step(&self, step: u64) -> Rng {
        self.stream(1, step)
    }

    /// What a client decides, and its network.
    pub(super) const fn client(&self, number: u64) -> Rng {
        self.stream(2, number)
    }

    /// What the disk decides by itself.
    pub(super) const fn disk(&self) -> Rng {
        self.stream(3, 0)
    }

    /// How the run ends.
    pub(super) const fn ending(&self) -> Rng {
        self.stream(4, 0)
    }

    /// Which faults a run has.
    pub(super) const fn faults(&self) -> Rng {
        self.stream(5, 0)
    }

    /// What goes wrong in one step.
    pub(super) const fn fault(&self, step: u64) -> Rng {
        self.stream(6, step)
    }

    /// What goes bad on the disk while the node is down, before a start at a step.
    pub(super) const fn rot(&self, step: u64) -> Rng {
        self.stream(7, step)
    }

    /// With how many homes the node starts at a step.
    pub(super) const fn homes(&self, step: u64) -> Rng {
        self.stream(8, step)
    }

    const fn stream(&self, kind: u64, number: u64) -> Rng {
        Rng::new(Rng::new(self.root ^ (kind << 56) ^ number).next_u64())
    }
}
