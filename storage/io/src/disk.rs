//! The blocking half of the door: directories and files.
//!
//! A shard calls these at start-up and in offline tools only; its hot path goes through
//! [`DiskQueue`](crate::DiskQueue).

use std::fmt;

use crate::{AlignedBuf, DiskError, Space};

/// One directory of files.
///
/// Names contain no `/`. Creating, renaming and removing are visible at once, and durable after
/// [`Disk::sync_dir`].
pub trait Disk: Clone {
    /// A file of blocks in this directory.
    type File: DiskFile;

    /// The sub-directory `name`, created (durably) when it is missing.
    ///
    /// # Errors
    /// When the directory can't be created or opened.
    fn sub(&self, name: &str) -> Result<Self, DiskError>;

    /// A new, empty file for aligned reads and writes.
    ///
    /// # Errors
    /// When `name` exists, or the file system refuses direct I/O.
    fn create(&self, name: &str) -> Result<Self::File, DiskError>;

    /// An existing file for aligned reads and writes.
    ///
    /// # Errors
    /// When `name` does not exist, or the file system refuses direct I/O.
    fn open(&self, name: &str) -> Result<Self::File, DiskError>;

    /// The names of the files here, sorted; sub-directories are left out.
    ///
    /// # Errors
    /// When the directory can't be read.
    fn list(&self) -> Result<Vec<String>, DiskError>;

    /// Removes a file. Open files stay usable.
    ///
    /// # Errors
    /// When `name` does not exist.
    fn remove(&self, name: &str) -> Result<(), DiskError>;

    /// Gives the file `from` the name `to`, replacing a file that had it.
    ///
    /// # Errors
    /// When `from` does not exist.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Makes all names in this directory durable.
    ///
    /// # Errors
    /// When the sync fails: what was created, renamed or removed since the last one may be undone.
    fn sync_dir(&self) -> Result<(), DiskError>;

    /// The room of the file system that this directory is on.
    ///
    /// # Errors
    /// When the system can't tell.
    fn space(&self) -> Result<Space, DiskError>;

    /// Makes the file `name`, unless it is there, and takes `bytes` of the device for it at once:
    /// room that nobody else gets before the file is removed.
    ///
    /// # Errors
    /// When there is less room, or the file system can't do that; the file is removed then.
    fn set_aside(&self, name: &str, bytes: u64) -> Result<(), DiskError>;

    /// A file for unaligned access, opened or created: for the state store.
    ///
    /// # Errors
    /// When the file can't be opened or created.
    fn byte_file(&self, name: &str) -> Result<Box<dyn ByteFile>, DiskError>;
}

/// An open file that is read and written in whole blocks, past the page cache.
///
/// Clones share the open file. Offsets and lengths are multiples of [`ALIGN`](crate::ALIGN);
/// anything else is a bug of the caller and panics.
pub trait DiskFile: Clone {
    /// Reads exactly `len` bytes at `offset`.
    ///
    /// # Errors
    /// When the device fails, or the file ends before that.
    fn read_at(&self, offset: u64, len: usize) -> Result<AlignedBuf, DiskError>;

    /// Writes all of `bytes` at `offset`; durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// When the device fails or is full.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes all completed writes and the length durable.
    ///
    /// # Errors
    /// When that fails. What was written since the last sync that succeeded may be lost, whatever
    /// a second call says: never retry.
    fn sync(&self) -> Result<(), DiskError>;

    /// Gives `len` bytes at `offset` back to the device; they read as zeroes. The length of the
    /// file stays.
    ///
    /// # Errors
    /// When the file system can't do that.
    fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError>;

    /// The length in bytes.
    ///
    /// # Errors
    /// When the system can't tell.
    fn len(&self) -> Result<u64, DiskError>;

    /// Whether there are no bytes in it.
    ///
    /// # Errors
    /// As [`DiskFile::len`].
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// The name under which it was opened, for messages.
    fn name(&self) -> &str;
}

/// An open file with unaligned random access through the page cache: what the state store needs.
pub trait ByteFile: fmt::Debug + Send + Sync {
    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// When the device fails, or the file ends before that.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError>;

    /// Writes all of `bytes` at `offset`; the file grows as needed.
    ///
    /// # Errors
    /// When the device fails or is full.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Cuts the file to `len` bytes, or grows it with zeroes.
    ///
    /// # Errors
    /// When the device fails or is full.
    fn set_len(&self, len: u64) -> Result<(), DiskError>;

    /// The length in bytes.
    ///
    /// # Errors
    /// When the system can't tell.
    fn len(&self) -> Result<u64, DiskError>;

    /// Whether there are no bytes in it.
    ///
    /// # Errors
    /// As [`ByteFile::len`].
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// The room of the file system that the file is on.
    ///
    /// # Errors
    /// When the system can't tell.
    fn space(&self) -> Result<Space, DiskError>;

    /// Makes all completed writes and the length durable.
    ///
    /// # Errors
    /// As [`DiskFile::sync`]: never retry.
    fn sync(&self) -> Result<(), DiskError>;
}
