//! What a client has published and is not finished with, as MQTT's sender keeps it.

use engine_mqtt::{Ack, Packet, PacketId, Properties, PropertiesBuilder, Publish, QoS};

use crate::history::{MessageId, payload};

/// A publication.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) message: MessageId,
    pub(super) topic: String,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// 0: an empty payload.
    pub(super) len: usize,
    /// Seconds after which it is published; 0: at once.
    pub(super) delay_s: u32,
    /// Its message expiry interval, seconds.
    pub(super) expiry_s: Option<u32>,
}

impl Outgoing {
    /// The packet's bytes.
    pub(super) fn with_packet<T>(
        &self,
        packet_id: Option<PacketId>,
        dup: bool,
        then: impl FnOnce(&Packet<'_>) -> T,
    ) -> T {
        let payload = if self.len == 0 {
            Vec::new()
        } else {
            payload(self.message, self.len)
        };
        let mut builder = PropertiesBuilder::new();
        if let Some(seconds) = self.expiry_s {
            builder.message_expiry(seconds);
        }
        let delayed = format!("$delayed/{}/{}", self.delay_s, self.topic);
        // One property is always well formed.
        let properties = builder.properties().unwrap_or(Properties::EMPTY);
        then(&Packet::Publish(Publish {
            dup,
            qos: self.qos,
            retain: self.retain,
            topic: if self.delay_s > 0 {
                &delayed
            } else {
                &self.topic
            },
            packet_id,
            properties,
            payload: &payload,
        }))
    }
}

/// Packet ids of one client: hardly more than it has in flight, so that they come back soon.
const PACKET_IDS: u16 = 12;

/// One publication in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) packet_id: PacketId,
    pub(super) outgoing: Outgoing,
    /// PUBREC has come: only the PUBREL is sent again.
    pub(super) is_released: bool,
}

/// See the module. In the order of sending.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    in_flight: Vec<InFlight>,
    last_id: u16,
}

impl Outbox {
    pub(super) const fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a publication may still be refused.
    pub(super) fn waits(&self) -> bool {
        self.in_flight.iter().any(|one| !one.is_released)
    }

    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
    }

    /// A packet id that nothing in flight has.
    pub(super) fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id % PACKET_IDS + 1;
            let taken = self
                .in_flight
                .iter()
                .any(|one| one.packet_id.number() == self.last_id);
            if let Some(id) = PacketId::new(self.last_id).filter(|_| !taken) {
                return id;
            }
        }
    }

    pub(super) fn push(&mut self, packet_id: PacketId, outgoing: Outgoing) {
        self.in_flight.push(InFlight {
            packet_id,
            outgoing,
            is_released: false,
        });
    }

    /// PUBACK, PUBCOMP, or a refusal: it is finished.
    pub(super) fn finish(&mut self, packet_id: PacketId) -> Option<InFlight> {
        let place = self
            .in_flight
            .iter()
            .position(|one| one.packet_id == packet_id)?;
        Some(self.in_flight.remove(place))
    }

    /// PUBREC.
    pub(super) fn release(&mut self, packet_id: PacketId) -> Option<MessageId> {
        let found = self
            .in_flight
            .iter_mut()
            .find(|one| one.packet_id == packet_id)?;
        found.is_released = true;
        Some(found.outgoing.message)
    }

    /// What will be published again.
    pub(super) fn repeated(&self) -> Vec<MessageId> {
        let open = self.in_flight.iter().filter(|one| !one.is_released);
        open.map(|one| one.outgoing.message).collect()
    }

    /// Everything again, in order, for a session that goes on [MQTT-4.4.0-1].
    pub(super) fn resend(&self, mut send: impl FnMut(&Packet<'_>)) {
        for one in &self.in_flight {
            if one.is_released {
                send(&Packet::PubRel(Ack::success(one.packet_id)));
            } else {
                one.outgoing
                    .with_packet(Some(one.packet_id), true, &mut send);
            }
        }
    }
}
