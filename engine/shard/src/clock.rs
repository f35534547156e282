//! The node's time: one reading of the wall clock at its start, and the monotonic clock since.
//!
//! Whoever sets the wall clock while the node runs changes nothing here, so all shards stamp by the
//! same time, and it never goes back. At a start it goes on behind the newest stamp that any shard
//! has stored, however far the wall clock was set back meanwhile.

use engine_session::Now;

use crate::shard::Shard;

/// Low bits of a stamp, which count within a millisecond.
pub(crate) const STAMP_COUNT_BITS: u32 = 16;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Clock {
    /// The node's time when the monotonic clock showed zero, milliseconds since the Unix epoch.
    zero_ms: u64,
}

impl Clock {
    /// Begins with what the wall clock shows now.
    pub(crate) const fn new(now: Now) -> Self {
        Self {
            zero_ms: now.wall_ms.saturating_sub(now.monotonic_ms),
        }
    }

    /// A reading of the clocks with the node's time in place of the wall clock's.
    pub(crate) const fn read(self, now: Now) -> Now {
        Now {
            wall_ms: self.zero_ms.saturating_add(now.monotonic_ms),
            ..now
        }
    }

    /// Goes on behind a stamp, if it stands before it.
    fn begin_behind(&mut self, stamp: u64, now: Now) {
        let later_ms = (stamp >> STAMP_COUNT_BITS) + 1;
        self.zero_ms = self.zero_ms.max(later_ms.saturating_sub(now.monotonic_ms));
    }
}

impl Shard {
    /// The newest stamp that this shard knows of, 0 when there is none. Its high 48 bits are
    /// milliseconds since the Unix epoch.
    #[must_use]
    pub const fn newest_stamp(&self) -> u64 {
        self.last_stamp
    }

    /// At the start: everything from now on is stamped higher than `newest`, the newest stamp that
    /// any shard of the node or its log knows of.
    pub fn begin_behind(&mut self, newest: u64) {
        self.last_stamp = self.last_stamp.max(newest);
        if newest > 0 {
            self.clock.begin_behind(newest, self.now);
        }
        self.now = self.clock.read(self.now);
    }

    /// The clocks of a call.
    pub(crate) const fn begin_call(&mut self, now: Now) {
        self.now = self.clock.read(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn now(monotonic_ms: u64, wall_ms: u64) -> Now {
        Now {
            monotonic_ms,
            wall_ms,
        }
    }

    #[test]
    fn steps_of_the_wall_clock_change_nothing() {
        let clock = Clock::new(now(10, 5_000));
        for wall_ms in [0, 4_000, 5_000, 9_000_000] {
            assert_eq!(clock.read(now(30, wall_ms)), now(30, 5_020));
        }
    }

    #[test]
    fn it_begins_behind_the_newest_stamp() {
        let mut clock = Clock::new(now(10, 5_000));
        clock.begin_behind(7_000 << STAMP_COUNT_BITS | 9, now(10, 5_000));
        assert_eq!(clock.read(now(10, 5_000)).wall_ms, 7_001);
        clock.begin_behind(6_000 << STAMP_COUNT_BITS, now(10, 5_000));
        assert_eq!(clock.read(now(15, 5_000)).wall_ms, 7_006);
    }
}
