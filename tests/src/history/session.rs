//! One client's session, as far as the client can know it.

use std::collections::{BTreeMap, BTreeSet};

use super::group::shared_filter;
use super::publication::Publication;
use super::{ClientNumber, MessageId, Received, Violation};

/// Whether the node holds a session of this client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Presence {
    #[default]
    Absent,
    Present,
    /// A CONNECT was sent that changes it, and no CONNACK came.
    Unknown,
}

#[derive(Debug)]
struct Subscription {
    filter: String,
    granted: u8,
    /// The history's step of the SUBACK.
    since: u64,
    /// The history's step of the last SUBACK; `None` while another one may be on its way.
    settled: Option<u64>,
}

#[derive(Debug, Default)]
struct Deliveries {
    all: u32,
    at_most_once: u32,
    exactly_once: u32,
    /// The highest QoS of them.
    best: u8,
}

/// The publisher, the topic, the QoS it was published with and the one it was delivered with:
/// within these, order is promised [MQTT-4.6.0-6].
type Sequence = (ClientNumber, String, u8, u8);

/// What is known about one client's session.
#[derive(Debug, Default)]
pub(super) struct Session {
    presence: Presence,
    /// What the next CONNACK must say.
    expected: Presence,
    durable: bool,
    /// Acknowledged and not touched since.
    subscriptions: Vec<Subscription>,
    /// Every filter that was asked for in this session, with the highest QoS asked for.
    asked: BTreeMap<String, u8>,
    /// Every filter that was to be given up, or to be held at QoS 0, in this session.
    given_up: BTreeSet<String>,
    /// Filter and QoS of SUBSCRIBE packets of this connection that are not answered.
    unanswered: Vec<(String, u8)>,
    delivered: BTreeMap<MessageId, Deliveries>,
    /// The newest first delivery, as the publication's step.
    newest: BTreeMap<Sequence, (u64, MessageId)>,
    deliveries: u64,
    deliveries_qos_2: u64,
    /// What the node has told that retention took from this session.
    cut: BTreeSet<MessageId>,
}

impl Session {
    pub(super) fn connecting(&mut self, clean_start: bool, durable: bool) {
        self.expected = if clean_start {
            Presence::Absent
        } else {
            self.presence
        };
        // Whatever comes of this CONNECT, also nothing:
        self.presence = match (self.presence, durable) {
            (Presence::Present, true) => Presence::Present,
            (Presence::Absent, false) => Presence::Absent,
            _ => Presence::Unknown,
        };
        if clean_start {
            self.end();
        }
        self.durable = durable;
    }

    /// Its expiry interval has passed while it was offline.
    pub(super) fn expired(&mut self) {
        self.presence = Presence::Absent;
        self.end();
    }

    /// Returns what the session-present flag should have been.
    pub(super) fn connected(&mut self, present: bool) -> Presence {
        if !present {
            self.end();
            self.asked.clear();
        }
        self.presence = if self.durable {
            Presence::Present
        } else {
            Presence::Absent
        };
        self.expected
    }

    pub(super) fn disconnected(&mut self) {
        self.unanswered.clear();
        if !self.durable {
            self.end();
        }
    }

    pub(super) fn subscribing(&mut self, filter: &str, qos: u8) {
        if qos == 0 && self.asked.contains_key(filter) {
            self.given_up.insert(filter.to_owned());
        }
        let asked = self.asked.entry(filter.to_owned()).or_default();
        *asked = qos.max(*asked);
        self.unanswered.push((filter.to_owned(), qos));
        // Until it is granted anew, the old grant is still good unless it may become worse.
        self.subscriptions
            .retain(|one| one.filter != filter || (one.granted > 0 && qos > 0));
        let same = self.subscriptions.iter_mut();
        for one in same.filter(|one| one.filter == filter) {
            one.settled = None;
        }
    }

    pub(super) fn subscribed(&mut self, filter: &str, granted: u8, step: u64) {
        let mut same = self.unanswered.iter();
        if let Some(place) = same.position(|(one, qos)| one == filter && *qos == granted) {
            self.unanswered.remove(place);
        }
        let may_become_worse = |(one, qos): &(String, u8)| one == filter && *qos == 0;
        if self.unanswered.iter().any(may_become_worse) {
            return;
        }
        let is_settled = self.unanswered.iter().all(|(one, _)| one != filter);
        let settled = is_settled.then_some(step);
        match self
            .subscriptions
            .iter_mut()
            .find(|one| one.filter == filter)
        {
            // Nothing was owed at QoS 0, so what is owed begins with the better grant.
            Some(held) if held.granted == 0 => {
                (held.granted, held.since, held.settled) = (granted, step, settled);
            }
            Some(held) => (held.granted, held.settled) = (granted, settled),
            None => self.subscriptions.push(Subscription {
                filter: filter.to_owned(),
                granted,
                since: step,
                settled,
            }),
        }
    }

    pub(super) fn unsubscribing(&mut self, filter: &str) {
        self.given_up.insert(filter.to_owned());
        self.subscriptions.retain(|one| one.filter != filter);
    }

    /// Adds a delivery and checks what it says.
    pub(super) fn deliver(
        &mut self,
        received: &Received<'_>,
        publication: &Publication,
    ) -> Result<(), Violation> {
        let Received {
            client, message, ..
        } = *received;
        self.deliveries += 1;
        self.deliveries_qos_2 += u64::from(received.qos == 2);
        let asked = self
            .asked
            .iter()
            .filter(|(filter, _)| filter_matches(filter, received.topic))
            .map(|(_, &qos)| qos)
            .max();
        let Some(asked) = asked else {
            let topic = received.topic.to_owned();
            return Err(Violation::NotSubscribed {
                client,
                message,
                topic,
            });
        };
        let most = asked.min(publication.qos);
        if received.qos > most {
            return Err(Violation::QosTooHigh {
                client,
                message,
                qos: received.qos,
                most,
            });
        }
        if received.retain {
            return Ok(());
        }
        let deliveries = self.delivered.entry(message).or_default();
        deliveries.all += 1;
        deliveries.best = deliveries.best.max(received.qos);
        deliveries.at_most_once += u32::from(received.qos == 0);
        deliveries.exactly_once += u32::from(received.qos == 2);
        if deliveries.exactly_once > 1 || (publication.qos == 0 && deliveries.all > 1) {
            return Err(Violation::Duplicated {
                client,
                message,
                qos: publication.qos,
            });
        }
        // All subscriptions of a session bring one delivery. A crash may bring back the one that
        // was being given up, and with it what was delivered at QoS 0 meanwhile.
        let may_come_back = |filter: &String| filter_matches(filter, received.topic);
        if deliveries.at_most_once > 0
            && deliveries.all > 1
            && !publication.repeated
            && !self.given_up.iter().any(may_come_back)
        {
            return Err(Violation::ExtraCopy { client, message });
        }
        // What was published while its SUBSCRIBE was under way, or was lost because it is delivered
        // at QoS 0, may come for the first time when its publisher sends it again. What was sent
        // at one grant and lost by a crash comes again at the present one, in another order.
        let may_be_lost = received.qos == 0 && publication.qos > 0;
        let is_covered = self
            .covering(publication)
            .any(|one| one.granted > 0 || publication.qos == 0);
        let is_settled = self
            .covering(publication)
            .all(|one| one.settled.is_some_and(|step| step < publication.sent_step));
        let is_whole = is_covered && !self.cut.contains(&message);
        let is_ordered = publication.is_in_order() && !may_be_lost && is_whole && is_settled;
        if self.is_first(message) && is_ordered {
            return self.check_order(received, publication);
        }
        Ok(())
    }

    /// The publication was delivered if a subscription asked for it all the time.
    pub(super) fn check_received(
        &self,
        client: ClientNumber,
        publication: &Publication,
    ) -> Result<(), Violation> {
        let Some(subscription) = self.covering(publication).find(|one| one.granted > 0) else {
            return Ok(());
        };
        let message = publication.message;
        if self.cut.contains(&message) {
            return Ok(());
        }
        let Some(deliveries) = self.delivered.get(&message) else {
            return Err(Violation::Missing {
                client,
                message,
                topic: publication.topic.clone(),
                filter: subscription.filter.clone(),
                acknowledged: publication.acknowledged_ms.is_some(),
            });
        };
        let (qos, least) = (deliveries.best, self.least_qos(publication));
        if qos < least {
            return Err(Violation::QosTooLow {
                client,
                message,
                qos,
                least,
            });
        }
        Ok(())
    }

    pub(super) fn is_present(&self) -> bool {
        self.presence == Presence::Present
    }

    /// What the node has stored is what was granted, or may have been.
    pub(super) fn check_stored(
        &self,
        client: ClientNumber,
        stored: &BTreeMap<String, u8>,
    ) -> Result<(), Violation> {
        let wrong = |filter: &str| Violation::SubscriptionWrong {
            client,
            filter: filter.to_owned(),
            stored: stored.get(filter).copied(),
        };
        if self.durable {
            for one in self
                .subscriptions
                .iter()
                .filter(|one| one.settled.is_some())
            {
                if stored.get(&one.filter) != Some(&one.granted) {
                    return Err(wrong(&one.filter));
                }
            }
        }
        let mut filters = stored.iter();
        let stray =
            filters.find(|(filter, qos)| self.asked.get(*filter).is_none_or(|most| *qos > most));
        stray.map_or(Ok(()), |(filter, _)| Err(wrong(filter)))
    }

    fn is_first(&self, message: MessageId) -> bool {
        self.delivered
            .get(&message)
            .is_some_and(|deliveries| deliveries.all == 1)
    }

    /// The subscriptions of its own that were there when the publication was sent, and still are.
    fn covering<'a>(
        &'a self,
        publication: &'a Publication,
    ) -> impl Iterator<Item = &'a Subscription> {
        let own = self.subscriptions.iter();
        let own = own.filter(|one| shared_filter(&one.filter).is_none());
        own.filter(|one| {
            one.since < publication.sent_step && filter_matches(&one.filter, &publication.topic)
        })
    }

    /// Of all subscriptions that match, the one with the highest QoS decides [MQTT-3.3.4-2]. Those
    /// whose QoS has been in question since the publication was sent don't count.
    fn least_qos(&self, publication: &Publication) -> u8 {
        let settled = self
            .covering(publication)
            .filter(|one| one.settled.is_some_and(|step| step < publication.sent_step));
        let granted = settled.map(|one| one.granted).max();
        granted.unwrap_or(0).min(publication.qos)
    }

    /// The node has told that these are gone.
    pub(super) fn cut(&mut self, messages: &BTreeSet<MessageId>) {
        self.cut.extend(messages);
    }

    pub(super) const fn deliveries(&self) -> u64 {
        self.deliveries
    }

    pub(super) const fn deliveries_qos_2(&self) -> u64 {
        self.deliveries_qos_2
    }

    fn check_order(
        &mut self,
        received: &Received<'_>,
        publication: &Publication,
    ) -> Result<(), Violation> {
        let sequence = (
            publication.publisher,
            publication.topic.clone(),
            publication.qos,
            received.qos,
        );
        let this = (publication.sent_step, publication.message);
        let newest = self.newest.entry(sequence).or_insert(this);
        if this.0 < newest.0 {
            return Err(Violation::OutOfOrder {
                client: received.client,
                message: publication.message,
                after: newest.1,
                topic: publication.topic.clone(),
            });
        }
        *newest = this;
        Ok(())
    }

    /// The session is gone or may be: nothing is owed to it any more. What was asked for stays
    /// until a CONNACK says that it is gone.
    fn end(&mut self) {
        self.subscriptions.clear();
        self.delivered.clear();
        self.cut.clear();
        self.newest.clear();
        self.given_up.clear();
    }
}

/// Whether a filter matches a topic, by the words of MQTT 5.0, 4.7.
pub(super) fn filter_matches(filter: &str, topic: &str) -> bool {
    let filter = shared_filter(filter).unwrap_or(filter);
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut filter_levels = filter.split('/');
    let mut topic_levels = topic.split('/');
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::filter_matches;

    #[test]
    fn filters_match_as_the_standard_says() {
        let cases = [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/x", true),
            ("+", "/x", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a/b/d", false),
            ("$share/g/a/+", "a/b", true),
            ("$share/g/a/+", "b/b", false),
        ];
        for (filter, topic, expected) in cases {
            assert_eq!(filter_matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
