//! What goes wrong at the disk, with the file and the offset.

use std::fmt;
use std::io;

/// What was being done when a [`DiskError`] happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A directory was opened, created, listed or locked.
    Directory,
    /// A file was created.
    Create,
    /// A file was opened.
    Open,
    /// A file was removed.
    Remove,
    /// A file was renamed.
    Rename,
    /// A block was read.
    Read,
    /// A block was written.
    Write,
    /// The length of a file was read or set.
    Length,
    /// The room of the file system was asked for.
    Space,
    /// The contents of a file were made durable.
    Sync,
    /// The names in a directory were made durable.
    SyncDirectory,
}

impl Operation {
    const fn words(self) -> &'static str {
        match self {
            Self::Directory => "use the directory",
            Self::Create => "create",
            Self::Open => "open",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Read => "read",
            Self::Write => "write",
            Self::Length => "read or set the length of",
            Self::Space => "tell the room at",
            Self::Sync => "sync",
            Self::SyncDirectory => "sync the directory of",
        }
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such file.
    NotFound,
    /// The file exists already.
    Exists,
    /// The device or the quota is full.
    NoSpace,
    /// The process, or the system, may open no more files.
    NoDescriptors,
    /// The file system refuses direct I/O (`O_DIRECT`).
    NoDirectIo,
    /// Another process holds the lock of the data directory.
    Locked,
    /// The file ended after so many bytes of what was asked for.
    Short {
        /// Bytes that were there.
        got: usize,
        /// Bytes asked for.
        expected: usize,
    },
    /// A fault that a simulation injected.
    Injected,
    /// Anything else that the system says.
    System {
        /// The error number, 0 when the system gave none.
        number: i32,
        /// The system's words.
        text: String,
    },
}

/// A disk operation that failed: what, where, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// The file or directory.
    pub file: String,
    /// What was tried.
    pub operation: Operation,
    /// Byte offset in the file; 0 where the operation has none.
    pub offset: u64,
    /// Why it failed.
    pub kind: ErrorKind,
}

impl DiskError {
    /// An error at `offset` of `file`.
    #[must_use]
    pub fn new(file: &str, operation: Operation, offset: u64, kind: ErrorKind) -> Self {
        Self {
            file: file.to_owned(),
            operation,
            offset,
            kind,
        }
    }

    /// The same with the reason taken from the system's error.
    #[must_use]
    pub fn system(file: &str, operation: Operation, offset: u64, error: &io::Error) -> Self {
        let kind = error.kind();
        let kind = if kind == io::ErrorKind::NotFound {
            ErrorKind::NotFound
        } else if kind == io::ErrorKind::AlreadyExists {
            ErrorKind::Exists
        } else if matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            ErrorKind::NoSpace
        } else if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
            ErrorKind::NoDescriptors
        } else {
            let number = error.raw_os_error().unwrap_or(0);
            ErrorKind::System {
                number,
                text: error.to_string(),
            }
        };
        Self::new(file, operation, offset, kind)
    }

    /// Whether the device is full, which space that becomes free cures.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        self.kind == ErrorKind::NoSpace
    }

    /// Whether something ran out that comes back by itself: space, or descriptors. What nothing was
    /// promised about may be tried again. A write that was cut short has met a full device: the
    /// next one would say so.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        match self.kind {
            ErrorKind::NoSpace | ErrorKind::NoDescriptors => true,
            ErrorKind::Short { .. } => self.operation == Operation::Write,
            ErrorKind::NotFound
            | ErrorKind::Exists
            | ErrorKind::NoDirectIo
            | ErrorKind::Locked
            | ErrorKind::Injected
            | ErrorKind::System { .. } => false,
        }
    }

    /// Whether the file is missing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("it does not exist"),
            Self::Exists => f.write_str("it exists already"),
            Self::NoSpace => f.write_str("no space is left on the device"),
            Self::NoDescriptors => f.write_str(
                "too many open files: the limit of descriptors is reached (`ulimit -n`)",
            ),
            Self::NoDirectIo => f.write_str(
                "the file system refuses direct I/O (O_DIRECT); put the data directory on a \
                 file system that has it, such as ext4 or xfs",
            ),
            Self::Locked => f.write_str("another process uses this data directory"),
            Self::Short { got, expected } => {
                write!(f, "the file ended after {got} of {expected} bytes")
            }
            Self::Injected => f.write_str("a fault was injected"),
            Self::System { number, text } => write!(f, "{text} (error number {number})"),
        }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            operation,
            offset,
            kind,
        } = self;
        write!(
            f,
            "cannot {} {file} at byte {offset}: {kind}",
            operation.words()
        )
    }
}

impl std::error::Error for DiskError {}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> Self {
        let kind = match error.kind {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Exists => io::ErrorKind::AlreadyExists,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Short { .. } => io::ErrorKind::UnexpectedEof,
            ErrorKind::NoDirectIo
            | ErrorKind::NoDescriptors
            | ErrorKind::Locked
            | ErrorKind::Injected
            | ErrorKind::System { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_tells_what_where_and_why() {
        let kind = ErrorKind::Short {
            got: 512,
            expected: 4096,
        };
        let error = DiskError::new("segment-0", Operation::Read, 8192, kind);
        assert_eq!(
            error.to_string(),
            "cannot read segment-0 at byte 8192: the file ended after 512 of 4096 bytes"
        );
    }

    #[test]
    fn system_errors_keep_their_meaning() {
        let full = io::Error::from_raw_os_error(28);
        assert!(DiskError::system("f", Operation::Write, 0, &full).is_no_space());
        let gone = io::Error::from_raw_os_error(2);
        assert!(DiskError::system("f", Operation::Open, 0, &gone).is_not_found());
    }

    #[test]
    fn shortages_are_what_may_pass() {
        let system = |number| {
            let error = io::Error::from_raw_os_error(number);
            DiskError::system("f", Operation::Write, 0, &error)
        };
        for number in [libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE] {
            assert!(system(number).is_shortage(), "{number}");
        }
        for number in [libc::EIO, libc::EROFS, libc::ENOENT] {
            assert!(!system(number).is_shortage(), "{number}");
        }
        let kind = ErrorKind::Short {
            got: 512,
            expected: 4096,
        };
        assert!(DiskError::new("f", Operation::Write, 0, kind.clone()).is_shortage());
        assert!(!DiskError::new("f", Operation::Read, 0, kind).is_shortage());
    }
}
