//! Workload CQW-1: entries of many queues in log order, the same for every run and every store.
//!
//! SplitMix64 with seed 42 draws, per entry and in this order: the queue (uniform, or zipf with
//! theta 0.99 scattered over the numbers), the record's size, the tag. Offsets count per queue, a
//! record begins where the one before ends, and 200 entries share a millisecond.

/// The exponent of the zipf distribution.
const THETA: f64 = 0.99;
const SEED: u64 = 42;
const FIRST_TIME_MS: u64 = 1_700_000_000_000;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(u64::MAX)
    }

    /// A number from 0 to 1, below 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How entries spread over the queues.
#[derive(Clone, Debug)]
enum Spread {
    Uniform,
    Zipf { zetan: f64, eta: f64, second: f64 },
}

impl Spread {
    fn zipf(queues: u64) -> Self {
        let zetan: f64 = (1..=queues).map(|rank| (rank as f64).powf(-THETA)).sum();
        let zeta2 = 1.0 + 0.5_f64.powf(THETA);
        let eta = (1.0 - (2.0 / queues as f64).powf(1.0 - THETA)) / (1.0 - zeta2 / zetan);
        Self::Zipf {
            zetan,
            eta,
            second: 1.0 + 0.5_f64.powf(THETA),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rank is clamped to the number of queues"
    )]
    fn queue(&self, rng: &mut SplitMix, queues: u64) -> u64 {
        let Self::Zipf { zetan, eta, second } = self else {
            return rng.below(queues);
        };
        let u = rng.fraction();
        let uz = u * zetan;
        let rank = if uz < 1.0 {
            0
        } else if uz < *second {
            1
        } else {
            let power = (eta * u - eta + 1.0).powf(1.0 / (1.0 - THETA));
            ((queues as f64 * power) as u64).min(queues - 1)
        };
        (rank.wrapping_mul(2_654_435_761) + 12_345) % queues
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    pub(crate) queue: u64,
    /// The place in the queue.
    pub(crate) offset: u64,
    /// Where the record begins in the log.
    pub(crate) at: u64,
    /// Bytes of the record.
    pub(crate) size: u32,
    pub(crate) tag: u32,
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
}

impl Draw {
    /// The value that RocketMQ stores: offset of the record, size, tag, time; big endian.
    #[cfg(any(test, feature = "peers"))]
    pub(crate) fn value(&self) -> [u8; 28] {
        let mut value = [0; 28];
        let (at, rest) = value.split_at_mut(8);
        let (size, rest) = rest.split_at_mut(4);
        let (tag, time) = rest.split_at_mut(8);
        at.copy_from_slice(&self.at.to_be_bytes());
        size.copy_from_slice(&self.size.to_be_bytes());
        tag.copy_from_slice(&u64::from(self.tag).to_be_bytes());
        time.copy_from_slice(&self.time_ms.to_be_bytes());
        value
    }
}

/// The entries, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    rng: SplitMix,
    spread: Spread,
    /// Entries of each queue so far.
    counts: Vec<u32>,
    tags: [u32; 8],
    at: u64,
    made: u64,
}

impl Workload {
    /// The workload over `queues` queues, at least 2.
    pub(crate) fn new(queues: usize, is_zipf: bool) -> Self {
        let spread = if is_zipf {
            Spread::zipf(queues as u64)
        } else {
            Spread::Uniform
        };
        let mut seed = 0;
        let tags = [0; 8].map(|_: u32| {
            let tag = SplitMix(seed).next() & 0x7FFF_FFFF;
            seed += 1;
            u32::try_from(tag).unwrap_or(0)
        });
        Self {
            rng: SplitMix(SEED),
            spread,
            counts: vec![0; queues],
            tags,
            at: 0,
            made: 0,
        }
    }

    /// How many queues there are.
    pub(crate) fn queues(&self) -> u64 {
        self.counts.len() as u64
    }

    /// Entries of a queue so far.
    pub(crate) fn count(&self, queue: u64) -> u64 {
        let place = usize::try_from(queue).unwrap_or(usize::MAX);
        self.counts.get(place).copied().map_or(0, u64::from)
    }

    /// Where the next record begins.
    pub(crate) const fn cursor(&self) -> u64 {
        self.at
    }

    pub(crate) fn next(&mut self) -> Draw {
        let queues = self.queues();
        let queue = self.spread.queue(&mut self.rng, queues);
        let size = 96 + 8 * u32::try_from(self.rng.below(53)).unwrap_or(0);
        let r = self.rng.next();
        let place = usize::try_from((queue + ((r >> 2) & 1)) % 8).unwrap_or(0);
        let tag = match r & 3 {
            0 => 0,
            _ => self.tags.get(place).copied().unwrap_or(0),
        };
        let place = usize::try_from(queue).unwrap_or(usize::MAX);
        let mut offset = 0;
        if let Some(count) = self.counts.get_mut(place) {
            offset = u64::from(*count);
            *count += 1;
        }
        let draw = Draw {
            queue,
            offset,
            at: self.at,
            size,
            tag,
            time_ms: FIRST_TIME_MS + self.made / 200,
        };
        self.at += u64::from(size);
        self.made += 1;
        draw
    }

    /// The reads of the workload: a queue that is not empty, and an offset in it.
    pub(crate) fn reads(&self) -> Reads<'_> {
        Reads {
            workload: self,
            rng: SplitMix(7),
        }
    }
}

/// What is read: a queue, and where a read of 32 entries begins.
#[derive(Debug)]
pub(crate) struct Reads<'a> {
    workload: &'a Workload,
    rng: SplitMix,
}

impl Iterator for Reads<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        loop {
            let queue = self.rng.below(self.workload.queues());
            let count = self.workload.count(queue);
            if count > 0 {
                return Some((queue, self.rng.below(count)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc32c_table() -> Vec<u32> {
        let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        (0..256_u32)
            .map(|byte| (0..8).fold(byte, |crc, _| step(crc)))
            .collect()
    }

    #[track_caller]
    fn check(queues: usize, is_zipf: bool, expected: u32) {
        let table = crc32c_table();
        let mut workload = Workload::new(queues, is_zipf);
        let mut crc = u32::MAX;
        for _ in 0..1_000_000 {
            let draw = workload.next();
            let fields = [draw.queue.to_be_bytes(), draw.offset.to_be_bytes()].concat();
            for byte in fields.iter().chain(&draw.value()) {
                crc = (crc >> 8) ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)];
            }
        }
        assert_eq!(!crc, expected, "{:08x}", !crc);
        assert_eq!(workload.cursor(), 303_963_992);
    }

    #[test]
    fn the_first_entries() {
        let mut workload = Workload::new(1_000_000, false);
        let (one, two) = (workload.next(), workload.next());
        let fields = |draw: Draw| (draw.queue, draw.offset, draw.at, draw.size, draw.tag);
        assert_eq!(fields(one), (741_564, 0, 0, 160, 1_647_545_034));
        assert_eq!(fields(two), (344_190, 0, 160, 112, 1_496_452_567));
    }

    #[test]
    fn a_million_queues_alike() {
        check(1_000_000, false, 0xf0e8_d7c1);
    }

    #[test]
    fn fewer_queues_alike() {
        check(100_000, false, 0x54d0_508b);
    }

    #[test]
    fn a_million_queues_by_zipf() {
        check(1_000_000, true, 0x2b15_0681);
    }

    #[test]
    fn fewer_queues_by_zipf() {
        check(100_000, true, 0x940c_e45a);
    }
}
