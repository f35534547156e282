//! A directory that is only read: what is written to its byte files stays in memory.
//!
//! For offline tools: the library under the state store writes when it opens a file that was not
//! closed in order.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::{ByteFile, Disk, DiskError, ErrorKind, Operation, Space};

const PAGE_BYTES: usize = 4096;

/// A directory whose files never change: everything that would change one is refused, but for
/// writes to byte files, which are kept in memory as long as the file is open.
#[derive(Clone, Debug)]
pub struct ReadOnlyDisk<D> {
    disk: D,
}

impl<D: Disk> ReadOnlyDisk<D> {
    /// Over a directory that is there.
    pub const fn new(disk: D) -> Self {
        Self { disk }
    }
}

fn refused<T>(name: &str, operation: Operation) -> Result<T, DiskError> {
    let (number, text) = (libc::EROFS, "the directory is only read".to_owned());
    let kind = ErrorKind::System { number, text };
    Err(DiskError::new(name, operation, 0, kind))
}

impl<D: Disk> Disk for ReadOnlyDisk<D> {
    type File = D::File;

    fn sub(&self, name: &str) -> Result<Self, DiskError> {
        refused(name, Operation::Directory)
    }

    fn create(&self, name: &str) -> Result<D::File, DiskError> {
        refused(name, Operation::Create)
    }

    fn open(&self, name: &str) -> Result<D::File, DiskError> {
        refused(name, Operation::Open)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        refused(name, Operation::Remove)
    }

    fn rename(&self, from: &str, _to: &str) -> Result<(), DiskError> {
        refused(from, Operation::Rename)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.disk.space()
    }

    fn set_aside(&self, name: &str, _bytes: u64) -> Result<(), DiskError> {
        refused(name, Operation::Create)
    }

    fn byte_file(&self, name: &str) -> Result<Box<dyn ByteFile>, DiskError> {
        if !self.disk.list()?.iter().any(|file| file == name) {
            return refused(name, Operation::Create);
        }
        let below = self.disk.byte_file(name)?;
        let len = below.len()?;
        let changes = Changes {
            len,
            below: len,
            pages: BTreeMap::new(),
        };
        let changes = Mutex::new(changes);
        Ok(Box::new(Covered { below, changes }))
    }
}

/// A byte file with changes in front of it.
#[derive(Debug)]
struct Covered {
    below: Box<dyn ByteFile>,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    len: u64,
    /// From here on the file below does not count.
    below: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

/// The parts of `offset..offset + len` by pages: the page, where in it, how much.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let page_bytes = PAGE_BYTES as u64;
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let inside = usize::try_from(at % page_bytes).unwrap_or(0);
        let part = (len - done).min(PAGE_BYTES - inside);
        done += part;
        (part > 0).then_some((at / page_bytes, inside, part))
    })
}

impl Covered {
    fn page(&self, changes: &Changes, page: u64) -> Result<Vec<u8>, DiskError> {
        if let Some(changed) = changes.pages.get(&page) {
            return Ok(changed.clone());
        }
        let mut bytes = vec![0; PAGE_BYTES];
        let at = page * PAGE_BYTES as u64;
        let there = changes.below.saturating_sub(at);
        let there = usize::try_from(there).map_or(PAGE_BYTES, |there| there.min(PAGE_BYTES));
        let (head, _) = bytes.split_at_mut(there);
        if there > 0 {
            self.below.read_at(at, head)?;
        }
        Ok(bytes)
    }
}

impl ByteFile for Covered {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = bytes.len();
        let left = changes.len.saturating_sub(offset);
        if left < expected as u64 {
            let got = usize::try_from(left).unwrap_or(0);
            let kind = ErrorKind::Short { got, expected };
            return Err(DiskError::new("state", Operation::Read, offset, kind));
        }
        let mut rest = bytes;
        for (page, inside, part) in parts(offset, expected) {
            let (head, tail) = rest.split_at_mut(part);
            let whole = self.page(&changes, page)?;
            head.copy_from_slice(whole.get(inside..inside + part).unwrap_or_default());
            rest = tail;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = bytes;
        for (page, inside, part) in parts(offset, bytes.len()) {
            let (head, tail) = rest.split_at(part);
            let mut whole = self.page(&changes, page)?;
            if let Some(place) = whole.get_mut(inside..inside + part) {
                place.copy_from_slice(head);
            }
            changes.pages.insert(page, whole);
            rest = tail;
        }
        changes.len = changes.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if len < changes.len {
            let page = len / PAGE_BYTES as u64;
            let mut last = self.page(&changes, page)?;
            let keep = usize::try_from(len % PAGE_BYTES as u64).unwrap_or(0);
            last.iter_mut().skip(keep).for_each(|byte| *byte = 0);
            changes.pages.split_off(&page);
            changes.pages.insert(page, last);
            changes.below = changes.below.min(len);
        }
        changes.len = len;
        Ok(())
    }

    fn len(&self) -> Result<u64, DiskError> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(changes.len)
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.below.space()
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Rng, SimDisk};

    #[test]
    fn changes_are_read_back_and_never_written() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let disk = SimDisk::new(seed);
            let mut model = vec![7; rng.index(20_000)];
            disk.byte_file("state")
                .unwrap()
                .write_at(0, &model)
                .unwrap();
            let before = disk.contents("state");
            let file = ReadOnlyDisk::new(disk.clone()).byte_file("state").unwrap();
            for step in 0..60 {
                let at = rng.index(model.len() + 5000);
                let len = rng.index(9000);
                match rng.below(3) {
                    0 => {
                        file.write_at(at as u64, &vec![step; len]).unwrap();
                        model.resize(model.len().max(at + len), 0);
                        model[at..at + len].fill(step);
                    }
                    1 => {
                        file.set_len(at as u64).unwrap();
                        model.resize(at, 0);
                    }
                    _ => {
                        let mut bytes = vec![1; len];
                        let read = file.read_at(at as u64, &mut bytes);
                        assert_eq!(read.is_ok(), at + len <= model.len());
                        assert!(read.is_err() || bytes == model[at..at + len]);
                    }
                }
                assert_eq!(file.len().unwrap(), model.len() as u64);
            }
            assert_eq!(disk.contents("state"), before);
        }
    }

    #[test]
    fn nothing_else_is_changed() {
        let disk = ReadOnlyDisk::new(SimDisk::new(1));
        assert!(disk.create("one").is_err() && disk.byte_file("two").is_err());
        assert!(disk.sub("three").is_err() && disk.set_aside("four", 1).is_err());
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    }
}
