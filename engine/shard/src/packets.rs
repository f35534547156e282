//! From bytes to packets to what they ask for.

use std::sync::Arc;

use engine_mqtt::{
    Connect, Decoded, Direction, Disconnect, Limits, Packet, PropertyId, Publish, ReasonCode,
    Subscribe, Version, decode,
};
use engine_session::{Body, NEVER, NO_EXPIRY, Will};
use engine_topic::{Filter, TopicName};

use crate::announce::reserved;
use crate::connect::Opening;
use crate::delayed::split;
use crate::ending::Ending;
use crate::limits::CONNECT_BYTES_MAX;
use crate::port::{ConnectionId, Store};
use crate::publish::Publication;
use crate::replay::Wish;
use crate::rules::Action;
use crate::shard::Shard;
use crate::subscribe::{Request, Wanted};

/// Bytes of answers that a client may leave unread while it goes on asking. Answers to one packet
/// are never many, so this is the bound of what a client that does not read costs.
const ANSWER_BYTES_MAX: usize = 128 * 1024;

impl Shard {
    const fn limits(&self) -> Limits {
        Limits {
            packet_bytes_max: self.config.packet_bytes_max,
        }
    }

    /// The first packet of a connection, which must be CONNECT [MQTT-3.1.0-1]. Returns how many
    /// bytes it took.
    pub(crate) fn first_packet<S: Store>(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        store: &mut S,
    ) -> usize {
        let limits = Limits {
            packet_bytes_max: self.config.packet_bytes_max.min(CONNECT_BYTES_MAX),
        };
        match decode(bytes, Version::V5, &limits, Direction::FromClient) {
            Ok(Decoded::NeedMore { .. }) => 0,
            Ok(Decoded::Packet {
                packet: Packet::Connect(mut connect),
                len,
            }) => {
                if self.redirected(connection, connect.version) {
                    return len;
                }
                let will_topic = self.rewritten_will(connection, &connect);
                if let (Some(will), Some(topic)) = (&mut connect.will, &will_topic) {
                    will.topic = topic;
                }
                match self.refusal(connection, &connect) {
                    Some(reason) => self.reject(connection, connect.version, reason),
                    None => self.on_connect(connection, opening(&connect), store),
                }
                len
            }
            Ok(Decoded::Packet { .. }) => {
                self.counters.closed_for_error += 1;
                self.close(connection, None, true);
                bytes.len()
            }
            Err(error) => {
                let answered = matches!(
                    error.reason(),
                    ReasonCode::UnsupportedProtocolVersion | ReasonCode::ClientIdentifierNotValid
                );
                if answered {
                    // No client of MQTT 5 can cause these [MQTT-3.1.3-8 of 3.1.1].
                    self.reject(connection, Version::V311, error.reason());
                } else {
                    self.counters.closed_for_error += 1;
                    self.close(connection, None, true);
                }
                bytes.len()
            }
        }
    }

    /// Handles the whole packets among these bytes; returns how many bytes they took.
    pub(crate) fn packets<S: Store>(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        store: &mut S,
    ) -> usize {
        let mut used = 0;
        let limits = self.limits();
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let has_no_room = is_stored(rest) && !self.takes_publications(store);
            let now_ms = self.now.monotonic_ms;
            let Some(link) = self.connections.get_mut(&connection) else {
                return bytes.len();
            };
            let rate = link.rate.as_mut().filter(|_| is_publish(rest));
            let is_too_fast = rate.is_some_and(|rate| rate.waits(now_ms));
            link.is_held = has_no_room || is_too_fast;
            if link.is_held {
                self.counters.held += 1;
                return used;
            }
            let (version, client) = (link.version, link.client);
            let deliveries = self.config.output_bytes_max + self.config.packet_bytes_max as usize;
            if link.unsent() > deliveries + ANSWER_BYTES_MAX {
                self.fail(connection, ReasonCode::QuotaExceeded);
                return bytes.len();
            }
            match decode(rest, version, &limits, Direction::FromClient) {
                Ok(Decoded::NeedMore { .. }) => return used,
                Ok(Decoded::Packet { packet, len }) => {
                    used += len;
                    if let Some(rate) = link.rate.as_mut().filter(|_| is_publish(rest)) {
                        rate.take(len);
                    }
                    if let Some(index) = client {
                        self.packet(index, connection, &packet, store);
                    }
                }
                Err(error) => {
                    self.fail(connection, error.reason());
                    return bytes.len();
                }
            }
        }
        used
    }

    fn packet<S: Store>(
        &mut self,
        index: u32,
        connection: ConnectionId,
        packet: &Packet<'_>,
        store: &mut S,
    ) {
        match packet {
            Packet::Publish(publish) => self.take_publish(index, connection, publish, store),
            Packet::PubAck(ack) => self.on_puback(index, ack.packet_id.number()),
            Packet::PubRec(ack) => {
                let failed = ack.reason.number() >= 0x80;
                self.on_pubrec(index, connection, ack.packet_id.number(), failed);
            }
            Packet::PubRel(ack) => self.on_pubrel(index, connection, ack.packet_id.number()),
            Packet::PubComp(ack) => self.on_pubcomp(index, ack.packet_id.number()),
            Packet::Subscribe(subscribe) => {
                self.take_subscribe(index, connection, subscribe, store);
            }
            Packet::Unsubscribe(one) => {
                let filters: Vec<&str> = one.filters.iter().collect();
                self.on_unsubscribe(index, connection, one.packet_id.number(), &filters);
            }
            Packet::PingReq => self.send_pingresp(connection),
            Packet::Disconnect(disconnect) => self.on_disconnect(index, connection, disconnect),
            Packet::Auth(auth) => self.on_auth(connection, auth),
            // A second CONNECT is a protocol error [MQTT-3.1.0-2]; the others a client cannot send.
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => self.fail(connection, ReasonCode::ProtocolError),
        }
    }

    fn take_publish<S: Store>(
        &mut self,
        index: u32,
        connection: ConnectionId,
        publish: &Publish<'_>,
        store: &mut S,
    ) {
        let topic = match self.topic_of(connection, publish) {
            Ok(topic) => topic,
            Err(reason) => {
                self.fail(connection, reason);
                return;
            }
        };
        let topic = topic.as_deref().unwrap_or(publish.topic);
        let Ok((delay_s, topic)) = split(topic) else {
            self.refuse_delay(index, connection, publish);
            return;
        };
        let rewritten = self.rewritten_topic(connection, topic);
        let topic = match &rewritten {
            Ok(Some(other)) => other.as_str(),
            Ok(None) | Err(_) => topic,
        };
        // A rule may delay, too.
        let Ok((further_s, topic)) = split(topic) else {
            self.refuse_delay(index, connection, publish);
            return;
        };
        let is_reserved = reserved(topic).is_some();
        self.counters.denied += u64::from(is_reserved);
        let may =
            rewritten.is_err() || !is_reserved && self.may(connection, Action::Publish, topic);
        let denial = (!may).then_some(ReasonCode::NotAuthorized);
        if let Some(reason) = rewritten.as_ref().err().copied().or(denial)
            && self.deny(index, connection, publish, reason)
        {
            return;
        }
        let mut properties = Vec::new();
        let mut expiry_s = NO_EXPIRY;
        if !publish.properties.is_empty() {
            publish.properties.forwardable_into(&mut properties);
            expiry_s = publish.properties.message_expiry().unwrap_or(NO_EXPIRY);
        }
        let body = Body {
            published_ms: self.now.wall_ms,
            expiry_s,
            topic,
            properties: &properties,
            payload: publish.payload,
            block: None,
        };
        let publication = Publication {
            body,
            qos: publish.qos,
            retain: publish.retain,
            publisher: self.clients[index].session.id,
            packet_id: publish.packet_id.map_or(0, engine_mqtt::PacketId::number),
            delay_s: delay_s + further_s,
            was_kept: false,
        };
        self.on_publish(index, connection, &publication, store);
    }

    /// The topic that an alias stands for; `None`: there is no alias, the packet's own counts.
    fn topic_of(
        &mut self,
        connection: ConnectionId,
        publish: &Publish<'_>,
    ) -> Result<Option<Arc<str>>, ReasonCode> {
        let alias = publish.properties.topic_alias();
        let by_alias = alias.is_some() && publish.topic.is_empty();
        if !by_alias && !self.is_topic_name(publish.topic) {
            return Err(ReasonCode::TopicNameInvalid);
        }
        let link = self.connections.get_mut(&connection);
        let (Some(alias), Some(link)) = (alias, link) else {
            return Ok(None);
        };
        let aliases = link.aliases.get_or_insert_default();
        aliases.inbound(alias, publish.topic).map(Some)
    }

    fn take_subscribe<S: Store>(
        &mut self,
        index: u32,
        connection: ConnectionId,
        subscribe: &Subscribe<'_>,
        store: &mut S,
    ) {
        let id = subscribe.properties.subscription_ids().next();
        let logs = self.positions.len();
        let wish = Wish::read(&subscribe.properties, logs);
        let replay = wish.as_ref().ok().cloned().flatten();
        let busy = replay
            .as_ref()
            .is_some_and(|w| !self.can_seek(w.seeks(logs)));
        let mut filters = Vec::new();
        for one in subscribe.filters.iter() {
            let admitted = replay.is_none() || Wish::admits(one.filter, one.options.qos);
            let rewritten = self.rewritten_filter(connection, one.filter);
            let text = rewritten.as_ref().ok().and_then(Option::as_deref);
            let text = text.unwrap_or(one.filter);
            let wanted = match Filter::parse(text) {
                _ if rewritten.is_err() => Err(ReasonCode::TopicFilterInvalid),
                Err(_) => Err(ReasonCode::TopicFilterInvalid),
                Ok(_) if !self.is_short(text) => Err(ReasonCode::TopicFilterInvalid),
                Ok(filter) if !self.may(connection, Action::Subscribe, filter.text) => {
                    Err(ReasonCode::NotAuthorized)
                }
                Ok(_) if wish.is_err() || !admitted => Err(ReasonCode::ImplementationSpecificError),
                Ok(_) if busy => Err(ReasonCode::QuotaExceeded),
                Ok(filter) => Ok(Wanted {
                    filter: filter.share.map_or(filter.text, |_| text).into(),
                    exclusive: filter.exclusive,
                    qos: one.options.qos,
                    no_local: one.options.no_local,
                    retain_as_published: one.options.retain_as_published,
                    retain_handling: one.options.retain_handling,
                    id,
                }),
            };
            filters.push(wanted);
        }
        let packet_id = subscribe.packet_id.number();
        let client = self.key(index);
        self.on_subscribe(
            Request {
                connection,
                client,
                packet_id,
                replay: replay
                    .filter(|_| filters.iter().any(Result::is_ok))
                    .map(Box::new),
                filters,
            },
            store,
        );
    }

    /// What a valid CONNECT asks for and does not get.
    fn refusal(&mut self, connection: ConnectionId, connect: &Connect<'_>) -> Option<ReasonCode> {
        let now_ms = self.now.monotonic_ms;
        if self.connect_rate.wait_ms(now_ms) > 0 {
            return Some(ReasonCode::ConnectionRateExceeded);
        }
        self.connect_rate.take(1);
        let properties = &connect.properties;
        let link = self.connections.get(&connection);
        let is_admitted = link.is_some_and(|link| link.authentication.is_some());
        if properties.contains(PropertyId::AuthenticationMethod) && !is_admitted {
            return Some(ReasonCode::BadAuthenticationMethod);
        }
        if connect.client_id.len() > usize::from(self.config.client_id_bytes_max) {
            return Some(ReasonCode::ClientIdentifierNotValid);
        }
        let will = connect.will.as_ref();
        will.filter(|will| !self.is_topic_name(will.topic) || split(will.topic).is_err())
            .map(|_| ReasonCode::TopicNameInvalid)
            .or_else(|| self.identify(connection, connect))
    }

    /// Whether something can be published to this name, here.
    pub(crate) fn is_topic_name(&self, text: &str) -> bool {
        self.is_short(text) && TopicName::parse(text).is_ok()
    }

    /// Whether a name or filter has no more bytes and levels than this node takes.
    pub(crate) fn is_short(&self, text: &str) -> bool {
        let levels = 1 + text.bytes().filter(|byte| *byte == b'/').count();
        text.len() <= usize::from(self.config.topic_bytes_max)
            && levels <= usize::from(self.config.topic_levels_max)
    }

    fn on_disconnect(&mut self, index: u32, connection: ConnectionId, packet: &Disconnect<'_>) {
        let client = &mut self.clients[index];
        if let Some(expiry_s) = packet.properties.session_expiry() {
            if client.session.expiry_s == 0 && expiry_s > 0 {
                self.fail(connection, ReasonCode::ProtocolError);
                return;
            }
            client.session.expiry_s = expiry_s.min(self.config.session_expiry_max_s);
        }
        // Only this reason removes the will [MQTT-3.14.4-3], [MQTT-3.1.2-8].
        if packet.reason == ReasonCode::Success {
            self.farewell(connection);
        } else {
            self.close_as(connection, Ending::Left(packet.reason));
        }
    }
}

fn opening(connect: &Connect<'_>) -> Opening {
    let properties = &connect.properties;
    let modern = connect.version.has_properties();
    let expiry_s = match (modern, connect.clean_start) {
        (true, _) => properties.session_expiry().unwrap_or(0),
        (false, true) => 0,
        (false, false) => NEVER,
    };
    let packet_bytes_max = properties.maximum_packet_size().unwrap_or(u32::MAX);
    Opening {
        version: connect.version,
        client_id: connect.client_id.to_owned(),
        clean_start: connect.clean_start,
        keep_alive_s: connect.keep_alive,
        expiry_s,
        receive_max: properties.receive_maximum().unwrap_or(u16::MAX),
        packet_bytes_max,
        aliases_max: properties.topic_alias_maximum().unwrap_or(0),
        will: connect.will.as_ref().map(|will| {
            let mut forwardable = Vec::new();
            will.properties.forwardable_into(&mut forwardable);
            Will {
                session: 0,
                delay_s: will.properties.will_delay().unwrap_or(0),
                qos: will.qos,
                retain: will.retain,
                expiry_s: will.properties.message_expiry().unwrap_or(NO_EXPIRY),
                topic: will.topic.to_owned(),
                properties: forwardable,
                payload: will.payload.to_vec(),
            }
        }),
    }
}

/// Whether these bytes begin with a PUBLISH [MQTT-2.1.2].
fn is_publish(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first >> 4 == 3)
}

/// Whether these bytes begin with a PUBLISH that goes to the log: of QoS 1 or 2, or retained
/// [MQTT-2.1.3].
fn is_stored(bytes: &[u8]) -> bool {
    bytes
        .first()
        .is_some_and(|first| first >> 4 == 3 && first & 0b0111 != 0)
}
