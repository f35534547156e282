//! The retained messages that a shard owns: rows of its state store, of which memory holds counts
//! and the stamps of the topics that were published to last.

use std::collections::HashMap;
use std::sync::Arc;

use engine_session::{LogOffset, Message};
use foldhash::fast::FixedState;

use crate::port::{ShardId, Store, Table};
use crate::retained_read::Reads;
use crate::retained_sweep::Sweep;
use crate::shard::Shard;
use crate::state::{self, RetainedRow};

/// Bytes of topics in one half of the cache, at most; one topic is whatever its length.
const HALF_BYTES_MAX: usize = 1 << 20;

/// The last publication of a topic, or its delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Last {
    stamp: u64,
    is_delete: bool,
}

/// The last publications of topics that were looked at lately: two halves, of which the older is
/// forgotten when the younger is full.
#[derive(Debug)]
struct Cache {
    young: Half,
    old: Half,
    seed: u64,
}

#[derive(Debug)]
struct Half {
    topics: HashMap<Arc<str>, Last, FixedState>,
    bytes: usize,
}

impl Half {
    const fn new(seed: u64) -> Self {
        Self {
            topics: HashMap::with_hasher(FixedState::with_seed(seed)),
            bytes: 0,
        }
    }

    fn remove(&mut self, topic: &str) -> Option<Last> {
        let (topic, last) = self.topics.remove_entry(topic)?;
        self.bytes -= topic.len();
        Some(last)
    }
}

impl Cache {
    const fn new(seed: u64) -> Self {
        Self {
            young: Half::new(seed),
            old: Half::new(seed),
            seed,
        }
    }

    fn get(&mut self, topic: &str, topics_max: usize) -> Option<Last> {
        if let Some(last) = self.young.topics.get(topic) {
            return Some(*last);
        }
        let last = self.old.remove(topic)?;
        self.put(topic, last, topics_max);
        Some(last)
    }

    /// Keeps so many topics at most.
    fn put(&mut self, topic: &str, last: Last, topics_max: usize) {
        if let Some(known) = self.young.topics.get_mut(topic) {
            *known = last;
            return;
        }
        self.old.remove(topic);
        let half = topics_max / 2;
        let young = &mut self.young;
        if young.topics.len() >= half || young.bytes + topic.len() > HALF_BYTES_MAX {
            self.old = std::mem::replace(young, Half::new(self.seed));
        }
        self.young.bytes += topic.len();
        self.young.topics.insert(topic.into(), last);
    }

    fn remove(&mut self, topic: &str) {
        self.young.remove(topic);
        self.old.remove(topic);
    }

    fn len(&self) -> usize {
        self.young.topics.len() + self.old.topics.len()
    }
}

/// See the module. A row with an empty payload is the tombstone of a delete.
#[derive(Debug)]
pub(crate) struct RetainedTable {
    live: usize,
    cache: Cache,
    pub(crate) sweep: Sweep,
    pub(crate) reads: Reads,
    /// Shards, as bits, that wait to hear how far their retained publications are applied.
    owed: u64,
    /// Publications of theirs that the bound has kept out, not told yet.
    refused: Vec<(ShardId, LogOffset)>,
}

impl RetainedTable {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            live: 0,
            cache: Cache::new(seed),
            sweep: Sweep::default(),
            reads: Reads::default(),
            owed: 0,
            refused: Vec::new(),
        }
    }

    /// Messages, deletes aside.
    pub(crate) const fn len(&self) -> usize {
        self.live
    }

    /// Topics whose last publication is in memory.
    pub(crate) fn cached(&self) -> usize {
        self.cache.len()
    }

    /// That shard has sent retained publications.
    pub(crate) const fn owe(&mut self, shard: ShardId) {
        self.owed |= 1 << shard.0;
    }

    /// A publication of that shard has found no room.
    pub(crate) fn refuse(&mut self, shard: ShardId, at: LogOffset) {
        self.refused.push((shard, at));
    }

    /// What that shard is to be told now: which of its publications were refused. `None`: nothing.
    pub(crate) fn settle_debt(&mut self, shard: ShardId) -> Option<Vec<LogOffset>> {
        let bit = 1 << shard.0;
        let owed = self.owed & bit != 0;
        self.owed &= !bit;
        owed.then(|| {
            let own = self.refused.extract_if(.., |(one, _)| *one == shard);
            own.map(|(_, at)| at).collect()
        })
    }

    /// A row that the state store has, at the start.
    pub(crate) fn count(&mut self, row: &RetainedRow<'_>) {
        self.live += usize::from(!row.is_delete());
        self.sweep.note(row);
    }

    /// A topic's message has expired: its row is a tombstone now.
    pub(crate) fn expire(&mut self, topic: &str) {
        self.live -= 1;
        self.cache.remove(topic);
    }

    /// A topic has no row any more.
    pub(crate) fn forget(&mut self, topic: &str) {
        self.cache.remove(topic);
    }
}

impl Shard {
    fn last_retained<S: Store>(&mut self, topic: &str, store: &mut S) -> Option<Last> {
        let topics_max = self.config.retained_cached_max;
        if let Some(last) = self.retained.cache.get(topic, topics_max) {
            return Some(last);
        }
        let value = store.row(Table::Retained, topic.as_bytes())?;
        let row = RetainedRow::decode(&value).ok()?;
        let last = Last {
            stamp: row.stamp,
            is_delete: row.is_delete(),
        };
        self.retained.cache.put(topic, last, topics_max);
        Some(last)
    }

    /// Whether a publication, or delete, is the last one of its topic, which this shard owns.
    pub(crate) fn is_last_retained<S: Store>(
        &mut self,
        topic: &str,
        stamp: u64,
        store: &mut S,
    ) -> bool {
        let last = self.last_retained(topic, store);
        last.is_some_and(|last| last.stamp == stamp)
    }

    /// A retained publication of any log, durable in it, reaches its owner: the highest stamp wins.
    /// False: there are as many as there may be.
    pub(crate) fn apply_retained<S: Store>(&mut self, message: &Message, store: &mut S) -> bool {
        self.active = 2;
        let Ok(body) = message.parts() else {
            self.counters.dropped_unreadable += 1;
            return true;
        };
        let is_delete = body.payload.is_empty();
        let old = self.last_retained(body.topic, store);
        if old.is_some_and(|old| old.stamp >= message.stamp) {
            return true;
        }
        let was_live = old.is_some_and(|old| !old.is_delete);
        if !is_delete && !was_live && self.retained.live >= self.config.retained_max {
            self.counters.refused += 1;
            return false;
        }
        let Ok(change) = state::retained_change(message, self.now.wall_ms) else {
            return true;
        };
        self.retained.live = self.retained.live + usize::from(!is_delete) - usize::from(was_live);
        let last = Last {
            stamp: message.stamp,
            is_delete,
        };
        let topics_max = self.config.retained_cached_max;
        self.retained.cache.put(body.topic, last, topics_max);
        if let Some(Ok(row)) = change.value.as_deref().map(RetainedRow::decode) {
            self.retained.sweep.note(&row);
        }
        store.apply(message.address, change);
        self.counters.retained = self.retained.live as u64;
        self.counters.retained_cached = self.retained.cached() as u64;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn last(stamp: u64) -> Last {
        Last {
            stamp,
            is_delete: false,
        }
    }

    #[test]
    fn the_cache_keeps_its_bounds_and_what_is_used() {
        let mut cache = Cache::new(1);
        cache.put("used", last(7), 8);
        for n in 0..100 {
            cache.put(&format!("topic {n}"), last(n), 8);
            assert_eq!(cache.get("used", 8), Some(last(7)), "after {n}");
            assert!(cache.len() <= 8, "{} topics", cache.len());
        }
        assert_eq!(cache.get("topic 99", 8), Some(last(99)));
        assert_eq!(cache.get("topic 0", 8), None, "long forgotten");
        cache.put("used", last(8), 8);
        assert_eq!(cache.get("used", 8), Some(last(8)));
        cache.remove("used");
        assert_eq!(cache.get("used", 8), None);
        for n in 0..100 {
            let long = format!("{n:0>60000}");
            cache.put(&long, last(n), 1_000);
            assert!(cache.young.bytes + cache.old.bytes <= 2 * HALF_BYTES_MAX);
            let count = |half: &Half| half.topics.keys().map(|topic| topic.len()).sum::<usize>();
            assert_eq!(count(&cache.young), cache.young.bytes);
            assert_eq!(count(&cache.old), cache.old.bytes);
        }
    }
}
