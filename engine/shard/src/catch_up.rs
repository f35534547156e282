//! Sessions that are behind: from the ring of recent events or from the log, up to the shard's
//! position, where they go live.

use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{Address, LogId, LogOffset, Message, is_wildcard};

use crate::client::ClientKey;
use crate::port::{QueueName, ReadAnswer, ReadRequest, Store};
use crate::reads::Purpose;
use crate::shard::Shard;

/// Sessions that are looked at in one turn, at most.
const PUMPS_PER_TURN: usize = 512;

/// What became of one log's part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The session can take no more now; an acknowledgement or a socket wakes it.
    Blocked,
    /// A read is under way.
    Reading,
    /// It is at the shard's position and waits for that to pass its cut.
    Waiting,
    /// It has to be as far in other logs first.
    Fenced,
    /// It is live in this log.
    Live,
}

impl Shard {
    /// Gives every session that may take more what comes next.
    pub(crate) fn pump_clients<S: Store>(&mut self, store: &mut S) {
        self.feed_starved();
        for _ in 0..self.pump.len().min(PUMPS_PER_TURN) {
            let Some(key) = self.pump.pop_front() else {
                return;
            };
            let Some(client) = self.client(key) else {
                continue;
            };
            client.queued = false;
            self.pump_client(key.index, store);
        }
    }

    /// Reads are free again: as many sessions as there are reads may try.
    fn feed_starved(&mut self) {
        let free = self.config.reads_max.saturating_sub(self.reads.catch_up);
        for _ in 0..free.min(self.starved.len()) {
            if let Some(key) = self.starved.pop_front()
                && self.client(key).is_some()
            {
                self.queue_pump(key.index);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn starving(&self) -> usize {
        self.starved.len()
    }

    #[cfg(test)]
    pub(crate) fn first_starving(&self) -> Option<String> {
        let key = self.starved.front()?;
        let client = self.clients.get(key.index)?;
        Some(client.session.client_id.to_string())
    }

    /// A session that starves can be fed.
    pub(crate) fn can_feed(&self) -> bool {
        !self.starved.is_empty() && self.reads.catch_up < self.config.reads_max
    }

    fn pump_client<S: Store>(&mut self, index: u32, store: &mut S) {
        self.send_resends(index);
        self.send_retained(index, store);
        self.regroup(index, store);
        if self.clients[index].holds == 0 {
            self.send_held(index);
            self.send_assigned(index);
            self.catch_up(index, store);
        }
    }

    /// QoS 0 publications that waited for retained messages.
    fn send_held(&mut self, index: u32) {
        self.clients[index].held_bytes = 0;
        for message in self.clients[index].held.take() {
            let Ok(body) = message.parts() else { continue };
            let session = &self.clients[index].session;
            let at = message.address;
            let grant = session
                .subscriptions
                .grant(session.id, body.topic, at, message.publisher);
            let Some(grant) = grant else { continue };
            if self.is_blocked(index) {
                self.counters.dropped_qos0 += 1;
            } else {
                let retain = grant.retain_as_published && message.retain;
                self.send_qos0(index, &grant, &body, retain);
            }
        }
    }

    fn catch_up<S: Store>(&mut self, index: u32, store: &mut S) {
        let logs = self.positions.len();
        let Some(behind) = &self.clients[index].session.behind else {
            return;
        };
        if behind.reading.is_some() {
            return;
        }
        let first = behind.next_log;
        let (mut waiting, mut fenced) = (false, false);
        for log in (first..logs).chain(0..first) {
            let Some(cursor) = self.cursor(index, log) else {
                continue;
            };
            match self.advance(index, log, cursor, store) {
                Step::Live => self.set_cursor(index, log, None),
                Step::Waiting => waiting = true,
                Step::Fenced => fenced = true,
                Step::Blocked | Step::Reading => {
                    if let Some(behind) = &mut self.clients[index].session.behind {
                        behind.next_log = (log + 1) % logs;
                    }
                    return;
                }
            }
        }
        if fenced && !waiting {
            // The last of the other logs came to the fence just now, which is gone.
            self.queue_pump(index);
            return;
        }
        let session = &mut self.clients[index].session;
        if session
            .behind
            .as_ref()
            .is_some_and(|behind| behind.is_done())
        {
            session.behind = None;
            self.mark_dirty(index);
        } else if waiting {
            let key = self.key(index);
            self.waiting.push(key);
        }
    }

    fn cursor(&self, index: u32, log: usize) -> Option<LogOffset> {
        let behind = self.clients[index].session.behind.as_ref()?;
        behind.cursors.get(log).copied().flatten()
    }

    fn set_cursor(&mut self, index: u32, log: usize, cursor: Option<LogOffset>) {
        let behind = self.clients[index].session.behind.as_mut();
        if let Some(place) = behind.and_then(|behind| behind.cursors.get_mut(log)) {
            *place = cursor;
        }
        self.mark_dirty(index);
    }

    fn joined(&self, index: u32, log: usize) -> Option<LogOffset> {
        let behind = self.clients[index].session.behind.as_ref()?;
        behind.joined.as_ref()?.get(log).copied()
    }

    /// Brings the session's cursor in one log up to the shard's position, as far as it can.
    fn advance<S: Store>(
        &mut self,
        index: u32,
        log: usize,
        cursor: LogOffset,
        store: &mut S,
    ) -> Step {
        let position = self.positions.get(log).copied().unwrap_or_default();
        let joined = self.joined(index, log);
        let fence = self.fence(index, log);
        if cursor >= fence {
            return Step::Fenced;
        }
        let position = position.min(fence);
        if cursor >= position {
            let live = joined.is_some_and(|joined| position >= joined);
            return if live { Step::Live } else { Step::Waiting };
        }
        let start = self
            .rings
            .get(log)
            .map_or(position, crate::lanes::Ring::start);
        if joined.is_some_and(|joined| cursor >= joined) && cursor >= start {
            return self.advance_by_ring(index, log, cursor, position);
        }
        self.advance_by_read(index, log, cursor, position, store)
    }

    fn advance_by_ring(
        &mut self,
        index: u32,
        log: usize,
        cursor: LogOffset,
        position: LogOffset,
    ) -> Step {
        let mut next = self.rings.get(log).map_or(0, |ring| ring.seek(cursor));
        while let Some(event) = self.rings.get(log).and_then(|ring| ring.get(next)).cloned() {
            let at = event.message.address.offset;
            if at >= position {
                break;
            }
            if !self.take_behind(index, &event.message) {
                self.set_cursor(index, log, Some(at));
                return Step::Blocked;
            }
            self.counters.ring_deliveries += 1;
            next += 1;
        }
        Step::Live
    }

    fn advance_by_read<S: Store>(
        &mut self,
        index: u32,
        log: usize,
        cursor: LogOffset,
        position: LogOffset,
        store: &mut S,
    ) -> Step {
        let client = &self.clients[index];
        let credit = client.group.as_ref().map(|group| group.credit());
        let room = client.session.window.room();
        let room = room.min(credit.unwrap_or(usize::MAX));
        if room == 0 || self.is_blocked(index) {
            return Step::Blocked;
        }
        if self.reads.catch_up >= self.config.reads_max {
            let key = self.key(index);
            self.starved.push_back(key);
            return Step::Blocked;
        }
        let queues = self.queues_of(index);
        if queues.is_empty() {
            self.set_cursor(index, log, Some(position));
            return self.advance(index, log, position, store);
        }
        let bytes = self.config.output_bytes_max;
        let sifts_below = self.sifts_below(index, log).min(position);
        let request = if cursor < sifts_below {
            ReadRequest::Sift {
                filters: self.stored_filters(index),
                from: cursor,
                upto: sifts_below,
                limit: room,
                bytes,
            }
        } else {
            ReadRequest::Pull {
                queues,
                from: cursor,
                upto: position,
                limit: room,
                bytes,
            }
        };
        let key = self.key(index);
        let log = LogId(u32::try_from(log).unwrap_or(u32::MAX));
        self.counters.catch_up_reads += 1;
        let token = self.read(log, request, Purpose::CatchUp(key, log), store);
        if let Some(behind) = &mut self.clients[index].session.behind {
            behind.reading = Some(token);
        }
        Step::Reading
    }

    /// Below this offset of a log, a session that replays finds what it wants by topics.
    fn sifts_below(&self, index: u32, log: usize) -> LogOffset {
        let session = &self.clients[index].session;
        let replays = session.subscriptions.iter().filter(|_| session.replays);
        let below = replays.map(|one| one.sifts_below(log));
        below.max().unwrap_or(LogOffset::ZERO)
    }

    fn stored_filters(&self, index: u32) -> Arc<[Arc<str>]> {
        let all = self.clients[index].session.subscriptions.iter();
        let stored = all.filter(|subscription| subscription.qos > QoS::AtMostOnce);
        stored.map(|one| Arc::clone(&one.filter)).collect()
    }

    fn queues_of(&self, index: u32) -> Arc<[QueueName]> {
        let all = self.clients[index].session.subscriptions.iter();
        let stored = all.filter(|subscription| subscription.qos > QoS::AtMostOnce);
        stored
            .map(|subscription| {
                let filter = Arc::clone(&subscription.filter);
                if is_wildcard(&filter) {
                    QueueName::Filter(filter)
                } else {
                    QueueName::Topic(filter)
                }
            })
            .collect()
    }

    /// The answer to a session's read, or a part of it; whether the rest is wanted.
    pub(crate) fn caught_up<S: Store>(
        &mut self,
        token: u64,
        key: ClientKey,
        log: LogId,
        answer: ReadAnswer,
        store: &mut S,
    ) -> bool {
        let Some(client) = self.client(key) else {
            return false;
        };
        let Some(behind) = &mut client.session.behind else {
            return false;
        };
        if behind.reading != Some(token) {
            return false;
        }
        behind.reading = None;
        let log = log.0 as usize;
        let Some(cursor) = self.cursor(key.index, log) else {
            return false;
        };
        if answer.start > cursor && !self.wants_earlier(key.index, log, cursor) {
            let offset = cursor;
            let log = LogId(u32::try_from(log).unwrap_or(u32::MAX));
            self.cut(key.index, Address { log, offset }, answer.start);
        }
        for message in answer.messages {
            let at = message.address.offset;
            if at >= cursor && !self.take_behind(key.index, &message) {
                self.set_cursor(key.index, log, Some(at));
                return false;
            }
        }
        self.set_cursor(key.index, log, Some(answer.next.max(cursor)));
        if answer.more {
            if let Some(behind) = &mut self.clients[key.index].session.behind {
                behind.reading = Some(token);
            }
            return true;
        }
        if answer.next > cursor {
            self.pump_client(key.index, store);
        } else {
            self.waiting.push(key);
        }
        false
    }

    /// Whether a replay has asked for what was before its subscription: what is missing there was
    /// not promised.
    fn wants_earlier(&self, index: u32, log: usize, cursor: LogOffset) -> bool {
        let session = &self.clients[index].session;
        let mut replays = session
            .subscriptions
            .iter()
            .filter_map(|one| one.replay.as_ref());
        session.replays && replays.any(|r| r.queued.get(log).is_some_and(|upto| cursor < *upto))
    }

    /// Delivers one record to a session that is behind; false: it can take no more.
    fn take_behind(&mut self, index: u32, message: &Message) -> bool {
        if message.qos == QoS::AtMostOnce {
            return true;
        }
        let Ok(body) = message.parts() else {
            self.counters.dropped_unreadable += 1;
            return true;
        };
        let session = &self.clients[index].session;
        let at = message.address;
        let grant = session
            .subscriptions
            .grant(session.id, body.topic, at, message.publisher);
        let Some(grant) = grant.filter(|_| !session.has(at)) else {
            return true;
        };
        if grant.qos == QoS::AtMostOnce {
            self.counters.dropped_qos0 += 1;
            return true;
        }
        if !self.takes(index, message, &body) {
            return false;
        }
        self.send_stored(index, grant, message, &body, false);
        true
    }
}
