//! A set of shards in one word.

use crate::SHARDS_MAX;

/// A set of shard numbers below 64: bit `n` stands for shard `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ShardSet(pub u64);

impl ShardSet {
    /// No shard.
    pub const EMPTY: Self = Self(0);

    /// One shard. Panics if `shard` is not below [`SHARDS_MAX`].
    pub fn one(shard: u8) -> Self {
        Self(Self::bit(shard))
    }

    /// Adds or removes a shard. Panics if `shard` is not below [`SHARDS_MAX`].
    pub fn set(&mut self, shard: u8, present: bool) {
        if present {
            self.0 |= Self::bit(shard);
        } else {
            self.0 &= !Self::bit(shard);
        }
    }

    /// Whether a shard is in the set.
    pub fn contains(self, shard: u8) -> bool {
        shard < SHARDS_MAX && self.0 & Self::bit(shard) != 0
    }

    /// Whether no shard is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many shards are in the set.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The shards of either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The shards, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let mut rest = self.0;
        (0..SHARDS_MAX).filter_map(move |_| {
            let shard = u8::try_from(rest.trailing_zeros()).ok()?;
            let found = (rest != 0).then_some(shard);
            rest &= rest.wrapping_sub(1);
            found
        })
    }

    fn bit(shard: u8) -> u64 {
        assert!(
            shard < SHARDS_MAX,
            "shard {shard} is not below {SHARDS_MAX}"
        );
        1 << shard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_set() {
        let mut set = ShardSet::EMPTY;
        for shard in [63, 0, 5, 5] {
            set.set(shard, true);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(set.count(), 3);
        assert!(set.contains(63) && !set.contains(62) && !set.contains(64));
        set.set(5, false);
        set.set(7, false);
        assert_eq!(set, ShardSet::one(0).union(ShardSet::one(63)));
        assert!(!set.is_empty() && ShardSet::EMPTY.is_empty());
        assert_eq!(ShardSet(u64::MAX).iter().count(), 64);
    }

    #[test]
    #[should_panic(expected = "shard 64")]
    fn a_shard_beyond_the_word_is_refused() {
        let _ = ShardSet::one(64);
    }
}
