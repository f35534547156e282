//! Keys and values of the state store's tables, as the shard writes them.
//!
//! ```text
//! table          key                              value
//! 1 Session      client id                        SessionRecord
//! 2 Subscription session id u64 BE, filter        Subscription
//! 3 Progress     session id u64 BE                Progress
//! 4 Outbound     session id u64 BE, log u32 BE,   Delivery, or the one byte 0: complete
//!                offset u64 BE                    (log with its highest bit set: a retained
//!                                                 message, which is never complete; with its
//!                                                 second highest bit set: one that a shared group
//!                                                 gave, and then group u64 BE)
//! 5 Inbound      session id u64 BE, id u16 BE     empty
//! 6 Will         client id                        Will
//! 7 Retained     topic                            version 1, address, stamp u64, publisher u64,
//!                                                 QoS u8, then the message body; a body with an
//!                                                 empty payload is the tombstone of a delete, its
//!                                                 time that at which the delete came here
//! 9 Positions    boot u32 BE                      offsets
//! 10 Delayed     due ms u64 BE, number u64 BE     version 1, QoS u8, retain u8, publisher u64,
//!                                                 then the message body
//! ```
//! Numbers in values are little endian.
//!
//! A shared group has the rows of a session with the client id NUL and its text, as in
//! `\0$share/name/filter`, and one subscription, to the filter.

use bytes::Bytes;
use engine_mqtt::QoS;
use engine_session::wire::{Fields, ValueError, put_address, put_offsets};
use engine_session::{
    Address, Body, Delivery, LogId, LogOffset, Message, NO_EXPIRY, Progress, SessionRecord,
    Subscription, Will,
};

use crate::delayed::DueKey;
use crate::port::{Change, Table};

fn put(table: Table, key: Vec<u8>, value: Vec<u8>) -> Change {
    Change {
        table,
        key,
        value: Some(value),
    }
}

fn delete(table: Table, key: Vec<u8>) -> Change {
    Change {
        table,
        key,
        value: None,
    }
}

fn key(session: u64, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + rest.len());
    #[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
    key.extend_from_slice(&session.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

/// Set in the log id of the key of a retained message's delivery.
const RETAINED: u32 = 1 << 31;

/// Set in the log id of the key of a delivery that a shared group gave; the group's id follows.
const SHARED: u32 = 1 << 30;

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
fn shared_key(session: u64, group: u64, mut at: Address) -> Vec<u8> {
    at.log.0 |= SHARED;
    let mut key = address_key(session, at);
    key.extend_from_slice(&group.to_be_bytes());
    key
}

fn delivery_key(session: u64, delivery: &Delivery) -> Vec<u8> {
    let mut at = delivery.address;
    if let Some(link) = delivery.group {
        return shared_key(session, link.group, at);
    }
    if delivery.retained {
        at.log.0 |= RETAINED;
    }
    address_key(session, at)
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
fn address_key(session: u64, at: Address) -> Vec<u8> {
    let mut key = key(session, &at.log.0.to_be_bytes());
    key.extend_from_slice(&at.offset.0.to_be_bytes());
    key
}

/// Splits a key that starts with a session id.
pub(crate) fn split_key<'a>(
    what: &'static str,
    key: &'a [u8],
) -> Result<(u64, &'a [u8]), ValueError> {
    let (id, rest) = key.split_first_chunk::<8>().ok_or(ValueError::Short {
        what,
        got: key.len(),
    })?;
    #[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
    let id = u64::from_be_bytes(*id);
    Ok((id, rest))
}

pub(crate) fn session(record: &SessionRecord) -> Change {
    put(
        Table::Session,
        record.client_id.as_bytes().to_vec(),
        record.encode(),
    )
}

pub(crate) fn no_session(client_id: &str) -> Change {
    delete(Table::Session, client_id.as_bytes().to_vec())
}

pub(crate) fn subscription(session: u64, one: &Subscription) -> Change {
    put(
        Table::Subscription,
        key(session, one.filter.as_bytes()),
        one.encode(),
    )
}

pub(crate) fn no_subscription(session: u64, filter: &str) -> Change {
    delete(Table::Subscription, key(session, filter.as_bytes()))
}

pub(crate) fn progress(session: u64, progress: &Progress) -> Change {
    put(Table::Progress, key(session, &[]), progress.encode())
}

pub(crate) fn no_progress(session: u64) -> Change {
    delete(Table::Progress, key(session, &[]))
}

pub(crate) fn outbound(session: u64, delivery: &Delivery) -> Change {
    let mut value = Vec::new();
    delivery.encode(&mut value);
    put(Table::Outbound, delivery_key(session, delivery), value)
}

pub(crate) fn outbound_complete(session: u64, at: Address) -> Change {
    put(Table::Outbound, address_key(session, at), vec![0])
}

pub(crate) fn no_outbound(session: u64, delivery: &Delivery) -> Change {
    delete(Table::Outbound, delivery_key(session, delivery))
}

/// A delivery that a group gave is complete, of which the group does not know for good.
pub(crate) fn shared_complete(session: u64, delivery: &Delivery) -> Change {
    put(Table::Outbound, delivery_key(session, delivery), vec![0])
}

pub(crate) fn no_shared_complete(session: u64, group: u64, at: Address) -> Change {
    delete(Table::Outbound, shared_key(session, group, at))
}

pub(crate) fn no_completed(session: u64, at: Address) -> Change {
    delete(Table::Outbound, address_key(session, at))
}

/// What an outbound QoS 2 row says.
pub(crate) enum Outbound {
    Complete(Address),
    /// The same of one that this group gave.
    SharedComplete(u64, Address),
    Open(Delivery),
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
pub(crate) fn read_outbound(rest: &[u8], value: &[u8]) -> Result<Outbound, ValueError> {
    let what = "outbound delivery";
    let short = ValueError::Short {
        what,
        got: rest.len(),
    };
    let (log, offset) = rest.split_first_chunk::<4>().ok_or(short)?;
    let (offset, rest) = offset.split_first_chunk::<8>().ok_or(short)?;
    if value == [0] {
        let log = u32::from_be_bytes(*log);
        let offset = LogOffset(u64::from_be_bytes(*offset));
        if log & SHARED != 0 {
            let (group, _) = rest.split_first_chunk::<8>().ok_or(short)?;
            let log = LogId(log & !SHARED);
            let at = Address { log, offset };
            return Ok(Outbound::SharedComplete(u64::from_be_bytes(*group), at));
        }
        let log = LogId(log);
        return Ok(Outbound::Complete(Address { log, offset }));
    }
    let mut fields = Fields::new(what, value);
    let delivery = Delivery::decode(&mut fields)?;
    fields.end()?;
    Ok(Outbound::Open(delivery))
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
pub(crate) fn inbound(session: u64, packet_id: u16) -> Change {
    put(
        Table::Inbound,
        key(session, &packet_id.to_be_bytes()),
        Vec::new(),
    )
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
pub(crate) fn no_inbound(session: u64, packet_id: u16) -> Change {
    delete(Table::Inbound, key(session, &packet_id.to_be_bytes()))
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
pub(crate) fn read_packet_id(rest: &[u8]) -> Result<u16, ValueError> {
    let short = ValueError::Short {
        what: "inbound packet id",
        got: rest.len(),
    };
    let (id, _) = rest.split_first_chunk::<2>().ok_or(short)?;
    Ok(u16::from_be_bytes(*id))
}

pub(crate) fn will(client_id: &str, will: &Will) -> Change {
    put(Table::Will, client_id.as_bytes().to_vec(), will.encode())
}

pub(crate) fn no_will(client_id: &str) -> Change {
    delete(Table::Will, client_id.as_bytes().to_vec())
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
pub(crate) fn positions(boot: u32, offsets: &[LogOffset]) -> Change {
    let mut value = vec![1];
    put_offsets(&mut value, offsets);
    put(Table::Positions, boot.to_be_bytes().to_vec(), value)
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
pub(crate) fn no_positions(boot: u32) -> Change {
    delete(Table::Positions, boot.to_be_bytes().to_vec())
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
pub(crate) fn read_positions(
    key: &[u8],
    value: &[u8],
) -> Result<(u32, Vec<LogOffset>), ValueError> {
    let what = "positions";
    let (boot, _) = key.split_first_chunk::<4>().ok_or(ValueError::Short {
        what,
        got: key.len(),
    })?;
    let mut fields = Fields::new(what, value);
    fields.version(1)?;
    let offsets = fields.offsets()?;
    fields.end()?;
    Ok((u32::from_be_bytes(*boot), offsets))
}

/// The row of a retained message (or, with an empty payload, of its tombstone) under its topic. A
/// tombstone has nothing but the topic, and the time at which it came, `now_ms`, in place of the
/// time of its publication.
///
/// # Errors
/// [`ValueError`] when the message's body cannot be read.
pub fn retained_change(message: &Message, now_ms: u64) -> Result<Change, ValueError> {
    let body = message.parts()?;
    let row = RetainedRow {
        address: message.address,
        stamp: message.stamp,
        publisher: message.publisher,
        qos: message.qos,
        body,
        bytes: &message.body,
    };
    if row.is_delete() {
        return Ok(row.tombstone(now_ms));
    }
    Ok(put(
        Table::Retained,
        body.topic.as_bytes().to_vec(),
        row.encode(),
    ))
}

/// That a topic has neither a retained message nor a tombstone any more.
pub(crate) fn no_retained(topic: &[u8]) -> Change {
    delete(Table::Retained, topic.to_vec())
}

/// Reads a value that [`retained_change`] wrote.
///
/// # Errors
/// [`ValueError`] when it is not one.
pub fn read_retained(value: &[u8]) -> Result<Message, ValueError> {
    Ok(RetainedRow::decode(value)?.message())
}

/// What the row of a retained message holds, in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedRow<'a> {
    pub(crate) address: Address,
    pub(crate) stamp: u64,
    publisher: u64,
    qos: QoS,
    pub(crate) body: Body<'a>,
    bytes: &'a [u8],
}

impl<'a> RetainedRow<'a> {
    const HEADER_LEN: usize = 1 + 12 + 8 + 8 + 1;

    pub(crate) fn decode(value: &'a [u8]) -> Result<Self, ValueError> {
        let what = "retained message";
        let short = ValueError::Short {
            what,
            got: value.len(),
        };
        let (header, bytes) = value.split_at_checked(Self::HEADER_LEN).ok_or(short)?;
        let mut fields = Fields::new(what, header);
        fields.version(1)?;
        let address = fields.address()?;
        let stamp = fields.u64()?;
        let publisher = fields.u64()?;
        let qos = fields.u8()?;
        let unknown = ValueError::Unknown {
            what: "retained QoS",
            got: u64::from(qos),
        };
        Ok(Self {
            address,
            stamp,
            publisher,
            qos: QoS::from_bits(qos).ok_or(unknown)?,
            body: Body::decode(bytes)?,
            bytes,
        })
    }

    /// The topic was deleted, with this stamp.
    pub(crate) const fn is_delete(&self) -> bool {
        self.body.payload.is_empty()
    }

    pub(crate) fn message(&self) -> Message {
        Message {
            address: self.address,
            stamp: self.stamp,
            publisher: self.publisher,
            qos: self.qos,
            retain: true,
            body: Bytes::copy_from_slice(self.bytes),
        }
    }

    /// The topic has no retained message any more since `now_ms`.
    pub(crate) fn tombstone(&self, now_ms: u64) -> Change {
        let body = Body {
            published_ms: now_ms,
            expiry_s: NO_EXPIRY,
            topic: self.body.topic,
            properties: &[],
            payload: &[],
            block: None,
        };
        let mut bytes = Vec::new();
        body.encode(&mut bytes);
        let row = RetainedRow {
            body,
            bytes: &bytes,
            ..*self
        };
        put(
            Table::Retained,
            body.topic.as_bytes().to_vec(),
            row.encode(),
        )
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(Self::HEADER_LEN + self.bytes.len());
        value.push(1);
        put_address(&mut value, self.address);
        value.extend_from_slice(&self.stamp.to_le_bytes());
        value.extend_from_slice(&self.publisher.to_le_bytes());
        value.push(self.qos as u8);
        value.extend_from_slice(self.bytes);
        value
    }
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
fn due_key((due_ms, number): DueKey) -> Vec<u8> {
    [due_ms.to_be_bytes(), number.to_be_bytes()].concat()
}

/// A row of a delayed publication.
pub(crate) fn delayed(key: DueKey, row: Vec<u8>) -> Change {
    put(Table::Delayed, due_key(key), row)
}

pub(crate) fn no_delayed(key: DueKey) -> Change {
    delete(Table::Delayed, due_key(key))
}

pub(crate) fn read_delayed_key(key: &[u8]) -> Result<DueKey, ValueError> {
    let (due_ms, rest) = split_key("delayed publication's key", key)?;
    let (number, _) = split_key("delayed publication's key", rest)?;
    Ok((due_ms, number))
}

/// What a row of a delayed publication holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DelayedRow<'a> {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// The publisher's session id.
    pub(crate) publisher: u64,
    /// With the topic that it is published to.
    pub(crate) body: Body<'a>,
}

impl<'a> DelayedRow<'a> {
    const HEADER_LEN: usize = 1 + 1 + 1 + 8;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = vec![1, self.qos as u8, u8::from(self.retain)];
        row.extend_from_slice(&self.publisher.to_le_bytes());
        self.body.encode(&mut row);
        row
    }

    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, ValueError> {
        let what = "delayed publication";
        let short = ValueError::Short {
            what,
            got: row.len(),
        };
        let (header, body) = row.split_at_checked(Self::HEADER_LEN).ok_or(short)?;
        let mut fields = Fields::new(what, header);
        fields.version(1)?;
        let qos = fields.u8()?;
        let unknown = ValueError::Unknown {
            what: "delayed publication's QoS",
            got: u64::from(qos),
        };
        let qos = QoS::from_bits(qos).ok_or(unknown)?;
        Ok(Self {
            qos,
            retain: fields.u8()? != 0,
            publisher: fields.u64()?,
            body: Body::decode(body)?,
        })
    }
}
