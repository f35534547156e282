//! The queues of a memtable in order, for its flush. The order is made in small steps: first the
//! queues are dealt into buckets by their numbers, then each bucket is sorted when it is reached.
#![expect(
    clippy::indexing_slicing,
    reason = "buckets and places are counted before they are used"
)]

use storage_log::QueueId;

use crate::fields::index;

/// Queues that one step looks at: some 100 us.
pub(crate) const STEP_QUEUES: usize = 8192;
const BUCKETS: usize = 4096;

/// A queue, and where it is in its memtable.
pub(crate) type Placed = (QueueId, u32);

/// How far a walk over all entries is.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Least queue, and how far a queue's distance to it is shifted for its bucket.
    least: u64,
    shift: u32,
    /// How many queues each bucket has; then where the next one of each goes.
    buckets: Vec<u32>,
    /// Queues that were counted, or dealt.
    seen: usize,
    is_counted: bool,
    pub(crate) order: Vec<Placed>,
    /// The order is final below.
    sorted: usize,
    /// The next bucket to sort.
    bucket: usize,
    /// Where the walk is.
    pub(crate) queue: usize,
    pub(crate) place: u32,
}

impl Walk {
    /// A walk over queues between `least` and `most`.
    pub(crate) fn new(least: u64, most: u64) -> Self {
        let bits = u64::BITS - most.saturating_sub(least).leading_zeros();
        Self {
            least,
            shift: bits.saturating_sub(BUCKETS.trailing_zeros()),
            buckets: vec![0; BUCKETS],
            seen: 0,
            is_counted: false,
            order: Vec::new(),
            sorted: 0,
            bucket: 0,
            queue: 0,
            place: 0,
        }
    }

    /// One step of dealing; `queue_at` tells the queue of a place below `count`. True: dealt.
    pub(crate) fn deal(&mut self, count: usize, queue_at: impl Fn(usize) -> QueueId) -> bool {
        let to = count.min(self.seen + STEP_QUEUES);
        if self.is_counted {
            for place in self.seen..to {
                let queue = queue_at(place);
                let bucket = self.bucket_of(queue);
                let slot = u32::try_from(place).unwrap_or(u32::MAX);
                self.order[at(self.buckets[bucket])] = (queue, slot);
                self.buckets[bucket] += 1;
            }
        } else {
            for place in self.seen..to {
                let bucket = self.bucket_of(queue_at(place));
                self.buckets[bucket] += 1;
            }
        }
        self.seen = to;
        if to < count {
            return false;
        }
        if !self.is_counted {
            self.is_counted = true;
            self.seen = 0;
            let mut from = 0;
            for bucket in &mut self.buckets {
                from += std::mem::replace(bucket, from);
            }
            self.order = vec![(QueueId(0), 0); count];
            return count == 0;
        }
        true
    }

    fn bucket_of(&self, queue: QueueId) -> usize {
        index((queue.0 - self.least) >> self.shift).min(BUCKETS - 1)
    }

    /// Makes the order final up to the queue that is `ahead` places behind the current one.
    pub(crate) fn sort_ahead(&mut self, ahead: usize) {
        while self.sorted <= self.queue + ahead && self.bucket < BUCKETS {
            // After dealing, a bucket's place is its end.
            let end = at(self.buckets[self.bucket]);
            self.order[self.sorted..end].sort_unstable();
            self.sorted = end;
            self.bucket += 1;
        }
    }
}

fn at(value: u32) -> usize {
    index(u64::from(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fields::number;

    proptest! {
        #[test]
        fn the_order_is_that_of_a_sort(
            queues in prop::collection::btree_set(any::<u64>(), 0..200),
            shift in 0_u32..64,
            seed in any::<u64>(),
        ) {
            let set: std::collections::BTreeSet<u64> =
                queues.iter().map(|queue| queue >> shift).collect();
            let mut queues: Vec<u64> = set.iter().copied().collect();
            let turn = index(seed % number(queues.len().max(1)));
            queues.rotate_left(turn);
            let least = set.first().copied().unwrap_or(0);
            let most = set.last().copied().unwrap_or(0);
            let mut walk = Walk::new(least, most);
            while !walk.deal(queues.len(), |place| QueueId(queues[place])) {}
            for place in 0..queues.len() {
                walk.queue = place;
                walk.sort_ahead(1);
            }
            let found: Vec<u64> = walk.order.iter().map(|(queue, _)| queue.0).collect();
            prop_assert_eq!(found, set.into_iter().collect::<Vec<_>>());
            for (queue, place) in &walk.order {
                prop_assert_eq!(queues[at(*place)], queue.0);
            }
        }
    }
}
