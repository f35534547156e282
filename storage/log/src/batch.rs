//! A frame that is being filled: records are encoded straight into the memory that is written.

use storage_io::{ALIGN, AlignedBuf, align_down};

use crate::address::index;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, Link, add_record_crc};
use crate::{Appended, LogId, LogOffset, NewRecord};

/// One frame under construction. Its memory begins with the part of the tail block that earlier
/// frames fill, because that block is written again.
#[derive(Debug)]
pub(crate) struct Batch {
    buf: AlignedBuf,
    /// The log offset of the buffer's first byte.
    origin: LogOffset,
    /// Index of the frame's header.
    start: usize,
    /// Index after the last record.
    used: usize,
    records: u32,
    records_crc: u32,
    /// The segment that it goes to, by index.
    pub(crate) segment: usize,
}

/// A frame that is complete, ready to be written at its place.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) buf: AlignedBuf,
    pub(crate) origin: LogOffset,
    pub(crate) header: FrameHeader,
    pub(crate) crc: u32,
    /// The used part of the last block when the next frame shares it.
    pub(crate) partial: Vec<u8>,
}

/// What sealing a frame needs to know beyond its records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    pub(crate) log_id: LogId,
    pub(crate) epoch: u32,
    pub(crate) nonce: u64,
    pub(crate) durable_upto: LogOffset,
    pub(crate) previous: Link,
    pub(crate) pad: bool,
}

impl Batch {
    /// An empty frame at `at`, behind the bytes `partial` that fill the tail block up to there.
    pub(crate) fn new(segment: usize, at: LogOffset, partial: &[u8], capacity: usize) -> Self {
        let origin = LogOffset(align_down(at.0));
        let start = at.since(origin);
        assert!(
            partial.len() == start,
            "{} bytes precede offset {at}",
            partial.len()
        );
        let used = start + FRAME_HEADER_BYTES;
        let mut buf = AlignedBuf::zeroed(capacity.max(used).next_multiple_of(ALIGN));
        buf.split_at_mut(start).0.copy_from_slice(partial);
        Self {
            buf,
            origin,
            start,
            used,
            records: 0,
            records_crc: 0,
            segment,
        }
    }

    /// Encodes `record`, which takes `len` bytes, behind the others.
    pub(crate) fn push(&mut self, record: &NewRecord<'_>, len: usize, nonce: u64) -> Appended {
        let end = self.used + len;
        if self.buf.len() < end {
            self.buf
                .resize((2 * self.buf.len()).max(end).next_multiple_of(ALIGN));
        }
        let offset = self.origin.plus(self.used);
        let (_, rest) = self.buf.split_at_mut(self.used);
        let (out, _) = rest.split_at_mut(len);
        let crc = record.encode(out, nonce, offset);
        self.used = end;
        self.records += 1;
        self.records_crc = add_record_crc(self.records_crc, crc);
        Appended {
            offset,
            end: self.end(),
        }
    }

    /// Completes the frame.
    pub(crate) fn seal(mut self, seal: Seal) -> Sealed {
        let header = FrameHeader {
            offset: self.origin.plus(self.start),
            log_id: seal.log_id,
            epoch: seal.epoch,
            len: u32::try_from(self.len()).unwrap_or(u32::MAX),
            records: self.records,
            durable_upto: seal.durable_upto,
            previous: seal.previous,
            records_crc: self.records_crc,
            padded: seal.pad,
        };
        assert!(
            header.end() == self.end(),
            "a frame of {} bytes",
            self.len()
        );
        let (bytes, crc) = header.encode(seal.nonce);
        let (_, rest) = self.buf.split_at_mut(self.start);
        rest.split_at_mut(FRAME_HEADER_BYTES)
            .0
            .copy_from_slice(&bytes);
        self.buf.resize(self.used.next_multiple_of(ALIGN));
        let partial = if seal.pad {
            Vec::new()
        } else {
            let block = index(align_down(self.used as u64));
            self.buf.split_at(self.used).0.split_at(block).1.to_vec()
        };
        Sealed {
            buf: self.buf,
            origin: self.origin,
            header,
            crc,
            partial,
        }
    }

    /// Bytes of the frame so far.
    pub(crate) const fn len(&self) -> usize {
        self.used - self.start
    }

    /// The address after the last record.
    pub(crate) const fn end(&self) -> LogOffset {
        self.origin.plus(self.used)
    }

    pub(crate) const fn has_records(&self) -> bool {
        self.records > 0
    }
}
