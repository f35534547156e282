//! The clock readings of a turn.

/// What a shard is told of the time. The machine counts milliseconds, commits are paced in
/// microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Microseconds since the node's start.
    pub monotonic_us: u64,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

impl Now {
    /// Milliseconds since the node's start.
    #[must_use]
    pub const fn monotonic_ms(self) -> u64 {
        self.monotonic_us / 1000
    }
}

impl From<Now> for engine_shard::Now {
    fn from(now: Now) -> Self {
        Self {
            monotonic_ms: now.monotonic_ms(),
            wall_ms: now.wall_ms,
        }
    }
}
