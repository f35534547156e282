//! A client: an MQTT client that keeps every rule of its side, does random things, and writes all
//! it sends and receives into the history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use engine_mqtt::{
    Ack, ConnAck, Connect, Decoded, Direction, Disconnect, Limits, Packet, PacketId, Properties,
    PropertiesBuilder, Publish, QoS, ReasonCode, SubAck, Subscribe, Subscription,
    SubscriptionOptions, Unsubscribe, Version, Will, decode,
};
use engine_shard::ConnectionId;
use storage_io::sim::Rng;

use super::age::{Age, WILL_DELAY_S};
use super::claims::{self, Claim};
use super::outbox::{Outbox, Outgoing};
use super::trace::Trace;
use crate::history::{
    ClientNumber, Event, History, MessageId, Received, Sent, message_id, payload,
};

/// Publications of one client in flight, at most.
const OUTBOX_MAX: usize = 8;
/// Packet ids of SUBSCRIBE and UNSUBSCRIBE begin here, publications use lower ones.
const FIRST_REQUEST_ID: u16 = 1000;

/// Messages of one client, at most.
const MESSAGES_MAX: u64 = 1_000_000;

/// Seconds of clients that have a keep-alive interval.
const KEEP_ALIVE_S: u16 = 2;

const TOPICS: [&str; 6] = ["t/0", "t/1", "t/2", "t/0/x", "r/0", "r/1"];
const RETAINED_FROM: usize = 4;
const FILTERS: [&str; 9] = [
    "t/0", "t/1", "t/2", "t/+", "t/#", "+/0", "#", "r/#", "t/0/+",
];

/// What the members of the group subscribe to.
const GROUP: &str = "$share/g/t/#";

/// What an actor works with.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) history: &'a mut History,
    pub(super) trace: &'a mut Trace,
    pub(super) step: u64,
    pub(super) now_ms: u64,
    /// Nothing new any more: only what is begun is brought to its end.
    pub(super) at_rest: bool,
}

impl Stage<'_> {
    pub(super) fn record(&mut self, event: Event<'_>) -> Result<(), String> {
        self.trace.add(self.step, format_args!("{event:?}"));
        self.history
            .record(self.now_ms, event)
            .map_err(|violation| violation.report())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Actor {
    number: ClientNumber,
    pub(super) rng: Rng,
    pub(super) client_id: String,
    version: Version,
    /// It subscribes to this alone, and stays.
    group: Option<&'static str>,
    /// Its sessions outlive their connections.
    is_durable: bool,
    pub(super) connection: Option<ConnectionId>,
    pub(super) is_open: bool,
    /// Its last session has begun.
    is_ending: bool,
    /// A clean start was asked for and not answered: the next CONNECT has to ask again.
    owes_clean_start: bool,
    /// The session of this connection ends with it, and so does what the client keeps of it.
    ends_with_connection: bool,
    /// DISCONNECT is sent, and the client waits for the node to close the connection.
    pub(super) is_leaving: bool,
    /// The will of this connection.
    will: Option<MessageId>,
    /// It waits a while for its client.
    will_waits: bool,
    /// The node ends this connection when it hears nothing.
    has_keep_alive: bool,
    /// Wills of connections that broke, which the node must publish unless it loses power.
    due_wills: Vec<MessageId>,
    /// Wills that wait for it to come back, until this time.
    waiting_wills: Vec<(MessageId, u64)>,
    /// Some of what it publishes is delayed.
    pub(super) delays: bool,
    pub(super) age: Age,
    pub(super) claim: Claim,
    input: Vec<u8>,
    outbox: Outbox,
    /// QoS 2 packet ids that were received and not released.
    unreleased: BTreeSet<u16>,
    /// Acknowledgements that this client has not come round to send, in order.
    replies: VecDeque<Vec<u8>>,
    subscribing: BTreeMap<u16, (String, u8)>,
    unsubscribing: BTreeSet<u16>,
    last_request: u16,
    last_message: u64,
    /// Retained messages received, by topic, for whoever asks at the end.
    pub(super) retained: BTreeMap<String, MessageId>,
}

impl Actor {
    pub(super) fn new(number: u32, rng: Rng, version: Version, is_durable: bool) -> Self {
        Self {
            number: ClientNumber(number),
            rng,
            client_id: format!("client-{number}"),
            version,
            group: None,
            is_durable,
            connection: None,
            is_open: false,
            is_ending: false,
            owes_clean_start: !is_durable,
            ends_with_connection: !is_durable,
            is_leaving: false,
            will: None,
            will_waits: false,
            has_keep_alive: false,
            due_wills: Vec::new(),
            waiting_wills: Vec::new(),
            delays: false,
            age: Age::default(),
            claim: Claim::NONE,
            input: Vec::new(),
            outbox: Outbox::default(),
            unreleased: BTreeSet::new(),
            replies: VecDeque::new(),
            subscribing: BTreeMap::new(),
            unsubscribing: BTreeSet::new(),
            last_request: 0,
            last_message: 0,
            retained: BTreeMap::new(),
        }
    }

    /// A member of a group, who keeps its session and has no other subscription.
    pub(super) fn in_group(number: u32, rng: Rng, version: Version) -> Self {
        Self {
            group: Some(GROUP),
            ..Self::new(number, rng, version, true)
        }
    }

    pub(super) const fn version(&self) -> Version {
        self.version
    }

    pub(super) const fn will(&self) -> Option<MessageId> {
        self.will
    }

    /// Its session may end while it is away: it is no member of a group.
    pub(super) fn can_expire(&self) -> bool {
        self.group.is_none() && self.version == Version::V5
    }

    /// The node has heard nothing from it for hours, and may have published its will.
    pub(super) const fn was_silent(&mut self) {
        if self.has_keep_alive {
            self.will = None;
        }
    }

    pub(super) fn waits_with(&mut self, will: MessageId, until_ms: u64) {
        self.waiting_wills.push((will, until_ms));
    }

    pub(super) fn take_waiting(&mut self) -> Vec<(MessageId, u64)> {
        std::mem::take(&mut self.waiting_wills)
    }

    /// What it keeps of a session that has ended goes with it.
    pub(super) fn forget(&mut self) {
        self.outbox.clear();
        self.unreleased.clear();
    }

    pub(super) const fn number(&self) -> ClientNumber {
        self.number
    }

    /// Nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_open
            && !self.is_leaving
            && self.outbox.len() == 0
            && self.replies.is_empty()
            && self.unreleased.is_empty()
            && self.subscribing.is_empty()
            && self.unsubscribing.is_empty()
            && self.claim.is_quiet()
    }

    /// What keeps it from being quiet, for the report of a run that hangs.
    pub(super) fn business(&self) -> String {
        format!(
            "client {}: open {}, in flight {}, replies {}, unreleased {:?}, subscribing {:?}, \
             unsubscribing {:?}, {:?}",
            self.number.0,
            self.is_open,
            self.outbox.len(),
            self.replies.len(),
            self.unreleased,
            self.subscribing,
            self.unsubscribing,
            self.claim
        )
    }

    /// The CONNECT of a new connection.
    pub(super) fn connect(
        &mut self,
        connection: ConnectionId,
        stage: &mut Stage<'_>,
    ) -> Result<Vec<u8>, String> {
        let wants_clean = !stage.at_rest && self.group.is_none() && self.rng.chance(1, 12);
        let is_unsure = self.age.may_be_over(stage.now_ms);
        let clean_start = !self.is_durable || self.owes_clean_start || wants_clean || is_unsure;
        // In 3.1.1 a clean session ends with its connection.
        let durable = self.is_durable && (self.version == Version::V5 || !clean_start);
        if clean_start {
            self.forget();
            self.claim.starts_clean();
            // The session ends, and its will waits no more.
            self.release_wills(stage)?;
        }
        self.connection = Some(connection);
        self.owes_clean_start = clean_start;
        self.ends_with_connection = !durable;
        stage.record(Event::Connecting {
            client: self.number,
            clean_start,
            durable,
        })?;
        let mut properties = PropertiesBuilder::new();
        if self.version == Version::V5 && durable {
            properties.session_expiry(self.age.session_expiry_s());
        }
        if self.version == Version::V5 && self.rng.chance(1, 4) {
            properties.receive_maximum(1 + u16::from(self.rng.chance(1, 2)));
        }
        let properties = properties.properties().map_err(|error| error.to_string())?;
        let will = self.new_will(stage)?;
        self.will = will.as_ref().map(|sent| sent.message);
        let mut will_properties = PropertiesBuilder::new();
        self.will_waits = self.version == Version::V5 && self.rng.chance(1, 3);
        if self.will_waits {
            will_properties.will_delay(WILL_DELAY_S);
        }
        let will_properties = will_properties
            .properties()
            .map_err(|error| error.to_string())?;
        let will_payload = will.as_ref().map(|sent| payload(sent.message, 20));
        self.has_keep_alive = !stage.at_rest && self.rng.chance(1, 4);
        let connect = Connect {
            version: self.version,
            clean_start,
            keep_alive: if self.has_keep_alive { KEEP_ALIVE_S } else { 0 },
            client_id: &self.client_id,
            will: will
                .as_ref()
                .zip(will_payload.as_ref())
                .map(|(will, payload)| Will {
                    qos: will.qos,
                    retain: false,
                    topic: &will.topic,
                    payload,
                    properties: will_properties,
                }),
            user_name: None,
            password: None,
            properties,
        };
        self.encode(&Packet::Connect(connect))
    }

    /// Something to do, or nothing.
    pub(super) fn act(&mut self, stage: &mut Stage<'_>) -> Result<Vec<u8>, String> {
        if self.is_leaving {
            return Ok(Vec::new());
        }
        let mut bytes = self.reply(stage);
        if !self.is_open || stage.at_rest {
            return Ok(bytes);
        }
        if self.claim.takes_part && self.claim.is_quiet() && self.rng.chance(1, 2) {
            bytes.extend(self.ask()?);
            return Ok(bytes);
        }
        match self.rng.below(10) {
            0..5 if self.outbox.len() < OUTBOX_MAX => bytes.extend(self.publish(stage)?),
            5 => bytes.extend(self.subscribe(stage)?),
            6 if self.group.is_none() && self.rng.chance(1, 3) => {
                bytes.extend(self.unsubscribe(stage)?)
            }
            7 => bytes.extend(self.encode(&Packet::PingReq)?),
            _ => {}
        }
        Ok(bytes)
    }

    /// The next session starts clean and ends with its connection; that one has a will.
    pub(super) const fn end_session(&mut self) {
        self.is_durable = false;
        self.is_ending = true;
    }

    /// Says good-bye.
    pub(super) fn farewell(&self) -> Result<Vec<u8>, String> {
        self.encode(&Packet::Disconnect(Disconnect::default()))
    }

    /// The client breaks its connection. What CONNACK has answered has a will at the node.
    pub(super) fn break_off(&mut self, stage: &mut Stage<'_>) -> Result<(), String> {
        // One that waits may be forgotten meanwhile, as its client comes back.
        if self.is_open && !self.is_leaving {
            if !self.will_waits {
                self.due_wills.extend(self.will);
            } else if !self.ends_with_connection && !self.has_keep_alive {
                self.let_will_wait(stage)?;
            }
        }
        self.disconnected(stage)
    }

    /// The node has closed the connection: after DISCONNECT the will is gone, unless the reason may
    /// be a publication before it, for which the disk had no room.
    pub(super) fn closed(&mut self, stage: &mut Stage<'_>) -> Result<(), String> {
        if let Some(message) = self
            .will
            .filter(|_| self.is_leaving && !self.outbox.waits())
        {
            stage.record(Event::WillRemoved { message })?;
        }
        self.disconnected(stage)
    }

    /// The node is gone, and with it perhaps wills that it had begun to publish. A will that it
    /// held comes when its client stays away.
    pub(super) fn crashed(
        &mut self,
        stays_away: bool,
        stage: &mut Stage<'_>,
    ) -> Result<(), String> {
        self.due_wills.clear();
        // After a crash the node does not know since when they wait.
        self.release_wills(stage)?;
        if self.connection.is_none() {
            return Ok(());
        }
        if stays_away {
            return self.break_off(stage);
        }
        self.disconnected(stage)
    }

    /// All that was under way has come to its end: wills as well.
    pub(super) fn claim_wills(&mut self, stage: &mut Stage<'_>) -> Result<(), String> {
        for message in std::mem::take(&mut self.due_wills) {
            stage.record(Event::WillDue { message })?;
        }
        Ok(())
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self, stage: &mut Stage<'_>) -> Result<(), String> {
        self.connection = None;
        self.is_open = false;
        self.is_leaving = false;
        self.will = None;
        self.input.clear();
        self.replies.clear();
        self.subscribing.clear();
        self.unsubscribing.clear();
        self.claim.disconnected();
        if self.ends_with_connection {
            self.outbox.clear();
            self.unreleased.clear();
            self.claim.is_over();
        }
        self.age.went_at(stage.now_ms);
        stage.record(Event::Disconnected {
            client: self.number,
        })
    }

    /// Takes bytes from the node; returns what is to be sent at once.
    pub(super) fn received(
        &mut self,
        bytes: &[u8],
        stage: &mut Stage<'_>,
    ) -> Result<Vec<u8>, String> {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut rest = input.as_slice();
        let mut answer = Vec::new();
        loop {
            let decoded = decode(
                rest,
                self.version,
                &Limits::default(),
                Direction::FromServer,
            );
            match decoded.map_err(|error| self.complain(&format!("received {error}")))? {
                Decoded::NeedMore { .. } => break,
                Decoded::Packet { packet, len } => {
                    answer.extend(self.packet(&packet, stage)?);
                    rest = rest.get(len..).unwrap_or_default();
                }
            }
        }
        self.input = rest.to_vec();
        if self.is_leaving {
            // Nothing may follow a DISCONNECT [MQTT-3.14.4-2].
            answer.clear();
        }
        Ok(answer)
    }

    /// Writes a packet into the trace, as far as it is not an event of the history.
    fn show(&self, packet: &Packet<'_>, stage: &mut Stage<'_>) {
        let client = &self.client_id;
        if let Packet::Publish(publish) = packet {
            let Publish {
                dup, qos, retain, ..
            } = publish;
            let id = publish.packet_id.map_or(0, PacketId::number);
            let message = message_id(publish.payload);
            stage.trace.add(
                stage.step,
                format_args!(
                    "{client} gets PUBLISH {id} {qos:?} dup {dup} retain {retain} {message:?}"
                ),
            );
        } else {
            stage
                .trace
                .add(stage.step, format_args!("{client} gets {packet:?}"));
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a node sends nothing else")]
    fn packet(&mut self, packet: &Packet<'_>, stage: &mut Stage<'_>) -> Result<Vec<u8>, String> {
        self.show(packet, stage);
        match packet {
            Packet::ConnAck(connack) => return self.connack(connack, stage),
            Packet::Publish(publish) => self.publication(publish, stage)?,
            Packet::PubAck(ack) => {
                let done = self.outbox.finish(ack.packet_id);
                let message = done.map(|one| one.outgoing.message);
                self.acknowledged(message.filter(|_| !ack.reason.is_failure()), stage)?;
            }
            Packet::PubRec(ack) if ack.reason.is_failure() => {
                self.outbox.finish(ack.packet_id);
            }
            Packet::PubRec(ack) => {
                let message = self.outbox.release(ack.packet_id);
                self.acknowledged(message, stage)?;
                return self.encode(&Packet::PubRel(Ack::success(ack.packet_id)));
            }
            Packet::PubComp(ack) => {
                self.outbox.finish(ack.packet_id);
            }
            Packet::PubRel(ack) => {
                self.unreleased.remove(&ack.packet_id.number());
                let bytes = self.encode(&Packet::PubComp(Ack::success(ack.packet_id)))?;
                self.replies.push_back(bytes);
            }
            Packet::SubAck(suback) => self.suback(suback, stage)?,
            Packet::UnsubAck(unsuback) => {
                self.unsubscribing.remove(&unsuback.packet_id.number());
                self.claim.unsuback(unsuback.packet_id.number());
            }
            Packet::PingResp => {}
            Packet::Disconnect(disconnect) => {
                let reason = disconnect.reason;
                stage.trace.add(
                    stage.step,
                    format_args!("{} told {reason:?}", self.client_id),
                );
                let is_expected = matches!(
                    reason,
                    ReasonCode::SessionTakenOver
                        | ReasonCode::KeepAliveTimeout
                        | ReasonCode::ServerShuttingDown
                );
                if !is_expected {
                    return Err(self.complain(&format!("was disconnected: {reason:?}")));
                }
            }
            other => return Err(self.complain(&format!("received {other:?}"))),
        }
        Ok(Vec::new())
    }

    fn connack(&mut self, connack: &ConnAck<'_>, stage: &mut Stage<'_>) -> Result<Vec<u8>, String> {
        if connack.reason.is_failure() {
            return Err(self.complain(&format!("was refused: {:?}", connack.reason)));
        }
        let session_present = connack.session_present;
        stage.record(Event::Connected {
            client: self.number,
            session_present,
        })?;
        self.is_open = true;
        self.owes_clean_start = !self.is_durable;
        self.came_back(session_present, stage)?;
        // The node has heard of the connections before this one, and was able to keep that.
        self.claim_wills(stage)?;
        if !session_present {
            self.outbox.clear();
            self.unreleased.clear();
            self.claim.is_over();
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        let mut failed = None;
        for message in self.outbox.repeated() {
            stage.record(Event::Repeating { message })?;
        }
        self.outbox
            .resend(|packet| failed = packet.encode(self.version, &mut bytes).err());
        failed.map_or(Ok(bytes), |error| Err(error.to_string()))
    }

    fn publication(&mut self, publish: &Publish<'_>, stage: &mut Stage<'_>) -> Result<(), String> {
        let id = publish.packet_id.map_or(0, PacketId::number);
        let is_first = publish.qos != QoS::ExactlyOnce || self.unreleased.insert(id);
        if publish.packet_id.is_some() {
            let ack = Ack::success(publish.packet_id.ok_or("no packet id")?);
            let is_once = publish.qos == QoS::ExactlyOnce;
            let reply = if is_once {
                Packet::PubRec(ack)
            } else {
                Packet::PubAck(ack)
            };
            let bytes = self.encode(&reply)?;
            self.replies.push_back(bytes);
        }
        if !is_first || publish.payload.is_empty() {
            return Ok(());
        }
        let message = message_id(publish.payload)
            .ok_or_else(|| self.complain(&format!("a payload is not whole: {publish:?}")))?;
        if !publish.dup {
            stage.record(Event::First { message })?;
        }
        if publish.retain {
            self.retained.insert(publish.topic.to_owned(), message);
        }
        stage.record(Event::Delivered(Received {
            client: self.number,
            message,
            topic: publish.topic,
            qos: publish.qos.bits(),
            retain: publish.retain,
        }))
    }

    fn acknowledged(
        &self,
        message: Option<MessageId>,
        stage: &mut Stage<'_>,
    ) -> Result<(), String> {
        message.map_or(Ok(()), |message| {
            stage.record(Event::Acknowledged { message })
        })
    }

    fn suback(&mut self, suback: &SubAck<'_>, stage: &mut Stage<'_>) -> Result<(), String> {
        let id = suback.packet_id.number();
        let code = suback.codes.iter().next().map_or(0, ReasonCode::number);
        if let Some(checked) = self.claim.suback(id, code) {
            return checked.map_err(|what| self.complain(&what));
        }
        let Some((filter, qos)) = self.subscribing.remove(&id) else {
            return Err(self.complain(&format!("SUBACK {id} answers nothing")));
        };
        let granted = suback.codes.iter().next().map(ReasonCode::number);
        if granted != Some(qos) {
            return Err(self.complain(&format!("asked for {filter} {qos}, got {granted:?}")));
        }
        let client = self.number;
        stage.record(Event::Subscribed {
            client,
            filter: &filter,
            granted: qos,
        })
    }

    /// Sends some of the acknowledgements that wait.
    fn reply(&mut self, stage: &mut Stage<'_>) -> Vec<u8> {
        let most = if stage.at_rest {
            usize::MAX
        } else {
            self.rng.index(6)
        };
        let count = most.min(self.replies.len());
        let bytes: Vec<u8> = self.replies.drain(..count).flatten().collect();
        if !bytes.is_empty() {
            let client = &self.client_id;
            stage
                .trace
                .add(stage.step, format_args!("{client} replies {bytes:02x?}"));
        }
        bytes
    }

    fn publish(&mut self, stage: &mut Stage<'_>) -> Result<Vec<u8>, String> {
        let topic_number = self.rng.index(TOPICS.len());
        let retain = topic_number >= RETAINED_FROM && self.rng.chance(2, 3);
        let len = match self.rng.below(12) {
            0 if retain => 0,
            1 => 1500,
            _ => 16 + self.rng.index(100),
        };
        let qos = pick_qos(&mut self.rng);
        let message = self.new_message();
        let topic = TOPICS
            .get(topic_number)
            .copied()
            .unwrap_or_default()
            .to_owned();
        stage.record(Event::Publishing(Sent {
            client: self.number,
            message,
            topic: &topic,
            qos: qos.bits(),
            retain,
            empty: len == 0,
        }))?;
        let delay_s = self.delay(message, topic_number < RETAINED_FROM, stage)?;
        let expiry_s = self.message_expiry(retain || delay_s > 0);
        if let Some(seconds) = expiry_s {
            let interval_ms = 1_000 * u64::from(seconds);
            stage.record(Event::Expires {
                message,
                interval_ms,
            })?;
        }
        let outgoing = Outgoing {
            message,
            topic,
            qos,
            retain,
            len,
            delay_s,
            expiry_s,
        };
        let packet_id = (qos > QoS::AtMostOnce).then(|| self.outbox.free_id());
        let bytes = outgoing.with_packet(packet_id, false, |packet| self.encode(packet));
        if let Some(packet_id) = packet_id {
            self.outbox.push(packet_id, outgoing);
        }
        bytes
    }

    /// Subscribes to everything that is retained, for the check at the end.
    pub(super) fn ask_for_retained(&mut self, stage: &mut Stage<'_>) -> Result<Vec<u8>, String> {
        self.retained.clear();
        self.subscribe_to("r/#", QoS::AtLeastOnce, stage)
    }

    fn subscribe(&mut self, stage: &mut Stage<'_>) -> Result<Vec<u8>, String> {
        if let Some(group) = self.group {
            return self.subscribe_to(group, QoS::ExactlyOnce, stage);
        }
        let filter = FILTERS
            .get(self.rng.index(FILTERS.len()))
            .copied()
            .unwrap_or("#");
        let qos = pick_qos(&mut self.rng);
        self.subscribe_to(filter, qos, stage)
    }

    fn subscribe_to(
        &mut self,
        filter: &str,
        qos: QoS,
        stage: &mut Stage<'_>,
    ) -> Result<Vec<u8>, String> {
        stage.record(Event::Subscribing {
            client: self.number,
            filter,
            qos: qos.bits(),
        })?;
        let packet_id = self.next_request()?;
        self.subscribing
            .insert(packet_id.number(), (filter.to_owned(), qos.bits()));
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let subscriptions = [Subscription { filter, options }];
        self.encode(&Packet::Subscribe(Subscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters: subscriptions.as_slice().into(),
        }))
    }

    fn unsubscribe(&mut self, stage: &mut Stage<'_>) -> Result<Vec<u8>, String> {
        let filter = FILTERS
            .get(self.rng.index(FILTERS.len()))
            .copied()
            .unwrap_or("#");
        if self.subscribing.values().any(|(one, _)| one == filter) {
            return Ok(Vec::new());
        }
        stage.record(Event::Unsubscribing {
            client: self.number,
            filter,
        })?;
        let packet_id = self.next_request()?;
        self.unsubscribing.insert(packet_id.number());
        let filters = [filter];
        self.encode(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters: filters.as_slice().into(),
        }))
    }

    /// Asks for the filter that one client has at most, or gives it up.
    fn ask(&mut self) -> Result<Vec<u8>, String> {
        let packet_id = self.next_request()?;
        let subscribes = self.rng.chance(2, 3);
        self.claim.asks(packet_id.number(), subscribes);
        let properties = Properties::EMPTY;
        if !subscribes {
            return self.encode(&Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties,
                filters: [claims::FILTER].as_slice().into(),
            }));
        }
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            ..SubscriptionOptions::default()
        };
        let filter = claims::FILTER;
        self.encode(&Packet::Subscribe(Subscribe {
            packet_id,
            properties,
            filters: [Subscription { filter, options }].as_slice().into(),
        }))
    }

    fn new_will(&mut self, stage: &mut Stage<'_>) -> Result<Option<Outgoing>, String> {
        if !self.is_ending && (stage.at_rest || !self.rng.chance(1, 4)) {
            return Ok(None);
        }
        let (message, qos) = (self.new_message(), pick_qos(&mut self.rng));
        let topic = "t/1".to_owned();
        stage.record(Event::WillSet(Sent {
            client: self.number,
            message,
            topic: &topic,
            qos: qos.bits(),
            retain: false,
            empty: false,
        }))?;
        Ok(Some(Outgoing {
            message,
            topic,
            qos,
            retain: false,
            len: 20,
            delay_s: 0,
            expiry_s: None,
        }))
    }

    /// Numbers by client, so that they do not change when another client is left out.
    fn new_message(&mut self) -> MessageId {
        self.last_message += 1;
        MessageId(u64::from(self.number.0) * MESSAGES_MAX + self.last_message)
    }

    fn next_request(&mut self) -> Result<PacketId, String> {
        self.last_request = (self.last_request + 1) % 1000;
        PacketId::new(FIRST_REQUEST_ID + self.last_request).ok_or_else(|| "packet id 0".to_owned())
    }

    fn encode(&self, packet: &Packet<'_>) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        packet
            .encode(self.version, &mut bytes)
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn complain(&self, what: &str) -> String {
        format!("surprise: client {} {what}", self.number.0)
    }
}

fn pick_qos(rng: &mut Rng) -> QoS {
    match rng.below(5) {
        0 => QoS::AtMostOnce,
        1 | 2 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
