//! Where in a sorted list of topics the next one can be that matches a filter.

use std::str::Split;

use crate::matching::is_hidden;

/// What comes behind a topic, see [`next_match`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NextMatch {
    /// Already the very next topic may match.
    Here,
    /// No topic before this text matches; it lies behind the topic.
    From(String),
    /// No topic behind it matches.
    Never,
}

/// The first text in the order of bytes at which a topic can be that matches `filter`.
#[must_use]
pub fn first_match(filter: &str) -> String {
    let mut first = String::new();
    push_lowest(&mut first, filter.split('/'));
    first
}

/// Where a list of topics in the order of their bytes goes on behind `topic`, for a reader who
/// wants those that match `filter` (not a shared one): nothing between `topic` and there matches.
///
/// Topics that agree with the filter in their first levels lie together; where none of them can
/// match any more, all that are left of them are passed over at once.
#[must_use]
pub fn next_match(filter: &str, topic: &str) -> NextMatch {
    if is_hidden(topic) && filter.starts_with(['+', '#']) {
        return NextMatch::From("%".to_owned());
    }
    // The topic up to the end of its last level that stands under a `+`.
    let mut free = None;
    let mut at = 0;
    let mut levels = topic.split('/');
    let mut wanted = filter.split('/');
    loop {
        let rest = wanted.clone();
        let whole = free == Some(topic);
        let level = match (wanted.next(), levels.next()) {
            (Some("#"), _) => return NextMatch::Here,
            // What begins as the last level does, and goes on with a byte below `/`.
            (_, None) if whole => return NextMatch::Here,
            (Some(_), None) => return NextMatch::From(lowest(&format!("{topic}/"), rest).0),
            (None, _) => return behind(free),
            (Some("+"), Some(level)) => {
                free = topic.get(..at + level.len());
                level
            }
            (Some(literal), Some(level)) if literal == level => level,
            (Some(_), Some(_)) => return beside(topic, at, free, rest),
        };
        at += level.len() + 1;
    }
}

/// The topic agrees with the filter up to byte `at`, where it has another level than `wanted`.
fn beside(topic: &str, at: usize, free: Option<&str>, wanted: Split<'_, char>) -> NextMatch {
    let (mut lowest, is_parent) = lowest(topic.get(..at).unwrap_or_default(), wanted);
    if lowest.as_str() <= topic && is_parent {
        lowest.push('/');
    }
    if lowest.as_str() > topic {
        return NextMatch::From(lowest);
    }
    behind(free)
}

/// Nothing that begins with these levels matches any more: on to other levels under the last `+`.
fn behind(free: Option<&str>) -> NextMatch {
    // The byte behind `/`: everything that goes on below the levels is passed over.
    free.map_or(NextMatch::Never, |free| NextMatch::From(format!("{free}0")))
}

/// What every topic begins with, or lies behind, that begins with `levels` (which end with a `/`,
/// or are empty) and then matches `wanted`; and whether `#` is what comes next.
fn lowest(levels: &str, wanted: Split<'_, char>) -> (String, bool) {
    let mut lowest = levels.to_owned();
    let is_parent = push_lowest(&mut lowest, wanted);
    (lowest, is_parent)
}

fn push_lowest(lowest: &mut String, wanted: Split<'_, char>) -> bool {
    for (number, wanted) in wanted.enumerate() {
        if wanted == "#" {
            return true;
        }
        if number > 0 {
            lowest.push('/');
        }
        if wanted == "+" {
            return false;
        }
        lowest.push_str(wanted);
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;
    use crate::matches;

    /// What a reader finds who goes where he is told, and how many topics he looks at.
    fn walk(filter: &str, topics: &BTreeSet<String>) -> (Vec<String>, usize) {
        let mut found = Vec::new();
        let mut seen = 0;
        let mut from = Bound::Included(first_match(filter));
        while let Some(topic) = topics.range((from, Bound::Unbounded)).next() {
            seen += 1;
            if matches(filter, topic) {
                found.push(topic.clone());
            }
            from = match next_match(filter, topic) {
                NextMatch::Here => Bound::Excluded(topic.clone()),
                NextMatch::From(text) => {
                    assert!(text > *topic, "{filter}: from {topic} back to {text}");
                    Bound::Included(text)
                }
                NextMatch::Never => break,
            };
        }
        (found, seen)
    }

    /// Levels that sort around each other and around `/`.
    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "", "a", "a!", "a0", "aa", "b", "b\u{1}", "$", "$a", "\u{e9}",
        ])
    }

    fn topics() -> impl Strategy<Value = BTreeSet<String>> {
        let topic = prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"));
        prop::collection::btree_set(topic, 0..60)
    }

    fn filter() -> impl Strategy<Value = String> {
        let wanted = prop_oneof![2 => level(), 2 => Just("+")];
        let levels = prop::collection::vec(wanted, 0..5);
        (levels, any::<bool>()).prop_map(|(mut levels, many)| {
            if many || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn nothing_that_matches_is_passed_over(topics in topics(), filter in filter()) {
            let expected: Vec<String> =
                topics.iter().filter(|topic| matches(&filter, topic)).cloned().collect();
            prop_assert_eq!(walk(&filter, &topics).0, expected);
        }
    }

    fn many(levels: &[usize]) -> BTreeSet<String> {
        let mut topics = vec![String::new()];
        for count in levels {
            let longer = |topic: &String| {
                let topic = topic.clone();
                (0..*count).map(move |n| format!("{topic}/{n:04}"))
            };
            topics = topics.iter().flat_map(longer).collect();
        }
        topics
            .into_iter()
            .map(|topic| topic[1..].to_owned())
            .collect()
    }

    #[test]
    fn the_work_follows_the_matches_not_the_list() {
        let topics = many(&[20, 1_000]);
        for (filter, found, most) in [
            ("0003/0500", 1, 2),
            ("0003/+", 1_000, 1_001),
            ("0003/#", 1_000, 1_001),
            ("+/0500", 20, 60),
            ("+/0500/#", 20, 60),
            ("+/x", 0, 40),
            ("0003/+/x", 0, 1_001),
            ("+", 0, 20),
            ("x/#", 0, 0),
            ("#", 20_000, 20_000),
        ] {
            let (matching, seen) = walk(filter, &topics);
            assert_eq!(matching.len(), found, "{filter}");
            assert!(
                seen <= most,
                "{filter} looks at {seen} of {} topics",
                topics.len()
            );
        }
    }

    #[test]
    fn each_way_on() {
        let from = |text: &str| NextMatch::From(text.to_owned());
        for (filter, topic, expected) in [
            ("a/+/b/#", "a/x/a", from("a/x/b")),
            ("a/+/b/#", "a/x/b", NextMatch::Here),
            ("a/+/b/#", "a/x/c", from("a/x0")),
            ("a/+/b/#", "b", NextMatch::Never),
            ("a/b/#", "a/b!", from("a/b/")),
            ("a/b/#", "a/b0", NextMatch::Never),
            ("a/+", "a", from("a/")),
            ("a/+", "a/x", NextMatch::Here),
            ("a/+", "a/x/y", from("a/x0")),
            ("+/a", "x", NextMatch::Here),
            ("+/a", "$x/a", from("%")),
            ("$x/+", "$x/a", NextMatch::Here),
            ("a//b", "a/x", NextMatch::Never),
            ("a//b", "a", from("a//b")),
            ("a", "a", NextMatch::Never),
        ] {
            assert_eq!(
                next_match(filter, topic),
                expected,
                "{filter} behind {topic}"
            );
        }
    }
}
