//! What is on the simulated device: durable bytes, writes that are not durable yet, names.
#![expect(
    clippy::indexing_slicing,
    reason = "inode numbers are given out here, and byte ranges are clipped before use"
)]

use std::collections::BTreeMap;

use super::{Rng, SECTOR};
use crate::{DiskError, ErrorKind, Operation, Space};

/// Which operations fail. The default is none.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// How many of 10,000 reads fail.
    pub reads_per_10k: u32,
    /// How many of 10,000 writes fail, without effect.
    pub writes_per_10k: u32,
    /// How many of 10,000 syncs fail. What they should have made durable is lost, even when a later
    /// sync succeeds: of a file of bytes at the next crash, for until then the kernel's cache has
    /// it; of a file of blocks, which has no such cache, at once or not at all.
    pub syncs_per_10k: u32,
    /// Total bytes of all files; a write that would need more fails with "no space".
    pub space_bytes: Option<u64>,
    /// No file of blocks can be created or opened: the process has no descriptor left.
    pub no_descriptors: bool,
    /// How many of 10,000 reads and writes stop half-way: a read brings too few bytes, a write
    /// leaves its first sectors.
    pub short_per_10k: u32,
    /// Changes of the device that still succeed: afterwards every one fails, as when the machine
    /// stops there. `None`: no limit.
    pub changes_left: Option<u64>,
    /// A crash may leave garbage in any sector that was not synced, whatever lay there before: what
    /// a log with a padded tail has to survive.
    pub damage_rewritten: bool,
    /// Acknowledge every sync without making anything durable: a test that passes with this on
    /// does not test durability.
    pub ignore_syncs: bool,
}

/// One bit of a file that has gone bad: reads give it flipped until its sector is written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decay {
    inode: usize,
    at: usize,
    bit: u8,
}

#[derive(Debug)]
enum Pending {
    /// Whole sectors from `first` on, and the length of the file after the write.
    Sectors {
        first: usize,
        bytes: Vec<u8>,
        len_after: usize,
    },
    /// The file was cut or grown to this length.
    Length(usize),
}

#[derive(Debug, Default)]
struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link { name: String, inode: usize },
    Unlink { name: String },
    Rename { from: String, to: String },
}

#[derive(Debug, Default)]
struct Directory {
    visible: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
}

/// The device. One per [`SimDisk`](super::SimDisk) and all its files.
#[derive(Debug)]
pub(super) struct World {
    inodes: Vec<Inode>,
    directories: BTreeMap<String, Directory>,
    pub(super) faults: Faults,
    pub(super) decay: Option<Decay>,
    rng: Rng,
    /// How many crashes there were; files opened before the last one are dead.
    pub(super) boot: u64,
}

impl World {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            inodes: Vec::new(),
            directories: BTreeMap::new(),
            faults: Faults {
                reads_per_10k: 0,
                writes_per_10k: 0,
                syncs_per_10k: 0,
                space_bytes: None,
                no_descriptors: false,
                short_per_10k: 0,
                changes_left: None,
                damage_rewritten: false,
                ignore_syncs: false,
            },
            decay: None,
            rng: Rng::new(seed),
            boot: 0,
        }
    }

    pub(super) fn make_directory(&mut self, path: &str) {
        self.directories.entry(path.to_owned()).or_default();
    }

    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let found = self.directories.get(directory);
        found
            .map(|d| d.visible.keys().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn look_up(&self, directory: &str, name: &str) -> Option<usize> {
        self.directories.get(directory)?.visible.get(name).copied()
    }

    pub(super) fn link(&mut self, directory: &str, name: &str) -> usize {
        let inode = self.inodes.len();
        self.inodes.push(Inode::default());
        self.change(
            directory,
            NameChange::Link {
                name: name.to_owned(),
                inode,
            },
        );
        inode
    }

    pub(super) fn unlink(&mut self, directory: &str, name: &str) {
        self.change(
            directory,
            NameChange::Unlink {
                name: name.to_owned(),
            },
        );
    }

    pub(super) fn rename(&mut self, directory: &str, from: &str, to: &str) {
        self.change(
            directory,
            NameChange::Rename {
                from: from.to_owned(),
                to: to.to_owned(),
            },
        );
    }

    fn change(&mut self, directory: &str, change: NameChange) {
        let directory = self.directories.entry(directory.to_owned()).or_default();
        apply(&mut directory.visible, &change);
        directory.pending.push(change);
    }

    pub(super) fn sync_directory(&mut self, directory: &str) -> Result<(), DiskError> {
        self.spend(directory, Operation::SyncDirectory)?;
        self.fail_sync(directory, Operation::SyncDirectory)?;
        if !self.faults.ignore_syncs {
            let directory = self.directories.entry(directory.to_owned()).or_default();
            for change in std::mem::take(&mut directory.pending) {
                apply(&mut directory.durable, &change);
            }
        }
        Ok(())
    }

    pub(super) fn len(&self, inode: usize) -> usize {
        self.inodes[inode].visible.len()
    }

    pub(super) fn read(
        &mut self,
        inode: usize,
        name: &str,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        if self.rng.chance(self.faults.reads_per_10k, 10_000) {
            return Err(DiskError::new(
                name,
                Operation::Read,
                offset,
                ErrorKind::Injected,
            ));
        }
        let is_short = self.is_short();
        let file = &self.inodes[inode].visible;
        let start = position(offset).min(file.len());
        let wanted = if is_short {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        let end = start.saturating_add(wanted).min(file.len());
        if end - start < bytes.len() {
            let kind = ErrorKind::Short {
                got: end - start,
                expected: bytes.len(),
            };
            return Err(DiskError::new(name, Operation::Read, offset, kind));
        }
        bytes.copy_from_slice(&file[start..end]);
        if let Some(decay) = self.decay
            && decay.inode == inode
            && (start..end).contains(&decay.at)
        {
            bytes[decay.at - start] ^= 1 << (decay.bit & 7);
        }
        Ok(())
    }

    /// The paths and lengths of all files in a directory and those below it.
    pub(super) fn files(&self, directory: &str) -> Vec<(String, usize)> {
        let below = format!("{directory}/");
        let is_there = |path: &str| path == directory || path.starts_with(&below);
        let found = self.directories.iter().filter(|(path, _)| is_there(path));
        let files = found.flat_map(|(path, names)| {
            let files = names.visible.iter();
            files.map(move |(name, inode)| (format!("{path}/{name}"), self.len(*inode)))
        });
        files.collect()
    }

    /// A bit goes bad, if the file has such a byte.
    pub(super) fn decay(&mut self, path: &str, at: usize, bit: u8) -> bool {
        let found = path.rsplit_once('/');
        let inode = found.and_then(|(directory, name)| self.look_up(directory, name));
        let inode = inode.filter(|inode| at < self.len(*inode));
        self.decay = inode.map(|inode| Decay { inode, at, bit });
        inode.is_some()
    }

    /// Bytes of a file from `start` to `end` are new: what had gone bad there has gone.
    fn renew(&mut self, inode: usize, start: usize, end: usize) {
        let is_new = |decay: &Decay| decay.inode == inode && (start..end).contains(&decay.at);
        self.decay = self.decay.filter(|decay| !is_new(decay));
    }

    pub(super) fn write(
        &mut self,
        inode: usize,
        name: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        if self.rng.chance(self.faults.writes_per_10k, 10_000) {
            return Err(DiskError::new(
                name,
                Operation::Write,
                offset,
                ErrorKind::Injected,
            ));
        }
        self.spend(name, Operation::Write)?;
        let start = position(offset);
        let end = start.saturating_add(bytes.len());
        self.reserve(inode, name, offset, end)?;
        if bytes.len() > SECTOR && self.is_short() {
            let got = (bytes.len() / 2).next_multiple_of(SECTOR);
            self.put(inode, start, &bytes[..got]);
            let expected = bytes.len();
            let kind = ErrorKind::Short { got, expected };
            return Err(DiskError::new(name, Operation::Write, offset, kind));
        }
        self.put(inode, start, bytes);
        Ok(())
    }

    fn put(&mut self, inode: usize, start: usize, bytes: &[u8]) {
        let end = start + bytes.len();
        let first = start / SECTOR;
        self.renew(inode, first * SECTOR, end.next_multiple_of(SECTOR));
        let file = &mut self.inodes[inode];
        if file.visible.len() < end {
            file.visible.resize(end, 0);
        }
        file.visible[start..end].copy_from_slice(bytes);
        let len_after = file.visible.len();
        let stop = end.next_multiple_of(SECTOR);
        let mut sectors = file.visible[first * SECTOR..stop.min(len_after)].to_vec();
        sectors.resize(stop - first * SECTOR, 0);
        file.pending.push(Pending::Sectors {
            first,
            bytes: sectors,
            len_after,
        });
    }

    pub(super) fn set_len(&mut self, inode: usize, name: &str, len: u64) -> Result<(), DiskError> {
        self.spend(name, Operation::Length)?;
        let to = position(len);
        self.reserve(inode, name, len, to)?;
        self.renew(inode, to, usize::MAX);
        let file = &mut self.inodes[inode];
        file.visible.resize(to, 0);
        file.pending.push(Pending::Length(to));
        Ok(())
    }

    pub(super) fn sync(
        &mut self,
        inode: usize,
        name: &str,
        is_direct: bool,
    ) -> Result<(), DiskError> {
        self.spend(name, Operation::Sync)?;
        if let Err(error) = self.fail_sync(name, Operation::Sync) {
            let file = &mut self.inodes[inode];
            if !is_direct {
                // As a kernel does: the pages are marked clean, so no later sync writes them.
                file.pending.clear();
            } else if self.rng.chance(1, 2) {
                file.pending.clear();
                file.visible.clone_from(&file.durable);
            }
            return Err(error);
        }
        if !self.faults.ignore_syncs {
            let file = &mut self.inodes[inode];
            for pending in std::mem::take(&mut file.pending) {
                file.keep_all(&pending);
            }
        }
        Ok(())
    }

    /// Power is lost: see the module.
    pub(super) fn crash(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        self.boot += 1;
        for file in &mut self.inodes {
            let held = if self.faults.damage_rewritten {
                0
            } else {
                file.durable.len()
            };
            let style = Style::pick(&mut rng);
            for pending in std::mem::take(&mut file.pending) {
                file.keep(&pending, &mut |at, sector| {
                    style.spares(&mut rng, at >= held, sector)
                });
            }
            file.visible.clone_from(&file.durable);
        }
        for directory in self.directories.values_mut() {
            let pending = std::mem::take(&mut directory.pending);
            let survivors = rng.index(pending.len() + 1);
            for change in pending.iter().take(survivors) {
                apply(&mut directory.durable, change);
            }
            directory.visible.clone_from(&directory.durable);
        }
        self.forget_unlinked();
    }

    /// Changes bytes on the device itself, behind everybody's back.
    pub(super) fn rot(&mut self, inode: usize, change: &mut dyn FnMut(&mut [u8])) {
        change(&mut self.inodes[inode].durable);
        change(&mut self.inodes[inode].visible);
    }

    pub(super) fn contents(&self, inode: usize) -> Vec<u8> {
        self.inodes[inode].visible.clone()
    }

    /// Counts a change, or refuses it when none is left.
    pub(super) fn spend(&mut self, name: &str, operation: Operation) -> Result<(), DiskError> {
        match &mut self.faults.changes_left {
            Some(0) => Err(DiskError::new(name, operation, 0, ErrorKind::Injected)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Draws only when it may happen: runs without this fault stay what they are.
    fn is_short(&mut self) -> bool {
        let parts = self.faults.short_per_10k;
        parts > 0 && self.rng.chance(parts, 10_000)
    }

    fn fail_sync(&mut self, name: &str, operation: Operation) -> Result<(), DiskError> {
        if self.rng.chance(self.faults.syncs_per_10k, 10_000) {
            return Err(DiskError::new(name, operation, 0, ErrorKind::Injected));
        }
        Ok(())
    }

    pub(super) fn space(&self) -> Space {
        let total_bytes = self.faults.space_bytes.unwrap_or(1 << 50);
        Space {
            total_bytes,
            free_bytes: total_bytes.saturating_sub(self.used() as u64),
        }
    }

    /// Bytes of all files that have a name.
    pub(super) fn used(&self) -> usize {
        let named = |names: &BTreeMap<String, usize>| names.values().copied().collect::<Vec<_>>();
        let directories = self.directories.values();
        let mut linked: Vec<usize> = directories.flat_map(|one| named(&one.visible)).collect();
        linked.sort_unstable();
        linked.dedup();
        linked
            .iter()
            .map(|inode| self.inodes[*inode].visible.len())
            .sum()
    }

    /// Forgets the bytes of files that no directory has: nobody can open them again.
    fn forget_unlinked(&mut self) {
        let mut is_linked = vec![false; self.inodes.len()];
        for directory in self.directories.values() {
            for inode in directory.durable.values() {
                is_linked[*inode] = true;
            }
        }
        for (file, _) in self
            .inodes
            .iter_mut()
            .zip(is_linked)
            .filter(|(_, linked)| !linked)
        {
            *file = Inode::default();
        }
    }

    fn reserve(&self, inode: usize, name: &str, at: u64, end: usize) -> Result<(), DiskError> {
        let Some(space) = self.faults.space_bytes else {
            return Ok(());
        };
        let used = self.used();
        let more = end.saturating_sub(self.inodes[inode].visible.len());
        if more > 0 && (used + more) as u64 > space {
            return Err(DiskError::new(
                name,
                Operation::Write,
                at,
                ErrorKind::NoSpace,
            ));
        }
        Ok(())
    }
}

impl Inode {
    /// Makes a write durable.
    fn keep_all(&mut self, pending: &Pending) {
        match pending {
            Pending::Length(len) => self.durable.resize(*len, 0),
            Pending::Sectors {
                first,
                bytes,
                len_after,
            } => {
                let start = first * SECTOR;
                let end = (start + bytes.len()).min(*len_after);
                if self.durable.len() < end {
                    self.durable.resize(end, 0);
                }
                self.durable[start..end].copy_from_slice(&bytes[..end - start]);
            }
        }
    }

    /// Makes those sectors of a write durable that `spare` spares; it is told where a sector lies,
    /// and may change it.
    fn keep(&mut self, pending: &Pending, spare: &mut dyn FnMut(usize, &mut [u8]) -> bool) {
        match pending {
            Pending::Length(len) => {
                if spare(*len, &mut []) {
                    self.durable.resize(*len, 0);
                }
            }
            Pending::Sectors {
                first,
                bytes,
                len_after,
            } => {
                for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                    let at = (first + index) * SECTOR;
                    let end = (at + SECTOR).min(*len_after);
                    let mut sector = sector.to_vec();
                    if spare(at, &mut sector) {
                        if self.durable.len() < end {
                            self.durable.resize(end, 0);
                        }
                        self.durable[at..end].copy_from_slice(&sector[..end - at]);
                    }
                }
            }
        }
    }
}

/// What a crash does to the writes of one file.
#[derive(Clone, Copy)]
enum Style {
    KeepAll,
    LoseAll,
    Tear { kept_of_8: u32 },
}

impl Style {
    fn pick(rng: &mut Rng) -> Self {
        match rng.below(6) {
            0 => Self::KeepAll,
            1 => Self::LoseAll,
            kept => Self::Tear {
                kept_of_8: u32::try_from(kept).unwrap_or(2) + 1,
            },
        }
    }

    /// Whether a sector is kept. `fresh`: no durable bytes lay there, so garbage may come back.
    fn spares(self, rng: &mut Rng, fresh: bool, sector: &mut [u8]) -> bool {
        match self {
            Self::KeepAll => true,
            Self::LoseAll => false,
            Self::Tear { kept_of_8 } => {
                if fresh && !sector.is_empty() && rng.chance(1, 16) {
                    rng.fill(sector);
                    return true;
                }
                rng.chance(kept_of_8, 8)
            }
        }
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Link { name, inode } => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Unlink { name } => {
            names.remove(name);
        }
        NameChange::Rename { from, to } => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

/// A byte offset as an index. No simulated file is longer than memory.
fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
