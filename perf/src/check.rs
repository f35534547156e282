//! Checks one stream of messages at one subscriber: what is missing, what came twice, what came
//! late.
//!
//! A tracker sees sequence numbers in the order of arrival. It keeps the next number it expects
//! and the ranges it has skipped, so a late arrival is told from a duplicate without remembering
//! every message. It assumes nothing about how many were sent: `lost` gets that number at the end.
//!
//! Bound: `GAP_COUNT_MAX` skipped ranges per stream; beyond it the oldest half is given up, and a
//! message that arrives that late counts as a duplicate. Only a broker that drops every second
//! message for a long time gets there, and its losses are still counted right.

/// The most skipped ranges kept per stream: 8 bytes each, so at most 512 KiB.
const GAP_COUNT_MAX: usize = 1 << 16;

/// A skipped range of sequence numbers, `first` included, `end` excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    first: u32,
    end: u32,
}

/// What a message was, judged by its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// New and not behind anything already seen; how far the stream moved on (1 = no gap).
    InOrder {
        /// Sequence numbers passed, this one included.
        advance: u32,
    },
    /// New, but a later one was seen before it.
    OutOfOrder,
    /// Seen before.
    Duplicate,
}

/// The state of one stream at one subscriber.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    next: u32,
    distinct: u64,
    /// Ascending and disjoint.
    gaps: Vec<Gap>,
}

impl Tracker {
    /// Takes note of an arrival and judges it.
    pub(crate) fn arrived(&mut self, sequence: u32) -> Verdict {
        if sequence >= self.next {
            let advance = sequence - self.next + 1;
            if advance > 1 {
                self.skip(Gap {
                    first: self.next,
                    end: sequence,
                });
            }
            self.next = sequence.saturating_add(1);
            self.distinct += 1;
            return Verdict::InOrder { advance };
        }
        if self.fill(sequence) {
            self.distinct += 1;
            Verdict::OutOfOrder
        } else {
            Verdict::Duplicate
        }
    }

    /// How many of `sent` messages never came.
    pub(crate) fn lost(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.distinct)
    }

    /// How many different messages came.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct
    }

    fn skip(&mut self, gap: Gap) {
        if self.gaps.len() == GAP_COUNT_MAX {
            self.gaps.drain(..GAP_COUNT_MAX / 2);
        }
        self.gaps.push(gap);
    }

    /// Takes a number out of the skipped ranges; false when it is in none.
    fn fill(&mut self, sequence: u32) -> bool {
        let position = self.gaps.partition_point(|gap| gap.end <= sequence);
        let Some(gap) = self.gaps.get_mut(position) else {
            return false;
        };
        if sequence < gap.first {
            return false;
        }
        let rest = Gap {
            first: sequence + 1,
            end: gap.end,
        };
        gap.end = sequence;
        let is_emptied = gap.first == gap.end;
        match (is_emptied, rest.first < rest.end) {
            (true, true) => *gap = rest,
            (true, false) => drop(self.gaps.remove(position)),
            (false, true) => self.gaps.insert(position + 1, rest),
            (false, false) => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_stream_in_order_has_no_faults() {
        let mut tracker = Tracker::default();
        for sequence in 0..1_000 {
            assert_eq!(tracker.arrived(sequence), Verdict::InOrder { advance: 1 });
        }
        assert_eq!((tracker.distinct(), tracker.lost(1_000)), (1_000, 0));
    }

    #[test]
    fn a_gap_is_loss_until_it_is_filled() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.arrived(0), Verdict::InOrder { advance: 1 });
        assert_eq!(tracker.arrived(5), Verdict::InOrder { advance: 5 });
        assert_eq!(tracker.lost(6), 4);
        assert_eq!(tracker.arrived(3), Verdict::OutOfOrder);
        assert_eq!(tracker.arrived(3), Verdict::Duplicate);
        assert_eq!(tracker.arrived(1), Verdict::OutOfOrder);
        assert_eq!(tracker.arrived(4), Verdict::OutOfOrder);
        assert_eq!(tracker.lost(6), 1);
        assert_eq!(tracker.arrived(2), Verdict::OutOfOrder);
        assert!(tracker.gaps.is_empty());
        assert_eq!(tracker.arrived(0), Verdict::Duplicate);
        assert_eq!((tracker.distinct(), tracker.lost(6)), (6, 0));
    }

    #[test]
    fn a_lost_tail_is_counted() {
        let mut tracker = Tracker::default();
        tracker.arrived(0);
        assert_eq!(tracker.lost(10), 9);
        assert_eq!(Tracker::default().lost(3), 3);
    }

    #[test]
    fn agrees_with_a_set_on_a_shuffled_stream_with_repeats() {
        let mut tracker = Tracker::default();
        let mut model = HashSet::new();
        let mut highest = None;
        let mut seed = 12_345_u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let sequence = (seed >> 16) % 3_000;
            let is_new = model.insert(sequence);
            let verdict = tracker.arrived(sequence);
            match verdict {
                Verdict::Duplicate => assert!(!is_new, "{sequence} is new"),
                Verdict::OutOfOrder => assert!(is_new && Some(sequence) < highest),
                Verdict::InOrder { .. } => assert!(is_new && Some(sequence) > highest),
            }
            highest = highest.max(Some(sequence));
        }
        assert_eq!(tracker.distinct(), model.len() as u64);
        assert!(
            tracker
                .gaps
                .windows(2)
                .all(|pair| pair[0].end < pair[1].first)
        );
    }

    #[test]
    fn the_number_of_gaps_is_bounded_and_losses_stay_right() {
        let mut tracker = Tracker::default();
        let rounds = 3 * u32::try_from(GAP_COUNT_MAX).unwrap();
        for round in 0..rounds {
            tracker.arrived(round * 2);
        }
        assert!(tracker.gaps.len() <= GAP_COUNT_MAX);
        assert_eq!(tracker.lost(u64::from(rounds) * 2), u64::from(rounds));
    }
}
