//! Seeded mutation fuzzing, for the tests of every crate that parses bytes from outside or from
//! disk. They include this file; it is part of no package of its own.
//!
//! Whatever the bytes are, a parser answers: it does not panic, and what it takes from the heap has
//! a bound that no number in the bytes can lift. `CORELANE_FUZZ_SEEDS=FROM..TO` tries other seeds
//! than the first 2,000; who fails names its seed.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Write, stderr};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Heap bytes that a parser may hold at a time.
const HEAP_BYTES_MAX: isize = 1 << 20;

/// So much at once may not be there.
const DEADLY_BYTES: usize = 1 << 30;

/// Bytes of an input, at most.
const INPUT_BYTES_MAX: usize = 32 << 10;

const SEEDS: Range<u64> = 0..2_000;

/// Numbers that lie on borders.
const BORDERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator; what each thread holds is counted.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: usize, freed: usize) {
    if bytes > DEADLY_BYTES {
        let seed = SEED.get();
        // It may well end the process, with nobody left to name the seed.
        writeln!(stderr(), "seed {seed} asks for {bytes} bytes of the heap").ok();
    }
    let held = HELD.get().saturating_add_unsigned(bytes);
    let held = held.saturating_sub_unsigned(freed);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: everything is what the system's allocator does; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// Below `bound`, which is at most 2^32; 0 when that is 0.
    fn below(&mut self, bound: usize) -> usize {
        let wide = (self.next() >> 32) * bound as u64;
        usize::try_from(wide >> 32).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A range of `bytes`, at most 64 long.
    fn range(&mut self, bytes: &[u8]) -> Range<usize> {
        let from = self.below(bytes.len() + 1);
        from..from + self.below((bytes.len() - from).min(64) + 1)
    }
}

/// One change of an input.
fn change(bytes: &mut Vec<u8>, samples: &[Vec<u8>], rng: &mut Rng) {
    let range = rng.range(bytes);
    match rng.below(10) {
        0 if !bytes.is_empty() => {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }
        1 if !bytes.is_empty() => {
            let at = rng.below(bytes.len());
            bytes[at] = rng.byte();
        }
        // What texts are made of makes other texts.
        2 if !bytes.is_empty() => {
            let (from, to) = (rng.below(bytes.len()), rng.below(bytes.len()));
            bytes[to] = bytes[from];
        }
        3 | 4 => {
            let border = BORDERS[rng.below(BORDERS.len())].wrapping_sub(rng.next() & 1);
            let mut number = border.to_le_bytes()[..1 << rng.below(4)].to_vec();
            if rng.below(2) == 0 {
                number.reverse();
            }
            let places = bytes.iter_mut().skip(range.start);
            places.zip(number).for_each(|(to, byte)| *to = byte);
        }
        5 => bytes.truncate(range.start),
        6 => drop(bytes.drain(range)),
        7 => {
            let copied = bytes[range].to_vec();
            let at = rng.below(bytes.len() + 1);
            bytes.splice(at..at, copied);
        }
        8 => {
            let new: Vec<u8> = (0..rng.below(9)).map(|_| rng.byte()).collect();
            bytes.splice(range.start..range.start, new);
        }
        _ => {
            let other = &samples[rng.below(samples.len())];
            bytes.truncate(range.start);
            bytes.extend_from_slice(&other[rng.below(other.len() + 1)..]);
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
}

fn input(seed: u64, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut rng = Rng(seed);
    if rng.below(16) == 0 {
        return (0..rng.below(300)).map(|_| rng.byte()).collect();
    }
    let mut bytes = samples[rng.below(samples.len())].clone();
    for _ in 0..=rng.below(4) {
        change(&mut bytes, samples, &mut rng);
    }
    bytes
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("CORELANE_FUZZ_SEEDS") else {
        return SEEDS;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Parses; says whether the bytes were taken, and what the heap held at most.
fn measure(parse: &impl Fn(&[u8]) -> bool, bytes: &[u8]) -> (bool, isize) {
    let before = HELD.get();
    PEAK.set(before);
    let is_taken = parse(bytes);
    (is_taken, PEAK.get() - before)
}

/// Gives `parse` samples that are changed in up to five places. It says whether it takes the bytes:
/// as they are it has to take the samples, and not everything of the rest.
///
/// # Panics
/// When it panics or holds more than 1 MiB, with the seed and the bytes.
#[track_caller]
pub(crate) fn fuzz(samples: &[Vec<u8>], parse: impl Fn(&[u8]) -> bool) {
    for sample in samples {
        assert!(parse(sample), "a sample is refused: {sample:02x?}");
    }
    let seeds = seeds();
    let mut refused = 0;
    for seed in seeds.clone() {
        SEED.set(seed);
        let bytes = input(seed, samples);
        let found = catch_unwind(AssertUnwindSafe(|| measure(&parse, &bytes)));
        let again = format!("CORELANE_FUZZ_SEEDS={seed}..{}", seed + 1);
        let Ok((is_taken, heap)) = found else {
            panic!("it panics with seed {seed} ({again}): {bytes:02x?}");
        };
        assert!(
            heap <= HEAP_BYTES_MAX,
            "{heap} bytes of the heap with seed {seed} ({again}): {bytes:02x?}"
        );
        refused += u32::from(!is_taken);
    }
    // A few seeds are there to be looked at.
    let is_short = seeds.end - seeds.start < 100;
    assert!(is_short || refused > 0, "nothing is refused");
}

/// What it looks for is found.
mod tests {
    use super::fuzz;

    #[test]
    #[should_panic(expected = "it panics with seed ")]
    fn a_panic_is_found() {
        fuzz(&[vec![3, 0, 0, 0]], |bytes| {
            let len = usize::from(*bytes.first().unwrap_or(&0));
            len < bytes.len() && !bytes[1..=len].is_empty() || bytes[len..].is_empty()
        });
    }

    #[test]
    #[should_panic(expected = "bytes of the heap with seed ")]
    fn an_allocation_without_bound_is_found() {
        fuzz(&[vec![3, 0, 0, 0]], |bytes| {
            let Some(len) = bytes.first_chunk().map(|len| u32::from_le_bytes(*len)) else {
                return false;
            };
            // A bound, and not one that would end this process.
            let len = usize::try_from(len).unwrap().min(8 << 20);
            Vec::<u8>::with_capacity(len).is_empty() && len < 100
        });
    }

    #[test]
    #[should_panic(expected = "nothing is refused")]
    fn a_parser_that_takes_everything_is_found() {
        fuzz(&[vec![3]], |_| true);
    }
}
