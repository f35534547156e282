//! Numbers of a fixed width, packed, lowest bit first.

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
        while self.pending_bits >= 8 {
            let [low, ..] = self.pending.to_le_bytes();
            self.out.push(low);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    /// Appends the last bits, filled up with zeroes to a byte.
    pub(crate) fn finish(self) {
        if self.pending_bits > 0 {
            let [low, ..] = self.pending.to_le_bytes();
            self.out.push(low);
        }
    }
}

/// Takes packed numbers off bytes that came from a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    pending: u64,
    pending_bits: u32,
}

impl<'a> BitReader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            pending: 0,
            pending_bits: 0,
        }
    }

    /// The next `width` bits, at most [`WIDTH_MAX`]; `None` when the bytes end.
    pub(crate) fn take(&mut self, width: u32) -> Option<u32> {
        if width > WIDTH_MAX {
            return None;
        }
        while self.pending_bits < width {
            let (byte, rest) = self.bytes.split_first()?;
            self.pending |= u64::from(*byte) << self.pending_bits;
            self.pending_bits += 8;
            self.bytes = rest;
        }
        let value = self.pending & ((1_u64 << width) - 1);
        self.pending >>= width;
        self.pending_bits -= width;
        u32::try_from(value).ok()
    }
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
        fn round_trip(values in prop::collection::vec((any::<u32>(), 0_u32..=32), 0..100)) {
            let values: Vec<_> = values
                .into_iter()
                .map(|(value, width)| {
                    let masked = u64::from(value) & ((1 << width) - 1);
                    (u32::try_from(masked).unwrap(), width)
                })
                .collect();
            let mut out = Vec::new();
            let mut writer = BitWriter::new(&mut out);
            for (value, width) in &values {
                writer.put(*value, *width);
            }
            writer.finish();
            let bits: u32 = values.iter().map(|(_, width)| width).sum();
            prop_assert_eq!(out.len(), bits.div_ceil(8) as usize);
            let mut reader = BitReader::new(&out);
            for (value, width) in &values {
                prop_assert_eq!(reader.take(*width), Some(*value));
            }
            prop_assert_eq!(reader.take(8), None);
        }
    }
}
