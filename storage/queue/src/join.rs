//! Joining runs: at a start all that is worth it, while the index is in use whenever there are
//! many, step by step between flushes.
//!
//! A flush and a merge never have operations under way at once, as both write the manifest. Between
//! two steps of a merge a memtable may pass; then the merge has some steps before the next does.

use std::ops::Range;

use storage_io::{Disk, DiskError, DiskQueue, Done, InlineQueue};

use crate::fields::number;
use crate::limits::MERGE_RUNS_MIN;
use crate::merge::{Finished, Merge, Progress};
use crate::run_file::RunId;
use crate::{Index, IndexError};

impl<D: Disk> Index<D> {
    /// Removes one file of a run that was joined, or begins one operation of a merge, when there
    /// is something to join; says whether there was. No operation is under way.
    pub(crate) fn join(&mut self, queue: &mut impl DiskQueue<D::File>) -> Result<bool, IndexError> {
        if let Some(name) = self.unlisted.pop_front() {
            let removed = self.disk.remove(&name);
            removed.map_err(|error| self.fail(error.into()))?;
            return Ok(true);
        }
        if self.merging.is_none() && self.holes.is_empty() {
            self.choose()?;
        }
        self.step_merge(queue)
    }

    /// Begins a merge when the runs have become many.
    fn choose(&mut self) -> Result<(), IndexError> {
        let small_from = self.options.join_from_runs.max(MERGE_RUNS_MIN);
        let runs = self.runs.len();
        if runs < small_from.min(self.bounds.pressed_from()) || runs < self.join_from {
            return Ok(());
        }
        match self.bounds.next(&self.run_sizes(), small_from) {
            Some(inputs) => self.begin_merge(inputs),
            None => {
                self.join_from = runs + 1;
                Ok(())
            }
        }
    }

    fn begin_merge(&mut self, inputs: Range<usize>) -> Result<(), IndexError> {
        let runs = self.runs.get(inputs.clone()).unwrap_or_default();
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
            return Ok(());
        };
        let state = &mut self.manifest.state;
        let id = RunId {
            log: state.log,
            low: first.id.low,
            high: last.id.high,
            generation: state.next_generation,
        };
        let queues = runs.iter().map(|run| run.queues).sum();
        match self.disk.create(&id.file_name()) {
            Ok(file) => {
                state.next_generation += 1;
                self.merging = Some(Merge::new(file, id, inputs, queues));
                Ok(())
            }
            Err(error) if error.is_shortage() => {
                self.wait_for_space();
                Ok(())
            }
            Err(error) => Err(self.fail(error.into())),
        }
    }

    fn step_merge(&mut self, queue: &mut impl DiskQueue<D::File>) -> Result<bool, IndexError> {
        let Some(merge) = &mut self.merging else {
            return Ok(false);
        };
        let begun = merge.step(&self.runs, &self.manifest, self.token, queue);
        self.token += 1;
        begun.map_err(|error| self.fail(error))?;
        Ok(true)
    }

    /// Takes the end of an operation of the merge.
    pub(crate) fn complete_merge(
        &mut self,
        result: Result<Done, DiskError>,
    ) -> Result<(), IndexError> {
        let Some(merge) = self.merging.take() else {
            return Ok(());
        };
        match result {
            Ok(done) => match merge.complete(done) {
                Progress::Going(merge) => self.merging = Some(merge),
                Progress::Finished(finished) => self.replace(finished),
            },
            Err(error) if error.is_shortage() && merge.is_unnamed() => {
                // The old runs are as good as before, and nobody knows of the new one.
                self.unlisted.push_back(merge.file_name());
                self.wait_for_space();
            }
            Err(error) => return Err(self.fail(error.into())),
        }
        Ok(())
    }

    fn replace(&mut self, finished: Finished<D::File>) {
        let Finished { inputs, run, state } = finished;
        self.manifest.state = state;
        self.counters.runs_joined += number(inputs.len());
        let replaced = self.runs.splice(inputs, [run]);
        self.unlisted.extend(replaced.map(|run| run.id.file_name()));
        self.join_from = 0;
    }

    /// Joining can wait; it is tried again when there are a few more runs, or no more may come.
    fn wait_for_space(&mut self) {
        let later = self.runs.len() + MERGE_RUNS_MIN;
        self.join_from = later.min(self.bounds.runs_max);
    }

    /// Joins all that is worth it. Blocks; for a start.
    pub(crate) fn join_all(&mut self) -> Result<(), IndexError> {
        let mut queue = InlineQueue::new(self.disk.clone());
        let mut from = 0;
        while let Some(inputs) = self.bounds.small_stretch(&self.run_sizes(), from) {
            from = inputs.start + 1;
            self.begin_merge(inputs)?;
            while self.merging.is_some() {
                self.step_merge(&mut queue)?;
                while let Some(completion) = queue.poll() {
                    self.complete_merge(completion.result)?;
                }
            }
            if self.join_from > 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn run_sizes(&self) -> Vec<u64> {
        self.runs.iter().map(|run| run.entries).collect()
    }

    pub(crate) fn fail(&mut self, error: IndexError) -> IndexError {
        self.failed = Some(error.clone());
        error
    }
}
