//! One record: its bytes, and what they mean.
//!
//! All integers are little endian; a record begins and ends at a multiple of 8.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32 of bytes 4.., padding included, salted with segment nonce and log offset |
//! | 4 | 4 | length of the record with padding, in bytes |
//! | 8 | 1 | kind: 1 message, 2 state |
//! | 9 | 1 | zero |
//! | 10 | 2 | flags, opaque to storage |
//! | 12 | 4 | tag, opaque to storage |
//! | 16 | 8 | stamp |
//! | 24 | 8 | publisher |
//! | 32 | 2 | packet id |
//! | 34 | 2 | n: number of queues, at most 4096 |
//! | 36 | 4 | epoch |
//! | 40 | 4 | s: length of the state section in bytes |
//! | 44 | 4 | b: length of the body in bytes |
//! | 48 | 16 n | queues: id (8), offset in the queue (8) |
//! | 48 + 16 n | s | state section, opaque to storage |
//! | 48 + 16 n + s | b | body, opaque to storage |
//! | .. | 0..7 | zeroes up to a multiple of 8 |

use bytes::Bytes;

use crate::bytes_io::{Fields, Sink, checksum, salt};
use crate::limits::RECORD_QUEUES_MAX;
use crate::{LogId, LogOffset, QueueId};

/// Bytes of a record before its queues.
pub(crate) const RECORD_HEADER_BYTES: usize = 48;

const QUEUE_BYTES: usize = 16;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A message that readers see.
    Message = 1,
    /// Changes of state only: in no queue, seen by no reader.
    State = 2,
}

impl RecordKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Message),
            2 => Some(Self::State),
            _ => None,
        }
    }
}

/// A record to append.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// Bits of the layer above.
    pub flags: u16,
    /// Hybrid logical clock value.
    pub stamp: u64,
    /// Who published it, as a number of the layer above.
    pub publisher: u64,
    /// The publisher's packet id, 0 for none.
    pub packet_id: u16,
    /// Epoch of the layer above.
    pub epoch: u32,
    /// The queues it is in, each with its offset there; at most [`RECORD_QUEUES_MAX`].
    pub queues: &'a [(QueueId, u64)],
    /// A number that readers filter by.
    pub tag: u32,
    /// Changes of state that belong to it.
    pub state: &'a [u8],
    /// The pieces of its body, in order.
    pub body: &'a [&'a [u8]],
}

impl NewRecord<'_> {
    fn body_len(&self) -> usize {
        self.body.iter().map(|piece| piece.len()).sum()
    }

    /// Bytes that it takes in the log.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let queues = self.queues.len() * QUEUE_BYTES;
        let len = RECORD_HEADER_BYTES + queues + self.state.len() + self.body_len();
        len.next_multiple_of(8)
    }

    /// Writes the record into `out`, which has [`NewRecord::encoded_len`] bytes and lies at
    /// `offset` of the segment with `nonce`. Returns its CRC.
    pub(crate) fn encode(&self, out: &mut [u8], nonce: u64, offset: LogOffset) -> u32 {
        let queues = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        assert!(
            usize::from(queues) <= RECORD_QUEUES_MAX,
            "a record is in {queues} queues"
        );
        let mut sink = Sink::new(out);
        sink.u32(0);
        sink.u32(length(self.encoded_len()));
        sink.u8(self.kind as u8);
        sink.u8(0);
        sink.u16(self.flags);
        sink.u32(self.tag);
        sink.u64(self.stamp);
        sink.u64(self.publisher);
        sink.u16(self.packet_id);
        sink.u16(queues);
        sink.u32(self.epoch);
        sink.u32(length(self.state.len()));
        sink.u32(length(self.body_len()));
        for (queue, offset) in self.queues {
            sink.u64(queue.0);
            sink.u64(*offset);
        }
        sink.put(self.state);
        for piece in self.body {
            sink.put(piece);
        }
        sink.finish();
        let (head, rest) = out.split_at_mut(4);
        let crc = checksum(salt(nonce, offset.0), rest);
        head.copy_from_slice(&crc.to_le_bytes());
        crc
    }
}

/// A length as it is stored. Records are bounded by a quarter of a segment, so it fits.
fn length(len: usize) -> u32 {
    let stored = u32::try_from(len).unwrap_or(u32::MAX);
    assert!(stored < u32::MAX, "{len} bytes do not fit into a record");
    stored
}

/// A record of the log. Its sections are slices of the block that it was written or read with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub address: (LogId, LogOffset),
    /// The address after its last byte.
    pub end: LogOffset,
    /// What it is.
    pub kind: RecordKind,
    /// Bits of the layer above.
    pub flags: u16,
    /// Hybrid logical clock value.
    pub stamp: u64,
    /// Who published it.
    pub publisher: u64,
    /// The publisher's packet id, 0 for none.
    pub packet_id: u16,
    /// Epoch of the layer above.
    pub epoch: u32,
    /// A number that readers filter by.
    pub tag: u32,
    /// The queues it is in.
    pub queues: Queues,
    /// Changes of state that belong to it.
    pub state: Bytes,
    /// Its body.
    pub body: Bytes,
}

/// The queues of a record and its offsets there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues(Bytes);

impl Queues {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() / QUEUE_BYTES
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each queue with the record's offset in it, in the order in which they were appended.
    pub fn iter(&self) -> impl Iterator<Item = (QueueId, u64)> + '_ {
        self.0.chunks_exact(QUEUE_BYTES).filter_map(|entry| {
            let mut fields = Fields(entry);
            Some((QueueId(fields.u64()?), fields.u64()?))
        })
    }
}

/// Where a record lies and under which nonce it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) log_id: LogId,
    pub(crate) offset: LogOffset,
    pub(crate) nonce: u64,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) what: &'static str,
    pub(crate) expected: u64,
    pub(crate) got: u64,
}

impl Mismatch {
    pub(crate) const fn new(what: &'static str, expected: u64, got: u64) -> Self {
        Self {
            what,
            expected,
            got,
        }
    }
}

/// The length that the first bytes of a record claim, when it is one that a record may have.
pub(crate) fn claimed_len(bytes: &[u8], limit: usize) -> Result<usize, Mismatch> {
    let mut fields = Fields(bytes);
    let len = fields.u32().and_then(|_| fields.u32()).unwrap_or(0) as usize;
    if len < RECORD_HEADER_BYTES || len > limit || !len.is_multiple_of(8) {
        return Err(Mismatch::new(
            "length of a record",
            limit as u64,
            len as u64,
        ));
    }
    Ok(len)
}

/// Checks the CRC of the whole record `bytes` and returns it.
pub(crate) fn verify(bytes: &[u8], place: Place) -> Result<u32, Mismatch> {
    let (stored, rest) = bytes.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let stored = u32::from_le_bytes(*stored);
    let computed = checksum(salt(place.nonce, place.offset.0), rest);
    if stored != computed {
        return Err(Mismatch::new(
            "CRC of a record",
            u64::from(computed),
            u64::from(stored),
        ));
    }
    Ok(stored)
}

/// Takes a record apart. `bytes` are all of it; its CRC is not checked here.
pub(crate) fn parse(bytes: &Bytes, place: Place) -> Result<Record, Mismatch> {
    let short = Mismatch::new(
        "bytes of a record",
        RECORD_HEADER_BYTES as u64,
        bytes.len() as u64,
    );
    let header = Header::read(bytes).ok_or(short)?;
    let kind = RecordKind::from_byte(header.kind)
        .ok_or_else(|| Mismatch::new("kind of a record", 1, u64::from(header.kind)))?;
    let queues_end = RECORD_HEADER_BYTES + usize::from(header.queues) * QUEUE_BYTES;
    let state_end = queues_end + header.state_len as usize;
    let body_end = state_end + header.body_len as usize;
    if body_end.next_multiple_of(8) != bytes.len() {
        let expected = body_end.next_multiple_of(8) as u64;
        return Err(Mismatch::new(
            "bytes of a record",
            expected,
            bytes.len() as u64,
        ));
    }
    Ok(Record {
        address: (place.log_id, place.offset),
        end: place.offset.plus(bytes.len()),
        kind,
        flags: header.flags,
        stamp: header.stamp,
        publisher: header.publisher,
        packet_id: header.packet_id,
        epoch: header.epoch,
        tag: header.tag,
        queues: Queues(bytes.slice(RECORD_HEADER_BYTES..queues_end)),
        state: bytes.slice(queues_end..state_end),
        body: bytes.slice(state_end..body_end),
    })
}

struct Header {
    kind: u8,
    flags: u16,
    tag: u32,
    stamp: u64,
    publisher: u64,
    packet_id: u16,
    queues: u16,
    epoch: u32,
    state_len: u32,
    body_len: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let _crc_and_len = fields.u64()?;
        let kind = fields.u8()?;
        let _zero = fields.u8()?;
        Some(Self {
            kind,
            flags: fields.u16()?,
            tag: fields.u32()?,
            stamp: fields.u64()?,
            publisher: fields.u64()?,
            packet_id: fields.u16()?,
            queues: fields.u16()?,
            epoch: fields.u32()?,
            state_len: fields.u32()?,
            body_len: fields.u32()?,
        })
    }
}
