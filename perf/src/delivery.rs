//! A worker's hot path in: messages that arrive, and acknowledgements.
//!
//! A QoS 2 message counts when its PUBLISH arrives. The generator never reconnects within a run, so
//! a server has no reason to send one twice, and a second arrival is a duplicate.

use std::sync::atomic::Ordering;

use crate::check::Verdict;
use crate::connection::Role;
use crate::packet::{AckFrame, AckKind, PublishFrame};
use crate::payload::Stamp;
use crate::worker::Worker;

/// How far the streams of one publisher have moved on in one read; added up so that the shared
/// counter is touched once per run of messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passing {
    publisher: u32,
    count: u64,
}

impl Worker<'_> {
    /// Counts, judges and acknowledges a message.
    pub(crate) fn delivered(
        &mut self,
        role: Role,
        frame: &PublishFrame<'_>,
        now_ns: u64,
        passing: &mut Passing,
    ) {
        match frame.qos {
            0 => {}
            1 => AckKind::PubAck.write(frame.packet_id, &mut self.out),
            _ => AckKind::PubRec.write(frame.packet_id, &mut self.out),
        }
        self.tally.received += 1;
        let stamp = Stamp::read(frame.payload).filter(|stamp| stamp.run == self.state.run);
        let (Some(index), Some(stamp)) = (role.hearer(), stamp) else {
            self.tally.faults.foreign += 1;
            return;
        };
        let Some(hearer) = self.hearers.get_mut(index) else {
            return;
        };
        let is_slow = hearer.is_slow;
        let member = match role {
            Role::Member(_, member) => Some(member),
            Role::Idle | Role::Publisher(_) | Role::Subscriber(_) => None,
        };
        match hearer.arrived(stamp, member) {
            None => {
                self.tally.faults.foreign += 1;
                return;
            }
            Some(Verdict::Duplicate) => {
                self.tally.faults.duplicated += 1;
                return;
            }
            Some(Verdict::OutOfOrder) => self.tally.faults.out_of_order += 1,
            Some(Verdict::InOrder { advance }) => {
                self.advance(stamp.stream, u64::from(advance), passing);
            }
        }
        self.distinct += 1;
        if let Some(came_ns) = self.came_ns {
            self.tally.delivery.record(now_ns.saturating_sub(came_ns));
        } else if self.is_measured(stamp.intended_ns) && !is_slow {
            let latency_ns = now_ns.saturating_sub(stamp.intended_ns);
            self.tally.delivery.record(latency_ns);
            let due_ns = stamp.intended_ns.saturating_sub(self.window_ns.0);
            let over_time = &mut self.tally.over_time;
            over_time.record(due_ns, self.interval_ns, latency_ns);
        }
    }

    /// Settles a message in flight, or answers the next step of QoS 2.
    pub(crate) fn acknowledged(&mut self, role: Role, frame: AckFrame, now_ns: u64) {
        match frame.kind {
            AckKind::PubRel => {
                AckKind::PubComp.write(frame.packet_id, &mut self.out);
                return;
            }
            AckKind::PubRec if !frame.is_refusal => {
                AckKind::PubRel.write(frame.packet_id, &mut self.out);
                return;
            }
            AckKind::PubAck | AckKind::PubRec | AckKind::PubComp => {}
        }
        let Role::Publisher(index) = role else { return };
        let Some(publisher) = self.publishers.get_mut(index) else {
            return;
        };
        let Some(intended_ns) = publisher.acknowledged(frame.packet_id) else {
            self.tally.faults.foreign += 1;
            return;
        };
        self.in_flight -= 1;
        if frame.is_refusal {
            self.tally.faults.refused += 1;
        } else {
            self.tally.acknowledged += 1;
        }
        if self.is_measured(intended_ns) {
            self.tally
                .acknowledgement
                .record(now_ns.saturating_sub(intended_ns));
        }
        self.enqueue(index);
    }

    /// Tells the publisher, on whichever worker it is, how far its subscribers are.
    pub(crate) fn pass(&mut self, passing: Passing) {
        let Ok(number) = usize::try_from(passing.publisher) else {
            return;
        };
        if passing.count == 0 {
            return;
        }
        if let Some(passed) = self.state.passed.get(number) {
            passed.fetch_add(passing.count, Ordering::Relaxed);
        }
        if let Some(Some(index)) = self.publisher_index.get(number).copied() {
            self.enqueue(index);
        }
    }

    fn advance(&mut self, stream: u32, count: u64, passing: &mut Passing) {
        // With a schedule nobody waits for deliveries.
        let load = self.settings.load.as_ref();
        if load.is_none_or(|load| load.rate.is_some()) {
            return;
        }
        let (publisher, _) = self.settings.scenario.publisher_of(stream);
        if passing.publisher != publisher {
            self.pass(*passing);
            *passing = Passing {
                publisher,
                count: 0,
            };
        }
        passing.count += count;
    }

    fn is_measured(&self, intended_ns: u64) -> bool {
        (self.window_ns.0..self.window_ns.1).contains(&intended_ns)
    }
}
