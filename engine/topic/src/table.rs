//! The routing table: one immutable snapshot per version.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{FilterEntry, Match, matches};

/// All filters with subscribers, as of one version. Immutable; shared by all shards.
#[derive(Clone, Debug, Default)]
pub struct RoutingTable {
    pub(crate) version: u64,
    pub(crate) entries: BTreeMap<Arc<str>, FilterEntry>,
}

impl RoutingTable {
    /// How many times the writer has applied changes before this snapshot; 0 is the empty table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Pushes every filter that matches `topic` (a valid topic name) onto `out`, in no particular
    /// order. Does not clear `out`.
    pub fn match_topic(&self, topic: &str, out: &mut Vec<Match>) {
        for entry in self
            .entries
            .values()
            .filter(|entry| matches(&entry.text, topic))
        {
            out.push(Match {
                filter: entry.id,
                online: entry.online,
                queue: entry.queue,
                text: Arc::clone(&entry.text),
            });
        }
    }

    /// The entry of one filter.
    pub fn filter(&self, text: &str) -> Option<FilterEntry> {
        self.entries.get(text).cloned()
    }

    /// How many filters the table holds.
    pub fn filter_count(&self) -> usize {
        self.entries.len()
    }

    /// Estimated bytes of heap memory that this snapshot holds.
    pub fn memory(&self) -> usize {
        self.entries.keys().map(|text| text.len() + 128).sum()
    }
}
