//! A shard's core as the runtime drives it: connections by key, peers by number.

use std::net::IpAddr;
use std::sync::Arc;

use engine_mqtt::{
    Connect, Decoded, Direction, Limits, Packet, Peek, Version, decode, peek_client_id,
};
use engine_shard::{
    Admission, CONNECT_BYTES_MAX, ClientLimits, ConnectionId, Hold, Kind, MeshBatch, Proof,
    Reauthentication, Redirect, Rules, ShardId, TopicRules, home_shard,
};
use storage_io::{DirectDisk, RingQueue};

use crate::auth::{Claim, Dialect, MethodClaim};
use crate::machine::{Failure, Machine, Meter, Now, Routing, Transmit};
use crate::node::{CoreError, ShardCore};
use crate::scram::METHOD;
use crate::slots::Key;

const COUNTERS: [(&str, &str); 11] = [
    ("log_records", "Records appended to the commit log"),
    ("log_bytes", "Bytes appended to the commit log"),
    ("log_unreadable", "Records that could not be read back"),
    (
        "commits_held",
        "Commits that waited for more records, see --commit-wait-us",
    ),
    ("disk_reads", "Reads of the disk for readers behind"),
    ("log_read_bytes", "Bytes of the log read back from the disk"),
    ("state_batches", "Transactions of the state store"),
    (
        "retired_segments",
        "Segments of the log that retention took",
    ),
    ("retired_bytes", "Bytes of segments that retention took"),
    (
        "carried_bytes",
        "Bytes of state appended again before a segment went",
    ),
    ("removed_queues", "Queues whose names were removed"),
];

const GAUGES: [(&str, &str); 12] = [
    ("log_start", "Where the commit log begins, a byte offset"),
    ("log_file_bytes", "Bytes of segment files in use"),
    (
        "disk_used_percent",
        "Hundredths of the disk in use, by anybody",
    ),
    ("reads", "Reads of the log under way"),
    ("queues", "Queues of this shard's log"),
    ("log_undurable_bytes", "Bytes appended and not yet durable"),
    ("index_entries_in_memory", "Entries in memtables"),
    ("index_runs", "Files of the index"),
    ("state_overlay_bytes", "Changes of state not yet stored"),
    (
        "log_waits_for_room",
        "1 while the next segment of the log waits for room on the disk, or for descriptors",
    ),
    (
        "state_waits_for_room",
        "1 while the state store waits for room on the disk",
    ),
    (
        "index_waits_for_room",
        "1 while the index waits for room on the disk, or for descriptors",
    ),
];

/// See the module.
pub(crate) struct ShardMachine {
    core: ShardCore<DirectDisk, RingQueue>,
    shard: ShardId,
    /// The first so many shards have clients.
    homes: u8,
    limits: ClientLimits,
    /// Milliseconds between two announcements of the node's numbers; 0: none.
    numbers_interval_ms: u64,
    next_numbers_ms: u64,
}

impl ShardMachine {
    pub(crate) const fn new(
        core: ShardCore<DirectDisk, RingQueue>,
        shard: u8,
        homes: u8,
        limits: ClientLimits,
        numbers_interval_ms: u64,
    ) -> Self {
        Self {
            core,
            shard: ShardId(shard),
            homes,
            limits,
            numbers_interval_ms,
            next_numbers_ms: 0,
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is the argument of map_err"
)]
fn failure(error: CoreError) -> Failure {
    Failure(error.to_string())
}

fn peer(number: usize) -> ShardId {
    // Invariant: at most 64 shards.
    ShardId(u8::try_from(number).unwrap_or(u8::MAX))
}

fn method_claim(connect: &Connect<'_>, method: &str, len: usize) -> MethodClaim {
    let data = connect.properties.authentication_data();
    let packet_bytes_max = connect.properties.maximum_packet_size();
    MethodClaim {
        len,
        packet_bytes_max: packet_bytes_max
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(usize::MAX),
        first: (method == METHOD).then(|| data.unwrap_or_default().to_vec()),
    }
}

impl Machine for ShardMachine {
    type Batch = MeshBatch;

    fn route(&self, input: &[u8]) -> Routing {
        let limits = Limits {
            packet_bytes_max: self.limits.packet_bytes.min(CONNECT_BYTES_MAX),
        };
        match peek_client_id(input, &limits) {
            Ok(Peek::NeedMore { .. }) => Routing::NeedMore,
            Ok(Peek::Connect { client_id, .. }) if !client_id.is_empty() => {
                Routing::Home(home_shard(client_id, self.homes).index())
            }
            // Without a name it stays here; what is no CONNECT is refused here.
            Ok(Peek::Connect { .. }) | Err(_) => Routing::Home(self.shard.index()),
        }
    }

    fn claim(&self, input: &[u8]) -> Claim {
        let limits = Limits {
            packet_bytes_max: self.limits.packet_bytes.min(CONNECT_BYTES_MAX),
        };
        match decode(input, Version::V5, &limits, Direction::FromClient) {
            Ok(Decoded::NeedMore { .. }) => Claim::NeedMore,
            Ok(Decoded::Packet {
                packet: Packet::Connect(connect),
                len,
            }) => {
                let dialect = if connect.version.has_properties() {
                    Dialect::New
                } else {
                    Dialect::Old
                };
                if let Some(method) = connect.properties.authentication_method() {
                    return Claim::Method(Box::new(method_claim(&connect, method, len)));
                }
                match connect.user_name {
                    None => Claim::Anonymous(dialect),
                    Some(name) => {
                        let password = connect.password.unwrap_or_default();
                        Claim::User(dialect, name.to_owned(), password.to_vec())
                    }
                }
            }
            Ok(Decoded::Packet { .. }) | Err(_) => Claim::Unreadable,
        }
    }

    fn connected(&mut self, now: Now, connection: Key) {
        self.core.connected(now, ConnectionId(connection.0));
    }

    fn admitted(&mut self, connection: Key, admission: Admission) {
        self.core.admitted(ConnectionId(connection.0), admission);
    }

    fn poll_reauthentication(&mut self) -> Option<Reauthentication> {
        self.core.poll_reauthentication()
    }

    fn authenticated(&mut self, connection: Key, proof: &Proof) {
        self.core.authenticated(ConnectionId(connection.0), proof);
    }

    fn comes_from(&mut self, connection: Key, address: IpAddr) {
        self.core.comes_from(ConnectionId(connection.0), address);
    }

    fn set_topics(&mut self, now: Now, topics: TopicRules) {
        self.core.set_topics(now, topics);
    }

    fn set_rules(&mut self, now: Now, rules: Arc<Rules>) {
        self.core.set_rules(now, rules);
    }

    fn kick(&mut self, now: Now, client_id: &str, redirect: Option<&Redirect>) -> bool {
        self.core.kick(now, client_id, redirect)
    }

    fn received(&mut self, now: Now, connection: Key, bytes: &[u8]) -> usize {
        self.core.received(now, ConnectionId(connection.0), bytes)
    }

    fn disconnected(&mut self, now: Now, connection: Key) {
        self.core.disconnected(now, ConnectionId(connection.0));
    }

    fn mesh(&mut self, now: Now, from: usize, batch: MeshBatch) {
        self.core.mesh(now, peer(from), batch);
    }

    fn numbers_due(&mut self, now: Now) -> bool {
        let now_ms = now.monotonic_ms();
        let is_due = self.shard == ShardId(0)
            && self.numbers_interval_ms > 0
            && now_ms >= self.next_numbers_ms;
        if is_due {
            self.next_numbers_ms = now_ms + self.numbers_interval_ms;
        }
        is_due
    }

    fn announce(&mut self, now: Now, topic: &str, payload: &str) {
        self.core.announce(now, topic, payload);
    }

    fn disk(&mut self, now: Now) -> Result<bool, Failure> {
        self.core.disk(now).map_err(failure)
    }

    fn tick(&mut self, now: Now) {
        self.core.tick(now);
    }

    fn next_timeout(&self) -> u64 {
        self.core.next_timeout()
    }

    fn commit_due_us(&self) -> Option<u64> {
        self.core.commit_due_us()
    }

    fn end_turn(&mut self, now: Now) -> Result<(), Failure> {
        self.core.end_turn(now).map_err(failure)
    }

    fn reads_sockets(&self) -> bool {
        self.core.reads_sockets()
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.core.poll_transmit()?;
        let connection = Key(transmit.connection.0);
        Some(Transmit {
            connection,
            output: transmit.output,
            close: transmit.close,
        })
    }

    fn transmitted(&mut self, connection: Key, backlog: usize, spent: engine_shard::Output) {
        self.core
            .transmitted(ConnectionId(connection.0), backlog, spent);
    }

    fn poll_mesh(&mut self, to: usize) -> Option<MeshBatch> {
        self.core.poll_mesh(peer(to))
    }

    fn stop(&mut self, now: Now) {
        self.core.stop(now);
    }

    fn stopped(&self) -> bool {
        self.core.stopped()
    }

    fn takes_publications(&self) -> bool {
        self.core.takes_publications()
    }

    fn connect_timeout_ms(&self) -> u64 {
        1000 * u64::from(self.limits.connect_timeout_s)
    }

    fn holds(&self, connection: Key) -> Hold {
        self.core.holds(ConnectionId(connection.0))
    }

    fn open_files(&self) -> usize {
        self.core.store().open_files()
    }

    fn meters(&self, visit: &mut dyn FnMut(Meter, u64)) {
        self.core
            .shard()
            .counters()
            .each(|name, help, kind, value| {
                let only_grows = kind == Kind::Counter;
                visit(
                    Meter {
                        name,
                        help,
                        only_grows,
                    },
                    value,
                );
            });
        let store = self.core.store().counters();
        let (log, index, state) = self.core.store().parts();
        let (waits_for_room, index_waits) = (state.waits_for_room(), index.shortage().is_some());
        let (index, state) = (index.counters(), state.counters());
        let retention = store.retention;
        let log_files: u64 = log.segments().map(|segment| segment.size).sum();
        let counters = [
            store.records_appended,
            store.bytes_appended,
            store.unreadable,
            store.commits_held,
            store.chunk_reads,
            store.chunk_bytes,
            state.batches_committed,
            retention.segments,
            retention.bytes,
            retention.carried_bytes,
            retention.names,
        ];
        let gauges = [
            log.start().0,
            log_files,
            retention.disk_percent,
            store.reads,
            store.queues,
            log.appended().0.saturating_sub(log.durable().0),
            index.entries_in_memory,
            index.runs,
            state.overlay_bytes,
            u64::from(log.has_shortage()),
            u64::from(waits_for_room),
            u64::from(index_waits),
        ];
        for ((name, help), value) in COUNTERS.into_iter().zip(counters) {
            visit(
                Meter {
                    name,
                    help,
                    only_grows: true,
                },
                value,
            );
        }
        for ((name, help), value) in GAUGES.into_iter().zip(gauges) {
            visit(
                Meter {
                    name,
                    help,
                    only_grows: false,
                },
                value,
            );
        }
    }
}
