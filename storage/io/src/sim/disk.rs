//! Handles on the simulated device: a directory, a file of blocks, a file of bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Faults;
use super::world::{Decay, World};
use crate::{ALIGN, AlignedBuf, ByteFile, Disk, DiskError, DiskFile, ErrorKind, Operation, Space};

/// A directory of a simulated disk. Clones and sub-directories share the device.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    path: String,
}

/// An open file of blocks on a simulated disk.
#[derive(Clone, Debug)]
pub struct SimFile {
    handle: Handle,
}

/// An open file of bytes on a simulated disk.
#[derive(Clone, Debug)]
pub struct SimByteFile {
    handle: Handle,
}

#[derive(Clone, Debug)]
struct Handle {
    world: Arc<Mutex<World>>,
    directory: Arc<str>,
    name: Arc<str>,
    inode: usize,
    boot: u64,
}

impl SimDisk {
    /// An empty device whose faults `seed` decides, and its root directory.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        world.make_directory("");
        Self {
            world: Arc::new(Mutex::new(world)),
            path: String::new(),
        }
    }

    /// Sets which operations fail from now on, on the whole device.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.world).faults = faults;
    }

    /// The faults in force.
    #[must_use]
    pub fn faults(&self) -> Faults {
        lock(&self.world).faults.clone()
    }

    /// Bytes of all files on the whole device: what [`Faults::space_bytes`] is held against.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        lock(&self.world).used() as u64
    }

    /// Power is lost, on the whole device. Files opened before are dead: every call on them fails.
    /// `seed` decides what of the writes that no sync covered is left.
    pub fn crash(&self, seed: u64) {
        lock(&self.world).crash(seed);
    }

    /// All bytes of a file of this directory, `None` when there is no such file.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let world = lock(&self.world);
        let inode = world.look_up(&self.path, name)?;
        Some(world.contents(inode))
    }

    /// Changes the bytes of a file on the device itself, as bit rot or a stray write does: durable
    /// at once, and unknown to everybody. False when there is no such file.
    pub fn rot(&self, name: &str, change: &mut dyn FnMut(&mut [u8])) -> bool {
        let mut world = lock(&self.world);
        let inode = world.look_up(&self.path, name);
        if let Some(inode) = inode {
            world.rot(inode, change);
        }
        inode.is_some()
    }

    /// Flips one bit of byte `at` on the device itself. False when there is no such byte.
    pub fn flip_bit(&self, name: &str, at: usize, bit: u8) -> bool {
        let mut flipped = false;
        self.rot(name, &mut |bytes| {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit & 7);
                flipped = true;
            }
        });
        flipped
    }

    /// The paths, from the root of the device, and the lengths of all files in this directory and
    /// those below it.
    #[must_use]
    pub fn files(&self) -> Vec<(String, usize)> {
        lock(&self.world).files(&self.path)
    }

    /// A bit of the file at `path` (as [`SimDisk::files`] names it) goes bad: reads give it flipped
    /// until its sector is written again. The device has one such bit at most. False, and none has
    /// gone bad, when there is no such byte.
    pub fn decay(&self, path: &str, at: usize, bit: u8) -> bool {
        lock(&self.world).decay(path, at, bit)
    }

    /// Puts another bad bit, or none, in the place of the one that there was, which it returns.
    pub fn replace_decay(&self, decay: Option<Decay>) -> Option<Decay> {
        std::mem::replace(&mut lock(&self.world).decay, decay)
    }

    fn handle(&self, name: &str, inode: usize, boot: u64) -> Handle {
        Handle {
            world: Arc::clone(&self.world),
            directory: Arc::from(self.path.as_str()),
            name: Arc::from(name),
            inode,
            boot,
        }
    }

    fn missing(&self, name: &str, operation: Operation) -> DiskError {
        let path = format!("{}/{name}", self.path);
        DiskError::new(&path, operation, 0, ErrorKind::NotFound)
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn sub(&self, name: &str) -> Result<Self, DiskError> {
        let path = format!("{}/{name}", self.path);
        lock(&self.world).make_directory(&path);
        Ok(Self {
            world: Arc::clone(&self.world),
            path,
        })
    }

    fn create(&self, name: &str) -> Result<SimFile, DiskError> {
        let mut world = lock(&self.world);
        check_descriptors(&world, name, Operation::Create)?;
        if world.look_up(&self.path, name).is_some() {
            return Err(DiskError::new(
                name,
                Operation::Create,
                0,
                ErrorKind::Exists,
            ));
        }
        world.spend(name, Operation::Create)?;
        let inode = world.link(&self.path, name);
        Ok(SimFile {
            handle: self.handle(name, inode, world.boot),
        })
    }

    fn open(&self, name: &str) -> Result<SimFile, DiskError> {
        let world = lock(&self.world);
        check_descriptors(&world, name, Operation::Open)?;
        let inode = world.look_up(&self.path, name);
        let inode = inode.ok_or_else(|| self.missing(name, Operation::Open))?;
        Ok(SimFile {
            handle: self.handle(name, inode, world.boot),
        })
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        Ok(lock(&self.world).names(&self.path))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        if world.look_up(&self.path, name).is_none() {
            return Err(self.missing(name, Operation::Remove));
        }
        world.spend(name, Operation::Remove)?;
        world.unlink(&self.path, name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        if world.look_up(&self.path, from).is_none() {
            return Err(self.missing(from, Operation::Rename));
        }
        world.spend(from, Operation::Rename)?;
        world.rename(&self.path, from, to);
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        lock(&self.world).sync_directory(&self.path)
    }

    fn space(&self) -> Result<Space, DiskError> {
        Ok(lock(&self.world).space())
    }

    fn set_aside(&self, name: &str, bytes: u64) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        let found = world.look_up(&self.path, name);
        let inode = found.unwrap_or_else(|| world.link(&self.path, name));
        world
            .set_len(inode, name, bytes)
            .inspect_err(|_| world.unlink(&self.path, name))
    }

    fn byte_file(&self, name: &str) -> Result<Box<dyn ByteFile>, DiskError> {
        let mut world = lock(&self.world);
        let found = world.look_up(&self.path, name);
        let inode = found.unwrap_or_else(|| world.link(&self.path, name));
        Ok(Box::new(SimByteFile {
            handle: self.handle(name, inode, world.boot),
        }))
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<AlignedBuf, DiskError> {
        check_alignment(&self.handle.name, offset, len);
        let mut buf = AlignedBuf::zeroed(len);
        self.handle.read(offset, &mut buf)?;
        Ok(buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        check_alignment(&self.handle.name, offset, bytes.len());
        self.handle.write(offset, bytes)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.handle.sync(true)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let zeroes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.handle.write(offset, &zeroes)
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.handle.len()
    }

    fn name(&self) -> &str {
        &self.handle.name
    }
}

impl SimFile {
    /// Makes the names of the directory durable in which the file was opened.
    pub(super) fn sync_directory(&self) -> Result<(), DiskError> {
        self.handle
            .world(Operation::SyncDirectory)?
            .sync_directory(&self.handle.directory)
    }
}

impl ByteFile for SimByteFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.handle.read(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.handle.write(offset, bytes)
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        let handle = &self.handle;
        handle
            .world(Operation::Length)?
            .set_len(handle.inode, &handle.name, len)
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.handle.len()
    }

    fn space(&self) -> Result<Space, DiskError> {
        Ok(self.handle.world(Operation::Space)?.space())
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.handle.sync(false)
    }
}

impl Handle {
    /// The device, unless the file was opened before the last crash.
    fn world(&self, operation: Operation) -> Result<MutexGuard<'_, World>, DiskError> {
        let world = lock(&self.world);
        if world.boot != self.boot {
            return Err(DiskError::new(
                &self.name,
                operation,
                0,
                ErrorKind::Injected,
            ));
        }
        Ok(world)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.world(Operation::Read)?
            .read(self.inode, &self.name, offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.world(Operation::Write)?
            .write(self.inode, &self.name, offset, bytes)
    }

    fn sync(&self, is_direct: bool) -> Result<(), DiskError> {
        self.world(Operation::Sync)?
            .sync(self.inode, &self.name, is_direct)
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.world(Operation::Length)?.len(self.inode) as u64)
    }
}

fn check_descriptors(world: &World, name: &str, how: Operation) -> Result<(), DiskError> {
    if world.faults.no_descriptors {
        return Err(DiskError::new(name, how, 0, ErrorKind::NoDescriptors));
    }
    Ok(())
}

/// A panic elsewhere leaves the device as it was: plain bytes without an invariant to break.
fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_alignment(name: &str, offset: u64, len: usize) {
    assert!(
        offset.is_multiple_of(ALIGN as u64) && len.is_multiple_of(ALIGN),
        "{name}: {len} bytes at {offset} are not aligned to {ALIGN}"
    );
}
