//! A disk that stops after a number of operations, so that a crash can come at any of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage_io::sim::{SimDisk, SimFile};
use storage_io::{ByteFile, Disk, DiskError, ErrorKind, Operation, Space};

/// A directory of a simulated disk whose byte files fail when the fuse has burnt down.
#[derive(Clone, Debug)]
pub(super) struct FuseDisk {
    pub(super) disk: SimDisk,
    left: Arc<AtomicU64>,
}

impl FuseDisk {
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed).sub("shard-0").unwrap();
        Self {
            disk,
            left: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    /// Bytes of the only file that there is.
    pub(super) fn contents_len(&self) -> u64 {
        let bytes = self.disk.contents("state.redb").unwrap_or_default();
        bytes.len() as u64
    }

    /// Lets this many changing operations pass from now on.
    pub(super) fn arm(&self, operations: u64) {
        self.left.store(operations, Ordering::Relaxed);
    }
}

impl Disk for FuseDisk {
    type File = SimFile;

    fn sub(&self, name: &str) -> Result<Self, DiskError> {
        Ok(Self {
            disk: self.disk.sub(name)?,
            left: Arc::clone(&self.left),
        })
    }

    fn create(&self, name: &str) -> Result<SimFile, DiskError> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> Result<SimFile, DiskError> {
        self.disk.open(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.disk.sync_dir()
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.disk.space()
    }

    fn set_aside(&self, name: &str, bytes: u64) -> Result<(), DiskError> {
        self.disk.set_aside(name, bytes)
    }

    fn byte_file(&self, name: &str) -> Result<Box<dyn ByteFile>, DiskError> {
        let file = self.disk.byte_file(name)?;
        Ok(Box::new(FuseFile {
            file,
            left: Arc::clone(&self.left),
        }))
    }
}

#[derive(Debug)]
struct FuseFile {
    file: Box<dyn ByteFile>,
    left: Arc<AtomicU64>,
}

impl FuseFile {
    fn burn(&self, operation: Operation, offset: u64) -> Result<(), DiskError> {
        let less = |left: u64| left.checked_sub(1);
        let burnt = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        let error = |_| DiskError::new("state.redb", operation, offset, ErrorKind::Injected);
        burnt.map(drop).map_err(error)
    }
}

impl ByteFile for FuseFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.burn(Operation::Write, offset)?;
        self.file.write_at(offset, bytes)
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.burn(Operation::Length, len)?;
        self.file.set_len(len)
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.file.space()
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.burn(Operation::Sync, 0)?;
        self.file.sync()
    }
}
