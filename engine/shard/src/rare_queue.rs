//! A queue that hardly any session has something in: empty, it is one word and owns nothing.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "one word instead of four: it is hardly ever there"
)]
pub(crate) struct RareQueue<T>(Option<Box<VecDeque<T>>>);

impl<T> RareQueue<T> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.len())
    }

    pub(crate) fn push_back(&mut self, value: T) {
        self.0.get_or_insert_default().push_back(value);
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.front_mut()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flat_map(|queue| queue.iter_mut())
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.pop_front_if(|_| true)
    }

    pub(crate) fn pop_front_if(&mut self, condition: impl FnOnce(&mut T) -> bool) -> Option<T> {
        let queue = self.0.as_mut()?;
        let value = queue.pop_front_if(condition);
        if queue.is_empty() {
            self.0 = None;
        }
        value
    }

    /// Everything in it; it is empty then.
    pub(crate) fn take(&mut self) -> VecDeque<T> {
        self.0.take().map(|queue| *queue).unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

impl<T> FromIterator<T> for RareQueue<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let queue: VecDeque<T> = values.into_iter().collect();
        Self((!queue.is_empty()).then(|| Box::new(queue)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_owns_nothing_when_it_is_empty() {
        let mut queue: RareQueue<u8> = [].into_iter().collect();
        assert!(queue.0.is_none() && queue.is_empty());
        queue.push_back(1);
        queue.push_back(2);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.pop_front_if(|one| *one == 2), None);
        queue.iter_mut().for_each(|one| *one += 1);
        assert_eq!(queue.front_mut(), Some(&mut 2));
        assert_eq!((queue.pop_front(), queue.pop_front()), (Some(2), Some(3)));
        assert!(queue.0.is_none());
        queue.push_back(4);
        assert_eq!(queue.take(), [4]);
        assert!(queue.0.is_none() && queue.pop_front().is_none());
        assert_eq!(size_of_val(&queue), size_of::<usize>());
    }
}
