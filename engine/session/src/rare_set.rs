//! A set that hardly any session has something in: empty, it is one word and owns nothing.

use std::collections::BTreeSet;

/// See the module.
#[derive(Clone, Debug)]
#[expect(
    clippy::box_collection,
    reason = "one word instead of three: it is hardly ever there"
)]
pub struct RareSet<T>(Option<Box<BTreeSet<T>>>);

impl<T> Default for RareSet<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Ord> RareSet<T> {
    /// Adds one; says whether it was not there.
    pub fn insert(&mut self, one: T) -> bool {
        self.0.get_or_insert_default().insert(one)
    }

    /// Removes one; says whether it was there.
    pub fn remove(&mut self, one: &T) -> bool {
        let removed = self.0.as_mut().is_some_and(|all| all.remove(one));
        self.0.take_if(|all| all.is_empty());
        removed
    }

    /// Whether this one is there.
    #[must_use]
    pub fn contains(&self, one: &T) -> bool {
        self.0.as_ref().is_some_and(|all| all.contains(one))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// All, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|all| all.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_and_owns_nothing_when_it_is_empty() {
        let mut set = RareSet::default();
        assert_eq!(size_of_val(&set), size_of::<usize>());
        assert!(set.insert(3) && set.insert(1) && !set.insert(3));
        assert!(set.contains(&1) && !set.contains(&2));
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), [1, 3]);
        assert!(set.remove(&1) && !set.remove(&1) && set.remove(&3));
        assert_eq!((set.len(), set.is_empty()), (0, true));
        assert!(set.0.is_none());
    }
}
