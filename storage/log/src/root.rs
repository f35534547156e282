//! The root, file `start`: where the log begins, in two blocks that are written in turn.
//!
//! Everything below the start has been retired: its segments are going to be removed or used
//! again. The start is durable here before the first of them is touched. The valid block with the
//! higher sequence number counts. A log without this file, or with two blocks of zeroes, begins
//! at 0.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `CLROOT` and two zeroes |
//! | 8 | 4 | format version of the root, 1 |
//! | 12 | 4 | log id of the root |
//! | 16 | 8 | sequence number; the block is at 4096 times its lowest bit |
//! | 24 | 8 | start: log offset of the first segment in use |
//! | 32 | 4 | CRC-32 of bytes 0..32 |

use storage_io::{ALIGN, AlignedBuf, Disk, DiskFile};

use crate::bytes_io::{Fields, Sink, checksum};
use crate::record::Mismatch;
use crate::{LogError, LogId, LogOffset};

/// The name of the file.
pub(crate) const ROOT_NAME: &str = "start";
const NEW_NAME: &str = "start.new";
const MAGIC: [u8; 8] = *b"CLROOT\0\0";
const VERSION: u32 = 1;
const WRONG_LOG: &str = "log id of a root";
const CHECKED_BYTES: usize = 32;

/// What a block says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RootState {
    pub(crate) log_id: LogId,
    pub(crate) sequence: u64,
    pub(crate) start: LogOffset,
}

/// What became of reading a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    Present(RootState),
    Version(u32),
    Unreadable(Mismatch),
}

impl RootState {
    /// The state with another start, to be written in the other block.
    pub(crate) const fn next(self, start: LogOffset) -> Self {
        Self {
            sequence: self.sequence + 1,
            start,
            ..self
        }
    }

    /// Where the block goes, and its bytes.
    pub(crate) fn encode(&self) -> (u64, AlignedBuf) {
        let mut fields = [0; CHECKED_BYTES + 4];
        let (head, tail) = fields.split_at_mut(CHECKED_BYTES);
        let mut sink = Sink::new(head);
        sink.put(&MAGIC);
        sink.u32(VERSION);
        sink.u32(self.log_id.0);
        sink.u64(self.sequence);
        sink.u64(self.start.0);
        sink.finish();
        tail.copy_from_slice(&checksum(0, head).to_le_bytes());
        let offset = ALIGN as u64 * (self.sequence & 1);
        (offset, AlignedBuf::padded(&fields))
    }
}

fn decode(block: &[u8]) -> Slot {
    if block.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    let short = Mismatch::new("bytes of a root", 36, block.len() as u64);
    let Some((head, tail)) = block.split_at_checked(CHECKED_BYTES) else {
        return Slot::Unreadable(short);
    };
    let (stored, computed) = (Fields(tail).u32(), checksum(0, head));
    if stored != Some(computed) || !head.starts_with(&MAGIC) {
        let (expected, got) = (u64::from(computed), u64::from(stored.unwrap_or_default()));
        return Slot::Unreadable(Mismatch::new("CRC of a root", expected, got));
    }
    let mut fields = Fields(head);
    let read = || {
        fields.bytes::<8>()?;
        let version = fields.u32()?;
        let state = RootState {
            log_id: LogId(fields.u32()?),
            sequence: fields.u64()?,
            start: LogOffset(fields.u64()?),
        };
        Some((version, state))
    };
    match { read }() {
        Some((VERSION, state)) => Slot::Present(state),
        Some((version, _)) => Slot::Version(version),
        None => Slot::Unreadable(short),
    }
}

/// Reads the root; a log that has none begins at 0.
///
/// # Errors
/// When the disk fails, neither block can be read, or the root is another log's.
pub(crate) fn read_root<D: Disk>(disk: &D, log_id: LogId) -> Result<RootState, LogError> {
    let new = RootState {
        log_id,
        ..RootState::default()
    };
    if !disk.list()?.iter().any(|name| name == ROOT_NAME) {
        return Ok(new);
    }
    let file = disk.open(ROOT_NAME)?;
    let damaged = |mismatch| LogError::damaged(ROOT_NAME.to_owned(), 0, mismatch);
    let len = file.len()?;
    if len < 2 * ALIGN as u64 {
        let expected = 2 * ALIGN as u64;
        return Err(damaged(Mismatch::new("length of a root", expected, len)));
    }
    let bytes = file.read_at(0, 2 * ALIGN)?;
    let (one, two) = bytes.split_at(ALIGN);
    let state = match (decode(one), decode(two)) {
        (Slot::Version(found), _) | (_, Slot::Version(found)) => {
            let file = ROOT_NAME.to_owned();
            return Err(LogError::UnknownVersion { file, found });
        }
        (Slot::Present(one), Slot::Present(two)) if one.sequence > two.sequence => one,
        (_, Slot::Present(state)) | (Slot::Present(state), _) => state,
        (Slot::Empty, Slot::Empty) => new,
        (Slot::Unreadable(why), _) | (_, Slot::Unreadable(why)) => return Err(damaged(why)),
    };
    if state.log_id != log_id {
        let (expected, got) = (u64::from(log_id.0), u64::from(state.log_id.0));
        return Err(damaged(Mismatch::new(WRONG_LOG, expected, got)));
    }
    Ok(state)
}

/// Where the log begins, whatever log it is.
pub(crate) fn start_of<D: Disk>(disk: &D) -> Result<LogOffset, LogError> {
    let read = |log_id| read_root(disk, log_id).map(|root| root.start);
    match read(LogId(0)) {
        Err(LogError::Damaged { what, got, .. }) if what == WRONG_LOG => {
            read(LogId(u32::try_from(got).unwrap_or(u32::MAX)))
        }
        other => other,
    }
}

/// Opens the file, which is made, with zeroes, when it is missing. Blocks.
pub(crate) fn open_root<D: Disk>(disk: &D) -> Result<D::File, LogError> {
    let names = disk.list()?;
    if !names.iter().any(|name| name == ROOT_NAME) {
        if names.iter().any(|name| name == NEW_NAME) {
            disk.remove(NEW_NAME)?;
        }
        let file = disk.create(NEW_NAME)?;
        file.write_at(0, &AlignedBuf::zeroed(2 * ALIGN))?;
        file.sync()?;
        disk.rename(NEW_NAME, ROOT_NAME)?;
        disk.sync_dir()?;
    }
    let file = disk.open(ROOT_NAME)?;
    // What was read may have been written and not synced before the process ended: it counts from
    // now on, as files below the start are removed.
    file.sync()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sequence: u64, start: u64) -> RootState {
        RootState {
            log_id: LogId(3),
            sequence,
            start: LogOffset(start),
        }
    }

    #[test]
    fn version_1_is_what_it_was() {
        let (offset, bytes) = state(0x0102, 0x1112_1314).encode();
        let mut golden =
            b"CLROOT\0\0\x01\0\0\0\x03\0\0\0\x02\x01\0\0\0\0\0\0\x14\x13\x12\x11".to_vec();
        golden.resize(32, 0);
        golden.extend_from_slice(&0x88ee_8093_u32.to_le_bytes());
        assert_eq!((offset, &bytes[..36]), (0, &golden[..]));
        assert_eq!(decode(&bytes), Slot::Present(state(0x0102, 0x1112_1314)));
    }

    #[test]
    fn the_newer_block_counts_and_damage_is_told() {
        let disk = storage_io::sim::SimDisk::new(1);
        assert_eq!(read_root(&disk, LogId(3)), Ok(state(0, 0)));
        let file = open_root(&disk).unwrap();
        assert_eq!(read_root(&disk, LogId(3)), Ok(state(0, 0)));
        for (sequence, start) in [(1, 7), (2, 9)] {
            let (offset, bytes) = state(sequence, start).encode();
            file.write_at(offset, &bytes).unwrap();
            assert_eq!(read_root(&disk, LogId(3)), Ok(state(sequence, start)));
        }
        let other = read_root(&disk, LogId(4)).unwrap_err().to_string();
        assert!(other.contains("log id of a root should be 4"), "{other}");
        assert!(disk.flip_bit(ROOT_NAME, 25, 1));
        assert_eq!(read_root(&disk, LogId(3)), Ok(state(1, 7)));
        assert!(disk.flip_bit(ROOT_NAME, 4096 + 25, 1));
        let damaged = read_root(&disk, LogId(3)).unwrap_err().to_string();
        assert!(damaged.contains("CRC of a root"), "{damaged}");
    }

    #[test]
    fn another_version_is_refused() {
        let disk = storage_io::sim::SimDisk::new(1);
        let file = open_root(&disk).unwrap();
        for sequence in [1, 2] {
            let (offset, bytes) = state(sequence, 7).encode();
            file.write_at(offset, &bytes).unwrap();
        }
        // The other block is of no use: it may be older.
        disk.rot(ROOT_NAME, &mut |bytes| {
            bytes[8] = 2;
            let sum = checksum(0, &bytes[..CHECKED_BYTES]);
            bytes[CHECKED_BYTES..CHECKED_BYTES + 4].copy_from_slice(&sum.to_le_bytes());
        });
        let error = read_root(&disk, LogId(3)).unwrap_err().to_string();
        let expected = "start has format version 2; this program reads version 1";
        assert_eq!(error, expected);
    }

    #[test]
    fn mutated_blocks() {
        let block = |sequence, start| state(sequence, start).encode().1[..40].to_vec();
        crate::mutate::fuzz(&[block(1, 4096), block(2, u64::MAX)], |bytes| {
            std::hint::black_box(decode(bytes));
            let mut sealed = bytes.to_vec();
            if let Some((head, tail)) = sealed.split_at_mut_checked(CHECKED_BYTES) {
                let sum = checksum(0, head).to_le_bytes();
                tail.iter_mut().zip(sum).for_each(|(to, byte)| *to = byte);
            }
            matches!(decode(&sealed), Slot::Present(_))
        });
    }
}
