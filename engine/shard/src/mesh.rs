//! What other shards say, and where this shard stands in their logs.

use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{LogOffset, Message};

use crate::config::home_shard;
use crate::port::{Event, MeshMessage, ReadRequest, ShardId, Store};
use crate::reads::{Purpose, Source};
use crate::shard::Shard;

/// Bytes that one scan of a collapsed lane brings at most, about.
const SCAN_BYTES: usize = 1024 * 1024;

impl Shard {
    pub(crate) fn mesh_message<S: Store>(
        &mut self,
        from: ShardId,
        message: MeshMessage,
        store: &mut S,
    ) {
        match message {
            MeshMessage::RouteChange { request, changes } => {
                if let Some(routing) = &mut self.routing {
                    routing.request(from, request, changes);
                }
            }
            MeshMessage::Routed { request, version } => self.routed(request, version, store),
            MeshMessage::Adopt => {}
            MeshMessage::Adopted { version, appended } => {
                self.adopted(from, version, appended, store);
            }
            MeshMessage::Events(events) => {
                for event in events {
                    self.event(from, event);
                }
            }
            MeshMessage::DurableUpTo(upto) => {
                self.move_position(from.index(), upto);
                self.tell_retain_applied(from, upto, store);
            }
            MeshMessage::Collapsed { .. } => self.scan(from, store),
            MeshMessage::Scan { from: offset } => {
                let request = ReadRequest::Scan {
                    from: offset,
                    bytes: SCAN_BYTES,
                };
                self.read_for(Purpose::Scan(from), request, store);
            }
            MeshMessage::Scanned {
                messages,
                next,
                live,
            } => {
                self.take_scanned(from, messages, next, live, store);
            }
            MeshMessage::Read { token, request } => {
                self.read_for(Purpose::Remote(from, token), request, store);
            }
            MeshMessage::ReadAnswer {
                token,
                source,
                answer,
            } => self.read_answered(token, Source::Peer(from, source), answer, store),
            MeshMessage::Cancel { source } => self.read_cancelled(from, source, store),
            MeshMessage::Retain(message) => self.take_retain(from, &message, store),
            MeshMessage::RetainApplied { upto, refused } => {
                self.retain_applied(from, upto, &refused);
            }
            MeshMessage::RetireAsk { upto } => self.retire_ask(from, upto, store),
            MeshMessage::RetireReady { upto } => self.take_retire_ready(from, upto),
            MeshMessage::RetainedCheck { token, items } => {
                self.retained_check(from, token, &items, store);
            }
            MeshMessage::RetainedChecked { token, current } => self.take_checked(token, current),
            MeshMessage::Retired { oldest } => self.retired_at(from, oldest, store),
            MeshMessage::RetainedRead(read) => self.retained_read(from, read, store),
            MeshMessage::RetainedPage {
                token,
                messages,
                more,
            } => {
                self.retained_page(token, messages, more);
            }
            MeshMessage::Group(message) => self.group_message(from, message, store),
            MeshMessage::Exclusive(message) => self.exclusive_message(from, message, store),
        }
    }

    fn take_retain<S: Store>(&mut self, from: ShardId, message: &Message, store: &mut S) {
        self.saw_stamp(message);
        if !self.apply_retained(message, store) {
            self.retained.refuse(from, message.address.offset);
        }
        self.retained.owe(from);
    }

    fn position(&self, shard: ShardId) -> LogOffset {
        self.positions
            .get(shard.index())
            .copied()
            .unwrap_or_default()
    }

    fn event(&mut self, from: ShardId, event: Event) {
        let stored = event.message.qos > QoS::AtMostOnce;
        if stored && event.message.address.offset < self.position(from) {
            return;
        }
        self.saw_stamp(&event.message);
        self.deliver(&Arc::new(event));
    }

    /// The peer dropped events: its log tells what they were.
    fn scan<S: Store>(&mut self, peer: ShardId, store: &mut S) {
        let from = self.position(peer);
        self.send_peer(peer, MeshMessage::Scan { from }, store);
    }

    fn take_scanned<S: Store>(
        &mut self,
        peer: ShardId,
        messages: Vec<Message>,
        next: LogOffset,
        live: bool,
        store: &mut S,
    ) {
        for message in messages {
            if message.address.offset >= self.position(peer) {
                self.take_scanned_message(peer, message, store);
            }
        }
        self.move_position(peer.index(), next);
        self.retained.owe(peer);
        self.tell_retain_applied(peer, next, store);
        if !live {
            self.scan(peer, store);
        }
    }

    fn take_scanned_message<S: Store>(&mut self, peer: ShardId, message: Message, store: &mut S) {
        self.saw_stamp(&message);
        let Ok(body) = message.parts() else {
            self.counters.dropped_unreadable += 1;
            return;
        };
        let route = self
            .routes
            .local(&self.table, body.topic, self.config.shard);
        let mine = message.retain && home_shard(body.topic, self.config.homes) == self.config.shard;
        if mine && !self.apply_retained(&message, store) {
            self.retained.refuse(peer, message.address.offset);
        }
        if let Some(route) = route.filter(|_| message.qos > QoS::AtMostOnce) {
            self.deliver(&Arc::new(Event { message, route }));
        }
    }

    /// Everything below `upto` in that log has been handled here.
    pub(crate) fn move_position(&mut self, log: usize, upto: LogOffset) {
        if let Some(position) = self
            .positions
            .get_mut(log)
            .filter(|position| **position < upto)
        {
            *position = upto;
            self.positions_moved = true;
        }
    }

    /// Goes on with what waited for a position.
    pub(crate) fn after_positions_moved<S: Store>(&mut self, store: &mut S) {
        if !std::mem::take(&mut self.positions_moved) {
            return;
        }
        for key in std::mem::take(&mut self.waiting) {
            if self.client(key).is_some() {
                self.queue_pump(key.index);
            }
        }
        self.serve_retained_reads(store);
    }

    fn tell_retain_applied<S: Store>(&mut self, from: ShardId, upto: LogOffset, store: &mut S) {
        if let Some(refused) = self.retained.settle_debt(from) {
            self.send_peer(from, MeshMessage::RetainApplied { upto, refused }, store);
        }
    }
}
