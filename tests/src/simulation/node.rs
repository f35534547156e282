//! The node: its shards, their disk queues, and the rings of the mesh. This is the one file that
//! knows which glue joins machine and storage.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use engine_mqtt::{QoS, RetainHandling, SubscriptionOptions};
use engine_server::node::{CoreError, NodeOptions, Now, ShardCore, open_node};
use engine_shard::{
    AutoSubscription, Census, ConnectionId, Cut, LogOffset, MeshBatch, Output, ShardConfig,
    ShardId, Table, Transmit,
};
use storage_io::sim::{Rng, SimDisk, SimFile, SimQueue};
use storage_io::{Completion, Disk, DiskQueue, Op};
use storage_log::{Finding, RecordKind, inspect};

use super::leaks::check_bounds;
use crate::history::{MessageId, message_id};

/// Batches that a ring between two shards holds.
const RING_BATCHES: usize = 2;

/// A disk queue that the simulation moves while its shard holds it.
#[derive(Clone, Debug, Default)]
struct SharedQueue(Rc<RefCell<SimQueue>>);

impl DiskQueue<SimFile> for SharedQueue {
    fn submit(&mut self, token: u64, op: Op<SimFile>) {
        self.0.borrow_mut().submit(token, op);
    }

    fn poll(&mut self) -> Option<Completion> {
        self.0.borrow_mut().poll()
    }
}

/// Rows of the state stores, by table: keys and values.
pub(super) type Rows = BTreeMap<u8, Vec<(Vec<u8>, Vec<u8>)>>;

/// Bounds that a few clients reach.
fn tune(config: &mut ShardConfig) {
    config.inflight_max = 8;
    config.receive_max = 16;
    config.output_bytes_max = 1024;
    config.shared_payload_min = 64;
    config.held_bytes_max = 512;
    config.ring_events_max = 32;
    config.lane_events_max = 6;
    config.reads_max = 12;
    config.pending_max = 24;
    config.group_inflight_max = 12;
    config.tombstone_margin_ms = 1_000;
    config.park_after_ms = 100;
    config.park_life_min_ms = 1_000;
    config.retained_page_max = 1;
    config.retained_cached_max = 2;
    config.delayed_window_max = 2;
    config.delayed_window_bytes_max = 2_000;
}

/// What every client is subscribed to, once for good and at every CONNECT.
pub(super) const AUTO_FILTERS: [&str; 2] = ["auto/once", "auto/again/#"];

pub(super) fn auto_subscriptions(wanted: bool) -> Option<Arc<[AutoSubscription]>> {
    let handlings = [RetainHandling::SendIfNew, RetainHandling::Send];
    let one = |(filter, retain_handling)| {
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            retain_handling,
            ..SubscriptionOptions::default()
        };
        AutoSubscription::new(filter, options).ok()
    };
    wanted.then(|| {
        AUTO_FILTERS
            .into_iter()
            .zip(handlings)
            .filter_map(one)
            .collect()
    })
}

struct Seat {
    core: ShardCore<SimDisk, SharedQueue>,
    queue: SharedQueue,
    /// By sender.
    rings: Vec<VecDeque<MeshBatch>>,
}

/// See the module.
pub(super) struct Node {
    seats: Vec<Seat>,
    /// As every shard has it.
    config: ShardConfig,
}

impl Node {
    /// Starts a node on what is on the disk.
    pub(super) fn start(
        disk: &SimDisk,
        homes: u8,
        seed: u64,
        retains: bool,
        gives: Option<Arc<[AutoSubscription]>>,
        now: Now,
    ) -> Result<Self, String> {
        let mut options = NodeOptions::new(homes, seed);
        options.names_max = 4;
        if retains {
            options.log.segment_bytes_min = 16 << 10;
            options.log.segment_bytes_max = 16 << 10;
            options.retention.bytes = Some(32 << 10);
            options.retention.check_ms = 20;
            options.retention.pause_ms = 20;
            options.retention.answer_ms = 500;
            options.state_interval_ms = 50;
        } else {
            options.log.segment_bytes_min = 64 << 10;
            options.log.segment_bytes_max = 128 << 10;
        }
        // On a disk that is nearly full the logs leave room to the state stores.
        options.log.free_bytes_min = u64::from(homes) * (256 << 10);
        options.reserve_bytes = 128 << 10;
        // Small enough that readers that are behind go to the disk, and indexes are flushed.
        options.log.tail_bytes_max = 16 << 10;
        options.log.cache_bytes_max = 128 << 10;
        options.index.memtable_entries_max = 60;
        options.index.cache_pages = 64;
        options.state.cache_bytes = 1 << 20;
        options.state.batch_bytes_min = 4 << 10;
        options.auto_subscriptions = gives;
        options.reads.found_max = 6;
        options.reads.kept_bytes_max = 0;
        options.tune = tune;
        let opened = open_node(disk, &options, now, None).map_err(|error| error.to_string())?;
        let shards = opened.meta.shards;
        let seats = opened.shards.into_iter().map(|parts| {
            let queue = SharedQueue::default();
            let core = ShardCore::new(parts, queue.clone());
            let rings = (0..shards).map(|_| VecDeque::new()).collect();
            Seat { core, queue, rings }
        });
        let mut config = ShardConfig::new(ShardId(0), shards, 0, seed);
        config.homes = homes;
        tune(&mut config);
        Ok(Self {
            seats: seats.collect(),
            config,
        })
    }

    /// Shards, those that serve no clients included.
    pub(super) const fn shards(&self) -> u8 {
        self.config.shards
    }

    /// Begins an orderly stop.
    pub(super) fn stop(&mut self, now: Now) {
        for seat in &mut self.seats {
            seat.core.stop(now);
        }
    }

    /// Every shard has come to its end.
    pub(super) fn is_stopped(&self) -> bool {
        self.seats.iter().all(|seat| seat.core.stopped())
    }

    /// Reads that have failed and were begun once more.
    pub(super) fn reads_again(&self) -> u64 {
        let shards = self.seats.iter();
        shards
            .map(|seat| seat.core.store().counters().reads_again)
            .sum()
    }

    /// What every shard holds.
    pub(super) fn censuses(&self) -> Vec<Census> {
        let censuses = self.seats.iter().map(|seat| seat.core.shard().census());
        censuses.collect()
    }

    /// The bounds of one shard.
    pub(super) fn check_bounds(&self, shard: usize) -> Result<(), String> {
        let seat = self.seats.get(shard);
        seat.map_or(Ok(()), |seat| {
            check_bounds(&seat.core.shard().census(), &self.config)
        })
    }

    /// All rows of the state stores.
    pub(super) fn rows(&self) -> Result<Rows, String> {
        let mut rows = Rows::new();
        for seat in &self.seats {
            let (_, _, state) = seat.core.store().parts();
            for row in state.scan_all().map_err(|error| error.to_string())? {
                let row = row.map_err(|error| error.to_string())?;
                let table = rows.entry(row.table).or_default();
                table.push((row.key, row.value));
            }
        }
        Ok(rows)
    }

    /// Moves one operation of a shard's disk.
    pub(super) fn step_disk(&mut self, shard: usize, rng: &mut Rng) -> bool {
        self.seats
            .get_mut(shard)
            .is_some_and(|seat| seat.queue.0.borrow_mut().step(rng))
    }

    /// A client's socket has come home.
    pub(super) fn connected(&mut self, shard: usize, now: Now, connection: ConnectionId) {
        if let Some(seat) = self.seats.get_mut(shard) {
            seat.core.connected(now, connection);
        }
    }

    /// Bytes from a client; how many were used.
    pub(super) fn received(
        &mut self,
        shard: usize,
        now: Now,
        connection: ConnectionId,
        bytes: &[u8],
    ) -> usize {
        let seat = self.seats.get_mut(shard);
        seat.map_or(0, |seat| seat.core.received(now, connection, bytes))
    }

    /// A client's socket has gone.
    pub(super) fn disconnected(&mut self, shard: usize, now: Now, connection: ConnectionId) {
        if let Some(seat) = self.seats.get_mut(shard) {
            seat.core.disconnected(now, connection);
        }
    }

    /// Where a shard's log is to begin, while that is being moved.
    pub(super) fn retiring(&self, shard: usize) -> Option<LogOffset> {
        let seat = self.seats.get(shard)?;
        seat.core.store().retiring()
    }

    /// What retention has taken from sessions in a shard's last turn.
    pub(super) fn cuts(&self, shard: usize) -> &[Cut] {
        self.seats.get(shard).map_or(&[], |seat| seat.core.cuts())
    }

    /// Segments that retention has taken, and tombstones that were freed.
    pub(super) fn retired(&self) -> (u64, u64) {
        let seats = self.seats.iter();
        let segments = seats.map(|seat| seat.core.store().counters().retention.segments);
        let seats = self.seats.iter();
        let freed = seats.map(|seat| seat.core.shard().counters().tombstones_freed);
        (segments.sum(), freed.sum())
    }

    /// Whether a shard reads from its clients now.
    pub(super) fn reads_sockets(&self, shard: usize) -> bool {
        self.seats
            .get(shard)
            .is_some_and(|seat| seat.core.reads_sockets())
    }

    /// So many bytes for a client wait.
    pub(super) fn transmitted(&mut self, shard: usize, connection: ConnectionId, backlog: usize) {
        if let Some(seat) = self.seats.get_mut(shard) {
            seat.core.transmitted(connection, backlog, Output::EMPTY);
        }
    }

    /// The first part of a shard's turn, before its sockets: the disk, and any part of the mesh.
    pub(super) fn begin_turn(
        &mut self,
        shard: usize,
        now: Now,
        rng: &mut Rng,
        all: bool,
    ) -> Result<(), String> {
        let Some(seat) = self.seats.get_mut(shard) else {
            return Ok(());
        };
        if all || rng.chance(3, 4) {
            seat.core.disk(now).map_err(stopped)?;
        }
        for (from, ring) in (0..).map(ShardId).zip(&mut seat.rings) {
            while !ring.is_empty() && (all || rng.chance(3, 4)) {
                if let Some(batch) = ring.pop_front() {
                    seat.core.mesh(now, from, batch);
                }
            }
        }
        Ok(())
    }

    /// The last part of a shard's turn; what it sends to clients.
    pub(super) fn end_turn(&mut self, shard: usize, now: Now) -> Result<Vec<Transmit>, String> {
        let shards = self.seats.len();
        let Some(seat) = self.seats.get_mut(shard) else {
            return Ok(Vec::new());
        };
        if seat.core.next_timeout() <= now.monotonic_ms() {
            seat.core.tick(now);
        }
        seat.core.end_turn(now).map_err(stopped)?;
        let unreadable = seat.core.store().counters().unreadable;
        if unreadable > 0 {
            // Nothing rots on this disk: what is referred to is there.
            return Err(format!(
                "unreadable: shard {shard} could not read {unreadable} records"
            ));
        }
        let mut transmits = Vec::new();
        while let Some(transmit) = seat.core.poll_transmit() {
            transmits.push(transmit);
        }
        for (number, to) in (0..).map(ShardId).zip(0..shards) {
            if to != shard {
                self.carry(shard, number);
            }
        }
        Ok(transmits)
    }

    fn carry(&mut self, from: usize, to: ShardId) {
        let ring = self
            .seats
            .get(to.index())
            .and_then(|seat| seat.rings.get(from));
        if ring.is_none_or(|ring| ring.len() >= RING_BATCHES) {
            return;
        }
        let batch = self
            .seats
            .get_mut(from)
            .and_then(|seat| seat.core.poll_mesh(to));
        let ring = self
            .seats
            .get_mut(to.index())
            .and_then(|seat| seat.rings.get_mut(from));
        if let Some(ring) = ring {
            ring.extend(batch);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn stopped(error: CoreError) -> String {
    format!("stopped: {error}")
}

/// The publications of one log on a disk that lie below an offset, with their addresses.
pub(super) fn messages_below(
    disk: &SimDisk,
    shard: usize,
    upto: LogOffset,
) -> Result<BTreeMap<(u32, u64), MessageId>, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let directory = disk
        .sub(&format!("shard-{shard}"))
        .map_err(|error| failed(&error))?;
    let mut found = BTreeMap::new();
    for finding in inspect(directory).map_err(|error| failed(&error))? {
        let Finding::Record(record) = finding else {
            continue;
        };
        let (log, at) = record.address;
        let body = engine_session::Body::decode(&record.body).ok();
        let message = body.and_then(|body| message_id(body.payload));
        if let Some(message) = message.filter(|_| at.0 < upto.0) {
            found.insert((log.0, at.0), message);
        }
    }
    Ok(found)
}

/// Deletes what a node can rebuild from its logs: the state store and the index of a shard.
pub(super) fn delete_derived(disk: &SimDisk, shard: u8) -> Result<(), String> {
    let directory = disk
        .sub(&format!("shard-{shard}"))
        .map_err(|error| error.to_string())?;
    for name in directory.list().map_err(|error| error.to_string())? {
        if name == "state.redb" || name == "manifest" || name.starts_with("cq-") {
            directory.remove(&name).map_err(|error| error.to_string())?;
        }
    }
    directory.sync_dir().map_err(|error| error.to_string())
}

/// The numbers of all QoS 1/2 publications in the logs on a disk.
pub(super) fn stored_messages(disk: &SimDisk, shards: u8) -> Result<BTreeSet<MessageId>, String> {
    let mut found = BTreeSet::new();
    for shard in 0..shards {
        let directory = disk
            .sub(&format!("shard-{shard}"))
            .map_err(|error| error.to_string())?;
        let mut records = Vec::new();
        for finding in inspect(directory).map_err(|error| error.to_string())? {
            match finding {
                Finding::Record(record) => records.push(record),
                // What a recovery has cut off is not in the log, whatever lies there.
                Finding::Segment {
                    recovered: Some(end),
                    ..
                } => {
                    records.retain(|record| record.address.1 < end);
                }
                Finding::Start(_)
                | Finding::Segment { .. }
                | Finding::Frame { .. }
                | Finding::End { .. } => {}
                Finding::Damage(error) => {
                    return Err(format!("damage: log of shard {shard}: {error}"));
                }
            }
        }
        for record in &records {
            found.extend(delayed_messages(&record.state));
        }
        let messages = records
            .iter()
            .filter(|record| record.kind == RecordKind::Message);
        found.extend(messages.filter_map(|record| {
            let body = engine_session::Body::decode(&record.body).ok()?;
            message_id(body.payload)
        }));
    }
    Ok(found)
}

/// The publications that a record keeps until they are due.
fn delayed_messages(state: &[u8]) -> impl Iterator<Item = MessageId> + '_ {
    /// What is in front of the body: version, QoS, flags, publisher.
    const HEADER_LEN: usize = 11;
    let rows = storage_state::section::decode(state).flatten();
    let rows = rows.filter(|row| row.table == Table::Delayed as u8);
    rows.filter_map(|row| {
        let body = row.value?.get(HEADER_LEN..)?;
        let body = engine_session::Body::decode(body).ok()?;
        message_id(body.payload)
    })
}
