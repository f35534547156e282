//! The one writer of the routing table.

use std::sync::Arc;

use crate::hamt::Entry;
use crate::hash::TextHasher;
use crate::name::level_count;
use crate::{Change, FilterId, LEVELS_MAX, RoutingTable, ShardSet};

/// Makes the versions of the routing table. One per node, on one shard; the others hold snapshots.
#[derive(Debug)]
pub struct Writer {
    current: Arc<RoutingTable>,
    ids_used: u32,
}

impl Writer {
    /// An empty table, version 0, with a fixed hash seed.
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// An empty table, version 0. Give a secret `seed`, so that clients cannot choose topics that
    /// collide.
    pub fn with_seed(seed: u64) -> Self {
        Self::with_hasher(TextHasher::new(seed))
    }

    /// Applies a batch of changes in order and returns the next version (even if nothing changed:
    /// a version is also a barrier). Each path is copied once per batch, however many changes it
    /// has. Costs O(changes), whatever the size of the table.
    ///
    /// Panics if a shard is not below [`crate::SHARDS_MAX`], a filter has more than [`LEVELS_MAX`]
    /// levels (no parsed one has), or all filter ids are used up (see [`Self::ids_left`]).
    pub fn apply(&mut self, changes: &[Change]) -> Arc<RoutingTable> {
        let mut table = RoutingTable::clone(&self.current);
        table.advance();
        for change in changes {
            self.apply_one(&mut table, change);
        }
        self.current = Arc::new(table);
        self.current()
    }

    /// The latest version.
    pub fn current(&self) -> Arc<RoutingTable> {
        Arc::clone(&self.current)
    }

    /// How many more filters can enter the table before the ids of this boot are used up. Refuse
    /// new filters before that: [`Self::apply`] cannot.
    pub fn ids_left(&self) -> u32 {
        u32::MAX - self.ids_used
    }

    pub(crate) fn with_hasher(hasher: TextHasher) -> Self {
        Self {
            current: Arc::new(RoutingTable::empty(hasher)),
            ids_used: 0,
        }
    }

    fn apply_one(&mut self, table: &mut RoutingTable, change: &Change) {
        let known = table
            .find(&change.filter)
            .map(|entry| (entry.online, entry.queue));
        let (mut online, mut queue) = known.unwrap_or_default();
        online.set(change.shard, change.online);
        queue.set(change.shard, change.queue);
        let is_empty = online.is_empty() && queue.is_empty();
        match known {
            None if is_empty => {}
            None => table.insert(self.new_entry(change, online, queue)),
            Some(_) if is_empty => table.remove(&change.filter),
            Some(known) if known == (online, queue) => {}
            Some(_) => {
                let entry = table.entry_mut(&change.filter);
                entry.online = online;
                entry.queue = queue;
            }
        }
    }

    fn new_entry(&mut self, change: &Change, online: ShardSet, queue: ShardSet) -> Entry {
        let levels = level_count(&change.filter);
        assert!(
            levels <= LEVELS_MAX,
            "a filter with {levels} levels, more than {LEVELS_MAX}"
        );
        assert!(
            self.ids_left() > 0,
            "all filter ids of this boot are used up"
        );
        self.ids_used += 1;
        let id = FilterId(self.ids_used);
        Entry {
            text: Arc::clone(&change.filter),
            online,
            queue,
            id,
            hash: 0,
        }
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}
