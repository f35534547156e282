//! Reading what is no longer in memory: records and scans out of a bounded cache of chunks.
//!
//! Nothing here reads a disk: a call that needs bytes which are not there answers which, the
//! caller reads them (once, for all who wait for the same chunk), inserts them and calls again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use storage_io::{ALIGN, AlignedBuf, Disk};

use crate::address::index;
use crate::frame::{FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader};
use crate::limits::{CHUNK_BYTES, READ_BYTES_MAX, SCAN_BYTES};
use crate::record::{Mismatch, Place, RECORD_HEADER_BYTES, claimed_len, parse, verify};
use crate::segment::{Segment, segment_name};
use crate::{Log, LogError, LogOffset, Record};

/// A read that has to be done before a look-up can go on.
#[derive(Clone, Debug)]
pub struct ChunkRead<F> {
    /// The file to read.
    pub file: F,
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes to read.
    pub len: usize,
    /// What it is, for [`Log::insert_chunk`]; equal for the same bytes.
    pub chunk: Chunk,
}

/// Which bytes of the log a [`ChunkRead`] brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chunk {
    /// The log offset of the first byte.
    at: LogOffset,
    /// Bytes.
    len: usize,
    /// Bytes above this were not written yet when the read was asked for.
    valid_upto: LogOffset,
    is_large: bool,
}

impl Chunk {
    /// Whether it is for one record that is larger than a usual read, 1 MiB, or than half the
    /// cache: one of them is kept besides the others.
    #[must_use]
    pub const fn is_large(&self) -> bool {
        self.is_large
    }

    /// The log offset of the first byte.
    #[must_use]
    pub const fn start(&self) -> LogOffset {
        self.at
    }

    /// The log offset behind the last byte.
    #[must_use]
    pub fn end(&self) -> LogOffset {
        self.at.plus(self.len)
    }

    /// Bytes.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a read brings at least a sector"
    )]
    pub const fn len(&self) -> u64 {
        self.len as u64
    }
}

/// The answer of [`Log::read`].
#[derive(Clone, Debug)]
pub enum Lookup<F> {
    /// The record.
    Ready(Record),
    /// Read this, insert it and ask again.
    Missing(ChunkRead<F>),
}

/// The answer of [`Log::scan`].
#[derive(Clone, Debug)]
pub enum Scan<F> {
    /// The next record; go on at its end.
    Ready(Record),
    /// Read this, insert it and ask again.
    Missing(ChunkRead<F>),
    /// There are no more records.
    End,
}

/// Chunks that were read back, bounded in bytes; the oldest goes first.
#[derive(Debug)]
pub(crate) struct ChunkCache {
    chunks: BTreeMap<LogOffset, (Bytes, LogOffset)>,
    order: VecDeque<LogOffset>,
    bytes: usize,
    bytes_max: usize,
    /// What was read for a record that is larger than a usual read: where it begins, and the
    /// offset above which it was not written. No other chunk takes its place.
    large: Option<(LogOffset, Bytes, LogOffset)>,
}

impl ChunkCache {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self {
            chunks: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
            large: None,
        }
    }

    /// Bytes of one read at most; records of more are read at once, and kept besides the chunks.
    ///
    /// A step of a scan may have to see the end of one segment and a record at the begin of the
    /// next: three reads, which the cache has to hold together, or each pushes out what the step
    /// looks at first, for ever.
    fn read_max(&self) -> usize {
        let quarter = self.bytes_max / 4;
        READ_BYTES_MAX.min((quarter - quarter % CHUNK_BYTES).max(CHUNK_BYTES))
    }

    /// `len` bytes at `at` out of the large read.
    fn large_piece(&self, at: LogOffset, len: usize) -> Option<Bytes> {
        let (base, bytes, valid_upto) = self.large.as_ref()?;
        let end = at.plus(len);
        let holds = at >= *base && end <= base.plus(bytes.len()) && end <= *valid_upto;
        holds.then(|| bytes.slice(at.since(*base)..end.since(*base)))
    }

    fn insert(&mut self, at: LogOffset, bytes: Bytes, valid_upto: LogOffset) {
        self.bytes += bytes.len();
        if let Some((old, _)) = self.chunks.insert(at, (bytes, valid_upto)) {
            self.bytes -= old.len();
        } else {
            self.order.push_back(at);
        }
        while self.bytes > self.bytes_max && self.order.len() > 1 {
            let oldest = self
                .order
                .pop_front()
                .and_then(|at| self.chunks.remove(&at));
            self.bytes -= oldest.map_or(0, |(bytes, _)| bytes.len());
        }
    }

    /// Forgets what lies below the start of the log.
    pub(crate) fn forget_below(&mut self, start: LogOffset) {
        self.order.retain(|at| *at >= start);
        self.large.take_if(|(base, ..)| *base < start);
        let kept = self.chunks.split_off(&start);
        self.chunks = kept;
        self.bytes = self.chunks.values().map(|(bytes, _)| bytes.len()).sum();
    }

    /// From `at` up to `end` or the end of the chunk at `base`, when that is there.
    fn piece(&self, base: LogOffset, at: LogOffset, end: LogOffset) -> Option<Bytes> {
        let (bytes, valid_upto) = self.chunks.get(&base)?;
        let upto = end.min(base.plus(bytes.len()));
        (upto <= *valid_upto).then(|| bytes.slice(at.since(base)..upto.since(base)))
    }
}

/// Why a look-up can't be answered now.
enum Stop<F> {
    Missing(ChunkRead<F>),
    Failed(LogError),
}

impl<F> From<LogError> for Stop<F> {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

impl<D: Disk> Log<D> {
    /// The record at `at`, from memory or from chunks that were inserted. `len` is the caller's
    /// guess of its length in bytes (0: none), to fetch a large one with one read.
    ///
    /// # Errors
    /// [`LogError::Retired`] below the log's start, [`LogError::NoRecord`] when none begins there,
    /// [`LogError::Damaged`] when the bytes on disk are not what was written.
    pub fn read(&self, at: LogOffset, len: usize) -> Result<Lookup<D::File>, LogError> {
        let found = self.record(at).map_or_else(|| self.read_at(at, len), Ok);
        match found {
            Ok(record) => Ok(Lookup::Ready(record)),
            Err(Stop::Missing(read)) => Ok(Lookup::Missing(read)),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// The first record at or above `from` that begins below `upto` and below the durable
    /// watermark. `from` is the begin or the end of a record, or an end that a log told; one below
    /// the log's start counts as that.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when the bytes on disk are not what was written.
    pub fn scan(&self, from: LogOffset, upto: LogOffset) -> Result<Scan<D::File>, LogError> {
        self.scan_ahead(from, upto, SCAN_BYTES)
    }

    /// As [`Log::scan`], for who looks at everything up to `upto`: a read brings 1 MiB.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when the bytes on disk are not what was written.
    pub fn sweep(&self, from: LogOffset, upto: LogOffset) -> Result<Scan<D::File>, LogError> {
        self.scan_ahead(from, upto, READ_BYTES_MAX)
    }

    fn scan_ahead(
        &self,
        from: LogOffset,
        upto: LogOffset,
        ahead: usize,
    ) -> Result<Scan<D::File>, LogError> {
        match self.scan_from(from, upto.min(self.durable()), ahead) {
            Ok(Some(record)) => Ok(Scan::Ready(record)),
            Ok(None) => Ok(Scan::End),
            Err(Stop::Missing(read)) => Ok(Scan::Missing(read)),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Where scans may begin: the log's start, and the first frame of every later segment that has
    /// records which are durable.
    #[must_use]
    pub fn scan_starts(&self) -> Vec<LogOffset> {
        let (start, durable) = (self.start(), self.durable());
        let firsts = self.segments.iter().map(|one| one.header.first_frame());
        let later = firsts.filter(|first| *first > start && *first < durable);
        std::iter::once(start).chain(later).collect()
    }

    /// A read of the bytes from `start`, where a [`Chunk`] begins, up to `end`, for all who wait
    /// for some of them: 1 MiB at most, unless it is a large one ([`Chunk::is_large`]). `None`:
    /// they are not in the log any more.
    #[must_use]
    pub fn chunk_read(
        &self,
        start: LogOffset,
        end: LogOffset,
        is_large: bool,
    ) -> Option<ChunkRead<D::File>> {
        let segment = self.segment_of(start).filter(|_| start >= self.start())?;
        let most = if is_large {
            usize::MAX
        } else {
            self.cache.read_max()
        };
        match missing(segment, chunk_base(segment, start), end, most) {
            Stop::Missing(read) => Some(read),
            Stop::Failed(_) => None,
        }
    }

    /// Takes the bytes of a [`ChunkRead`]. Those of a large one replace those of the last large
    /// one, so whoever drives the disk does one of them at a time.
    ///
    /// # Panics
    /// If `buf` has another length than was asked for.
    pub fn insert_chunk(&mut self, chunk: Chunk, buf: AlignedBuf) {
        assert!(
            buf.len() == chunk.len,
            "{} bytes read, {} asked for",
            buf.len(),
            chunk.len
        );
        if chunk.at < self.start() {
            // Retired while it was read; its file may be another segment by now.
            return;
        }
        let bytes = Bytes::from_owner(buf);
        if chunk.is_large() {
            self.cache.large = Some((chunk.at, bytes, chunk.valid_upto));
            return;
        }
        // The last chunk first: what was asked for is the first, and is to leave the cache last.
        for start in (0..bytes.len()).step_by(CHUNK_BYTES).rev() {
            let end = (start + CHUNK_BYTES).min(bytes.len());
            self.cache.insert(
                chunk.at.plus(start),
                bytes.slice(start..end),
                chunk.valid_upto,
            );
        }
    }

    /// Whether a large chunk is in memory.
    #[must_use]
    pub const fn has_large_chunk(&self) -> bool {
        self.cache.large.is_some()
    }

    /// Gives its memory back; whoever wants it again reads it again.
    pub fn forget_large_chunk(&mut self) {
        self.cache.large = None;
    }

    fn read_at(&self, at: LogOffset, len: usize) -> Result<Record, Stop<D::File>> {
        let start = self.start();
        if at < start {
            return Err(LogError::Retired { at, start }.into());
        }
        let segment = self.segment_of(at).ok_or(LogError::NoRecord { at })?;
        if at.plus(RECORD_HEADER_BYTES) > segment.end || !at.0.is_multiple_of(8) {
            return Err(LogError::NoRecord { at }.into());
        }
        self.record_in(segment, at, len)
    }

    fn record_in(
        &self,
        segment: &Segment<D::File>,
        at: LogOffset,
        len: usize,
    ) -> Result<Record, Stop<D::File>> {
        let room = segment.end.since(at);
        let damaged = |mismatch| damage(segment, at, mismatch);
        let head = self.bytes(segment, at, RECORD_HEADER_BYTES.min(room), len)?;
        let claimed = claimed_len(&head, room).map_err(damaged)?;
        let bytes = self.bytes(segment, at, claimed, len)?;
        let place = Place {
            log_id: self.log_id,
            offset: at,
            nonce: segment.header.nonce,
        };
        verify(&bytes, place).map_err(damaged)?;
        Ok(parse(&bytes, place).map_err(damaged)?)
    }

    fn scan_from(
        &self,
        from: LogOffset,
        upto: LogOffset,
        ahead: usize,
    ) -> Result<Option<Record>, Stop<D::File>> {
        let mut at = from.max(self.start());
        while at < upto {
            let found = self
                .segment_of(at)
                .map(|found| (found, at.max(found.header.first_frame())));
            let Some((segment, place)) = found.filter(|(found, place)| *place < found.end) else {
                let Some(next) = self.first_frame_above(at) else {
                    return Ok(None);
                };
                at = next;
                continue;
            };
            at = place;
            match self.step(segment, at, ahead)? {
                Step::Record => return self.record_in(segment, at, ahead).map(Some),
                Step::Skip(next) => at = next,
            }
        }
        Ok(None)
    }

    /// What lies at `at`: a record, or something to skip.
    fn step(
        &self,
        segment: &Segment<D::File>,
        at: LogOffset,
        ahead: usize,
    ) -> Result<Step, Stop<D::File>> {
        let room = segment.end.since(at);
        let head = self.bytes(segment, at, FRAME_HEADER_BYTES.min(room), ahead)?;
        if head.get(4..8) == Some(&FRAME_MAGIC[..]) {
            let (header, _) = FrameHeader::decode(&head, segment.header.nonce, self.log_id, at)
                .map_err(|mismatch| damage(segment, at, mismatch))?;
            let next = if header.records == 0 {
                header.next()
            } else {
                at.plus(FRAME_HEADER_BYTES)
            };
            return Ok(Step::Skip(next));
        }
        let is_padding = head
            .get(..8)
            .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
        if is_padding && !at.0.is_multiple_of(ALIGN as u64) {
            return Ok(Step::Skip(LogOffset(storage_io::align_up(at.0))));
        }
        Ok(Step::Record)
    }

    /// `len` bytes at `at`, from memory or the cache. A read that becomes necessary brings at
    /// least `ahead` bytes when the segment has them.
    fn bytes(
        &self,
        segment: &Segment<D::File>,
        at: LogOffset,
        len: usize,
        ahead: usize,
    ) -> Result<Bytes, Stop<D::File>> {
        if let Some(bytes) = self.tail.from(at).filter(|bytes| bytes.len() >= len) {
            return Ok(bytes.slice(..len));
        }
        if let Some(bytes) = self.cache.large_piece(at, len) {
            return Ok(bytes);
        }
        let end = at.plus(len);
        if len > self.cache.read_max() {
            return Err(missing(segment, chunk_base(segment, at), end, usize::MAX));
        }
        let mut whole = Vec::new();
        let mut from = at;
        while from < end {
            let base = chunk_base(segment, from);
            let Some(piece) = self.cache.piece(base, from, end) else {
                let upto = end.max(at.plus(ahead));
                if ahead > READ_BYTES_MAX {
                    // The whole record, whatever of it is there.
                    return Err(missing(segment, chunk_base(segment, at), upto, usize::MAX));
                }
                return Err(missing(segment, base, upto, self.cache.read_max()));
            };
            if piece.len() == len {
                return Ok(piece);
            }
            from = from.plus(piece.len());
            whole.extend_from_slice(&piece);
        }
        Ok(Bytes::from(whole))
    }

    fn segment_of(&self, at: LogOffset) -> Option<&Segment<D::File>> {
        let after = self
            .segments
            .partition_point(|segment| segment.header.base <= at);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        (at < segment.header.limit()).then_some(segment)
    }

    fn first_frame_above(&self, at: LogOffset) -> Option<LogOffset> {
        let after = self
            .segments
            .partition_point(|segment| segment.header.base <= at);
        self.segments
            .get(after)
            .map(|segment| segment.header.first_frame())
    }
}

enum Step {
    Record,
    Skip(LogOffset),
}

fn chunk_base<F>(segment: &Segment<F>, at: LogOffset) -> LogOffset {
    let position = segment.position(at);
    LogOffset(segment.header.base.0 + position - position % CHUNK_BYTES as u64)
}

/// The read of the bytes from `base` to `end`, or of the first `most` of them; without that bound
/// for one record that is larger than a usual read.
fn missing<F: Clone>(
    segment: &Segment<F>,
    base: LogOffset,
    end: LogOffset,
    most: usize,
) -> Stop<F> {
    let Some(file) = segment.file.clone() else {
        return LogError::NoRecord { at: base }.into();
    };
    let offset = segment.position(base);
    let wanted = end.since(base).next_multiple_of(CHUNK_BYTES);
    let len = wanted.min(most).min(index(segment.header.size - offset));
    let valid_upto = segment.end.min(base.plus(len));
    Stop::Missing(ChunkRead {
        file,
        offset,
        len,
        chunk: Chunk {
            at: base,
            len,
            valid_upto,
            is_large: most == usize::MAX,
        },
    })
}

fn damage<F>(segment: &Segment<F>, at: LogOffset, mismatch: Mismatch) -> LogError {
    LogError::damaged(
        segment_name(segment.header.base),
        segment.position(at),
        mismatch,
    )
}
