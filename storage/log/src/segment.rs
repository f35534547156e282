//! The segment: a file of fixed size that holds one range of log offsets.
//!
//! The file `segment-<base in 16 hexadecimal digits>` holds the offsets from `base` to
//! `base + size`: log offset = base + position. It is filled with zeroes and synced before its
//! first frame is written, so that a commit changes no metadata of the file system; until then its
//! name is `prepare-<base>`, and such files are removed at recovery. One that was retired may
//! become another segment; until then its name is `spare-<base>`. Position 0 holds a block of
//! 4096 bytes: this header (little endian), then zeroes. The first frame is at position 4096.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `CORELOG` and a zero |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | log id |
//! | 16 | 8 | base: log offset of position 0 |
//! | 24 | 8 | size in bytes |
//! | 32 | 8 | nonce, the salt of all CRCs in this segment |
//! | 40 | 8 | end of the log before this segment, when a recovery began it; else 0 |
//! | 48 | 12 | zero |
//! | 60 | 4 | CRC-32 of bytes 0..60 |

use storage_io::AlignedBuf;

use crate::bytes_io::{Fields, Sink, checksum};
use crate::limits::SEGMENT_HEADER_BYTES;
use crate::record::Mismatch;
use crate::{LogId, LogOffset};

pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"CORELOG\0";

/// The version of everything in a segment: header, frames and records.
pub(crate) const FORMAT_VERSION: u32 = 1;

const HEADER_FIELDS_BYTES: usize = 64;

/// What a segment's header block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: LogId,
    pub(crate) base: LogOffset,
    pub(crate) size: u64,
    pub(crate) nonce: u64,
    /// The recovered end of everything before, when this is the first segment after a recovery.
    pub(crate) recovered: Option<LogOffset>,
}

/// Why a header block is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Version(u32),
    Mismatch(Mismatch),
}

impl SegmentHeader {
    /// The header block.
    pub(crate) fn encode(&self) -> AlignedBuf {
        let mut fields = [0; HEADER_FIELDS_BYTES];
        let mut sink = Sink::new(&mut fields);
        sink.put(&SEGMENT_MAGIC);
        sink.u32(FORMAT_VERSION);
        sink.u32(self.log_id.0);
        sink.u64(self.base.0);
        sink.u64(self.size);
        sink.u64(self.nonce);
        sink.u64(self.recovered.map_or(0, |end| end.0));
        sink.finish();
        let (head, tail) = fields.split_at_mut(HEADER_FIELDS_BYTES - 4);
        tail.copy_from_slice(&checksum(0, head).to_le_bytes());
        AlignedBuf::padded(&fields)
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, HeaderFault> {
        let mut fields = Fields(block);
        let short = Mismatch::new("bytes of a segment header", 64, block.len() as u64);
        let short = HeaderFault::Mismatch(short);
        let magic = fields.bytes::<8>().ok_or(short)?;
        if magic != SEGMENT_MAGIC {
            let expected = u64::from_le_bytes(SEGMENT_MAGIC);
            let got = u64::from_le_bytes(magic);
            return Err(HeaderFault::Mismatch(Mismatch::new(
                "magic of a segment",
                expected,
                got,
            )));
        }
        let version = fields.u32().ok_or(short)?;
        if version != FORMAT_VERSION {
            return Err(HeaderFault::Version(version));
        }
        let head = block.get(..HEADER_FIELDS_BYTES - 4).ok_or(short)?;
        let tail = block.get(HEADER_FIELDS_BYTES - 4..).ok_or(short)?;
        let stored = Fields(tail).u32().ok_or(short)?;
        let computed = checksum(0, head);
        if stored != computed {
            let mismatch = Mismatch::new(
                "CRC of a segment header",
                u64::from(computed),
                u64::from(stored),
            );
            return Err(HeaderFault::Mismatch(mismatch));
        }
        Self::read(fields).ok_or(short)
    }

    fn read(mut fields: Fields<'_>) -> Option<Self> {
        Some(Self {
            log_id: LogId(fields.u32()?),
            base: LogOffset(fields.u64()?),
            size: fields.u64()?,
            nonce: fields.u64()?,
            recovered: fields
                .u64()
                .map(|end| (end > 0).then_some(LogOffset(end)))?,
        })
    }
}

/// One segment as the log knows it.
#[derive(Clone, Debug)]
pub(crate) struct Segment<F> {
    pub(crate) header: SegmentHeader,
    /// The open file; `None` while the segment is planned and not ready for use.
    pub(crate) file: Option<F>,
    /// The end of what was written to it, so far or for ever.
    pub(crate) end: LogOffset,
    /// The highest stamp of its records, or a bound above it; 0 when none is known.
    pub(crate) newest_stamp: u64,
}

impl<F> Segment<F> {
    pub(crate) const fn planned(header: SegmentHeader) -> Self {
        Self {
            header,
            file: None,
            end: header.first_frame(),
            newest_stamp: 0,
        }
    }

    /// The name of its file, once it is in use.
    pub(crate) fn name(&self) -> String {
        segment_name(self.header.base)
    }

    /// The position of `at` in the file.
    pub(crate) const fn position(&self, at: LogOffset) -> u64 {
        at.0 - self.header.base.0
    }
}

impl SegmentHeader {
    /// Where the first frame is.
    pub(crate) const fn first_frame(&self) -> LogOffset {
        LogOffset(self.base.0 + SEGMENT_HEADER_BYTES)
    }

    /// The address after the last byte of the file.
    pub(crate) const fn limit(&self) -> LogOffset {
        LogOffset(self.base.0 + self.size)
    }
}

/// The name of a segment in use.
pub(crate) fn segment_name(base: LogOffset) -> String {
    format!("segment-{:016x}", base.0)
}

/// The name of a segment that is being prepared.
pub(crate) fn prepare_name(base: LogOffset) -> String {
    format!("prepare-{:016x}", base.0)
}

/// The name of a file that was the segment at `base` and may become another one.
pub(crate) fn spare_name(base: LogOffset) -> String {
    format!("spare-{:016x}", base.0)
}

/// The base in the name of a segment in use, `None` when it is the name of something else.
pub(crate) fn base_of(name: &str) -> Option<LogOffset> {
    let digits = name.strip_prefix("segment-")?;
    let base = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(LogOffset(base)) == name).then_some(LogOffset(base))
}
