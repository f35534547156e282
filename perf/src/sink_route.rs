//! Who hears a topic in the relaying sink: a list of filters, and a cache of what they match.
//!
//! Matching walks all filters, once per topic; a change of subscriptions empties the cache. A sink
//! has no sessions, no shared and no retained messages.

use std::collections::HashMap;
use std::sync::Arc;

/// A subscriber of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) token: usize,
    pub(crate) qos: u8,
}

/// All subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    filters: Vec<(String, Target)>,
    cache: HashMap<Vec<u8>, Arc<[Target]>>,
    last: Option<(Vec<u8>, Arc<[Target]>)>,
}

impl Routes {
    /// Adds a subscription, or replaces the one of the same client to the same filter.
    pub(crate) fn subscribe(&mut self, filter: String, target: Target) {
        self.unsubscribe(&filter, target.token);
        self.filters.push((filter, target));
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str, token: usize) {
        self.filters
            .retain(|(held, target)| target.token != token || held != filter);
        self.forget();
    }

    /// Removes all subscriptions of a client.
    pub(crate) fn remove(&mut self, token: usize) {
        let count = self.filters.len();
        self.filters.retain(|(_, target)| target.token != token);
        if self.filters.len() != count {
            self.forget();
        }
    }

    /// Who hears a topic: every client once, at its highest quality of service.
    pub(crate) fn targets(&mut self, topic: &[u8]) -> Arc<[Target]> {
        if let Some((last, targets)) = &self.last
            && last == topic
        {
            return Arc::clone(targets);
        }
        let targets = match self.cache.get(topic) {
            Some(targets) => Arc::clone(targets),
            None => {
                let found: Arc<[Target]> = self.find(topic).into();
                self.cache.insert(topic.to_vec(), Arc::clone(&found));
                found
            }
        };
        self.last = Some((topic.to_vec(), Arc::clone(&targets)));
        targets
    }

    fn find(&self, topic: &[u8]) -> Vec<Target> {
        let mut found: Vec<Target> = Vec::new();
        for (filter, target) in &self.filters {
            if !matches(filter.as_bytes(), topic) {
                continue;
            }
            match found.iter_mut().find(|other| other.token == target.token) {
                Some(other) => other.qos = other.qos.max(target.qos),
                None => found.push(*target),
            }
        }
        found
    }

    fn forget(&mut self) {
        self.cache.clear();
        self.last = None;
    }
}

fn matches(filter: &[u8], topic: &[u8]) -> bool {
    let mut levels = topic.split(|byte| *byte == b'/');
    for wanted in filter.split(|byte| *byte == b'/') {
        if wanted == b"#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == b"+" || wanted == level => {}
            Some(_) | None => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_level_by_level() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+", "a", false),
            ("+/b", "a/b", true),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("#", "x/y", true),
        ] {
            assert_eq!(
                matches(filter.as_bytes(), topic.as_bytes()),
                expected,
                "{filter} {topic}"
            );
        }
    }

    #[test]
    fn a_client_hears_a_topic_once_and_changes_take_effect() {
        let mut routes = Routes::default();
        let target = |token, qos| Target { token, qos };
        routes.subscribe("a/b".to_owned(), target(1, 0));
        routes.subscribe("a/+".to_owned(), target(1, 2));
        routes.subscribe("a/+".to_owned(), target(2, 1));
        assert_eq!(*routes.targets(b"a/b"), [target(1, 2), target(2, 1)]);
        routes.subscribe("a/+".to_owned(), target(2, 0));
        assert_eq!(*routes.targets(b"a/b"), [target(1, 2), target(2, 0)]);
        routes.unsubscribe("a/+", 1);
        assert_eq!(*routes.targets(b"a/b"), [target(1, 0), target(2, 0)]);
        routes.remove(1);
        assert_eq!(*routes.targets(b"a/b"), [target(2, 0)]);
        assert_eq!(*routes.targets(b"x"), []);
    }
}
