//! The routing table: one immutable snapshot per version.

use std::fmt;
use std::sync::Arc;

use crate::hamt::{Branch, Entry, Key, Slot};
use crate::hash::TextHasher;
use crate::heap::{Heap, shared_len};
use crate::trie::TrieNode;
use crate::{FilterEntry, Match};

/// All filters with subscribers, as of one version. Immutable and shared by all shards: a look-up
/// waits for nobody, and a snapshot stays as it is for as long as somebody holds it.
///
/// Exact filters are kept under the hash of their whole text, wildcard filters in a trie of
/// levels. A version shares with the one before it everything but the paths that were changed.
#[derive(Clone)]
pub struct RoutingTable {
    version: u64,
    exact: Branch,
    exact_count: usize,
    dollar_count: usize,
    wild: Arc<TrieNode>,
    hasher: TextHasher,
    heap: Heap,
}

impl RoutingTable {
    /// How many times the writer has applied changes before this snapshot; 0 is the empty table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Pushes every filter that matches `topic` (a valid topic name) onto `out`, in no particular
    /// order, each once. Does not clear `out`. Allocates nothing but what `out` needs to grow.
    pub fn match_topic(&self, topic: &str, out: &mut Vec<Match>) {
        if let Some(entry) = self.find_exact(topic) {
            out.push(entry.to_match());
        }
        self.wild.match_topic(topic, &self.hasher, out);
    }

    /// The entry of one filter (a valid one, without a share prefix).
    pub fn filter(&self, text: &str) -> Option<FilterEntry> {
        self.find(text).map(Entry::to_filter_entry)
    }

    /// How many filters the table holds.
    pub fn filter_count(&self) -> usize {
        self.exact_count + self.wild.count()
    }

    /// How many of them begin with `$`: no other matches a topic that does [MQTT-4.7.2-1].
    pub fn dollar_count(&self) -> usize {
        self.dollar_count
    }

    /// How many of them have wildcards.
    pub fn wildcard_count(&self) -> usize {
        self.wild.count()
    }

    /// Estimated bytes of heap memory that this snapshot holds, texts included, as a common
    /// allocator rounds them. Kept up to date by the writer, so this costs nothing. What several
    /// snapshots share counts in each of them.
    pub fn memory(&self) -> usize {
        self.heap.bytes()
    }

    pub(crate) fn empty(hasher: TextHasher) -> Self {
        let wild = Arc::<TrieNode>::default();
        let mut heap = Heap::default();
        heap.add(shared_len(size_of::<Self>()) + wild.heap_len());
        Self {
            version: 0,
            exact: Branch::default(),
            exact_count: 0,
            dollar_count: 0,
            wild,
            hasher,
            heap,
        }
    }

    pub(crate) fn advance(&mut self) {
        self.version += 1;
    }

    pub(crate) fn find(&self, text: &str) -> Option<&Entry> {
        if is_wildcard(text) {
            self.wild.find(text, &self.hasher)
        } else {
            self.find_exact(text)
        }
    }

    /// Adds a filter that is not in the table.
    pub(crate) fn insert(&mut self, mut entry: Entry) {
        self.heap.add(shared_len(entry.text.len()));
        self.dollar_count += usize::from(entry.text.starts_with('$'));
        if is_wildcard(&entry.text) {
            return TrieNode::insert(&mut self.wild, entry, &self.hasher, &mut self.heap);
        }
        let text = Arc::clone(&entry.text);
        entry.hash = self.hasher.hash(&text);
        let key = Key::whole(&text, entry.hash);
        *self.exact.place(&key, &mut self.heap) = Slot::Entry(entry);
        self.exact_count += 1;
    }

    /// The entry of a filter that is in the table.
    pub(crate) fn entry_mut(&mut self, text: &str) -> &mut Entry {
        if is_wildcard(text) {
            return TrieNode::entry_mut(&mut self.wild, text, &self.hasher, &mut self.heap);
        }
        let key = Key::whole(text, self.hasher.hash(text));
        match self.exact.place(&key, &mut self.heap) {
            Slot::Entry(entry) => entry,
            Slot::Empty | Slot::Node(..) | Slot::Branch(_) => {
                unreachable!("a key of the exact filters leads to an entry")
            }
        }
    }

    /// Removes a filter that is in the table.
    pub(crate) fn remove(&mut self, text: &str) {
        self.heap.sub(shared_len(text.len()));
        self.dollar_count -= usize::from(text.starts_with('$'));
        if is_wildcard(text) {
            return TrieNode::remove(&mut self.wild, text, &self.hasher, &mut self.heap);
        }
        let key = Key::whole(text, self.hasher.hash(text));
        self.exact.remove(&key, &mut self.heap);
        self.exact_count -= 1;
    }

    fn find_exact(&self, text: &str) -> Option<&Entry> {
        match self.exact.find(&Key::whole(text, self.hasher.hash(text)))? {
            Slot::Entry(entry) => Some(entry),
            Slot::Empty | Slot::Node(..) | Slot::Branch(_) => None,
        }
    }
}

impl fmt::Debug for RoutingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoutingTable")
            .field("version", &self.version)
            .field("filters", &self.filter_count())
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}

/// Whether a valid filter has wildcards.
fn is_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
