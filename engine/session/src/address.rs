//! Names of places: logs, offsets and addresses.

use std::fmt;

/// A commit log's id. It outlives shards, cores and restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogId(pub u32);

/// A byte address in one log; it only grows and is never used again after a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogOffset(pub u64);

impl LogOffset {
    /// The start of every log.
    pub const ZERO: Self = Self(0);

    /// The first offset that lies behind a record that starts here.
    #[must_use]
    pub const fn after(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A record's address: which log, and where in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Address {
    /// The log that holds the record.
    pub log: LogId,
    /// Where the record starts in that log.
    pub offset: LogOffset,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {} offset {}", self.log.0, self.offset.0)
    }
}

/// The clock readings that come with every event. Machines never read a clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now {
    /// Milliseconds of a clock that never jumps; its zero is the node's start.
    pub monotonic_ms: u64,
    /// Milliseconds since the Unix epoch; may jump.
    pub wall_ms: u64,
}
