//! Entries that are not in a run yet: a flat table of queues, and chunks of entries.
//!
//! A queue with few entries is a chain of 64-byte chunks in one arena; one with many is a list of
//! large blocks, so that the place of an entry is arithmetic, however long the queue is. Entries
//! keep their distance to the first record of the memtable, in 32 bits.
#![expect(
    clippy::indexing_slicing,
    reason = "slots, chunks and places are indices that this module gave out itself"
)]

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;
use storage_log::{LogOffset, QueueId};

use crate::Entry;
use crate::fields::{index, low_u32, number};
use crate::limits::BLOCK_ENTRIES_MAX;
use crate::page::{Item, Start};

const NONE: u32 = u32::MAX;
const CHUNK_ENTRIES: usize = 4;

/// Entries of a queue from which it is kept in large blocks.
const LONG_FROM: u32 = 32;
const LONG_BLOCK_ENTRIES: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
struct Packed {
    /// Bytes from the first record of the memtable.
    delta: u32,
    size: u32,
    tag: u32,
}

#[repr(align(64))]
#[derive(Clone, Copy, Debug)]
struct Chunk {
    next: u32,
    entries: [Packed; CHUNK_ENTRIES],
}
const _: () = assert!(size_of::<Chunk>() == 64);

#[derive(Clone, Copy, Debug)]
enum Body {
    /// First and last chunk of the chain.
    Short { head: u32, tail: u32 },
    /// Which list of blocks.
    Long(u32),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    queue: QueueId,
    /// Queue offset of the first entry.
    first: u64,
    count: u32,
    /// Distance of the last entry.
    last: u32,
    body: Body,
}

/// One memtable: it covers the log from where the one before ends.
#[derive(Debug, Default)]
pub(crate) struct Memtable {
    slots_of: HashMap<u64, u32, FixedState>,
    slots: Vec<Slot>,
    chunks: Vec<Chunk>,
    long: Vec<Vec<Vec<Packed>>>,
    /// Where queue offsets jump: (slot, place) to the queue offset from there on. Only after a
    /// log has lost records.
    jumps: BTreeMap<(u32, u32), u64>,
    /// Offset of the first record.
    base: Option<u64>,
    entries: usize,
}

impl Memtable {
    pub(crate) const fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes of log from the first record to `at`; 0 when there is no record.
    pub(crate) fn reach(&self, at: LogOffset) -> u64 {
        self.base.map_or(0, |base| at.0.saturating_sub(base))
    }

    /// Appends an entry; false when its queue has one of the same record or a later one already.
    /// The caller keeps [`Memtable::reach`] below 2^32.
    pub(crate) fn push(&mut self, entry: &Entry) -> bool {
        let base = *self.base.get_or_insert(entry.at.0);
        debug_assert!(entry.at.0 - base <= u64::from(u32::MAX));
        let packed = Packed {
            delta: low_u32(entry.at.0 - base),
            size: entry.size,
            tag: entry.tag,
        };
        let slot = self.slot_for(entry);
        let place = self.slots[slot].count;
        if place > 0 && packed.delta <= self.slots[slot].last {
            return false;
        }
        if self.queue_offset(slot, place) != entry.queue_offset {
            self.jumps
                .insert((low_u32(number(slot)), place), entry.queue_offset);
        }
        self.put(slot, packed);
        self.slots[slot].count += 1;
        self.slots[slot].last = packed.delta;
        self.entries += 1;
        true
    }

    /// The entries of a queue at or above `from` and below `upto`, at most `max` of them.
    pub(crate) fn read(
        &self,
        queue: QueueId,
        from: LogOffset,
        upto: LogOffset,
        max: usize,
        out: &mut Vec<Entry>,
    ) {
        let Some(slot) = self.slot(queue) else { return };
        let first = self.partition(slot, |place| self.at(slot, place) < from.0);
        for place in first..self.slots[slot].count {
            let entry = self.entry(slot, place);
            if out.len() >= max || entry.at >= upto {
                break;
            }
            out.push(entry);
        }
    }

    /// The entries of a queue from a queue offset on, at most `max` of them.
    pub(crate) fn read_by_offset(
        &self,
        queue: QueueId,
        from: u64,
        max: usize,
        out: &mut Vec<Entry>,
    ) {
        let Some(slot) = self.slot(queue) else { return };
        let first = self.partition(slot, |place| self.queue_offset(slot, place) < from);
        for place in first..self.slots[slot].count {
            if out.len() >= max {
                break;
            }
            out.push(self.entry(slot, place));
        }
    }

    /// All queues in order, to be walked by [`Memtable::block`].
    pub(crate) fn walk(&self) -> Walk {
        // Pairs in one stretch of memory sort several times faster than slots in theirs.
        let pairs = (0_u32..)
            .zip(&self.slots)
            .map(|(slot, kept)| (kept.queue, slot));
        let mut order: Vec<(QueueId, u32)> = pairs.collect();
        order.sort_unstable();
        Walk {
            order,
            queue: 0,
            place: 0,
        }
    }

    /// The next block of the walk: the items go to `items`. `None` at the end.
    pub(crate) fn block(&self, walk: &mut Walk, items: &mut Vec<Item>) -> Option<Start> {
        items.clear();
        let slot = at_index(walk.order.get(walk.queue)?.1);
        let count = self.slots[slot].count;
        let queue_offset = self.queue_offset(slot, walk.place);
        let start = Start {
            queue: self.slots[slot].queue,
            queue_offset,
            at: self.at(slot, walk.place),
        };
        while walk.place < count && items.len() < BLOCK_ENTRIES_MAX {
            if self.queue_offset(slot, walk.place) != queue_offset + number(items.len()) {
                break;
            }
            let packed = self.packed(slot, walk.place);
            let at = self.at(slot, walk.place);
            items.push(Item {
                at,
                size: packed.size,
                tag: packed.tag,
            });
            walk.place += 1;
        }
        if walk.place == count {
            walk.queue += 1;
            walk.place = 0;
        }
        Some(start)
    }

    /// Whether a queue has entries here.
    pub(crate) fn holds(&self, queue: QueueId) -> bool {
        self.slots_of.contains_key(&queue.0)
    }

    /// How many queues have entries here.
    pub(crate) const fn queues(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, queue: QueueId) -> Option<usize> {
        self.slots_of.get(&queue.0).map(|slot| at_index(*slot))
    }

    fn slot_for(&mut self, entry: &Entry) -> usize {
        let next = low_u32(number(self.slots.len()));
        let slot = *self.slots_of.entry(entry.queue.0).or_insert(next);
        if slot == next {
            let chunk = self.new_chunk();
            self.slots.push(Slot {
                queue: entry.queue,
                first: entry.queue_offset,
                count: 0,
                last: 0,
                body: Body::Short {
                    head: chunk,
                    tail: chunk,
                },
            });
        }
        at_index(slot)
    }

    fn new_chunk(&mut self) -> u32 {
        self.chunks.push(Chunk {
            next: NONE,
            entries: [Packed::default(); CHUNK_ENTRIES],
        });
        low_u32(number(self.chunks.len() - 1))
    }

    fn put(&mut self, slot: usize, packed: Packed) {
        let Slot { count, body, .. } = self.slots[slot];
        match body {
            Body::Short { .. } if count == LONG_FROM => {
                let mut block = Vec::with_capacity(LONG_BLOCK_ENTRIES);
                block.extend((0..count).map(|place| self.packed(slot, place)));
                block.push(packed);
                self.long.push(vec![block]);
                self.slots[slot].body = Body::Long(low_u32(number(self.long.len() - 1)));
            }
            Body::Short { head, mut tail } => {
                let place = at_index(count) % CHUNK_ENTRIES;
                if count > 0 && place == 0 {
                    let chunk = self.new_chunk();
                    self.chunks[at_index(tail)].next = chunk;
                    tail = chunk;
                    self.slots[slot].body = Body::Short { head, tail };
                }
                self.chunks[at_index(tail)].entries[place] = packed;
            }
            Body::Long(list) => {
                let blocks = &mut self.long[at_index(list)];
                if at_index(count).is_multiple_of(LONG_BLOCK_ENTRIES) {
                    blocks.push(Vec::with_capacity(LONG_BLOCK_ENTRIES));
                }
                blocks[at_index(count) / LONG_BLOCK_ENTRIES].push(packed);
            }
        }
    }

    fn packed(&self, slot: usize, place: u32) -> Packed {
        let place = at_index(place);
        match self.slots[slot].body {
            Body::Short { head, .. } => {
                let mut chunk = head;
                for _ in 0..place / CHUNK_ENTRIES {
                    chunk = self.chunks[at_index(chunk)].next;
                }
                self.chunks[at_index(chunk)].entries[place % CHUNK_ENTRIES]
            }
            Body::Long(list) => {
                self.long[at_index(list)][place / LONG_BLOCK_ENTRIES][place % LONG_BLOCK_ENTRIES]
            }
        }
    }

    fn at(&self, slot: usize, place: u32) -> u64 {
        self.base.unwrap_or(0) + u64::from(self.packed(slot, place).delta)
    }

    fn queue_offset(&self, slot: usize, place: u32) -> u64 {
        if !self.jumps.is_empty() {
            let key = low_u32(number(slot));
            let jump = self.jumps.range((key, 0)..=(key, place)).next_back();
            if let Some(((_, from), offset)) = jump {
                return offset + u64::from(place - from);
            }
        }
        self.slots[slot].first + u64::from(place)
    }

    fn entry(&self, slot: usize, place: u32) -> Entry {
        let packed = self.packed(slot, place);
        Entry {
            queue: self.slots[slot].queue,
            queue_offset: self.queue_offset(slot, place),
            at: LogOffset(self.at(slot, place)),
            size: packed.size,
            tag: packed.tag,
        }
    }

    /// The first place of a queue for which `below` is false.
    fn partition(&self, slot: usize, below: impl Fn(u32) -> bool) -> u32 {
        let (mut low, mut high) = (0, self.slots[slot].count);
        while low < high {
            let middle = low + (high - low) / 2;
            if below(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// How far a walk over all entries is.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Every queue with its slot, in order of the queue.
    order: Vec<(QueueId, u32)>,
    queue: usize,
    place: u32,
}

fn at_index(value: u32) -> usize {
    index(u64::from(value))
}
