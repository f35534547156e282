//! One operation of the pure crates, so many times: `instructions OPERATION COUNT`.
//! perf/instructions runs it under callgrind with two counts; the difference is what one operation
//! costs.
//!
//! Everything is seeded, there is no input and no clock, so the counts repeat themselves.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for measuring: what does not work ends it"
)]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use engine_mqtt::{
    Ack, Connect, Decoded, Direction, Limits, Packet, PacketId, Properties, PropertiesBuilder,
    Publish, QoS, Subscribe, Subscription, SubscriptionOptions, Version, decode,
};
use engine_session::{Address, LogId, LogOffset, Message, Opening, Phase, Window};
use engine_shard::{
    Appended, Change, ConnectionId, NewRecord, Now, QueueId, QueueName, ReadRequest, ReadToken,
    Shard, ShardConfig, ShardId, Store, Table, Walk,
};
use engine_topic::Writer;

const LIMITS: Limits = Limits {
    packet_bytes_max: 1 << 20,
};
const NOW: Now = Now {
    monotonic_ms: 1_000,
    wall_ms: 1_750_000_000_000,
};
/// Filters in the routing table.
const FILTERS: u32 = 10_000;
/// Records that the store keeps.
const KEPT: usize = 64;

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(Version::V5, &mut bytes).unwrap();
    bytes
}

fn publish(topic: &str, packet_id: u16) -> Vec<u8> {
    encoded(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
        packet_id: PacketId::new(packet_id),
        properties: Properties::EMPTY,
        payload: &[b'x'; 64],
    }))
}

fn connect(client_id: &str) -> Vec<u8> {
    connect_with(client_id, &PropertiesBuilder::new())
}

fn connect_with(client_id: &str, properties: &PropertiesBuilder) -> Vec<u8> {
    encoded(&Packet::Connect(Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 60,
        client_id,
        will: None,
        user_name: None,
        password: None,
        properties: properties.properties().unwrap(),
    }))
}

fn subscribe(filter: &str) -> Vec<u8> {
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    encoded(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        properties: Properties::EMPTY,
        filters: [Subscription { filter, options }].as_slice().into(),
    }))
}

/// A log that keeps the last records and is durable when it is told to be.
struct Tail {
    records: Vec<Option<Message>>,
    appended: u64,
    durable: u64,
}

impl Store for Tail {
    fn log_id(&self) -> LogId {
        LogId(0)
    }
    fn appended(&self) -> LogOffset {
        LogOffset(self.appended)
    }
    fn durable(&self) -> LogOffset {
        LogOffset(self.durable)
    }
    fn refuses(&self) -> bool {
        false
    }

    fn has_room(&self, _: usize, _: usize) -> bool {
        true
    }
    fn applied_from(&self, _: LogId) -> LogOffset {
        LogOffset(u64::MAX)
    }
    fn queues_version(&self) -> u64 {
        0
    }
    fn is_full(&self) -> bool {
        false
    }
    fn queue(&mut self, _: &QueueName) -> Option<QueueId> {
        Some(QueueId(1))
    }
    fn append(&mut self, record: &NewRecord<'_>) -> Appended {
        let offset = LogOffset(self.appended);
        self.appended += 1;
        let message = record.message.map(|new| Message {
            address: Address {
                log: LogId(0),
                offset,
            },
            stamp: new.stamp,
            publisher: new.publisher,
            qos: new.qos,
            retain: new.retain,
            body: Bytes::copy_from_slice(new.body),
        });
        let place = usize::try_from(offset.0).unwrap() % KEPT;
        *self.records.get_mut(place).unwrap() = message;
        Appended {
            offset,
            end: LogOffset(self.appended),
        }
    }
    fn first_rows(&mut self, _: Table, _: usize, _: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        Vec::new()
    }

    fn row(&mut self, _: Table, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn stored_rows(
        &mut self,
        _: &[Table],
        _: &[u8],
        _: Option<&[u8]>,
        _: usize,
    ) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        Vec::new()
    }

    fn stored_upto(&self) -> LogOffset {
        LogOffset::ZERO
    }

    fn walk(&mut self, _: Table, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> Walk) {}
    fn message(&self, at: LogOffset) -> Option<Message> {
        let place = usize::try_from(at.0).unwrap() % KEPT;
        let message = self.records.get(place).unwrap().as_ref();
        message
            .filter(|message| message.address.offset == at)
            .cloned()
    }
    fn apply(&mut self, _: Address, _: Change) {}
    fn read(&mut self, _: ReadToken, _: ReadRequest) {
        unreachable!("nobody is behind")
    }

    fn cancel(&mut self, _: ReadToken) {
        unreachable!("nobody is behind")
    }
}

/// A node of one shard.
struct Node {
    shard: Shard,
    store: Tail,
}

impl Node {
    fn new() -> Self {
        let config = ShardConfig::new(ShardId(0), 1, 1, 7);
        let mut shard = Shard::restore(config, NOW, |_| std::iter::empty(), true).unwrap();
        let mut writer = Writer::with_seed(7);
        let table = writer.apply(&[]);
        shard.start(table, Some(writer), &[LogOffset(1)]);
        let records = vec![None; KEPT];
        let store = Tail {
            records,
            appended: 1,
            durable: 1,
        };
        Self { shard, store }
    }

    /// A turn with these bytes of a client, and a commit behind it; returns the bytes sent.
    fn turn(&mut self, connection: ConnectionId, bytes: &[u8]) -> usize {
        let used = self.shard.received(NOW, connection, bytes, &mut self.store);
        assert_eq!(used, bytes.len(), "all is taken");
        self.settle()
    }

    /// Until nothing happens any more.
    fn settle(&mut self) -> usize {
        let mut sent = 0;
        loop {
            self.shard.end_turn(NOW, &mut self.store);
            let mut is_quiet = true;
            while let Some(batch) = self.shard.poll_mesh(ShardId(0)) {
                self.shard.mesh(NOW, ShardId(0), batch, &mut self.store);
                is_quiet = false;
            }
            while let Some(transmit) = self.shard.poll_transmit() {
                sent += transmit.output.len();
                self.shard
                    .transmitted(transmit.connection, 0, transmit.output);
                is_quiet = false;
            }
            if self.store.durable < self.store.appended {
                self.store.durable = self.store.appended;
                self.shard.committed(NOW, &mut self.store);
                is_quiet = false;
            }
            if is_quiet {
                return sent;
            }
        }
    }

    fn client(&mut self, number: u64, filter: Option<&str>) -> ConnectionId {
        let connection = ConnectionId(number);
        self.shard.connected(NOW, connection);
        let mut sent = self.turn(connection, &connect(&format!("client-{number}")));
        if let Some(filter) = filter {
            sent = self.turn(connection, &subscribe(filter));
        }
        assert!(sent > 0, "an answer");
        connection
    }
}

fn codec_decode(count: u32) {
    let bytes = publish("device/1/temperature", 7);
    for _ in 0..count {
        let decoded = decode(
            black_box(&bytes),
            Version::V5,
            &LIMITS,
            Direction::FromClient,
        );
        assert!(matches!(decoded, Ok(Decoded::Packet { .. })));
    }
}

fn codec_encode(count: u32) {
    let packet = Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "device/1/temperature",
        packet_id: PacketId::new(7),
        properties: Properties::EMPTY,
        payload: &[b'x'; 64],
    });
    let mut out = Vec::with_capacity(256);
    for _ in 0..count {
        out.clear();
        black_box(&packet).encode(Version::V5, &mut out).unwrap();
        black_box(&out);
    }
}

fn topic_match(count: u32) {
    let change = |filter: String| engine_topic::Change {
        filter: filter.into(),
        shard: 0,
        online: true,
        queue: false,
    };
    let exact = (0..FILTERS).map(|n| change(format!("device/{n}/temperature")));
    let wild = (0..FILTERS).map(|n| change(format!("device/{n}/#")));
    let broad = ["device/+/temperature", "#"].map(|filter| change(filter.to_owned()));
    let changes: Vec<_> = exact.chain(wild).chain(broad).collect();
    let table = Writer::with_seed(7).apply(&changes);
    let mut found = Vec::new();
    for n in 0..count {
        found.clear();
        table.match_topic(&format!("device/{}/temperature", n % FILTERS), &mut found);
        assert_eq!(found.len(), 4);
    }
}

fn session_window(count: u32) {
    let mut window = Window::new(64);
    for n in 0..count {
        let address = Address {
            log: LogId(0),
            offset: LogOffset(u64::from(n)),
        };
        let delivery = window.open(Opening {
            address,
            qos: QoS::AtLeastOnce,
            phase: Phase::Publish,
            retain: false,
            retained: false,
            ids: engine_session::Ids::new(),
            group: None,
            member: 0,
        });
        let id = delivery.packet_id;
        assert!(window.close(id).is_some());
    }
}

/// A QoS 1 message from its publisher to one subscriber, both acknowledgements included.
fn shard_message(count: u32) {
    let mut node = Node::new();
    node.client(1, Some("device/1/temperature"));
    node.client(2, None);
    for n in 0..count {
        let id = u16::try_from(n % 60_000 + 1).unwrap();
        let sent = node.turn(ConnectionId(2), &publish("device/1/temperature", id));
        assert!(sent > 64, "it is delivered");
        let ack = Ack::success(PacketId::new(id).unwrap());
        node.turn(ConnectionId(1), &encoded(&Packet::PubAck(ack)));
    }
}

/// A QoS 1 message to 100 subscribers, which acknowledge it.
fn shard_fan_out(count: u32) {
    let mut node = Node::new();
    let readers: Vec<_> = (1..=100)
        .map(|number| node.client(number, Some("news")))
        .collect();
    node.client(200, None);
    for n in 0..count {
        let id = u16::try_from(n % 60_000 + 1).unwrap();
        node.turn(ConnectionId(200), &publish("news", id));
        let ack = encoded(&Packet::PubAck(Ack::success(PacketId::new(id).unwrap())));
        for reader in &readers {
            let used = node.shard.received(NOW, *reader, &ack, &mut node.store);
            assert_eq!(used, ack.len());
        }
        node.settle();
    }
}

/// A QoS 1 message to one of so many durable sessions, each with a filter of its own.
fn durable(sessions: u32, count: u32) {
    let mut node = Node::new();
    let mut expiry = PropertiesBuilder::new();
    expiry.session_expiry(3_600);
    let reader = |number: u32| ConnectionId(u64::from(number) + 10);
    for number in 0..sessions {
        let connection = reader(number);
        node.shard.connected(NOW, connection);
        let hello = connect_with(&format!("durable-{number:05}"), &expiry);
        assert!(node.turn(connection, &hello) > 0, "CONNACK");
        let granted = node.turn(connection, &subscribe(&format!("device/{number:05}/state")));
        assert!(granted > 0, "SUBACK");
    }
    node.client(2, None);
    // One to each before the count begins: all sessions have had their first delivery.
    for n in 0..sessions + count {
        let number = n.wrapping_mul(7_919) % sessions;
        let topic = format!("device/{number:05}/state");
        let id = u16::try_from(n % 60_000 + 1).unwrap();
        let sent = node.turn(ConnectionId(2), &publish(&topic, id));
        assert!(sent > 64, "it is delivered");
        // Each session counts its own packet ids.
        let own = u16::try_from(n / sessions + 1).unwrap();
        let ack = Ack::success(PacketId::new(own).unwrap());
        node.turn(reader(number), &encoded(&Packet::PubAck(ack)));
    }
}

/// A client comes, subscribes to a filter of its own, and goes.
fn shard_connect(count: u32) {
    let mut node = Node::new();
    for n in 0..u64::from(count) {
        let filter: Arc<str> = format!("device/{n}").into();
        let connection = node.client(n + 1, Some(&filter));
        node.shard.disconnected(NOW, connection, &mut node.store);
        node.settle();
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let operation = arguments.next().unwrap_or_default();
    let count = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    match operation.as_str() {
        "codec-decode" => codec_decode(count),
        "codec-encode" => codec_encode(count),
        "topic-match" => topic_match(count),
        "session-window" => session_window(count),
        "shard-message" => shard_message(count),
        "shard-fan-out" => shard_fan_out(count),
        "shard-connect" => shard_connect(count),
        "durable-1" => durable(1, count),
        "durable-10000" => durable(10_000, count),
        _ => println!(
            "codec-decode codec-encode topic-match session-window shard-message shard-fan-out \
             shard-connect durable-1 durable-10000"
        ),
    }
}
