//! Every queue: its name, its offsets, and the files that hold it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use engine_shard::Table;
use storage_io::DirectDisk;
use storage_log::{Finding, LogId, LogOffset, QueueId};
use storage_queue::{FoundQueue, Inspected};

use super::{InspectError, read_state, shards};

/// What the queues of some shards have together.
#[derive(Debug, Default)]
struct Totals {
    queues: usize,
    entries: u64,
    runs: usize,
}

/// One shard.
struct Shelf {
    shard: u8,
    index: Inspected,
    /// Entries that are in the log only: the index catches up with them at the next start.
    logged: BTreeMap<QueueId, u64>,
    names: BTreeMap<QueueId, Vec<u8>>,
}

/// Writes one line per run and queue of every shard. Returns how many places are damaged.
///
/// # Errors
/// [`InspectError`].
pub fn queues(directory: &Path, out: &mut impl Write) -> Result<u64, InspectError> {
    let (disks, _lock) = shards(directory)?;
    let (mut damages, mut all, count) = (0, Totals::default(), disks.len());
    for (shard, disk) in disks {
        let (shelf, damaged) = Shelf::read(shard, &disk, out)?;
        damages += damaged;
        let totals = shelf.write(out)?;
        write_totals(&format!("shard-{shard}"), &totals, out)?;
        all.queues += totals.queues;
        all.entries += totals.entries;
        all.runs += totals.runs;
    }
    write_totals(&format!("{count} shards"), &all, out)?;
    Ok(damages)
}

impl Shelf {
    /// Reads a shard; also tells how many places are damaged, which are written at once.
    fn read(
        shard: u8,
        disk: &DirectDisk,
        out: &mut impl Write,
    ) -> Result<(Self, u64), InspectError> {
        let mut findings = storage_log::inspect(disk.clone())?.peekable();
        let start = match findings.peek() {
            Some(Finding::Start(start)) => *start,
            _ => LogOffset(0),
        };
        let mut index = storage_queue::inspect(disk, LogId(u32::from(shard)), start)?;
        let mut damages = 0;
        for error in &index.damage {
            damages += 1;
            writeln!(out, "shard-{shard} DAMAGE {error}")?;
        }
        let mut state = read_state(disk)?;
        let mut logged = BTreeMap::new();
        for finding in findings {
            match finding {
                Finding::Record(record) => {
                    let (log, at) = record.address;
                    state.apply(log.0, record.end.0, &record.state)?;
                    if index.lacks(at) {
                        for (queue, offset) in record.queues.iter() {
                            index.queues.entry(queue).or_default().count(offset);
                            *logged.entry(queue).or_default() += 1;
                        }
                    }
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
        let mut names = BTreeMap::new();
        for row in state.scan(Table::Queue as u8, &[])? {
            let row = row?;
            let id = row.value.first_chunk().map(|id| u64::from_le_bytes(*id));
            if let (false, Some(id)) = (row.key.is_empty(), id) {
                names.insert(QueueId(id), row.key);
                index.queues.entry(QueueId(id)).or_default();
            }
        }
        let shelf = Self {
            shard,
            index,
            logged,
            names,
        };
        Ok((shelf, damages))
    }

    fn write(&self, out: &mut impl Write) -> io::Result<Totals> {
        let shard = self.shard;
        for run in &self.index.runs {
            writeln!(
                out,
                "shard-{shard} run {} log {}..{} entries {} queues {}",
                run.file, run.range.start.0, run.range.end.0, run.entries, run.queues
            )?;
        }
        let mut totals = Totals {
            queues: self.index.queues.len(),
            entries: 0,
            runs: self.index.runs.len(),
        };
        for (id, queue) in &self.index.queues {
            totals.entries += queue.entries;
            self.write_queue(*id, queue, out)?;
        }
        Ok(totals)
    }

    fn write_queue(&self, id: QueueId, queue: &FoundQueue, out: &mut impl Write) -> io::Result<()> {
        let name = self.names.get(&id).and_then(|name| name.split_first());
        let kind = match name {
            Some((b't', _)) => "topic",
            Some((b's', _)) => "service",
            Some((b'f', _)) => "filter",
            _ => "unnamed",
        };
        let text = name.map_or_else(String::new, |(_, text)| {
            String::from_utf8_lossy(text).into_owned()
        });
        write!(out, "shard-{} queue {} {kind} {text:?} ", self.shard, id.0)?;
        match queue.offsets {
            Some((first, last)) => write!(out, "offsets {first} to {last} ")?,
            None => write!(out, "offsets none ")?,
        }
        write!(out, "entries {} in", queue.entries)?;
        for run in queue
            .runs
            .iter()
            .filter_map(|run| self.index.runs.get(*run))
        {
            write!(out, " {}", run.file)?;
        }
        match self.logged.get(&id) {
            Some(entries) => writeln!(out, " log:{entries}"),
            None => writeln!(out),
        }
    }
}

fn write_totals(what: &str, totals: &Totals, out: &mut impl Write) -> io::Result<()> {
    let Totals {
        queues,
        entries,
        runs,
    } = totals;
    writeln!(
        out,
        "{what}: {queues} queues, {entries} entries, {runs} runs"
    )
}
