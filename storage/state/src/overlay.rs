//! Changes in log order that the database has not confirmed.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::limits::{CHANGE_BYTES, SECTION_BYTES};
use crate::section;

/// A table and a key in it.
pub(crate) type Key = (u8, Bytes);

/// The section of one record, waiting.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) log: u32,
    pub(crate) end: u64,
    pub(crate) section: Bytes,
    sequence: u64,
    cost: usize,
}

#[derive(Debug)]
struct Latest {
    value: Option<Bytes>,
    /// Which section set it; it may go when that section is confirmed.
    sequence: u64,
}

/// The newest value of every key that has a change waiting, and the changes themselves.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// By table, in key order.
    latest: BTreeMap<u8, BTreeMap<Bytes, Latest>>,
    waiting: VecDeque<Pending>,
    /// How many sections at the front of `waiting` are durable in their logs.
    ready: usize,
    ready_bytes: usize,
    /// All that is waiting or handed over.
    bytes: usize,
    sequence: u64,
}

impl Overlay {
    /// Takes the changes of a section that was decoded without error before.
    pub(crate) fn push(&mut self, log: u32, end: u64, section: &[u8]) {
        let section = Bytes::copy_from_slice(section);
        self.sequence += 1;
        let mut cost = SECTION_BYTES + section.len();
        for ((table, key), value) in slices(&section) {
            cost += CHANGE_BYTES;
            self.latest.entry(table).or_default().insert(
                key,
                Latest {
                    value,
                    sequence: self.sequence,
                },
            );
        }
        self.bytes += cost;
        self.waiting.push_back(Pending {
            log,
            end,
            section,
            sequence: self.sequence,
            cost,
        });
    }

    /// Moves the border of what is durable. Strictly in order of arrival: a change that waits for
    /// its log holds back those behind it, which may be newer values of the same key.
    pub(crate) fn advance(&mut self, durable: &impl Fn(u32) -> u64) {
        while let Some(next) = self.waiting.get(self.ready) {
            if next.end > durable(next.log) {
                break;
            }
            self.ready_bytes += next.cost;
            self.ready += 1;
        }
    }

    /// Takes durable sections, in order, until they are `bytes_max` or more.
    pub(crate) fn take_ready(&mut self, bytes_max: usize) -> Vec<Pending> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while self.ready > 0 && bytes < bytes_max {
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            self.ready -= 1;
            self.ready_bytes -= next.cost;
            bytes += next.cost;
            taken.push(next);
        }
        taken
    }

    /// Forgets what the database has confirmed.
    pub(crate) fn confirm(&mut self, sections: &[Pending]) {
        for pending in sections {
            self.bytes -= pending.cost;
            for ((table, key), _) in slices(&pending.section) {
                let Some(rows) = self.latest.get_mut(&table) else {
                    continue;
                };
                if rows
                    .get(&key)
                    .is_some_and(|l| l.sequence <= pending.sequence)
                {
                    rows.remove(&key);
                }
            }
        }
    }

    /// The waiting value of a key: `None` when no change waits, `Some(None)` for a delete.
    pub(crate) fn get(&self, table: u8, key: &[u8]) -> Option<Option<Bytes>> {
        let latest = self.latest.get(&table)?.get(key)?;
        Some(latest.value.clone())
    }

    /// The waiting rows of a table from a key on, in key order; `None` for a delete.
    pub(crate) fn rows_from(
        &self,
        table: u8,
        from: &[u8],
    ) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let rows = self.latest.get(&table).into_iter();
        let rows = rows
            .flat_map(move |rows| rows.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)));
        rows.map(|(key, latest)| (key.as_ref(), latest.value.as_deref()))
    }

    /// The waiting values of the keys with this prefix, or of all tables.
    pub(crate) fn range(&self, table: Option<u8>, prefix: &[u8]) -> BTreeMap<Key, Option<Bytes>> {
        let tables = self.latest.iter();
        let tables = tables.filter(|(one, _)| table.is_none_or(|table| **one == table));
        let mut found = BTreeMap::new();
        for (table, rows) in tables {
            let rows = rows.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
            for (key, latest) in rows.take_while(|(key, _)| key.starts_with(prefix)) {
                found.insert((*table, key.clone()), latest.value.clone());
            }
        }
        found
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    pub(crate) fn sections(&self) -> usize {
        self.waiting.len()
    }

    /// Where the first record of a log ends whose changes wait.
    pub(crate) fn first_end(&self, log: u32) -> Option<u64> {
        self.waiting
            .iter()
            .find(|pending| pending.log == log)
            .map(|pending| pending.end)
    }
}

/// The changes of a sound section as slices that share its memory.
fn slices(section: &Bytes) -> impl Iterator<Item = (Key, Option<Bytes>)> + '_ {
    section::decode(section).flatten().map(|change| {
        let key = (change.table, section.slice_ref(change.key));
        (key, change.value.map(|value| section.slice_ref(value)))
    })
}
