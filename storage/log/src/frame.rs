//! The frame: what one group commit wrote, all of it or nothing.
//!
//! A frame begins at a multiple of 8 with this header of 64 bytes (little endian); its records
//! follow without a gap. Frames without records are markers: they only say what is durable.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32 of bytes 4..64, salted with segment nonce and log offset |
//! | 4 | 4 | magic `CLFR`; no record has this length |
//! | 8 | 8 | log offset of the frame (its base offset) |
//! | 16 | 4 | log id |
//! | 20 | 4 | epoch |
//! | 24 | 4 | length with this header, in bytes, a multiple of 8 |
//! | 28 | 4 | number of records |
//! | 32 | 8 | `durable_upto`: everything below was durable when this was written |
//! | 40 | 8 | log offset of the previous frame of the log, 0 for none |
//! | 48 | 4 | CRC (field 0) of the previous frame, 0 for none |
//! | 52 | 4 | CRC-32 of the CRCs of the records, 4 bytes each, in order |
//! | 56 | 2 | flags: bit 0 = the next frame begins at the next multiple of 4096 |
//! | 58 | 6 | zero |

use crate::bytes_io::{Fields, Sink, checksum, salt};
use crate::record::Mismatch;
use crate::{LogId, LogOffset};

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: usize = 64;

pub(crate) const FRAME_MAGIC: [u8; 4] = *b"CLFR";

const FLAG_PADDED: u16 = 1;

/// Which frame came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) offset: LogOffset,
    pub(crate) crc: u32,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) offset: LogOffset,
    pub(crate) log_id: LogId,
    pub(crate) epoch: u32,
    pub(crate) len: u32,
    pub(crate) records: u32,
    pub(crate) durable_upto: LogOffset,
    pub(crate) previous: Link,
    pub(crate) records_crc: u32,
    pub(crate) padded: bool,
}

impl FrameHeader {
    /// The bytes, and the CRC that is their first field.
    pub(crate) fn encode(&self, nonce: u64) -> ([u8; FRAME_HEADER_BYTES], u32) {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let mut sink = Sink::new(&mut bytes);
        sink.u32(0);
        sink.put(&FRAME_MAGIC);
        sink.u64(self.offset.0);
        sink.u32(self.log_id.0);
        sink.u32(self.epoch);
        sink.u32(self.len);
        sink.u32(self.records);
        sink.u64(self.durable_upto.0);
        sink.u64(self.previous.offset.0);
        sink.u32(self.previous.crc);
        sink.u32(self.records_crc);
        sink.u16(if self.padded { FLAG_PADDED } else { 0 });
        sink.finish();
        let (head, rest) = bytes.split_at_mut(4);
        let crc = checksum(salt(nonce, self.offset.0), rest);
        head.copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Reads the header at `offset` and checks everything that it can be checked against by
    /// itself. Returns it with its CRC.
    pub(crate) fn decode(
        bytes: &[u8],
        nonce: u64,
        log_id: LogId,
        offset: LogOffset,
    ) -> Result<(Self, u32), Mismatch> {
        let Some(bytes) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            let got = bytes.len() as u64;
            return Err(Mismatch::new(
                "bytes of a frame header",
                FRAME_HEADER_BYTES as u64,
                got,
            ));
        };
        let (stored, magic, header) = Self::read(bytes)
            .ok_or_else(|| Mismatch::new("bytes of a frame header", 64, bytes.len() as u64))?;
        if magic != FRAME_MAGIC {
            let expected = u64::from(u32::from_le_bytes(FRAME_MAGIC));
            let got = u64::from(u32::from_le_bytes(magic));
            return Err(Mismatch::new("magic of a frame", expected, got));
        }
        let computed = checksum(salt(nonce, offset.0), bytes.split_at(4).1);
        if stored != computed {
            let (expected, got) = (u64::from(computed), u64::from(stored));
            return Err(Mismatch::new("CRC of a frame header", expected, got));
        }
        if header.offset != offset {
            return Err(Mismatch::new(
                "offset of a frame",
                offset.0,
                header.offset.0,
            ));
        }
        if header.log_id != log_id {
            let (expected, got) = (u64::from(log_id.0), u64::from(header.log_id.0));
            return Err(Mismatch::new("log id of a frame", expected, got));
        }
        let len = header.len as usize;
        if len < FRAME_HEADER_BYTES || !len.is_multiple_of(8) {
            return Err(Mismatch::new(
                "length of a frame",
                FRAME_HEADER_BYTES as u64,
                len as u64,
            ));
        }
        Ok((header, stored))
    }

    fn read(bytes: &[u8]) -> Option<(u32, [u8; 4], Self)> {
        let mut fields = Fields(bytes);
        let crc = fields.u32()?;
        let magic = fields.bytes()?;
        let header = Self {
            offset: LogOffset(fields.u64()?),
            log_id: LogId(fields.u32()?),
            epoch: fields.u32()?,
            len: fields.u32()?,
            records: fields.u32()?,
            durable_upto: LogOffset(fields.u64()?),
            previous: Link {
                offset: LogOffset(fields.u64()?),
                crc: fields.u32()?,
            },
            records_crc: fields.u32()?,
            padded: fields.u16()? & FLAG_PADDED != 0,
        };
        Some((crc, magic, header))
    }

    /// The address after the last record.
    pub(crate) const fn end(&self) -> LogOffset {
        self.offset.plus(self.len as usize)
    }

    /// Where the next frame of the same segment begins.
    pub(crate) const fn next(&self) -> LogOffset {
        if self.padded {
            LogOffset(storage_io::align_up(self.end().0))
        } else {
            self.end()
        }
    }
}

/// The CRC over the CRCs of a frame's records, one more added.
pub(crate) fn add_record_crc(so_far: u32, crc: u32) -> u32 {
    checksum(so_far, &crc.to_le_bytes())
}
