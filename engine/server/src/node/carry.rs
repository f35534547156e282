//! Carrying: what is still current in the records that retention takes is appended again.
//!
//! Every record below the new start is read once. A change of state is current when the state store
//! has this value; whether a retained publication is, its topic's owner says. The name of a queue
//! stays as long as its queue has entries, with how far its offsets were given out.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasher;

use engine_shard::{
    LogOffset, QueueId, RetainedItem, ShardId, Table, home_shard, read_retained, retained_change,
};
use foldhash::fast::FixedState;
use storage_io::{Disk, DiskQueue};
use storage_log::{Record, RecordKind, Scan};
use storage_state::section;

use super::error::CoreError;
use super::names::name_row;
use super::retain::SECTION_BYTES;
use super::store::{RETAIN, ShardStore, message};

/// Retained publications that one question is about, at most.
const CHECK_ITEMS: usize = 64;

/// Keys that are remembered as carried in one move, at most (8 MiB); beyond, some are carried
/// twice.
const CARRIED_KEYS_MAX: usize = 1 << 20;

/// Names of queues that one move removes, at most; others wait for a later move.
const DEAD_NAMES_MAX: usize = 1 << 16;

/// Records that one turn looks at, at least, when they are there.
const RECORDS_PER_TURN: usize = 64;

/// Bytes of records that one turn looks at, at most, once it has looked at that many.
const BYTES_PER_TURN: u64 = 4 << 20;

/// Of the bytes that the log has grown by since the last turn, this many times as many are looked
/// at: what goes never falls behind what comes.
const BYTES_PER_NEW: u64 = 2;

/// Questions without an answer, at most: no more is read meanwhile.
const CHECKS_MAX: usize = 4;

/// Reading what goes, and what of it stays.
#[derive(Debug)]
pub(super) struct Carry {
    at: LogOffset,
    /// Where the log ended at the last look.
    appended: LogOffset,
    pub(super) is_read: bool,
    /// The record at `at` waits for the disk.
    pub(super) waits: bool,
    /// What goes into the next records.
    pub(super) sections: Vec<Section>,
    /// How many bytes of changes one record has, unless one change is larger.
    section_bytes_max: usize,
    carried: HashSet<u64, FixedState>,
    /// Questions that are being put together, by owner.
    pub(super) questions: Vec<Question>,
    /// Questions without an answer: when they were asked, monotonic milliseconds, and what.
    pub(super) asked: BTreeMap<u64, (u64, usize, Question)>,
}

/// What one record carries.
#[derive(Debug, Default)]
pub(super) struct Section {
    changes: Vec<u8>,
    /// Those of them that the state store takes: rows of names, with how far offsets were given.
    names: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Question {
    pub(super) items: Vec<RetainedItem>,
    /// For each, the encoded change.
    pub(super) rows: Vec<Vec<u8>>,
    /// Bytes of them.
    bytes: usize,
}

impl Carry {
    /// Whether this key was not carried before in this move.
    fn is_new(&mut self, table: u8, key: &[u8]) -> bool {
        if self.carried.len() >= CARRIED_KEYS_MAX {
            self.carried.clear();
        }
        let hash = self.carried.hasher().hash_one((table, key));
        self.carried.insert(hash)
    }

    /// The section that takes so many bytes more.
    fn section(&mut self, bytes: usize) -> &mut Section {
        let most = self.section_bytes_max;
        let has_room =
            |section: &Section| section.changes.is_empty() || section.changes.len() + bytes <= most;
        if !self.sections.last().is_some_and(has_room) {
            self.sections.push(Section::default());
        }
        // Invariant: one was pushed if there was none.
        self.sections
            .last_mut()
            .unwrap_or_else(|| unreachable!("no section"))
    }

    /// Carries a change that is encoded.
    pub(super) fn push(&mut self, row: &[u8]) {
        self.section(row.len()).changes.extend_from_slice(row);
    }

    /// Carries the row of a queue's name, which the state store takes as well.
    fn push_name(&mut self, row: &[u8]) {
        let section = self.section(row.len());
        section.changes.extend_from_slice(row);
        section.names.extend_from_slice(row);
    }

    pub(super) fn question(&mut self, owner: usize, item: RetainedItem, row: Vec<u8>) {
        if let Some(question) = self.questions.get_mut(owner) {
            question.bytes += row.len();
            question.items.push(item);
            question.rows.push(row);
        }
    }

    /// The questions that are large enough, or all at the end.
    pub(super) fn ready_questions(&mut self) -> Vec<(ShardId, Question)> {
        let is_read = self.is_read;
        let ready = (0..).map(ShardId).zip(&mut self.questions);
        let ready = ready.filter(|(_, one)| {
            let is_large = one.items.len() >= CHECK_ITEMS || one.bytes >= SECTION_BYTES;
            is_large || (is_read && !one.items.is_empty())
        });
        ready
            .map(|(owner, one)| (owner, std::mem::take(one)))
            .collect()
    }
}

impl<D: Disk, Q: DiskQueue<D::File>> ShardStore<D, Q> {
    pub(super) fn begin_carry(&mut self, homes: u8) -> Carry {
        self.retention.carried_bytes = 0;
        self.retention.dead_names.clear();
        Carry {
            at: LogOffset(self.log.start().0),
            appended: LogOffset(self.log.appended().0),
            is_read: false,
            waits: false,
            sections: Vec::new(),
            section_bytes_max: SECTION_BYTES.min(self.log.usual_record_bytes() / 4),
            carried: HashSet::with_hasher(FixedState::default()),
            questions: vec![Question::default(); usize::from(homes)],
            asked: BTreeMap::new(),
        }
    }

    /// Looks at some records; what of them is current goes into new ones.
    pub(super) fn carry(&mut self, carry: &mut Carry, upto: LogOffset) -> Result<(), CoreError> {
        carry.waits = false;
        let appended = LogOffset(self.log.appended().0);
        let grown = appended.0 - carry.appended.0;
        carry.appended = appended;
        let least = carry.at.0 + grown.saturating_mul(BYTES_PER_NEW).min(BYTES_PER_TURN);
        let mut looked_at = 0;
        while looked_at < RECORDS_PER_TURN || carry.at.0 < least {
            looked_at += 1;
            // Without room for another segment, what is left of this one is for records such as
            // those that are carried: they make room.
            let is_full = self.log.is_full() && !self.log.has_shortage();
            if is_full || carry.is_read || carry.asked.len() >= CHECKS_MAX {
                break;
            }
            let (at, end) = (carry.at.0, storage_log::LogOffset(upto.0));
            match self.log.sweep(storage_log::LogOffset(at), end)? {
                Scan::Ready(record) => {
                    carry.at = LogOffset(record.end.0);
                    self.examine(carry, record, upto)?;
                }
                Scan::Missing(chunk) => {
                    self.read_chunk(chunk);
                    carry.waits = true;
                    break;
                }
                Scan::End => carry.is_read = true,
            }
            if carry.sections.len() > 1 {
                self.append_carried(carry);
            }
        }
        Ok(())
    }

    fn examine(
        &mut self,
        carry: &mut Carry,
        record: Record,
        upto: LogOffset,
    ) -> Result<(), CoreError> {
        let state = record.state.clone();
        for change in section::decode(&state).flatten() {
            let Some(value) = change.value else { continue };
            match Table::from_number(change.table) {
                Some(Table::Queue) => self.examine_name(carry, change.key, value, upto),
                Some(Table::Retained) => {
                    if let Ok(message) = read_retained(value) {
                        self.examine_retained(carry, &change, message.stamp);
                    }
                }
                Some(_) => {
                    let current = self.state.get(change.table, change.key)?;
                    if current.as_deref() == Some(value) && carry.is_new(change.table, change.key) {
                        carry.push(&encoded(&change));
                    }
                }
                None => {}
            }
        }
        if record.kind == RecordKind::Message && record.flags & RETAIN != 0 {
            let message = message(record);
            if let Ok(row) = retained_change(&message, self.wall_ms) {
                let change = section::Change {
                    table: row.table as u8,
                    key: &row.key,
                    value: row.value.as_deref(),
                };
                self.examine_retained(carry, &change, message.stamp);
            }
        }
        Ok(())
    }

    fn examine_retained(&self, carry: &mut Carry, change: &section::Change<'_>, stamp: u64) {
        let Ok(topic) = std::str::from_utf8(change.key) else {
            return;
        };
        let homes = u8::try_from(carry.questions.len()).unwrap_or(u8::MAX);
        let owner = home_shard(topic, homes).index();
        let topic = topic.into();
        carry.question(owner, RetainedItem { topic, stamp }, encoded(change));
    }

    /// The name of a queue stays as long as its queue has entries.
    fn examine_name(&mut self, carry: &mut Carry, key: &[u8], value: &[u8], upto: LogOffset) {
        let stored = value.first_chunk().map(|id| u64::from_le_bytes(*id));
        let id = if key.is_empty() {
            Some(self.names.last())
        } else {
            self.stored_queue(key).map(|id| id.0)
        };
        let Some(id) = id.filter(|id| key.is_empty() || Some(*id) == stored) else {
            return;
        };
        if !carry.is_new(Table::Queue as u8, key) {
            return;
        }
        let queue = storage_log::QueueId(id);
        let next = (!key.is_empty()).then(|| self.index.next_offset(queue));
        let value = name_row(QueueId(id), next);
        if !key.is_empty() {
            let dead = &mut self.retention.dead_names;
            let is_used = self.index.may_hold(queue, storage_log::LogOffset(upto.0));
            if !is_used && dead.len() < DEAD_NAMES_MAX {
                dead.push(key.to_vec());
            }
        }
        let change = section::Change {
            table: Table::Queue as u8,
            key,
            value: Some(&value),
        };
        carry.push_name(&encoded(&change));
    }

    /// Appends what was gathered; returns the end of the last record, or of the log.
    pub(super) fn append_carried(&mut self, carry: &mut Carry) -> LogOffset {
        let mut end = LogOffset(self.log.appended().0);
        for section in std::mem::take(&mut carry.sections) {
            let len = section.changes.len() as u64;
            self.retention.carried_bytes += len;
            self.retention.counters.carried_bytes += len;
            end = self.append_state(&section.changes, &section.names);
        }
        end
    }
}

fn encoded(change: &section::Change<'_>) -> Vec<u8> {
    let mut row = Vec::new();
    encode(change, &mut row);
    row
}

pub(super) fn encode(change: &section::Change<'_>, section: &mut Vec<u8>) {
    let encoded = section::encode(change, section);
    assert!(
        encoded.is_ok(),
        "a change that was in a record: {encoded:?}"
    );
}
