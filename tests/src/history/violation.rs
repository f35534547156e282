//! A promise that was broken.

use std::fmt;

use super::{ClientNumber, MessageId};

/// What went wrong, with everything needed to look for it in a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "the variants' words are in Display; the fields name themselves"
)]
#[non_exhaustive]
pub enum Violation {
    UnknownMessage {
        message: MessageId,
    },
    SentTwice {
        message: MessageId,
    },
    SessionPresent {
        client: ClientNumber,
        flag: bool,
    },
    Invented {
        client: ClientNumber,
        message: MessageId,
    },
    OtherTopic {
        client: ClientNumber,
        message: MessageId,
        topic: String,
        sent_to: String,
    },
    NotSubscribed {
        client: ClientNumber,
        message: MessageId,
        topic: String,
    },
    NotRetained {
        client: ClientNumber,
        message: MessageId,
    },
    QosTooHigh {
        client: ClientNumber,
        message: MessageId,
        qos: u8,
        most: u8,
    },
    QosTooLow {
        client: ClientNumber,
        message: MessageId,
        qos: u8,
        least: u8,
    },
    Duplicated {
        client: ClientNumber,
        message: MessageId,
        qos: u8,
    },
    SharedTwice {
        message: MessageId,
        first: ClientNumber,
        second: ClientNumber,
        qos: u8,
    },
    SharedMissing {
        message: MessageId,
        topic: String,
        filter: String,
        acknowledged: bool,
    },
    ExtraCopy {
        client: ClientNumber,
        message: MessageId,
    },
    OutOfOrder {
        client: ClientNumber,
        message: MessageId,
        after: MessageId,
        topic: String,
    },
    Missing {
        client: ClientNumber,
        message: MessageId,
        topic: String,
        filter: String,
        acknowledged: bool,
    },
    SubscriptionWrong {
        client: ClientNumber,
        filter: String,
        stored: Option<u8>,
    },
    LostByCrash {
        message: MessageId,
        acknowledged: bool,
        delivered: bool,
    },
    RetainedStale {
        topic: String,
        found: Option<MessageId>,
        expected: Vec<MessageId>,
    },
    RemovedWill {
        client: ClientNumber,
        message: MessageId,
    },
    WillEarly {
        client: ClientNumber,
        message: MessageId,
    },
    DelayedEarly {
        client: ClientNumber,
        message: MessageId,
    },
    Expired {
        message: MessageId,
    },
    RemovedWillPublished {
        message: MessageId,
    },
}

impl Violation {
    /// Which promise it is, in a word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::UnknownMessage { .. } => "unknown",
            Self::SentTwice { .. } => "sent twice",
            Self::SessionPresent { .. } => "session present",
            Self::Invented { .. } => "invented",
            Self::OtherTopic { .. } => "other topic",
            Self::NotSubscribed { .. } => "not subscribed",
            Self::NotRetained { .. } => "not retained",
            Self::QosTooHigh { .. } => "QoS too high",
            Self::QosTooLow { .. } => "QoS too low",
            Self::Duplicated { .. } => "duplicated",
            Self::ExtraCopy { .. } => "extra copy",
            Self::SharedTwice { .. } => "shared twice",
            Self::SharedMissing { .. } => "shared missing",
            Self::OutOfOrder { .. } => "out of order",
            Self::Missing { .. } => "missing",
            Self::SubscriptionWrong { .. } => "subscription",
            Self::LostByCrash { .. } => "lost by crash",
            Self::RetainedStale { .. } => "stale",
            Self::WillEarly { .. } => "early will",
            Self::DelayedEarly { .. } => "early",
            Self::Expired { .. } => "expired",
            Self::RemovedWill { .. } | Self::RemovedWillPublished { .. } => "removed will",
        }
    }

    /// Its name, and all of it.
    #[must_use]
    pub fn report(&self) -> String {
        format!("{}: {self}", self.name())
    }
}

impl fmt::Display for Violation {
    #[expect(clippy::too_many_lines, reason = "a table: one arm per promise")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMessage { message } => write!(f, "{message} was never sent"),
            Self::SentTwice { message } => write!(f, "{message}: number used twice by the test"),
            Self::SessionPresent { client, flag } => {
                write!(
                    f,
                    "client {}: session present is {flag}, which is wrong",
                    client.0
                )
            }
            Self::Invented { client, message } => {
                write!(
                    f,
                    "client {}: received {message}, which nobody sent",
                    client.0
                )
            }
            Self::OtherTopic {
                client,
                message,
                topic,
                sent_to,
            } => write!(
                f,
                "client {}: received {message} on {topic}, it was sent to {sent_to}",
                client.0
            ),
            Self::NotSubscribed {
                client,
                message,
                topic,
            } => write!(
                f,
                "client {}: received {message} on {topic}, which no filter of it matches",
                client.0
            ),
            Self::NotRetained { client, message } => write!(
                f,
                "client {}: received {message} with RETAIN, it was sent without",
                client.0
            ),
            Self::QosTooHigh {
                client,
                message,
                qos,
                most,
            } => write!(
                f,
                "client {}: received {message} at QoS {qos}, at most {most} is right",
                client.0
            ),
            Self::QosTooLow {
                client,
                message,
                qos,
                least,
            } => write!(
                f,
                "client {}: received {message} at QoS {qos}, at least {least} is right",
                client.0
            ),
            Self::Duplicated {
                client,
                message,
                qos,
            } => write!(
                f,
                "client {}: received {message}, published at QoS {qos}, more than once",
                client.0
            ),
            Self::SharedTwice {
                message,
                first,
                second,
                qos,
            } => write!(
                f,
                "members {} and {} of a group: both received {message}, published at QoS {qos}",
                first.0, second.0
            ),
            Self::SharedMissing {
                message,
                topic,
                filter,
                acknowledged,
            } => write!(
                f,
                "no member of the group of {filter} received {message} on {topic}, acknowledged \
                 {acknowledged}"
            ),
            Self::ExtraCopy { client, message } => write!(
                f,
                "client {}: received {message} at QoS 0 and another time",
                client.0
            ),
            Self::OutOfOrder {
                client,
                message,
                after,
                topic,
            } => write!(
                f,
                "client {}: received {message} on {topic} after {after}, which was sent later",
                client.0
            ),
            Self::Missing {
                client,
                message,
                topic,
                filter,
                acknowledged,
            } => {
                let reason = if *acknowledged {
                    "was acknowledged"
                } else {
                    "others received"
                };
                let client = client.0;
                write!(
                    f,
                    "client {client}: {message} on {topic}, which {reason}, is missing; \
                     filter {filter}"
                )
            }
            Self::SubscriptionWrong {
                client,
                filter,
                stored,
            } => write!(
                f,
                "client {}: its subscription {filter} is stored with QoS {stored:?}",
                client.0
            ),
            Self::LostByCrash {
                message,
                acknowledged,
                delivered,
            } => write!(
                f,
                "{message} is not in the logs after the crash \
                 (acknowledged: {acknowledged}, delivered: {delivered})"
            ),
            Self::RetainedStale {
                topic,
                found,
                expected,
            } => {
                let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
                write!(
                    f,
                    "{topic}: retained is {found}, expected one of {expected:?}"
                )
            }
            Self::RemovedWill { client, message } => {
                write!(
                    f,
                    "client {}: received will {message}, which was removed",
                    client.0
                )
            }
            Self::WillEarly { client, message } => write!(
                f,
                "client {} received will {} before its delay had passed",
                client.0, message.0
            ),
            Self::DelayedEarly { client, message } => write!(
                f,
                "client {} received delayed message {} before it was due",
                client.0, message.0
            ),
            Self::Expired { message } => {
                write!(f, "message {} was sent although it had expired", message.0)
            }
            Self::RemovedWillPublished { message } => {
                write!(f, "will {message} was published before it was removed")
            }
        }
    }
}

impl std::error::Error for Violation {}
