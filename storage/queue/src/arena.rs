//! Values that are added one by one and keep their places, in blocks: nothing moves when it grows.

use crate::fields::{index, low_u32, number};

/// Values of a block: 64 KiB of cache lines.
const BLOCK: usize = 1024;

/// The values.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    blocks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Arena<T> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a value; tells its place.
    pub(crate) fn push(&mut self, value: T) -> u32 {
        if self.len.is_multiple_of(BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        if let Some(block) = self.blocks.last_mut() {
            block.push(value);
        }
        self.len += 1;
        low_u32(number(self.len - 1))
    }

    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        let place = index(u64::from(place));
        self.blocks.get(place / BLOCK)?.get(place % BLOCK)
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let place = index(u64::from(place));
        self.blocks.get_mut(place / BLOCK)?.get_mut(place % BLOCK)
    }
}
