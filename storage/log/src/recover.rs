//! Opening a log: a new one, or what a crash has left.
//!
//! Recovery walks the frames from the segment that holds `replay_from`. Each must be whole, lie
//! where its predecessor ends, and name it. The first that does not is where the log ends, unless
//! something valid further on says that this place was durable: then durable bytes are damaged,
//! and that is an error. The log never goes on behind an old end: a new segment is begun, whose
//! base lies above every offset that could have been given out before the crash, and which keeps
//! where the recovered log ended. Running recovery again, or crashing in it, changes nothing.

use std::fmt;

use storage_io::{Disk, DiskError, DiskFile, ErrorKind, Operation, align_up};

use crate::frame::Link;
use crate::limits::RECOVERY_GAP_BYTES;
use crate::log::{Base, first_segment};
use crate::prepare::make_ready;
use crate::record::Mismatch;
use crate::retire::adopt_spares;
use crate::root::{RootState, open_root, read_root};
use crate::segment::{Segment, SegmentHeader, segment_name};
use crate::walk::{Frame, Walker, list_segments, open_segment};
use crate::{Durability, Log, LogError, LogId, LogOffset, LogOptions, Record};

/// What a recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The end of the recovered log: everything that was ever durable lies below.
    pub end: LogOffset,
    /// Where the log goes on: no offset from `end` up to here was or will be a record's.
    pub next: LogOffset,
    /// Segments that hold the recovered log.
    pub segments: usize,
    /// Frames read, markers included.
    pub frames: u64,
    /// Records given to the sink.
    pub records: u64,
    /// Whether bytes of a write that was cut short lay behind the end.
    pub is_torn: bool,
    /// The stamp of the first record that has one: as stamps grow, no record has a lower one.
    pub oldest_stamp: Option<u64>,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "recovered {} records in {} frames and {} segments up to offset {}{}; going on at {}",
            self.records,
            self.frames,
            self.segments,
            self.end,
            if self.is_torn {
                ", cut off a torn write"
            } else {
                ""
            },
            self.next
        )
    }
}

impl<D: Disk> Log<D> {
    /// Makes a new log in an empty directory.
    ///
    /// # Errors
    /// When the disk fails, or a log is there already.
    ///
    /// # Panics
    /// If the options contradict each other.
    pub fn create(disk: D, log_id: LogId, options: LogOptions) -> Result<Self, LogError> {
        options.check();
        if let Some(base) = list_segments(&disk)?.first() {
            let name = segment_name(*base);
            let error = DiskError::new(&name, Operation::Create, 0, ErrorKind::Exists);
            return Err(error.into());
        }
        remove_unfinished(&disk)?;
        let header = first_segment(log_id, &options, LogOffset(0), None);
        let file = make_ready(&disk, &header)?;
        let base = Base {
            root: RootState {
                log_id,
                ..RootState::default()
            },
            root_file: open_root(&disk)?,
            spares: Vec::new(),
        };
        let mut segment = Segment::planned(header);
        segment.file = Some(file);
        Ok(Self::open(
            disk,
            log_id,
            options,
            vec![segment],
            Link::default(),
            base,
        ))
    }

    /// Opens the log in `disk` and hands every record at or above `replay_from` to `sink`, in log
    /// order. A directory without segments becomes a new log.
    ///
    /// `replay_from` is any offset that was durable; one below the log's start counts as that. An
    /// earlier recovery makes all of its gap so, up to [`RecoveryReport::next`]: no record was or
    /// will be there, hence nothing is missing.
    ///
    /// # Errors
    /// When the disk fails, durable bytes are damaged or missing, a segment has another format
    /// version, or the sink refuses a record. Nothing is changed on disk then.
    ///
    /// # Panics
    /// If the options contradict each other.
    pub fn recover(
        disk: D,
        log_id: LogId,
        options: LogOptions,
        replay_from: LogOffset,
        sink: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(Self, RecoveryReport), LogError> {
        options.check();
        let root = read_root(&disk, log_id)?;
        let found = load_segments(&disk, log_id)?;
        if found.is_empty() && root.start == LogOffset(0) {
            let log = Self::create(disk, log_id, options)?;
            let (end, next) = (LogOffset(0), log.appended());
            return Ok((
                log,
                RecoveryReport {
                    end,
                    next,
                    ..RecoveryReport::default()
                },
            ));
        }
        let beyond = found
            .iter()
            .map(|segment| segment.header.limit())
            .max()
            .unwrap_or_default();
        let chain = chain(&found, root.start)?;
        let replay_from = replay_from.max(root.start);
        let mut scan = Recovery::new(chain, replay_from, root.start);
        scan.run(sink)?;
        let reached = scan.end;
        scan.drop_empty();
        scan.date_segments()?;
        scan.report.oldest_stamp = scan.oldest_stamp()?;
        let end = scan.end;
        let expected = replay_from.max(options.known_end);
        if reached < expected && options.durability == Durability::Commit {
            return Err(LogError::EndsEarly { end, expected });
        }
        scan.sync()?;
        let Recovery {
            mut chain,
            mut report,
            link,
            ..
        } = scan;
        let base = LogOffset(align_up(beyond.0 + RECOVERY_GAP_BYTES));
        let header = first_segment(log_id, &options, base, Some(end));
        // A start that was read but not synced counts from now on: what lies below it goes.
        let root_file = open_root(&disk)?;
        root_file.sync()?;
        remove_unfinished(&disk)?;
        let is_unused = |one: &&Segment<D::File>| {
            let base = one.header.base;
            chain.iter().all(|kept| kept.header.base != base)
        };
        let others = chain.iter().chain(found.iter().filter(is_unused));
        let (header, file) = make_ready_in_any_room(&disk, header, others)?;
        let spares = adopt_spares(&disk, options.segment_bytes_max)?;
        if file.is_some() {
            remove_unused(&disk, &chain, base)?;
        }
        report.segments = chain.len();
        chain.push(Segment {
            file,
            ..Segment::planned(header)
        });
        let base = Base {
            root,
            root_file,
            spares,
        };
        let log = Self::open(disk, log_id, options, chain, link, base);
        report.end = end;
        report.next = log.appended();
        Ok((log, report))
    }
}

/// All segments in the directory, ascending.
fn load_segments<D: Disk>(disk: &D, log_id: LogId) -> Result<Vec<Segment<D::File>>, LogError> {
    let mut segments = Vec::new();
    for base in list_segments(disk)? {
        let (file, header) = open_segment(disk, base, Some(log_id))?;
        segments.push(Segment {
            file: Some(file),
            ..Segment::planned(header)
        });
    }
    Ok(segments)
}

/// The segments that make up the log: without those that an earlier recovery left unused. The end
/// of each is set to where it must end, or to its limit when that is not known. Those below the
/// log's start are left out.
fn chain<F: Clone>(found: &[Segment<F>], start: LogOffset) -> Result<Vec<Segment<F>>, LogError> {
    let mut chain: Vec<Segment<F>> = Vec::new();
    let in_use = found.iter().filter(|one| one.header.base >= start);
    for segment in in_use {
        let header = &segment.header;
        if header.base == start {
            // What came before has been retired.
        } else if let Some(end) = header.recovered {
            chain.retain(|earlier| earlier.header.base < end);
            let base = chain.last().map_or(start, |last| last.header.limit());
            let last = chain.last_mut().filter(|_| end <= base);
            let missing = LogError::MissingSegment { base, below: end };
            last.ok_or(missing)?.end = end;
        } else {
            let base = chain.last().map_or(start, |last| last.header.limit());
            if header.base != base {
                return Err(LogError::MissingSegment { base, below: base });
            }
        }
        let mut segment = segment.clone();
        segment.end = segment.header.limit();
        chain.push(segment);
    }
    if chain.is_empty() {
        return Err(LogError::MissingSegment {
            base: start,
            below: start,
        });
    }
    Ok(chain)
}

/// Makes a segment ready. When there is no room for it, the unused ends of others are given back,
/// as nothing is ever appended there, and the files that could become segments; then one of half
/// the size is tried, which still holds any record. No file when that is not enough: the segment is
/// prepared later, and until then the log can be read and nothing gets durable.
fn make_ready_in_any_room<'a, D: Disk<File: 'a>>(
    disk: &D,
    header: SegmentHeader,
    others: impl Iterator<Item = &'a Segment<D::File>>,
) -> Result<(SegmentHeader, Option<D::File>), LogError> {
    if let Some(file) = make_ready_if_room(disk, &header)? {
        return Ok((header, Some(file)));
    }
    for segment in others {
        let (from, limit) = (align_up(segment.end.0), segment.header.limit().0);
        if let Some(file) = &segment.file
            && from < limit
        {
            // What can't be given back is missed below.
            drop(file.discard(segment.position(LogOffset(from)), limit - from));
        }
    }
    remove_named(disk, "spare-")?;
    if let Some(file) = make_ready_if_room(disk, &header)? {
        return Ok((header, Some(file)));
    }
    let size = align_up(header.size / 2);
    let half = SegmentHeader { size, ..header };
    Ok(match make_ready_if_room(disk, &half)? {
        Some(file) => (half, Some(file)),
        None => (header, None),
    })
}

fn make_ready_if_room<D: Disk>(
    disk: &D,
    header: &SegmentHeader,
) -> Result<Option<D::File>, LogError> {
    match make_ready(disk, header) {
        Err(error) if error.is_shortage() => {
            remove_unfinished(disk)?;
            Ok(None)
        }
        other => Ok(Some(other?)),
    }
}

/// Removes what a crash left of segments that were being prepared.
fn remove_unfinished<D: Disk>(disk: &D) -> Result<(), LogError> {
    remove_named(disk, "prepare-")
}

fn remove_named<D: Disk>(disk: &D, prefix: &str) -> Result<(), LogError> {
    for name in disk.list()? {
        if name.starts_with(prefix) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

/// Removes segments that hold nothing of the log, now that the new one says so.
fn remove_unused<D: Disk>(
    disk: &D,
    chain: &[Segment<D::File>],
    new: LogOffset,
) -> Result<(), LogError> {
    for base in list_segments(disk)? {
        if base != new && chain.iter().all(|kept| kept.header.base != base) {
            disk.remove(&segment_name(base))?;
        }
    }
    disk.sync_dir()?;
    Ok(())
}

/// The walk over the segments of a log.
struct Recovery<F> {
    chain: Vec<Segment<F>>,
    replay_from: LogOffset,
    /// Where the log begins.
    start: LogOffset,
    /// Segments before this one were not walked.
    first: usize,
    /// The last frame, and where the next one is expected.
    link: Link,
    /// Whether `link` is known, so that the next frame must name it.
    is_linked: bool,
    end: LogOffset,
    report: RecoveryReport,
}

/// Where the walk through one segment stopped.
struct Stop {
    at: LogOffset,
    reason: Mismatch,
}

impl<F: DiskFile> Recovery<F> {
    fn new(chain: Vec<Segment<F>>, replay_from: LogOffset, start: LogOffset) -> Self {
        Self {
            chain,
            replay_from,
            start,
            first: 0,
            link: Link::default(),
            is_linked: false,
            end: LogOffset(0),
            report: RecoveryReport::default(),
        }
    }

    fn run(
        &mut self,
        sink: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let first = self.first()?;
        self.first = first;
        self.is_linked = first == 0 && self.start == LogOffset(0);
        for number in first..self.chain.len() {
            let Some(mut walker) = self.walker(number) else {
                continue;
            };
            let stop = self.walk(&mut walker, number, sink)?;
            if let Some(segment) = self.chain.get_mut(number) {
                segment.end = stop.at;
            }
            self.end = stop.at;
            if self.is_over(&mut walker, number, &stop)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Leaves out segments that earlier recoveries have begun and nobody has written to, so that
    /// restarts alone take no space. The first one stays: the root names it.
    fn drop_empty(&mut self) {
        self.chain.retain(|segment| segment.header.base < self.end);
        while self.chain.len() > 1
            && let Some(last) = self.chain.last()
            && let Some(end) = last.header.recovered
            && last.end == last.header.first_frame()
        {
            self.end = end;
            self.chain.pop();
        }
    }

    fn date(&mut self, number: usize, stamp: u64) {
        if let Some(segment) = self.chain.get_mut(number) {
            segment.newest_stamp = segment.newest_stamp.max(stamp);
        }
    }

    fn oldest_stamp(&self) -> Result<Option<u64>, LogError> {
        for number in 0..self.chain.len() {
            let frame = self.first_frame(number)?;
            let records = frame.iter().flat_map(Frame::records);
            let stamps = records.map(|record| record.stamp);
            if let Some(stamp) = stamps.filter(|stamp| *stamp > 0).min() {
                return Ok(Some(stamp));
            }
        }
        Ok(None)
    }

    /// The newest stamps of segments that were not walked: stamps grow, so the first one behind a
    /// segment bounds all in it.
    fn date_segments(&mut self) -> Result<(), LogError> {
        for number in (0..self.first.min(self.chain.len())).rev() {
            let frame = self.first_frame(number + 1)?;
            let stamps = frame
                .iter()
                .flat_map(|one| one.records().map(|record| record.stamp));
            let first = stamps.filter(|stamp| *stamp > 0).min();
            let behind = self
                .chain
                .get(number + 1)
                .map_or(0, |next| next.newest_stamp);
            self.date(number, first.unwrap_or(behind));
        }
        Ok(())
    }

    /// The segment to begin with: the one that holds `replay_from`, or the one before when that
    /// one was never written. The ends of all earlier ones are found by their successors' links.
    fn first(&mut self) -> Result<usize, LogError> {
        let after = self
            .chain
            .partition_point(|segment| segment.header.base <= self.replay_from);
        let mut first = after.saturating_sub(1);
        while first > 0 && self.first_frame(first)?.is_none() {
            first -= 1;
        }
        for number in (1..=first).rev() {
            let is_recovered = self
                .chain
                .get(number)
                .is_some_and(|next| next.header.recovered.is_some());
            if is_recovered {
                continue;
            }
            let link = self.first_frame(number)?.map(|frame| frame.header.previous);
            let end = match (link, self.walker(number - 1)) {
                (Some(link), Some(mut walker)) => self.end_of(&mut walker, link)?,
                _ => continue,
            };
            if let Some(segment) = self.chain.get_mut(number - 1) {
                segment.end = end;
            }
        }
        Ok(first)
    }

    /// The end of the segment whose last frame `link` names.
    fn end_of(&self, walker: &mut Walker<F>, link: Link) -> Result<LogOffset, LogError> {
        let header = walker.header;
        if link.offset < header.first_frame() || link.offset >= header.limit() {
            let mismatch = Mismatch::new(
                "offset of the last frame",
                header.first_frame().0,
                link.offset.0,
            );
            return Err(LogError::damaged(segment_name(header.base), 0, mismatch));
        }
        match walker.frame_header(link.offset)? {
            Ok((frame, crc)) if crc == link.crc => Ok(frame.end()),
            Ok((_, crc)) => {
                let mismatch =
                    Mismatch::new("CRC of the last frame", u64::from(link.crc), u64::from(crc));
                Err(damage(&header, link.offset, mismatch))
            }
            Err(mismatch) => Err(damage(&header, link.offset, mismatch)),
        }
    }

    fn walker(&self, number: usize) -> Option<Walker<F>> {
        let segment = self.chain.get(number)?;
        Some(Walker::new(segment.file.clone()?, segment.header))
    }

    fn first_frame(&self, number: usize) -> Result<Option<Frame>, LogError> {
        let Some(mut walker) = self.walker(number) else {
            return Ok(None);
        };
        let at = walker.header.first_frame();
        Ok(walker.frame(at)?.ok())
    }

    /// Hands on the frames of one segment, up to its known end or the first that is none.
    fn walk(
        &mut self,
        walker: &mut Walker<F>,
        number: usize,
        sink: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<Stop, LogError> {
        let limit = self
            .chain
            .get(number)
            .map_or(LogOffset(0), |segment| segment.end);
        let mut at = walker.header.first_frame();
        while at < limit {
            let frame = match walker.frame(at)?.and_then(|frame| self.follows(frame)) {
                Ok(frame) => frame,
                Err(reason) => return Ok(Stop { at, reason }),
            };
            self.link = Link {
                offset: at,
                crc: frame.crc,
            };
            self.is_linked = true;
            self.report.frames += 1;
            for record in frame.records() {
                self.date(number, record.stamp);
                if record.address.1 >= self.replay_from {
                    self.report.records += 1;
                    sink(record)?;
                }
            }
            at = frame.header.next();
        }
        Ok(Stop {
            at,
            reason: Mismatch::new("end of a segment", limit.0, at.0),
        })
    }

    /// Whether the frame names the last one as its predecessor.
    fn follows(&self, frame: Frame) -> Result<Frame, Mismatch> {
        let previous = frame.header.previous;
        if self.is_linked && previous != self.link {
            let (expected, got) = (self.link.offset.0, previous.offset.0);
            return Err(Mismatch::new("previous frame of a frame", expected, got));
        }
        Ok(frame)
    }

    /// Whether the log ends where the walk has stopped, rather than going on in the next segment.
    fn is_over(
        &mut self,
        walker: &mut Walker<F>,
        number: usize,
        stop: &Stop,
    ) -> Result<bool, LogError> {
        let next = self.chain.get(number + 1).map(|segment| segment.header);
        let recovered = next.and_then(|header| header.recovered);
        if let Some(expected) = recovered {
            // An earlier recovery has read up to here.
            if stop.at != expected {
                return Err(damage(&walker.header, stop.at, stop.reason));
            }
            return Ok(false);
        }
        let first = self.first_frame(number + 1)?;
        if first.is_some_and(|frame| frame.header.previous == self.link) {
            return Ok(false);
        }
        self.check_claims(walker, number, stop)?;
        self.report.is_torn = stop.at < walker.header.limit() && walker.is_torn_at(stop.at)?;
        Ok(true)
    }

    /// Fails when any frame, or recovery, above the stop says that the place of the stop was
    /// durable.
    fn check_claims(
        &self,
        walker: &mut Walker<F>,
        number: usize,
        stop: &Stop,
    ) -> Result<(), LogError> {
        let mut is_claimed = is_claimed(walker, stop.at, stop.at)?;
        for later in number + 1..self.chain.len() {
            let header = self.chain.get(later).map(|segment| segment.header);
            let recovered = header.and_then(|header| header.recovered);
            is_claimed |= recovered.is_some_and(|end| end > stop.at);
            if let Some(mut walker) = self.walker(later) {
                let from = walker.header.first_frame();
                is_claimed |= self::is_claimed(&mut walker, from, stop.at)?;
            }
        }
        if is_claimed {
            return Err(self.damage_at(walker, number, stop)?);
        }
        Ok(())
    }

    /// What is damaged, when more than the stop was durable: the first frame of the next segment,
    /// when nothing was written at the stop and that frame cannot be read; else what is there.
    fn damage_at(
        &self,
        walker: &mut Walker<F>,
        number: usize,
        stop: &Stop,
    ) -> Result<LogError, LogError> {
        if !walker.is_written_at(stop.at)?
            && let Some(mut next) = self.walker(number + 1)
        {
            let first = next.header.first_frame();
            if let Err(reason) = next.frame(first)? {
                return Ok(damage(&next.header, first, reason));
            }
        }
        Ok(damage(&walker.header, stop.at, stop.reason))
    }

    /// Makes durable what was read: a frame that was written but not synced counts from now on.
    fn sync(&self) -> Result<(), LogError> {
        for segment in &self.chain {
            if let Some(file) = &segment.file {
                file.sync()?;
            }
        }
        Ok(())
    }
}

/// Whether a frame at or above `from` says that more than `stop` was durable.
fn is_claimed<F: DiskFile>(
    walker: &mut Walker<F>,
    from: LogOffset,
    stop: LogOffset,
) -> Result<bool, LogError> {
    let mut at = from;
    while let Some(header) = walker.find_header(at)? {
        if header.durable_upto > stop {
            return Ok(true);
        }
        at = header.offset.plus(8);
    }
    Ok(false)
}

fn damage(header: &SegmentHeader, at: LogOffset, mismatch: Mismatch) -> LogError {
    LogError::damaged(
        segment_name(header.base),
        at.0.saturating_sub(header.base.0),
        mismatch,
    )
}
