//! [`Event`]s that can be sent from a client's thread to the one that checks them.

use crate::history::{ClientNumber, Event, MessageId, Received, Sent};

/// An event that owns its texts.
#[derive(Debug)]
pub(super) enum Report {
    Connecting {
        client: ClientNumber,
    },
    Connected {
        client: ClientNumber,
        session_present: bool,
    },
    Disconnected {
        client: ClientNumber,
    },
    Subscribing {
        client: ClientNumber,
        filter: String,
        qos: u8,
    },
    Subscribed {
        client: ClientNumber,
        filter: String,
        granted: u8,
    },
    Publishing {
        client: ClientNumber,
        message: MessageId,
        topic: String,
        qos: u8,
        retain: bool,
    },
    Repeating {
        message: MessageId,
    },
    Acknowledged {
        message: MessageId,
    },
    Delivered {
        client: ClientNumber,
        message: MessageId,
        topic: String,
        qos: u8,
        retain: bool,
    },
}

impl Report {
    /// The event. Every session here is a durable one.
    pub(super) fn event(&self) -> Event<'_> {
        match self {
            Self::Connecting { client } => Event::Connecting {
                client: *client,
                clean_start: false,
                durable: true,
            },
            Self::Connected {
                client,
                session_present,
            } => Event::Connected {
                client: *client,
                session_present: *session_present,
            },
            Self::Disconnected { client } => Event::Disconnected { client: *client },
            Self::Subscribing {
                client,
                filter,
                qos,
            } => Event::Subscribing {
                client: *client,
                filter,
                qos: *qos,
            },
            Self::Subscribed {
                client,
                filter,
                granted,
            } => Event::Subscribed {
                client: *client,
                filter,
                granted: *granted,
            },
            Self::Publishing {
                client,
                message,
                topic,
                qos,
                retain,
            } => Event::Publishing(Sent {
                client: *client,
                message: *message,
                topic,
                qos: *qos,
                retain: *retain,
                empty: false,
            }),
            Self::Repeating { message } => Event::Repeating { message: *message },
            Self::Acknowledged { message } => Event::Acknowledged { message: *message },
            Self::Delivered {
                client,
                message,
                topic,
                qos,
                retain,
            } => Event::Delivered(Received {
                client: *client,
                message: *message,
                topic,
                qos: *qos,
                retain: *retain,
            }),
        }
    }
}
