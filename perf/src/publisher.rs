//! One publisher: how many messages it may send now, and their bytes.
//!
//! Pure: the worker tells it the time, what its subscribers have received, and owns its socket.
//!
//! With a rate (open loop) a message may leave when its time has come and the window of
//! unacknowledged messages has room. Without one (closed loop) the subscribers' progress takes the
//! place of the schedule: at most `window` messages are underway from here to every subscriber.

use crate::packet::PublishTemplate;
use crate::payload::Stamp;
use crate::schedule::Schedule;
use crate::tally::sent_in_turn;

/// When messages may leave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pacing {
    /// At their scheduled times.
    Open(Schedule),
    /// As soon as earlier ones have arrived; `fan_out` subscribers hear each, 0 for none.
    Closed { fan_out: u64 },
}

/// Messages sent and not yet acknowledged, by packet id.
///
/// Packet ids go round from 1 to the window's size; one that is still in use is waited for.
#[derive(Debug)]
struct InFlight {
    /// Intended times plus one; 0 is free. Empty at QoS 0.
    slots: Vec<u64>,
    next: usize,
    count: usize,
}

impl InFlight {
    fn new(window: usize) -> Self {
        Self {
            slots: vec![0; window],
            next: 0,
            count: 0,
        }
    }

    fn room(&self) -> usize {
        self.slots.len() - self.count
    }

    fn take(&mut self, intended_ns: u64) -> Option<u16> {
        let slot = self.slots.get_mut(self.next)?;
        if *slot != 0 {
            return None;
        }
        *slot = intended_ns + 1;
        self.next += 1;
        let id = u16::try_from(self.next).ok()?;
        if self.next == self.slots.len() {
            self.next = 0;
        }
        self.count += 1;
        Some(id)
    }

    fn release(&mut self, packet_id: u16) -> Option<u64> {
        let slot = self.slots.get_mut(usize::from(packet_id).checked_sub(1)?)?;
        let intended_ns = slot.checked_sub(1)?;
        *slot = 0;
        self.count -= 1;
        Some(intended_ns)
    }
}

/// One publisher of a worker.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// Its number in the whole run.
    pub(crate) number: u32,
    /// Index of its connection.
    pub(crate) connection: usize,
    /// Whether it stands in the worker's queue of publishers that may send.
    pub(crate) is_queued: bool,
    /// What it publishes in turn: streams and their packets.
    streams: Vec<(u32, PublishTemplate)>,
    /// Messages that it sends at most.
    count: u64,
    /// Whether it publishes empty payloads, which remove what is retained.
    clears: bool,
    qos: u8,
    window: u64,
    in_flight: InFlight,
    sent: u64,
    /// Deliveries that never came and no longer hold up the closed loop.
    forgiven: u64,
    passed_before: u64,
}

impl Publisher {
    /// A publisher of `streams`.
    pub(crate) fn new(
        number: u32,
        streams: Vec<(u32, PublishTemplate)>,
        qos: u8,
        window: u16,
    ) -> Self {
        let slots = if qos == 0 { 0 } else { usize::from(window) };
        Self {
            number,
            connection: usize::MAX,
            is_queued: false,
            streams,
            count: u64::MAX,
            clears: false,
            qos,
            window: u64::from(window),
            in_flight: InFlight::new(slots),
            sent: 0,
            forgiven: 0,
            passed_before: 0,
        }
    }

    /// Ends it after so many messages.
    pub(crate) fn limit(&mut self, count: u64) {
        self.count = count;
    }

    /// Makes it publish empty payloads.
    pub(crate) fn clear(&mut self) {
        self.clears = true;
    }

    /// How many messages each of its streams has got.
    pub(crate) fn sent_by_stream(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let topics = self.streams.len() as u64;
        self.streams
            .iter()
            .zip(0..)
            .map(move |((stream, _), turn)| (*stream, sent_in_turn(self.sent, topics, turn)))
    }

    /// Narrows the window to the server's Receive Maximum.
    pub(crate) fn narrow(&mut self, receive_maximum: u16) {
        let limit = usize::from(receive_maximum);
        if self.qos > 0 && limit < self.in_flight.slots.len() {
            self.in_flight = InFlight::new(limit);
        }
    }

    /// How many messages may leave now: `due` of the whole run are due (open loop), `passed`
    /// deliveries of this publisher's messages have been made (closed loop).
    pub(crate) fn allowance(&self, pacing: &Pacing, due: u64, passed: u64) -> u64 {
        let allowed = match pacing {
            Pacing::Open(schedule) => schedule
                .share(u64::from(self.number), due)
                .saturating_sub(self.sent),
            Pacing::Closed { fan_out: 0 } => u64::MAX,
            Pacing::Closed { fan_out } => ((self.window * fan_out + passed + self.forgiven)
                / fan_out)
                .saturating_sub(self.sent),
        };
        let allowed = allowed.min(self.count.saturating_sub(self.sent));
        if self.qos == 0 {
            allowed
        } else {
            allowed.min(self.in_flight.room() as u64)
        }
    }

    /// Appends up to `count` messages and tells how many.
    pub(crate) fn write(
        &mut self,
        count: u64,
        pacing: &Pacing,
        moment: Moment,
        filler: &[u8],
        out: &mut Vec<u8>,
    ) -> u64 {
        let topics = self.streams.len() as u64;
        let mut turn = self.sent % topics;
        let mut round = self.sent / topics;
        for written in 0..count {
            let intended_ns = match pacing {
                Pacing::Open(schedule) => {
                    schedule.intended_ns(schedule.index_of(u64::from(self.number), self.sent))
                }
                Pacing::Closed { .. } => moment.now_ns,
            };
            // The stamp's sequence ends after 2^32 messages per stream: then this one is done.
            let Ok(sequence) = u32::try_from(round) else {
                return written;
            };
            let turn_index = usize::try_from(turn).unwrap_or(usize::MAX);
            let Some((stream, template)) = self.streams.get(turn_index) else {
                return written;
            };
            let packet_id = if self.qos == 0 {
                0
            } else {
                let Some(id) = self.in_flight.take(intended_ns) else {
                    return written;
                };
                id
            };
            let stamp = Stamp {
                run: moment.run,
                stream: *stream,
                sequence,
                intended_ns,
            };
            if self.clears {
                template.write(packet_id, &[], &[], out);
            } else {
                template.write(packet_id, &stamp.to_bytes(), filler, out);
            }
            self.sent += 1;
            turn += 1;
            if turn == topics {
                turn = 0;
                round += 1;
            }
        }
        count
    }

    /// A message is acknowledged for good; its intended time, `None` for an id not in flight.
    pub(crate) fn acknowledged(&mut self, packet_id: u16) -> Option<u64> {
        self.in_flight.release(packet_id)
    }

    /// Looks, every few hundred milliseconds, whether deliveries have stopped coming while the
    /// closed loop waits for them, and stops waiting for those. Whether it did.
    pub(crate) fn forgive_if_stalled(&mut self, fan_out: u64, passed: u64) -> bool {
        let expected = self.sent * fan_out;
        let known = passed + self.forgiven;
        let has_stopped = passed == self.passed_before && self.in_flight.count == 0;
        self.passed_before = passed;
        let is_blocked = known + self.window * fan_out < expected + fan_out;
        if !(has_stopped && is_blocked) {
            return false;
        }
        self.forgiven = expected.saturating_sub(passed);
        true
    }

    pub(crate) fn in_flight_count(&self) -> u64 {
        self.in_flight.count as u64
    }
}

/// What a batch of messages has in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) run: u8,
    pub(crate) now_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::MqttVersion;
    use crate::packet::{Frame, Scanner};
    use std::num::NonZeroU64;

    const NOW: Moment = Moment {
        run: 9,
        now_ns: 5_000,
    };

    fn publisher(qos: u8, window: u16, topics: u32) -> Publisher {
        let template = PublishTemplate::new(b"t", qos, false, 16, MqttVersion::V311);
        let streams = (10..10 + topics).map(|stream| (stream, template.clone()));
        Publisher::new(1, streams.collect(), qos, window)
    }

    fn stamps(out: &[u8]) -> Vec<Stamp> {
        let mut scanner = Scanner::new(out, MqttVersion::V311);
        let mut found = Vec::new();
        while let Some(Frame::Publish(frame)) = scanner.next().unwrap() {
            found.push(Stamp::read(frame.payload).unwrap());
        }
        found
    }

    #[test]
    fn topics_take_turns_and_each_has_its_own_sequence() {
        let mut publisher = publisher(0, 100, 3);
        let pacing = Pacing::Closed { fan_out: 1 };
        let mut out = Vec::new();
        assert_eq!(publisher.write(5, &pacing, NOW, &[], &mut out), 5);
        assert_eq!(publisher.write(2, &pacing, NOW, &[], &mut out), 2);
        let found: Vec<_> = stamps(&out)
            .iter()
            .map(|s| (s.stream, s.sequence))
            .collect();
        assert_eq!(
            found,
            [
                (10, 0),
                (11, 0),
                (12, 0),
                (10, 1),
                (11, 1),
                (12, 1),
                (10, 2)
            ]
        );
    }

    #[test]
    fn late_messages_keep_their_scheduled_times() {
        let rate = NonZeroU64::new(1_000).unwrap();
        let two = NonZeroU64::new(2).unwrap();
        let schedule = Schedule::new(1_000_000, 1_000_000_000, rate, two);
        let pacing = Pacing::Open(schedule);
        let mut publisher = publisher(0, 100, 1);
        let due = schedule.due(1_000_000 + 5_500_000);
        assert_eq!(publisher.allowance(&pacing, due, 0), 3);
        let mut out = Vec::new();
        publisher.write(3, &pacing, NOW, &[], &mut out);
        let times: Vec<_> = stamps(&out).iter().map(|s| s.intended_ns).collect();
        assert_eq!(times, [2_000_000, 4_000_000, 6_000_000]);
        assert_eq!(publisher.allowance(&pacing, due, 0), 0);
    }

    #[test]
    fn the_closed_loop_waits_for_every_subscriber() {
        let mut publisher = publisher(0, 2, 1);
        let pacing = Pacing::Closed { fan_out: 3 };
        assert_eq!(publisher.allowance(&pacing, 0, 0), 2);
        publisher.write(2, &pacing, NOW, &[], &mut Vec::new());
        assert_eq!(publisher.allowance(&pacing, 0, 2), 0);
        assert_eq!(publisher.allowance(&pacing, 0, 3), 1);
        assert_eq!(publisher.allowance(&pacing, 0, 6), 2);
    }

    #[test]
    fn a_stalled_loop_is_released_once_deliveries_stop() {
        let mut publisher = publisher(0, 2, 1);
        let pacing = Pacing::Closed { fan_out: 1 };
        publisher.write(2, &pacing, NOW, &[], &mut Vec::new());
        assert!(
            !publisher.forgive_if_stalled(1, 1),
            "a delivery came since the last look"
        );
        publisher.write(1, &pacing, NOW, &[], &mut Vec::new());
        assert!(publisher.forgive_if_stalled(1, 1));
        assert_eq!(publisher.allowance(&pacing, 0, 1), 2);
        assert!(
            !publisher.forgive_if_stalled(1, 1),
            "nothing holds it up any more"
        );
    }

    #[test]
    fn the_window_is_full_until_acknowledged() {
        let mut publisher = publisher(1, 3, 1);
        let pacing = Pacing::Closed { fan_out: 0 };
        let mut out = Vec::new();
        assert_eq!(publisher.write(9, &pacing, NOW, &[], &mut out), 3);
        assert_eq!(publisher.allowance(&pacing, 0, 0), 0);
        assert_eq!(publisher.acknowledged(2), Some(5_000));
        assert_eq!(publisher.acknowledged(2), None);
        assert_eq!(publisher.acknowledged(0), None);
        assert_eq!(publisher.acknowledged(4), None);
        assert_eq!(
            publisher.write(1, &pacing, NOW, &[], &mut out),
            0,
            "id 1 is still in use"
        );
        assert_eq!(publisher.acknowledged(1), Some(5_000));
        assert_eq!(publisher.write(9, &pacing, NOW, &[], &mut out), 2);
        assert_eq!(publisher.in_flight_count(), 3);
    }

    #[test]
    fn a_receive_maximum_narrows_the_window() {
        let mut publisher = publisher(2, 100, 1);
        publisher.narrow(7);
        let pacing = Pacing::Closed { fan_out: 0 };
        assert_eq!(publisher.allowance(&pacing, 0, 0), 7);
    }
}
