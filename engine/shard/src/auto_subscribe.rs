//! Subscriptions that every client has from its connection on, without a SUBSCRIBE
//! (docs/topics.md).
//!
//! They are made when CONNACK is written, in the same way as a client's own, and no SUBACK says
//! so. What a session has already, and would have again without any effect, is not asked for: it
//! costs a returning client nothing.

use std::fmt;

use engine_mqtt::{ReasonCode, RetainHandling, SubscriptionOptions};
use engine_session::Subscription;
use engine_topic::Filter;

use crate::port::{ConnectionId, Store};
use crate::rewrite::Parts;
use crate::rules::{Action, Who};
use crate::shard::Shard;
use crate::subscribe::{Request, Wanted};
use crate::template::Template;

/// Why a subscription can't be had.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AutoSubscriptionError {
    /// What becomes of `filter` is no filter.
    Filter(String),
    /// A shared subscription has its member's own messages, too [MQTT-3.8.3-4].
    NoLocal(String),
}

impl fmt::Display for AutoSubscriptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(text) => {
                write!(f, "filter is \"{text}\" but must give a topic filter")
            }
            Self::NoLocal(text) => write!(
                f,
                "no-local is true but cannot be: filter \"{text}\" is that of a shared subscription"
            ),
        }
    }
}

impl std::error::Error for AutoSubscriptionError {}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AutoSubscription {
    filter: Template,
    options: SubscriptionOptions,
}

impl AutoSubscription {
    /// Reads its filter, in which `%c` stands for the client id and `%u` for the user's name.
    ///
    /// # Errors
    /// [`AutoSubscriptionError`] says why it can't be had.
    pub fn new(filter: &str, options: SubscriptionOptions) -> Result<Self, AutoSubscriptionError> {
        let template = Template::without_parts(filter);
        let sample = Who {
            user: Some("user"),
            client: "client",
            address: None,
        };
        let text = template.fill(&sample, &Parts::new()).unwrap_or_default();
        let Ok(parsed) = Filter::parse(&text) else {
            return Err(AutoSubscriptionError::Filter(filter.to_owned()));
        };
        if parsed.share.is_some() && options.no_local {
            return Err(AutoSubscriptionError::NoLocal(filter.to_owned()));
        }
        Ok(Self {
            filter: template,
            options,
        })
    }

    /// Whether a SUBSCRIBE would change nothing about what a session has, and bring nothing.
    fn is_had(&self, had: &Subscription) -> bool {
        let wanted = &self.options;
        let is_shared = engine_topic::is_shared(&had.filter);
        (wanted.retain_handling != RetainHandling::Send || is_shared)
            && had.qos == wanted.qos
            && had.no_local == wanted.no_local
            && had.retain_as_published == wanted.retain_as_published
            && had.id.is_none()
    }
}

impl Shard {
    /// A client has its CONNACK: it gets the subscriptions that all get.
    pub(crate) fn auto_subscribe<S: Store>(
        &mut self,
        index: u32,
        connection: ConnectionId,
        store: &mut S,
    ) {
        let Some(all) = self.config.auto_subscriptions.clone() else {
            return;
        };
        let mut filters = Vec::new();
        for one in all.iter() {
            match self.auto_wanted(index, connection, one) {
                Ok(wanted) => filters.extend(wanted.map(Ok)),
                Err(_) => self.counters.auto_subscriptions_refused += 1,
            }
        }
        if filters.is_empty() {
            return;
        }
        let request = Request {
            connection,
            client: self.key(index),
            packet_id: 0,
            filters,
            replay: None,
        };
        self.on_subscribe(request, store);
    }

    /// What is to be subscribed to; `None`: the session has it.
    fn auto_wanted(
        &mut self,
        index: u32,
        connection: ConnectionId,
        one: &AutoSubscription,
    ) -> Result<Option<Wanted>, ReasonCode> {
        let who = self.who(connection);
        let text = who.and_then(|who| one.filter.fill(&who, &Parts::new()));
        let text = text.filter(|text| self.is_short(text));
        let text = text.ok_or(ReasonCode::TopicFilterInvalid)?;
        let Ok(filter) = Filter::parse(&text) else {
            return Err(ReasonCode::TopicFilterInvalid);
        };
        if !self.may(connection, Action::Subscribe, filter.text) {
            return Err(ReasonCode::NotAuthorized);
        }
        let name = filter.share.map_or(filter.text, |_| &text);
        let had = self.clients[index].session.subscriptions.find(name);
        // One that the session has for itself is not to become an ordinary one.
        let is_had = had.is_some_and(|had| match (had.exclusive, filter.exclusive) {
            (true, false) => true,
            (false, true) => false,
            (true, true) | (false, false) => one.is_had(had),
        });
        if is_had {
            return Ok(None);
        }
        let options = one.options;
        Ok(Some(Wanted {
            filter: name.into(),
            exclusive: filter.exclusive,
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            retain_handling: options.retain_handling,
            id: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use engine_mqtt::QoS;

    use super::*;

    const OPTIONS: SubscriptionOptions = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::SendIfNew,
    };

    #[test]
    fn filters_are_checked_at_the_start() {
        for good in ["a", "%c/#", "d/%u-x/+", "$share/g/%c", "$queue/a", "$1/a"] {
            assert!(AutoSubscription::new(good, OPTIONS).is_ok(), "{good}");
        }
        for bad in ["", "a+", "#/a", "$share/g", "$share/+/a", "%c#"] {
            let expected = AutoSubscriptionError::Filter(bad.to_owned());
            assert_eq!(AutoSubscription::new(bad, OPTIONS), Err(expected));
        }
        let alone = SubscriptionOptions {
            no_local: true,
            ..OPTIONS
        };
        assert!(AutoSubscription::new("a", alone).is_ok());
        let expected = AutoSubscriptionError::NoLocal("$share/g/a".to_owned());
        assert_eq!(AutoSubscription::new("$share/g/a", alone), Err(expected));
    }
}
