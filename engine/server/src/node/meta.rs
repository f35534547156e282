//! `node.meta`: what a data directory is, in two copies that are written one after the other at
//! every start, so that damage to one of them loses nothing: a boot number is never used again.
//!
//! ```text
//! offset size
//! 0      8    magic "CORELANE"
//! 8      4    format version, 1
//! 12     4    shards
//! 16     8    sequence number: the copy with the higher one counts
//! 24     4    boot number: grows by one with every start
//! 28     4    reserved, 0
//! 32     8    seed of the node's own randomness
//! 40     16   hash that decides homes and owners, "xxh3-64 seed 0", zero padded
//! 56     4    CRC-32 of bytes 0 to 55
//! ```
//! Numbers are little endian. The copies lie at 0 and 4096; the rest of a block is zero.

use storage_io::{ALIGN, AlignedBuf, Disk, DiskFile};

use super::error::OpenError;

/// The version of the data directory's format that this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;

const FILE: &str = "node.meta";
const MAGIC: [u8; 8] = *b"CORELANE";
const HASH: [u8; 16] = *b"xxh3-64 seed 0\0\0";
const CHECKED_LEN: usize = 56;

/// The contents of `node.meta`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Shards that the directory was made for.
    pub shards: u8,
    /// The number of this start.
    pub boot: u32,
    /// Randomness of the node, chosen when the directory was made.
    pub seed: u64,
    sequence: u64,
}

/// What one copy says.
enum Copy {
    Empty,
    Present(Meta),
    Damaged,
}

impl Meta {
    /// Reads the file, or makes it; counts the start, durably.
    ///
    /// # Errors
    /// [`OpenError`] when the disk fails, both copies are damaged, or the directory is of another
    /// format version or another number of shards.
    pub fn open<D: Disk>(disk: &D, shards: u8, seed: u64) -> Result<Self, OpenError> {
        let exists = disk.list()?.iter().any(|name| name == FILE);
        let file = if exists {
            disk.open(FILE)?
        } else {
            disk.create(FILE)?
        };
        let found = if exists { Self::read(&file)? } else { None };
        let meta = match found {
            Some(meta) if meta.shards != shards => {
                return Err(OpenError::Shards {
                    expected: meta.shards,
                    got: shards,
                });
            }
            Some(meta) => Self {
                boot: meta.boot + 1,
                sequence: meta.sequence + 1,
                ..meta
            },
            // Shards are made when the file is durable.
            None if !disk.sub("shard-0")?.list()?.is_empty() => {
                return Err(OpenError::Lost { file: FILE });
            }
            None => {
                file.write_at(0, &AlignedBuf::zeroed(2 * ALIGN))?;
                Self {
                    shards,
                    boot: 1,
                    seed,
                    sequence: 0,
                }
            }
        };
        let is_new = meta.sequence == 0;
        // The older copy, or the damaged one, first: there is a valid one at any time.
        meta.write(&file)?;
        let meta = Self {
            sequence: meta.sequence + 1,
            ..meta
        };
        meta.write(&file)?;
        if is_new {
            // Its name too, whoever made it.
            disk.sync_dir()?;
        }
        Ok(meta)
    }

    fn write<F: DiskFile>(&self, file: &F) -> Result<(), OpenError> {
        file.write_at((self.sequence % 2) * ALIGN as u64, &self.encode())?;
        Ok(file.sync()?)
    }

    /// The newer of the two copies; `None` for a file that never got one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read<F: DiskFile>(file: &F) -> Result<Option<Self>, OpenError> {
        if file.len()? < 2 * ALIGN as u64 {
            return Ok(None);
        }
        let bytes = file.read_at(0, 2 * ALIGN)?;
        let (first, second) = bytes.split_at(ALIGN);
        match (Self::decode(first)?, Self::decode(second)?) {
            (Copy::Present(a), Copy::Present(b)) => {
                Ok(Some(if a.sequence > b.sequence { a } else { b }))
            }
            (Copy::Present(one), _) | (_, Copy::Present(one)) => Ok(Some(one)),
            (Copy::Empty, Copy::Empty) => Ok(None),
            (Copy::Damaged, _) | (_, Copy::Damaged) => Err(OpenError::Unreadable { file: FILE }),
        }
    }

    fn encode(&self) -> AlignedBuf {
        let mut fields = Vec::with_capacity(CHECKED_LEN + 4);
        fields.extend_from_slice(&MAGIC);
        fields.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        fields.extend_from_slice(&u32::from(self.shards).to_le_bytes());
        fields.extend_from_slice(&self.sequence.to_le_bytes());
        fields.extend_from_slice(&self.boot.to_le_bytes());
        fields.extend_from_slice(&0u32.to_le_bytes());
        fields.extend_from_slice(&self.seed.to_le_bytes());
        fields.extend_from_slice(&HASH);
        fields.extend_from_slice(&crc32fast::hash(&fields).to_le_bytes());
        AlignedBuf::padded(&fields)
    }

    fn decode(block: &[u8]) -> Result<Copy, OpenError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Copy::Empty);
        }
        let Some((checked, rest)) = block.split_at_checked(CHECKED_LEN) else {
            return Ok(Copy::Damaged);
        };
        let number = |at: usize| -> u32 {
            let bytes = checked
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let long = |at: usize| u64::from(number(at)) | (u64::from(number(at + 4)) << 32);
        let crc = rest
            .first_chunk::<4>()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if !checked.starts_with(&MAGIC) || crc != crc32fast::hash(checked) {
            return Ok(Copy::Damaged);
        }
        let version = number(8);
        if version != FORMAT_VERSION {
            return Err(OpenError::Format {
                file: FILE,
                expected: FORMAT_VERSION,
                got: version,
            });
        }
        let Ok(shards) = u8::try_from(number(12)) else {
            return Ok(Copy::Damaged);
        };
        let meta = Self {
            shards,
            boot: number(24),
            seed: long(32),
            sequence: long(16),
        };
        Ok(Copy::Present(meta))
    }
}

#[cfg(test)]
mod tests {
    use storage_io::sim::{Rng, SimDisk};

    use super::*;

    #[test]
    fn no_boot_number_is_used_again_whichever_copy_is_damaged() {
        let disk = SimDisk::new(1);
        let mut rng = Rng::new(2);
        let mut last = 0;
        for start in 0..200 {
            let meta = Meta::open(&disk, 3, 7).unwrap();
            assert!(
                meta.boot > last,
                "start {start}: {} after {last}",
                meta.boot
            );
            assert_eq!((meta.shards, meta.seed), (3, 7));
            last = meta.boot;
            let copy = rng.index(2) * ALIGN;
            let at = copy + rng.index(CHECKED_LEN + 4);
            assert!(disk.flip_bit(FILE, at, 3));
            if rng.chance(1, 3) {
                disk.crash(start);
            }
        }
    }

    #[test]
    fn a_start_that_is_cut_short_leaves_a_copy() {
        for writes in 0..3 {
            let disk = SimDisk::new(3);
            let boot = Meta::open(&disk, 1, 7).unwrap().boot;
            let file = disk.open(FILE).unwrap();
            let found = Meta::read(&file).unwrap().unwrap();
            for number in 1..=writes {
                let sequence = found.sequence + number;
                let boot = boot + 1;
                let next = Meta {
                    boot,
                    sequence,
                    ..found
                };
                next.write(&file).unwrap();
            }
            // The copy that would have been written next is torn.
            let torn = ((found.sequence + writes + 1) % 2) * ALIGN as u64;
            let torn = usize::try_from(torn).unwrap();
            assert!(disk.flip_bit(FILE, torn + 30, 1));
            let again = Meta::open(&disk, 1, 7).unwrap();
            assert_eq!(again.boot, boot + if writes == 0 { 1 } else { 2 });
        }
    }
}
