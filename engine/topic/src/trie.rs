//! The wildcard filters: a persistent trie of levels.
//!
//! A node stands for a filter's first levels. It has a place for the filter that ends there, one
//! for the filter that goes on with `#` only, one for `+`, and a [`Branch`] for all other levels.
//! A node exists only where two filters part (and at the root): a filter that shares its next
//! levels with no other is kept whole in the slot where it became unique, so a million
//! `dev/<id>/#` are a million entries below one node `dev`.
//!
//! Invariant (canonical form): a node other than the root counts at least two filters. Nothing
//! here recurses on a filter's levels, except freeing nodes, which [`crate::LEVELS_MAX`] bounds.

use std::mem;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::hamt::{Branch, Entry, Key, Slot};
use crate::hash::TextHasher;
use crate::heap::{Heap, shared_len};
use crate::matching::{is_hidden, matches_from, next_level};
use crate::{LEVELS_MAX, Match};

/// What all filters below have in common, and where they part.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrieNode {
    /// The last of the levels that the node stands for.
    pub(crate) level: Arc<str>,
    /// Filters at and below this node.
    count: usize,
    /// The filter that ends here.
    here: Slot,
    /// The filter that ends here but for `#`.
    tail: Slot,
    /// Filters that go on with `+`.
    plus: Slot,
    /// Filters that go on with a level that is no wildcard.
    children: Branch,
}

/// Where one level of a filter leads.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Here,
    Tail,
    Plus {
        next: usize,
    },
    Child {
        key: Key<'a>,
        level: &'a str,
        hash: u32,
        next: usize,
    },
}

impl<'a> Step<'a> {
    /// The step from the level that begins at byte `at`.
    fn of(filter: &'a str, at: usize, hasher: &TextHasher) -> Self {
        match next_level(filter, at) {
            None => Self::Here,
            Some(("#", _)) => Self::Tail,
            Some(("+", next)) => Self::Plus { next },
            Some((level, next)) => {
                let hash = hasher.hash(level);
                Self::Child {
                    key: Key::level(level, hash, at),
                    level,
                    hash,
                    next,
                }
            }
        }
    }

    fn hash(&self) -> u32 {
        match self {
            Self::Child { hash, .. } => *hash,
            Self::Here | Self::Tail | Self::Plus { .. } => 0,
        }
    }

    fn level(&self) -> &'a str {
        match self {
            Self::Child { level, .. } => level,
            Self::Plus { .. } => "+",
            Self::Here | Self::Tail => "",
        }
    }

    /// Where the next level begins; no step follows the last two kinds.
    fn next(&self) -> usize {
        match self {
            Self::Child { next, .. } | Self::Plus { next } => *next,
            Self::Here | Self::Tail => usize::MAX,
        }
    }
}

impl TrieNode {
    /// Adds a filter that is not in the trie.
    pub(crate) fn insert(root: &mut Arc<Self>, entry: Entry, hasher: &TextHasher, heap: &mut Heap) {
        let text = Arc::clone(&entry.text);
        let mut node = Arc::make_mut(root);
        let mut at = 0;
        loop {
            node.count += 1;
            let step = Step::of(&text, at, hasher);
            let slot = node.seat_mut(&step, heap);
            match mem::take(slot) {
                Slot::Empty => {
                    *slot = Slot::Entry(Entry {
                        hash: step.hash(),
                        ..entry
                    });
                    return;
                }
                Slot::Entry(other) => {
                    let parted = Self::with_one(&step, other, hasher, heap);
                    *slot = Slot::Node(step.hash(), Arc::new(parted));
                }
                taken @ (Slot::Node(..) | Slot::Branch(_)) => *slot = taken,
            }
            node = node_mut(slot);
            at = step.next();
        }
    }

    /// Removes a filter that is in the trie. The topmost node that is left with one filter gives
    /// way to that filter.
    pub(crate) fn remove(root: &mut Arc<Self>, text: &str, hasher: &TextHasher, heap: &mut Heap) {
        let mut node = Arc::make_mut(root);
        let mut at = 0;
        loop {
            node.count -= 1;
            let step = Step::of(text, at, hasher);
            match node.seat(&step) {
                Some(Slot::Node(hash, below)) if below.count == 2 => {
                    let survivor = below.survivor(text, *hash, heap);
                    *node.seat_mut(&step, heap) = survivor;
                    return;
                }
                Some(Slot::Node(..)) => node = node_mut(node.seat_mut(&step, heap)),
                Some(_) | None => return node.clear(&step, heap),
            }
            at = step.next();
        }
    }

    /// The entry of a filter that is in the trie, in nodes that no snapshot shares.
    pub(crate) fn entry_mut<'a>(
        root: &'a mut Arc<Self>,
        text: &str,
        hasher: &TextHasher,
        heap: &mut Heap,
    ) -> &'a mut Entry {
        let mut node = Arc::make_mut(root);
        let mut at = 0;
        loop {
            let step = Step::of(text, at, hasher);
            match node.seat_mut(&step, heap) {
                Slot::Entry(entry) => return entry,
                slot @ (Slot::Node(..) | Slot::Empty | Slot::Branch(_)) => node = node_mut(slot),
            }
            at = step.next();
        }
    }

    /// The entry of a filter.
    pub(crate) fn find(&self, text: &str, hasher: &TextHasher) -> Option<&Entry> {
        let mut node = self;
        let mut at = 0;
        loop {
            let step = Step::of(text, at, hasher);
            match node.seat(&step)? {
                Slot::Entry(entry) => return (*entry.text == *text).then_some(entry),
                Slot::Node(_, below) => node = below,
                Slot::Empty | Slot::Branch(_) => return None,
            }
            at = step.next();
        }
    }

    /// Pushes every filter that matches `topic`.
    pub(crate) fn match_topic(&self, topic: &str, hasher: &TextHasher, out: &mut Vec<Match>) {
        let mut walk = Walk {
            topic,
            hasher,
            out,
            pending: SmallVec::new(),
        };
        walk.pending.push(Pending {
            node: self,
            topic_at: 0,
            filter_at: 0,
        });
        while let Some(next) = walk.pending.pop() {
            walk.visit(&next);
        }
        debug_assert!(!walk.pending.spilled(), "more than {LEVELS_MAX} nodes wait");
    }

    /// Filters in the trie.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Every slot at and below this node, in no particular order.
    pub(crate) fn slots(&self) -> Slots<'_> {
        let mut slots = Slots {
            pending: Vec::new(),
        };
        slots.push_node(self);
        slots
    }

    /// A node for the level of `step` that holds one filter.
    fn with_one(step: &Step<'_>, entry: Entry, hasher: &TextHasher, heap: &mut Heap) -> Self {
        let mut node = Self {
            level: Arc::from(step.level()),
            count: 1,
            ..Self::default()
        };
        heap.add(node.heap_len());
        let text = Arc::clone(&entry.text);
        let onward = Step::of(&text, step.next(), hasher);
        *node.seat_mut(&onward, heap) = Slot::Entry(Entry {
            hash: onward.hash(),
            ..entry
        });
        node
    }

    /// The other one of two filters, ready for the slot that held this node, whose heap bytes are
    /// given back.
    fn survivor(&self, removed: &str, hash: u32, heap: &mut Heap) -> Slot {
        let mut survivor = Slot::Empty;
        heap.sub(self.heap_len());
        for slot in self.slots() {
            match slot {
                Slot::Entry(entry) if *entry.text != *removed => {
                    survivor = Slot::Entry(Entry {
                        hash,
                        ..entry.clone()
                    });
                }
                Slot::Node(_, node) => heap.sub(node.heap_len()),
                Slot::Branch(branch) => heap.sub(branch.heap_len()),
                Slot::Entry(_) | Slot::Empty => {}
            }
        }
        survivor
    }

    fn seat(&self, step: &Step<'_>) -> Option<&Slot> {
        match step {
            Step::Here => Some(&self.here),
            Step::Tail => Some(&self.tail),
            Step::Plus { .. } => Some(&self.plus),
            Step::Child { key, .. } => self.children.find(key),
        }
    }

    /// The slot of a step; an empty one is the caller's to fill.
    fn seat_mut(&mut self, step: &Step<'_>, heap: &mut Heap) -> &mut Slot {
        match step {
            Step::Here => &mut self.here,
            Step::Tail => &mut self.tail,
            Step::Plus { .. } => &mut self.plus,
            Step::Child { key, .. } => self.children.place(key, heap),
        }
    }

    fn clear(&mut self, step: &Step<'_>, heap: &mut Heap) {
        match step {
            Step::Here => self.here = Slot::Empty,
            Step::Tail => self.tail = Slot::Empty,
            Step::Plus { .. } => self.plus = Slot::Empty,
            Step::Child { key, .. } => self.children.remove(key, heap),
        }
    }

    /// Heap bytes of the node, its level and the array of its children.
    pub(crate) fn heap_len(&self) -> usize {
        shared_len(size_of::<Self>()) + shared_len(self.level.len()) + self.children.heap_len()
    }
}

/// A walk over all slots of a subtree.
pub(crate) struct Slots<'a> {
    pending: Vec<&'a Slot>,
}

impl<'a> Slots<'a> {
    /// A walk over all slots of a branch.
    #[cfg(test)]
    pub(crate) fn of_branch(branch: &'a Branch) -> Self {
        Self {
            pending: branch.slots().iter().collect(),
        }
    }

    fn push_node(&mut self, node: &'a TrieNode) {
        self.pending.extend([&node.here, &node.tail, &node.plus]);
        self.pending.extend(node.children.slots());
    }
}

impl<'a> Iterator for Slots<'a> {
    type Item = &'a Slot;

    fn next(&mut self) -> Option<&'a Slot> {
        let slot = self.pending.pop()?;
        match slot {
            Slot::Node(_, node) => self.push_node(node),
            Slot::Branch(branch) => self.pending.extend(branch.slots()),
            Slot::Empty | Slot::Entry(_) => {}
        }
        Some(slot)
    }
}

/// A topic on its way through the trie, depth first.
struct Walk<'a, 't> {
    topic: &'t str,
    hasher: &'t TextHasher,
    out: &'t mut Vec<Match>,
    /// At most one node of each depth waits, and one more of the deepest; nodes are less than
    /// [`LEVELS_MAX`] deep, so nothing spills to the heap.
    pending: SmallVec<[Pending<'a>; LEVELS_MAX]>,
}

/// A node that the topic has reached, and where the next levels of both begin.
struct Pending<'a> {
    node: &'a TrieNode,
    topic_at: usize,
    filter_at: usize,
}

impl<'a> Walk<'a, '_> {
    fn visit(&mut self, reached: &Pending<'a>) {
        let Pending {
            node,
            topic_at,
            filter_at,
        } = *reached;
        let wildcards = topic_at > 0 || !is_hidden(self.topic);
        if wildcards && let Slot::Entry(entry) = &node.tail {
            self.out.push(entry.to_match());
        }
        let Some((level, topic_next)) = next_level(self.topic, topic_at) else {
            if let Slot::Entry(entry) = &node.here {
                self.out.push(entry.to_match());
            }
            return;
        };
        if wildcards {
            self.follow(&node.plus, topic_next, filter_at + "+/".len());
        }
        if !node.children.is_empty() {
            let key = Key::level(level, self.hasher.hash(level), filter_at);
            if let Some(slot) = node.children.find(&key) {
                self.follow(slot, topic_next, filter_at + level.len() + 1);
            }
        }
    }

    /// Goes through the slot that a level has led to: a filter that stands there alone is compared
    /// to its end, a node waits for its visit.
    fn follow(&mut self, slot: &'a Slot, topic_at: usize, filter_at: usize) {
        match slot {
            Slot::Entry(entry) => {
                if matches_from(&entry.text, filter_at, self.topic, topic_at) {
                    self.out.push(entry.to_match());
                }
            }
            Slot::Node(_, node) => self.pending.push(Pending {
                node,
                topic_at,
                filter_at,
            }),
            Slot::Empty | Slot::Branch(_) => {}
        }
    }
}

/// The node in a slot that is known to hold one, copied if a snapshot shares it.
fn node_mut(slot: &mut Slot) -> &mut TrieNode {
    match slot {
        Slot::Node(_, node) => Arc::make_mut(node),
        Slot::Empty | Slot::Entry(_) | Slot::Branch(_) => {
            unreachable!("a filter in the table ends in an entry")
        }
    }
}
