//! What is in flight to a client: QoS 1 and 2 deliveries between PUBLISH and their last
//! acknowledgement, in the order they were sent.

use std::collections::VecDeque;

use engine_mqtt::QoS;

use crate::address::Address;
use crate::subscription::{Ids, qos};
use crate::wire::{Fields, ValueError, put_address, put_ids};

/// How far a delivery has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// The packet id's mapping is not durable yet (QoS 2 of a durable session), or the one of an
    /// earlier delivery: not sent.
    Mapping = 0,
    /// PUBLISH is to be acknowledged.
    Publish = 1,
    /// PUBREC came; PUBREL waits until that is durable (QoS 2).
    Received = 2,
    /// PUBREL is to be answered by PUBCOMP (QoS 2).
    Released = 3,
}

/// One delivery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Its packet id, never 0.
    pub packet_id: u16,
    /// Its place in the order of this session's deliveries.
    pub sequence: u64,
    /// The record.
    pub address: Address,
    /// The QoS it is delivered with: 1 or 2.
    pub qos: QoS,
    /// How far it is.
    pub phase: Phase,
    /// The RETAIN flag.
    pub retain: bool,
    /// It is a retained message that a SUBSCRIBE has asked for. The same record may be delivered as
    /// a publication besides: the two are different deliveries.
    pub retained: bool,
    /// It has been sent, on this connection or on an earlier one: next time with DUP.
    pub sent: bool,
    /// Subscription identifiers.
    pub ids: Ids,
    /// In a member's window: the shared group that it comes by. The same record may be delivered
    /// for the session's own subscriptions besides: the two are different deliveries.
    pub group: Option<GroupLink>,
    /// In a group's window: the session id of the member that it is given to; 0: of none now.
    pub member: u64,
}

/// Where a group counts what it has given to a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupLink {
    /// The session id of the group.
    pub group: u64,
    /// The packet id in the group's window.
    pub packet_id: u16,
}

impl Delivery {
    /// Appends the stored form: version 1 or 2 | packet id `u16` | sequence `u64` | address | qos |
    /// phase | flags (1 retain, 2 sent, 4 retained) | identifiers; in version 2, which those of
    /// shared groups have: group `u64` | packet id there `u16` (both 0: none) | member `u64`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let is_shared = self.group.is_some() || self.member != 0;
        out.push(if is_shared { 2 } else { 1 });
        out.extend_from_slice(&self.packet_id.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        put_address(out, self.address);
        out.push(self.qos as u8);
        out.push(self.phase as u8);
        let flags = [self.retain, self.sent, self.retained];
        let bits = flags.into_iter().rev();
        out.push(bits.fold(0, |byte, flag| byte << 1 | u8::from(flag)));
        put_ids(out, &self.ids);
        if is_shared {
            let link = self.group.unwrap_or(GroupLink {
                group: 0,
                packet_id: 0,
            });
            out.extend_from_slice(&link.group.to_le_bytes());
            out.extend_from_slice(&link.packet_id.to_le_bytes());
            out.extend_from_slice(&self.member.to_le_bytes());
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`ValueError`] when the fields are not one.
    pub fn decode(fields: &mut Fields<'_>) -> Result<Self, ValueError> {
        let version = fields.version(2)?;
        let packet_id = fields.u16()?;
        let sequence = fields.u64()?;
        let address = fields.address()?;
        let qos = qos(fields.u8()?)?;
        let phase = match fields.u8()? {
            0 => Phase::Mapping,
            1 => Phase::Publish,
            2 => Phase::Received,
            3 => Phase::Released,
            got => {
                return Err(ValueError::Unknown {
                    what: "phase",
                    got: u64::from(got),
                });
            }
        };
        let flags = fields.u8()?;
        let ids = fields.ids()?;
        let (group, member) = if version == 2 {
            read_sharing(fields)?
        } else {
            (None, 0)
        };
        Ok(Self {
            packet_id,
            sequence,
            address,
            qos,
            phase,
            retain: flags & 1 != 0,
            sent: flags & 2 != 0,
            retained: flags & 4 != 0,
            ids,
            group,
            member,
        })
    }
}

fn read_sharing(fields: &mut Fields<'_>) -> Result<(Option<GroupLink>, u64), ValueError> {
    let group = fields.u64()?;
    let packet_id = fields.u16()?;
    let member = fields.u64()?;
    let link = GroupLink { group, packet_id };
    Ok(((group != 0).then_some(link), member))
}

/// The deliveries in flight of one session, at most `limit`.
#[derive(Debug)]
pub struct Window {
    deliveries: VecDeque<Delivery>,
    limit: u16,
    last_packet_id: u16,
    next_sequence: u64,
}

impl Window {
    /// An empty window.
    #[must_use]
    pub const fn new(limit: u16) -> Self {
        Self {
            deliveries: VecDeque::new(),
            limit,
            last_packet_id: 0,
            next_sequence: 1,
        }
    }

    /// How many are in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// How many more may be opened.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(self.limit).saturating_sub(self.deliveries.len())
    }

    /// How many may be in flight.
    #[must_use]
    pub fn limit(&self) -> usize {
        usize::from(self.limit)
    }

    /// Sets the limit: the smaller one of ours and the client's Receive Maximum [MQTT-3.3.4-9].
    pub const fn set_limit(&mut self, limit: u16) {
        self.limit = limit;
    }

    /// The deliveries, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter()
    }

    /// Whether the record is in flight, as a retained message or as a publication; what comes by
    /// a group aside.
    #[must_use]
    pub fn contains(&self, address: Address, retained: bool) -> bool {
        self.deliveries.iter().any(|delivery| {
            delivery.address == address && delivery.retained == retained && delivery.group.is_none()
        })
    }

    /// Whether the record is in flight as a group has given it.
    #[must_use]
    pub fn contains_shared(&self, group: u64, address: Address) -> bool {
        let mut shared = self.deliveries.iter().filter_map(|one| {
            let link = one.group?;
            Some((link.group, one.address))
        });
        shared.any(|one| one == (group, address))
    }

    /// Whether the newest delivery waits for a mapping to be durable, its own or an earlier one.
    #[must_use]
    pub fn is_mapping(&self) -> bool {
        let newest = self.deliveries.back();
        newest.is_some_and(|delivery| delivery.phase == Phase::Mapping)
    }

    /// Opens a delivery with a packet id that is not in use.
    ///
    /// # Panics
    /// When the window has no room: the caller asks first.
    pub fn open(&mut self, new: Opening) -> &mut Delivery {
        assert!(self.room() > 0, "a delivery into a full window");
        let packet_id = self.free_packet_id();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let Opening {
            address,
            qos,
            phase,
            retain,
            retained,
            ids,
            group,
            member,
        } = new;
        let delivery = Delivery {
            packet_id,
            sequence,
            address,
            qos,
            phase,
            retain,
            retained,
            sent: false,
            ids,
            group,
            member,
        };
        self.deliveries.push_back(delivery);
        let last = self.deliveries.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "just pushed")]
        &mut self.deliveries[last]
    }

    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let id = self.last_packet_id;
            if !self
                .deliveries
                .iter()
                .any(|delivery| delivery.packet_id == id)
            {
                return id;
            }
        }
    }

    /// Puts back a delivery read from the state store; in any order.
    pub fn restore(&mut self, delivery: Delivery) {
        self.next_sequence = self.next_sequence.max(delivery.sequence + 1);
        self.last_packet_id = self.last_packet_id.max(delivery.packet_id);
        let at = self
            .deliveries
            .partition_point(|one| one.sequence < delivery.sequence);
        self.deliveries.insert(at, delivery);
    }

    /// The delivery with this packet id.
    pub fn find(&mut self, packet_id: u16) -> Option<&mut Delivery> {
        self.deliveries
            .iter_mut()
            .find(|delivery| delivery.packet_id == packet_id)
    }

    /// Ends the delivery with this packet id.
    pub fn close(&mut self, packet_id: u16) -> Option<Delivery> {
        let at = self
            .deliveries
            .iter()
            .position(|delivery| delivery.packet_id == packet_id)?;
        let closed = self.deliveries.remove(at);
        if self.deliveries.is_empty() {
            // An idle session keeps no buffer.
            self.deliveries = VecDeque::new();
        }
        closed
    }
}

/// What a new delivery is about.
#[derive(Debug)]
pub struct Opening {
    /// The record.
    pub address: Address,
    /// 1 or 2.
    pub qos: QoS,
    /// [`Phase::Mapping`] or [`Phase::Publish`].
    pub phase: Phase,
    /// The RETAIN flag.
    pub retain: bool,
    /// As [`Delivery::retained`].
    pub retained: bool,
    /// Subscription identifiers.
    pub ids: Ids,
    /// As [`Delivery::group`].
    pub group: Option<GroupLink>,
    /// As [`Delivery::member`].
    pub member: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(offset: u64) -> Opening {
        let address = Address {
            offset: crate::LogOffset(offset),
            ..Address::default()
        };
        let qos = QoS::ExactlyOnce;
        Opening {
            address,
            qos,
            phase: Phase::Publish,
            retain: offset == 2,
            retained: offset == 1,
            ids: Ids::from([7, 9]),
            group: (offset == 2).then_some(GroupLink {
                group: 5,
                packet_id: 6,
            }),
            member: u64::from(offset == 1),
        }
    }

    #[test]
    fn packet_ids_are_unique_and_never_zero() {
        let mut window = Window::new(4);
        window.last_packet_id = 65_534;
        let ids: Vec<u16> = (0..4).map(|n| window.open(opening(n)).packet_id).collect();
        assert_eq!(ids, [65_535, 1, 2, 3]);
        assert_eq!(window.room(), 0);
        assert!(window.close(1).is_some());
        window.last_packet_id = 65_534;
        assert_eq!(window.open(opening(9)).packet_id, 1, "65,535 is in use");
    }

    /// Version 1 is what sessions had before there were groups.
    #[test]
    fn stored_deliveries_have_these_bytes() {
        let mut window = Window::new(4);
        let mut bytes = Vec::new();
        for offset in [3, 2, 1] {
            window.open(opening(offset)).encode(&mut bytes);
        }
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let start = ["01010001", "02020002", "02030003"];
        let sequence = "00000000000000";
        let ends = [
            "0300000000000000020100020700000009000000",
            "020000000000000002010102070000000900000005000000000000000600\
             0000000000000000",
            "010000000000000002010402070000000900000000000000000000000000\
             0100000000000000",
        ];
        let parts = start.iter().zip(ends);
        let golden: String = parts
            .map(|(start, end)| format!("{start}{sequence}00000000{end}"))
            .collect();
        assert_eq!(hex, golden);
    }

    #[test]
    fn deliveries_come_back_in_order() {
        let mut window = Window::new(10);
        let mut stored: Vec<Delivery> = (0..3).map(|n| window.open(opening(n)).clone()).collect();
        stored.reverse();
        let mut again = Window::new(10);
        for delivery in stored {
            let mut bytes = Vec::new();
            delivery.encode(&mut bytes);
            let mut fields = Fields::new("delivery", &bytes);
            let read = Delivery::decode(&mut fields).expect("it was encoded here");
            assert_eq!(read, delivery);
            again.restore(read);
        }
        assert_eq!(
            again.iter().map(|d| d.address.offset.0).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert_eq!(again.open(opening(5)).sequence, 4);
    }
}
