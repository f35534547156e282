//! Retention: which segments are to go, and everything that has to be true before they may.
//!
//! One move of a log's start at a time:
//! 1. *Asking.* Every shard has handled everything below the new start, and has it in its state
//!    store on disk.
//! 2. *Carrying.* What is below is read once. Changes of state that are still current are appended
//!    again, as state records; of retained publications the topic's owner says whether they are.
//! 3. *Settling.* All that is durable.
//! 4. *Moving.* The new start is durable in the log's root.
//! 5. *Indexing.* It is durable in the index; then the files of runs and segments go.
//!
//! A crash in between leaves records that are there twice, or files that nobody needs.

use engine_shard::{LogOffset, QueueId, Table};
use storage_io::{Disk, DiskQueue};
use storage_state::section;

use super::carry::{Carry, encode};
use super::error::CoreError;
use super::names::name_row;
use super::now::Now;
use super::store::ShardStore;
use super::turn::ShardCore;

/// Bytes of changes that go into one record, and of retained publications that one question is
/// about; one change may be larger.
pub(super) const SECTION_BYTES: usize = 64 << 10;

/// Segments that one move takes, at most.
const SEGMENTS_PER_MOVE: u64 = 16;

/// Segments that one move takes, at most, when the disk is full enough: each gives room soon.
const SEGMENTS_PER_PRESSED_MOVE: u64 = 2;

/// Bytes that a log grows by between two looks at the disk, at most.
const LOOK_BYTES: u64 = 4 << 20;

/// Milliseconds between two looks at a move that waits.
const WAIT_MS: u64 = 10;

/// What a log may keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetentionOptions {
    /// Milliseconds after which records go; `None`: no bound.
    pub age_ms: Option<u64>,
    /// Bytes of segments of one log, at most; `None`: no bound.
    pub bytes: Option<u64>,
    /// Hundredths of the disk in use from which the oldest segments go, as fast as the log grows.
    pub clean_percent: u8,
    /// The same, from which as many go as can.
    pub force_percent: u8,
    /// The same, from which publications are refused.
    pub refuse_percent: u8,
    /// Milliseconds between two looks.
    pub check_ms: u64,
    /// Milliseconds for which the answer about a retained publication is good: half the margin for
    /// which deletes are kept, at most.
    pub answer_ms: u64,
    /// Milliseconds until the next look when a move has written more than half of what it gave
    /// back: state that is larger than the log may be is not written round and round.
    pub pause_ms: u64,
}

impl Default for RetentionOptions {
    fn default() -> Self {
        Self {
            age_ms: Some(72 * 3_600_000),
            bytes: None,
            clean_percent: 75,
            force_percent: 85,
            refuse_percent: 90,
            check_ms: 1_000,
            answer_ms: 30_000,
            pause_ms: 60_000,
        }
    }
}

/// What retention has done, and what it sees.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RetentionCounters {
    /// Segments given back.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of state that was appended again.
    pub carried_bytes: u64,
    /// Names of queues that were removed.
    pub names: u64,
    /// Hundredths of the disk in use.
    pub disk_percent: u64,
}

/// A move of the start that was decided.
#[derive(Clone, Copy, Debug)]
struct Plan {
    upto: LogOffset,
    segments: u64,
    bytes: u64,
    /// The highest stamp of what goes.
    newest_stamp: u64,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Asking,
    Carrying(Box<Carry>),
    Settling { end: LogOffset },
    Moving,
    Indexing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Retention {
    options: RetentionOptions,
    stage: Stage,
    plan: Option<Plan>,
    next_check_ms: u64,
    next_look_ms: u64,
    /// Where the log ended at the last look.
    looked_at: storage_log::LogOffset,
    /// Of the disk, at the last look.
    disk_bytes: u64,
    /// When the store was opened: segments whose age is not known count as this old.
    opened_ms: u64,
    last_token: u64,
    pub(super) carried_bytes: u64,
    pub(super) dead_names: Vec<Vec<u8>>,
    pub(super) refuses: bool,
    pub(super) counters: RetentionCounters,
}

/// Whether a log is among what fills a disk: it takes half a percent of it or more. Messages of a
/// smaller one are not worth the room that they would give.
const fn fills(log_bytes: u64, disk_bytes: u64) -> bool {
    log_bytes >= disk_bytes / 200
}

/// Milliseconds from a decision to the next. Where a move takes all that it may, more can be due:
/// a log that grows faster than a move a second would never be cut to its bound.
const fn wait_ms(taken: u64, check_ms: u64) -> u64 {
    if taken < SEGMENTS_PER_MOVE {
        check_ms
    } else {
        0
    }
}

impl Retention {
    pub(super) const fn new(options: RetentionOptions, opened_ms: u64) -> Self {
        Self {
            options,
            stage: Stage::Idle,
            plan: None,
            next_check_ms: 0,
            next_look_ms: 0,
            looked_at: storage_log::LogOffset(0),
            disk_bytes: 0,
            opened_ms,
            last_token: 0,
            carried_bytes: 0,
            dead_names: Vec::new(),
            refuses: false,
            counters: RetentionCounters {
                segments: 0,
                bytes: 0,
                carried_bytes: 0,
                names: 0,
                disk_percent: 0,
            },
        }
    }

    /// When there is something to do again, monotonic milliseconds.
    pub(super) const fn next_timeout(&self, now_ms: u64) -> u64 {
        match &self.stage {
            Stage::Idle if self.next_check_ms < self.next_look_ms => self.next_check_ms,
            Stage::Idle => self.next_look_ms,
            Stage::Carrying(carry) if !carry.waits && !carry.is_read => now_ms,
            Stage::Carrying(_)
            | Stage::Asking
            | Stage::Settling { .. }
            | Stage::Moving
            | Stage::Indexing => now_ms + WAIT_MS,
        }
    }

    /// The start that the log is being moved to.
    pub(super) fn moving_to(&self) -> Option<LogOffset> {
        self.plan.map(|plan| plan.upto)
    }
}

impl<D: Disk, Q: DiskQueue<D::File>> ShardCore<D, Q> {
    /// Goes on with retention, as far as it goes without waiting.
    pub(super) fn retain(&mut self, now: Now) -> Result<(), CoreError> {
        while let Some(cut) = self.shard.next_cut() {
            tracing::warn!(
                client = %cut.client_id, log = cut.log.0, from = cut.from.0, upto = cut.upto.0,
                "retention has taken records that a session had not looked at"
            );
            self.cuts.push(cut);
        }
        self.store.look(now)?;
        self.store.retention.take_answers(now, &mut self.shard);
        let stage = std::mem::replace(&mut self.store.retention.stage, Stage::Idle);
        self.store.retention.stage = self.next_stage(stage, now)?;
        Ok(())
    }

    fn next_stage(&mut self, stage: Stage, now: Now) -> Result<Stage, CoreError> {
        let Self { shard, store, .. } = self;
        let Some(plan) = store.retention.plan else {
            if let Some(plan) = store.plan(now)? {
                store.retention.plan = Some(plan);
                shard.ask_retire(now.into(), plan.upto, store);
                return Ok(Stage::Asking);
            }
            return Ok(Stage::Idle);
        };
        match stage {
            Stage::Asking if shard.retire_ready() => {
                Ok(Stage::Carrying(Box::new(store.begin_carry(shard.homes()))))
            }
            Stage::Carrying(mut carry) => {
                store.carry(&mut carry, plan.upto)?;
                if !carry.sections.is_empty() {
                    store.append_carried(&mut carry);
                }
                for (owner, question) in carry.ready_questions() {
                    store.retention.last_token += 1;
                    let token = store.retention.last_token;
                    let items = question.items.clone();
                    let asked = (now.monotonic_ms(), owner.index(), question);
                    carry.asked.insert(token, asked);
                    shard.check_retained(now.into(), token, owner, items, store);
                }
                let is_answered = carry.asked.is_empty()
                    && carry.questions.iter().all(|one| one.items.is_empty());
                if !carry.is_read || !is_answered {
                    return Ok(Stage::Carrying(carry));
                }
                let end = store.append_carried(&mut carry);
                Ok(Stage::Settling { end })
            }
            Stage::Settling { end } if store.is_settled(end, plan.upto) => {
                let start = storage_log::LogOffset(plan.upto.0);
                if store.log.retire(start, &mut store.queue) {
                    return Ok(Stage::Moving);
                }
                store.retention.plan = None;
                Ok(Stage::Idle)
            }
            Stage::Moving if store.log.start().0 >= plan.upto.0 => {
                store.index.retire(store.log.start());
                shard.retired(now.into(), plan.newest_stamp, store);
                Ok(Stage::Indexing)
            }
            Stage::Indexing if store.index.start().0 >= plan.upto.0 => {
                store.finish(plan, now)?;
                Ok(Stage::Idle)
            }
            waits @ (Stage::Idle
            | Stage::Asking
            | Stage::Settling { .. }
            | Stage::Moving
            | Stage::Indexing) => Ok(waits),
        }
    }
}

impl Retention {
    /// Takes what owners have said about retained publications.
    fn take_answers(&mut self, now: Now, shard: &mut engine_shard::Shard) {
        let answer_ms = self.options.answer_ms;
        while let Some((token, current)) = shard.next_checked() {
            let Stage::Carrying(carry) = &mut self.stage else {
                continue;
            };
            let Some((asked_ms, owner, question)) = carry.asked.remove(&token) else {
                continue;
            };
            if now.monotonic_ms() - asked_ms > answer_ms {
                // Too old: a delete that came meanwhile may be forgotten before this is.
                for (item, row) in question.items.into_iter().zip(question.rows) {
                    carry.question(owner, item, row);
                }
                continue;
            }
            let rows = question.rows.iter().zip(current);
            for (row, _) in rows.filter(|(_, current)| *current) {
                carry.push(row);
            }
        }
    }
}

impl<D: Disk, Q: DiskQueue<D::File>> ShardStore<D, Q> {
    /// The start that the log is being moved to, if it is.
    pub fn retiring(&self) -> Option<LogOffset> {
        self.retention.moving_to()
    }

    /// Looks how full the disk is, now and then.
    fn look(&mut self, now: Now) -> Result<(), CoreError> {
        let appended = self.log.appended();
        let grown = appended.0.saturating_sub(self.retention.looked_at.0);
        if now.monotonic_ms() < self.retention.next_look_ms && grown < LOOK_BYTES {
            return Ok(());
        }
        let options = self.retention.options;
        let space = self.log.disk().space().map_err(CoreError::Read)?;
        let percent = space.percent();
        let retention = &mut self.retention;
        retention.disk_bytes = space.total_bytes;
        (retention.looked_at, retention.next_look_ms) =
            (appended, now.monotonic_ms() + options.check_ms);
        retention.counters.disk_percent = u64::from(percent);
        retention.refuses = percent >= options.refuse_percent;
        // As much goes as comes, at least.
        let presses = percent >= options.clean_percent && grown >= LOOK_BYTES;
        if percent >= options.force_percent || presses {
            retention.next_check_ms = now.monotonic_ms();
        }
        Ok(())
    }

    /// Looks whether something is to go.
    fn plan(&mut self, now: Now) -> Result<Option<Plan>, CoreError> {
        if now.monotonic_ms() < self.retention.next_check_ms {
            return Ok(None);
        }
        let options = self.retention.options;
        let percent = u8::try_from(self.retention.counters.disk_percent).unwrap_or(u8::MAX);
        if self.log.is_retiring() {
            self.retention.next_check_ms = now.monotonic_ms() + options.check_ms;
            return Ok(None);
        }
        let limit = self.log.retirable();
        let segments: Vec<_> = self.log.segments().collect();
        let mut left: u64 = segments.iter().map(|segment| segment.size).sum();
        let mut plan: Option<Plan> = None;
        for pair in segments.windows(2) {
            let [segment, next] = pair else { break };
            let newest_ms = match segment.newest_stamp >> 16 {
                0 => self.retention.opened_ms,
                known => known,
            };
            let age_ms = now.wall_ms.saturating_sub(newest_ms);
            let is_old = options.age_ms.is_some_and(|most| age_ms > most);
            let is_over = options.bytes.is_some_and(|most| left > most);
            let taken = plan.map_or(0, |plan| plan.segments);
            let is_pressed = fills(left, self.retention.disk_bytes)
                && ((percent >= options.force_percent && taken < SEGMENTS_PER_PRESSED_MOVE)
                    || (percent >= options.clean_percent && taken == 0));
            if taken == SEGMENTS_PER_MOVE || next.base > limit || !(is_old || is_over || is_pressed)
            {
                break;
            }
            left -= segment.size;
            let so_far = plan.map_or((0, 0, 0), |plan| {
                (plan.segments, plan.bytes, plan.newest_stamp)
            });
            plan = Some(Plan {
                upto: LogOffset(next.base.0),
                segments: so_far.0 + 1,
                bytes: so_far.1 + segment.size,
                newest_stamp: so_far.2.max(segment.newest_stamp),
            });
        }
        let taken = plan.map_or(0, |plan| plan.segments);
        self.retention.next_check_ms = now.monotonic_ms() + wait_ms(taken, options.check_ms);
        Ok(plan)
    }

    /// Everything carried is durable, and the state store has everything below the new start.
    fn is_settled(&mut self, end: LogOffset, upto: LogOffset) -> bool {
        let id = self.log.log_id().0;
        let is_applied = self.state.applied(id) >= upto.0;
        if !is_applied {
            self.next_state_ms = self.next_state_ms.min(self.now_ms + WAIT_MS);
        }
        is_applied && self.log.synced().0 >= end.0
    }

    /// The start has moved everywhere: files and names go.
    fn finish(&mut self, plan: Plan, now: Now) -> Result<(), CoreError> {
        let options = self.retention.options;
        let has_room = self.retention.counters.disk_percent < u64::from(options.clean_percent);
        self.log.release(has_room, &mut self.queue)?;
        self.remove_names(plan.upto);
        let retention = &mut self.retention;
        retention.plan = None;
        retention.counters.segments += plan.segments;
        retention.counters.bytes += plan.bytes;
        if retention.carried_bytes * 2 > plan.bytes {
            retention.next_check_ms = now.monotonic_ms() + options.pause_ms;
        }
        tracing::info!(
            log = self.log.log_id().0,
            start = plan.upto.0,
            segments = plan.segments,
            carried = retention.carried_bytes,
            "old segments of the log are gone"
        );
        Ok(())
    }

    /// Removes the names of queues whose last entry has gone. Their ids are not used again.
    fn remove_names(&mut self, upto: LogOffset) {
        let dead = std::mem::take(&mut self.retention.dead_names);
        let mut changes = Vec::new();
        let most = SECTION_BYTES.min(self.log.usual_record_bytes() / 4);
        for key in dead {
            let Some(QueueId(id)) = self.stored_queue(&key) else {
                continue;
            };
            let queue = storage_log::QueueId(id);
            if self.index.may_hold(queue, storage_log::LogOffset(upto.0)) {
                continue;
            }
            if changes.is_empty() {
                let last = name_row(QueueId(self.names.last()), None);
                let counter = section::Change {
                    table: Table::Queue as u8,
                    key: &[],
                    value: Some(&last),
                };
                encode(&counter, &mut changes);
            }
            let change = section::Change {
                table: Table::Queue as u8,
                key: &key,
                value: None,
            };
            encode(&change, &mut changes);
            self.names.remove(&key);
            self.index.forget(queue);
            self.queues_version += 1;
            self.retention.counters.names += 1;
            if changes.len() >= most {
                self.append_state(&changes, &changes);
                changes.clear();
            }
        }
        if !changes.is_empty() {
            self.append_state(&changes, &changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SEGMENTS_PER_MOVE, fills, wait_ms};

    #[test]
    fn a_move_that_took_all_it_may_is_followed_by_another() {
        assert_eq!(wait_ms(SEGMENTS_PER_MOVE, 1_000), 0);
        assert_eq!(wait_ms(SEGMENTS_PER_MOVE - 1, 1_000), 1_000);
    }

    #[test]
    fn a_log_that_hardly_takes_room_is_left_alone_on_a_full_disk() {
        let gib = 1 << 30;
        assert!(!fills(gib, 1000 * gib) && fills(5 * gib, 1000 * gib));
        // A small disk is filled by whatever is there.
        assert!(fills(8 << 20, 384 << 20));
    }
}
