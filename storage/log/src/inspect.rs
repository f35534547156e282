//! Looking at a log that nobody has open: every segment, frame and record, and all damage.

use std::collections::VecDeque;

use storage_io::Disk;

use crate::root::start_of;
use crate::segment::segment_name;
use crate::walk::{Frame, Walker, list_segments, open_segment};
use crate::{LogError, LogId, LogOffset, Record};

/// One thing that an [`Inspection`] has come across.
#[derive(Clone, Debug)]
pub enum Finding {
    /// The log begins here: what was below has been retired.
    Start(LogOffset),
    /// A segment begins.
    Segment {
        /// Its file.
        file: String,
        /// The log it belongs to.
        log_id: LogId,
        /// Its first offset.
        base: LogOffset,
        /// Its size in bytes.
        size: u64,
        /// Where the log ended before, when a recovery made this segment.
        recovered: Option<LogOffset>,
    },
    /// A valid frame; its records follow.
    Frame {
        /// Its offset.
        offset: LogOffset,
        /// The address after its last record.
        end: LogOffset,
        /// How many records it has.
        records: u32,
        /// What was durable when it was written.
        durable_upto: LogOffset,
    },
    /// A valid record.
    Record(Record),
    /// The written part of a segment ends here. Bytes behind it, if any, are a write that was cut
    /// short: nothing valid follows.
    End {
        /// The segment's file.
        file: String,
        /// Byte offset in the file.
        position: u64,
        /// Whether bytes that are not zero lie there.
        is_torn: bool,
    },
    /// Something is wrong; the inspection goes on behind it where it can.
    Damage(LogError),
}

/// The contents of a directory, one finding after the other.
#[derive(Debug)]
pub struct Inspection<D: Disk> {
    disk: D,
    bases: VecDeque<LogOffset>,
    ready: VecDeque<Finding>,
    current: Option<(Walker<D::File>, LogOffset)>,
}

/// Begins an inspection of the log in `disk`. It changes nothing.
///
/// # Errors
/// When the directory can't be listed.
pub fn inspect<D: Disk>(disk: D) -> Result<Inspection<D>, LogError> {
    let start = start_of(&disk);
    let below = start.as_ref().map_or(LogOffset(0), |start| *start);
    let bases = list_segments(&disk)?;
    let bases = bases.into_iter().filter(|base| *base >= below).collect();
    let first = match start {
        Ok(LogOffset(0)) => None,
        Ok(start) => Some(Finding::Start(start)),
        Err(error) => Some(Finding::Damage(error)),
    };
    Ok(Inspection {
        disk,
        bases,
        ready: first.into_iter().collect(),
        current: None,
    })
}

impl<D: Disk> Iterator for Inspection<D> {
    type Item = Finding;

    fn next(&mut self) -> Option<Finding> {
        loop {
            if let Some(finding) = self.ready.pop_front() {
                return Some(finding);
            }
            if let Some((mut walker, at)) = self.current.take() {
                let next = self.frame(&mut walker, at);
                self.current = next.map(|at| (walker, at));
            } else {
                let base = self.bases.pop_front()?;
                self.segment(base);
            }
        }
    }
}

impl<D: Disk> Inspection<D> {
    fn segment(&mut self, base: LogOffset) {
        match open_segment(&self.disk, base, None) {
            Ok((file, header)) => {
                self.ready.push_back(Finding::Segment {
                    file: segment_name(base),
                    log_id: header.log_id,
                    base,
                    size: header.size,
                    recovered: header.recovered,
                });
                self.current = Some((Walker::new(file, header), header.first_frame()));
            }
            Err(error) => self.ready.push_back(Finding::Damage(error)),
        }
    }

    /// Looks at `at`; returns where to go on in the same segment.
    fn frame(&mut self, walker: &mut Walker<D::File>, at: LogOffset) -> Option<LogOffset> {
        let header = walker.header;
        if at >= header.limit() {
            return None;
        }
        let failed = match walker.frame(at) {
            Ok(Ok(frame)) => return Some(self.found(&frame)),
            Ok(Err(mismatch)) => mismatch,
            Err(error) => {
                self.ready.push_back(Finding::Damage(error.into()));
                return None;
            }
        };
        let (file, position) = (segment_name(header.base), at.0 - header.base.0);
        match walker.find_header(at.plus(8)) {
            Ok(Some(next)) => {
                self.ready
                    .push_back(Finding::Damage(LogError::damaged(file, position, failed)));
                Some(next.offset)
            }
            Ok(None) => {
                let is_torn = walker.is_torn_at(at).unwrap_or(true);
                self.ready.push_back(Finding::End {
                    file,
                    position,
                    is_torn,
                });
                None
            }
            Err(error) => {
                self.ready.push_back(Finding::Damage(error.into()));
                None
            }
        }
    }

    fn found(&mut self, frame: &Frame) -> LogOffset {
        let header = &frame.header;
        self.ready.push_back(Finding::Frame {
            offset: header.offset,
            end: header.end(),
            records: header.records,
            durable_upto: header.durable_upto,
        });
        self.ready.extend(frame.records().map(Finding::Record));
        header.next()
    }
}
