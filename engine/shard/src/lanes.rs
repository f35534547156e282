//! What goes to the other shards, and what came from their logs: one lane per peer and direction.

use std::collections::VecDeque;
use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::LogOffset;

use crate::config::ShardConfig;
use crate::counters::Counters;
use crate::port::{Event, MeshMessage};

/// The way to one peer. It never blocks: above its bound it collapses to "durable up to X" and the
/// peer scans the log.
#[derive(Debug)]
pub(crate) struct Lane {
    outbox: Vec<MeshMessage>,
    events: usize,
    bytes: usize,
    /// Events are dropped until the peer has scanned up to the durable watermark.
    pub(crate) collapsed: bool,
    /// The last durable watermark told.
    told: LogOffset,
    /// The peer must be told once the log is durable up to here, events or not.
    due: Option<LogOffset>,
}

impl Lane {
    pub(crate) const fn new(told: LogOffset) -> Self {
        Self {
            outbox: Vec::new(),
            events: 0,
            bytes: 0,
            collapsed: false,
            told,
            due: None,
        }
    }

    /// Queues something that is bounded by credit, not by the lane.
    pub(crate) fn push(&mut self, message: MeshMessage) {
        self.outbox.push(message);
    }

    pub(crate) const fn queued(&self) -> usize {
        self.outbox.len()
    }

    /// Publications in it, and their bytes.
    pub(crate) const fn load(&self) -> (usize, usize) {
        (self.events, self.bytes)
    }

    /// Queues a publication; returns whether it took its place.
    pub(crate) fn push_event(
        &mut self,
        event: Event,
        config: &ShardConfig,
        counters: &mut Counters,
    ) -> bool {
        if self.collapsed {
            counters.lane_dropped_qos0 += u64::from(event.message.qos == QoS::AtMostOnce);
            return false;
        }
        self.events += 1;
        self.bytes += event.message.body.len();
        if self.events > config.lane_events_max || self.bytes > config.lane_bytes_max {
            self.collapse(counters);
            return false;
        }
        if let Some(MeshMessage::Events(events)) = self.outbox.last_mut() {
            events.push(event);
        } else {
            self.outbox.push(MeshMessage::Events(vec![event]));
        }
        true
    }

    /// Queues a QoS 0 publication for a member of a group; dropped when the lane is full.
    pub(crate) fn push_qos0(
        &mut self,
        message: MeshMessage,
        config: &ShardConfig,
        counters: &mut Counters,
    ) {
        if self.collapsed || self.outbox.len() >= config.lane_events_max {
            counters.lane_dropped_qos0 += 1;
            return;
        }
        self.outbox.push(message);
    }

    /// Queues a retained publication for the topic's owner; dropped while collapsed, as the scan
    /// brings it.
    pub(crate) fn push_retain(
        &mut self,
        message: engine_session::Message,
        config: &ShardConfig,
        counters: &mut Counters,
    ) {
        if self.collapsed {
            return;
        }
        self.events += 1;
        self.bytes += message.body.len();
        self.outbox.push(MeshMessage::Retain(message));
        if self.events > config.lane_events_max || self.bytes > config.lane_bytes_max {
            self.collapse(counters);
        }
    }

    fn collapse(&mut self, counters: &mut Counters) {
        self.collapsed = true;
        self.events = 0;
        self.bytes = 0;
        counters.lane_collapses += 1;
        let mut dropped = 0;
        self.outbox.retain(|message| match message {
            MeshMessage::Events(events) => {
                let lost = events
                    .iter()
                    .filter(|e| e.message.qos == QoS::AtMostOnce)
                    .count();
                dropped += lost as u64;
                false
            }
            MeshMessage::Retain(_) | MeshMessage::DurableUpTo(_) => false,
            MeshMessage::RouteChange { .. }
            | MeshMessage::Routed { .. }
            | MeshMessage::Adopt
            | MeshMessage::Adopted { .. }
            | MeshMessage::Collapsed { .. }
            | MeshMessage::Scan { .. }
            | MeshMessage::Scanned { .. }
            | MeshMessage::Read { .. }
            | MeshMessage::ReadAnswer { .. }
            | MeshMessage::Cancel { .. }
            | MeshMessage::RetainApplied { .. }
            | MeshMessage::RetireAsk { .. }
            | MeshMessage::RetireReady { .. }
            | MeshMessage::RetainedCheck { .. }
            | MeshMessage::RetainedChecked { .. }
            | MeshMessage::Retired { .. }
            | MeshMessage::RetainedRead(_)
            | MeshMessage::RetainedPage { .. }
            | MeshMessage::Group(_)
            | MeshMessage::Exclusive(_) => true,
        });
        counters.lane_dropped_qos0 += dropped;
        self.outbox.push(MeshMessage::Collapsed { upto: self.told });
    }

    /// Every durable event below `durable` has been queued: tells the peer, now if it waits for it
    /// or gets events anyway, else when [`Self::tell`] is called.
    pub(crate) fn durable(&mut self, durable: LogOffset) {
        let wanted = self.due.is_some_and(|due| durable >= due);
        if self.events > 0 || wanted {
            self.tell(durable);
        }
    }

    /// Tells the peer how far the log is durable.
    pub(crate) fn tell(&mut self, durable: LogOffset) {
        if self.due.is_some_and(|due| durable >= due) {
            self.due = None;
        }
        if self.collapsed || durable <= self.told {
            return;
        }
        self.told = durable;
        if let Some(MeshMessage::DurableUpTo(last)) = self.outbox.last_mut() {
            *last = durable;
        } else {
            self.outbox.push(MeshMessage::DurableUpTo(durable));
        }
    }

    /// The peer waits for the log to be durable up to here.
    pub(crate) fn want(&mut self, offset: LogOffset) {
        self.due = Some(self.due.map_or(offset, |due| due.max(offset)));
    }

    pub(crate) fn is_behind(&self, durable: LogOffset) -> bool {
        !self.collapsed && self.told < durable
    }

    /// The peer has been sent everything below `next` by a scan: events flow again.
    pub(crate) fn resume(&mut self, next: LogOffset) {
        self.collapsed = false;
        self.told = self.told.max(next);
    }

    pub(crate) fn take(&mut self) -> Vec<MeshMessage> {
        self.events = 0;
        self.bytes = 0;
        std::mem::take(&mut self.outbox)
    }
}

/// Recent publications of one log that this shard was sent: sessions that are only a little behind
/// are served from here, without a read.
#[derive(Debug)]
pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Every publication at or above this offset that matched one of this shard's filters is here.
    start: LogOffset,
}

impl Ring {
    pub(crate) const fn new(start: LogOffset) -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            start,
        }
    }

    /// Publications in it, and their bytes.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.events.len(), self.bytes)
    }

    pub(crate) const fn start(&self) -> LogOffset {
        self.start
    }

    pub(crate) fn push(&mut self, event: Arc<Event>, config: &ShardConfig) {
        self.bytes += event.message.body.len();
        self.events.push_back(event);
        while self.events.len() > config.ring_events_max || self.bytes > config.ring_bytes_max {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.message.body.len();
            self.start = oldest.message.address.offset.after();
        }
    }

    /// The first publication at or above `from`, as an index for [`Self::get`].
    pub(crate) fn seek(&self, from: LogOffset) -> usize {
        self.events
            .partition_point(|event| event.message.address.offset < from)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Arc<Event>> {
        self.events.get(index)
    }
}
