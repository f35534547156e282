//! A persistent hash-array-mapped trie: text -> slot, 32 ways per branch, 5 hash bits per branch.
//!
//! Both halves of the routing table are made of it: the exact filters (keyed by whole text) and the
//! children of a trie node (keyed by one level). A branch is a bitmap and a shared array of only
//! the occupied slots. Changes go through `Arc::make_mut` from the root down: a part that a
//! published snapshot holds is copied, a part that this batch has copied already is changed in
//! place. Below the last hash bit a branch is a plain list (a bucket) of texts with one hash.
//!
//! Invariant (canonical form): a branch other than a root holds at least two keys, so the same
//! contents always have the same shape, whatever the history. The depth is at most 8, so the one
//! recursion here, on hash depth, is bounded by the hash and not by input.

use std::mem;
use std::sync::Arc;

use crate::heap::{Heap, shared_len};
use crate::trie::TrieNode;
use crate::{FilterEntry, FilterId, Match, ShardSet};

/// Hash bits that one branch consumes.
const BRANCH_BITS: u32 = 5;

/// A branch at this shift or beyond is a bucket.
const HASH_BITS: u32 = u32::BITS;

const _: () = assert!(
    size_of::<Slot>() == 48,
    "a slot is most of a filter's memory"
);

/// A filter of the table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) text: Arc<str>,
    pub(crate) online: ShardSet,
    pub(crate) queue: ShardSet,
    pub(crate) id: FilterId,
    /// Hash of the key under which the entry is kept: its text, or one of its levels.
    pub(crate) hash: u32,
}

impl Entry {
    pub(crate) fn to_match(&self) -> Match {
        Match {
            filter: self.id,
            online: self.online,
            queue: self.queue,
            text: Arc::clone(&self.text),
        }
    }

    pub(crate) fn to_filter_entry(&self) -> FilterEntry {
        FilterEntry {
            id: self.id,
            text: Arc::clone(&self.text),
            online: self.online,
            queue: self.queue,
        }
    }
}

/// One place of a branch or of a trie node.
#[derive(Clone, Debug, Default)]
pub(crate) enum Slot {
    /// Nothing: an unused place of a trie node, or a place about to be filled.
    #[default]
    Empty,
    /// A filter.
    Entry(Entry),
    /// Two or more filters whose levels agree up to here (never among exact filters).
    Node(u32, Arc<TrieNode>),
    /// Two or more keys whose hashes agree up to here.
    Branch(Branch),
}

impl Slot {
    fn hash(&self) -> u32 {
        match self {
            Self::Entry(entry) => entry.hash,
            Self::Node(hash, _) => *hash,
            Self::Empty | Self::Branch(_) => 0,
        }
    }
}

/// What a slot is looked up by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    text: &'a str,
    hash: u32,
    /// Where `text` begins in the filters that it may be a level of; `None`: it is all of them.
    level_at: Option<usize>,
}

impl<'a> Key<'a> {
    /// The whole text of an exact filter.
    pub(crate) fn whole(text: &'a str, hash: u32) -> Self {
        Self {
            text,
            hash,
            level_at: None,
        }
    }

    /// The level that begins at byte `at` of every filter that the branch holds.
    pub(crate) fn level(text: &'a str, hash: u32, at: usize) -> Self {
        Self {
            text,
            hash,
            level_at: Some(at),
        }
    }

    fn names(&self, slot: &Slot) -> bool {
        match slot {
            Slot::Entry(entry) if entry.hash == self.hash => self.names_text(&entry.text),
            Slot::Node(hash, node) if *hash == self.hash => *node.level == *self.text,
            Slot::Empty | Slot::Entry(_) | Slot::Node(..) | Slot::Branch(_) => false,
        }
    }

    fn names_text(&self, filter: &str) -> bool {
        let Some(at) = self.level_at else {
            return filter == self.text;
        };
        let rest = filter
            .as_bytes()
            .get(at..)
            .and_then(|rest| rest.strip_prefix(self.text.as_bytes()));
        matches!(rest, Some([] | [b'/', ..]))
    }
}

/// Where a key stands in one branch.
enum Step {
    Absent(usize),
    Here(usize),
    /// Another key stands there, with the same hash so far.
    Clash(usize),
    Below(usize),
}

/// A branch: the occupied ones of 32 places, or a bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Branch {
    /// Occupied places; not used in a bucket.
    map: u32,
    slots: Arc<[Slot]>,
}

impl Branch {
    /// The slot of a key; makes an empty one, which the caller must fill, if there is none.
    pub(crate) fn place(&mut self, key: &Key<'_>, heap: &mut Heap) -> &mut Slot {
        let mut branch = self;
        let mut shift = 0;
        loop {
            let index = match branch.step(key, shift) {
                Step::Here(index) => return branch.slot_mut(index),
                Step::Absent(index) => {
                    branch.insert(index, key.hash, shift, heap);
                    return branch.slot_mut(index);
                }
                Step::Clash(index) => {
                    branch.split(index, shift, heap);
                    index
                }
                Step::Below(index) => index,
            };
            branch = branch.below_mut(index);
            shift += BRANCH_BITS;
        }
    }

    /// Removes a key, if it is there, and every branch that is no longer needed.
    pub(crate) fn remove(&mut self, key: &Key<'_>, heap: &mut Heap) {
        if self.find(key).is_some() {
            self.remove_below(key, 0, heap);
        }
    }

    /// The slot of a key.
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<&Slot> {
        let mut branch = self;
        let mut shift = 0;
        while shift < HASH_BITS {
            let bit = place_bit(key.hash, shift);
            if branch.map & bit == 0 {
                return None;
            }
            let slot = branch.slots.get(branch.rank(bit))?;
            let Slot::Branch(below) = slot else {
                return key.names(slot).then_some(slot);
            };
            branch = below;
            shift += BRANCH_BITS;
        }
        branch.slots.iter().find(|slot| key.names(slot))
    }

    /// Whether the branch has no slot.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The branch's own slots, in no particular order.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Heap bytes of the slot array, without what the slots hold.
    pub(crate) fn heap_len(&self) -> usize {
        array_len(self.slots.len())
    }

    fn step(&self, key: &Key<'_>, shift: u32) -> Step {
        if shift >= HASH_BITS {
            return match self.slots.iter().position(|slot| key.names(slot)) {
                Some(index) => Step::Here(index),
                None => Step::Absent(self.slots.len()),
            };
        }
        let bit = place_bit(key.hash, shift);
        let index = self.rank(bit);
        match self.slots.get(index) {
            _ if self.map & bit == 0 => Step::Absent(index),
            Some(Slot::Branch(_)) => Step::Below(index),
            Some(slot) if !key.names(slot) => Step::Clash(index),
            Some(_) | None => Step::Here(index),
        }
    }

    /// Puts an empty slot at `index`.
    fn insert(&mut self, index: usize, hash: u32, shift: u32, heap: &mut Heap) {
        heap.sub(self.heap_len());
        self.slots = match Arc::get_mut(&mut self.slots) {
            Some(slots) => {
                let (before, after) = slots.split_at_mut(index);
                let before = before.iter_mut().map(mem::take);
                let after = after.iter_mut().map(mem::take);
                before.chain([Slot::Empty]).chain(after).collect()
            }
            None => {
                let (before, after) = self.slots.split_at(index);
                let before = before.iter().cloned();
                before
                    .chain([Slot::Empty])
                    .chain(after.iter().cloned())
                    .collect()
            }
        };
        if shift < HASH_BITS {
            self.map |= place_bit(hash, shift);
        }
        heap.add(self.heap_len());
    }

    /// Takes the slot at `index` out.
    fn take(&mut self, index: usize, hash: u32, shift: u32, heap: &mut Heap) {
        heap.sub(self.heap_len());
        let (before, rest) = self.slots.split_at(index);
        let after = rest.get(1..).unwrap_or_default();
        self.slots = before.iter().chain(after).cloned().collect();
        if shift < HASH_BITS {
            self.map &= !place_bit(hash, shift);
        }
        heap.add(self.heap_len());
    }

    /// Moves the slot at `index` one branch down, to make room for another key.
    fn split(&mut self, index: usize, shift: u32, heap: &mut Heap) {
        let slot = self.slot_mut(index);
        let hash = slot.hash();
        let mut below = Self::default();
        below.insert(0, hash, shift + BRANCH_BITS, heap);
        *below.slot_mut(0) = mem::take(slot);
        *slot = Slot::Branch(below);
    }

    /// Removes a key that is there; afterwards a branch below that holds one key gives it up.
    fn remove_below(&mut self, key: &Key<'_>, shift: u32, heap: &mut Heap) {
        let index = match self.step(key, shift) {
            Step::Here(index) => return self.take(index, key.hash, shift, heap),
            Step::Below(index) => index,
            Step::Absent(_) | Step::Clash(_) => return,
        };
        let below = self.below_mut(index);
        below.remove_below(key, shift + BRANCH_BITS, heap);
        if let [Slot::Entry(_) | Slot::Node(..)] = below.slots() {
            heap.sub(below.heap_len());
            let last = mem::take(below.slot_mut(0));
            *self.slot_mut(index) = last;
        }
    }

    /// The slot at an index that `step` has found, in an array that no snapshot shares.
    #[expect(
        clippy::indexing_slicing,
        reason = "the index comes from the array's own bitmap"
    )]
    fn slot_mut(&mut self, index: usize) -> &mut Slot {
        &mut Arc::make_mut(&mut self.slots)[index]
    }

    fn below_mut(&mut self, index: usize) -> &mut Self {
        match self.slot_mut(index) {
            Slot::Branch(below) => below,
            Slot::Empty | Slot::Entry(_) | Slot::Node(..) => {
                unreachable!("step has found a branch at {index}")
            }
        }
    }

    /// Occupied places below `bit`: the index of that place's slot.
    fn rank(&self, bit: u32) -> usize {
        (self.map & (bit - 1)).count_ones() as usize
    }
}

/// The place of a hash in a branch at `shift`, as a bit of its map.
fn place_bit(hash: u32, shift: u32) -> u32 {
    1 << ((hash >> shift) & ((1 << BRANCH_BITS) - 1))
}

/// Heap bytes of an array of slots; the empty array is not allocated.
fn array_len(slots: usize) -> usize {
    if slots == 0 {
        0
    } else {
        shared_len(slots * size_of::<Slot>())
    }
}
