//! Opening an index: what is listed, whole and below the log's end is kept, the rest is removed
//! and named, for the caller to replay or to mend.

use std::collections::VecDeque;
use std::fmt;

use storage_io::Disk;
use storage_log::{LogId, LogOffset, QueueId};

use crate::cache::PageCache;
use crate::fields::number;
use crate::flush::FIRST_TOKEN;
use crate::groups::Bounds;
use crate::limits::{MEMTABLE_LOG_BYTES_MAX, RUNS_MAX};
use crate::manifest::{self, Manifest, State};
use crate::memtable::Memtable;
use crate::retire::Retiring;
use crate::roster::Roster;
use crate::run::Run;
use crate::run_file::{RunId, generation_of};
use crate::{Counters, Index, IndexError, Options};

/// An index that was opened.
pub struct Opened<D: Disk> {
    /// The index. The log is to be replayed into it from [`Index::indexed_upto`] on, and its
    /// holes are to be filled: [`Index::mend_from`].
    pub index: Index<D>,
    /// What was found damaged or missing, and has been removed. To be logged.
    pub damage: Vec<IndexError>,
}

impl<D: Disk> Index<D> {
    /// Opens the index in its directory, or creates it. Blocks; reads and checks every page.
    /// Damage is no error: a damaged run is removed, those behind it are kept, and its range is a
    /// hole, or is to be replayed when no whole run follows.
    ///
    /// # Errors
    /// When the disk fails, or the files are of another format version or another log.
    pub fn open(disk: D, log: LogId, options: Options) -> Result<Opened<D>, IndexError> {
        let (mut manifest, damaged) = Manifest::open(&disk, log)?;
        let Listing {
            runs,
            mut holes,
            queues,
            damage,
        } = open_runs(&disk, &manifest.state, damaged)?;
        let start = manifest.state.start;
        let last = runs.last().map_or(start, |run: &Run<D::File>| run.id.high);
        // What is lost at the end is replayed as the rest of the log is.
        holes.retain(|hole: &RunId| hole.high <= last);
        if !has_room(&manifest.state, &holes, &options) {
            let listed = manifest.state.runs.iter();
            let count = listed
                .take_while(|run| holes.first().is_some_and(|hole| run.id != *hole))
                .count();
            keep_runs(&disk, &mut manifest, count)?;
            let index = Self::open(disk, log, options)?.index;
            return Ok(Opened { index, damage });
        }
        keep_runs(&disk, &mut manifest, runs.len() + holes.len())?;
        for hole in &holes {
            remove_lost(&disk, hole)?;
        }
        let mut index = Self {
            cache: PageCache::new(options.cache_pages),
            disk,
            options,
            bounds: Bounds::default(),
            manifest,
            runs,
            holes,
            frozen: VecDeque::new(),
            active: Memtable::default(),
            queues,
            last,
            passed: None,
            flushing: None,
            is_preparing: false,
            merging: None,
            retiring: Retiring::default(),
            unlisted: VecDeque::new(),
            join_from: 0,
            owed: 0,
            token: FIRST_TOKEN,
            failed: None,
            shortage: None,
            counters: Counters::default(),
        };
        if index.holes.is_empty() && index.runs.len() >= index.options.merge_from_runs {
            index.join_all()?;
            keep_runs(&index.disk, &mut index.manifest, index.runs.len())?;
            index.unlisted.clear();
            index.counters = Counters::default();
        }
        Ok(Opened { index, damage })
    }

    /// Removes whatever index is in the directory, of any version, and creates an empty one.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn rebuild(disk: D, log: LogId, options: Options) -> Result<Opened<D>, IndexError> {
        // The manifest first: without it, the runs are nothing.
        for wanted in [|name: &str| name == manifest::FILE_NAME, is_run] {
            for name in disk.list()?.iter().filter(|name| wanted(name)) {
                disk.remove(name)?;
            }
            disk.sync_dir()?;
        }
        Self::open(disk, log, options)
    }

    /// Removes every run that reaches above the end of the log, which the log's recovery has
    /// found. Returns where the replay has to begin: [`Index::indexed_upto`], which is lower than
    /// before when there was such a run. Blocks; for start-up, before the first append.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn truncate_above(&mut self, end: LogOffset) -> Result<LogOffset, IndexError> {
        let kept = self.runs.partition_point(|run| run.id.high <= end);
        if kept < self.runs.len() {
            assert!(
                self.flushing.is_none() && self.merging.is_none(),
                "the index is truncated at start-up only"
            );
            let listed = &self.manifest.state.runs;
            let kept = listed.partition_point(|run| run.id.high <= end);
            keep_runs(&self.disk, &mut self.manifest, kept)?;
            let log = self.manifest.state.log;
            *self = Self::open(self.disk.clone(), log, self.options.clone())?.index;
        }
        Ok(self.indexed_upto())
    }
}

impl<D: Disk> fmt::Debug for Opened<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, damage } = self;
        f.debug_struct("Opened")
            .field("index", index)
            .field("damage", damage)
            .finish()
    }
}

fn is_run(name: &str) -> bool {
    generation_of(name).is_some()
}

/// What the manifest lists: whole, or lost.
struct Listing<F> {
    runs: Vec<Run<F>>,
    holes: Vec<RunId>,
    /// The queues of the whole runs.
    queues: Roster,
    damage: Vec<IndexError>,
}

fn open_runs<D: Disk>(
    disk: &D,
    state: &State,
    damaged: Option<IndexError>,
) -> Result<Listing<D::File>, IndexError> {
    let mut found = Listing {
        runs: Vec::new(),
        holes: Vec::new(),
        queues: Roster::default(),
        damage: damaged.into_iter().collect(),
    };
    for listed in &state.runs {
        // A run that is damaged further on counts for nothing.
        let mut ends: Vec<(QueueId, u64)> = Vec::new();
        let opened = Run::open(disk, listed, &mut |block| {
            let (queue, end) = (block.start.queue, block.end());
            match ends.last_mut() {
                Some(last) if last.0 == queue => last.1 = end,
                _ => ends.push((queue, end)),
            }
        });
        match opened {
            Ok(run) => found.runs.push(run),
            Err(error @ (IndexError::Damaged { .. } | IndexError::Missing { .. })) => {
                found.damage.push(error);
                found.holes.push(listed.id);
                continue;
            }
            Err(error) => return Err(error),
        }
        for (queue, end) in ends {
            found.queues.raise(queue, end);
        }
    }
    Ok(found)
}

/// Whether the runs that fill the holes again fit in the manifest: one for each memtable that the
/// lost ones could have been, as an entry takes about a byte at least.
fn has_room(state: &State, holes: &[RunId], options: &Options) -> bool {
    let entries_max = number(options.memtable_entries_max).max(1);
    let bytes_max = options
        .memtable_log_bytes_max
        .clamp(1, MEMTABLE_LOG_BYTES_MAX);
    let lost = state.runs.iter().filter(|run| holes.contains(&run.id));
    let made =
        lost.map(|run| 2 + run.file_len / entries_max + (run.id.high.0 - run.id.low.0) / bytes_max);
    number(state.runs.len()) + made.sum::<u64>() <= number(RUNS_MAX)
}

/// Removes what is left of a run, for the room that it takes: the manifest goes on listing it.
fn remove_lost<D: Disk>(disk: &D, hole: &RunId) -> Result<(), IndexError> {
    match disk.remove(&hole.file_name()) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Keeps the first `count` runs in the manifest, removes every file of a run that is not listed,
/// and makes sure that no generation is used again.
fn keep_runs<D: Disk>(
    disk: &D,
    manifest: &mut Manifest<D::File>,
    count: usize,
) -> Result<(), IndexError> {
    let mut state: State = manifest.state.clone();
    if count < state.runs.len() {
        state.runs.truncate(count);
        state.sequence += 1;
        manifest.write(state.clone())?;
    }
    let mut removed = false;
    for name in disk.list()? {
        let Some(generation) = generation_of(&name) else {
            continue;
        };
        state.next_generation = state.next_generation.max(generation.saturating_add(1));
        if !state.runs.iter().any(|run| run.id.file_name() == name) {
            disk.remove(&name)?;
            removed = true;
        }
    }
    manifest.state.next_generation = state.next_generation;
    if removed {
        disk.sync_dir()?;
    }
    Ok(())
}
