//! Bounds of this crate, with their reasons.

/// Longest topic name or filter in bytes: what a two-byte length can say `[MQTT-4.7.3-3]`.
pub const TEXT_LEN_MAX: usize = 65_535;

/// Most levels that any configuration may allow.
///
/// The routing table frees a chain of nodes recursively, one node per level, each with a handful
/// of stack frames of some 100 B: 256 levels are about 200 KiB of stack in a debug build. Pending
/// branches of a match live on the stack too: 256 x 24 B = 6 KiB.
pub const LEVELS_MAX: usize = 256;

/// Most shards of a node: a [`crate::ShardSet`] is one `u64`.
pub const SHARDS_MAX: u8 = 64;

/// Limits of names and filters that a node may set below those of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    levels_max: u16,
}

impl Limits {
    /// Names and filters with at most `levels_max` levels; `None` unless it is in
    /// 1 ..= [`LEVELS_MAX`].
    pub fn new(levels_max: u16) -> Option<Self> {
        (1..=LEVELS_MAX)
            .contains(&usize::from(levels_max))
            .then_some(Self { levels_max })
    }

    /// Most levels of a name or a filter.
    pub fn levels_max(&self) -> usize {
        usize::from(self.levels_max)
    }
}

impl Default for Limits {
    /// 128 levels.
    fn default() -> Self {
        Self { levels_max: 128 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_range() {
        assert_eq!(Limits::new(0), None);
        assert_eq!(Limits::new(1).map(|limits| limits.levels_max()), Some(1));
        assert_eq!(
            Limits::new(256).map(|limits| limits.levels_max()),
            Some(LEVELS_MAX)
        );
        assert_eq!(Limits::new(257), None);
        assert_eq!(Limits::default().levels_max(), 128);
    }
}
