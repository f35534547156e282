//! Topic aliases of one connection (MQTT 5, section 3.3.2.3.4): two bytes instead of a topic.
//!
//! Both directions have their own, and both are bounded. What a client names is kept as long as its
//! connection; what is sent to it gets an alias when a topic comes up and one is left: an alias,
//! once given, stays with its topic, since a client that hears of more topics than it has aliases
//! would otherwise be sent names and numbers for nothing.

use std::sync::Arc;

use engine_mqtt::ReasonCode;

/// Aliases in one direction, at most; told to MQTT 5 clients as Topic Alias Maximum.
pub(crate) const TOPIC_ALIASES_MAX: u16 = 32;

/// Bytes of all topics that a client names, and of all that it is sent by an alias, at most.
const ALIAS_BYTES_MAX: usize = 64 * 1024;

/// See the module. The default is none.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    /// By alias, which begins with 1.
    inbound: Vec<Option<Arc<str>>>,
    inbound_bytes: usize,
    /// By alias, in the order in which they were given.
    outbound: Vec<Box<str>>,
    outbound_bytes: usize,
}

/// How the topic of a PUBLISH is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Naming {
    /// The topic alone.
    Topic,
    /// The topic, and this alias stands for it from now on.
    Both(u16),
    /// The alias alone.
    Alias(u16),
}

impl Aliases {
    /// The topic of an inbound PUBLISH with an alias; a topic besides gives the alias a new
    /// meaning.
    ///
    /// # Errors
    /// The reason to close the connection with: an alias above the maximum [MQTT-3.3.2-9], one
    /// without a meaning, or too many bytes of topics.
    pub(crate) fn inbound(&mut self, alias: u16, topic: &str) -> Result<Arc<str>, ReasonCode> {
        if alias == 0 || alias > TOPIC_ALIASES_MAX {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let index = usize::from(alias) - 1;
        let known = self.inbound.get(index).cloned().flatten();
        if topic.is_empty() {
            return known.ok_or(ReasonCode::ProtocolError);
        }
        if let Some(known) = known.as_ref().filter(|known| ***known == *topic) {
            return Ok(Arc::clone(known));
        }
        let freed = known.map_or(0, |known| known.len());
        let bytes = self.inbound_bytes - freed + topic.len();
        if bytes > ALIAS_BYTES_MAX {
            return Err(ReasonCode::QuotaExceeded);
        }
        self.inbound_bytes = bytes;
        let topic: Arc<str> = topic.into();
        if self.inbound.len() <= index {
            self.inbound.resize(index + 1, None);
        }
        if let Some(place) = self.inbound.get_mut(index) {
            *place = Some(Arc::clone(&topic));
        }
        Ok(topic)
    }

    /// How to name a topic to a client that takes aliases up to `max`.
    pub(crate) fn outbound(&mut self, topic: &str, max: u16) -> Naming {
        for (alias, known) in (1..).zip(&self.outbound) {
            if **known == *topic {
                return Naming::Alias(alias);
            }
        }
        let given = self.outbound.len();
        let bytes = self.outbound_bytes + topic.len();
        if given >= usize::from(max.min(TOPIC_ALIASES_MAX)) || bytes > ALIAS_BYTES_MAX {
            return Naming::Topic;
        }
        self.outbound.push(topic.into());
        self.outbound_bytes = bytes;
        u16::try_from(given + 1).map_or(Naming::Topic, Naming::Both)
    }

    /// The PUBLISH that [`Self::outbound`] has named did not leave.
    pub(crate) fn not_sent(&mut self, naming: Naming) {
        if let Naming::Both(_) = naming
            && let Some(topic) = self.outbound.pop()
        {
            self.outbound_bytes -= topic.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_stands_for_the_last_topic_it_came_with() {
        let mut aliases = Aliases::default();
        assert_eq!(aliases.inbound(1, ""), Err(ReasonCode::ProtocolError));
        assert_eq!(aliases.inbound(3, "a/b").as_deref(), Ok("a/b"));
        assert_eq!(aliases.inbound(3, "").as_deref(), Ok("a/b"));
        assert_eq!(aliases.inbound(2, ""), Err(ReasonCode::ProtocolError));
        assert_eq!(aliases.inbound(3, "c").as_deref(), Ok("c"));
        assert_eq!(aliases.inbound(3, "").as_deref(), Ok("c"));
    }

    #[test]
    fn aliases_and_their_bytes_are_bounded() {
        let mut aliases = Aliases::default();
        let beyond = TOPIC_ALIASES_MAX + 1;
        assert_eq!(
            aliases.inbound(beyond, "a"),
            Err(ReasonCode::TopicAliasInvalid)
        );
        assert_eq!(aliases.inbound(0, "a"), Err(ReasonCode::TopicAliasInvalid));
        let half = "t".repeat(ALIAS_BYTES_MAX / 2 + 1);
        assert!(aliases.inbound(1, &half).is_ok());
        assert_eq!(aliases.inbound(2, &half), Err(ReasonCode::QuotaExceeded));
        assert!(aliases.inbound(1, &half).is_ok(), "named again");
        assert!(aliases.inbound(1, "t").is_ok(), "bytes come back");
        assert!(aliases.inbound(2, &half).is_ok());
    }

    #[test]
    fn a_topic_is_named_once() {
        let mut aliases = Aliases::default();
        assert_eq!(aliases.outbound("a", 2), Naming::Both(1));
        assert_eq!(aliases.outbound("a", 2), Naming::Alias(1));
        let lost = aliases.outbound("b", 2);
        assert_eq!(lost, Naming::Both(2));
        aliases.not_sent(lost);
        assert_eq!(aliases.outbound("c", 2), Naming::Both(2));
        assert_eq!(aliases.outbound("d", 2), Naming::Topic);
        assert_eq!(aliases.outbound("a", 2), Naming::Alias(1));
        assert_eq!(Aliases::default().outbound("a", 0), Naming::Topic);
    }

    #[test]
    fn long_topics_stay_names() {
        let mut aliases = Aliases::default();
        let most = "t".repeat(ALIAS_BYTES_MAX);
        assert_eq!(aliases.outbound("a", 9), Naming::Both(1));
        assert_eq!(aliases.outbound(&most, 9), Naming::Topic);
    }
}
