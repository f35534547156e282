//! A slab whose keys are never confused: an entry is named by its index and the session id in it.

use std::ops::{Index, IndexMut};

/// Entries at stable indexes; freed ones are used again.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    #[expect(
        clippy::expect_used,
        reason = "Invariant: sessions are bounded far below 2^32"
    )]
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            if let Some(entry) = self.entries.get_mut(index as usize) {
                *entry = Some(value);
            }
            return index;
        }
        self.entries.push(Some(value));
        u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 entries")
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.entries.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(value)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.as_ref()
    }

    pub(crate) fn indexes(&self) -> impl Iterator<Item = u32> + use<T> {
        let used: Vec<u32> = (0u32..)
            .zip(&self.entries)
            .filter_map(|(index, entry)| entry.is_some().then_some(index))
            .collect();
        used.into_iter()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[expect(
        clippy::expect_used,
        reason = "an index of a freed entry is our own fault"
    )]
    fn index(&self, index: u32) -> &T {
        self.get(index).expect("a live slab entry")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[expect(
        clippy::expect_used,
        reason = "an index of a freed entry is our own fault"
    )]
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.entries
            .get_mut(index as usize)
            .and_then(Option::as_mut)
            .expect("a live slab entry")
    }
}
