//! Topic names: what a message is published to.

use crate::{Limits, TEXT_LEN_MAX, TopicError};

/// A valid topic name, borrowed from the packet or the record that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a topic name under the default limits.
    ///
    /// # Errors
    /// Names the first rule that the text breaks.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        Self::parse_within(text, &Limits::default())
    }

    /// Checks a topic name under a node's limits.
    ///
    /// # Errors
    /// Names the first rule that the text breaks.
    pub fn parse_within(text: &'a str, limits: &Limits) -> Result<Self, TopicError> {
        check_text(text)?;
        if let Some(at) = text.bytes().position(|byte| byte == b'+' || byte == b'#') {
            return Err(TopicError::WildcardInName { at });
        }
        check_levels(text, limits)?;
        Ok(Self(text))
    }

    /// The name.
    pub fn as_str(&self) -> &'a str {
        self.0
    }

    /// The first level: it names the service queue. May be empty (`/a` starts with an empty level).
    pub fn first_level(&self) -> &'a str {
        self.0.split_once('/').map_or(self.0, |(first, _)| first)
    }

    /// Whether the name starts with `$`: wildcards in a filter's first level pass it over
    /// `[MQTT-4.7.2-1]`.
    pub fn is_hidden(&self) -> bool {
        crate::matching::is_hidden(self.0)
    }
}

/// What names and filters have in common: not empty, not too long, no null character.
pub(crate) fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TEXT_LEN_MAX {
        return Err(TopicError::TooLong { len: text.len() });
    }
    match text.bytes().position(|byte| byte == 0) {
        Some(at) => Err(TopicError::Null { at }),
        None => Ok(()),
    }
}

/// The node's own limit on levels.
pub(crate) fn check_levels(text: &str, limits: &Limits) -> Result<(), TopicError> {
    let levels = level_count(text);
    if levels > limits.levels_max() {
        return Err(TopicError::TooManyLevels {
            levels,
            levels_max: limits.levels_max(),
        });
    }
    Ok(())
}

/// Levels in a text: one more than separators.
pub(crate) fn level_count(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'/').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), TopicError>) {
        assert_eq!(
            TopicName::parse(text).map(|name| assert_eq!(name.as_str(), text)),
            expected
        );
    }

    #[test]
    fn ordinary_names_are_valid() {
        for text in [
            "a",
            "/",
            "//",
            "a/b",
            " ",
            "a b/c",
            "$SYS/x",
            "$share/g/f",
            "\u{1F600}/x",
        ] {
            check(text, Ok(()));
        }
    }

    /// `[MQTT-4.7.3-1]`
    #[test]
    fn empty_name_is_refused() {
        check("", Err(TopicError::Empty));
    }

    /// `[MQTT-4.7.3-2]`
    #[test]
    fn null_character_is_refused() {
        check("a/\0", Err(TopicError::Null { at: 2 }));
    }

    /// `[MQTT-4.7.3-3]`
    #[test]
    fn length_is_bounded() {
        check(&"a".repeat(65_535), Ok(()));
        check(
            &"a".repeat(65_536),
            Err(TopicError::TooLong { len: 65_536 }),
        );
    }

    /// `[MQTT-4.7.0-1]`
    #[test]
    fn wildcards_are_refused() {
        check("a/+", Err(TopicError::WildcardInName { at: 2 }));
        check("#", Err(TopicError::WildcardInName { at: 0 }));
        check("a#b", Err(TopicError::WildcardInName { at: 1 }));
    }

    #[test]
    fn levels_are_bounded() {
        let error = TopicError::TooManyLevels {
            levels: 129,
            levels_max: 128,
        };
        check(&"/".repeat(127), Ok(()));
        check(&"/".repeat(128), Err(error));
        let limits = Limits::new(2).unwrap();
        assert!(TopicName::parse_within("a/b", &limits).is_ok());
        assert!(TopicName::parse_within("a/b/c", &limits).is_err());
    }

    #[test]
    fn first_level_ends_at_the_first_separator() {
        for (text, first) in [("a", "a"), ("a/b/c", "a"), ("/a", ""), ("$SYS/a", "$SYS")] {
            assert_eq!(TopicName::parse(text).unwrap().first_level(), first);
        }
        assert!(TopicName::parse("$a").unwrap().is_hidden());
        assert!(!TopicName::parse("a/$").unwrap().is_hidden());
    }
}
