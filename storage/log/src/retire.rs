//! The end of segments: the log's start moves up, and what lies below is given back.
//!
//! In order: the new start is durable in the root ([`Log::retire`]); whoever refers to the log
//! lets go of what lies below ([`Log::start`] tells when); then [`Log::release`] takes the files
//! out of use: some get the name of a spare, to become segments again, the others are removed. A
//! crash between any two steps leaves files below the start, which the next recovery removes.
//!
//! A spare becomes a segment when its name is durable, its header (with a new base and nonce) has
//! been written and synced, and it has its new name. What it held before stays in it and is never
//! taken for a frame: a frame names its own offset, and no offset is used twice.

use storage_io::{Disk, DiskError, DiskFile, DiskQueue, Done, Op};

use crate::root::RootState;
use crate::segment::{Segment, spare_name};
use crate::{Log, LogError, LogOffset};

/// Spares that are kept at most. One is in use while the next segment is not due yet.
const SPARES_MAX: usize = 2;

/// One segment, as [`Log::segments`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first offset.
    pub base: LogOffset,
    /// Bytes that its file takes.
    pub size: u64,
    /// The highest stamp of its records; 0 when none is known.
    pub newest_stamp: u64,
}

/// A file that was a segment and may become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) size: u64,
    /// Its name is durable.
    pub(crate) is_named: bool,
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retiring {
    /// The root is being written.
    Root { token: u64, state: RootState },
    /// The names of spares are being made durable.
    Names { token: u64 },
}

impl<D: Disk> Log<D> {
    /// Where the log begins: nothing below is read any more.
    #[must_use]
    pub const fn start(&self) -> LogOffset {
        self.root.start
    }

    /// The segments in use, oldest first; the last one that has a record is among them.
    pub fn segments(&self) -> impl Iterator<Item = SegmentInfo> + '_ {
        let made = self.segments.iter().filter(|one| one.file.is_some());
        made.map(|segment| SegmentInfo {
            base: segment.header.base,
            size: segment.header.size,
            newest_stamp: segment.newest_stamp,
        })
    }

    /// The highest start that the log could have now: the base of the segment that was written
    /// last, when everything below is on the device.
    #[must_use]
    pub fn retirable(&self) -> LogOffset {
        let last = self.segments.get(self.written_segment);
        let base = last.map_or(LogOffset(0), |segment| segment.header.base);
        if self.synced() >= base && self.written_segment <= self.head_segment() {
            base
        } else {
            self.start()
        }
    }

    /// Begins to move the start to the base of a segment, at most [`Log::retirable`]. False, and
    /// nothing happens, when it is none, or when an earlier move is under way. The caller has seen
    /// to it that nothing below is needed.
    pub fn retire(&mut self, start: LogOffset, queue: &mut impl DiskQueue<D::File>) -> bool {
        let is_base = self.segments.iter().any(|one| one.header.base == start);
        let is_above = start > self.start() && start <= self.retirable();
        if !is_base || !is_above || self.retiring.is_some() || !self.retired.is_empty() {
            return false;
        }
        let state = self.root.next(start);
        let token = self.next_token();
        let (offset, buf) = state.encode();
        self.retiring = Some(Retiring::Root { token, state });
        let file = self.root_file.clone();
        queue.submit(
            token,
            Op::Write {
                file,
                offset,
                buf,
                sync: true,
            },
        );
        true
    }

    /// Whether the start is being moved, or files below it are still there.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.retiring.is_some() || !self.retired.is_empty()
    }

    /// Gives back the files below the start. Those that can become segments are kept, unless the
    /// disk has no room for them. Does nothing while there are none, or an operation is under way.
    ///
    /// # Errors
    /// [`LogError::Poisoned`] when the disk fails.
    pub fn release(
        &mut self,
        keeps_spares: bool,
        queue: &mut impl DiskQueue<D::File>,
    ) -> Result<(), LogError> {
        if let Some(error) = &self.poisoned {
            return Err(LogError::Poisoned(error.clone()));
        }
        if self.retiring.is_some() || self.retired.is_empty() {
            return Ok(());
        }
        let retired = std::mem::take(&mut self.retired);
        let mut any_file = None;
        for segment in retired {
            let released = self.release_one(&segment, keeps_spares);
            released.map_err(|error| self.poison(error))?;
            any_file = segment.file.or(any_file);
        }
        if !keeps_spares {
            for spare in std::mem::take(&mut self.spares) {
                let removed = self.disk.remove(&spare.name);
                removed.map_err(|error| self.poison(error))?;
            }
        }
        if let Some(file) = any_file {
            let token = self.next_token();
            self.retiring = Some(Retiring::Names { token });
            queue.submit(token, Op::SyncDir { file });
        }
        Ok(())
    }

    fn release_one(
        &mut self,
        segment: &Segment<D::File>,
        keeps_spares: bool,
    ) -> Result<(), DiskError> {
        let header = &segment.header;
        let name = segment.name();
        let is_useful = header.size == self.next_size();
        if !keeps_spares || !is_useful || self.spares.len() >= SPARES_MAX {
            return self.disk.remove(&name);
        }
        let spare = Spare {
            name: spare_name(header.base),
            size: header.size,
            is_named: false,
        };
        self.disk.rename(&name, &spare.name)?;
        self.spares.push(spare);
        Ok(())
    }

    /// The size of segments that are yet to come.
    fn next_size(&self) -> u64 {
        let last = self.segments.last().map_or(0, |last| last.header.size);
        (2 * last).min(self.options.segment_bytes_max)
    }

    /// A file that can become a segment of so many bytes.
    pub(crate) fn take_spare(&mut self, size: u64) -> Option<Spare> {
        let usable = |spare: &Spare| spare.is_named && spare.size == size;
        let place = self.spares.iter().position(usable)?;
        Some(self.spares.remove(place))
    }

    /// Whether the operation is one of these.
    pub(crate) fn owns_retiring(&self, token: u64) -> bool {
        match self.retiring {
            Some(Retiring::Root { token: own, .. } | Retiring::Names { token: own }) => {
                own == token
            }
            None => false,
        }
    }

    /// Takes the end of the operation under way.
    pub(crate) fn retirement_landed(
        &mut self,
        result: Result<Done, DiskError>,
    ) -> Result<(), DiskError> {
        let retiring = self.retiring.take();
        result?;
        match retiring {
            Some(Retiring::Root { state, .. }) => {
                self.root = state;
                self.forget_segments();
                self.cache.forget_below(state.start);
            }
            Some(Retiring::Names { .. }) => {
                for spare in &mut self.spares {
                    spare.is_named = true;
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Takes the segments below the start out of the list; all others are numbered anew.
    fn forget_segments(&mut self) {
        let start = self.start();
        let count = self
            .segments
            .partition_point(|segment| segment.header.base < start);
        self.retired = self.segments.drain(..count).collect();
        self.renumber(count);
    }
}

/// Makes spares of an earlier life usable again, or removes them. Blocks, at a start; the caller
/// syncs the directory.
pub(crate) fn adopt_spares<D: Disk>(disk: &D, size: u64) -> Result<Vec<Spare>, LogError> {
    let mut spares = Vec::new();
    for name in disk.list()? {
        if !name.starts_with("spare-") {
            continue;
        }
        let is_whole = disk.open(&name)?.len()? == size;
        if is_whole && spares.len() < SPARES_MAX {
            let is_named = true;
            spares.push(Spare {
                name,
                size,
                is_named,
            });
        } else {
            disk.remove(&name)?;
        }
    }
    Ok(spares)
}
