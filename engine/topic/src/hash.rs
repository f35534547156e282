//! The hash under which texts are kept in memory. It never reaches disk or another node.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

/// Hashes whole topics and single levels to the 32 bits that [`crate::hamt::Branch`] consumes.
#[derive(Clone, Debug)]
pub(crate) struct TextHasher {
    state: FixedState,
    /// Bits of the hash that are kept: all, but in tests that force collisions.
    mask: u32,
}

impl TextHasher {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: FixedState::with_seed(seed),
            mask: u32::MAX,
        }
    }

    /// A hasher that knows only the bits of `mask`: texts collide as often as a test likes.
    #[cfg(test)]
    pub(crate) fn colliding(mask: u32) -> Self {
        Self {
            mask,
            ..Self::new(0)
        }
    }

    pub(crate) fn hash(&self, text: &str) -> u32 {
        let mut hasher = self.state.build_hasher();
        hasher.write(text.as_bytes());
        let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
        u32::from_le_bytes([a, b, c, d]) & self.mask
    }
}
