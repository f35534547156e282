//! What goes wrong with the index.

use std::fmt;

use storage_io::DiskError;
use storage_log::{LogId, LogOffset, QueueId};

/// An error of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IndexError {
    /// The disk failed. After a failed write or sync the index takes no more flushes: the process
    /// has to end, and recovery does the rest.
    Disk(DiskError),
    /// Bytes that were read back are not what was written. The run's range has to be read from the
    /// log again; opening the index arranges that.
    Damaged {
        /// The file.
        file: String,
        /// Byte offset of the damaged block in the file.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A run that the manifest lists is not there, or has another length.
    Missing {
        /// The file.
        file: String,
        /// Bytes that the manifest promises.
        expected: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// Neither slot of the manifest is readable, or it is gone although there are runs.
    Manifest {
        /// The file.
        file: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The files are of another format version.
    Format {
        /// The file.
        file: String,
        /// The version in the file.
        found: u16,
        /// The version this build writes.
        expected: u16,
    },
    /// The index belongs to another log.
    WrongLog {
        /// The file.
        file: String,
        /// The log named in the file.
        found: LogId,
        /// The log that was expected.
        expected: LogId,
    },
    /// An entry does not come in order: a caller's mistake, or a log with a record twice. The
    /// index is to be opened again.
    OutOfOrder {
        /// The queue.
        queue: QueueId,
        /// The queue offset of the entry.
        queue_offset: u64,
        /// The lowest queue offset that would be in order.
        expected: u64,
        /// The log offset of the entry.
        at: LogOffset,
        /// The lowest log offset that would be in order.
        last: LogOffset,
    },
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "queue index: {error}"),
            Self::Damaged {
                file,
                offset,
                reason,
            } => {
                write!(
                    f,
                    "the queue index file {file} is damaged at byte {offset}: {reason}"
                )
            }
            Self::Missing {
                file,
                expected,
                got,
            } => write!(
                f,
                "the queue index file {file} has {got} bytes, the manifest lists {expected}"
            ),
            Self::Manifest { file, reason } => {
                write!(
                    f,
                    "the queue index manifest {file} is not readable: {reason}"
                )
            }
            Self::Format {
                file,
                found,
                expected,
            } => write!(
                f,
                "the queue index file {file} has format version {found}, \
                 this build knows {expected}"
            ),
            Self::WrongLog {
                file,
                found,
                expected,
            } => {
                write!(
                    f,
                    "the queue index file {file} belongs to {found}, expected {expected}"
                )
            }
            Self::OutOfOrder {
                queue,
                queue_offset,
                expected,
                at,
                last,
            } => write!(
                f,
                "entry {queue_offset} of queue {} at log offset {at} is out of order: expected \
                 at least entry {expected} at {last}",
                queue.0
            ),
        }
    }
}

impl std::error::Error for IndexError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disk(error) => Some(error),
            Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::Manifest { .. }
            | Self::Format { .. }
            | Self::WrongLog { .. }
            | Self::OutOfOrder { .. } => None,
        }
    }
}

impl From<DiskError> for IndexError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}
