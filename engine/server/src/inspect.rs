//! Reads the data directory of a node that does not run, for people.
//!
//! Logs are walked byte by byte, and damage is told with its file and offset. Sessions come from
//! the state store with the log behind it, so that they are what a start would find.

mod queues;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use engine_session::{NEVER, SessionRecord};
use engine_shard::Table;
use storage_io::{DirectDisk, DirectoryLock, Disk, DiskError, ReadOnlyDisk};
use storage_log::{Finding, LogError, Record, RecordKind};
use storage_queue::IndexError;
use storage_state::{Options, StateError, StateStore, Writing};

use crate::config::SHARDS_MAX;
use crate::node::OpenError;

pub use queues::queues;

/// Why a directory cannot be inspected or repaired.
#[derive(Debug)]
#[non_exhaustive]
pub enum InspectError {
    /// It is not the data directory of a node.
    NoData(String),
    /// The disk failed, or another process uses the directory.
    Disk(DiskError),
    /// A log cannot be listed.
    Log(LogError),
    /// An index cannot be read.
    Index(IndexError),
    /// The node cannot be opened.
    Open(OpenError),
    /// A state store cannot be read.
    State(StateError),
    /// The output failed.
    Output(io::Error),
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoData(path) => {
                write!(
                    f,
                    "{path} is not a data directory: it has no folder shard-0"
                )
            }
            Self::Disk(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::Index(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
            Self::Output(error) => write!(f, "writing the answer: {error}"),
        }
    }
}

impl std::error::Error for InspectError {}

impl From<DiskError> for InspectError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl From<LogError> for InspectError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<IndexError> for InspectError {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<OpenError> for InspectError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<StateError> for InspectError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<io::Error> for InspectError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Writes one line per segment, record and damage of every log. Returns how many places are
/// damaged.
///
/// # Errors
/// [`InspectError`].
pub fn log(directory: &Path, out: &mut impl Write) -> Result<u64, InspectError> {
    let (disks, _lock) = shards(directory)?;
    let mut damages = 0;
    for (shard, disk) in disks {
        for finding in storage_log::inspect(disk)? {
            damages += u64::from(matches!(finding, Finding::Damage(_)));
            write_finding(shard, &finding, out)?;
        }
    }
    Ok(damages)
}

/// Writes one line per session of every shard. Returns how many places of the logs are damaged.
///
/// # Errors
/// [`InspectError`].
pub fn sessions(directory: &Path, out: &mut impl Write) -> Result<u64, InspectError> {
    let (disks, _lock) = shards(directory)?;
    let mut damages = 0;
    for (shard, disk) in disks {
        let mut state = read_state(&disk)?;
        for finding in storage_log::inspect(disk)? {
            match finding {
                Finding::Record(record) => {
                    let (log, _) = record.address;
                    state.apply(log.0, record.end.0, &record.state)?;
                }
                Finding::Damage(error) => {
                    damages += 1;
                    writeln!(out, "shard-{shard} DAMAGE {error}")?;
                }
                Finding::Start(_)
                | Finding::Segment { .. }
                | Finding::Frame { .. }
                | Finding::End { .. } => {}
            }
        }
        for row in state.scan(Table::Session as u8, &[])? {
            let row = row?;
            match SessionRecord::decode(&row.value) {
                Ok(session) => write_session(shard, &session, out)?,
                Err(error) => {
                    damages += 1;
                    writeln!(out, "shard-{shard} DAMAGE session: {error}")?;
                }
            }
        }
    }
    Ok(damages)
}

/// The state store of a shard, whose file stays as it is.
pub(super) fn read_state(disk: &DirectDisk) -> Result<StateStore, StateError> {
    let disk = ReadOnlyDisk::new(disk.clone());
    StateStore::open(&disk, Options::default(), Writing::Inline)
}

/// The directories of all shards, with the lock that keeps nodes away.
pub(crate) fn shards(
    directory: &Path,
) -> Result<(Vec<(u8, DirectDisk)>, DirectoryLock), InspectError> {
    let is_there = |shard: &u8| directory.join(format!("shard-{shard}")).is_dir();
    let count = (0..SHARDS_MAX).take_while(is_there).count();
    if count == 0 {
        return Err(InspectError::NoData(directory.display().to_string()));
    }
    let disk = DirectDisk::open(directory)?;
    let lock = disk.lock()?;
    let mut disks = Vec::with_capacity(count);
    for shard in (0..SHARDS_MAX).take(count) {
        disks.push((shard, disk.sub(&format!("shard-{shard}"))?));
    }
    Ok((disks, lock))
}

fn write_finding(shard: u8, finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    match finding {
        Finding::Start(start) => writeln!(out, "shard-{shard} begins at {}", start.0),
        Finding::Segment {
            file,
            log_id,
            base,
            size,
            recovered,
        } => {
            write!(
                out,
                "shard-{shard} segment {file} log {} base {} ",
                log_id.0, base.0
            )?;
            match recovered {
                Some(end) => writeln!(out, "size {size} after a recovery at {}", end.0),
                None => writeln!(out, "size {size}"),
            }
        }
        Finding::Frame { .. } => Ok(()),
        Finding::Record(record) => write_record(shard, record, out),
        Finding::End {
            file,
            position,
            is_torn,
        } => {
            let torn = if *is_torn {
                ", an unfinished write behind it"
            } else {
                ""
            };
            writeln!(out, "shard-{shard} end of {file} at byte {position}{torn}")
        }
        Finding::Damage(error) => writeln!(out, "shard-{shard} DAMAGE {error}"),
    }
}

fn write_record(shard: u8, record: &Record, out: &mut impl Write) -> io::Result<()> {
    let kind = match record.kind {
        RecordKind::Message => "message",
        RecordKind::State => "state",
    };
    let (_, offset) = record.address;
    writeln!(
        out,
        "shard-{shard} {kind} at {} publisher {:016x} packet {} stamp {} body {} state {}",
        offset.0,
        record.publisher,
        record.packet_id,
        record.stamp,
        record.body.len(),
        record.state.len()
    )
}

fn write_session(shard: u8, session: &SessionRecord, out: &mut impl Write) -> io::Result<()> {
    write!(
        out,
        "shard-{shard} session {:016x} {:?} expiry ",
        session.id, session.client_id
    )?;
    match session.expiry_s {
        NEVER => write!(out, "never")?,
        seconds => write!(out, "{seconds} s")?,
    }
    match session.ended_ms {
        0 => writeln!(out, " connected"),
        at => writeln!(out, " offline since {at} ms"),
    }
}
