//! The history checker: what clients saw, held against what the node promised them.
//!
//! The simulator and the real-process crash test [`History::record`] what their clients send and
//! receive, in the order in which it happened: a send before its first byte leaves the client, a
//! receipt after its last byte has arrived. Promises that can break at once are checked at once;
//! [`History::finish`] checks the rest when every session has been drained.
//!
//! What is checked:
//! - nothing invented: each delivery is a message that was sent, whole, on its topic, to a client
//!   that asked for that topic, at no higher QoS than both sides named;
//! - a QoS 1/2 publication that was acknowledged, or that anybody has received, reaches every
//!   session whose subscription was acknowledged before the publication was sent, at the highest
//!   QoS that its subscriptions were granted;
//! - the same, once for all members of a shared subscription together: QoS 2 once, QoS 1 to another
//!   member only when the first has lost its connection;
//! - QoS 2 deliveries happen once; QoS 0 publications are delivered at most once; whatever
//!   subscriptions overlap, a publication that is delivered at QoS 0 is delivered once;
//! - first deliveries of one publisher's messages on one topic, published at one QoS and delivered
//!   at one QoS, to a subscription that was there before, come in sending order;
//! - what was acknowledged or delivered is in the logs after a crash ([`Event::Recovered`]), unless
//!   the node had begun to retire it ([`Event::Retiring`]);
//! - nothing is missing to a session but what the node has told that it cut ([`Event::Cut`]);
//! - a topic's retained message is the last one acknowledged ([`History::check_retained`]);
//! - the session-present flag is right;
//! - a will that was removed is never published, and one that is due is delivered;
//! - a delayed publication is not delivered before it is due.
//!
//! It matches topics and filters by its own code, so that the engine's can be wrong.

mod group;
mod payload;
mod publication;
mod session;
mod violation;

use std::collections::{BTreeMap, BTreeSet};

use group::{Group, shared_filter};
pub use payload::{MessageId, message_id, payload};
use publication::Publication;
use session::{Presence, Session};
pub use violation::Violation;

/// A client, numbered by the test that runs it. A client id belongs to one number for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientNumber(pub u32);

/// A message as its publisher sends it.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The publisher.
    pub client: ClientNumber,
    /// Its number, unique in the history.
    pub message: MessageId,
    /// The topic.
    pub topic: &'a str,
    /// The QoS it is published with: 0, 1 or 2.
    pub qos: u8,
    /// Whether it replaces the topic's retained message.
    pub retain: bool,
    /// Whether its payload is empty (with `retain`: deletes the retained message). Deliveries of
    /// empty payloads are not recorded, since they have no number.
    pub empty: bool,
}

/// A message as a subscriber receives it. A QoS 2 one is recorded once per packet id, as MQTT's
/// receiver does it: not again for a repeated PUBLISH before the PUBREL.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The subscriber.
    pub client: ClientNumber,
    /// The number in the payload.
    pub message: MessageId,
    /// The topic.
    pub topic: &'a str,
    /// The QoS of the delivery.
    pub qos: u8,
    /// The RETAIN flag: sent because of a new subscription.
    pub retain: bool,
}

/// One thing that happened, as the clients see it.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A CONNECT is about to be sent.
    Connecting {
        /// Who.
        client: ClientNumber,
        /// Clean start (clean session in 3.1.1).
        clean_start: bool,
        /// The session outlives the connection.
        durable: bool,
    },
    /// A CONNACK with success has arrived.
    Connected {
        /// Who.
        client: ClientNumber,
        /// Its session-present flag.
        session_present: bool,
    },
    /// The connection has ended: nothing more will be received on it.
    Disconnected {
        /// Who.
        client: ClientNumber,
    },
    /// A SUBSCRIBE is about to be sent.
    Subscribing {
        /// Who.
        client: ClientNumber,
        /// The filter.
        filter: &'a str,
        /// The QoS asked for.
        qos: u8,
    },
    /// A SUBACK with success has arrived.
    Subscribed {
        /// Who.
        client: ClientNumber,
        /// The filter.
        filter: &'a str,
        /// The QoS granted.
        granted: u8,
    },
    /// An UNSUBSCRIBE is about to be sent.
    Unsubscribing {
        /// Who.
        client: ClientNumber,
        /// The filter.
        filter: &'a str,
    },
    /// A PUBLISH is about to be sent for the first time.
    Publishing(Sent<'a>),
    /// A PUBLISH is about to be sent again. At QoS 1 it may be taken twice.
    Repeating {
        /// The message.
        message: MessageId,
    },
    /// It is published with this message expiry interval.
    Expires {
        /// The message.
        message: MessageId,
        /// Milliseconds.
        interval_ms: u64,
    },
    /// It is published to a topic that delays it: it must not be delivered before this time, on the
    /// clock of the events.
    Delayed {
        /// The message.
        message: MessageId,
        /// Milliseconds.
        until_ms: u64,
    },
    /// The node has started again by a clock that may be so much ahead of its last one: what is
    /// delayed may come so much earlier.
    ClockAhead {
        /// Milliseconds.
        by_ms: u64,
    },
    /// A PUBLISH that brings it without DUP has arrived.
    First {
        /// The message.
        message: MessageId,
    },
    /// The session's expiry interval has passed while it was offline.
    SessionExpired {
        /// Whose session.
        client: ClientNumber,
    },
    /// A CONNECT with this will is about to be sent.
    WillSet(Sent<'a>),
    /// It must not be published before this time, on the clock of the events.
    WillWaits {
        /// The will.
        message: MessageId,
        /// Milliseconds; 0: at any time.
        until_ms: u64,
    },
    /// It is certain that the will was removed before it could be published.
    WillRemoved {
        /// The will.
        message: MessageId,
    },
    /// It is certain that the will must have been, or will be, published.
    WillDue {
        /// The will.
        message: MessageId,
    },
    /// PUBACK or PUBREC has arrived with success.
    Acknowledged {
        /// The message.
        message: MessageId,
    },
    /// A message has arrived.
    Delivered(Received<'a>),
    /// The node is about to retire the records of these publications: from now on a crash may leave
    /// them out.
    Retiring {
        /// Their numbers.
        messages: &'a BTreeSet<MessageId>,
    },
    /// The node has told that it has lost these for a session that was behind.
    Cut {
        /// Whose session.
        client: ClientNumber,
        /// What it told to be gone.
        messages: &'a BTreeSet<MessageId>,
    },
    /// The node has started again; these QoS 1/2 publications are in its recovered logs. All
    /// connections must have been reported as ended.
    Recovered {
        /// Every message number in the logs.
        messages: &'a BTreeSet<MessageId>,
    },
}

/// All that happened so far.
#[derive(Debug, Default)]
pub struct History {
    publications: BTreeMap<MessageId, Publication>,
    sessions: BTreeMap<ClientNumber, Session>,
    /// By the whole text of their subscriptions.
    groups: BTreeMap<String, Group>,
    /// Grows by one per event: the order of all events.
    step: u64,
    /// The time of the newest event.
    now_ms: u64,
}

/// What a history amounts to, for progress lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Messages sent.
    pub published: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Of the messages acknowledged, those of QoS 2.
    pub acknowledged_qos_2: u64,
    /// Of the deliveries, those at QoS 2.
    pub delivered_qos_2: u64,
}

impl History {
    /// An empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event that happened at `now_ms` (any clock that never goes back).
    ///
    /// # Errors
    /// The promise that this event breaks.
    pub fn record(&mut self, now_ms: u64, event: Event<'_>) -> Result<(), Violation> {
        self.step += 1;
        self.now_ms = now_ms;
        self.tell_groups(&event);
        match event {
            Event::Connecting {
                client,
                clean_start,
                durable,
            } => {
                self.session(client).connecting(clean_start, durable);
            }
            Event::Connected {
                client,
                session_present,
            } => {
                return self.connected(client, session_present);
            }
            Event::Disconnected { client } => self.session(client).disconnected(),
            Event::Subscribing {
                client,
                filter,
                qos,
            } => {
                self.session(client).subscribing(filter, qos);
            }
            Event::Subscribed {
                client,
                filter,
                granted,
            } => {
                let step = self.step;
                self.session(client).subscribed(filter, granted, step);
            }
            Event::Unsubscribing { client, filter } => self.session(client).unsubscribing(filter),
            Event::Publishing(sent) => return self.sent(now_ms, sent, false),
            Event::Repeating { message } => {
                let publication = self.publication(message)?;
                publication.repeated |= publication.qos == 1;
            }
            Event::Expires {
                message,
                interval_ms,
            } => self.publication(message)?.interval_ms = Some(interval_ms),
            Event::Delayed { message, until_ms } => self.publication(message)?.delay(until_ms),
            Event::ClockAhead { by_ms } => self.clock_ahead(by_ms),
            Event::First { message } => self.publication(message)?.check_fresh(now_ms)?,
            Event::SessionExpired { client } => self.session(client).expired(),
            Event::WillSet(sent) => return self.sent(now_ms, sent, true),
            Event::WillWaits { message, until_ms } => {
                self.publication(message)?.not_before_ms = until_ms;
            }
            Event::WillRemoved { message } => self.publication(message)?.remove()?,
            Event::WillDue { message } => self.publication(message)?.certain = true,
            Event::Acknowledged { message } => {
                self.publication(message)?.acknowledge(now_ms);
            }
            Event::Delivered(received) => return self.delivered(now_ms, received),
            Event::Retiring { messages } => {
                for message in messages {
                    if let Some(one) = self.publications.get_mut(message) {
                        one.retired = true;
                    }
                }
            }
            Event::Cut { client, messages } => self.session(client).cut(messages),
            Event::Recovered { messages } => return self.recovered(messages),
        }
        Ok(())
    }

    /// To be called when every session has been connected and has received all it waits for.
    ///
    /// # Errors
    /// The first publication, in sending order, that a session should have received.
    pub fn finish(&self) -> Result<(), Violation> {
        for group in self.groups.values() {
            group.check_doubtful()?;
        }
        for publication in self
            .publications
            .values()
            .filter(|one| one.is_owed(self.now_ms))
        {
            for (&client, session) in &self.sessions {
                session.check_received(client, publication)?;
            }
            for group in self.groups.values() {
                group.check_received(publication)?;
            }
        }
        Ok(())
    }

    /// To be called with what a new subscriber was given as the topic's retained message, after
    /// all publishers have come to rest.
    ///
    /// # Errors
    /// Another message had been acknowledged later.
    pub fn check_retained(&self, topic: &str, found: Option<MessageId>) -> Result<(), Violation> {
        let candidates: Vec<&Publication> = self
            .publications
            .values()
            .filter(|one| one.retain && one.topic == topic && !one.is_removed())
            .collect();
        let newest_start = candidates
            .iter()
            .filter(|one| one.acknowledged_ms.is_some())
            .map(|one| one.sent_ms)
            .max();
        let is_current = |one: &&&Publication| match (one.acknowledged_ms, newest_start) {
            (Some(end), Some(newest)) => end >= newest,
            _ => true,
        };
        let mut current = candidates.iter().filter(is_current);
        let allowed = match found {
            Some(message) => current.any(|one| one.message == message && !one.empty),
            None => newest_start.is_none() || current.any(|one| one.empty),
        };
        if allowed {
            return Ok(());
        }
        let expected = candidates
            .iter()
            .filter(is_current)
            .map(|one| one.message)
            .collect();
        Err(Violation::RetainedStale {
            topic: topic.to_owned(),
            found,
            expected,
        })
    }

    /// Every topic that a retained message was sent to.
    pub fn retained_topics(&self) -> BTreeSet<&str> {
        let retained = self.publications.values().filter(|one| one.retain);
        retained.map(|one| one.topic.as_str()).collect()
    }

    /// How many messages have arrived.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.sessions.values().map(Session::deliveries).sum()
    }

    /// How much has happened.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            published: self.publications.len() as u64,
            acknowledged: self
                .publications
                .values()
                .filter(|one| one.acknowledged_ms.is_some())
                .count() as u64,
            delivered: self.deliveries(),
            acknowledged_qos_2: self
                .publications
                .values()
                .filter(|one| one.qos == 2 && one.acknowledged_ms.is_some())
                .count() as u64,
            delivered_qos_2: self
                .sessions
                .values()
                .map(|session| session.deliveries_qos_2())
                .sum(),
        }
    }

    /// Messages that a session is owed and has not received; for waiting until all is drained.
    #[must_use]
    pub fn missing(&self, client: ClientNumber) -> Vec<MessageId> {
        let Some(session) = self.sessions.get(&client) else {
            return Vec::new();
        };
        let owed = self
            .publications
            .values()
            .filter(|one| one.is_owed(self.now_ms));
        owed.filter(|one| session.check_received(client, one).is_err())
            .map(|one| one.message)
            .collect()
    }

    /// How many messages groups of shared subscriptions are owed; for waiting as well.
    #[must_use]
    pub fn missing_shared(&self) -> usize {
        let owed = self
            .publications
            .values()
            .filter(|one| one.is_owed(self.now_ms));
        let missing = |one: &&Publication| {
            let mut groups = self.groups.values();
            groups.any(|group| group.check_received(one).is_err())
        };
        owed.filter(missing).count()
    }

    /// Whether the node must hold a session of this client, all connections being closed.
    #[must_use]
    pub fn has_session(&self, client: ClientNumber) -> bool {
        let session = self.sessions.get(&client);
        session.is_some_and(|session| session.is_present())
    }

    /// To be called with the filters, and the QoS granted, that the node has stored for a client
    /// that waits for no answer.
    ///
    /// # Errors
    /// A subscription is missing, has another QoS, or was never asked for.
    pub fn check_subscriptions(
        &self,
        client: ClientNumber,
        stored: &BTreeMap<String, u8>,
    ) -> Result<(), Violation> {
        let session = self.sessions.get(&client);
        session.map_or(Ok(()), |session| session.check_stored(client, stored))
    }

    /// What an event means to groups of shared subscriptions, deliveries aside.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others mean nothing to them"
    )]
    fn tell_groups(&mut self, event: &Event<'_>) {
        let step = self.step;
        match *event {
            Event::Connecting {
                client,
                clean_start,
                durable,
            } if clean_start || !durable => {
                self.groups.values_mut().for_each(|one| one.ended(client));
            }
            Event::Disconnected { client } => {
                let groups = self.groups.values_mut();
                groups.for_each(|one| one.disconnected(client, step));
            }
            Event::Subscribing { client, filter, .. } => {
                if let Some(inner) = shared_filter(filter) {
                    let group = self.groups.entry(filter.to_owned());
                    let group = group.or_insert_with(|| Group::new(inner));
                    group.subscribing(client);
                }
            }
            Event::Subscribed { filter, .. } => {
                if let Some(group) = self.groups.get_mut(filter) {
                    group.subscribed(step);
                }
            }
            _ => {}
        }
    }

    fn clock_ahead(&mut self, by_ms: u64) {
        let all = self.publications.values_mut();
        all.for_each(|one| one.may_come_earlier(by_ms));
    }

    fn session(&mut self, client: ClientNumber) -> &mut Session {
        self.sessions.entry(client).or_default()
    }

    fn publication(&mut self, message: MessageId) -> Result<&mut Publication, Violation> {
        self.publications
            .get_mut(&message)
            .ok_or(Violation::UnknownMessage { message })
    }

    fn connected(&mut self, client: ClientNumber, present: bool) -> Result<(), Violation> {
        let wrong = match self.session(client).connected(present) {
            Presence::Present => !present,
            Presence::Absent => present,
            Presence::Unknown => false,
        };
        if wrong {
            return Err(Violation::SessionPresent {
                client,
                flag: present,
            });
        }
        Ok(())
    }

    fn sent(&mut self, now_ms: u64, sent: Sent<'_>, will: bool) -> Result<(), Violation> {
        let publication = Publication::new(&sent, self.step, now_ms, will);
        match self.publications.insert(sent.message, publication) {
            None => Ok(()),
            Some(_) => Err(Violation::SentTwice {
                message: sent.message,
            }),
        }
    }

    fn delivered(&mut self, now_ms: u64, received: Received<'_>) -> Result<(), Violation> {
        let Received {
            client, message, ..
        } = received;
        let Some(publication) = self.publications.get_mut(&message) else {
            return Err(Violation::Invented { client, message });
        };
        if publication.topic != received.topic {
            return Err(Violation::OtherTopic {
                client,
                message,
                topic: received.topic.to_owned(),
                sent_to: publication.topic.clone(),
            });
        }
        if publication.is_removed() {
            return Err(Violation::RemovedWill { client, message });
        }
        if now_ms < publication.not_before_ms {
            return Err(publication.early(client));
        }
        if received.retain && !publication.retain {
            return Err(Violation::NotRetained { client, message });
        }
        publication.seen = true;
        for group in self.groups.values_mut() {
            group.deliver(&received, publication, self.step)?;
        }
        let session = self.sessions.entry(client).or_default();
        session.deliver(&received, publication)
    }

    fn recovered(&self, messages: &BTreeSet<MessageId>) -> Result<(), Violation> {
        let lost = self
            .publications
            .values()
            .find(|one| one.must_be_stored() && !messages.contains(&one.message));
        match lost {
            None => Ok(()),
            Some(one) => Err(Violation::LostByCrash {
                message: one.message,
                acknowledged: one.acknowledged_ms.is_some(),
                delivered: one.seen,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
