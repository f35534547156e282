//! From a publication to the sessions that want it: live delivery.

use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{Address, Behind, Body, Grant, GroupLink, LogOffset, Message, Opening, Phase};
use engine_topic::FilterId;

use crate::client::Stage;
use crate::interest::Member;
use crate::port::Event;
use crate::replay::with_address;
use crate::reply::Outgoing;
use crate::shard::Shard;
use crate::state;
use crate::waits::Wait;

/// Why a session gets a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Its own subscriptions match.
    Own,
    /// A SUBSCRIBE asked for it.
    Retained,
    /// A shared group gave it.
    Group(GroupLink),
}

impl Shard {
    /// Offers a publication to every online session of this shard that subscribed to it, and keeps
    /// it for those that are a little behind.
    pub(crate) fn deliver(&mut self, event: &Arc<Event>) {
        let message = &event.message;
        let log = message.address.log.0 as usize;
        if message.qos == QoS::AtMostOnce {
            let handled = message.address.offset.0 + u64::from(message.retain);
            if let Some(last) = self.handled_qos0.get_mut(log) {
                *last = (*last).max(LogOffset(handled));
            }
        } else {
            self.active = 2;
            if let Some(ring) = self.rings.get_mut(log) {
                ring.push(Arc::clone(event), &self.config);
            }
        }
        let Ok(mut body) = message.parts() else {
            self.counters.dropped_unreadable += 1;
            return;
        };
        // It is no part of something larger that was read: whoever is slow keeps it alone.
        body.block = Some(&message.body);
        match event.route.filters_for(self.config.shard) {
            [] => {}
            [one] => self.deliver_one(*one, message, &body),
            many => self.deliver_many(many, message, &body),
        }
    }

    fn deliver_one(&mut self, filter: FilterId, message: &Message, body: &Body<'_>) {
        let Some(members) = self.interest.lend(filter) else {
            return;
        };
        for member in &members {
            let mut grant = None;
            self.add_member(&mut grant, member, message);
            if let Some(grant) = grant {
                self.offer(member.client, grant, message, body);
            }
        }
        self.interest.give_back(filter, members);
    }

    /// One record is matched once against all filters of a session.
    fn deliver_many(&mut self, filters: &[FilterId], message: &Message, body: &Body<'_>) {
        let mut found: Vec<Member> = Vec::new();
        for filter in filters {
            if let Some(members) = self.interest.lend(*filter) {
                found.extend(members.iter().cloned());
                self.interest.give_back(*filter, members);
            }
        }
        found.sort_by_key(|member| member.client);
        for group in found.chunk_by(|a, b| a.client == b.client) {
            let mut grant = None;
            for member in group {
                self.add_member(&mut grant, member, message);
            }
            if let (Some(grant), Some(first)) = (grant, group.first()) {
                self.offer(first.client, grant, message, body);
            }
        }
    }

    fn add_member(&self, grant: &mut Option<Grant>, member: &Member, message: &Message) {
        let subscription = &member.subscription;
        let own =
            subscription.no_local && self.clients[member.client].session.id == message.publisher;
        if !own && subscription.covers(message.address) {
            Grant::add(grant, subscription);
        }
    }

    /// Offers a publication that is live to one online session.
    fn offer(&mut self, index: u32, grant: Grant, message: &Message, body: &Body<'_>) {
        let at = message.address;
        let session = &self.clients[index].session;
        let is_behind = |behind: &Behind| behind.holds(at);
        if message.qos == QoS::AtMostOnce {
            self.offer_qos0(index, &grant, message, body);
        } else if session.behind.as_deref().is_some_and(is_behind) {
            self.offer_behind(index, message, body);
        } else if session.has(at) {
            // It is on its way already.
        } else if grant.qos == QoS::AtMostOnce {
            self.offer_qos0(index, &grant, message, body);
        } else if !self.takes(index, message, body) {
            self.fall_behind(index, at);
        } else {
            self.send_stored(index, grant, message, body, false);
        }
    }

    /// What a session that is behind is owed comes by catching up, and nothing besides. At QoS 0
    /// that brings nothing, so what no subscription wants at a higher one goes at once. All are
    /// asked: a publication routed before the session came back names only some of its filters.
    fn offer_behind(&mut self, index: u32, message: &Message, body: &Body<'_>) {
        let session = &self.clients[index].session;
        let (at, publisher) = (message.address, message.publisher);
        let grant = session
            .subscriptions
            .grant(session.id, body.topic, at, publisher);
        if let Some(grant) = grant.filter(|grant| grant.qos == QoS::AtMostOnce) {
            self.offer_qos0(index, &grant, message, body);
        }
    }

    fn offer_qos0(&mut self, index: u32, grant: &Grant, message: &Message, body: &Body<'_>) {
        let client = &mut self.clients[index];
        if client.group.is_some() {
            self.give_qos0(index, message, body);
            return;
        }
        let bytes = message.body.len();
        let waits = client.holds > 0 || !client.held.is_empty();
        let fits = client.held_bytes + bytes <= self.config.held_bytes_max;
        if waits && fits {
            client.held_bytes += bytes;
            client.held.push_back(message.clone());
        } else if waits || self.is_blocked(index) {
            self.counters.dropped_qos0 += 1;
        } else {
            self.send_qos0(
                index,
                grant,
                body,
                grant.retain_as_published && message.retain,
            );
        }
    }

    /// Sends a PUBLISH that nobody acknowledges.
    pub(crate) fn send_qos0(&mut self, index: u32, grant: &Grant, body: &Body<'_>, retain: bool) {
        let Some(connection) = self.clients[index].connection else {
            return;
        };
        let outgoing = Outgoing {
            qos: QoS::AtMostOnce,
            packet_id: 0,
            dup: false,
            retain,
        };
        if self.send_publish(connection, &outgoing, body, &grant.ids) {
            self.counters.sent_qos0 += 1;
        }
    }

    /// Whether the session can take no new publication now: its window aside.
    pub(crate) fn is_blocked(&self, index: u32) -> bool {
        self.clients[index].holds > 0 || self.is_choked(index)
    }

    /// Whether the session's socket takes no more, is gone, or has no CONNACK yet.
    pub(crate) fn is_choked(&self, index: u32) -> bool {
        let client = &self.clients[index];
        if let Some(group) = &client.group {
            return !group.has_credit();
        }
        let connection = client.connection;
        let link = connection.and_then(|id| self.connections.get(&id));
        link.is_none_or(|link| {
            link.stage != Stage::Open || link.unsent() > self.config.output_bytes_max
        })
    }

    /// The session goes on from here by itself, when it can take more.
    fn fall_behind(&mut self, index: u32, at: Address) {
        let logs = self.positions.len();
        let joined = Some(Arc::clone(&self.zero));
        let session = &mut self.clients[index].session;
        let behind = session.behind.get_or_insert_with(|| {
            let cursors = vec![None; logs];
            Box::new(Behind {
                cursors,
                joined,
                next_log: 0,
                reading: None,
            })
        });
        if let Some(cursor) = behind.cursors.get_mut(at.log.0 as usize) {
            *cursor = Some(at.offset);
        }
        self.mark_dirty(index);
    }

    /// Sends a QoS 1 or 2 delivery to a session, whose window must have room, or gives it to a
    /// member of a group. `retained`: it is sent because of a SUBSCRIBE.
    pub(crate) fn send_stored(
        &mut self,
        index: u32,
        grant: Grant,
        message: &Message,
        body: &Body<'_>,
        retained: bool,
    ) {
        if self.clients[index].group.is_some() {
            self.give(index, message, body);
            return;
        }
        let source = if retained {
            Source::Retained
        } else {
            Source::Own
        };
        self.open_delivery(index, grant, message, body, source);
    }

    /// Opens a QoS 1 or 2 delivery in the window, which must have room.
    pub(crate) fn open_delivery(
        &mut self,
        index: u32,
        grant: Grant,
        message: &Message,
        body: &Body<'_>,
        source: Source,
    ) {
        let retained = source == Source::Retained;
        let qos = message.qos.min(grant.qos);
        let retain = retained || (grant.retain_as_published && message.retain);
        let client = &mut self.clients[index];
        let mapped = qos == QoS::ExactlyOnce && client.session.is_durable();
        // First sends keep the order of the window, in which they are sent again [MQTT-4.6.0-1].
        let waits = mapped || client.session.window.is_mapping();
        let phase = if waits {
            Phase::Mapping
        } else {
            Phase::Publish
        };
        let address = message.address;
        let opening = Opening {
            address,
            qos,
            phase,
            retain,
            retained,
            ids: grant.ids,
            group: match source {
                Source::Group(link) => Some(link),
                Source::Own | Source::Retained => None,
            },
            member: 0,
        };
        let delivery = client.session.window.open(opening);
        let packet_id = delivery.packet_id;
        if mapped {
            let mut stored = delivery.clone();
            stored.sent = true;
            stored.phase = Phase::Publish;
            let change = state::outbound(client.session.id, &stored);
            self.change(change);
        }
        if waits {
            let connection = self.clients[index].connection;
            if let Some(link) = connection.and_then(|id| self.connections.get_mut(&id)) {
                link.promised += message.body.len();
            }
            let key = self.key(index);
            self.when_durable(Wait::Publish(key, packet_id, message.clone()));
        } else {
            self.send_delivery(index, packet_id, body);
        }
        self.mark_dirty(index);
    }

    /// Sends a delivery of the window: for the first time, or again with DUP.
    pub(crate) fn send_delivery(&mut self, index: u32, packet_id: u16, body: &Body<'_>) {
        let client = &mut self.clients[index];
        let Some(connection) = client.connection else {
            return;
        };
        let Some(delivery) = client.session.window.find(packet_id) else {
            return;
        };
        let (qos, retain, dup) = (delivery.qos, delivery.retain, delivery.sent);
        delivery.sent = true;
        let ids = delivery.ids.clone();
        let address = delivery.address;
        let tells_address = client.session.replays;
        let properties = tells_address.then(|| with_address(body.properties, address));
        let body = &Body {
            properties: properties.as_deref().unwrap_or(body.properties),
            ..*body
        };
        let outgoing = Outgoing {
            qos,
            packet_id,
            dup,
            retain,
        };
        if !self.send_publish(connection, &outgoing, body, &ids) {
            // Too large for the client, or expired: as if it had been acknowledged [MQTT-3.1.2-25].
            self.complete(index, packet_id);
            return;
        }
        match (dup, qos) {
            (true, _) => self.counters.sent_again += 1,
            (false, QoS::ExactlyOnce) => self.counters.sent_qos2 += 1,
            (false, _) => self.counters.sent_qos1 += 1,
        }
    }
}
