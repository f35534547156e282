//! The open-loop schedule: when each message should leave, whatever the broker does.
//!
//! Message `n` of a run (counted over all publishers) is intended at `start + n / rate`; publisher
//! `p` of `P` sends the messages `p`, `p + P`, `p + 2P`, ... so the publishers take turns and their
//! sends are spread evenly. A publisher that is held up does not move the schedule: its messages
//! keep their intended times, and latency is measured from those (no coordinated omission).
//! Pure arithmetic on nanoseconds; reads no clock.

use std::num::NonZeroU64;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// The most messages a schedule may hold, so that `index * 1e9` fits in a u64.
pub(crate) const SCHEDULED_COUNT_MAX: u64 = u64::MAX / NS_PER_SECOND - 1;

/// A fixed total rate from a start time on, for a number of publishers, up to a last message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    per_second: NonZeroU64,
    publisher_count: NonZeroU64,
    total_count: u64,
}

impl Schedule {
    /// A schedule of all messages intended in `start_ns .. start_ns + span_ns`.
    pub(crate) fn new(
        start_ns: u64,
        span_ns: u64,
        per_second: NonZeroU64,
        publisher_count: NonZeroU64,
    ) -> Self {
        let mut schedule = Self {
            start_ns,
            per_second,
            publisher_count,
            total_count: SCHEDULED_COUNT_MAX,
        };
        if span_ns == 0 {
            schedule.total_count = 0;
        } else {
            schedule.total_count = schedule.due(start_ns.saturating_add(span_ns - 1));
        }
        schedule
    }

    /// How many messages, over all publishers, are intended at or before `now_ns`.
    pub(crate) fn due(&self, now_ns: u64) -> u64 {
        let Some(elapsed_ns) = now_ns.checked_sub(self.start_ns) else {
            return 0;
        };
        let rate = u128::from(self.per_second.get());
        let last = ((u128::from(elapsed_ns) + 1) * rate - 1) / u128::from(NS_PER_SECOND);
        u64::try_from(last + 1)
            .unwrap_or(u64::MAX)
            .min(self.total_count)
    }

    /// The intended time of message `index`, nanoseconds.
    pub(crate) fn intended_ns(&self, index: u64) -> u64 {
        debug_assert!(
            index <= SCHEDULED_COUNT_MAX,
            "message {index} is past the schedule"
        );
        self.start_ns + index * NS_PER_SECOND / self.per_second
    }

    /// Which message of the whole run publisher `publisher`'s message number `nth` is.
    pub(crate) fn index_of(&self, publisher: u64, nth: u64) -> u64 {
        publisher + nth * self.publisher_count.get()
    }

    /// How many of the first `due` messages belong to `publisher`.
    pub(crate) fn share(&self, publisher: u64, due: u64) -> u64 {
        due.saturating_sub(publisher)
            .div_ceil(self.publisher_count.get())
    }

    /// How many messages the schedule holds.
    pub(crate) fn total_count(&self) -> u64 {
        self.total_count
    }

    /// How many publishers take turns.
    pub(crate) fn publisher_count(&self) -> NonZeroU64 {
        self.publisher_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonzero(value: u64) -> NonZeroU64 {
        NonZeroU64::new(value).unwrap()
    }

    #[test]
    fn due_counts_exactly_the_messages_whose_time_has_come() {
        for rate in [1, 3, 7, 999, 1_000_000, 3_000_000_000] {
            let schedule = Schedule::new(500, 4_000_000_000, nonzero(rate), nonzero(1));
            for index in 0..200_u64.min(schedule.total_count()) {
                let at = schedule.intended_ns(index);
                assert!(
                    schedule.due(at) > index,
                    "rate {rate}: {index} is not due at {at}"
                );
                if at > 500 {
                    assert!(
                        schedule.due(at - 1) <= index,
                        "rate {rate}: {index} before {at}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_due_before_the_start_or_after_the_end() {
        let schedule = Schedule::new(1_000, 2_000_000_000, nonzero(10), nonzero(4));
        assert_eq!(schedule.due(999), 0);
        assert_eq!(schedule.due(1_000), 1);
        assert_eq!(schedule.total_count(), 20);
        assert_eq!(schedule.due(u64::MAX), 20);
        assert_eq!(
            Schedule::new(0, 0, nonzero(10), nonzero(1)).total_count(),
            0
        );
    }

    #[test]
    fn publishers_take_turns_and_share_everything() {
        let schedule = Schedule::new(0, 1_000_000_000, nonzero(103), nonzero(4));
        let mut seen = [false; 103];
        for publisher in 0..4 {
            let share = schedule.share(publisher, schedule.total_count());
            for nth in 0..share {
                let index = schedule.index_of(publisher, nth);
                let slot = &mut seen[usize::try_from(index).unwrap()];
                assert!(!*slot, "message {index} is sent twice");
                *slot = true;
            }
        }
        assert!(seen.iter().all(|sent| *sent), "a message has no publisher");
        assert_eq!(schedule.share(3, 3), 0);
        assert_eq!(schedule.share(3, 4), 1);
    }

    #[test]
    fn an_hour_at_a_high_rate_does_not_overflow() {
        let hour = 3_600 * NS_PER_SECOND;
        let schedule = Schedule::new(hour, hour, nonzero(4_000_000), nonzero(1));
        assert_eq!(schedule.total_count(), 3_600 * 4_000_000);
        assert!(schedule.intended_ns(schedule.total_count() - 1) < 2 * hour);
    }
}
