//! A store in memory that forgets at a crash what was not committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Address, Appended, Change, LogId, LogOffset, Message, NewRecord, QueueId, QueueName,
    ReadAnswer, ReadRequest, ReadToken, Store, Table, Walk,
};
use engine_mqtt::QoS;

/// The longest key of a change, bytes: a length of two bytes is stored in front of it.
const KEY_BYTES_MAX: usize = 0x1_FFFF;

/// The real store ends the process at a longer one.
fn check_key(key: &[u8]) {
    assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
}

struct Stored {
    offset: LogOffset,
    end: LogOffset,
    message: Option<Message>,
    queues: Vec<QueueId>,
    changes: Vec<Change>,
}

pub(super) struct MemoryStore {
    log: LogId,
    records: Vec<Stored>,
    appended: LogOffset,
    durable: LogOffset,
    queues: BTreeMap<QueueName, QueueId>,
    applied: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    foreign: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    pub(super) answers: VecDeque<(ReadToken, ReadAnswer)>,
    pub(super) reads: usize,
    /// Walks, and rows that they have shown.
    pub(super) walks: usize,
    pub(super) walked: usize,
    pub(super) is_full: bool,
    /// Bytes of a body for which there is room, at most.
    pub(super) room_bytes: usize,
}

impl MemoryStore {
    pub(super) fn new(log: LogId) -> Self {
        Self {
            log,
            records: Vec::new(),
            appended: LogOffset(64),
            durable: LogOffset(64),
            queues: BTreeMap::new(),
            applied: BTreeMap::new(),
            foreign: BTreeMap::new(),
            answers: VecDeque::new(),
            reads: 0,
            walks: 0,
            walked: 0,
            is_full: false,
            room_bytes: usize::MAX,
        }
    }

    /// Makes everything durable; says whether that moved the watermark.
    pub(super) fn commit(&mut self) -> bool {
        let moved = self.durable != self.appended;
        for record in self
            .records
            .iter()
            .filter(|record| record.offset >= self.durable)
        {
            for change in &record.changes {
                let key = (change.table, change.key.clone());
                match &change.value {
                    Some(value) => self.applied.insert(key, value.clone()),
                    None => self.applied.remove(&key),
                };
            }
        }
        self.durable = self.appended;
        moved
    }

    /// Loses what is not durable; later offsets exceed every one that was given out.
    pub(super) fn crash(&mut self) {
        self.records.retain(|record| record.end <= self.durable);
        self.appended = LogOffset(self.appended.0 + 1_000_000);
        self.durable = self.appended;
        self.answers.clear();
    }

    pub(super) fn rows(&self) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        let all = self.applied.iter().chain(&self.foreign);
        all.map(|((table, key), value)| (*table, key.clone(), value.clone()))
            .collect()
    }

    pub(super) fn rows_of(&self, table: Table) -> usize {
        self.applied.keys().filter(|(one, _)| *one == table).count()
    }

    pub(super) fn record_count(&self) -> usize {
        self.records.len()
    }

    fn visible(&self) -> impl Iterator<Item = (&Stored, &Message)> {
        let durable = self
            .records
            .iter()
            .filter(|record| record.end <= self.durable);
        durable.filter_map(|record| record.message.as_ref().map(|message| (record, message)))
    }

    fn pull(
        &self,
        queues: &Arc<[QueueName]>,
        from: LogOffset,
        upto: LogOffset,
        limit: usize,
    ) -> ReadAnswer {
        let ids: Vec<_> = queues
            .iter()
            .filter_map(|name| self.queues.get(name))
            .collect();
        let mut messages = Vec::new();
        for (record, message) in self.visible() {
            let wanted = record.offset >= from
                && record.offset < upto
                && record.queues.iter().any(|id| ids.contains(&id));
            if wanted && message.qos > QoS::AtMostOnce {
                messages.push(message.clone());
                if messages.len() == limit {
                    return ReadAnswer {
                        messages,
                        next: record.end,
                        start: LogOffset::ZERO,
                        more: false,
                    };
                }
            }
        }
        ReadAnswer {
            messages,
            next: upto,
            start: LogOffset::ZERO,
            more: false,
        }
    }
}

impl MemoryStore {
    /// Answers with all but the last two messages in parts of two; the rest remains.
    fn answer_in_parts(&mut self, token: ReadToken, mut answer: ReadAnswer) -> ReadAnswer {
        while answer.messages.len() > 2 {
            let rest = answer.messages.split_off(2);
            let part = ReadAnswer {
                next: rest[0].address.offset,
                messages: std::mem::replace(&mut answer.messages, rest),
                start: answer.start,
                more: true,
            };
            self.answers.push_back((token, part));
        }
        answer
    }

    fn sift(
        &self,
        filters: &[Arc<str>],
        from: LogOffset,
        upto: LogOffset,
        limit: usize,
    ) -> ReadAnswer {
        let inside = |at: LogOffset| at >= from && at < upto;
        let matches = |message: &Message| {
            let body = message.parts().unwrap();
            let mut filters = filters.iter();
            message.qos > QoS::AtMostOnce && filters.any(|f| engine_topic::matches(f, body.topic))
        };
        let all = self.visible().filter(|(record, _)| inside(record.offset));
        let mut messages = Vec::new();
        // So that it takes more than one read.
        for (seen, (record, message)) in all.enumerate() {
            messages.extend(matches(message).then(|| message.clone()));
            if messages.len() == limit || seen == 6 {
                return ReadAnswer {
                    messages,
                    next: record.end,
                    start: LogOffset::ZERO,
                    more: false,
                };
            }
        }
        ReadAnswer {
            messages,
            next: upto,
            start: LogOffset::ZERO,
            more: false,
        }
    }
}

impl Store for MemoryStore {
    fn log_id(&self) -> LogId {
        self.log
    }

    fn appended(&self) -> LogOffset {
        self.appended
    }

    fn durable(&self) -> LogOffset {
        self.durable
    }

    fn is_full(&self) -> bool {
        self.is_full
    }

    fn refuses(&self) -> bool {
        false
    }

    fn has_room(&self, bytes: usize, _: usize) -> bool {
        bytes <= self.room_bytes
    }

    fn applied_from(&self, _log: LogId) -> LogOffset {
        LogOffset(u64::MAX)
    }

    fn queues_version(&self) -> u64 {
        0
    }

    fn queue(&mut self, name: &QueueName) -> Option<QueueId> {
        let (QueueName::Topic(text) | QueueName::Service(text) | QueueName::Filter(text)) = name;
        // A letter says which of them it is.
        assert!(text.len() < KEY_BYTES_MAX, "a name of {} bytes", text.len());
        let next = QueueId(self.queues.len() as u64);
        Some(*self.queues.entry(name.clone()).or_insert(next))
    }

    fn append(&mut self, record: &NewRecord<'_>) -> Appended {
        let offset = self.appended;
        let end = LogOffset(offset.0 + 64);
        self.appended = end;
        let message = record.message.map(|new| Message {
            address: Address {
                log: self.log,
                offset,
            },
            stamp: new.stamp,
            publisher: new.publisher,
            qos: new.qos,
            retain: new.retain,
            body: Bytes::copy_from_slice(new.body),
        });
        let queues = record
            .message
            .map_or_else(Vec::new, |new| new.queues.to_vec());
        let mut changes = record.changes.to_vec();
        changes.iter().for_each(|change| check_key(&change.key));
        // In one table with those that are applied, at once durable as they are.
        for change in changes.extract_if(.., |change| change.table == Table::Retained) {
            let key = (change.table, change.key);
            match change.value {
                Some(value) => self.foreign.insert(key, value),
                None => self.foreign.remove(&key),
            };
        }
        self.records.push(Stored {
            offset,
            end,
            message,
            queues,
            changes,
        });
        Appended { offset, end }
    }

    fn message(&self, at: LogOffset) -> Option<Message> {
        self.records
            .iter()
            .rev()
            .find(|record| record.offset == at)?
            .message
            .clone()
    }

    fn apply(&mut self, _from: Address, change: Change) {
        check_key(&change.key);
        let key = (change.table, change.key);
        self.foreign.insert(key, change.value.unwrap_or_default());
    }

    fn first_rows(&mut self, table: Table, rows: usize, bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.reads += 1;
        let mut all = BTreeMap::new();
        for change in self.records.iter().flat_map(|record| &record.changes) {
            if change.table == table {
                match &change.value {
                    Some(value) => all.insert(change.key.clone(), value.clone()),
                    None => all.remove(&change.key),
                };
            }
        }
        let mut found = 0;
        let fits = all.into_iter().take(rows).take_while(|(_, value)| {
            let fits = found < bytes;
            found += value.len();
            fits
        });
        fits.collect()
    }

    fn row(&mut self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        if table == Table::Retained {
            return self.foreign.get(&(table, key.to_vec())).cloned();
        }
        let changes = self.records.iter().flat_map(|record| &record.changes);
        let mut own = changes.filter(|one| one.table == table && one.key == key);
        own.next_back()?.value.clone()
    }

    fn stored_rows(
        &mut self,
        tables: &[Table],
        prefix: &[u8],
        after: Option<&[u8]>,
        rows: usize,
    ) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        for table in tables {
            let own = self.applied.iter().filter(|((one, key), _)| {
                let is_behind = after.is_none_or(|after| key.as_slice() > after);
                one == table && key.starts_with(prefix) && is_behind
            });
            let own = own.take(rows);
            found.extend(own.map(|((_, key), value)| (*table, key.clone(), value.clone())));
        }
        found
    }

    fn stored_upto(&self) -> LogOffset {
        self.durable
    }

    fn walk(&mut self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Walk) {
        self.walks += 1;
        let mut from = (table, from.to_vec());
        while let Some((key, value)) = self.foreign.range(&from..).next() {
            if key.0 != table {
                return;
            }
            self.walked += 1;
            from.1 = match visit(&key.1, value) {
                Walk::Next => [key.1.as_slice(), &[0]].concat(),
                Walk::Seek(next) => next,
                Walk::Stop => return,
            };
        }
    }

    fn read(&mut self, token: ReadToken, request: ReadRequest) {
        self.reads += 1;
        let answer = match request {
            ReadRequest::Fetch { offsets } => {
                let found = |at: &LogOffset| {
                    self.visible()
                        .find(|(record, _)| record.offset == *at)
                        .map(|(_, m)| m.clone())
                };
                let messages = offsets.iter().filter_map(found).collect();
                ReadAnswer {
                    messages,
                    next: LogOffset::ZERO,
                    start: LogOffset::ZERO,
                    more: false,
                }
            }
            ReadRequest::Pull {
                queues,
                from,
                upto,
                limit,
                ..
            } => {
                let answer = self.pull(&queues, from, upto, limit);
                self.answer_in_parts(token, answer)
            }
            ReadRequest::Sift {
                filters,
                from,
                upto,
                limit,
                ..
            } => self.sift(&filters, from, upto, limit),
            ReadRequest::Seek { stamp, from } => {
                let mut all = self.visible();
                let found = all.find(|(record, m)| m.stamp >= stamp && record.offset >= from);
                ReadAnswer {
                    messages: Vec::new(),
                    next: found.map_or(self.durable, |(record, _)| record.offset),
                    start: LogOffset::ZERO,
                    more: false,
                }
            }
            ReadRequest::Scan { from, .. } => {
                let all = self.visible().filter(|(record, message)| {
                    record.offset >= from && (message.qos > QoS::AtMostOnce || message.retain)
                });
                let messages = all.map(|(_, message)| message.clone()).collect();
                ReadAnswer {
                    messages,
                    next: self.durable,
                    start: LogOffset::ZERO,
                    more: false,
                }
            }
        };
        self.answers.push_back((token, answer));
    }

    fn cancel(&mut self, token: ReadToken) {
        self.answers.retain(|(of, _)| *of != token);
    }
}
