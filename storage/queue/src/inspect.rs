//! Looking at an index that nobody has open: every queue, every run, and all damage. Changes
//! nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use storage_io::Disk;
use storage_log::{LogId, LogOffset, QueueId};

use crate::manifest;
use crate::run::Run;
use crate::{Entry, IndexError};

/// A run as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRun {
    /// Its file.
    pub file: String,
    /// The range of the log that it covers.
    pub range: Range<LogOffset>,
    /// Entries in it.
    pub entries: u64,
    /// Queues in it.
    pub queues: u64,
}

/// A queue as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundQueue {
    /// The queue offsets of its first and last entry.
    pub offsets: Option<(u64, u64)>,
    /// How many entries it has.
    pub entries: u64,
    /// The runs that hold them, by place in [`Inspected::runs`], in order.
    pub runs: Vec<usize>,
}

impl FoundQueue {
    /// Counts an entry, in any order of queue offsets.
    pub fn count(&mut self, queue_offset: u64) {
        let (first, last) = self.offsets.unwrap_or((queue_offset, queue_offset));
        self.offsets = Some((first.min(queue_offset), last.max(queue_offset)));
        self.entries += 1;
    }
}

/// What an index holds.
#[derive(Debug, Default)]
pub struct Inspected {
    /// The whole runs, in order.
    pub runs: Vec<FoundRun>,
    /// What is in them at or above the start of the log, by queue.
    pub queues: BTreeMap<QueueId, FoundQueue>,
    /// Entries at or above are in the log only.
    pub upto: LogOffset,
    /// Ranges of runs that are damaged or missing: their entries are in the log only.
    pub holes: Vec<Range<LogOffset>>,
    /// What is wrong.
    pub damage: Vec<IndexError>,
}

impl Inspected {
    /// Whether an entry of this record is in the log only.
    #[must_use]
    pub fn lacks(&self, at: LogOffset) -> bool {
        at >= self.upto || self.holes.iter().any(|hole| hole.contains(&at))
    }
}

/// Reads the index of `log` in `disk`, whose log begins at `start`: all of it, page by page.
///
/// # Errors
/// When the disk fails, or the files are of another format version or another log.
pub fn inspect<D: Disk>(disk: &D, log: LogId, start: LogOffset) -> Result<Inspected, IndexError> {
    let (state, damaged) = manifest::read(disk, log)?;
    let start = state.start.max(start);
    let mut found = Inspected {
        damage: damaged.into_iter().collect(),
        upto: start,
        ..Inspected::default()
    };
    for listed in state.runs.iter().filter(|run| run.id.high > start) {
        let (range, file) = (listed.id.low..listed.id.high, listed.id.file_name());
        found.upto = range.end;
        let mut entries: Vec<Entry> = Vec::new();
        let mut counted: BTreeMap<QueueId, FoundQueue> = BTreeMap::new();
        let mut is_sound = true;
        let opened = Run::open(disk, listed, &mut |block| {
            entries.clear();
            is_sound &= block.entries(&mut entries).is_some();
            let queue = counted.entry(block.start.queue).or_default();
            let live = entries.iter().filter(|entry| entry.at >= start);
            live.for_each(|entry| queue.count(entry.queue_offset));
        });
        let opened = opened.and_then(|run| {
            let reason = "a block of the run has impossible entries";
            is_sound
                .then_some(run)
                .ok_or_else(|| listed.id.damaged_page(0, reason))
        });
        match opened {
            Ok(run) => {
                let place = found.runs.len();
                let (entries, queues) = (run.entries, run.queues);
                found.runs.push(FoundRun {
                    file,
                    range,
                    entries,
                    queues,
                });
                found.take(counted, place);
            }
            Err(error @ (IndexError::Damaged { .. } | IndexError::Missing { .. })) => {
                found.damage.push(error);
                found.holes.push(range);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

impl Inspected {
    fn take(&mut self, counted: BTreeMap<QueueId, FoundQueue>, place: usize) {
        for (queue, more) in counted {
            let Some((first, last)) = more.offsets else {
                continue;
            };
            let known = self.queues.entry(queue).or_default();
            let (from, _) = known.offsets.unwrap_or((first, last));
            known.offsets = Some((from.min(first), last));
            known.entries += more.entries;
            known.runs.push(place);
        }
    }
}
