//! Pages of runs that were read, bounded. A page that was used since the hand
//! last came by stays.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;
use storage_io::AlignedBuf;

use crate::limits::CACHE_PAGES_MIN;

type Key = (u64, u32);

#[derive(Debug)]
struct Cached {
    bytes: AlignedBuf,
    used: bool,
}

/// The cache. Its pages have passed their checks.
#[derive(Debug)]
pub(crate) struct PageCache {
    pages: HashMap<Key, Cached, FixedState>,
    order: VecDeque<Key>,
    pages_max: usize,
}

impl PageCache {
    pub(crate) fn new(pages_max: usize) -> Self {
        Self {
            pages: HashMap::default(),
            order: VecDeque::new(),
            pages_max: pages_max.max(CACHE_PAGES_MIN),
        }
    }

    pub(crate) fn page(&mut self, generation: u64, page: u32) -> Option<&[u8]> {
        let cached = self.pages.get_mut(&(generation, page))?;
        cached.used = true;
        Some(&cached.bytes)
    }

    pub(crate) fn insert(&mut self, generation: u64, page: u32, bytes: AlignedBuf) {
        let key = (generation, page);
        if let Some(cached) = self.pages.get_mut(&key) {
            cached.bytes = bytes;
            return;
        }
        // Room is made first: the look-up that asked for the new page is still to come.
        while self.pages.len() >= self.pages_max {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            match self.pages.get_mut(&oldest) {
                Some(cached) if cached.used => {
                    cached.used = false;
                    self.order.push_back(oldest);
                }
                _ => drop(self.pages.remove(&oldest)),
            }
        }
        self.pages.insert(key, Cached { bytes, used: false });
        self.order.push_back(key);
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_used_pages_stay() {
        let mut cache = PageCache::new(0);
        for page in 0..1000 {
            cache.insert(1, page, AlignedBuf::zeroed(4096));
            assert!(cache.page(1, 0).is_some(), "used after every insert");
            assert!(cache.pages.contains_key(&(1, page)), "there for who asked");
            assert!(cache.len() <= CACHE_PAGES_MIN);
        }
        assert!(cache.page(1, 1).is_none());
        assert!(cache.page(2, 0).is_none());
    }
}
