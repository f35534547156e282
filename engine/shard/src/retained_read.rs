//! Reads of retained messages for new subscribers, at the topics' owner: page by page from the
//! state store, with a bound on the work of a page and of a turn.

use std::sync::Arc;

use engine_session::{LogOffset, Message, is_wildcard};
use engine_topic::{NextMatch, first_match, matches, next_match};

use crate::port::{MeshMessage, RetainedRead, ShardId, Store, Table, Walk};
use crate::shard::Shard;
use crate::state::RetainedRow;

/// Work for one answer, at most: a row is 1, one more for each [`ROW_BYTES`] of it, a row that is
/// far from the one before [`SEEK_WORK`].
const PAGE_WORK: usize = 4_096;

/// Work for all answers of one turn: the answer with which it is reached is the turn's last. Some
/// milliseconds.
const TURN_WORK: usize = 8_192;

/// See [`PAGE_WORK`]: what a search of the database costs, in rows.
const SEEK_WORK: usize = 8;

/// See [`PAGE_WORK`].
const ROW_BYTES: usize = 1_024;

/// Bytes of retained messages in one answer; the message with which they are reached is the last.
const PAGE_BYTES: usize = 256 << 10;

/// Reads that are not answered, and what this turn has done for them.
#[derive(Default, Debug)]
pub(crate) struct Reads {
    waiting: Vec<(ShardId, RetainedRead)>,
    /// Some of those that wait do so only for the next turn.
    held: bool,
    /// Work of this turn.
    spent: usize,
}

impl Reads {
    /// Reads that wait for their cuts, or for the next turn.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the next turn has something to do.
    pub(crate) const fn is_held(&self) -> bool {
        self.held
    }
}

/// What one answer brings.
struct Page<'a> {
    read: &'a RetainedRead,
    wall_ms: u64,
    found: Vec<Message>,
    bytes: usize,
    work: usize,
    more: Option<Arc<str>>,
}

impl Page<'_> {
    /// Where the walk begins; `None`: nothing is left.
    fn start(&self) -> Option<Vec<u8>> {
        let filter = &self.read.filter;
        let Some(after) = &self.read.after else {
            return Some(first_match(filter).into_bytes());
        };
        match next_match(filter, after) {
            NextMatch::Here => Some([after.as_bytes(), &[0]].concat()),
            NextMatch::From(text) => Some(text.into_bytes()),
            NextMatch::Never => None,
        }
    }

    fn visit(&mut self, topic: &[u8], value: &[u8]) -> Walk {
        self.work += 1 + value.len() / ROW_BYTES;
        let Ok(topic) = std::str::from_utf8(topic) else {
            return Walk::Next;
        };
        if matches(&self.read.filter, topic) {
            self.take(value);
        }
        let next = next_match(&self.read.filter, topic);
        if next == NextMatch::Never {
            return Walk::Stop;
        }
        let is_full = self.found.len() >= self.read.limit || self.bytes >= PAGE_BYTES;
        if is_full || self.work >= PAGE_WORK {
            self.more = Some(topic.into());
            return Walk::Stop;
        }
        match next {
            NextMatch::From(text) => {
                self.work += SEEK_WORK;
                Walk::Seek(text.into_bytes())
            }
            NextMatch::Here | NextMatch::Never => Walk::Next,
        }
    }

    fn take(&mut self, value: &[u8]) {
        let Ok(row) = RetainedRow::decode(value) else {
            return;
        };
        if is_wanted(&row, &self.read.cuts, self.wall_ms) {
            self.bytes += value.len();
            self.found.push(row.message());
        }
    }
}

fn is_wanted(row: &RetainedRow<'_>, cuts: &[LogOffset], wall_ms: u64) -> bool {
    let cut = cuts
        .get(row.address.log.0 as usize)
        .copied()
        .unwrap_or(LogOffset(u64::MAX));
    row.address.offset < cut && !row.is_delete() && row.body.remaining_expiry_s(wall_ms).is_some()
}

impl Shard {
    /// A shard reads for a new subscription.
    pub(crate) fn retained_read<S: Store>(
        &mut self,
        from: ShardId,
        read: RetainedRead,
        store: &mut S,
    ) {
        if self.has_reached(&read) && !self.is_retained_turn_over() {
            self.answer_retained(from, &read, store);
        } else {
            self.retained.reads.held |= self.has_reached(&read);
            self.retained.reads.waiting.push((from, read));
        }
    }

    /// A new turn: the reads that had to wait for it are answered.
    pub(crate) fn begin_retained_turn<S: Store>(&mut self, store: &mut S) {
        self.retained.reads.spent = 0;
        if self.retained.reads.held {
            self.serve_retained_reads(store);
        }
    }

    /// Answers the reads whose cuts this shard has reached in every log, as many as the turn has
    /// room for.
    pub(crate) fn serve_retained_reads<S: Store>(&mut self, store: &mut S) {
        self.retained.reads.held = false;
        let mut later = Vec::new();
        for (from, read) in std::mem::take(&mut self.retained.reads.waiting) {
            if !self.has_reached(&read) {
                later.push((from, read));
            } else if self.is_retained_turn_over() {
                self.retained.reads.held = true;
                later.push((from, read));
            } else {
                self.answer_retained(from, &read, store);
            }
        }
        later.append(&mut self.retained.reads.waiting);
        self.retained.reads.waiting = later;
    }

    fn has_reached(&self, read: &RetainedRead) -> bool {
        let mut both = read.cuts.iter().zip(&self.positions);
        both.all(|(cut, position)| position >= cut)
    }

    const fn is_retained_turn_over(&self) -> bool {
        self.retained.reads.spent >= TURN_WORK
    }

    fn answer_retained<S: Store>(&mut self, from: ShardId, read: &RetainedRead, store: &mut S) {
        let mut page = Page {
            read,
            wall_ms: self.now.wall_ms,
            found: Vec::new(),
            bytes: 0,
            work: SEEK_WORK,
            more: None,
        };
        if !is_wildcard(&read.filter) {
            let row = store.row(Table::Retained, read.filter.as_bytes());
            row.iter().for_each(|value| page.take(value));
        } else if let Some(first) = page.start() {
            store.walk(Table::Retained, &first, &mut |topic, value| {
                page.visit(topic, value)
            });
        }
        self.retained.reads.spent += page.work;
        let answer = MeshMessage::RetainedPage {
            token: read.token,
            messages: page.found,
            more: page.more,
        };
        self.send_peer(from, answer, store);
    }
}
