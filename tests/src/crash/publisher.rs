//! A publisher that keeps a window of messages open, over crashes of the node.

use std::collections::VecDeque;
use std::net::SocketAddr;

use engine_mqtt::{Ack, Packet, PacketId, Properties, Publish, QoS, Version};

use super::{Random, Report, Reports};
use crate::client::{Answer, Client, Dial};
use crate::history::{ClientNumber, MessageId, payload};

/// Messages that are sent and not completed.
const WINDOW: usize = 8;
/// Packet ids in use: few, so that they are used again soon after a crash.
const PACKET_IDS: u16 = 12;

/// One publisher. What is open stays open until the node answers, however often it dies.
pub(super) struct Publisher {
    client: ClientNumber,
    dial: Dial,
    random: Random,
    sent: u64,
    last_packet_id: u16,
    open: VecDeque<Open>,
}

struct Open {
    message: MessageId,
    packet_id: PacketId,
    topic: String,
    qos: QoS,
    retain: bool,
    len: usize,
    /// PUBREC has come: the rest is PUBREL and PUBCOMP.
    released: bool,
}

impl Publisher {
    pub(super) fn new(number: u32, seed: u64) -> Self {
        let version = if number.is_multiple_of(2) {
            Version::V311
        } else {
            Version::V5
        };
        Self {
            client: ClientNumber(number),
            dial: Dial::durable(version, &format!("crash-publisher-{number}")),
            random: Random::new(seed ^ (u64::from(number) << 32)),
            sent: 0,
            last_packet_id: 0,
            open: VecDeque::new(),
        }
    }

    /// How many QoS 2 exchanges have begun and not ended.
    pub(super) fn open_qos_2(&self) -> usize {
        let open = self.open.iter();
        open.filter(|one| one.qos == QoS::ExactlyOnce).count()
    }

    /// Publishes `quota` messages and completes all that is open, or until the connection ends.
    pub(super) fn run(&mut self, address: SocketAddr, reports: &Reports, mut quota: u64) {
        let client = self.client;
        let quota_is_bounded = quota < u64::MAX;
        tell(reports, Report::Connecting { client });
        let Some(mut connection) = self.dial.attempt(address) else {
            return tell(reports, Report::Disconnected { client });
        };
        let session_present = connection.welcome().session_present;
        tell(
            reports,
            Report::Connected {
                client,
                session_present,
            },
        );
        for open in &self.open {
            let message = open.message;
            tell(reports, Report::Repeating { message });
            open.send(&mut connection, true);
        }
        while quota > 0 || !self.open.is_empty() {
            while quota > 0 && self.open.len() < WINDOW {
                quota -= 1;
                self.publish(&mut connection, reports);
            }
            if !self.answered(&mut connection, reports) {
                let is_owed = quota_is_bounded && !self.open.is_empty();
                assert!(!is_owed, "publisher {}: the node has closed", client.0);
                break;
            }
        }
        tell(reports, Report::Disconnected { client });
    }

    fn publish(&mut self, connection: &mut Client, reports: &Reports) {
        self.sent += 1;
        let number = self.client.0;
        let retain = self.random.below(12) == 0;
        let topic = match self.random.below(4) {
            _ if retain => format!("crash/{number}/kept"),
            0 | 1 => format!("crash/{number}/exact"),
            other => format!("crash/{number}/wild/{other}"),
        };
        let open = Open {
            message: MessageId((u64::from(number) << 32) | self.sent),
            packet_id: self.free_packet_id(),
            topic,
            qos: if self.random.below(2) == 0 {
                QoS::AtLeastOnce
            } else {
                QoS::ExactlyOnce
            },
            retain,
            // Mostly small; some larger than a page, so that a frame spans sectors.
            len: usize::try_from(if self.random.below(10) == 0 {
                9_000
            } else {
                40
            })
            .expect("small"),
            released: false,
        };
        let (message, qos) = (open.message, open.qos.bits());
        let (client, topic) = (self.client, open.topic.clone());
        tell(
            reports,
            Report::Publishing {
                client,
                message,
                topic,
                qos,
                retain,
            },
        );
        open.send(connection, false);
        self.open.push_back(open);
    }

    fn free_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = self.last_packet_id % PACKET_IDS + 1;
            let id = PacketId::new(self.last_packet_id).expect("not 0");
            if self.open.iter().all(|open| open.packet_id != id) {
                return id;
            }
        }
    }

    /// Takes one answer; false when the connection has ended.
    fn answered(&mut self, connection: &mut Client, reports: &Reports) -> bool {
        match connection.next() {
            Answer::PubAck(id, reason) => {
                assert!(!reason.is_failure(), "PUBACK {reason:?}");
                let message = self.complete(id);
                tell(reports, Report::Acknowledged { message });
            }
            Answer::PubRec(id, reason) => {
                assert!(!reason.is_failure(), "PUBREC {reason:?}");
                let open = self.open.iter_mut().find(|open| open.packet_id == id);
                let open = open.unwrap_or_else(|| panic!("PUBREC for {id:?}, which is not open"));
                open.released = true;
                tell(
                    reports,
                    Report::Acknowledged {
                        message: open.message,
                    },
                );
                open.send(connection, false);
            }
            Answer::PubComp(id, _) => {
                self.complete(id);
            }
            Answer::Closed => return false,
            other => panic!("publisher {}: {other:?}", self.client.0),
        }
        true
    }

    fn complete(&mut self, id: PacketId) -> MessageId {
        let at = self.open.iter().position(|open| open.packet_id == id);
        let at = at.unwrap_or_else(|| panic!("an answer for {id:?}, which is not open"));
        self.open.remove(at).expect("it was found").message
    }
}

impl Open {
    /// PUBLISH, or PUBREL once it is released.
    fn send(&self, connection: &mut Client, dup: bool) {
        if self.released {
            connection.send(&Packet::PubRel(Ack::success(self.packet_id)));
            return;
        }
        connection.send(&Packet::Publish(Publish {
            dup,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id: Some(self.packet_id),
            properties: Properties::EMPTY,
            payload: &payload(self.message, self.len),
        }));
    }
}

/// The receiver outlives the clients, unless the test has failed already.
pub(super) fn tell(reports: &Reports, report: Report) {
    drop(reports.send(report));
}
