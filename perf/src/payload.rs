//! The stamp that every message carries in the first 16 bytes of its payload.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..4 | stream | run tag in the top 8 bits, stream number in the lower 24 |
//! | 4..8 | sequence | position in the stream, from 0 |
//! | 8..16 | intended | intended send time, nanoseconds since the generator's epoch |
//!
//! All fields are little endian. A stream is one (publisher, topic) pair: the unit within which
//! MQTT promises order. The run tag tells left-overs of an earlier run from messages of this one.
//! There is no checksum: the stamp never reaches a disk of ours, and TCP carries it.

/// Length of a stamp in bytes: the smallest payload the generator sends.
pub(crate) const STAMP_LEN: usize = 16;

/// How many streams a run may have: the stamp keeps 24 bits for the number.
pub(crate) const STREAM_COUNT_MAX: u32 = 1 << 24;

/// Who sent a message, which one it is, and when it should have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) run: u8,
    pub(crate) stream: u32,
    pub(crate) sequence: u32,
    pub(crate) intended_ns: u64,
}

impl Stamp {
    /// Writes the stamp's bytes.
    pub(crate) fn to_bytes(self) -> [u8; STAMP_LEN] {
        debug_assert!(
            self.stream < STREAM_COUNT_MAX,
            "stream {} needs 25 bits",
            self.stream
        );
        let head = (u32::from(self.run) << 24) | self.stream;
        let low = u64::from(head) | (u64::from(self.sequence) << 32);
        (u128::from(low) | (u128::from(self.intended_ns) << 64)).to_le_bytes()
    }

    /// Reads a stamp from the start of a payload; `None` when it is too short.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAMP_LEN] = payload.first_chunk()?;
        let [a, b, c, run, e, f, g, h, time @ ..] = *bytes;
        Some(Self {
            run,
            stream: u32::from_le_bytes([a, b, c, 0]),
            sequence: u32::from_le_bytes([e, f, g, h]),
            intended_ns: u64::from_le_bytes(time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_survives_the_round_trip() {
        let stamp = Stamp {
            run: 0xfe,
            stream: STREAM_COUNT_MAX - 1,
            sequence: u32::MAX - 7,
            intended_ns: u64::MAX - 3,
        };
        let mut payload = stamp.to_bytes().to_vec();
        payload.extend_from_slice(b"filler");
        assert_eq!(Stamp::read(&payload), Some(stamp));
    }

    #[test]
    fn fields_lie_where_the_table_says() {
        let stamp = Stamp {
            run: 1,
            stream: 2,
            sequence: 3,
            intended_ns: 4,
        };
        let expected = [2, 0, 0, 1, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(stamp.to_bytes(), expected);
    }

    #[test]
    fn short_payload_has_no_stamp() {
        assert_eq!(Stamp::read(&[0; STAMP_LEN - 1]), None);
    }
}
