//! A durable subscriber, over crashes of the node and its own absences.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine_mqtt::{
    Ack, Packet, PacketId, Properties, QoS, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Version,
};

use super::publisher::tell;
use super::{Random, Report, Reports, Round};
use crate::client::{Answer, Client, Dial, Message};
use crate::history::{ClientNumber, message_id};

/// Silence after which held acknowledgements are sent.
const PATIENCE: Duration = Duration::from_millis(20);

/// One subscriber. Its side of the session (QoS 2 packet ids) outlives connections.
pub(super) struct Subscriber {
    client: ClientNumber,
    dial: Dial,
    random: Random,
    seldom: bool,
    online: bool,
    filters: Vec<(String, QoS)>,
    /// How many of the filters are granted.
    granted: usize,
    /// QoS 2 messages that were received and not released yet.
    received: BTreeSet<PacketId>,
    /// Acknowledgements that this connection holds back.
    held: Vec<(PacketId, QoS)>,
}

impl Subscriber {
    pub(super) fn new(number: u32, name: &str, filters: Vec<(String, QoS)>, seed: u64) -> Self {
        let version = if number.is_multiple_of(2) {
            Version::V5
        } else {
            Version::V311
        };
        Self {
            client: ClientNumber(number),
            dial: Dial::durable(version, &format!("crash-{name}")),
            random: Random::new(seed ^ (u64::from(number) << 32)),
            seldom: name.starts_with("seldom"),
            online: false,
            filters,
            granted: 0,
            received: BTreeSet::new(),
            held: Vec::new(),
        }
    }

    /// Of a hundred rounds, those in which it is online.
    pub(super) fn presence(&self) -> u64 {
        // Who has not subscribed yet comes at once: nothing is owed before.
        match (self.granted < self.filters.len(), self.seldom) {
            (true, _) => 100,
            (false, true) => 25,
            (false, false) => 90,
        }
    }

    pub(super) fn set_online(&mut self, online: bool) {
        self.online = online;
    }

    pub(super) fn is_online(&self) -> bool {
        self.online
    }

    /// How many QoS 2 messages it has received and not released.
    pub(super) fn open_qos_2(&self) -> usize {
        self.received.len()
    }

    /// Receives until the connection ends, as it may when the node is killed, or `done` is set.
    pub(super) fn run(
        &mut self,
        address: SocketAddr,
        reports: &Reports,
        done: &AtomicBool,
        round: Round,
    ) {
        let client = self.client;
        tell(reports, Report::Connecting { client });
        if let Some(mut connection) = self.dial.attempt(address) {
            let session_present = connection.welcome().session_present;
            tell(
                reports,
                Report::Connected {
                    client,
                    session_present,
                },
            );
            self.subscribe(&mut connection, reports);
            while self.received_one(&mut connection, reports, done) {}
            let may_end = round == Round::UntilKilled || done.load(Ordering::Relaxed);
            assert!(may_end, "subscriber {}: the node has closed", client.0);
        }
        self.held.clear();
        tell(reports, Report::Disconnected { client });
    }

    /// Asks for the next filter that is not granted yet.
    fn subscribe(&mut self, connection: &mut Client, reports: &Reports) {
        let Some((filter, qos)) = self.filters.get(self.granted) else {
            return;
        };
        let (client, qos) = (self.client, *qos);
        let filter = filter.as_str();
        tell(
            reports,
            Report::Subscribing {
                client,
                filter: filter.to_owned(),
                qos: qos.bits(),
            },
        );
        let packet_id = connection.packet_id();
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        connection.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters: Subscriptions::from([Subscription { filter, options }].as_slice()),
        }));
    }

    fn received_one(
        &mut self,
        connection: &mut Client,
        reports: &Reports,
        done: &AtomicBool,
    ) -> bool {
        match connection.next_within(PATIENCE) {
            Some(Answer::Message(message)) => self.take(message, connection, reports),
            Some(Answer::PubRel(id, _)) => {
                self.received.remove(&id);
                connection.send(&Packet::PubComp(Ack::success(id)));
            }
            Some(Answer::SubAck(_, codes)) => {
                let (filter, qos) = self.filters[self.granted].clone();
                assert_eq!(
                    codes.first().map(|code| code.number()),
                    Some(qos.bits()),
                    "SUBACK"
                );
                let (client, granted) = (self.client, qos.bits());
                tell(
                    reports,
                    Report::Subscribed {
                        client,
                        filter,
                        granted,
                    },
                );
                self.granted += 1;
                self.subscribe(connection, reports);
            }
            Some(Answer::Closed) => return false,
            Some(other) => panic!("subscriber {}: {other:?}", self.client.0),
            None => {
                self.acknowledge(connection);
                return !done.load(Ordering::Relaxed);
            }
        }
        true
    }

    fn take(&mut self, message: Message, connection: &mut Client, reports: &Reports) {
        let id = message
            .packet_id
            .expect("publications here have QoS 1 or 2");
        let new = message.qos != QoS::ExactlyOnce || self.received.insert(id);
        if new {
            let number = message_id(&message.payload);
            let number = number.unwrap_or_else(|| panic!("a damaged payload on {}", message.topic));
            tell(
                reports,
                Report::Delivered {
                    client: self.client,
                    message: number,
                    topic: message.topic,
                    qos: message.qos.bits(),
                    retain: message.retain,
                },
            );
        }
        self.held.push((id, message.qos));
        // Some are always unacknowledged when the node dies.
        if self.random.below(4) == 0 {
            self.acknowledge(connection);
        }
    }

    fn acknowledge(&mut self, connection: &mut Client) {
        for (id, qos) in self.held.drain(..) {
            let ack = Ack::success(id);
            connection.send(&match qos {
                QoS::ExactlyOnce => Packet::PubRec(ack),
                _ => Packet::PubAck(ack),
            });
        }
    }
}
