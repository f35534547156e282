//! What clients say about deliveries: PUBACK, PUBREC, PUBCOMP; and what follows.

use engine_mqtt::{QoS, ReasonCode};
use engine_session::{Address, Message, Phase};

use crate::client::{ClientKey, Stage};
use crate::port::ConnectionId;
use crate::reply::OutAck;
use crate::shard::Shard;
use crate::state;
use crate::waits::{Ack, Wait};

impl Shard {
    /// Acknowledges an inbound publication that is durable.
    pub(crate) fn acknowledge(&mut self, ack: Ack) {
        if ack.qos == QoS::ExactlyOnce {
            self.send_ack(ack.connection, OutAck::PubRec, ack.packet_id, ack.reason);
            return;
        }
        if let Some(link) = self.connections.get_mut(&ack.connection) {
            link.receiving = link.receiving.saturating_sub(1);
        }
        self.send_ack(ack.connection, OutAck::PubAck, ack.packet_id, ack.reason);
    }

    /// PUBACK: a QoS 1 delivery is done.
    pub(crate) fn on_puback(&mut self, index: u32, packet_id: u16) {
        let window = &mut self.clients[index].session.window;
        if window
            .find(packet_id)
            .is_some_and(|delivery| delivery.qos == QoS::AtLeastOnce)
        {
            self.complete(index, packet_id);
        }
    }

    /// PUBREC: the client has a QoS 2 delivery; it is released when that is durable.
    pub(crate) fn on_pubrec(
        &mut self,
        index: u32,
        connection: ConnectionId,
        packet_id: u16,
        failed: bool,
    ) {
        let key = self.key(index);
        let session = &mut self.clients[index].session;
        let (id, durable) = (session.id, session.is_durable());
        let found = session
            .window
            .find(packet_id)
            .filter(|one| one.qos == QoS::ExactlyOnce);
        let Some(delivery) = found else {
            if !failed {
                let reason = ReasonCode::PacketIdentifierNotFound;
                self.send_ack(connection, OutAck::PubRel, packet_id, reason);
            }
            return;
        };
        if failed {
            self.complete(index, packet_id);
            return;
        }
        match delivery.phase {
            Phase::Released => {
                self.send_ack(connection, OutAck::PubRel, packet_id, ReasonCode::Success);
            }
            Phase::Received | Phase::Mapping => {}
            Phase::Publish => {
                delivery.phase = Phase::Received;
                if durable {
                    let change = state::outbound(id, delivery);
                    self.change(change);
                    self.when_durable(Wait::PubRel(key, packet_id));
                } else {
                    self.release(key, packet_id);
                }
            }
        }
    }

    /// The PUBREC is durable: PUBREL may go.
    pub(crate) fn release(&mut self, key: ClientKey, packet_id: u16) {
        let Some(client) = self.client(key) else {
            return;
        };
        let connection = client.connection;
        let found = client.session.window.find(packet_id);
        let Some(delivery) = found.filter(|one| one.phase == Phase::Received) else {
            return;
        };
        delivery.phase = Phase::Released;
        if let Some(connection) = connection.filter(|id| self.is_open(*id)) {
            self.send_ack(connection, OutAck::PubRel, packet_id, ReasonCode::Success);
        }
    }

    pub(crate) fn is_open(&self, connection: ConnectionId) -> bool {
        self.connections
            .get(&connection)
            .is_some_and(|link| link.stage == Stage::Open)
    }

    /// PUBCOMP: a QoS 2 delivery is done.
    pub(crate) fn on_pubcomp(&mut self, index: u32, packet_id: u16) {
        let window = &mut self.clients[index].session.window;
        let found = window.find(packet_id);
        if found.is_some_and(|one| matches!(one.phase, Phase::Released | Phase::Received)) {
            self.complete(index, packet_id);
        }
    }

    /// Ends a delivery. The address of a QoS 2 one stays until a stored place has passed it, so
    /// that it is not delivered again after a crash.
    pub(crate) fn complete(&mut self, index: u32, packet_id: u16) {
        let session = &mut self.clients[index].session;
        let Some(delivery) = session.window.close(packet_id) else {
            return;
        };
        if let Some(link) = delivery.group {
            self.complete_shared(index, &delivery, link);
        } else if delivery.qos == QoS::ExactlyOnce && session.is_durable() {
            let change = if delivery.retained {
                // No cursor comes by it again.
                state::no_outbound(session.id, &delivery)
            } else {
                session.completed.insert(delivery.address);
                state::outbound_complete(session.id, delivery.address)
            };
            self.change(change);
        }
        self.mark_dirty(index);
        self.queue_pump(index);
    }

    /// The mapping of a QoS 2 delivery is durable: it may be sent.
    pub(crate) fn first_publish(&mut self, key: ClientKey, packet_id: u16, message: &Message) {
        let Some(client) = self.client(key) else {
            return;
        };
        let connection = client.connection;
        // What an earlier connection was promised makes this one's count too low, for a moment.
        if let Some(link) = connection.and_then(|id| self.connections.get_mut(&id)) {
            link.promised = link.promised.saturating_sub(message.body.len());
        }
        let window = &mut self.clients[key.index].session.window;
        let found = window.find(packet_id);
        let same = |one: &&mut engine_session::Delivery| one.address == message.address;
        let Some(delivery) = found.filter(same).filter(|one| one.phase == Phase::Mapping) else {
            return;
        };
        delivery.phase = Phase::Publish;
        let Ok(body) = message.parts() else { return };
        if connection.is_some_and(|id| self.is_open(id)) {
            self.send_delivery(key.index, packet_id, &body);
        }
    }

    /// The stored places have passed these deliveries for good.
    pub(crate) fn forget(&mut self, list: Vec<(ClientKey, Vec<Address>)>) {
        for (key, addresses) in list {
            let Some(client) = self.client(key) else {
                continue;
            };
            let id = client.session.id;
            let session = &mut client.session;
            let gone =
                |at: &Address| session.completed.remove(at) && !session.window.contains(*at, false);
            let gone: Vec<_> = addresses.into_iter().filter(gone).collect();
            self.changes
                .extend(gone.into_iter().map(|at| state::no_completed(id, at)));
        }
    }
}
