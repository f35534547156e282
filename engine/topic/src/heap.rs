//! What the table costs: a running estimate of heap bytes, kept by everything that allocates.

/// Header of every allocation behind an `Arc`: strong and weak count.
const COUNTS_LEN: usize = 16;

/// Estimated heap bytes of one snapshot (shared nodes count in each snapshot that holds them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heap {
    bytes: usize,
}

impl Heap {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    pub(crate) fn sub(&mut self, bytes: usize) {
        assert!(
            bytes <= self.bytes,
            "{bytes} bytes to free, {} counted",
            self.bytes
        );
        self.bytes -= bytes;
    }

    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }
}

/// What an `Arc` of `len` bytes takes from a common allocator: an 8-byte header, steps of 16 bytes,
/// at least 32.
pub(crate) fn shared_len(len: usize) -> usize {
    (COUNTS_LEN + len + 8).next_multiple_of(16).max(32)
}
