//! What one worker has counted, and how the workers' counts add up to the run's.

use std::ops::Range;

use crate::check::{Tracker, Verdict};
use crate::latency::Recorder;
use crate::payload::Stamp;
use crate::timeline::LatencyRows;

/// Counts and latencies of one worker.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) faults: Faults,
    pub(crate) received: u64,
    pub(crate) acknowledged: u64,
    pub(crate) delivery: Recorder,
    pub(crate) acknowledgement: Recorder,
    pub(crate) connect: Recorder,
    /// From SUBSCRIBE to its SUBACK.
    pub(crate) subscribe: Recorder,
    /// Latencies of deliveries over time.
    pub(crate) over_time: LatencyRows,
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
            subscribe: Recorder::new(),
            over_time: LatencyRows::default(),
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
        self.subscribe.absorb(other.subscribe);
        self.over_time.absorb(other.over_time);
    }
}

/// What a hearer has received of the streams it hears: a subscriber, or the members of a shared
/// group together.
#[derive(Debug)]
pub(crate) struct Hearer {
    first_stream: u32,
    trackers: Vec<Tracker>,
    /// The members of a group; empty for a lone subscriber.
    members: Vec<Member>,
    /// Whether it reads slowly: what it has not read is no loss.
    pub(crate) is_slow: bool,
}

/// One member of a shared group: what it alone has got.
#[derive(Debug)]
struct Member {
    received: u64,
    /// The next sequence number that is not behind what it has got, by stream.
    next: Vec<u32>,
}

impl Hearer {
    pub(crate) fn new(streams: &Range<u32>) -> Self {
        let trackers = streams.clone().map(|_| Tracker::default()).collect();
        Self {
            first_stream: streams.start,
            trackers,
            members: Vec::new(),
            is_slow: false,
        }
    }

    /// Adds a member; its number.
    pub(crate) fn join(&mut self) -> usize {
        self.members.push(Member {
            received: 0,
            next: vec![0; self.trackers.len()],
        });
        self.members.len() - 1
    }

    /// Judges a message; `None` when it is of a stream not heard here. Members of a group have no
    /// order among each other: one of them is out of order when it gets an earlier message of a
    /// stream after a later one.
    pub(crate) fn arrived(&mut self, stamp: Stamp, member: Option<usize>) -> Option<Verdict> {
        let index = usize::try_from(stamp.stream.checked_sub(self.first_stream)?).ok()?;
        let verdict = self.trackers.get_mut(index)?.arrived(stamp.sequence);
        let Some(member) = member.and_then(|member| self.members.get_mut(member)) else {
            return Some(verdict);
        };
        if verdict == Verdict::Duplicate {
            return Some(verdict);
        }
        member.received += 1;
        let next = member.next.get_mut(index)?;
        let is_behind = stamp.sequence < *next;
        *next = (*next).max(stamp.sequence.saturating_add(1));
        Some(match verdict {
            Verdict::OutOfOrder if !is_behind => Verdict::InOrder { advance: 0 },
            Verdict::InOrder { .. } | Verdict::OutOfOrder | Verdict::Duplicate => verdict,
        })
    }

    /// What each member of a group has got.
    pub(crate) fn member_counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.members.iter().map(|member| member.received)
    }

    /// How many messages were sent on the streams heard here.
    pub(crate) fn expected(&self, sent: impl Fn(u32) -> u64) -> u64 {
        let streams = self.first_stream..;
        let heard = self.trackers.iter().zip(streams);
        heard.map(|(_, stream)| sent(stream)).sum()
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
        let mut subscriber = Hearer::new(&(5..7));
        assert_eq!(
            subscriber.arrived(stamp(5, 0), None),
            Some(Verdict::InOrder { advance: 1 })
        );
        assert_eq!(
            subscriber.arrived(stamp(6, 1), None),
            Some(Verdict::InOrder { advance: 2 })
        );
        assert_eq!(subscriber.arrived(stamp(4, 0), None), None);
        assert_eq!(subscriber.arrived(stamp(7, 0), None), None);
        assert_eq!((subscriber.distinct(), subscriber.lost(|_| 3)), (2, 4));
    }

    #[test]
    fn a_group_gets_each_message_once_and_each_member_in_order() {
        let mut group = Hearer::new(&(0..1));
        let (first, second) = (Some(group.join()), Some(group.join()));
        assert!(matches!(
            group.arrived(stamp(0, 1), first),
            Some(Verdict::InOrder { .. })
        ));
        assert_eq!(
            group.arrived(stamp(0, 0), second),
            Some(Verdict::InOrder { advance: 0 }),
            "members have no order among each other"
        );
        assert_eq!(group.arrived(stamp(0, 1), second), Some(Verdict::Duplicate));
        assert!(matches!(
            group.arrived(stamp(0, 5), second),
            Some(Verdict::InOrder { .. })
        ));
        assert_eq!(
            group.arrived(stamp(0, 4), second),
            Some(Verdict::OutOfOrder)
        );
        assert_eq!(group.member_counts().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(
            (group.distinct(), group.lost(|_| 6), group.expected(|_| 6)),
            (4, 2, 6)
        );
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
