//! Inbound publications: routed and appended in one turn under one routing version.

use std::sync::Arc;

use bytes::Bytes;
use engine_mqtt::{Publish, QoS, ReasonCode};
use engine_session::{Body, Message, Will};

use crate::config::home_shard;
use crate::delayed::split;
use crate::port::{Change, ConnectionId, Event, NewMessage, NewRecord, Route, Store};
use crate::reply::OutAck;
use crate::shard::Shard;
use crate::state;
use crate::waits::{Ack, Pending, Wait};

/// Bytes of memory that stay with a shard for the next publication, at most.
const SCRATCH_BYTES_MAX: usize = 4 << 20;

/// A publication on its way into the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) body: Body<'a>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// The publisher's session id.
    pub(crate) publisher: u64,
    /// 0 at QoS 0 and for wills.
    pub(crate) packet_id: u16,
    /// Seconds until it is published; 0: now.
    pub(crate) delay_s: u32,
    /// It is a row of the state store, a will or a delayed publication. At QoS 0 as well, nobody
    /// hears of it before it is durable that it is none any more: a crash would publish it again.
    pub(crate) was_kept: bool,
}

impl Shard {
    /// A client's PUBLISH.
    pub(crate) fn on_publish<S: Store>(
        &mut self,
        index: u32,
        connection: ConnectionId,
        publication: &Publication<'_>,
        store: &mut S,
    ) {
        match publication.qos {
            QoS::AtMostOnce => {
                self.counters.received_qos0 += 1;
                let is_stored = publication.retain || publication.delay_s > 0;
                if is_stored && store.refuses() || !self.publish(publication, &[], None, store) {
                    self.counters.refused += 1;
                }
                return;
            }
            QoS::AtLeastOnce => self.counters.received_qos1 += 1,
            QoS::ExactlyOnce => self.counters.received_qos2 += 1,
        }
        if !self.take_receive_credit(connection) {
            self.fail(connection, ReasonCode::ReceiveMaximumExceeded);
            return;
        }
        let (packet_id, qos) = (publication.packet_id, publication.qos);
        let ack = Some(Ack {
            connection,
            packet_id,
            qos,
            reason: ReasonCode::Success,
        });
        if qos == QoS::AtLeastOnce {
            if store.refuses() || !self.publish(publication, &[], ack, store) {
                self.refuse(connection, packet_id, OutAck::PubAck);
            }
            return;
        }
        let session = &mut self.clients[index].session;
        if !session.inbound.insert(packet_id) {
            // It came again: nothing is appended twice [MQTT-4.3.3-10].
            self.when_durable(Wait::PubRec(connection, packet_id));
            return;
        }
        let (id, durable) = (session.id, session.is_durable());
        let change = durable.then(|| state::inbound(id, packet_id));
        if store.refuses() || !self.publish(publication, change.as_slice(), ack, store) {
            self.clients[index].session.inbound.remove(&packet_id);
            self.refuse(connection, packet_id, OutAck::PubRec);
        }
    }

    /// Answers a publication that the rules deny, or for which they have no topic: a QoS 0 one is
    /// dropped, others are refused with `reason`, and clients that cannot be told are closed
    /// [MQTT-3.3.5-2 of 3.1.1]. `false`: it has been received before and goes on.
    pub(crate) fn deny(
        &mut self,
        index: u32,
        connection: ConnectionId,
        publish: &Publish<'_>,
        reason: ReasonCode,
    ) -> bool {
        let packet_id = publish.packet_id.map_or(0, engine_mqtt::PacketId::number);
        let ack = match publish.qos {
            QoS::AtMostOnce => return true,
            QoS::AtLeastOnce => OutAck::PubAck,
            QoS::ExactlyOnce if self.clients[index].session.inbound.contains(&packet_id) => {
                return false;
            }
            QoS::ExactlyOnce => OutAck::PubRec,
        };
        if self.version_of(connection).has_properties() {
            self.send_ack(connection, ack, packet_id, reason);
        } else {
            self.fail(connection, reason);
        }
        true
    }

    fn take_receive_credit(&mut self, connection: ConnectionId) -> bool {
        let Some(link) = self.connections.get_mut(&connection) else {
            return false;
        };
        let limited = link.version.has_properties();
        if limited && link.receiving >= self.config.receive_max {
            return false;
        }
        link.receiving = link.receiving.saturating_add(1);
        true
    }

    /// The publication cannot be taken. MQTT 5 clients are told; older ones can't be, and are
    /// closed.
    fn refuse(&mut self, connection: ConnectionId, packet_id: u16, ack: OutAck) {
        self.counters.refused += 1;
        if self.version_of(connection).has_properties() {
            if let Some(link) = self.connections.get_mut(&connection) {
                link.receiving = link.receiving.saturating_sub(1);
            }
            self.send_ack(connection, ack, packet_id, ReasonCode::QuotaExceeded);
        } else {
            self.fail(connection, ReasonCode::QuotaExceeded);
        }
    }

    /// Routes and appends, or keeps it until it is due; false: the cap on queues or on delayed
    /// publications is reached, or there is no room for it. Nothing has happened then.
    pub(crate) fn publish<S: Store>(
        &mut self,
        publication: &Publication<'_>,
        changes: &[Change],
        ack: Option<Ack>,
        store: &mut S,
    ) -> bool {
        if publication.delay_s > 0 {
            return self.delay(publication, changes, ack, store);
        }
        let topic = publication.body.topic;
        let Some(route) = self.routes.route(&self.table, topic, store) else {
            return false;
        };
        let stored =
            publication.qos > QoS::AtMostOnce || publication.retain || self.config.store_qos0;
        if stored && !store.has_room(publication.body.len(), route.queues.len()) {
            return false;
        }
        let reason = if route.is_unheard {
            ReasonCode::NoMatchingSubscribers
        } else {
            ReasonCode::Success
        };
        let ack = ack.map(|ack| Ack { reason, ..ack });
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        publication.body.encode(&mut body);
        if stored {
            self.append(publication, &route, &body, changes, ack, store);
        } else {
            self.changes.extend_from_slice(changes);
        }
        if publication.qos == QoS::AtMostOnce && !route.filters.is_empty() {
            self.notify_qos0(publication, &route, &body, store);
        }
        if body.capacity() <= SCRATCH_BYTES_MAX {
            self.scratch = body;
        }
        true
    }

    fn append<S: Store>(
        &mut self,
        publication: &Publication<'_>,
        route: &Arc<Route>,
        body: &[u8],
        changes: &[Change],
        ack: Option<Ack>,
        store: &mut S,
    ) {
        if !changes.is_empty() {
            // State changes reach the log in the order in which they were made.
            self.flush_changes(store);
        }
        let owner = publication
            .retain
            .then(|| home_shard(publication.body.topic, self.config.homes));
        let queued = publication.qos > QoS::AtMostOnce || self.config.store_qos0;
        let message = NewMessage {
            qos: publication.qos,
            retain: publication.retain,
            publisher: publication.publisher,
            packet_id: publication.packet_id,
            stamp: self.stamp(),
            queues: if queued { &route.queues } else { &[] },
            body,
        };
        let appended = store.append(&NewRecord {
            message: Some(message),
            changes,
        });
        let route = (publication.qos > QoS::AtMostOnce).then(|| Arc::clone(route));
        let (offset, end) = (appended.offset, appended.end);
        let qos0 = publication.qos == QoS::AtMostOnce;
        self.last_appended = qos0.then(|| (self.address(offset), self.last_stamp));
        self.pending.push_back(Pending {
            offset,
            end,
            route,
            owner,
            ack,
        });
    }

    /// A QoS 0 publication goes to every shard with interest at the end of this turn; it waits for
    /// nobody.
    pub(crate) fn notify_qos0<S: Store>(
        &mut self,
        publication: &Publication<'_>,
        route: &Arc<Route>,
        body: &[u8],
        store: &S,
    ) {
        let (address, stamp) = self
            .last_appended
            .take()
            .unwrap_or_else(|| (self.address(store.appended()), self.last_stamp));
        let message = Message {
            address,
            stamp,
            publisher: publication.publisher,
            qos: QoS::AtMostOnce,
            retain: publication.retain,
            body: Bytes::copy_from_slice(body),
        };
        let event = Event {
            message,
            route: Arc::clone(route),
        };
        if publication.was_kept {
            self.when_durable(Wait::Tell(Box::new(event)));
        } else {
            self.tell_qos0(&event);
        }
    }

    /// Sends a QoS 0 publication to every shard with interest.
    pub(crate) fn tell_qos0(&mut self, event: &Event) {
        for (shard, _) in &event.route.filters {
            let event = event.clone();
            if *shard == self.config.shard {
                self.local.push(event);
            } else if let Some(lane) = self.lanes.get_mut(shard.index()) {
                lane.push_event(event, &self.config, &mut self.counters);
            }
        }
    }

    /// Publishes a will; in the same record it is forgotten.
    pub(crate) fn publish_will<S: Store>(&mut self, client_id: &str, will: &Will, store: &mut S) {
        self.counters.wills += 1;
        // A will that cannot be read so was refused at CONNECT.
        let (delay_s, topic) = split(&will.topic).unwrap_or((0, &will.topic));
        let body = Body {
            published_ms: self.now.wall_ms,
            expiry_s: will.expiry_s,
            topic,
            properties: &will.properties,
            payload: &will.payload,
            block: None,
        };
        let (qos, retain, publisher) = (will.qos, will.retain, will.session);
        let publication = Publication {
            body,
            qos,
            retain,
            publisher,
            packet_id: 0,
            delay_s,
            was_kept: true,
        };
        let gone = [state::no_will(client_id)];
        if !self.publish(&publication, &gone, None, store) {
            self.counters.refused += 1;
            self.changes.extend(gone);
        }
        // The client's next CONNACK says that the will is out.
        self.changes_end = store.appended();
    }

    /// PUBREL: the packet id is free again once that is durable.
    pub(crate) fn on_pubrel(&mut self, index: u32, connection: ConnectionId, packet_id: u16) {
        let session = &mut self.clients[index].session;
        let known = session.inbound.remove(&packet_id);
        let reason = if known {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        if !session.is_durable() {
            self.send_pubcomp(connection, packet_id, reason);
            return;
        }
        if known {
            let change = state::no_inbound(session.id, packet_id);
            self.change(change);
        }
        self.when_durable(Wait::PubComp(connection, packet_id, reason));
    }

    /// PUBREC for a publication that came a second time.
    pub(crate) fn send_pubrec_again(&mut self, connection: ConnectionId, packet_id: u16) {
        if let Some(link) = self.connections.get_mut(&connection) {
            link.receiving = link.receiving.saturating_sub(1);
        }
        self.send_ack(connection, OutAck::PubRec, packet_id, ReasonCode::Success);
    }

    /// PUBCOMP.
    pub(crate) fn send_pubcomp(
        &mut self,
        connection: ConnectionId,
        packet_id: u16,
        reason: ReasonCode,
    ) {
        let link = self.connections.get_mut(&connection);
        if let Some(link) = link.filter(|_| reason == ReasonCode::Success) {
            link.receiving = link.receiving.saturating_sub(1);
        }
        self.send_ack(connection, OutAck::PubComp, packet_id, reason);
    }
}
