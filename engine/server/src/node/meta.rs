//! `node.meta`: what a data directory is, in two copies that are written one after the other at
//! every start, so that damage to one of them loses nothing: a boot number is never used again.
//!
//! ```text
//! offset size
//! 0      8    magic "CORELANE"
//! 8      4    format version, 2; in 1 every shard is a home
//! 12     4    shards: as many as there ever were, each has a log
//! 16     8    sequence number: the copy with the higher one counts
//! 24     4    boot number: grows by one with every start
//! 28     2    homes: the first so many shards
//! 30     2    0, or the number of homes before or after, while state moves between them
//! 32     8    seed of the node's own randomness
//! 40     16   hash that decides homes and owners, "xxh3-64 seed 0", zero padded
//! 56     4    CRC-32 of bytes 0 to 55
//! 64     4    CRC-32 of bytes 68 to 3655
//! 68     4    fences, 0 to 7: changes of the homes, the oldest first
//! 72     512  by fence: where each of 64 logs ended, 8 bytes each, 0 for those that came later
//! ```
//! Numbers are little endian. The copies lie at 0 and 4096; the rest of a block is zero.

use engine_shard::LogOffset;
use storage_io::{ALIGN, AlignedBuf, Disk, DiskFile};

use super::error::OpenError;

/// The version of the data directory's format that this build writes; it reads version 1 as well.
pub const FORMAT_VERSION: u32 = 2;

const FILE: &str = "node.meta";
const MAGIC: [u8; 8] = *b"CORELANE";
const HASH: [u8; 16] = *b"xxh3-64 seed 0\0\0";
const CHECKED_LEN: usize = 56;

/// Changes of the homes that are remembered. A session that was away for longer than that may get
/// publications of one publisher from before and after a change out of order.
const FENCES_MAX: usize = 7;
const FENCES_AT: usize = 64;
const FENCE_LEN: usize = 64 * 8;
const FENCES_LEN: usize = 4 + FENCES_MAX * FENCE_LEN;

/// The contents of `node.meta`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Shards that the directory has: as many as there ever were.
    pub shards: u8,
    /// The first so many are the homes of clients and topics.
    pub homes: u8,
    /// 0, or another number of homes: rows may lie where that puts them.
    pub moving: u8,
    /// The number of this start.
    pub boot: u32,
    /// Randomness of the node, chosen when the directory was made.
    pub seed: u64,
    /// Where every log ended when the homes changed, the oldest change first, at most
    /// 7: older ones are forgotten.
    pub fences: Vec<Vec<LogOffset>>,
    sequence: u64,
}

/// What one copy says.
enum Copy {
    Empty,
    Present(Meta),
    Damaged,
}

impl Meta {
    /// Reads the file, or makes it; counts the start, durably. There are `shards` from now on, or
    /// more if there were; which are homes stays.
    ///
    /// # Errors
    /// [`OpenError`] when the disk fails, both copies are damaged, or the directory is of another
    /// format version.
    pub fn open<D: Disk>(disk: &D, shards: u8, seed: u64) -> Result<Self, OpenError> {
        let exists = disk.list()?.iter().any(|name| name == FILE);
        let file = if exists {
            disk.open(FILE)?
        } else {
            disk.create(FILE)?
        };
        let found = if exists { Self::read(&file)? } else { None };
        let meta = match found {
            Some(meta) => Self {
                shards: meta.shards.max(shards),
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
                    homes: shards,
                    moving: 0,
                    fences: Vec::new(),
                    boot: 1,
                    seed,
                    sequence: 0,
                }
            }
        };
        let is_new = meta.sequence == 0;
        let meta = meta.write_both(&file)?;
        if is_new {
            // Its name too, whoever made it.
            disk.sync_dir()?;
        }
        Ok(meta)
    }

    /// Remembers where the logs end, with the next [`Self::set_homes`].
    pub fn add_fence(&mut self, ends: Vec<LogOffset>) {
        if self.fences.len() == FENCES_MAX {
            self.fences.remove(0);
        }
        self.fences.push(ends);
    }

    /// Notes, durably, which shards are homes, and which number of them (or 0) was or will be.
    ///
    /// # Errors
    /// [`OpenError`] when the disk fails.
    pub fn set_homes<D: Disk>(&mut self, disk: &D, homes: u8, moving: u8) -> Result<(), OpenError> {
        let next = Self {
            homes,
            moving,
            sequence: self.sequence + 1,
            ..self.clone()
        };
        *self = next.write_both(&disk.open(FILE)?)?;
        Ok(())
    }

    /// The older copy, or the damaged one, first: there is a valid one at any time.
    fn write_both<F: DiskFile>(self, file: &F) -> Result<Self, OpenError> {
        self.write(file)?;
        let meta = Self {
            sequence: self.sequence + 1,
            ..self
        };
        meta.write(file)?;
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
        fields.extend_from_slice(&u16::from(self.homes).to_le_bytes());
        fields.extend_from_slice(&u16::from(self.moving).to_le_bytes());
        fields.extend_from_slice(&self.seed.to_le_bytes());
        fields.extend_from_slice(&HASH);
        fields.extend_from_slice(&crc32fast::hash(&fields).to_le_bytes());
        fields.resize(FENCES_AT + 4, 0);
        let count = u32::try_from(self.fences.len()).unwrap_or(u32::MAX);
        fields.extend_from_slice(&count.to_le_bytes());
        for (number, fence) in self.fences.iter().enumerate() {
            fields.resize(FENCES_AT + 8 + number * FENCE_LEN, 0);
            for end in fence {
                fields.extend_from_slice(&end.0.to_le_bytes());
            }
        }
        fields.resize(FENCES_AT + 4 + FENCES_LEN, 0);
        let crc = crc32fast::hash(fields.get(FENCES_AT + 4..).unwrap_or_default());
        if let Some(place) = fields.get_mut(FENCES_AT..FENCES_AT + 4) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
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
        if !(1..=FORMAT_VERSION).contains(&version) {
            return Err(OpenError::Format {
                file: FILE,
                expected: FORMAT_VERSION,
                got: version,
            });
        }
        let narrow = |number: u32| u8::try_from(number).ok();
        let homes = number(28);
        let (Some(shards), Some(homes), Some(moving)) = (
            narrow(number(12)),
            narrow(homes & 0xffff),
            narrow(homes >> 16),
        ) else {
            return Ok(Copy::Damaged);
        };
        let Some(fences) = Self::decode_fences(version, shards, block) else {
            return Ok(Copy::Damaged);
        };
        let meta = Self {
            shards,
            fences,
            homes: if version == 1 { shards } else { homes },
            moving,
            boot: number(24),
            seed: long(32),
            sequence: long(16),
        };
        Ok(Copy::Present(meta))
    }

    /// `None`: damaged.
    fn decode_fences(version: u32, shards: u8, block: &[u8]) -> Option<Vec<Vec<LogOffset>>> {
        if version == 1 {
            return Some(Vec::new());
        }
        let (crc, rest) = block.get(FENCES_AT..)?.split_first_chunk::<4>()?;
        let checked = rest.get(..FENCES_LEN)?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(checked) {
            return None;
        }
        let (count, fences) = checked.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let end = |bytes: &[u8]| bytes.first_chunk().map(|end| u64::from_le_bytes(*end));
        let fence = |bytes: &[u8]| {
            let ends = bytes.chunks(8).take(usize::from(shards));
            ends.map(|bytes| end(bytes).map(LogOffset)).collect()
        };
        fences.chunks(FENCE_LEN).take(count).map(fence).collect()
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
                    ..found.clone()
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

    /// Hexadecimal digits, a line for 32 bytes; what is behind the last line is zero.
    fn hex(bytes: &[u8]) -> String {
        let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let line = |row: &[u8]| {
            let digits: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
            digits + "\n"
        };
        bytes[..used].chunks(32).map(line).collect()
    }

    fn block(hex: &str) -> Vec<u8> {
        let lines = hex.lines().flat_map(|line| line.as_bytes().chunks(2));
        let byte = |two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        let mut block: Vec<u8> = lines.map(byte).collect();
        block.resize(ALIGN, 0);
        block
    }

    /// A disk whose file has these two copies.
    fn holding(copies: [&[u8]; 2]) -> SimDisk {
        let disk = SimDisk::new(5);
        drop(Meta::open(&disk, 1, 7).unwrap());
        disk.rot(FILE, &mut |bytes| {
            bytes[..ALIGN].copy_from_slice(copies[0]);
            bytes[ALIGN..2 * ALIGN].copy_from_slice(copies[1]);
        });
        disk
    }

    fn sample() -> Meta {
        let ends = |first| vec![LogOffset(first), LogOffset(0x0708_090a_0b0c_0d0e)];
        Meta {
            shards: 3,
            homes: 2,
            moving: 3,
            boot: 0x1112_1314,
            seed: 0x2122_2324_2526_2728,
            fences: vec![ends(0x0102), ends(0x0304)],
            sequence: 0x3132_3334_3536_3738,
        }
    }

    const GOLDEN_V1: &str = include_str!("golden_meta_v1.hex");
    const GOLDEN_V2: &str = include_str!("golden_meta_v2.hex");

    #[test]
    fn golden_files() {
        assert_eq!(hex(&sample().encode()), GOLDEN_V2);
        let disk = holding([&block(GOLDEN_V2), &[0; ALIGN]]);
        let read = Meta::read(&disk.open(FILE).unwrap()).unwrap().unwrap();
        // A log that came later ended at 0.
        let mut expected = sample();
        let fences = expected.fences.iter_mut();
        fences.for_each(|fence| fence.push(LogOffset::ZERO));
        assert_eq!(read, expected);

        // Version 1 has no fences, and every shard is a home; the next write is version 2.
        let disk = holding([&[0; ALIGN], &block(GOLDEN_V1)]);
        let read = Meta::read(&disk.open(FILE).unwrap()).unwrap().unwrap();
        let old = Meta {
            homes: 3,
            moving: 0,
            fences: Vec::new(),
            ..sample()
        };
        assert_eq!(read, old);
        let opened = Meta::open(&disk, 3, 7).unwrap();
        assert_eq!((opened.boot, opened.seed), (old.boot + 1, old.seed));
        assert_eq!(disk.contents(FILE).unwrap()[8], 2);
    }

    #[test]
    fn another_version_is_refused() {
        for version in [0, 3] {
            let mut other = block(GOLDEN_V2);
            other[8] = version;
            let crc = crc32fast::hash(&other[..CHECKED_LEN]);
            other[CHECKED_LEN..CHECKED_LEN + 4].copy_from_slice(&crc.to_le_bytes());
            // The copy beside it is of no use: it may be older.
            for copies in [[other.clone(), block(GOLDEN_V2)], [block(GOLDEN_V2), other]] {
                let disk = holding([&copies[0], &copies[1]]);
                let error = Meta::open(&disk, 3, 7).unwrap_err().to_string();
                let expected = format!(
                    "node.meta: the data directory has format version {version}, this build reads \
                     2; use a build that knows it"
                );
                assert_eq!(error, expected);
                assert_eq!(disk.contents(FILE).unwrap(), copies.concat(), "as it was");
            }
        }
    }

    /// With right sums.
    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut block = bytes.to_vec();
        block.resize(ALIGN, 0);
        for (summed, at) in [
            (0..CHECKED_LEN, CHECKED_LEN),
            (FENCES_AT + 4..FENCES_AT + 4 + FENCES_LEN, FENCES_AT),
        ] {
            let crc = crc32fast::hash(&block[summed]);
            block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
        block
    }

    #[test]
    fn mutated_copies() {
        let samples = [GOLDEN_V1, GOLDEN_V2].map(|hex| block(hex)[..CHECKED_LEN + 48].to_vec());
        crate::mutate::fuzz(&samples, |bytes| {
            drop(Meta::decode(bytes));
            matches!(Meta::decode(&sealed(bytes)), Ok(Copy::Present(_)))
        });
    }
}
