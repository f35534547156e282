//! The members of one shared subscription, as far as clients can know it. They all ask for QoS 2
//! and keep their sessions, until they begin a clean one.

use std::collections::{BTreeMap, BTreeSet};

use super::publication::Publication;
use super::session::filter_matches;
use super::{ClientNumber, MessageId, Received, Violation};

/// How a shared subscription begins.
const SHARE_PREFIX: &str = "$share/";

/// The filter of a shared subscription.
pub(super) fn shared_filter(text: &str) -> Option<&str> {
    let (_, filter) = text.strip_prefix(SHARE_PREFIX)?.split_once('/')?;
    Some(filter)
}

#[derive(Clone, Copy, Debug)]
struct Delivery {
    client: ClientNumber,
    step: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    filter: String,
    /// The history's step of the first SUBACK.
    since: Option<u64>,
    members: BTreeSet<ClientNumber>,
    /// When each of them lost its connection last.
    left: BTreeMap<ClientNumber, u64>,
    /// The last delivery of each message.
    delivered: BTreeMap<MessageId, Delivery>,
    /// Two deliveries of a message at QoS 1: one of the two has lost its connection after it, or
    /// is about to, as it reads what was sent before the node let it go.
    doubtful: Vec<(MessageId, Delivery, Delivery)>,
}

impl Group {
    pub(super) fn new(filter: &str) -> Self {
        Self {
            filter: filter.to_owned(),
            since: None,
            members: BTreeSet::new(),
            left: BTreeMap::new(),
            delivered: BTreeMap::new(),
            doubtful: Vec::new(),
        }
    }

    pub(super) fn subscribing(&mut self, client: ClientNumber) {
        self.members.insert(client);
    }

    pub(super) fn subscribed(&mut self, step: u64) {
        self.since.get_or_insert(step);
    }

    pub(super) fn disconnected(&mut self, client: ClientNumber, step: u64) {
        if self.members.contains(&client) {
            self.left.insert(client, step);
        }
    }

    /// The member's session ends, or may. The last one ends the group.
    pub(super) fn ended(&mut self, client: ClientNumber) {
        self.members.remove(&client);
        if self.members.is_empty() {
            self.since = None;
        }
    }

    fn matches(&self, topic: &str) -> bool {
        filter_matches(&self.filter, topic)
    }

    /// One member gets it. Another one, or the same again, only at QoS 1, and with a reason:
    /// [`Self::check_doubtful`].
    pub(super) fn deliver(
        &mut self,
        received: &Received<'_>,
        publication: &Publication,
        step: u64,
    ) -> Result<(), Violation> {
        let Received {
            client, message, ..
        } = *received;
        if !self.members.contains(&client) || !self.matches(received.topic) {
            return Ok(());
        }
        let delivery = Delivery { client, step };
        let Some(first) = self.delivered.insert(message, delivery) else {
            return Ok(());
        };
        if publication.qos == 1 {
            if !publication.repeated {
                self.doubtful.push((message, first, delivery));
            }
            return Ok(());
        }
        Err(Violation::SharedTwice {
            message,
            first: first.client,
            second: client,
            qos: publication.qos,
        })
    }

    /// Whoever got a message second had a reason to.
    pub(super) fn check_doubtful(&self) -> Result<(), Violation> {
        let has_left = |one: &Delivery| {
            let left = self.left.get(&one.client);
            left.is_some_and(|left| *left > one.step)
        };
        let mut doubtful = self.doubtful.iter();
        let wrong = doubtful.find(|(_, first, second)| !has_left(first) && !has_left(second));
        wrong.map_or(Ok(()), |(message, first, second)| {
            Err(Violation::SharedTwice {
                message: *message,
                first: first.client,
                second: second.client,
                qos: 1,
            })
        })
    }

    /// The publication has come to a member if there was one all the time.
    pub(super) fn check_received(&self, publication: &Publication) -> Result<(), Violation> {
        let is_owed = self.since.is_some_and(|step| step < publication.sent_step)
            && self.matches(&publication.topic)
            && !publication.retired;
        let message = publication.message;
        if !is_owed || self.delivered.contains_key(&message) {
            return Ok(());
        }
        Err(Violation::SharedMissing {
            message,
            topic: publication.topic.clone(),
            filter: self.filter.clone(),
            acknowledged: publication.acknowledged_ms.is_some(),
        })
    }
}
