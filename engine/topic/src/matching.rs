//! The definition of matching, and the walk over levels that everything else uses.

/// Whether `filter` matches `topic`. Both must be valid; a filter with a share prefix must have
/// lost it. Linear in the texts' lengths, no allocation.
///
/// A filter that starts with a wildcard does not match a topic that starts with `$`
/// `[MQTT-4.7.2-1]`; `#` also matches the parent of its level; texts are compared byte by byte,
/// without normalization `[MQTT-4.7.3-4]`. The routing table must always agree with this function.
pub fn matches(filter: &str, topic: &str) -> bool {
    if is_hidden(topic) && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match topic_levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            Some(_) | None => return false,
        }
    }
    topic_levels.next().is_none()
}

/// Whether wildcards in the first level of a filter pass this topic over `[MQTT-4.7.2-1]`.
pub(crate) fn is_hidden(topic: &str) -> bool {
    topic.starts_with('$')
}

/// The level that begins at byte `at` and where the next one begins; `None` past the last level.
pub(crate) fn next_level(text: &str, at: usize) -> Option<(&str, usize)> {
    let rest = text.get(at..)?;
    let len = rest
        .bytes()
        .position(|byte| byte == b'/')
        .unwrap_or(rest.len());
    Some((rest.get(..len)?, at + len + 1))
}

/// Whether the levels of `filter` from byte `filter_at` on match those of `topic` from byte
/// `topic_at` on. An offset past the end stands for no level. Written apart from [`matches()`],
/// which tests the table that uses it.
pub(crate) fn matches_from(
    filter: &str,
    mut filter_at: usize,
    topic: &str,
    mut topic_at: usize,
) -> bool {
    loop {
        match (next_level(filter, filter_at), next_level(topic, topic_at)) {
            (Some(("#", _)), _) | (None, None) => return true,
            (Some((wanted, filter_next)), Some((level, topic_next)))
                if wanted == "+" || wanted == level =>
            {
                filter_at = filter_next;
                topic_at = topic_next;
            }
            (Some(_) | None, Some(_)) | (Some(_), None) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{matches, next_level};

    #[track_caller]
    fn check(filter: &str, yes: &[&str], no: &[&str]) {
        for topic in yes {
            assert!(matches(filter, topic), "{filter} should match {topic}");
        }
        for topic in no {
            assert!(!matches(filter, topic), "{filter} should not match {topic}");
        }
    }

    #[test]
    fn exact_filters_match_themselves_only() {
        check(
            "a/b",
            &["a/b"],
            &["a", "a/", "/a/b", "a/b/", "a/b/c", "A/b", "a/bb"],
        );
        check("/", &["/"], &["a", "//", "/a"]);
        check("a//b", &["a//b"], &["a/b", "a/x/b"]);
    }

    #[test]
    fn multi_level_wildcard_matches_the_parent_and_all_below() {
        check(
            "a/#",
            &["a", "a/", "a/b", "a/b/c", "a//"],
            &["ab", "b/a", "/a", "A/b"],
        );
        check("#", &["a", "/", "a/b/c", "//"], &["$SYS", "$SYS/a", "$"]);
        check("/#", &["/", "/a", "/a/b", "//"], &["a", "a/b"]);
    }

    #[test]
    fn single_level_wildcard_matches_exactly_one_level() {
        check("+", &["a", "a b"], &["/", "a/", "/a", "a/b", "$a"]);
        check("/+", &["/", "/a"], &["a", "//", "/a/b"]);
        check("+/+", &["/", "/a", "a/", "a/b"], &["a", "a/b/c", "$a/b"]);
        check("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/b/c", "a/b/c/d"]);
        check("a/+", &["a/", "a/b"], &["a", "a/b/c"]);
        check("+/b/#", &["a/b", "/b", "a/b/c/d"], &["a/c", "b", "$a/b"]);
    }

    /// `[MQTT-4.7.2-1]`
    #[test]
    fn leading_wildcards_pass_over_dollar_topics() {
        check("#", &["a/$SYS"], &["$SYS/a"]);
        check("+/a", &["x/a"], &["$SYS/a"]);
        check("$SYS/#", &["$SYS", "$SYS/a", "$SYS/a/b"], &["$SYSa", "SYS"]);
        check("$SYS/+/b", &["$SYS/a/b", "$SYS/$a/b"], &["$SYS/b"]);
        check("a/+", &["a/$b"], &[]);
    }

    /// `[MQTT-4.7.3-4]`: the composed and the decomposed form of one letter are two topics.
    #[test]
    fn nothing_is_normalized() {
        check("caf\u{e9}", &["caf\u{e9}"], &["cafe\u{301}", "caf\u{c9}"]);
        check("a ", &["a "], &["a"]);
    }

    #[test]
    fn levels_are_walked_to_the_last() {
        for text in ["a", "/", "a/b", "//", "a/", "/a", "\u{e9}/\u{1F600}"] {
            let mut levels = Vec::new();
            let mut at = 0;
            while let Some((level, next)) = next_level(text, at) {
                levels.push(level);
                at = next;
            }
            assert_eq!(levels, text.split('/').collect::<Vec<_>>());
        }
    }
}
