//! All queues that are known: the queue offset that the next entry gets, and where in a memtable
//! the last ones are. 16 bytes per queue in flat tables, at most seven tenths full.
//!
//! Queues are spread over many small tables, each of which grows alone: no append waits for all of
//! them to move. A queue whose next queue offset does not fit 32 bits has it in a side table.
#![expect(
    clippy::indexing_slicing,
    reason = "tables and places are chosen below the number of them"
)]

use std::collections::HashMap;

use foldhash::fast::FixedState;
use storage_log::QueueId;

use crate::fields::{index, low_u32, mix, number};
use crate::prefetch::prefetch;

/// No place in a memtable.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Tables; a million queues are a thousand in each, which move in some 10 us.
const TABLES: usize = 1024;
const SLOTS_MIN: usize = 8;
/// The next queue offset is in the side table.
const WIDE: u32 = u32::MAX;

/// One queue; free when `next` is 0.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    queue: u64,
    next: u32,
    head: u32,
}
const _: () = assert!(size_of::<Slot>() == 16);

/// What is known of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The queue offset that its next entry gets; above 0.
    pub(crate) next: u64,
    /// Where in a memtable it may be, or [`NOWHERE`]. The memtable knows whether it is true.
    pub(crate) head: u32,
}

#[derive(Clone, Debug, Default)]
struct Table {
    slots: Vec<Slot>,
    used: usize,
}

/// All queues.
#[derive(Debug)]
pub(crate) struct Roster {
    tables: Vec<Table>,
    wide: HashMap<u64, u64, FixedState>,
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            tables: vec![Table::default(); TABLES],
            wide: HashMap::default(),
        }
    }
}

impl Table {
    /// Where a queue is or could be put. The table has a free slot.
    fn place(&self, queue: u64, hash: u64) -> usize {
        let mut place = index(((hash >> 32) * number(self.slots.len())) >> 32);
        while self.slots[place].next != 0 && self.slots[place].queue != queue {
            place += 1;
            if place == self.slots.len() {
                place = 0;
            }
        }
        place
    }

    fn find(&self, queue: u64, hash: u64) -> Option<&Slot> {
        if self.slots.is_empty() {
            return None;
        }
        Some(&self.slots[self.place(queue, hash)]).filter(|slot| slot.next != 0)
    }

    fn set(&mut self, slot: Slot, hash: u64) {
        if (self.used + 1) * 10 > self.slots.len() * 7 {
            self.grow();
        }
        let place = self.place(slot.queue, hash);
        if self.slots[place].next == 0 {
            self.used += 1;
        }
        self.slots[place] = slot;
    }

    /// Moves to a table that is a quarter larger.
    fn grow(&mut self) {
        let len = SLOTS_MIN.max(self.slots.len() + self.slots.len() / 4);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); len]);
        for slot in old.into_iter().filter(|slot| slot.next != 0) {
            let place = self.place(slot.queue, hash(slot.queue));
            self.slots[place] = slot;
        }
    }

    /// Frees a slot, and moves up what would not be found behind it any more.
    fn remove(&mut self, queue: u64, hash: u64) {
        if self.find(queue, hash).is_none() {
            return;
        }
        let mut hole = self.place(queue, hash);
        self.slots[hole] = Slot::default();
        self.used -= 1;
        loop {
            hole = (hole + 1) % self.slots.len();
            let slot = self.slots[hole];
            if slot.next == 0 {
                return;
            }
            self.slots[hole] = Slot::default();
            let place = self.place(slot.queue, self::hash(slot.queue));
            self.slots[place] = slot;
        }
    }
}

const fn hash(queue: u64) -> u64 {
    mix(queue)
}

/// Which table: other bits of the hash than those that choose the slot.
const fn table_of(hash: u64) -> usize {
    index(hash) % TABLES
}

impl Roster {
    pub(crate) fn get(&self, queue: QueueId) -> Option<Known> {
        let hash = hash(queue.0);
        let slot = self.tables[table_of(hash)].find(queue.0, hash)?;
        let next = if slot.next == WIDE {
            self.wide.get(&queue.0).map_or(0, |next| *next)
        } else {
            u64::from(slot.next)
        };
        Some(Known {
            next,
            head: slot.head,
        })
    }

    /// The queue offset that the next entry of a queue gets.
    pub(crate) fn next(&self, queue: QueueId) -> u64 {
        self.get(queue).map_or(0, |known| known.next)
    }

    /// Where in a memtable a queue may be.
    pub(crate) fn head(&self, queue: QueueId) -> u32 {
        self.get(queue).map_or(NOWHERE, |known| known.head)
    }

    /// Keeps a queue; one whose next queue offset is 0 is not worth it.
    pub(crate) fn set(&mut self, queue: QueueId, known: Known) {
        if known.next == 0 {
            return;
        }
        let fits = known.next < u64::from(WIDE);
        let next = if fits { low_u32(known.next) } else { WIDE };
        if !fits {
            self.wide.insert(queue.0, known.next);
        }
        let slot = Slot {
            queue: queue.0,
            next,
            head: known.head,
        };
        let hash = hash(queue.0);
        self.tables[table_of(hash)].set(slot, hash);
    }

    /// The next queue offset is at least `next`.
    pub(crate) fn raise(&mut self, queue: QueueId, next: u64) {
        let known = self.get(queue).unwrap_or(Known {
            next: 0,
            head: NOWHERE,
        });
        let next = known.next.max(next);
        self.set(queue, Known { next, ..known });
    }

    pub(crate) fn forget(&mut self, queue: QueueId) {
        let hash = hash(queue.0);
        self.tables[table_of(hash)].remove(queue.0, hash);
        self.wide.remove(&queue.0);
    }

    /// Asks for the memory of a queue, which will be wanted soon.
    pub(crate) fn prefetch(&self, queue: QueueId) {
        let hash = hash(queue.0);
        let slots = &self.tables[table_of(hash)].slots;
        let place = index(((hash >> 32) * number(slots.len())) >> 32);
        if let Some(slot) = slots.get(place) {
            prefetch(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(
            steps in prop::collection::vec((0_u64..300, 0_u64..5, any::<bool>()), 1..3000),
        ) {
            let mut roster = Roster::default();
            // One table, so that its slots fill up.
            let queues: Vec<u64> = (0..).filter(|id| table_of(hash(*id)) == 7).take(300).collect();
            let mut model: BTreeMap<u64, Known> = BTreeMap::new();
            for (place, next, wide) in steps {
                let queue = QueueId(queues[usize::try_from(place).unwrap()]);
                if next == 0 {
                    roster.forget(queue);
                    model.remove(&queue.0);
                } else {
                    let next = if wide { u64::from(WIDE) - 2 + next } else { next };
                    let known = Known { next, head: low_u32(place) };
                    roster.set(queue, known);
                    model.insert(queue.0, known);
                }
            }
            for queue in queues {
                prop_assert_eq!(roster.get(QueueId(queue)), model.get(&queue).copied());
            }
        }
    }

    #[test]
    fn what_was_given_out_is_never_lowered() {
        let mut roster = Roster::default();
        roster.raise(QueueId(5), 0);
        assert_eq!(roster.get(QueueId(5)), None);
        roster.raise(QueueId(5), 9);
        roster.raise(QueueId(5), 4);
        assert_eq!(
            (roster.next(QueueId(5)), roster.head(QueueId(5))),
            (9, NOWHERE)
        );
    }
}
