//! What goes wrong in a log, with the file, the place, and what was expected there.

use std::fmt;

use storage_io::DiskError;

use crate::LogOffset;
use crate::record::Mismatch;
use crate::segment::{FORMAT_VERSION, segment_name};

/// Why a log refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogError {
    /// The disk failed at start-up or in a read.
    Disk(DiskError),
    /// A write or a sync failed: what is on disk is not known, and no retry makes it known. The
    /// caller ends the process; the next start recovers from what is there.
    Poisoned(DiskError),
    /// Bytes that were durable are not what was written.
    Damaged {
        /// The segment's file.
        file: String,
        /// Byte offset in the file.
        position: u64,
        /// What was looked at.
        what: &'static str,
        /// What it should have been.
        expected: u64,
        /// What it was.
        got: u64,
    },
    /// A segment was written by another version of this program.
    UnknownVersion {
        /// The segment's file.
        file: String,
        /// The format version in it.
        found: u32,
    },
    /// A segment file that must be there is not.
    MissingSegment {
        /// Its first offset, which is in its name: right behind the segments that are there.
        base: LogOffset,
        /// When above `base`: the missing one may be a later one, with a base below this.
        below: LogOffset,
    },
    /// The log ends below an offset that was durable.
    EndsEarly {
        /// Where it ends.
        end: LogOffset,
        /// What was durable.
        expected: LogOffset,
    },
    /// No record begins at an offset that was asked for.
    NoRecord {
        /// The offset.
        at: LogOffset,
    },
    /// The record at an offset is gone: the log's start has passed it.
    Retired {
        /// The offset.
        at: LogOffset,
        /// Where the log begins now.
        start: LogOffset,
    },
    /// The receiver of recovered records refused one.
    Refused {
        /// The record.
        at: LogOffset,
        /// Its reason.
        reason: String,
    },
}

impl LogError {
    pub(crate) fn damaged(file: String, position: u64, mismatch: Mismatch) -> Self {
        let Mismatch {
            what,
            expected,
            got,
        } = mismatch;
        Self::Damaged {
            file,
            position,
            what,
            expected,
            got,
        }
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "the log's disk failed: {error}"),
            Self::Poisoned(error) => {
                write!(
                    f,
                    "the log is stopped because a write or sync failed: {error}"
                )
            }
            Self::Damaged {
                file,
                position,
                what,
                expected,
                got,
            } => write!(
                f,
                "{file} is damaged at byte {position}: {what} should be {expected} ({expected:#x}) \
                 and is {got} ({got:#x})"
            ),
            Self::UnknownVersion { file, found } => write!(
                f,
                "{file} has format version {found}; this program reads version {FORMAT_VERSION}"
            ),
            Self::MissingSegment { base, below } => {
                write!(f, "{} is missing", segment_name(*base))?;
                if below > base {
                    write!(f, ", or a later segment that begins below offset {below}")?;
                }
                Ok(())
            }
            Self::EndsEarly { end, expected } => write!(
                f,
                "the log ends at offset {end}, but everything below {expected} was durable"
            ),
            Self::NoRecord { at } => write!(f, "the log has no record at offset {at}"),
            Self::Retired { at, start } => write!(
                f,
                "the record at offset {at} has been retired: the log begins at {start}"
            ),
            Self::Refused { at, reason } => {
                write!(f, "the record at offset {at} can't be replayed: {reason}")
            }
        }
    }
}

impl std::error::Error for LogError {}

impl From<DiskError> for LogError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}
