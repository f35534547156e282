//! A run: lives, their ends, and what happens in between.

use std::fmt;

use storage_io::Disk;
use storage_io::sim::{Faults, Rng, SimDisk};
use storage_log::LogOffset;

use super::checks::{self, Wrong, broken};
use super::model::Model;
use super::stack::{Stack, StackError, StackOptions};
use super::{Options, damage};
use crate::simulation::trace::Trace;

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    pub(super) recoveries: u64,
    pub(super) records: u64,
    pub(super) damages: u64,
}

/// How a life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Orderly,
    Kill,
    PowerLoss,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) disk: SimDisk,
    root: SimDisk,
    options: Options,
    pub(super) stack_options: StackOptions,
    pub(super) model: Model,
    pub(super) stack: Option<Stack>,
    /// Runs of this seed move the start of the log; then the index is never rebuilt from nothing,
    /// since it alone knows the next offsets of queues whose records are gone.
    pub(super) retires: bool,
    /// The disk has failed, or may have, in this life.
    has_faults: bool,
    has_sync_faults: bool,
    /// A run was damaged while it was in use.
    pub(super) has_rot: bool,
    step: u64,
    now_ms: u64,
    boot: u64,
    counts: Counts,
    trace: Trace,
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let root = SimDisk::new(rng.next_u64());
        let disk = root.sub("shard").unwrap_or_else(|_| root.clone());
        let stack_options = StackOptions::random(&mut rng);
        Self {
            retires: rng.chance(1, 3),
            rng,
            disk,
            root,
            options,
            stack_options,
            model: Model::default(),
            stack: None,
            has_faults: false,
            has_sync_faults: false,
            has_rot: false,
            step: 0,
            now_ms: 0,
            boot: 0,
            counts: Counts::default(),
            trace: Trace::new(options.keeps_trace),
        }
    }

    pub(super) const fn step(&self) -> u64 {
        self.step
    }

    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn into_trace(self) -> Trace {
        self.trace
    }

    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.add(self.step, what);
    }

    pub(super) const fn damaged(&mut self) {
        self.counts.damages += 1;
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        let mut outcome = self.recover();
        for _ in 0..self.options.lives {
            outcome = outcome.and_then(|()| self.one_life());
        }
        let outcome = outcome.and_then(|()| damage::in_the_log(self));
        outcome.map_err(|wrong| match wrong {
            Wrong::Stopped(error) => format!("refused: {error}"),
            Wrong::Broken(text) => text,
        })
    }

    fn one_life(&mut self) -> Result<(), Wrong> {
        let steps = self.rng.below(self.options.steps);
        self.live(steps)?;
        self.end()?;
        damage::of_derived_files(self);
        self.recover()
    }

    /// Some steps of use. An error that the disk has earned ends them early.
    pub(super) fn live(&mut self, steps: u64) -> Result<(), Wrong> {
        for _ in 0..steps {
            self.step += 1;
            let acted = self.act();
            if let Some(stack) = &self.stack {
                let mark = stack.log.synced().0;
                self.model.durable = self.model.durable.max(mark);
                // What lies in a segment that has no file yet was seen by nobody but this process,
                // and can't be on the disk.
                let made = stack.log.segments().map(|one| one.base.0 + one.size).max();
                let given = stack.log.appended().0.min(made.unwrap_or(0));
                self.model.given = self.model.given.max(given);
            }
            match acted {
                Ok(()) => {}
                Err(Wrong::Stopped(error)) if self.is_earned(&error) => {
                    self.note(format_args!("stopped: {error}"));
                    return Ok(());
                }
                Err(wrong) => return Err(wrong),
            }
        }
        Ok(())
    }

    fn is_earned(&self, error: &StackError) -> bool {
        let is_rot = matches!(error, StackError::Index(_)) && self.has_rot;
        is_rot || (self.has_faults && error.is_fault())
    }

    fn act(&mut self) -> Result<(), Wrong> {
        match self.rng.below(100) {
            0..30 => self.append(),
            30..55 => self.turn(),
            55..75 => self.move_disk(),
            75..84 => self.read(),
            84..86 => {
                self.stack()?.index.freeze();
                Ok(())
            }
            86..91 => self.retire(),
            91..93 => {
                self.change_faults();
                Ok(())
            }
            93..95 => {
                self.change_space();
                Ok(())
            }
            95 => {
                damage::of_a_run_in_use(self);
                Ok(())
            }
            _ => {
                self.now_ms += self.rng.below(2_000);
                self.stack()?.index.try_again();
                Ok(())
            }
        }
    }

    pub(super) fn stack(&mut self) -> Result<&mut Stack, Wrong> {
        match &mut self.stack {
            Some(stack) => Ok(stack),
            None => broken("no storage is open".to_owned()),
        }
    }

    fn append(&mut self) -> Result<(), Wrong> {
        for _ in 0..1 + self.rng.below(10) {
            if self.stack()?.is_full() {
                return Ok(());
            }
            let body_max = match self.rng.below(160) {
                0 => 300_000,
                1..4 => 15_000,
                4..20 => 4_000,
                _ => 300,
            };
            let sample = self.model.next(&mut self.rng, body_max);
            self.put(sample)?;
        }
        Ok(())
    }

    fn put(&mut self, mut sample: super::model::Sample) -> Result<u64, Wrong> {
        let stack = self.stack()?;
        for (queue, offset) in &sample.queues {
            let next = stack.index.next_offset(*queue);
            if next != *offset {
                return broken(format!("wrong next offset: {next}, expected {offset}"));
            }
        }
        let put = sample.with(|record| stack.append(record))?;
        (sample.at, sample.end) = (put.offset.0, put.end.0);
        let at = sample.at;
        self.counts.records += 1;
        self.note(format_args!("append {at}..{}", sample.end));
        self.model.push(sample);
        Ok(at)
    }

    fn turn(&mut self) -> Result<(), Wrong> {
        self.now_ms += self.rng.below(60);
        let (now_ms, settles) = (self.now_ms, self.rng.chance(1, 6));
        self.note(format_args!("turn at {now_ms} ms"));
        Ok(self.stack()?.turn(now_ms, settles)?)
    }

    fn move_disk(&mut self) -> Result<(), Wrong> {
        for _ in 0..1 + self.rng.below(6) {
            let mut rng = self.rng.fork();
            if !self.stack()?.step(&mut rng)? {
                break;
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Wrong> {
        let choice = self.rng.below(4);
        let Some(stack) = &mut self.stack else {
            return Ok(());
        };
        let (model, rng) = (&self.model, &mut self.rng);
        match choice {
            0 => {
                let from = rng.below(model.given + 1);
                let upto = from + rng.below(300_000);
                checks::queue_by_log_offset(stack, model, 1 + rng.below(30), from, upto)
            }
            1 => {
                let (queue, from) = (1 + rng.below(30), rng.below(200));
                checks::queue_by_queue_offset(stack, model, queue, from, usize::MAX)
            }
            2 => {
                let durable = stack.log.durable().0;
                let records = &model.records;
                let first = records.partition_point(|record| record.at < model.start);
                let last = records.partition_point(|record| record.end <= durable);
                for _ in 0..if last > first { 4 } else { 0 } {
                    let wanted = records.get(first + rng.index(last - first));
                    let Some(wanted) = wanted else { break };
                    let found = stack.read(wanted.at, rng.index(20_000))?;
                    checks::same(wanted, &super::model::Sample::of(&found))?;
                }
                Ok(())
            }
            _ => {
                let first = rng.index(model.records.len() + 1);
                let rest = model.records.get(first..).unwrap_or_default();
                let rest: Vec<_> = rest.iter().filter(|one| one.at >= model.start).collect();
                let Some(from) = rest.first() else {
                    return Ok(());
                };
                let found = stack.scan(from.at, 20)?;
                let durable = stack.log.durable().0;
                let must = rest.iter().filter(|one| one.end <= durable).count().min(20);
                if found.len() < must {
                    return broken(format!("missing: {} of {must} in a scan", found.len()));
                }
                for (wanted, found) in rest.iter().zip(&found) {
                    checks::same(wanted, &super::model::Sample::of(found))?;
                }
                Ok(())
            }
        }
    }

    /// Moves the start of the log: first everything that is still needed is appended again and
    /// made durable.
    fn retire(&mut self) -> Result<(), Wrong> {
        if !self.retires || self.has_faults || self.stack()?.is_full() {
            return Ok(());
        }
        if self.stack()?.log.is_retiring() {
            let keeps = self.rng.chance(2, 3);
            let stack = self.stack()?;
            stack.log.release(keeps, &mut stack.queue)?;
            return Ok(());
        }
        let Ok(rows) = self.model.rows_again() else {
            return broken("rows do not fit a section".to_owned());
        };
        let at = self.put(rows)?;
        let (now_ms, mut rng) = (self.now_ms, self.rng.fork());
        let stack = self.stack()?;
        stack.settle(now_ms, &mut rng)?;
        let limit = stack.log.retirable().min(LogOffset(at));
        let limit = limit.min(LogOffset(stack.state.applied(super::stack::LOG.0)));
        // The next offsets of its queues are then known to the index.
        let limit = limit.min(stack.index.indexed_upto());
        let bases: Vec<_> = stack.log.segments().map(|one| one.base).collect();
        let bases: Vec<_> = bases.into_iter().filter(|base| *base <= limit).collect();
        if bases.is_empty() {
            return Ok(());
        }
        let start = bases
            .get(rng.index(bases.len()))
            .copied()
            .unwrap_or_default();
        let start_before = stack.log.start();
        if stack.log.retire(start, &mut stack.queue) {
            self.model.asked_start = self.model.asked_start.max(start.0);
            // From now on a read may find the records below gone.
            self.model.start = self.model.asked_start;
            self.note(format_args!("retire {start_before} to {start}"));
        }
        Ok(())
    }

    fn change_faults(&mut self) {
        let rate = |rng: &mut Rng| if rng.chance(1, 2) { 0 } else { 300 };
        let faults = if self.rng.chance(1, 2) || self.model.asked_start > self.model.start {
            Faults::default()
        } else {
            Faults {
                reads_per_10k: rate(&mut self.rng),
                writes_per_10k: rate(&mut self.rng),
                syncs_per_10k: rate(&mut self.rng),
                short_per_10k: rate(&mut self.rng),
                ..Faults::default()
            }
        };
        self.has_faults |= faults.reads_per_10k + faults.writes_per_10k > 0
            || faults.syncs_per_10k + faults.short_per_10k > 0;
        self.has_sync_faults |= faults.syncs_per_10k > 0;
        self.note(format_args!("faults {faults:?}"));
        self.set_faults(faults);
    }

    fn change_space(&mut self) {
        let more = self.rng.below(400_000);
        let space_bytes = (self.rng.chance(1, 2)).then(|| self.root.used_bytes() + more);
        self.has_faults |= space_bytes.is_some();
        self.note(format_args!("space {space_bytes:?}"));
        let faults = self.root.faults();
        self.set_faults(Faults {
            space_bytes,
            ..faults
        });
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.root.set_faults(Faults {
            ignore_syncs: self.options.ignores_syncs,
            damage_rewritten: self.stack_options.log.pad_tail,
            ..faults
        });
    }

    /// One way or another, the storage is closed.
    fn end(&mut self) -> Result<(), Wrong> {
        let may_be_orderly = !self.has_faults && !self.has_rot;
        let end = match self.rng.below(4) {
            0 if may_be_orderly => End::Orderly,
            1 if !self.has_sync_faults => End::Kill,
            _ => End::PowerLoss,
        };
        self.note(format_args!("end: {end:?}"));
        if end == End::Orderly {
            self.settle()?;
        }
        if let Some(stack) = &self.stack {
            self.model.durable = self.model.durable.max(stack.log.synced().0);
            self.model.written = stack.log.durable().0;
        }
        self.stack = None;
        if end == End::PowerLoss {
            self.crash();
        }
        Ok(())
    }

    pub(super) fn settle(&mut self) -> Result<(), Wrong> {
        self.set_faults(Faults::default());
        let (now_ms, mut rng) = (self.now_ms + 5_000, self.rng.fork());
        self.now_ms = now_ms;
        let stack = self.stack()?;
        stack.index.try_again();
        Ok(stack.settle(now_ms, &mut rng)?)
    }

    pub(super) fn crash(&mut self) {
        let seed = self.rng.next_u64();
        self.root.crash(seed);
        self.model.written = 0;
    }

    /// A start, after some that failed on the way; and everything that must hold behind it.
    pub(super) fn recover(&mut self) -> Result<(), Wrong> {
        while self.rng.chance(1, 3) {
            self.fail_to_open()?;
        }
        self.set_faults(Faults::default());
        (self.has_faults, self.has_sync_faults, self.has_rot) = (false, false, false);
        self.model.start = self.model.start.min(self.model.asked_start);
        self.open()?;
        let count = self.model.records.len();
        if self.rng.chance(1, 3) {
            self.stack = None;
            if self.rng.chance(1, 2) {
                self.crash();
            }
            self.open()?;
            if self.model.records.len() != count {
                return broken(format!(
                    "another recovery: {} records, the first found {count}",
                    self.model.records.len()
                ));
            }
        }
        if self.rng.chance(1, 20)
            && let Some(stack) = &mut self.stack
        {
            checks::rebuilt(stack, &self.stack_options)?;
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Wrong> {
        self.boot += 1;
        self.model.start = 0;
        let mut stack = Stack::open(&self.disk, &self.stack_options, self.boot)?;
        checks::files(&self.disk, &stack)?;
        checks::recovered(&mut stack, &mut self.model)?;
        self.counts.recoveries += 1;
        let (records, mended) = (self.model.records.len(), stack.mended);
        self.note(format_args!("recovered {records} records, mended {mended}"));
        self.stack = Some(stack);
        Ok(())
    }

    /// A start has succeeded although the disk is bad: it is used a little, and ends.
    fn use_badly(&mut self, mut stack: Stack) -> Result<(), Wrong> {
        self.note(format_args!("opened on a bad disk"));
        if self.root.faults().space_bytes.is_none() {
            return Ok(());
        }
        self.model.start = 0;
        checks::recovered(&mut stack, &mut self.model)?;
        self.has_faults = true;
        self.stack = Some(stack);
        let steps = self.rng.below(12);
        self.live(steps)?;
        self.end()
    }

    /// A start that the disk stops, or lets down, at some operation.
    fn fail_to_open(&mut self) -> Result<(), Wrong> {
        let mut faults = Faults::default();
        match self.rng.below(4) {
            0 => faults.reads_per_10k = 1_000,
            // To the index, a page that ends early is a damaged one, to be replayed.
            1 if !self.retires => faults.short_per_10k = 1_000,
            2 => faults.space_bytes = Some(self.root.used_bytes() + self.rng.below(100_000)),
            _ => faults.changes_left = Some(self.rng.below(60)),
        }
        self.set_faults(faults);
        self.boot += 1;
        let opened = Stack::open(&self.disk, &self.stack_options, self.boot);
        match opened {
            Ok(stack) => self.use_badly(stack)?,
            Err(error) if error.is_fault() => self.note(format_args!("not opened: {error}")),
            Err(error) => return Err(error.into()),
        }
        self.set_faults(Faults::default());
        if self.rng.chance(1, 2) {
            self.crash();
        }
        Ok(())
    }
}
