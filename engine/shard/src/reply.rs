//! Packets for clients, written into their connection's output.

use bytes::Bytes;
use engine_mqtt::{
    Ack, Auth, ConnAck, Disconnect, Packet, PacketId, Properties, PropertiesBuilder, PublishParts,
    QoS, ReasonCode, ReasonCodes, SubAck, UnsubAck, encode_publish_header, encode_publish_parts,
};
use engine_session::Body;

use crate::alias::{Naming, TOPIC_ALIASES_MAX};
use crate::client::Greeting;
use crate::output::Output;
use crate::port::ConnectionId;
use crate::shard::Shard;

/// Which acknowledgement to write.
#[expect(clippy::enum_variant_names, reason = "the packets' own names")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OutAck {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

/// How a PUBLISH is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) qos: QoS,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
}

impl Shard {
    /// Appends a packet to a connection's output.
    fn write(&mut self, connection: ConnectionId, packet: &Packet<'_>) {
        let Some(link) = self.connections.get_mut(&connection) else {
            return;
        };
        if !link.output.has_buffer() {
            link.output = self.buffers.pop().unwrap_or_default();
        }
        let own = link.output.own();
        let before = own.len();
        if packet.encode(link.version, own).is_err()
            || own.len() - before > link.packet_bytes_max as usize
        {
            own.truncate(before);
        }
        self.queue_transmit(connection);
    }

    fn queue_transmit(&mut self, connection: ConnectionId) {
        let Some(link) = self.connections.get_mut(&connection) else {
            return;
        };
        if !link.queued && !link.output.is_empty() {
            link.queued = true;
            self.transmits.push_back(connection);
        }
    }

    pub(crate) fn send_ack(
        &mut self,
        connection: ConnectionId,
        kind: OutAck,
        packet_id: u16,
        reason: ReasonCode,
    ) {
        let Some(packet_id) = PacketId::new(packet_id) else {
            return;
        };
        let ack = Ack {
            packet_id,
            reason,
            properties: Properties::EMPTY,
        };
        let packet = match kind {
            OutAck::PubAck => Packet::PubAck(ack),
            OutAck::PubRec => Packet::PubRec(ack),
            OutAck::PubRel => Packet::PubRel(ack),
            OutAck::PubComp => Packet::PubComp(ack),
        };
        self.write(connection, &packet);
    }

    /// Writes a PUBLISH; false: it is too large for the client, or the message has expired before
    /// it was sent for the first time. What is sent again does not expire [MQTT-4.3.3-7].
    pub(crate) fn send_publish(
        &mut self,
        connection: ConnectionId,
        outgoing: &Outgoing,
        body: &Body<'_>,
        ids: &[u32],
    ) -> bool {
        let left = self.life(body).or_else(|| outgoing.dup.then_some(Some(1)));
        let Some(message_expiry) = left else {
            self.counters.dropped_expired += 1;
            return false;
        };
        let Some(link) = self.connections.get_mut(&connection) else {
            return true;
        };
        let naming = if link.aliases_max > 0 {
            let aliases = link.aliases.get_or_insert_default();
            aliases.outbound(body.topic, link.aliases_max)
        } else {
            Naming::Topic
        };
        let (topic, topic_alias) = match naming {
            Naming::Topic => (body.topic, None),
            Naming::Both(alias) => (body.topic, Some(alias)),
            Naming::Alias(alias) => ("", Some(alias)),
        };
        let parts = PublishParts {
            version: link.version,
            dup: outgoing.dup,
            qos: outgoing.qos,
            retain: outgoing.retain,
            topic: topic.as_bytes(),
            topic_alias,
            packet_id: PacketId::new(outgoing.packet_id),
            message_expiry,
            subscription_ids: ids,
            forwardable: body.properties,
            payload: body.payload,
        };
        if !link.output.has_buffer() {
            link.output = self.buffers.pop().unwrap_or_default();
        }
        let is_large = body.payload.len() >= self.config.shared_payload_min;
        let block = body.block.filter(|_| is_large);
        if !append_publish(
            &parts,
            block,
            link.packet_bytes_max as usize,
            &mut link.output,
        ) {
            if let Some(aliases) = &mut link.aliases {
                aliases.not_sent(naming);
            }
            self.counters.dropped_too_large += 1;
            return false;
        }
        self.queue_transmit(connection);
        true
    }

    pub(crate) fn write_connack(&mut self, connection: ConnectionId, greeting: &Greeting) {
        let mut builder = PropertiesBuilder::new();
        if self.version_of(connection).has_properties() {
            builder
                .receive_maximum(self.config.receive_max)
                .maximum_packet_size(self.config.packet_bytes_max)
                .topic_alias_maximum(TOPIC_ALIASES_MAX)
                .shared_subscription_available(true);
            if let Some(id) = &greeting.assigned_client_id {
                builder.assigned_client_id(id);
            }
            if let Some(seconds) = greeting.expiry_s {
                builder.session_expiry(seconds);
            }
            let link = self.connections.get_mut(&connection);
            if let Some(own) = link.and_then(|link| link.authentication.as_mut()) {
                let data = std::mem::take(&mut own.admission.data);
                builder.authentication_method(own.admission.method);
                builder.authentication_data(&data);
            }
        }
        let properties = builder.properties().unwrap_or(Properties::EMPTY);
        let session_present = greeting.session_present;
        let reason = ReasonCode::Success;
        self.write(
            connection,
            &Packet::ConnAck(ConnAck {
                session_present,
                reason,
                properties,
            }),
        );
    }

    pub(crate) fn write_auth(&mut self, connection: ConnectionId, auth: Auth<'_>) {
        self.write(connection, &Packet::Auth(auth));
    }

    pub(crate) fn write_refusal(&mut self, connection: ConnectionId, reason: ReasonCode) {
        let properties = Properties::EMPTY;
        let connack = ConnAck {
            session_present: false,
            reason,
            properties,
        };
        self.write(connection, &Packet::ConnAck(connack));
    }

    /// CONNACK that names other servers, to clients that know the property.
    pub(crate) fn write_redirection(
        &mut self,
        connection: ConnectionId,
        reason: ReasonCode,
        servers: &str,
    ) {
        let mut builder = PropertiesBuilder::new();
        if self.version_of(connection).has_properties() {
            builder.server_reference(servers);
        }
        let connack = ConnAck {
            session_present: false,
            reason,
            properties: builder.properties().unwrap_or(Properties::EMPTY),
        };
        self.write(connection, &Packet::ConnAck(connack));
    }

    pub(crate) fn write_suback(
        &mut self,
        connection: ConnectionId,
        packet_id: u16,
        reasons: &[ReasonCode],
    ) {
        let Some(packet_id) = PacketId::new(packet_id) else {
            return;
        };
        let (properties, codes) = (Properties::EMPTY, ReasonCodes::from(reasons));
        self.write(
            connection,
            &Packet::SubAck(SubAck {
                packet_id,
                properties,
                codes,
            }),
        );
    }

    pub(crate) fn send_unsuback(
        &mut self,
        connection: ConnectionId,
        packet_id: u16,
        reasons: &[ReasonCode],
    ) {
        if let Some(link) = self.connections.get_mut(&connection) {
            link.subscribing = link.subscribing.saturating_sub(1);
        }
        let Some(packet_id) = PacketId::new(packet_id) else {
            return;
        };
        let (properties, codes) = (Properties::EMPTY, ReasonCodes::from(reasons));
        self.write(
            connection,
            &Packet::UnsubAck(UnsubAck {
                packet_id,
                properties,
                codes,
            }),
        );
    }

    /// DISCONNECT with a reason, to clients that know it.
    pub(crate) fn send_disconnect(&mut self, connection: ConnectionId, reason: ReasonCode) {
        if self.version_of(connection).has_properties() && self.is_open(connection) {
            let properties = Properties::EMPTY;
            self.write(
                connection,
                &Packet::Disconnect(Disconnect { reason, properties }),
            );
        }
    }

    /// DISCONNECT with a Server Reference (MQTT 5, section 4.11).
    pub(crate) fn send_elsewhere(
        &mut self,
        connection: ConnectionId,
        reason: ReasonCode,
        servers: &str,
    ) {
        if self.version_of(connection).has_properties() && self.is_open(connection) {
            let mut builder = PropertiesBuilder::new();
            builder.server_reference(servers);
            let properties = builder.properties().unwrap_or(Properties::EMPTY);
            self.write(
                connection,
                &Packet::Disconnect(Disconnect { reason, properties }),
            );
        }
    }

    pub(crate) fn send_pingresp(&mut self, connection: ConnectionId) {
        self.write(connection, &Packet::PingResp);
    }
}

/// Appends a PUBLISH, its payload by reference when it lies in `block`. False, and nothing is
/// appended: it cannot be written in `bytes_max` bytes.
fn append_publish(
    parts: &PublishParts<'_>,
    block: Option<&Bytes>,
    bytes_max: usize,
    output: &mut Output,
) -> bool {
    let own = output.own();
    let before = own.len();
    let written = match block {
        Some(_) => encode_publish_header(parts, own),
        None => encode_publish_parts(parts, own),
    };
    if !written.is_ok_and(|layout| layout.len <= bytes_max) {
        own.truncate(before);
        return false;
    }
    if let Some(block) = block {
        output.push_shared(block.slice_ref(parts.payload));
    }
    true
}
