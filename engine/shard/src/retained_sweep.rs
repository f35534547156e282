//! What becomes of retained messages that have expired, and of deletes that nobody needs to know
//! any more: when there is one, a pass looks at all rows, a few at a time.

use crate::port::{NewRecord, Store, Table, Walk};
use crate::shard::Shard;
use crate::state::{self, RetainedRow};

/// Work of one step of a pass, at most: a row is 1, one more for each KiB of it.
const STEP_WORK: usize = 512;

/// Bytes of changes of one step; the change with which they are reached is the last.
const STEP_BYTES: usize = 256 << 10;

/// Milliseconds between two steps of a pass: a million rows take 40 s.
const STEP_PAUSE_MS: u64 = 20;

/// Milliseconds from the end of a pass to the next one, at least.
const PASS_PAUSE_MS: u64 = 30_000;

/// When a row first asks for a pass, milliseconds of the wall clock.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// A message expires.
    expiry_ms: u64,
    /// A delete came here.
    delete_ms: u64,
}

impl Due {
    const NEVER: Self = Self {
        expiry_ms: u64::MAX,
        delete_ms: u64::MAX,
    };

    fn note(&mut self, row: &RetainedRow<'_>) {
        if row.is_delete() {
            self.delete_ms = self.delete_ms.min(row.body.published_ms);
        } else if let Some(at_ms) = row.body.expires_ms() {
            self.expiry_ms = self.expiry_ms.min(at_ms);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// Over all rows, or earlier.
    due: Due,
    /// Where the pass goes on, and what it will leave behind; `None`: there is none.
    pass: Option<(Vec<u8>, Due)>,
    /// Nothing is done before, monotonic milliseconds.
    next_ms: u64,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            due: Due::NEVER,
            pass: None,
            next_ms: 0,
        }
    }
}

impl Sweep {
    /// A row is there, or will be.
    pub(crate) fn note(&mut self, row: &RetainedRow<'_>) {
        self.due.note(row);
        if let Some((_, left)) = &mut self.pass {
            left.note(row);
        }
    }
}

/// What one step does.
struct Step {
    wall_ms: u64,
    /// Deletes that came earlier can be forgotten.
    below_ms: u64,
    left: Due,
    changes: Vec<crate::port::Change>,
    freed: u64,
    work: usize,
    bytes: usize,
    /// Where the next step goes on.
    next: Option<Vec<u8>>,
}

impl Step {
    fn visit(&mut self, topic: &[u8], value: &[u8]) -> Walk {
        self.work += 1 + value.len() / 1_024;
        if let Ok(row) = RetainedRow::decode(value) {
            self.examine(topic, &row);
        }
        if self.work >= STEP_WORK || self.bytes >= STEP_BYTES {
            self.next = Some([topic, &[0]].concat());
            return Walk::Stop;
        }
        Walk::Next
    }

    fn examine(&mut self, topic: &[u8], row: &RetainedRow<'_>) {
        let change = if row.is_delete() && row.body.published_ms < self.below_ms {
            self.freed += 1;
            state::no_retained(topic)
        } else if !row.is_delete() && row.body.remaining_expiry_s(self.wall_ms).is_none() {
            self.left.delete_ms = self.left.delete_ms.min(self.wall_ms);
            row.tombstone(self.wall_ms)
        } else {
            self.left.note(row);
            return;
        };
        self.bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len);
        self.changes.push(change);
    }
}

impl Shard {
    /// Deletes that came here earlier have no older publication in any log, milliseconds of the
    /// wall clock.
    fn deletes_below_ms(&self) -> u64 {
        let oldest_ms = self.oldest_stamp() >> 16;
        oldest_ms.saturating_sub(self.config.tombstone_margin_ms)
    }

    fn wants_sweep(&self) -> bool {
        let sweep = &self.retained.sweep;
        sweep.pass.is_some()
            || sweep.due.expiry_ms <= self.now.wall_ms
            || sweep.due.delete_ms < self.deletes_below_ms()
    }

    /// When [`Self::sweep_retained`] has something to do, monotonic milliseconds.
    pub(crate) fn next_sweep_ms(&self) -> u64 {
        let sweep = &self.retained.sweep;
        if self.stopping {
            return u64::MAX;
        }
        if self.wants_sweep() {
            return sweep.next_ms.max(self.now.monotonic_ms);
        }
        let left_ms = sweep.due.expiry_ms.saturating_sub(self.now.wall_ms);
        let expiry_ms = self.now.monotonic_ms.saturating_add(left_ms);
        expiry_ms.max(sweep.next_ms)
    }

    /// Goes on with the pass, or begins one when a row may ask for it and it is time.
    pub(crate) fn sweep_retained<S: Store>(&mut self, store: &mut S) {
        let is_early = self.now.monotonic_ms < self.retained.sweep.next_ms;
        if self.stopping || is_early || !self.wants_sweep() {
            return;
        }
        self.retained.sweep.next_ms = self.now.monotonic_ms + STEP_PAUSE_MS;
        if store.is_full() {
            return;
        }
        let pass = self.retained.sweep.pass.take();
        let (from, left) = pass.unwrap_or((Vec::new(), Due::NEVER));
        let mut step = Step {
            wall_ms: self.now.wall_ms,
            below_ms: self.deletes_below_ms(),
            left,
            changes: Vec::new(),
            freed: 0,
            work: 0,
            bytes: 0,
            next: None,
        };
        store.walk(Table::Retained, &from, &mut |topic, value| {
            step.visit(topic, value)
        });
        self.take_swept(&step, store);
        let sweep = &mut self.retained.sweep;
        match step.next {
            Some(next) => sweep.pass = Some((next, step.left)),
            None => {
                sweep.due = step.left;
                sweep.next_ms = self.now.monotonic_ms + PASS_PAUSE_MS;
            }
        }
    }

    fn take_swept<S: Store>(&mut self, step: &Step, store: &mut S) {
        for change in &step.changes {
            let Ok(topic) = std::str::from_utf8(&change.key) else {
                continue;
            };
            match change.value {
                Some(_) => self.retained.expire(topic),
                None => self.retained.forget(topic),
            }
        }
        self.counters.tombstones_freed += step.freed;
        self.counters.retained_expired += step.changes.len() as u64 - step.freed;
        self.counters.retained = self.retained.len() as u64;
        self.counters.retained_cached = self.retained.cached() as u64;
        if !step.changes.is_empty() {
            // Now, not at the end of the turn: a later value of a topic must come behind it.
            store.append(&NewRecord {
                message: None,
                changes: &step.changes,
            });
        }
    }
}
