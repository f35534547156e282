//! Names of logs, places in logs, and queues.

use std::fmt;

/// Which log. An address is (log id, log offset) and outlives shards, cores and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u32);

/// A byte address in a log. It only grows, and is never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogOffset(pub u64);

/// A queue, interned per log by the layer above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

impl LogOffset {
    /// The address `len` bytes further on.
    #[must_use]
    pub(crate) const fn plus(self, len: usize) -> Self {
        Self(self.0 + len as u64)
    }

    /// Bytes from `earlier` to here.
    #[must_use]
    pub(crate) fn since(self, earlier: Self) -> usize {
        assert!(earlier <= self, "{earlier} lies behind {self}");
        index(self.0 - earlier.0)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {}", self.0)
    }
}

impl fmt::Display for LogOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

const _: () = assert!(
    size_of::<usize>() >= size_of::<u64>(),
    "offsets are indices into memory"
);

/// A length or distance as an index.
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits, asserted above"
)]
pub(crate) const fn index(bytes: u64) -> usize {
    bytes as usize
}
