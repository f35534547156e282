//! Walking the frames of one segment with blocking reads: for recovery and inspection.

use bytes::Bytes;
use storage_io::{ALIGN, Disk, DiskError, DiskFile, align_down, align_up};

use crate::address::index;
use crate::frame::{FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, add_record_crc};
use crate::limits::{BASE_MAX, READ_BYTES_MAX, SEGMENT_BYTES_LIMIT, SEGMENT_HEADER_BYTES};
use crate::record::{Mismatch, Place, claimed_len, parse, verify};
use crate::segment::{HeaderFault, SegmentHeader, base_of, segment_name};
use crate::{LogError, LogId, LogOffset, Record};

/// Reads one segment through a window of a megabyte, or of one frame that is larger.
#[derive(Debug)]
pub(crate) struct Walker<F> {
    file: F,
    pub(crate) header: SegmentHeader,
    window: Bytes,
    window_at: u64,
}

/// A frame whose every byte was checked.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) crc: u32,
    nonce: u64,
    bytes: Bytes,
}

impl<F: DiskFile> Walker<F> {
    pub(crate) fn new(file: F, header: SegmentHeader) -> Self {
        Self {
            file,
            header,
            window: Bytes::new(),
            window_at: 0,
        }
    }

    /// The frame at `at`, with all its records checked; or why there is none.
    pub(crate) fn frame(&mut self, at: LogOffset) -> Result<Result<Frame, Mismatch>, DiskError> {
        let (header, crc) = match self.frame_header(at)? {
            Ok(found) => found,
            Err(mismatch) => return Ok(Err(mismatch)),
        };
        let room = self.header.limit().since(at) as u64;
        let len = u64::from(header.len);
        if len > room {
            return Ok(Err(Mismatch::new("length of a frame", room, len)));
        }
        let bytes = self.bytes(self.position(at), index(len))?;
        let frame = Frame {
            header,
            crc,
            nonce: self.header.nonce,
            bytes,
        };
        Ok(frame.check().map(|()| frame))
    }

    /// The header at `at` by itself; or why there is none.
    pub(crate) fn frame_header(
        &mut self,
        at: LogOffset,
    ) -> Result<Result<(FrameHeader, u32), Mismatch>, DiskError> {
        let room = self.header.limit().since(at);
        let bytes = self.bytes(self.position(at), FRAME_HEADER_BYTES.min(room))?;
        Ok(FrameHeader::decode(
            &bytes,
            self.header.nonce,
            self.header.log_id,
            at,
        ))
    }

    /// The next header above `at` that is valid by itself, wherever it begins.
    pub(crate) fn find_header(&mut self, at: LogOffset) -> Result<Option<FrameHeader>, DiskError> {
        let mut position = self.position(at).next_multiple_of(8);
        while position + FRAME_HEADER_BYTES as u64 <= self.header.size {
            let left = index(self.header.size - position);
            let bytes = self.bytes(position, left.min(READ_BYTES_MAX / 2))?;
            let mut scanned = 0;
            for (number, word) in bytes.chunks_exact(8).enumerate() {
                scanned = (number + 1) * 8;
                if word.split_at(4).1 == FRAME_MAGIC {
                    let at = LogOffset(self.header.base.0 + position).plus(number * 8);
                    if let Ok((header, _)) = self.frame_header(at)? {
                        return Ok(Some(header));
                    }
                }
            }
            position += scanned.max(8) as u64;
        }
        Ok(None)
    }

    /// Whether there is anything in the place of a frame header.
    pub(crate) fn is_written_at(&mut self, at: LogOffset) -> Result<bool, DiskError> {
        let room = self.header.limit().since(at).min(FRAME_HEADER_BYTES);
        let bytes = self.bytes(self.position(at), room)?;
        Ok(bytes.iter().any(|byte| *byte != 0))
    }

    /// Whether a write that was cut short lies at `at`, as far as can be told: bytes that are not
    /// zero behind it in its block, which the write before has filled, or a frame's header. (What
    /// lies in the blocks behind may be of an earlier life of the file.)
    pub(crate) fn is_torn_at(&mut self, at: LogOffset) -> Result<bool, DiskError> {
        let rest = index(align_up(at.0) - at.0);
        let bytes = self.bytes(self.position(at), rest)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        let room = self.header.limit().since(at);
        Ok(room >= FRAME_HEADER_BYTES && self.frame_header(at)?.is_ok())
    }

    fn position(&self, at: LogOffset) -> u64 {
        at.0 - self.header.base.0
    }

    /// `len` bytes at `position`, which lie within the segment.
    fn bytes(&mut self, position: u64, len: usize) -> Result<Bytes, DiskError> {
        let window_end = self.window_at + self.window.len() as u64;
        if position < self.window_at || position + len as u64 > window_end {
            let start = align_down(position);
            let least = index(position - start) + len;
            let wanted = least.max(READ_BYTES_MAX).next_multiple_of(ALIGN);
            let read = wanted.min(index(self.header.size - start));
            self.window = Bytes::from_owner(self.file.read_at(start, read)?);
            self.window_at = start;
        }
        let from = index(position - self.window_at);
        Ok(self.window.slice(from..from + len))
    }
}

impl Frame {
    fn check(&self) -> Result<(), Mismatch> {
        let mut records_crc = 0;
        let mut count = 0;
        for piece in self.pieces() {
            let (place, bytes) = piece?;
            records_crc = add_record_crc(records_crc, verify(&bytes, place)?);
            parse(&bytes, place)?;
            count += 1;
        }
        let header = &self.header;
        if count != header.records {
            let (expected, got) = (u64::from(header.records), u64::from(count));
            return Err(Mismatch::new("number of records in a frame", expected, got));
        }
        if records_crc != header.records_crc {
            let (expected, got) = (u64::from(header.records_crc), u64::from(records_crc));
            return Err(Mismatch::new("CRC of a frame's records", expected, got));
        }
        Ok(())
    }

    /// The records, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.pieces()
            .filter_map(|piece| piece.and_then(|(place, bytes)| parse(&bytes, place)).ok())
    }

    fn pieces(&self) -> impl Iterator<Item = Result<(Place, Bytes), Mismatch>> + '_ {
        let mut at = FRAME_HEADER_BYTES;
        std::iter::from_fn(move || {
            if at >= self.bytes.len() {
                return None;
            }
            let rest = self.bytes.slice(at..);
            let place = Place {
                log_id: self.header.log_id,
                offset: self.header.offset.plus(at),
                nonce: self.nonce,
            };
            match claimed_len(&rest, rest.len()) {
                Ok(len) => {
                    at += len;
                    Some(Ok((place, rest.slice(..len))))
                }
                Err(mismatch) => {
                    at = self.bytes.len();
                    Some(Err(mismatch))
                }
            }
        })
    }
}

/// The bases of all segments in a directory, ascending.
pub(crate) fn list_segments<D: Disk>(disk: &D) -> Result<Vec<LogOffset>, DiskError> {
    let mut bases: Vec<_> = disk
        .list()?
        .iter()
        .filter_map(|name| base_of(name))
        .collect();
    bases.sort_unstable();
    Ok(bases)
}

/// Opens the segment at `base` and checks its header.
pub(crate) fn open_segment<D: Disk>(
    disk: &D,
    base: LogOffset,
    log_id: Option<LogId>,
) -> Result<(D::File, SegmentHeader), LogError> {
    let name = segment_name(base);
    let file = disk.open(&name)?;
    let len = file.len()?;
    let damaged = |what, expected, got| {
        LogError::damaged(name.clone(), 0, Mismatch::new(what, expected, got))
    };
    if len < SEGMENT_HEADER_BYTES {
        return Err(damaged(
            "length of a segment file",
            SEGMENT_HEADER_BYTES,
            len,
        ));
    }
    let block = file.read_at(0, index(SEGMENT_HEADER_BYTES))?;
    let header = SegmentHeader::decode(&block).map_err(|fault| match fault {
        HeaderFault::Version(found) => LogError::UnknownVersion {
            file: name.clone(),
            found,
        },
        HeaderFault::Mismatch(mismatch) => LogError::damaged(name.clone(), 0, mismatch),
    })?;
    if header.base != base {
        return Err(damaged("base of a segment", base.0, header.base.0));
    }
    if header.base.0 > BASE_MAX || header.size > SEGMENT_BYTES_LIMIT {
        return Err(damaged(
            "size of a segment",
            SEGMENT_BYTES_LIMIT,
            header.size,
        ));
    }
    if len < header.size || header.size < SEGMENT_HEADER_BYTES {
        return Err(damaged("length of a segment file", header.size, len));
    }
    let wrong = log_id.filter(|expected| *expected != header.log_id);
    if let Some(expected) = wrong {
        let (expected, got) = (u64::from(expected.0), u64::from(header.log_id.0));
        return Err(damaged("log id of a segment", expected, got));
    }
    Ok((file, header))
}
