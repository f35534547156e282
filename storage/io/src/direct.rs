//! The real disk: direct I/O for blocks, plain files for the state store.
//!
//! The calls here block. A shard uses them at start-up; on its hot path it submits to a
//! [`RingQueue`](crate::RingQueue), which works on the same files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::space::{allocate, discard, space_at};
use crate::{ALIGN, AlignedBuf, ByteFile, Disk, DiskError, DiskFile, ErrorKind, Operation, Space};

const LOCK_NAME: &str = "lock";

/// What an open of a file with `O_DIRECT` answers where direct I/O is not supported.
const EINVAL: i32 = 22;

/// A directory on a real file system.
#[derive(Clone, Debug)]
pub struct DirectDisk {
    path: Arc<Path>,
    /// Kept open, so that its names can be made durable when no descriptor is left.
    directory: Arc<File>,
}

/// A file opened for direct I/O. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct DirectFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) file: File,
    pub(crate) name: String,
    /// The directory's path, and the directory.
    pub(crate) path: Arc<Path>,
    pub(crate) directory: Arc<File>,
}

/// The lock of a data directory; held until it is dropped, or the process ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// A plain file.
#[derive(Debug)]
struct DirectByteFile {
    file: File,
    name: String,
}

impl DirectDisk {
    /// The directory at `path`, created when it is missing.
    ///
    /// # Errors
    /// When it can't be created or is no directory.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let failed = |error| directory_error(path, &error);
        fs::create_dir_all(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        if let Some(parent) = path.parent() {
            sync_directory(parent)?;
        }
        Self::at(path)
    }

    fn at(path: PathBuf) -> Result<Self, DiskError> {
        let directory = File::open(&path).map_err(|error| directory_error(&path, &error))?;
        Ok(Self {
            path: path.into(),
            directory: Arc::new(directory),
        })
    }

    /// Takes the lock of this directory, so that no second process writes to it.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when another process, or this one, holds it.
    pub fn lock(&self) -> Result<DirectoryLock, DiskError> {
        let path = self.path.join(LOCK_NAME);
        let name = path.to_string_lossy();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options
            .open(&path)
            .map_err(|error| DiskError::system(&name, Operation::Directory, 0, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(DirectoryLock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(DiskError::new(
                &name,
                Operation::Directory,
                0,
                ErrorKind::Locked,
            )),
            Err(fs::TryLockError::Error(error)) => {
                Err(DiskError::system(&name, Operation::Directory, 0, &error))
            }
        }
    }

    /// The type of the file system, such as `ext4`, when the system tells. On `tmpfs` nothing is
    /// durable and direct I/O is silently off: warn.
    #[must_use]
    pub fn file_system(&self) -> Option<String> {
        let device = fs::metadata(&self.path).ok()?.dev();
        let device = format!("{}:{}", libc::major(device), libc::minor(device));
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        file_system_of(&mounts, &device)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str, options: &OpenOptions, how: Operation) -> Result<File, DiskError> {
        let path = self.path.join(name);
        options.open(&path).map_err(|error| {
            let shown = path.to_string_lossy();
            if error.raw_os_error() == Some(EINVAL) {
                return DiskError::new(&shown, how, 0, ErrorKind::NoDirectIo);
            }
            DiskError::system(&shown, how, 0, &error)
        })
    }

    fn direct(&self, name: &str, is_new: bool) -> Result<DirectFile, DiskError> {
        let how = if is_new {
            Operation::Create
        } else {
            Operation::Open
        };
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create_new(is_new)
            .custom_flags(libc::O_DIRECT);
        let file = match self.file(name, &options, how) {
            Err(error) if is_new && error.kind == ErrorKind::NoDirectIo => {
                // The name is created before the flag is refused.
                drop(fs::remove_file(self.path.join(name)));
                return Err(error);
            }
            other => other?,
        };
        let name = self.path.join(name).to_string_lossy().into_owned();
        Ok(DirectFile {
            inner: Arc::new(Inner {
                file,
                name,
                path: Arc::clone(&self.path),
                directory: Arc::clone(&self.directory),
            }),
        })
    }

    fn system(&self, name: &str, operation: Operation, error: &io::Error) -> DiskError {
        DiskError::system(&self.path.join(name).to_string_lossy(), operation, 0, error)
    }
}

impl Disk for DirectDisk {
    type File = DirectFile;

    fn sub(&self, name: &str) -> Result<Self, DiskError> {
        let path: PathBuf = self.path.join(name);
        fs::create_dir_all(&path).map_err(|error| directory_error(&path, &error))?;
        self.sync_dir()?;
        Self::at(path)
    }

    fn create(&self, name: &str) -> Result<DirectFile, DiskError> {
        self.direct(name, true)
    }

    fn open(&self, name: &str) -> Result<DirectFile, DiskError> {
        self.direct(name, false)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let failed = |error| directory_error(&self.path, &error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        fs::remove_file(self.path.join(name))
            .map_err(|error| self.system(name, Operation::Remove, &error))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        fs::rename(self.path.join(from), self.path.join(to))
            .map_err(|error| self.system(from, Operation::Rename, &error))
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.directory.sync_all().map_err(|error| {
            let path = self.path.to_string_lossy();
            DiskError::system(&path, Operation::SyncDirectory, 0, &error)
        })
    }

    fn space(&self) -> Result<Space, DiskError> {
        space_at(&self.directory).map_err(|error| {
            DiskError::system(&self.path.to_string_lossy(), Operation::Space, 0, &error)
        })
    }

    fn set_aside(&self, name: &str, bytes: u64) -> Result<(), DiskError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = self.file(name, &options, Operation::Create)?;
        allocate(&file, bytes).map_err(|error| {
            // Part of it may have been taken.
            drop(fs::remove_file(self.path.join(name)));
            self.system(name, Operation::Length, &error)
        })
    }

    fn byte_file(&self, name: &str) -> Result<Box<dyn ByteFile>, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = self.file(name, &options, Operation::Open)?;
        let name = self.path.join(name).to_string_lossy().into_owned();
        Ok(Box::new(DirectByteFile { file, name }))
    }
}

impl DirectFile {
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    fn error(&self, operation: Operation, offset: u64, error: &io::Error) -> DiskError {
        DiskError::system(&self.inner.name, operation, offset, error)
    }
}

impl DiskFile for DirectFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<AlignedBuf, DiskError> {
        check_alignment(&self.inner.name, offset, len);
        let mut buf = AlignedBuf::zeroed(len);
        read_exact(&self.inner.file, &self.inner.name, offset, &mut buf)?;
        Ok(buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        check_alignment(&self.inner.name, offset, bytes.len());
        let is_aligned = bytes.as_ptr().addr().is_multiple_of(ALIGN);
        let written = if is_aligned {
            self.inner.file.write_all_at(bytes, offset)
        } else {
            self.inner
                .file
                .write_all_at(&AlignedBuf::padded(bytes), offset)
        };
        written.map_err(|error| self.error(Operation::Write, offset, &error))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.inner
            .file
            .sync_data()
            .map_err(|error| self.error(Operation::Sync, 0, &error))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        discard(&self.inner.file, offset, len)
            .map_err(|error| self.error(Operation::Length, offset, &error))
    }

    fn len(&self) -> Result<u64, DiskError> {
        let metadata = self.inner.file.metadata();
        metadata
            .map(|file| file.len())
            .map_err(|error| self.error(Operation::Length, 0, &error))
    }

    fn name(&self) -> &str {
        &self.inner.name
    }
}

impl DirectByteFile {
    fn error(&self, operation: Operation, offset: u64, error: &io::Error) -> DiskError {
        DiskError::system(&self.name, operation, offset, error)
    }
}

impl ByteFile for DirectByteFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        read_exact(&self.file, &self.name, offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|error| self.error(Operation::Write, offset, &error))
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.file
            .set_len(len)
            .map_err(|error| self.error(Operation::Length, len, &error))
    }

    fn len(&self) -> Result<u64, DiskError> {
        let metadata = self.file.metadata();
        metadata
            .map(|file| file.len())
            .map_err(|error| self.error(Operation::Length, 0, &error))
    }

    fn space(&self) -> Result<Space, DiskError> {
        space_at(&self.file).map_err(|error| self.error(Operation::Space, 0, &error))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file
            .sync_data()
            .map_err(|error| self.error(Operation::Sync, 0, &error))
    }
}

/// Fills `bytes`, and tells how much there was when the file is too short.
fn read_exact(file: &File, name: &str, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
    let expected = bytes.len();
    let mut got = 0;
    while got < expected {
        let (_, rest) = bytes.split_at_mut(got);
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => {
                let kind = ErrorKind::Short { got, expected };
                return Err(DiskError::new(name, Operation::Read, offset, kind));
            }
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(DiskError::system(name, Operation::Read, offset, &error)),
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), DiskError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| {
        DiskError::system(&path.to_string_lossy(), Operation::SyncDirectory, 0, &error)
    })
}

fn directory_error(path: &Path, error: &io::Error) -> DiskError {
    DiskError::system(&path.to_string_lossy(), Operation::Directory, 0, error)
}

fn check_alignment(name: &str, offset: u64, len: usize) {
    assert!(
        offset.is_multiple_of(ALIGN as u64) && len.is_multiple_of(ALIGN),
        "{name}: {len} bytes at {offset} are not aligned to {ALIGN}"
    );
}

/// Finds the type of the file system with this device number in the text of
/// `/proc/self/mountinfo`: the third field is the number, the first after a lone `-` the type.
fn file_system_of(mounts: &str, device: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_it = mount.split(' ').nth(2) == Some(device);
        is_it.then(|| file_system.split(' ').next().unwrap_or_default().to_owned())
    })
}

#[cfg(test)]
mod tests;
