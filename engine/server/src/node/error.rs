//! What can go wrong with a data directory, at the start and later.

use std::fmt;

use engine_shard::RestoreError;
use storage_io::DiskError;
use storage_log::LogError;
use storage_queue::IndexError;
use storage_state::StateError;

/// Why a shard cannot go on: the process has to end, recovery at the next start does the rest.
#[derive(Debug)]
#[non_exhaustive]
pub enum CoreError {
    /// The commit log failed; it is never retried.
    Log(LogError),
    /// The index failed.
    Index(IndexError),
    /// The state store failed.
    State(StateError),
    /// A read of the log failed.
    Read(DiskError),
}

impl fmt::Display for CoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(error) => write!(f, "commit log: {error}"),
            Self::Index(error) => write!(f, "index: {error}"),
            Self::State(error) => write!(f, "state store: {error}"),
            Self::Read(error) => write!(f, "reading the commit log: {error}"),
        }
    }
}

impl std::error::Error for CoreError {}

impl From<LogError> for CoreError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<IndexError> for CoreError {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<StateError> for CoreError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// Why a data directory cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk failed.
    Disk(DiskError),
    /// `node.meta` is there, and no copy in it can be read.
    Unreadable {
        /// The file.
        file: &'static str,
    },
    /// There are shards, and `node.meta`, which comes before them, is missing or empty.
    Lost {
        /// The file.
        file: &'static str,
    },
    /// The directory was written by another version of the format.
    Format {
        /// The file that says so.
        file: &'static str,
        /// The version that this build reads.
        expected: u32,
        /// The version found.
        got: u32,
    },
    /// One shard's files cannot be used.
    Shard {
        /// Which shard.
        shard: u8,
        /// What is wrong.
        error: CoreError,
    },
    /// One shard's state cannot be understood.
    Restore {
        /// Which shard.
        shard: u8,
        /// What is wrong.
        error: RestoreError,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => write!(f, "{error}"),
            Self::Unreadable { file } => write!(
                f,
                "{file}: neither of its two copies has a valid checksum; restore it from a backup"
            ),
            Self::Lost { file } => write!(
                f,
                "{file} is missing or empty, and there are shards: it says what they are; restore \
                 it from a backup"
            ),
            Self::Format {
                file,
                expected,
                got,
            } => write!(
                f,
                "{file}: the data directory has format version {got}, this build reads {expected}; \
                 use a build that knows it"
            ),
            Self::Shard { shard, error } => write!(f, "shard-{shard}: {error}"),
            Self::Restore { shard, error } => write!(f, "shard-{shard}: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<DiskError> for OpenError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}
