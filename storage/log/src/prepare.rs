//! Making the next segment ready while the current one is written: zeroes in small steps through
//! the disk queue, so that a commit never waits for the file system to allocate blocks.
//!
//! The file has another name until it is complete and durable, so a crash on the way leaves
//! nothing that recovery could take for a segment. Creating and renaming are plain calls (tens of
//! microseconds); everything long goes through the queue.

use storage_io::{AlignedBuf, Disk, DiskError, DiskFile, DiskQueue, Done, Op};

use crate::address::index;
use crate::limits::FILL_BYTES;
use crate::retire::Spare;
use crate::segment::{SegmentHeader, prepare_name, segment_name};

/// A segment on its way to readiness.
#[derive(Debug)]
pub(crate) struct Preparation<D: Disk> {
    /// Which segment, by index.
    pub(crate) segment: usize,
    pub(crate) header: SegmentHeader,
    file: D::File,
    /// The file's name until it is ready.
    name: String,
    /// Bytes filled so far; the header's block too, so that writing it needs no space.
    filled: u64,
    stage: Stage,
    /// It is to be larger than what has been begun.
    wider: Option<SegmentHeader>,
    /// The operation under way.
    token: Option<u64>,
    zeroes: Option<AlignedBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Filling,
    /// The header is being written and all of it synced.
    Heading,
    /// The name is being made durable.
    Naming,
    Ready,
}

impl<D: Disk> Preparation<D> {
    /// Makes the segment from a file that was one before: its header is all that is written.
    pub(crate) fn again(
        disk: &D,
        segment: usize,
        header: SegmentHeader,
        spare: &Spare,
    ) -> Result<Self, DiskError> {
        Ok(Self {
            segment,
            header,
            file: disk.open(&spare.name)?,
            name: spare.name.clone(),
            filled: header.size,
            stage: Stage::Filling,
            wider: None,
            token: None,
            zeroes: None,
        })
    }

    pub(crate) fn new(disk: &D, segment: usize, header: SegmentHeader) -> Result<Self, DiskError> {
        let name = prepare_name(header.base);
        let file = match disk.create(&name) {
            // An attempt that ran out of something left it behind.
            Err(error) if error.kind == storage_io::ErrorKind::Exists => disk.open(&name)?,
            other => other?,
        };
        Ok(Self {
            segment,
            header,
            file,
            name,
            filled: 0,
            stage: Stage::Filling,
            wider: None,
            token: None,
            zeroes: None,
        })
    }

    /// Makes it the same segment with another size, which is larger.
    pub(crate) const fn widen(&mut self, header: SegmentHeader) {
        self.wider = Some(header);
    }

    /// Goes on with filling, up to the new size. A file that has its name already stays what it is,
    /// empty and whole, until another one takes its place.
    fn begin_wider(&mut self, disk: &D) -> Result<(), DiskError> {
        let Some(header) = self.wider else {
            return Ok(());
        };
        if matches!(self.stage, Stage::Naming | Stage::Ready) {
            *self = Self::new(disk, self.segment, header)?;
        }
        self.wider = None;
        self.header = header;
        self.stage = Stage::Filling;
        Ok(())
    }

    /// Whether `token` names the operation under way.
    pub(crate) fn owns(&self, token: u64) -> bool {
        self.token == Some(token)
    }

    /// Starts the next step, unless one is under way or `allowed` bytes are filled already.
    /// Returns the open file once the segment is ready.
    pub(crate) fn step(
        &mut self,
        disk: &D,
        queue: &mut impl DiskQueue<D::File>,
        allowed: u64,
        token: u64,
    ) -> Result<Option<D::File>, DiskError> {
        if self.token.is_some() {
            return Ok(None);
        }
        self.begin_wider(disk)?;
        let file = self.file.clone();
        let op = match self.stage {
            Stage::Filling if self.filled < self.header.size => {
                if self.filled > allowed {
                    return Ok(None);
                }
                let len = index(self.header.size - self.filled).min(FILL_BYTES);
                let mut buf = self
                    .zeroes
                    .take()
                    .unwrap_or_else(|| AlignedBuf::zeroed(len));
                buf.resize(len);
                Op::Write {
                    file,
                    offset: self.filled,
                    buf,
                    sync: false,
                }
            }
            Stage::Filling => {
                self.stage = Stage::Heading;
                Op::Write {
                    file,
                    offset: 0,
                    buf: self.header.encode(),
                    sync: true,
                }
            }
            Stage::Heading => {
                disk.rename(&self.name, &segment_name(self.header.base))?;
                self.stage = Stage::Naming;
                Op::SyncDir { file }
            }
            Stage::Naming => {
                let file = disk.open(&segment_name(self.header.base))?;
                self.stage = Stage::Ready;
                return Ok(Some(file));
            }
            Stage::Ready => return Ok(None),
        };
        self.token = Some(token);
        queue.submit(token, op);
        Ok(None)
    }

    /// Takes what came of the operation under way.
    ///
    /// # Errors
    /// The operation's. A fill that found no space may be tried again: nothing was promised.
    pub(crate) fn complete(&mut self, result: Result<Done, DiskError>) -> Result<(), DiskError> {
        self.token = None;
        if let Done::Written { buf } = result?
            && self.stage == Stage::Filling
        {
            self.filled += buf.len() as u64;
            self.zeroes = Some(buf);
        }
        Ok(())
    }

    /// Whether the next step takes room of the device.
    pub(crate) fn needs_room(&self) -> bool {
        self.wider.is_some() || self.stage == Stage::Filling && self.filled < self.header.size
    }

    /// Whether only zeroes were written so far, so that a failed write may be tried again.
    pub(crate) fn is_filling(&self) -> bool {
        self.stage == Stage::Filling
    }
}

/// Makes a segment ready at once, with blocking calls: at start-up.
pub(crate) fn make_ready<D: Disk>(disk: &D, header: &SegmentHeader) -> Result<D::File, DiskError> {
    let file = disk.create(&prepare_name(header.base))?;
    let zeroes = AlignedBuf::zeroed(FILL_BYTES);
    let mut filled = 0;
    while filled < header.size {
        let len = index(header.size - filled).min(FILL_BYTES);
        file.write_at(filled, zeroes.split_at(len).0)?;
        filled += len as u64;
    }
    file.write_at(0, &header.encode())?;
    file.sync()?;
    disk.rename(&prepare_name(header.base), &segment_name(header.base))?;
    disk.sync_dir()?;
    disk.open(&segment_name(header.base))
}
