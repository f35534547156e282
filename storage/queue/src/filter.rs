//! Which queues a run may hold: a blocked Bloom filter in memory, made when the run is written or
//! opened. One cache line per question; about 1 % of the questions for absent queues say "maybe".

use storage_log::QueueId;

use crate::fields::{index, mix, number};
use crate::prefetch::prefetch;

const WORDS_PER_BLOCK: usize = 8;
const BITS_PER_QUEUE: u64 = 10;
const PROBES: u32 = 6;

/// Queues whose memory has been asked for before they are inserted.
const LATE: usize = 16;

/// The filter of one run.
#[derive(Debug)]
pub(crate) struct Filter {
    blocks: Vec<[u64; WORDS_PER_BLOCK]>,
    /// Queues that are yet to be inserted.
    late: Vec<QueueId>,
}

impl Filter {
    /// A filter for about `queues` queues.
    pub(crate) fn new(queues: u64) -> Self {
        let blocks = (queues.saturating_mul(BITS_PER_QUEUE) / 512 + 1).min(1 << 26);
        Self {
            blocks: vec![[0; WORDS_PER_BLOCK]; index(blocks)],
            late: Vec::new(),
        }
    }

    /// Inserts a queue soon, together with others: [`Filter::settle`] ends it.
    pub(crate) fn insert_late(&mut self, queue: QueueId) {
        if let Some(block) = self.blocks.get(self.place(queue).0) {
            prefetch(block);
        }
        self.late.push(queue);
        if self.late.len() == LATE {
            self.settle();
        }
    }

    /// Inserts what was put off.
    pub(crate) fn settle(&mut self) {
        let mut late = std::mem::take(&mut self.late);
        for queue in late.drain(..) {
            self.insert(queue);
        }
        self.late = late;
    }

    pub(crate) fn insert(&mut self, queue: QueueId) {
        let (block, mut bits) = self.place(queue);
        let Some(block) = self.blocks.get_mut(block) else {
            return;
        };
        for _ in 0..PROBES {
            let (word, bit) = next_bit(&mut bits);
            if let Some(word) = block.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// False: the run does not hold the queue.
    pub(crate) fn may_hold(&self, queue: QueueId) -> bool {
        let (block, mut bits) = self.place(queue);
        let Some(block) = self.blocks.get(block) else {
            return true;
        };
        (0..PROBES).all(|_| {
            let (word, bit) = next_bit(&mut bits);
            block.get(word).is_none_or(|word| word & bit != 0)
        })
    }

    /// The block of a queue, and the bits that choose its probes.
    fn place(&self, queue: QueueId) -> (usize, u64) {
        let hash = mix(queue.0);
        let block = (u128::from(hash) * u128::from(number(self.blocks.len()))) >> 64;
        (usize::try_from(block).unwrap_or(0), mix(hash))
    }
}

/// Takes nine bits: three for the word, six for the bit in it.
fn next_bit(bits: &mut u64) -> (usize, u64) {
    let (word, bit) = (index(*bits & 7), 1 << ((*bits >> 3) & 63));
    *bits >>= 9;
    (word, bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_inserted_and_little_else() {
        let mut filter = Filter::new(10_000);
        for queue in 0..10_000 {
            filter.insert_late(QueueId(queue * 3));
        }
        filter.settle();
        assert!((0..10_000).all(|queue| filter.may_hold(QueueId(queue * 3))));
        let absent = (0..30_000).filter(|queue| queue % 3 != 0);
        let wrong = absent
            .filter(|queue| filter.may_hold(QueueId(*queue)))
            .count();
        assert!(
            wrong < 600,
            "{wrong} of 20,000 absent queues pass the filter"
        );
    }
}
