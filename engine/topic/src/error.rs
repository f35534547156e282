//! What can be wrong with a topic name or a topic filter.

use std::fmt;

/// Why a text is not a topic name or not a topic filter.
///
/// All of them are the peer's fault. Positions are byte offsets into the text given to the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicError {
    /// The text has no character `[MQTT-4.7.3-1]`.
    Empty,
    /// The text has more than 65,535 bytes `[MQTT-4.7.3-3]`.
    TooLong {
        /// Bytes in the text.
        len: usize,
    },
    /// The text has a null character `[MQTT-4.7.3-2]`.
    Null {
        /// Where.
        at: usize,
    },
    /// A topic name has a wildcard character `[MQTT-4.7.0-1]`.
    WildcardInName {
        /// Where.
        at: usize,
    },
    /// A `#` stands before the end of a filter `[MQTT-4.7.1-1]`.
    MultiLevelNotLast {
        /// Where.
        at: usize,
    },
    /// A `#` shares its level with other characters `[MQTT-4.7.1-1]`.
    MultiLevelNotAlone {
        /// Where.
        at: usize,
    },
    /// A `+` shares its level with other characters `[MQTT-4.7.1-2]`.
    SingleLevelNotAlone {
        /// Where.
        at: usize,
    },
    /// The share name after `$share/` has no character `[MQTT-4.8.2-1]`.
    ShareNameEmpty,
    /// The share name has a wildcard character `[MQTT-4.8.2-2]`.
    ShareNameWildcard {
        /// Where.
        at: usize,
    },
    /// No filter follows the share name `[MQTT-4.8.2-2]`.
    ShareFilterMissing,
    /// The filter of a shared subscription is a shared one again. MQTT says nothing about it; the
    /// inner filter could only match names that start with `$share/`, and would change its meaning
    /// if it were ever parsed by itself.
    ShareNested,
    /// No filter follows `$exclusive/`.
    ExclusiveFilterMissing,
    /// The filter of an exclusive subscription is exclusive or shared itself, or that of a shared
    /// one is exclusive: what many share is nobody's own.
    ExclusiveNested,
    /// The text has more levels than this node allows.
    TooManyLevels {
        /// Levels in the text.
        levels: usize,
        /// Most levels allowed.
        levels_max: usize,
    },
}

impl TopicError {
    /// The statement of MQTT 5.0 that the text breaks; `None` if only this node forbids it.
    pub fn statement(&self) -> Option<&'static str> {
        match self {
            Self::Empty => Some("MQTT-4.7.3-1"),
            Self::TooLong { .. } => Some("MQTT-4.7.3-3"),
            Self::Null { .. } => Some("MQTT-4.7.3-2"),
            Self::WildcardInName { .. } => Some("MQTT-4.7.0-1"),
            Self::MultiLevelNotLast { .. } | Self::MultiLevelNotAlone { .. } => {
                Some("MQTT-4.7.1-1")
            }
            Self::SingleLevelNotAlone { .. } => Some("MQTT-4.7.1-2"),
            Self::ShareNameEmpty => Some("MQTT-4.8.2-1"),
            Self::ShareNameWildcard { .. } | Self::ShareFilterMissing => Some("MQTT-4.8.2-2"),
            Self::ShareNested
            | Self::ExclusiveFilterMissing
            | Self::ExclusiveNested
            | Self::TooManyLevels { .. } => None,
        }
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "topic is empty"),
            Self::TooLong { len } => write!(f, "topic has {len} bytes, more than 65535"),
            Self::Null { at } => write!(f, "topic has a null character at byte {at}"),
            Self::WildcardInName { at } => write!(f, "topic name has a wildcard at byte {at}"),
            Self::MultiLevelNotLast { at } => {
                write!(
                    f,
                    "'#' at byte {at} is not the last character of the filter"
                )
            }
            Self::MultiLevelNotAlone { at } => {
                write!(f, "'#' at byte {at} does not follow a level separator")
            }
            Self::SingleLevelNotAlone { at } => {
                write!(f, "'+' at byte {at} does not occupy its whole level")
            }
            Self::ShareNameEmpty => write!(f, "share name is empty"),
            Self::ShareNameWildcard { at } => {
                write!(f, "share name has a wildcard at byte {at}")
            }
            Self::ShareFilterMissing => write!(f, "share name is not followed by a filter"),
            Self::ShareNested => write!(f, "filter of a shared subscription is shared itself"),
            Self::ExclusiveFilterMissing => write!(f, "'$exclusive/' is not followed by a filter"),
            Self::ExclusiveNested => {
                write!(
                    f,
                    "filter of an exclusive subscription is exclusive or shared itself"
                )
            }
            Self::TooManyLevels { levels, levels_max } => {
                write!(f, "topic has {levels} levels, more than {levels_max}")
            }
        }
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f)?;
        match self.statement() {
            Some(statement) => write!(f, " [{statement}]"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TopicError {}
