//! Numbers of a fixed width, packed, lowest bit first.

use crate::fields::{index, low_u32};

/// The widest number.
pub(crate) const WIDTH_MAX: u32 = 32;

/// Bits that every one of the values fits into.
pub(crate) const fn width(max: u32) -> u32 {
    u32::BITS - max.leading_zeros()
}

/// Packs numbers behind the bytes of a vector.
pub(crate) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl<'a> BitWriter<'a> {
    pub(crate) const fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            pending: 0,
            pending_bits: 0,
        }
    }

    /// Appends the low `width` bits of `value`, which has no others.
    pub(crate) fn put(&mut self, value: u32, width: u32) {
        debug_assert!(width <= WIDTH_MAX && u64::from(value) >> width == 0);
        self.pending |= u64::from(value) << self.pending_bits;
        self.pending_bits += width;
        if self.pending_bits >= WIDTH_MAX {
            let [a, b, c, d, ..] = self.pending.to_le_bytes();
            self.out.extend_from_slice(&[a, b, c, d]);
            self.pending >>= WIDTH_MAX;
            self.pending_bits -= WIDTH_MAX;
        }
    }

    /// As [`BitWriter::put`], for up to 64 bits.
    pub(crate) fn put_long(&mut self, value: u64, width: u32) {
        if width > WIDTH_MAX {
            self.put(low_u32(value), WIDTH_MAX);
            self.put(low_u32(value >> WIDTH_MAX), width - WIDTH_MAX);
        } else {
            self.put(low_u32(value), width);
        }
    }

    /// Appends the last bits, filled up with zeroes to a byte.
    pub(crate) fn finish(self) {
        let bytes = self.pending.to_le_bytes();
        let used = self.pending_bits.div_ceil(8);
        self.out.extend(bytes.iter().take(index(u64::from(used))));
    }
}

/// The `width` bits, at most 64, that begin at a bit of `bytes`; bits behind the end are 0.
pub(crate) fn bits_at(bytes: &[u8], bit: usize, width: u32) -> u64 {
    let rest = bytes.get(bit / 8..).unwrap_or_default();
    let shift = bit % 8;
    let low = match rest.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => short_word(rest),
    };
    let mut value = low >> shift;
    if shift > 0 && width > 56 {
        let high = rest.get(8).copied().map_or(0, u64::from);
        value |= high << (64 - shift);
    }
    if width < u64::BITS {
        value & ((1 << width) - 1)
    } else {
        value
    }
}

fn short_word(bytes: &[u8]) -> u64 {
    let place = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    bytes.iter().rev().fold(0, place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn widths() {
        assert_eq!(
            [0, 1, 2, 255, 256, u32::MAX].map(width),
            [0, 1, 2, 8, 9, 32]
        );
    }

    proptest! {
        #[test]
        fn round_trip(values in prop::collection::vec((any::<u64>(), 0_u32..=64), 0..100)) {
            let values: Vec<_> = values
                .into_iter()
                .map(|(value, width)| {
                    let mask = 1_u64.checked_shl(width).map_or(u64::MAX, |bit| bit - 1);
                    (value & mask, width)
                })
                .collect();
            let mut out = Vec::new();
            let mut writer = BitWriter::new(&mut out);
            for (value, width) in &values {
                writer.put_long(*value, *width);
            }
            writer.finish();
            let bits: u32 = values.iter().map(|(_, width)| width).sum();
            prop_assert_eq!(out.len(), bits.div_ceil(8) as usize);
            let mut bit = 0;
            for (value, width) in &values {
                prop_assert_eq!(bits_at(&out, bit, *width), *value);
                bit += *width as usize;
            }
            prop_assert_eq!(bits_at(&out, 8 * out.len(), 8), 0);
        }
    }
}
