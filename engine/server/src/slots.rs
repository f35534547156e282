//! A table of entries in slots, whose keys are never used twice.
//!
//! A key is the slot's number and how often it was used before, so that what arrives late for an
//! entry that is gone finds nothing. Keys fit 60 bits: the ring layer puts 4 bits of its own on
//! top.

/// Bits of a key that number the slot: 268 million entries at most.
const SLOT_BITS: u32 = 28;

/// Bits of a key. The others are always zero.
pub(crate) const KEY_BITS: u32 = 60;

const SLOTS_MAX: usize = 1 << SLOT_BITS;

/// Names one entry of a [`Slots`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << SLOT_BITS | u64::from(slot))
    }

    fn slot(self) -> usize {
        // Invariant: masked to 28 bits, which every usize holds.
        usize::try_from(self.0 & ((1 << SLOT_BITS) - 1)).unwrap_or(usize::MAX)
    }

    fn generation(self) -> u64 {
        self.0 >> SLOT_BITS
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// See the module.
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }

    /// Puts an entry in; gives it back when all slots are taken.
    pub(crate) fn insert(&mut self, value: T) -> Result<Key, T> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => match u32::try_from(self.slots.len()) {
                Ok(slot) if self.slots.len() < SLOTS_MAX => {
                    self.slots.push(Slot {
                        generation: 0,
                        value: None,
                    });
                    slot
                }
                _ => return Err(value),
            },
        };
        let Some(entry) = self.slots.get_mut(slot as usize) else {
            return Err(value);
        };
        assert!(entry.value.is_none(), "a free slot holds an entry");
        entry.value = Some(value);
        self.len += 1;
        Ok(Key::new(slot, entry.generation))
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.slots.get(key.slot())?;
        if u64::from(entry.generation) == key.generation() {
            entry.value.as_ref()
        } else {
            None
        }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.slots.get_mut(key.slot())?;
        if u64::from(entry.generation) == key.generation() {
            entry.value.as_mut()
        } else {
            None
        }
    }

    /// Takes an entry out. A slot that has been used four billion times is not used again.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.slots.get_mut(key.slot())?;
        if u64::from(entry.generation) != key.generation() {
            return None;
        }
        let value = entry.value.take()?;
        self.len -= 1;
        if let Some(next) = entry.generation.checked_add(1) {
            entry.generation = next;
            if let Ok(slot) = u32::try_from(key.slot()) {
                self.free.push(slot);
            }
        }
        Some(value)
    }

    /// How many entries there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The keys of all entries, by slot.
    pub(crate) fn keys(&self) -> Vec<Key> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, entry)| entry.value.is_some())
            .map(|(slot, entry)| Key::new(slot, entry.generation))
            .collect()
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.len = 0;
        self.free.clear();
        self.slots.drain(..).filter_map(|entry| entry.value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map of keys: what was removed stays gone, and no key comes twice.
        #[test]
        fn behaves_as_a_map_with_fresh_keys(steps in prop::collection::vec(0usize..8, 1..200)) {
            let mut slots = Slots::new();
            let mut model = BTreeMap::new();
            let mut gone = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                if step < 5 {
                    let key = slots.insert(n).unwrap();
                    prop_assert!(key.0 < 1 << KEY_BITS);
                    prop_assert!(!gone.contains(&key), "a key came twice");
                    prop_assert!(model.insert(key, n).is_none());
                } else if let Some((&key, &value)) = model.iter().nth(step % model.len().max(1)) {
                    prop_assert_eq!(slots.remove(key), Some(value));
                    model.remove(&key);
                    gone.push(key);
                }
                prop_assert_eq!(slots.len(), model.len());
                for (&key, value) in &model {
                    prop_assert_eq!(slots.get(key), Some(value));
                }
                for &key in &gone {
                    prop_assert!(slots.get(key).is_none() && slots.remove(key).is_none());
                }
                let mut keys = slots.keys();
                keys.sort();
                prop_assert!(keys.iter().eq(model.keys()));
            }
        }
    }
}
