//! The commit log: records go into memory, groups of them go to disk, watermarks follow.
//!
//! [`Log::append`] encodes a record into the open frame. [`Log::commit`], called at the end of a
//! turn, starts writing that frame unless a write is under way: what arrives meanwhile becomes the
//! next frame (natural batching). [`Log::complete`] takes the end of the write and moves the
//! watermarks. One write and its sync are in flight at a time, so what is durable is a prefix.
//!
//! Everything runs on the shard's core and never waits. A write or a sync that fails poisons the
//! log: nothing more is written, and the caller ends the process. What happens between memory and
//! disk is in `commit.rs`.

mod commit;

use std::collections::VecDeque;

use storage_io::{Completion, Disk, DiskError, DiskQueue, align_up};

use crate::batch::Batch;
use crate::cold::ChunkCache;
use crate::frame::{FRAME_HEADER_BYTES, Link};
use crate::limits::{
    FRAME_BYTES_TARGET, MARKER_DELAY_MS, RECORD_BYTES_MAX, SEGMENT_HEADER_BYTES,
    UNSYNCED_BYTES_HARD,
};
use crate::prepare::Preparation;
use crate::record::{Place, parse};
use crate::retire::{Retiring, Spare};
use crate::root::RootState;
use crate::segment::{Segment, SegmentHeader};
use crate::tail::Tail;
use crate::{Durability, LogError, LogId, LogOffset, LogOptions, NewRecord, Record};

/// The high byte of the tokens of this log's operations.
const TOKEN_OWNER: u64 = 1 << 56;

/// Milliseconds after which a preparation that found no space or no descriptor is tried again.
const SHORTAGE_DELAY_MS: u64 = 1000;

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its address.
    pub offset: LogOffset,
    /// The address after it: it is durable when the log is durable up to here.
    pub end: LogOffset,
}

/// What a completion changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The watermark of [`Log::durable`].
    pub durable: LogOffset,
    /// Whether it moved.
    pub advanced: bool,
}

/// One open log of one shard.
#[derive(Debug)]
pub struct Log<D: Disk> {
    pub(crate) disk: D,
    pub(crate) log_id: LogId,
    pub(crate) options: LogOptions,
    /// All segments by base; planned ones, without a file, come last.
    pub(crate) segments: Vec<Segment<D::File>>,
    pub(crate) tail: Tail,
    pub(crate) cache: ChunkCache,
    /// Where the next frame begins, when none is open.
    head: Head,
    open: Option<Batch>,
    /// Frames that are full and wait for their turn, in order.
    full: VecDeque<Batch>,
    flight: Option<Flight>,
    pub(crate) root: RootState,
    pub(crate) root_file: D::File,
    pub(crate) retiring: Option<Retiring>,
    /// Segments below the start whose files are still there.
    pub(crate) retired: Vec<Segment<D::File>>,
    pub(crate) spares: Vec<Spare>,
    preparation: Option<Preparation<D>>,
    pub(crate) poisoned: Option<DiskError>,
    marks: Marks,
    last_frame: Link,
    /// The segment that was written last, by index.
    pub(crate) written_segment: usize,
    /// Bytes of the last group: a good guess for the next.
    batch_bytes: usize,
    token: u64,
    due: Due,
}

/// What a log stands on, beside its segments.
#[derive(Debug)]
pub(crate) struct Base<F> {
    pub(crate) root: RootState,
    pub(crate) root_file: F,
    pub(crate) spares: Vec<Spare>,
}

/// Where the next frame begins.
#[derive(Debug)]
struct Head {
    segment: usize,
    at: LogOffset,
    /// The bytes of the tail block below `at`.
    partial: Vec<u8>,
}

/// How far everything is. Each is at or below the one before it, but `claimed`.
#[derive(Debug)]
struct Marks {
    appended: LogOffset,
    written: LogOffset,
    synced: LogOffset,
    /// The end of the last frame with records that was written.
    data_end: LogOffset,
    /// What the frame that was written last claims to be durable.
    claim: LogOffset,
    /// The highest claim that is durable itself.
    claimed: LogOffset,
}

/// What the clock has asked for.
#[derive(Debug, Default)]
struct Due {
    now_ms: u64,
    appended_seen: LogOffset,
    idle_since_ms: u64,
    synced_at_ms: u64,
    /// No preparing of segments before this time.
    prepare_at_ms: u64,
    /// The last step of preparing one found no space or no descriptor.
    has_shortage: bool,
    sync: bool,
    marker: bool,
}

#[derive(Debug)]
enum Flight {
    Write {
        token: u64,
        segment: usize,
        sync: bool,
        written: Written,
    },
    Sync {
        token: u64,
        upto: LogOffset,
    },
}

#[derive(Debug)]
struct Written {
    origin: LogOffset,
    start: LogOffset,
    end: LogOffset,
    claim: LogOffset,
    has_records: bool,
}

impl<D: Disk> Log<D> {
    /// A log that goes on in the last of `segments`, which is empty and ready.
    pub(crate) fn open(
        disk: D,
        log_id: LogId,
        options: LogOptions,
        segments: Vec<Segment<D::File>>,
        last_frame: Link,
        base: Base<D::File>,
    ) -> Self {
        let segment = segments.len() - 1;
        let at = segments
            .last()
            .map_or(LogOffset(0), |last| last.header.first_frame());
        Self {
            disk,
            log_id,
            tail: Tail::new(options.tail_bytes_max),
            cache: ChunkCache::new(options.cache_bytes_max),
            options,
            segments,
            head: Head {
                segment,
                at,
                partial: Vec::new(),
            },
            open: None,
            full: VecDeque::new(),
            flight: None,
            root: base.root,
            root_file: base.root_file,
            retiring: None,
            retired: Vec::new(),
            spares: base.spares,
            preparation: None,
            poisoned: None,
            marks: Marks {
                appended: at,
                written: at,
                synced: at,
                data_end: at,
                claim: at,
                claimed: at,
            },
            last_frame,
            written_segment: segment,
            batch_bytes: 0,
            token: TOKEN_OWNER,
            due: Due {
                appended_seen: at,
                ..Due::default()
            },
        }
    }

    /// Appends a record in memory. Everything appended until the next commit starts is one frame,
    /// unless a frame or a segment gets full.
    ///
    /// # Panics
    /// If the record is larger than [`RECORD_BYTES_MAX`], is in more than
    /// [`RECORD_QUEUES_MAX`](crate::RECORD_QUEUES_MAX) queues, or if far more was appended than
    /// [`Log::is_full`] allows.
    pub fn append(&mut self, record: &NewRecord<'_>) -> Appended {
        self.append_together(std::slice::from_ref(record))
    }

    /// Appends records, of which a crash leaves all or none. Together they are as large as one may
    /// be. Returns the first one's address, and where the last one ends.
    ///
    /// # Panics
    /// As [`Log::append`], and without a record.
    pub fn append_together(&mut self, records: &[NewRecord<'_>]) -> Appended {
        let len = records.iter().map(NewRecord::encoded_len).sum();
        assert!(
            len <= RECORD_BYTES_MAX,
            "a record of {len} bytes; the limit is {RECORD_BYTES_MAX}"
        );
        let unsynced = self.marks.appended.since(self.marks.synced) as u64;
        assert!(
            unsynced < UNSYNCED_BYTES_HARD,
            "{unsynced} bytes are not durable"
        );
        self.make_room(len);
        let head = self.head.segment;
        let nonce = self.segment_header(head).nonce;
        let batch = self.open_batch();
        let mut first = None;
        for record in records {
            let put = batch.push(record, record.encoded_len(), nonce);
            first.get_or_insert(put).end = put.end;
        }
        let appended = first.unwrap_or_else(|| panic!("no record is appended"));
        if let Some(segment) = self.segments.get_mut(head) {
            let stamps = records.iter().map(|record| record.stamp);
            segment.newest_stamp = stamps.fold(segment.newest_stamp, u64::max);
        }
        self.marks.appended = appended.end;
        appended
    }

    /// Starts a group commit when there is something to write and no write is under way, and the
    /// next step of preparing a segment. Call it at the end of every turn.
    ///
    /// # Errors
    /// [`LogError::Poisoned`] when the log is, or becomes so because a segment can't be created.
    pub fn commit(&mut self, queue: &mut impl DiskQueue<D::File>) -> Result<(), LogError> {
        if let Some(error) = &self.poisoned {
            return Err(LogError::Poisoned(error.clone()));
        }
        if let Err(error) = self.prepare(queue) {
            return Err(self.poison(error));
        }
        if self.flight.is_none() {
            self.start_next(queue);
        }
        Ok(())
    }

    /// Whether the operation with this token is this log's, so that its completion belongs here.
    #[must_use]
    pub const fn owns(token: u64) -> bool {
        token & (0xff << 56) == TOKEN_OWNER
    }

    /// Takes the end of an operation that the log has submitted.
    ///
    /// # Errors
    /// [`LogError::Poisoned`] when it failed, and ever after.
    ///
    /// # Panics
    /// If the log never submitted it.
    pub fn complete(&mut self, completion: Completion) -> Result<Progress, LogError> {
        if let Some(error) = &self.poisoned {
            return Err(LogError::Poisoned(error.clone()));
        }
        let before = self.durable();
        let Completion { token, result } = completion;
        let outcome = if self
            .preparation
            .as_ref()
            .is_some_and(|next| next.owns(token))
        {
            self.prepared(result)
        } else if self.owns_retiring(token) {
            self.retirement_landed(result)
        } else {
            self.landed(token, result)
        };
        outcome.map_err(|error| self.poison(error))?;
        let durable = self.durable();
        Ok(Progress {
            durable,
            advanced: durable > before,
        })
    }

    /// Tells the time, in milliseconds of any monotonic clock. Call it at least every 50 ms while
    /// [`Log::needs_tick`]: it makes syncs and the marker of an idle log due, which the next
    /// [`Log::commit`] writes.
    pub fn tick(&mut self, now_ms: u64) {
        let due = &mut self.due;
        due.now_ms = now_ms;
        if due.appended_seen != self.marks.appended {
            due.appended_seen = self.marks.appended;
            due.idle_since_ms = now_ms;
        }
        if let Some(interval) = self.options.durability.sync_interval_ms()
            && now_ms.saturating_sub(due.synced_at_ms) >= interval
            && self.marks.synced < self.marks.appended
        {
            due.sync = true;
            due.synced_at_ms = now_ms;
        }
        if now_ms.saturating_sub(due.idle_since_ms) >= MARKER_DELAY_MS {
            self.request_marker();
        }
    }

    /// Makes a marker due, so that the last durable data is claimed by a later frame: when the log
    /// goes idle, and at an orderly stop. To stop, call this, [`Log::commit`] and
    /// [`Log::complete`] until [`Log::is_settled`].
    pub fn request_marker(&mut self) {
        if self.marks.synced < self.marks.written {
            self.due.sync = true;
        } else if self.marks.claimed < self.marks.data_end {
            self.due.marker = true;
        }
    }

    /// The end of the last record, or where the first one will be after: every later record lies
    /// at or above.
    #[must_use]
    pub const fn appended(&self) -> LogOffset {
        self.marks.appended
    }

    /// Everything below has reached the level of [`Durability`] and may be acknowledged and seen.
    #[must_use]
    pub fn durable(&self) -> LogOffset {
        match self.options.durability {
            Durability::Commit => self.marks.synced,
            Durability::Interval { .. } | Durability::None => self.marks.written,
        }
    }

    /// Everything below is on the device: survives a loss of power.
    #[must_use]
    pub const fn synced(&self) -> LogOffset {
        self.marks.synced
    }

    /// Whether so much is not durable yet that the caller must stop taking more, or the next
    /// segment finds no space or no descriptor: what is left of this one is for small records that
    /// others wait for, such as those of sessions.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.marks.appended.since(self.marks.synced) as u64 >= self.options.unsynced_bytes_max
            || self.due.has_shortage && self.room() < self.options.segment_bytes_min / 4
    }

    /// Bytes left in the segments that are ready.
    fn room(&self) -> u64 {
        let ready = self.segments.get(self.head.segment..).unwrap_or_default();
        let ready = ready.iter().filter(|segment| segment.file.is_some());
        let from = |segment: &Segment<D::File>| self.marks.appended.max(segment.end);
        ready
            .map(|segment| segment.header.limit().0.saturating_sub(from(segment).0))
            .sum()
    }

    /// Whether the next segment finds no space or no descriptor.
    #[must_use]
    pub const fn has_shortage(&self) -> bool {
        self.due.has_shortage
    }

    /// Whether twice as much as [`Log::is_full`] allows is not durable: nothing may be appended.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.marks.appended.since(self.marks.synced) as u64 >= 2 * self.options.unsynced_bytes_max
    }

    /// Whether time matters: something is to be synced or marked, now or when the log stays idle.
    #[must_use]
    pub fn needs_tick(&self) -> bool {
        !self.is_settled()
    }

    /// Whether everything that was appended is on the device and claimed by a durable marker.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.marks.synced >= self.marks.appended
            && self.marks.claimed >= self.marks.data_end
            && self.flight.is_none()
    }

    /// Whether a write or a sync is under way: what is appended now waits for the next one.
    #[must_use]
    pub const fn is_committing(&self) -> bool {
        self.flight.is_some()
    }

    /// Bytes that were appended and are not written.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.marks.appended.since(self.marks.written)
    }

    /// The disk that it is on.
    pub const fn disk(&self) -> &D {
        &self.disk
    }

    /// As [`LogOptions::usual_record_bytes`].
    #[must_use]
    pub const fn usual_record_bytes(&self) -> usize {
        self.options.usual_record_bytes()
    }

    /// Whether a record of `len` bytes finds room: it is no larger than usual, or fits into what is
    /// ready, or the device has room for a segment that holds it. Others would wait behind one that
    /// finds none.
    #[must_use]
    pub fn has_room_for(&self, len: usize) -> bool {
        if len <= self.options.usual_record_bytes() || len as u64 + 4096 <= self.head_room() {
            return true;
        }
        let wanted = segment_bytes_for(len) + self.options.free_bytes_min;
        let space = self.disk.space();
        len <= RECORD_BYTES_MAX && space.is_ok_and(|space| space.free_bytes >= wanted)
    }

    /// Bytes left in the segment that is appended to, when it is ready.
    fn head_room(&self) -> u64 {
        let head = self.segments.get(self.head.segment);
        let head = head.filter(|segment| segment.file.is_some());
        let end = self.marks.appended.max(self.head.at);
        head.map_or(0, |head| head.header.limit().0.saturating_sub(end.0))
    }

    /// The log's id.
    #[must_use]
    pub const fn log_id(&self) -> LogId {
        self.log_id
    }

    /// Segments that are open files.
    #[must_use]
    pub fn open_segments(&self) -> usize {
        let planned = self.segments.iter().rev();
        let planned = planned.take_while(|segment| segment.file.is_none());
        self.segments.len() - planned.count()
    }

    /// A record from memory: every one that has just become durable is there, and as many older
    /// ones as the bound allows. `None`: read it from disk with [`Log::read`].
    #[must_use]
    pub fn record(&self, at: LogOffset) -> Option<Record> {
        let bytes = self.tail.from(at)?;
        let place = Place {
            log_id: self.log_id,
            offset: at,
            nonce: 0,
        };
        let len = crate::record::claimed_len(&bytes, bytes.len()).ok()?;
        parse(&bytes.slice(..len), place).ok()
    }

    /// Sees to it that a record of `len` bytes fits at the end of the open frame, or at the head.
    fn make_room(&mut self, len: usize) {
        if let Some(batch) = &self.open {
            let limit = self.segment_header(batch.segment).limit();
            let fits = batch.end().plus(len) <= limit;
            if fits && (!batch.has_records() || batch.len() + len <= FRAME_BYTES_TARGET) {
                return;
            }
            self.set_aside();
        }
        let header = self.segment_header(self.head.segment);
        if self.head.at.plus(FRAME_HEADER_BYTES + len) <= header.limit() {
            return;
        }
        if self.head.at == header.first_frame() {
            // None stays empty between others: each names the last frame of the one before.
            self.widen(self.head.segment, len);
        } else {
            self.move_head(len);
        }
    }

    /// Puts the open frame into the line of full ones; the next one begins at a block of its own.
    fn set_aside(&mut self) {
        let Some(batch) = self.open.take() else {
            return;
        };
        self.head.at = LogOffset(align_up(batch.end().0));
        self.head.partial.clear();
        self.full.push_back(batch);
    }

    /// Goes on in the next segment, which has room for a record of `len` bytes.
    fn move_head(&mut self, len: usize) {
        let segment = self.head.segment + 1;
        if segment == self.segments.len() {
            self.plan_segment(len);
        } else {
            self.widen(segment, len);
        }
        let at = self.segment_header(segment).first_frame();
        self.head = Head {
            segment,
            at,
            partial: Vec::new(),
        };
    }

    fn open_batch(&mut self) -> &mut Batch {
        let Head {
            segment,
            at,
            partial,
        } = &self.head;
        let bytes = self.batch_bytes;
        self.open
            .get_or_insert_with(|| Batch::new(*segment, *at, partial, bytes))
    }

    /// Decides what the next segment is; it becomes a file later. It has room for a record of `len`
    /// bytes.
    fn plan_segment(&mut self, len: usize) {
        let Some(last) = self.segments.last() else {
            return;
        };
        let (base, size) = (last.header.limit(), 2 * last.header.size);
        let header = SegmentHeader {
            log_id: self.log_id,
            base,
            size: size
                .min(self.options.segment_bytes_max)
                .max(segment_bytes_for(len)),
            nonce: nonce(self.log_id, base, self.options.seed),
            recovered: None,
        };
        self.segments.push(Segment::planned(header));
    }

    /// Makes the last segment, in which nothing is yet, large enough for a record of `len` bytes.
    /// If its file is ready, another one takes its place.
    fn widen(&mut self, number: usize, len: usize) {
        let size = segment_bytes_for(len);
        debug_assert!(number + 1 == self.segments.len(), "others lie behind it");
        let segment = self.segments.get_mut(number);
        let Some(segment) = segment.filter(|segment| segment.header.size < size) else {
            return;
        };
        segment.header.size = size;
        segment.file = None;
        let header = segment.header;
        if let Some(next) = &mut self.preparation
            && next.segment == number
        {
            next.widen(header);
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "segment numbers are given out here"
    )]
    fn segment_header(&self, segment: usize) -> &SegmentHeader {
        &self.segments[segment].header
    }

    pub(crate) const fn head_segment(&self) -> usize {
        self.head.segment
    }

    /// So many segments at the front are gone: all numbers of segments become lower.
    pub(crate) fn renumber(&mut self, gone: usize) {
        self.head.segment -= gone;
        self.written_segment -= gone;
        for batch in self.full.iter_mut().chain(&mut self.open) {
            batch.segment -= gone;
        }
        if let Some(Flight::Write { segment, .. }) = &mut self.flight {
            *segment -= gone;
        }
        if let Some(next) = &mut self.preparation {
            next.segment -= gone;
        }
    }

    pub(crate) fn next_token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    pub(crate) fn poison(&mut self, error: DiskError) -> LogError {
        self.poisoned = Some(error.clone());
        LogError::Poisoned(error)
    }
}

/// Bytes of a segment that has room for a record of `len` bytes, if not for much more.
fn segment_bytes_for(len: usize) -> u64 {
    align_up(SEGMENT_HEADER_BYTES + (FRAME_HEADER_BYTES + len) as u64)
}

/// The nonce of the segment at `base`. A base is never used twice in a log, so neither is a nonce.
pub(crate) fn nonce(log_id: LogId, base: LogOffset, seed: u64) -> u64 {
    let mut rng = storage_io::sim::Rng::new(seed ^ (u64::from(log_id.0) << 48) ^ base.0);
    rng.next_u64()
}

/// The header of the first segment of a log, or of the first one after a recovery.
pub(crate) fn first_segment(
    log_id: LogId,
    options: &LogOptions,
    base: LogOffset,
    recovered: Option<LogOffset>,
) -> SegmentHeader {
    let size = options.segment_bytes_min;
    assert!(size > SEGMENT_HEADER_BYTES, "a segment of {size} bytes");
    SegmentHeader {
        log_id,
        base,
        size,
        nonce: nonce(log_id, base, options.seed),
        recovered,
    }
}
