//! What one worker has counted, and how the workers' counts add up to the run's.

use std::ops::Range;

use crate::check::{Tracker, Verdict};
use crate::latency::Recorder;
use crate::payload::Stamp;

/// Counts and latencies of one worker.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) faults: Faults,
    pub(crate) received: u64,
    pub(crate) acknowledged: u64,
    pub(crate) delivery: Recorder,
    pub(crate) acknowledgement: Recorder,
    pub(crate) connect: Recorder,
}

/// Things that should not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) foreign: u64,
    pub(crate) refused: u64,
    pub(crate) stalls: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            faults: Faults::default(),
            received: 0,
            acknowledged: 0,
            delivery: Recorder::new(),
            acknowledgement: Recorder::new(),
            connect: Recorder::new(),
        }
    }

    /// Adds another worker's counts.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.faults.duplicated += other.faults.duplicated;
        self.faults.out_of_order += other.faults.out_of_order;
        self.faults.foreign += other.faults.foreign;
        self.faults.refused += other.faults.refused;
        self.faults.stalls += other.faults.stalls;
        self.received += other.received;
        self.acknowledged += other.acknowledged;
        self.delivery.absorb(other.delivery);
        self.acknowledgement.absorb(other.acknowledgement);
        self.connect.absorb(other.connect);
    }
}

/// What a subscriber has received of the streams it hears.
#[derive(Debug)]
pub(crate) struct Subscriber {
    first_stream: u32,
    trackers: Vec<Tracker>,
}

impl Subscriber {
    pub(crate) fn new(streams: &Range<u32>) -> Self {
        let trackers = streams.clone().map(|_| Tracker::default()).collect();
        Self {
            first_stream: streams.start,
            trackers,
        }
    }

    /// Judges a message; `None` when it is of a stream not heard here.
    pub(crate) fn arrived(&mut self, stamp: Stamp) -> Option<Verdict> {
        let index = usize::try_from(stamp.stream.checked_sub(self.first_stream)?).ok()?;
        Some(self.trackers.get_mut(index)?.arrived(stamp.sequence))
    }

    /// How many messages are missing, given how many were sent on each stream.
    pub(crate) fn lost(&self, sent: impl Fn(u32) -> u64) -> u64 {
        let streams = self.first_stream..;
        self.trackers
            .iter()
            .zip(streams)
            .map(|(tracker, stream)| tracker.lost(sent(stream)))
            .sum()
    }

    /// How many different messages came.
    pub(crate) fn distinct(&self) -> u64 {
        self.trackers.iter().map(Tracker::distinct).sum()
    }
}

/// How many messages publisher's stream number `turn` of `topics` has got when `sent` were sent in
/// turns.
pub(crate) fn sent_in_turn(sent: u64, topics: u64, turn: u64) -> u64 {
    (sent + topics - 1 - turn) / topics
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(stream: u32, sequence: u32) -> Stamp {
        Stamp {
            run: 0,
            stream,
            sequence,
            intended_ns: 0,
        }
    }

    #[test]
    fn a_subscriber_knows_only_its_streams() {
        let mut subscriber = Subscriber::new(&(5..7));
        assert_eq!(
            subscriber.arrived(stamp(5, 0)),
            Some(Verdict::InOrder { advance: 1 })
        );
        assert_eq!(
            subscriber.arrived(stamp(6, 1)),
            Some(Verdict::InOrder { advance: 2 })
        );
        assert_eq!(subscriber.arrived(stamp(4, 0)), None);
        assert_eq!(subscriber.arrived(stamp(7, 0)), None);
        assert_eq!((subscriber.distinct(), subscriber.lost(|_| 3)), (2, 4));
    }

    #[test]
    fn messages_sent_in_turns_add_up() {
        for topics in 1..6 {
            for sent in 0..20 {
                let parts: Vec<u64> = (0..topics)
                    .map(|turn| sent_in_turn(sent, topics, turn))
                    .collect();
                assert_eq!(parts.iter().sum::<u64>(), sent);
                assert!(parts[0] - parts[parts.len() - 1] <= 1, "{parts:?}");
            }
        }
    }

    #[test]
    fn tallies_add_up() {
        let mut left = Tally::new();
        let mut right = Tally::new();
        left.received = 2;
        right.received = 3;
        right.faults.foreign = 1;
        right.delivery.record(1_000);
        left.absorb(right);
        assert_eq!((left.received, left.faults.foreign), (5, 1));
        assert_eq!(
            left.delivery.summary().map(|summary| summary.count),
            Some(1)
        );
    }
}
