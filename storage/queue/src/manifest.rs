//! The manifest: which runs there are. Two slots, written in turn; the valid one with the higher
//! sequence number counts. The byte table is in `docs/formats-queue.md`.

use storage_io::{AlignedBuf, Disk, DiskFile, align_down};
use storage_log::{LogId, LogOffset};

use crate::IndexError;
use crate::fields::{Fields, checksum, index, low_u32, number};
use crate::limits::RUNS_MAX;
use crate::run_file::RunId;

/// The name of the file.
pub(crate) const FILE_NAME: &str = "manifest";
const NEW_FILE_NAME: &str = "manifest.new";

/// The version that this build writes.
pub(crate) const FORMAT_VERSION: u16 = 2;

/// The version before, without the start of the log: it is read, too.
const OLD_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"CLQ-MAN\n";
const SLOT_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 48;
const OLD_HEADER_BYTES: usize = 40;
const LISTED_BYTES: usize = 40;
const SUM_BYTES: usize = 4;
const _: () = assert!(HEADER_BYTES + RUNS_MAX * LISTED_BYTES + SUM_BYTES <= SLOT_BYTES);

/// A run as the manifest lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Listed {
    pub(crate) id: RunId,
    pub(crate) file_len: u64,
    pub(crate) footer_sum: u32,
}

/// All that the manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) log: LogId,
    pub(crate) sequence: u64,
    pub(crate) next_generation: u64,
    /// Where the log begins: entries below are gone.
    pub(crate) start: LogOffset,
    pub(crate) runs: Vec<Listed>,
}

impl State {
    pub(crate) const fn empty(log: LogId) -> Self {
        Self {
            log,
            sequence: 0,
            next_generation: 1,
            start: LogOffset(0),
            runs: Vec::new(),
        }
    }

    /// The bytes of this state, and where they go.
    pub(crate) fn encode(&self) -> (u64, AlignedBuf) {
        debug_assert!(self.runs.len() <= RUNS_MAX);
        let len = HEADER_BYTES + self.runs.len() * LISTED_BYTES + SUM_BYTES;
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.log.0.to_le_bytes());
        out.extend_from_slice(&low_u32(number(len)).to_le_bytes());
        out.extend_from_slice(&low_u32(number(self.runs.len())).to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.next_generation.to_le_bytes());
        out.extend_from_slice(&self.start.0.to_le_bytes());
        for run in &self.runs {
            out.extend_from_slice(&run.id.low.0.to_le_bytes());
            out.extend_from_slice(&run.id.high.0.to_le_bytes());
            out.extend_from_slice(&run.id.generation.to_le_bytes());
            out.extend_from_slice(&run.file_len.to_le_bytes());
            out.extend_from_slice(&run.footer_sum.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        let sum = checksum(0, &out);
        out.extend_from_slice(&sum.to_le_bytes());
        (
            number(SLOT_BYTES) * (self.sequence & 1),
            AlignedBuf::padded(&out),
        )
    }
}

/// What a slot holds.
#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    State(State),
    /// Sound, but of another version.
    Version(u16),
    Unreadable,
}

fn decode(slot: &[u8]) -> Slot {
    if slot.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    decode_state(slot).unwrap_or(Slot::Unreadable)
}

fn decode_state(slot: &[u8]) -> Option<Slot> {
    let mut fields = Fields(slot);
    let magic = fields.array::<8>()?;
    let (version, _) = (fields.u16()?, fields.u16()?);
    let log = LogId(fields.u32()?);
    let len = index(u64::from(fields.u32()?));
    let count = index(u64::from(fields.u32()?));
    let (summed, mut sum) = {
        let (summed, sum) = slot
            .get(..len)?
            .split_at_checked(len.checked_sub(SUM_BYTES)?)?;
        (summed, Fields(sum))
    };
    if magic != MAGIC || sum.u32()? != checksum(0, summed) {
        return None;
    }
    if version != FORMAT_VERSION && version != OLD_VERSION {
        return Some(Slot::Version(version));
    }
    let (sequence, next_generation) = (fields.u64()?, fields.u64()?);
    let (start, header_bytes) = match version {
        OLD_VERSION => (LogOffset(0), OLD_HEADER_BYTES),
        _ => (LogOffset(fields.u64()?), HEADER_BYTES),
    };
    if count > RUNS_MAX || len != header_bytes + count * LISTED_BYTES + SUM_BYTES {
        return None;
    }
    let mut runs: Vec<Listed> = Vec::with_capacity(count);
    let mut reached = None;
    for _ in 0..count {
        let (low, high) = (LogOffset(fields.u64()?), LogOffset(fields.u64()?));
        let id = RunId {
            log,
            low,
            high,
            generation: fields.u64()?,
        };
        let run = Listed {
            id,
            file_len: fields.u64()?,
            footer_sum: fields.u32()?,
        };
        fields.u32()?;
        // The runs tile the log from its start on, in which the first one may begin earlier.
        let follows = reached.map_or(low <= start && start < high, |end| end == low);
        if !follows || high <= low {
            return None;
        }
        reached = Some(high);
        runs.push(run);
    }
    Some(Slot::State(State {
        log,
        sequence,
        next_generation,
        start,
        runs,
    }))
}

/// The manifest on disk.
#[derive(Debug)]
pub(crate) struct Manifest<F> {
    pub(crate) file: F,
    pub(crate) state: State,
}

impl<F: DiskFile> Manifest<F> {
    /// Opens the manifest or creates it. One that is not readable counts as empty, and is
    /// reported: the index is then rebuilt from the start of the log.
    pub(crate) fn open<D: Disk<File = F>>(
        disk: &D,
        log: LogId,
    ) -> Result<(Self, Option<IndexError>), IndexError> {
        let names = disk.list()?;
        if !names.iter().any(|name| name == FILE_NAME) {
            let file = create(disk, &names)?;
            let damage = is_gone(&names);
            return Ok((
                Self {
                    file,
                    state: State::empty(log),
                },
                damage,
            ));
        }
        let file = disk.open(FILE_NAME)?;
        // A state that was written and not synced before the process ended counts from now on:
        // what it does not list is removed.
        file.sync()?;
        let (state, damage) = choose(&file, log)?;
        Ok((Self { file, state }, damage))
    }

    /// Makes a new state durable. Blocks.
    pub(crate) fn write(&mut self, state: State) -> Result<(), IndexError> {
        let (offset, bytes) = state.encode();
        self.file.write_at(offset, &bytes)?;
        self.file.sync()?;
        self.state = state;
        Ok(())
    }
}

/// The state that counts; an empty one, and what is wrong, when none is readable.
fn choose<F: DiskFile>(file: &F, log: LogId) -> Result<(State, Option<IndexError>), IndexError> {
    let (state, damage) = match read_slots(file)? {
        (Slot::State(one), Slot::State(two)) => (
            if one.sequence > two.sequence {
                one
            } else {
                two
            },
            None,
        ),
        (Slot::State(state), _) | (_, Slot::State(state)) => (state, None),
        (Slot::Empty, Slot::Empty) => (State::empty(log), None),
        (Slot::Version(found), _) | (_, Slot::Version(found)) => {
            let (file, expected) = (FILE_NAME.to_owned(), FORMAT_VERSION);
            return Err(IndexError::Format {
                file,
                found,
                expected,
            });
        }
        (Slot::Unreadable, _) | (_, Slot::Unreadable) => {
            let damage = unreadable("no slot passes its checksum and the other is not empty");
            (State::empty(log), Some(damage))
        }
    };
    if state.log != log {
        let (file, found) = (FILE_NAME.to_owned(), state.log);
        return Err(IndexError::WrongLog {
            file,
            found,
            expected: log,
        });
    }
    Ok((state, damage))
}

/// What the manifest in `disk` says; changes nothing.
pub(crate) fn read<D: Disk>(
    disk: &D,
    log: LogId,
) -> Result<(State, Option<IndexError>), IndexError> {
    let names = disk.list()?;
    if names.iter().any(|name| name == FILE_NAME) {
        return choose(&disk.open(FILE_NAME)?, log);
    }
    Ok((State::empty(log), is_gone(&names)))
}

/// The damage when there is no manifest: none when there are no runs either.
fn is_gone(names: &[String]) -> Option<IndexError> {
    let mut runs = names
        .iter()
        .filter_map(|name| crate::run_file::generation_of(name));
    runs.next()
        .map(|_| unreadable("it is gone, and there are run files"))
}

fn unreadable(reason: &'static str) -> IndexError {
    IndexError::Manifest {
        file: FILE_NAME.to_owned(),
        reason,
    }
}

/// Creates the file under another name first: under its own it is always whole.
fn create<D: Disk>(disk: &D, names: &[String]) -> Result<D::File, IndexError> {
    if names.iter().any(|name| name == NEW_FILE_NAME) {
        disk.remove(NEW_FILE_NAME)?;
    }
    let file = disk.create(NEW_FILE_NAME)?;
    file.write_at(0, &AlignedBuf::zeroed(2 * SLOT_BYTES))?;
    file.sync()?;
    disk.rename(NEW_FILE_NAME, FILE_NAME)?;
    disk.sync_dir()?;
    Ok(disk.open(FILE_NAME)?)
}

fn read_slots<F: DiskFile>(file: &F) -> Result<(Slot, Slot), IndexError> {
    let len = align_down(file.len()?).min(number(2 * SLOT_BYTES));
    let bytes = file.read_at(0, index(len))?;
    let (one, two) = bytes.split_at(bytes.len().min(SLOT_BYTES));
    Ok((decode(one), decode(two)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(runs: u64) -> Vec<u8> {
        let run = |n| Listed {
            id: RunId {
                log: LogId(3),
                low: LogOffset(n * 100),
                high: LogOffset((n + 1) * 100),
                generation: n,
            },
            file_len: 4 * 4096,
            footer_sum: 7,
        };
        let state = State {
            runs: (0..runs).map(run).collect(),
            ..State::empty(LogId(3))
        };
        let (_, slot) = state.encode();
        slot[..HEADER_BYTES + index(runs) * LISTED_BYTES + SUM_BYTES].to_vec()
    }

    #[test]
    fn mutated_slots() {
        crate::mutate::fuzz(&[slot(0), slot(1), slot(20)], |bytes| {
            std::hint::black_box(decode(bytes));
            // The sum lies where the length says.
            let mut sealed = bytes.to_vec();
            let len = sealed.get(16..20).and_then(|len| len.try_into().ok());
            let end = len.map_or(0, |len| index(u64::from(u32::from_le_bytes(len))));
            if let Some(slot) = sealed.get_mut(..end)
                && let Some((summed, sum)) = slot.split_last_chunk_mut::<SUM_BYTES>()
            {
                *sum = checksum(0, summed).to_le_bytes();
            }
            matches!(decode(&sealed), Slot::State(_))
        });
    }
}
