//! The queues of a shard's log by name: the state store has them all, memory those that were wanted
//! last.

use std::collections::HashMap;

use engine_shard::{QueueId, QueueName};
use foldhash::fast::FixedState;

type Map = HashMap<Vec<u8>, QueueId, FixedState>;

/// Names in memory, in two generations: a full one replaces the one before, and what is wanted
/// again is in the young one again. A name that no record has yet stays until one has.
#[derive(Debug)]
pub(super) struct Names {
    young: Map,
    old: Map,
    /// Names that the state store does not know.
    fresh: Map,
    /// How many a generation has.
    generation_max: usize,
    /// All queues, in memory or not.
    count: usize,
    /// The highest id that was ever given out.
    last: u64,
}

impl Names {
    /// None yet; about `most` names are to be in memory.
    pub(super) fn new(most: usize, seed: u64) -> Self {
        let map = || HashMap::with_hasher(FixedState::with_seed(seed));
        Self {
            young: map(),
            old: map(),
            fresh: map(),
            generation_max: (most / 2).max(1),
            count: 0,
            last: 0,
        }
    }

    /// All queues, in memory or not.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The highest id that was ever given out.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// At the start: an id that the state store has, of a queue that exists or once existed.
    pub(super) fn saw(&mut self, id: u64, exists: bool) {
        self.last = self.last.max(id);
        self.count += usize::from(exists);
    }

    /// The id of a queue, if it is in memory.
    pub(super) fn get(&mut self, name: &[u8]) -> Option<QueueId> {
        if let Some(id) = self.young.get(name).or_else(|| self.fresh.get(name)) {
            return Some(*id);
        }
        let (name, id) = self.old.remove_entry(name)?;
        self.keep(name, id);
        Some(id)
    }

    /// Keeps a name that the state store knows.
    pub(super) fn keep(&mut self, name: Vec<u8>, id: QueueId) {
        if self.young.len() >= self.generation_max {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(name, id);
    }

    /// A new queue, of which no record tells yet.
    pub(super) fn create(&mut self, name: Vec<u8>) -> QueueId {
        self.last += 1;
        self.count += 1;
        let id = QueueId(self.last);
        self.fresh.insert(name, id);
        id
    }

    /// The state store has been told of all new queues.
    pub(super) fn created(&mut self) {
        if !self.fresh.is_empty() {
            for (name, id) in std::mem::take(&mut self.fresh) {
                self.keep(name, id);
            }
        }
    }

    /// The queue does not exist any more. Its id is not given out again.
    pub(super) fn remove(&mut self, name: &[u8]) {
        self.young.remove(name);
        self.old.remove(name);
        self.count -= 1;
    }
}

/// The name of a queue as it is stored: one letter and the topic, level or filter.
pub(super) fn stored_name(name: &QueueName) -> Vec<u8> {
    let (letter, text) = match name {
        QueueName::Topic(topic) => (b't', topic),
        QueueName::Service(level) => (b's', level),
        QueueName::Filter(filter) => (b'f', filter),
    };
    let mut stored = Vec::with_capacity(1 + text.len());
    stored.push(letter);
    stored.extend_from_slice(text.as_bytes());
    stored
}

/// The row of a queue: its id and, when records of it may be gone, the offset that its next entry
/// gets at least; 8 bytes each.
pub(super) fn name_row(id: QueueId, next: Option<u64>) -> Vec<u8> {
    let mut row = id.0.to_le_bytes().to_vec();
    row.extend(next.into_iter().flat_map(u64::to_le_bytes));
    row
}

/// The id of a queue, and the offset that its next entry gets at least.
pub(super) fn read_name(value: &[u8]) -> (u64, u64) {
    let number = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let next = value.get(8..).and_then(<[u8]>::first_chunk);
    (number(value.first_chunk()), number(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Vec<u8> {
        number.to_le_bytes().to_vec()
    }

    #[test]
    fn what_is_wanted_stays_and_the_rest_goes() {
        let mut names = Names::new(8, 1);
        for number in 0..100 {
            names.keep(name(number), QueueId(number));
            assert_eq!(names.get(&name(0)), Some(QueueId(0)), "after {number}");
        }
        let kept = (0..100).filter(|number| names.get(&name(*number)).is_some());
        assert!(kept.count() <= 8);
    }

    #[test]
    fn a_new_name_stays_until_the_store_has_it() {
        let mut names = Names::new(2, 1);
        names.saw(7, true);
        names.saw(9, false);
        for number in 0..10 {
            assert_eq!(names.create(name(number)), QueueId(10 + number));
        }
        for number in 0..10 {
            assert_eq!(names.get(&name(number)), Some(QueueId(10 + number)));
        }
        assert_eq!((names.count(), names.last()), (11, 19));
        names.created();
        let kept = (0..10).filter(|number| names.get(&name(*number)).is_some());
        assert!(kept.count() <= 2);
        names.remove(&name(3));
        assert_eq!((names.count(), names.last()), (10, 19));
        assert_eq!(names.get(&name(3)), None);
    }

    #[test]
    fn golden_rows() {
        let names = [
            QueueName::Topic("a/b".into()),
            QueueName::Service("a".into()),
            QueueName::Filter("a/#".into()),
        ];
        assert_eq!(
            names.map(|name| stored_name(&name)),
            [&b"ta/b"[..], b"sa", b"fa/#"]
        );
        let rows = [
            (0x0102, None, b"\x02\x01\0\0\0\0\0\0".as_slice()),
            (
                0x0102,
                Some(0x0304),
                b"\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0",
            ),
        ];
        for (id, next, golden) in rows {
            assert_eq!(name_row(QueueId(id), next), golden);
            assert_eq!(read_name(golden), (id, next.unwrap_or_default()));
        }
    }
}
