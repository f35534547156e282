//! A node in one thread: shards, their stores, the mesh between them, and clients that speak MQTT.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine_mqtt::{
    Ack, Connect, Decoded, Direction, Disconnect, Limits, Packet, PacketId, Properties,
    PropertiesBuilder, Publish, QoS, ReasonCode, Subscribe, Subscription, SubscriptionOptions,
    Unsubscribe, Version, Will, decode,
};
use engine_topic::Writer;

use super::store::MemoryStore;
use crate::{
    ConnectionId, LogId, LogOffset, MeshBatch, Now, OFFSET_PROPERTY, Output, REPLAY_PROPERTY,
    Shard, ShardConfig, ShardId, home_shard,
};

/// A PUBLISH as a client got it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Got {
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) qos: u8,
    pub(super) dup: bool,
    pub(super) retain: bool,
    pub(super) packet_id: u16,
    pub(super) ids: Vec<u32>,
    /// The address that a replay tells.
    pub(super) address: Option<String>,
}

/// Everything else a client got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said {
    ConnAck {
        session_present: bool,
        reason: ReasonCode,
    },
    PubAck(u16, ReasonCode),
    PubRec(u16, ReasonCode),
    PubRel(u16),
    PubComp(u16),
    SubAck(u16, Vec<ReasonCode>),
    UnsubAck(u16),
    Disconnect(ReasonCode),
    Closed,
}

#[derive(Default)]
pub(super) struct TestClient {
    pub(super) connection: Option<ConnectionId>,
    shard: usize,
    version: Option<Version>,
    bytes: Vec<u8>,
    /// Sent, and not taken by the shard.
    held: Vec<u8>,
    pub(super) got: Vec<Got>,
    pub(super) said: Vec<Said>,
    /// Deliveries without those that a client knows as sent again: QoS 2, packet id open.
    pub(super) fresh: Vec<Got>,
    open: std::collections::BTreeSet<u16>,
    /// Publications that are not acknowledged: topic, payload, QoS, whether PUBREC came.
    pub(super) outstanding: BTreeMap<u16, (String, String, QoS, bool)>,
    /// Acknowledge deliveries at once.
    pub(super) acks: bool,
    /// The socket takes nothing.
    pub(super) stuck: bool,
    unsent: usize,
    /// Where the large pieces of what it was sent lie.
    pub(super) large: Vec<usize>,
}

pub(super) struct Net {
    pub(super) shards: Vec<Shard>,
    pub(super) stores: Vec<MemoryStore>,
    mesh: BTreeMap<(usize, usize), VecDeque<MeshBatch>>,
    pub(super) clients: BTreeMap<String, TestClient>,
    pub(super) now: Now,
    next_connection: u64,
    boot: u32,
    /// Batches that a mesh ring takes.
    pub(super) ring: usize,
    /// Shards whose log does not commit.
    pub(super) frozen: Vec<usize>,
    pub(super) tune: fn(&mut ShardConfig),
}

pub(super) struct Options {
    pub(super) version: Version,
    pub(super) clean: bool,
    pub(super) expiry_s: u32,
    pub(super) receive_max: u16,
    pub(super) keep_alive: u16,
    pub(super) will: Option<(&'static str, &'static str, u32)>,
    pub(super) will_qos: QoS,
    pub(super) user: Option<&'static str>,
}

pub(super) const CLEAN: Options = Options {
    version: Version::V5,
    clean: true,
    expiry_s: 0,
    receive_max: 0,
    keep_alive: 0,
    will: None,
    will_qos: QoS::AtLeastOnce,
    user: None,
};
pub(super) const DURABLE: Options = Options {
    clean: false,
    expiry_s: u32::MAX,
    ..CLEAN
};

impl Net {
    pub(super) fn new(shards: usize) -> Self {
        Self::tuned(shards, |_| {})
    }

    pub(super) fn tuned(shards: usize, tune: fn(&mut ShardConfig)) -> Self {
        let stores = (0..shards)
            .map(|log| MemoryStore::new(LogId(log as u32)))
            .collect();
        let mut net = Self {
            shards: Vec::new(),
            stores,
            mesh: BTreeMap::new(),
            clients: BTreeMap::new(),
            now: Now {
                monotonic_ms: 1_000,
                wall_ms: 1_700_000_000_000,
            },
            next_connection: 0,
            boot: 0,
            ring: 4,
            frozen: Vec::new(),
            tune,
        };
        net.boot();
        net
    }

    fn boot(&mut self) {
        self.boot += 1;
        self.mesh.clear();
        let count = self.stores.len() as u8;
        self.shards = (0..count)
            .map(|id| {
                let mut config = ShardConfig::new(ShardId(id), count, self.boot, 7);
                (self.tune)(&mut config);
                let all = self.stores[id as usize].rows();
                let rows = |table: crate::Table| {
                    let own = all.iter().filter(move |(one, _, _)| *one == table);
                    own.map(|(_, key, value)| (key.clone(), value.clone()))
                };
                Shard::restore(config, self.now, rows, true).expect("rows written here")
            })
            .collect();
        let changes: Vec<_> = self
            .shards
            .iter()
            .flat_map(Shard::durable_filters)
            .collect();
        let mut writer = Writer::new();
        let table = writer.apply(&changes);
        let ends: Vec<LogOffset> = self.stores.iter().map(crate::Store::durable).collect();
        let mut writer = Some(writer);
        let newest = self.shards.iter().map(Shard::newest_stamp).max();
        for shard in &mut self.shards {
            shard.start(Arc::clone(&table), writer.take(), &ends);
            shard.begin_behind(newest.unwrap_or_default());
        }
    }

    /// `kill -9`: connections are gone, what was not durable is gone, the node starts again.
    pub(super) fn crash(&mut self) {
        for client in self.clients.values_mut() {
            client.connection = None;
            client.bytes.clear();
        }
        for store in &mut self.stores {
            store.crash();
        }
        self.frozen.clear();
        self.boot();
    }

    pub(super) fn client(&mut self, id: &str) -> &mut TestClient {
        self.clients.get_mut(id).expect("a known client")
    }

    /// Opens a connection and settles.
    pub(super) fn connect(&mut self, id: &str, options: &Options) {
        self.begin_connect(id, options);
        self.settle();
    }

    pub(super) fn begin_connect(&mut self, id: &str, options: &Options) {
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        let shard = home_shard(id, self.shards.len() as u8).index();
        let client = self.clients.entry(id.to_owned()).or_default();
        client.connection = Some(connection);
        client.shard = shard;
        client.version = Some(options.version);
        client.acks = true;
        client.stuck = false;
        client.held.clear();
        client.unsent = 0;
        client.bytes.clear();
        if options.clean {
            client.open.clear();
        }
        self.shards[shard].connected(self.now, connection);
        let mut builder = PropertiesBuilder::new();
        if options.expiry_s > 0 {
            builder.session_expiry(options.expiry_s);
        }
        if options.receive_max > 0 {
            builder.receive_maximum(options.receive_max);
        }
        let mut will_builder = PropertiesBuilder::new();
        let will = options.will.map(|(topic, payload, delay)| {
            will_builder.will_delay(delay);
            (topic, payload)
        });
        let modern = options.version == Version::V5;
        let empty = Properties::EMPTY;
        let properties = if modern {
            builder.properties().expect("valid")
        } else {
            empty
        };
        let will_properties = if modern {
            will_builder.properties().expect("valid")
        } else {
            empty
        };
        let will = will.map(|(topic, payload)| Will {
            qos: options.will_qos,
            retain: false,
            topic,
            payload: payload.as_bytes(),
            properties: will_properties,
        });
        self.send(
            id,
            &Packet::Connect(Connect {
                version: options.version,
                clean_start: options.clean,
                keep_alive: options.keep_alive,
                client_id: id,
                will,
                user_name: options.user,
                password: None,
                properties,
            }),
        );
    }

    pub(super) fn send(&mut self, id: &str, packet: &Packet<'_>) {
        let client = self.clients.get_mut(id).expect("a known client");
        let Some(connection) = client.connection else {
            return;
        };
        let mut bytes = std::mem::take(&mut client.held);
        packet
            .encode(client.version.expect("connected"), &mut bytes)
            .expect("a valid packet");
        let shard = client.shard;
        let store = &mut self.stores[shard];
        let used = self.shards[shard].received(self.now, connection, &bytes, store);
        bytes.drain(..used);
        if !bytes.is_empty() {
            let holds = self.shards[shard].holds(connection);
            assert_ne!(holds, crate::Hold::No, "packets are used");
        }
        self.client(id).held = bytes;
    }

    pub(super) fn publish(
        &mut self,
        id: &str,
        topic: &str,
        payload: &str,
        qos: QoS,
        packet_id: u16,
    ) {
        self.publish_with(id, topic, payload, qos, packet_id, false, false);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a PUBLISH")]
    pub(super) fn publish_with(
        &mut self,
        id: &str,
        topic: &str,
        payload: &str,
        qos: QoS,
        packet_id: u16,
        retain: bool,
        dup: bool,
    ) {
        let publish = Publish {
            dup,
            qos,
            retain,
            topic,
            packet_id: PacketId::new(packet_id),
            properties: Properties::EMPTY,
            payload: payload.as_bytes(),
        };
        self.send(id, &Packet::Publish(publish));
    }

    pub(super) fn retain(&mut self, id: &str, topic: &str, payload: &str, packet_id: u16) {
        let qos = if packet_id == 0 {
            QoS::AtMostOnce
        } else {
            QoS::AtLeastOnce
        };
        self.publish_with(id, topic, payload, qos, packet_id, true, false);
    }

    /// Subscribes and settles.
    pub(super) fn subscribe(&mut self, id: &str, filters: &[(&str, QoS)]) {
        self.begin_subscribe(id, filters, None);
        self.settle();
    }

    pub(super) fn begin_subscribe(
        &mut self,
        id: &str,
        filters: &[(&str, QoS)],
        sub_id: Option<u32>,
    ) {
        let mut builder = PropertiesBuilder::new();
        if let Some(sub_id) = sub_id {
            builder.subscription_id(sub_id);
        }
        let properties = builder.properties().expect("valid");
        self.send_subscribe(id, filters, properties);
    }

    /// A SUBSCRIBE that begins in the past.
    pub(super) fn replay(&mut self, id: &str, filters: &[(&str, QoS)], start: &str) {
        let mut builder = PropertiesBuilder::new();
        builder.user_property(REPLAY_PROPERTY, start);
        let properties = builder.properties().expect("valid");
        self.send_subscribe(id, filters, properties);
        self.settle();
    }

    fn send_subscribe(&mut self, id: &str, filters: &[(&str, QoS)], properties: Properties<'_>) {
        let list: Vec<_> = filters
            .iter()
            .map(|(filter, qos)| Subscription {
                filter,
                options: SubscriptionOptions {
                    qos: *qos,
                    ..SubscriptionOptions::default()
                },
            })
            .collect();
        let packet_id = PacketId::new(77).expect("not zero");
        self.send(
            id,
            &Packet::Subscribe(Subscribe {
                packet_id,
                properties,
                filters: (&*list).into(),
            }),
        );
    }

    pub(super) fn unsubscribe(&mut self, id: &str, filters: &[&str]) {
        self.begin_unsubscribe(id, filters);
        self.settle();
    }

    pub(super) fn begin_unsubscribe(&mut self, id: &str, filters: &[&str]) {
        let packet_id = PacketId::new(78).expect("not zero");
        let properties = Properties::EMPTY;
        self.send(
            id,
            &Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties,
                filters: filters.into(),
            }),
        );
    }

    pub(super) fn ack(
        &mut self,
        id: &str,
        make: fn(Ack<'static>) -> Packet<'static>,
        packet_id: u16,
    ) {
        let packet_id = PacketId::new(packet_id).expect("not zero");
        self.send(id, &make(Ack::success(packet_id)));
    }

    /// The socket breaks, and the node settles.
    pub(super) fn cut(&mut self, id: &str) {
        self.cut_now(id);
        self.settle();
    }

    /// The socket breaks.
    pub(super) fn cut_now(&mut self, id: &str) {
        let client = self.clients.get_mut(id).expect("a known client");
        if let Some(connection) = client.connection.take() {
            let shard = client.shard;
            self.shards[shard].disconnected(self.now, connection, &mut self.stores[shard]);
        }
    }

    pub(super) fn disconnect(&mut self, id: &str) {
        self.send(id, &Packet::Disconnect(Disconnect::default()));
        self.settle();
    }

    /// One turn of one shard; says whether anything happened.
    pub(super) fn turn(&mut self, index: usize) -> bool {
        let mut busy = false;
        let count = self.stores.len();
        let (shard, store) = (&mut self.shards[index], &mut self.stores[index]);
        for from in 0..count {
            while let Some(batch) = self
                .mesh
                .get_mut(&(from, index))
                .and_then(VecDeque::pop_front)
            {
                shard.mesh(self.now, ShardId(from as u8), batch, store);
                busy = true;
            }
        }
        while let Some((token, answer)) = store.answers.pop_front() {
            shard.read_done(self.now, token, answer, store);
            busy = true;
        }
        if shard.next_timeout() <= self.now.monotonic_ms {
            shard.tick(self.now, store);
        }
        shard.end_turn(self.now, store);
        if !self.frozen.contains(&index) && store.commit() {
            shard.committed(self.now, store);
            shard.end_turn(self.now, store);
            busy = true;
        }
        busy |= !store.answers.is_empty();
        for to in (0..self.shards.len()).filter(|to| *to != index) {
            let queue = self.mesh.entry((index, to)).or_default();
            if queue.len() < self.ring
                && let Some(batch) = self.shards[index].poll_mesh(ShardId(to as u8))
            {
                queue.push_back(batch);
                busy = true;
            }
        }
        busy | self.drain(index)
    }

    fn drain(&mut self, index: usize) -> bool {
        let mut busy = false;
        while let Some(transmit) = self.shards[index].poll_transmit() {
            busy = true;
            let found = self
                .clients
                .iter_mut()
                .find(|(_, c)| c.connection == Some(transmit.connection));
            let Some((id, client)) = found else { continue };
            let id = id.clone();
            client.bytes.extend(transmit.output.pieces(0).flatten());
            let large = transmit
                .output
                .pieces(0)
                .filter(|piece| piece.len() >= 4_000);
            client
                .large
                .extend(large.map(|piece| piece.as_ptr().addr()));
            if client.stuck && !transmit.close {
                client.unsent += transmit.output.len();
                let unsent = client.unsent;
                self.shards[index].transmitted(transmit.connection, unsent, Output::EMPTY);
                continue;
            }
            self.shards[index].transmitted(transmit.connection, 0, transmit.output);
            self.read_packets(&id);
            if transmit.close {
                let client = self.client(&id);
                client.connection = None;
                client.said.push(Said::Closed);
            }
        }
        busy
    }

    /// The socket takes bytes again.
    pub(super) fn unstick(&mut self, id: &str) {
        let client = self.client(id);
        client.stuck = false;
        client.unsent = 0;
        let (shard, connection) = (client.shard, client.connection);
        if let Some(connection) = connection {
            self.shards[shard].transmitted(connection, 0, Output::EMPTY);
        }
        self.read_packets(id);
        self.settle();
    }

    pub(super) fn unsent(&self, id: &str) -> usize {
        self.clients[id].unsent
    }

    fn read_packets(&mut self, id: &str) {
        loop {
            let client = self.clients.get_mut(id).expect("a known client");
            let bytes = std::mem::take(&mut client.bytes);
            let version = client.version.expect("connected");
            let limits = Limits::default();
            match decode(&bytes, version, &limits, Direction::FromServer).expect("valid packets") {
                Decoded::NeedMore { .. } => {
                    client.bytes = bytes;
                    return;
                }
                Decoded::Packet { packet, len } => {
                    client.bytes = bytes[len..].to_vec();
                    self.take(id, &packet);
                }
            }
        }
    }

    fn take(&mut self, id: &str, packet: &Packet<'_>) {
        let client = self.clients.get_mut(id).expect("a known client");
        let acks = client.acks;
        let said = match packet {
            Packet::Publish(publish) => {
                let got = got(publish);
                let (qos, packet_id) = (got.qos, got.packet_id);
                if qos < 2 || client.open.insert(packet_id) {
                    client.fresh.push(got.clone());
                }
                client.got.push(got);
                match qos {
                    1 if acks => self.ack(id, Packet::PubAck, packet_id),
                    2 if acks => self.ack(id, Packet::PubRec, packet_id),
                    _ => {}
                }
                return;
            }
            Packet::ConnAck(one) => Said::ConnAck {
                session_present: one.session_present,
                reason: one.reason,
            },
            Packet::PubAck(one) => Said::PubAck(one.packet_id.number(), one.reason),
            Packet::PubRec(one) => Said::PubRec(one.packet_id.number(), one.reason),
            Packet::PubRel(one) => Said::PubRel(one.packet_id.number()),
            Packet::PubComp(one) => Said::PubComp(one.packet_id.number()),
            Packet::SubAck(one) => Said::SubAck(one.packet_id.number(), one.codes.iter().collect()),
            Packet::UnsubAck(one) => Said::UnsubAck(one.packet_id.number()),
            Packet::Disconnect(one) => Said::Disconnect(one.reason),
            _ => return,
        };
        client.said.push(said.clone());
        match said {
            Said::PubAck(packet_id, _) | Said::PubComp(packet_id) => {
                client.outstanding.remove(&packet_id);
            }
            Said::PubRec(packet_id, _) => {
                if let Some(one) = client.outstanding.get_mut(&packet_id) {
                    one.3 = true;
                    self.ack(id, Packet::PubRel, packet_id);
                }
                return;
            }
            Said::PubRel(packet_id) => {
                client.open.remove(&packet_id);
            }
            _ => {}
        }
        match said {
            Said::PubRel(packet_id) if acks => self.ack(id, Packet::PubComp, packet_id),
            _ => {}
        }
    }

    /// Turns all shards until nothing happens any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for index in 0..self.shards.len() {
                busy |= self.turn(index);
            }
            let pending = self
                .shards
                .iter()
                .any(|s| s.next_timeout() <= self.now.monotonic_ms);
            if !busy && !pending {
                return;
            }
        }
        panic!("the node does not come to rest");
    }

    /// Sends again what an earlier connection left unacknowledged.
    pub(super) fn send_outstanding(&mut self, id: &str) {
        for (packet_id, (topic, payload, qos, received)) in self.clients[id].outstanding.clone() {
            if received {
                self.ack(id, Packet::PubRel, packet_id);
            } else {
                self.publish_with(id, &topic, &payload, qos, packet_id, false, true);
            }
        }
    }

    /// Lets time pass in steps.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.monotonic_ms + ms;
        self.settle();
        while self.now.monotonic_ms < end {
            let step = 50.min(end - self.now.monotonic_ms);
            self.now.monotonic_ms += step;
            self.now.wall_ms += step;
            self.settle();
        }
    }

    /// A client id that is at home on this shard.
    pub(super) fn id_on(&self, name: &str, shard: usize) -> String {
        let count = self.shards.len() as u8;
        let mut ids = (0..).map(|n| format!("{name}{n}"));
        ids.find(|id| home_shard(id, count).index() == shard)
            .expect("one of them")
    }

    pub(super) fn payloads(&self, id: &str) -> Vec<&str> {
        self.clients[id]
            .got
            .iter()
            .map(|got| got.payload.as_str())
            .collect()
    }
}

fn got(publish: &Publish<'_>) -> Got {
    Got {
        topic: publish.topic.to_owned(),
        payload: String::from_utf8_lossy(publish.payload).into_owned(),
        qos: publish.qos.bits(),
        dup: publish.dup,
        retain: publish.retain,
        packet_id: publish.packet_id.map_or(0, PacketId::number),
        ids: publish.properties.subscription_ids().collect(),
        address: {
            let mut all = publish.properties.user_properties();
            let found = all.find(|(name, _)| *name == OFFSET_PROPERTY);
            found.map(|(_, value)| value.to_owned())
        },
    }
}
