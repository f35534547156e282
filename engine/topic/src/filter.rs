//! Topic filters: what a client subscribes to, with or without a share name.

use crate::name::{check_levels, check_text};
use crate::{Limits, TopicError, TopicName};

/// Where a shared subscription's filter begins `[MQTT-4.8.2-1]`.
const SHARE_PREFIX: &str = "$share/";

/// The old form of a shared subscription, with one group per filter.
const QUEUE_PREFIX: &str = "$queue/";

/// The share name that stands for [`QUEUE_PREFIX`].
const QUEUE_GROUP: &str = "$queue";

/// Where an exclusive subscription's filter begins.
const EXCLUSIVE_PREFIX: &str = "$exclusive/";

/// The filter behind `$exclusive/`; `None`: the text is not that of an exclusive subscription.
#[must_use]
pub fn strip_exclusive(text: &str) -> Option<&str> {
    text.strip_prefix(EXCLUSIVE_PREFIX)
}

/// Whether a valid filter is a shared subscription, by its first level.
#[must_use]
pub fn is_shared(text: &str) -> bool {
    text.starts_with(SHARE_PREFIX) || text.starts_with(QUEUE_PREFIX)
}

/// Whether a filter names one topic or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterKind {
    /// No wildcard: the filter matches the topic with the same text only.
    Exact,
    /// At least one `+` or `#`.
    Wildcard,
}

/// A valid topic filter, borrowed from the packet or the record that holds it.
///
/// The fields are public to read; only the parsers make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Filter<'a> {
    /// The filter itself, without `$share/<group>/`, `$queue/` or `$exclusive/`: what the routing
    /// table holds.
    pub text: &'a str,
    /// Whether `text` has wildcards.
    pub kind: FilterKind,
    /// The share name (group) of a shared subscription; `$queue` for one in the old form.
    pub share: Option<&'a str>,
    /// At most one session may have this subscription: the text starts with `$exclusive/`.
    pub exclusive: bool,
}

impl<'a> Filter<'a> {
    /// Checks a filter under the default limits. A text that starts with `$share/` or `$queue/` is
    /// always a shared subscription, one that starts with `$exclusive/` an exclusive one.
    ///
    /// # Errors
    /// Names the first rule that the text breaks.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        Self::parse_within(text, &Limits::default())
    }

    /// Checks a filter under a node's limits (prefixes do not count as levels).
    ///
    /// # Errors
    /// Names the first rule that the text breaks.
    pub fn parse_within(text: &'a str, limits: &Limits) -> Result<Self, TopicError> {
        check_text(text)?;
        let (share, inner) = split_share(text)?;
        let exclusive = strip_exclusive(inner);
        let inner = exclusive.unwrap_or(inner);
        if exclusive.is_some() {
            check_exclusive(share, inner)?;
        }
        let kind = check_wildcards(inner, text.len() - inner.len())?;
        check_levels(inner, limits)?;
        Ok(Self {
            text: inner,
            kind,
            share,
            exclusive: exclusive.is_some(),
        })
    }

    /// Whether the filter has wildcards.
    pub fn is_wildcard(&self) -> bool {
        self.kind == FilterKind::Wildcard
    }

    /// Whether the filter matches a topic; see [`crate::matches()`].
    pub fn matches(&self, topic: TopicName<'_>) -> bool {
        crate::matches(self.text, topic.as_str())
    }
}

/// Splits `$share/<group>/<filter>`, or `$queue/<filter>`, into group and filter.
fn split_share(text: &str) -> Result<(Option<&str>, &str), TopicError> {
    if let Some(inner) = text.strip_prefix(QUEUE_PREFIX) {
        return match inner {
            "" => Err(TopicError::ShareFilterMissing),
            _ if is_shared(inner) => Err(TopicError::ShareNested),
            _ => Ok((Some(QUEUE_GROUP), inner)),
        };
    }
    let Some(rest) = text.strip_prefix(SHARE_PREFIX) else {
        return Ok((None, text));
    };
    let (group, inner) = match rest.split_once('/') {
        Some((group, inner)) => (group, inner),
        None => (rest, ""),
    };
    if group.is_empty() {
        return Err(TopicError::ShareNameEmpty);
    }
    if let Some(at) = group.bytes().position(|byte| byte == b'+' || byte == b'#') {
        return Err(TopicError::ShareNameWildcard {
            at: SHARE_PREFIX.len() + at,
        });
    }
    if inner.is_empty() {
        return Err(TopicError::ShareFilterMissing);
    }
    if is_shared(inner) {
        return Err(TopicError::ShareNested);
    }
    Ok((Some(group), inner))
}

/// Checks what stands behind `$exclusive/`.
fn check_exclusive(share: Option<&str>, inner: &str) -> Result<(), TopicError> {
    if share.is_some() || is_shared(inner) || strip_exclusive(inner).is_some() {
        return Err(TopicError::ExclusiveNested);
    }
    if inner.is_empty() {
        return Err(TopicError::ExclusiveFilterMissing);
    }
    Ok(())
}

/// Checks where wildcards stand. `start` is the byte at which `filter` begins in the whole text.
fn check_wildcards(filter: &str, start: usize) -> Result<FilterKind, TopicError> {
    let mut kind = FilterKind::Exact;
    let mut level_start = start;
    for level in filter.split('/') {
        if let Some(inside) = level.bytes().position(|byte| byte == b'+' || byte == b'#') {
            kind = FilterKind::Wildcard;
            let at = level_start + inside;
            let is_multi = level.as_bytes().get(inside) == Some(&b'#');
            let is_last = level_start + level.len() == start + filter.len();
            match (is_multi, level.len() == 1) {
                (true, true) if !is_last => return Err(TopicError::MultiLevelNotLast { at }),
                (true, false) => return Err(TopicError::MultiLevelNotAlone { at }),
                (false, false) => return Err(TopicError::SingleLevelNotAlone { at }),
                (true | false, true) => {}
            }
        }
        level_start += level.len() + 1;
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, kind: FilterKind) {
        let filter = Filter::parse(text).unwrap();
        assert_eq!((filter.text, filter.kind, filter.share), (text, kind, None));
    }

    #[track_caller]
    fn check_error(text: &str, error: TopicError) {
        assert_eq!(Filter::parse(text), Err(error), "{text}");
    }

    #[test]
    fn exact_filters() {
        for text in [
            "a",
            "/",
            "a/b",
            "a//b",
            "$SYS/a",
            "$share",
            "$sharea/b",
            "$SHARE/g/f",
        ] {
            check(text, FilterKind::Exact);
        }
    }

    #[test]
    fn wildcard_filters() {
        for text in [
            "#", "+", "a/#", "+/+", "/+", "+/", "a/+/b/#", "$SYS/#", "+/#",
        ] {
            check(text, FilterKind::Wildcard);
        }
    }

    /// `[MQTT-4.7.3-1]` `[MQTT-4.7.3-2]` `[MQTT-4.7.3-3]`
    #[test]
    fn text_rules_hold_for_filters() {
        check_error("", TopicError::Empty);
        check_error("a\0", TopicError::Null { at: 1 });
        check_error(&"a".repeat(65_536), TopicError::TooLong { len: 65_536 });
        assert!(Filter::parse(&"a".repeat(65_535)).is_ok());
    }

    /// `[MQTT-4.7.1-1]`
    #[test]
    fn multi_level_wildcard_is_alone_and_last() {
        check_error("#/a", TopicError::MultiLevelNotLast { at: 0 });
        check_error("a/#/", TopicError::MultiLevelNotLast { at: 2 });
        check_error("a/#/#", TopicError::MultiLevelNotLast { at: 2 });
        check_error("a#", TopicError::MultiLevelNotAlone { at: 1 });
        check_error("a/b#/c", TopicError::MultiLevelNotAlone { at: 3 });
        check_error("##", TopicError::MultiLevelNotAlone { at: 0 });
        check_error("#+", TopicError::MultiLevelNotAlone { at: 0 });
    }

    /// `[MQTT-4.7.1-2]`
    #[test]
    fn single_level_wildcard_occupies_its_level() {
        check_error("a+", TopicError::SingleLevelNotAlone { at: 1 });
        check_error("+a/b", TopicError::SingleLevelNotAlone { at: 0 });
        check_error("a/b+/c", TopicError::SingleLevelNotAlone { at: 3 });
        check_error("++", TopicError::SingleLevelNotAlone { at: 0 });
        check_error("+#", TopicError::SingleLevelNotAlone { at: 0 });
    }

    #[test]
    fn shared_filters_lose_their_prefix() {
        for (text, share, inner, kind) in [
            ("$share/g/a", "g", "a", FilterKind::Exact),
            ("$share/g/#", "g", "#", FilterKind::Wildcard),
            ("$share/g//", "g", "/", FilterKind::Exact),
            ("$share/$g/a/+", "$g", "a/+", FilterKind::Wildcard),
            ("$share/g/$SYS/#", "g", "$SYS/#", FilterKind::Wildcard),
            ("$queue/a/+", "$queue", "a/+", FilterKind::Wildcard),
            ("$queue//", "$queue", "/", FilterKind::Exact),
        ] {
            let filter = Filter::parse(text).unwrap();
            assert_eq!(
                (filter.text, filter.kind, filter.share),
                (inner, kind, Some(share))
            );
        }
    }

    /// `[MQTT-4.8.2-1]` `[MQTT-4.8.2-2]`
    #[test]
    fn share_names_have_rules() {
        check_error("$share/", TopicError::ShareNameEmpty);
        check_error("$share//a", TopicError::ShareNameEmpty);
        check_error("$share/g", TopicError::ShareFilterMissing);
        check_error("$share/g/", TopicError::ShareFilterMissing);
        check_error("$share/+/a", TopicError::ShareNameWildcard { at: 7 });
        check_error("$share/a#/a", TopicError::ShareNameWildcard { at: 8 });
        check_error("$share/g/$share/h/a", TopicError::ShareNested);
        check_error("$share/g/$queue/a", TopicError::ShareNested);
        check_error("$queue/", TopicError::ShareFilterMissing);
        check_error("$queue/$share/g/a", TopicError::ShareNested);
        check_error("$share/g/a+", TopicError::SingleLevelNotAlone { at: 10 });
    }

    #[test]
    fn exclusive_filters_lose_their_prefix() {
        for (text, inner, kind) in [
            ("$exclusive/a", "a", FilterKind::Exact),
            ("$exclusive//", "/", FilterKind::Exact),
            ("$exclusive/a/+", "a/+", FilterKind::Wildcard),
            ("$exclusive/$SYS/#", "$SYS/#", FilterKind::Wildcard),
        ] {
            let filter = Filter::parse(text).unwrap();
            let found = (filter.text, filter.kind, filter.share, filter.exclusive);
            assert_eq!(found, (inner, kind, None, true));
            assert_eq!(strip_exclusive(text), Some(inner));
        }
        for text in [
            "$exclusive",
            "$exclusivea/b",
            "$EXCLUSIVE/a",
            "a/$exclusive/b",
        ] {
            let filter = Filter::parse(text).unwrap();
            assert_eq!((filter.text, filter.exclusive), (text, false));
            assert_eq!(strip_exclusive(text), None);
        }
        check_error("$exclusive/", TopicError::ExclusiveFilterMissing);
        check_error("$exclusive/$exclusive/a", TopicError::ExclusiveNested);
        check_error("$exclusive/$share/g/a", TopicError::ExclusiveNested);
        check_error("$exclusive/$queue/a", TopicError::ExclusiveNested);
        check_error("$share/g/$exclusive/a", TopicError::ExclusiveNested);
        check_error("$queue/$exclusive/a", TopicError::ExclusiveNested);
        check_error("$exclusive/a+", TopicError::SingleLevelNotAlone { at: 12 });
    }

    #[test]
    fn levels_are_bounded_without_the_share_prefix() {
        let limits = Limits::new(2).unwrap();
        assert!(Filter::parse_within("a/#", &limits).is_ok());
        assert!(Filter::parse_within("$share/g/a/#", &limits).is_ok());
        assert!(Filter::parse_within("$exclusive/a/#", &limits).is_ok());
        let error = TopicError::TooManyLevels {
            levels: 3,
            levels_max: 2,
        };
        assert_eq!(Filter::parse_within("a/+/#", &limits), Err(error));
        assert!(error.to_string().contains("3 levels"));
    }

    #[test]
    fn filters_match_names() {
        let name = TopicName::parse("a/b").unwrap();
        assert!(Filter::parse("$share/g/a/+").unwrap().matches(name));
        assert!(!Filter::parse("b/+").unwrap().matches(name));
        assert!(Filter::parse("a/+").unwrap().is_wildcard());
    }
}
