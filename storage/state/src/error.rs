//! What goes wrong with the state store.

use std::fmt;

use storage_io::DiskError;

use crate::SectionError;

/// An error of the state store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// The disk failed. After a failed write or sync the store takes nothing more: the process
    /// has to end, and recovery does the rest.
    Disk(DiskError),
    /// The file is there and is not a sound database. The caller may rebuild it from the logs.
    Unreadable {
        /// The file.
        file: String,
        /// What was found wrong, in redb's words.
        reason: String,
    },
    /// The file is of another format version. The caller may rebuild it from the logs.
    Format {
        /// The file.
        file: String,
        /// The version in the file.
        found: u64,
        /// The version this build writes.
        expected: u64,
    },
    /// A record of a log carries bytes that are no section of changes.
    Section {
        /// The log.
        log: u32,
        /// The offset behind the record.
        end: u64,
        /// What is wrong.
        error: SectionError,
    },
    /// A change does not come in log order.
    Order {
        /// The log.
        log: u32,
        /// The offset behind the record that came too late.
        end: u64,
        /// The offset up to which changes of this log were seen before.
        seen: u64,
    },
    /// The database refused an operation for a reason of its own.
    Database {
        /// What was being done.
        operation: &'static str,
        /// redb's words.
        reason: String,
    },
    /// The background thread has gone without an answer.
    WriterGone,
}

impl StateError {
    /// Whether deleting the file and replaying the logs cures it.
    #[must_use]
    pub const fn is_cured_by_rebuild(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::Format { .. })
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "state store: {error}"),
            Self::Unreadable { file, reason } => {
                write!(f, "the state store {file} is not readable: {reason}")
            }
            Self::Format {
                file,
                found,
                expected,
            } => write!(
                f,
                "the state store {file} has format version {found}, this build knows {expected}"
            ),
            Self::Section { log, end, error } => {
                write!(
                    f,
                    "the record of log {log} that ends at offset {end}: {error}"
                )
            }
            Self::Order { log, end, seen } => write!(
                f,
                "a state change of log {log} at offset {end} comes after one at offset {seen}"
            ),
            Self::Database { operation, reason } => {
                write!(f, "the state store cannot {operation}: {reason}")
            }
            Self::WriterGone => f.write_str("the thread that writes the state store has ended"),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disk(error) => Some(error),
            Self::Section { error, .. } => Some(error),
            Self::Unreadable { .. }
            | Self::Format { .. }
            | Self::Order { .. }
            | Self::Database { .. }
            | Self::WriterGone => None,
        }
    }
}

impl From<DiskError> for StateError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}
