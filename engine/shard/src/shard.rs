//! The machine's state and the surface that its driver uses.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use engine_mqtt::Version;
use engine_session::{Address, LogId, LogOffset, Message, NO_EXPIRY, Now};
use engine_topic::RoutingTable;
use foldhash::fast::FixedState;

use crate::announce::Announcements;
use crate::authentication::Reauthentication;
use crate::barrier::Barriers;
use crate::client::{Client, ClientKey, Connection, Stage};
use crate::clock::{Clock, STAMP_COUNT_BITS};
use crate::config::ShardConfig;
use crate::connections::Connections;
use crate::counters::Counters;
use crate::delayed::DelayedTable;
use crate::ending::Ending;
use crate::exclusive::Exclusive;
use crate::interest::Interest;
use crate::lanes::{Lane, Ring};
use crate::limits::Hold;
use crate::output::Output;
use crate::park::Parked;
use crate::port::{
    Change, ConnectionId, Event, GroupMessage, MeshBatch, MeshMessage, ShardId, Store, Transmit,
};
use crate::rate::Bucket;
use crate::reads::Reads;
use crate::rehome::Rehomed;
use crate::retained_table::RetainedTable;
use crate::retire::Retirement;
use crate::routing::{RouteCache, Routing};
use crate::slab::Slab;
use crate::waits::{Pending, Wait};
use crate::wheel::Wheel;

/// Largest part of a turn's changes of state that goes into one record, bytes.
const CHANGES_BYTES_MAX: usize = 256 * 1024;

/// How often lanes without events are told how far the log is durable, milliseconds.
pub(crate) const LANE_TELL_MS: u64 = 20;

/// What a timer is for. Nothing is cancelled: what fires looks whether it is still due.
#[derive(Debug)]
pub(crate) enum Timer {
    /// The connection must have sent something.
    KeepAlive(ConnectionId, u8),
    /// The will of an ended connection, by client id and session.
    Will(Box<(Arc<str>, u64)>),
    /// A session, by index and id, in one of its absences: it may have expired, or may be parked.
    Expiry(u32, u64, u8),
    /// A connection that waits for the end after DISCONNECT.
    Farewell(ConnectionId),
}

/// One shard: connections, sessions, lanes. Pure: every input brings the time and the store.
#[derive(Debug)]
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) now: Now,
    pub(crate) counters: Counters,
    pub(crate) table: Arc<RoutingTable>,
    pub(crate) routing: Option<Routing>,
    pub(crate) routes: RouteCache,
    pub(crate) interest: Interest,
    pub(crate) barriers: Barriers,
    pub(crate) connections: Connections,
    pub(crate) transmits: VecDeque<ConnectionId>,
    pub(crate) closing: VecDeque<Transmit>,
    /// Connections after DISCONNECT, with their last bytes, that stay open until it is durable
    /// that their will is gone.
    pub(crate) leaving: BTreeMap<ConnectionId, Output>,
    /// Steps of clients that authenticate again, for the driver; at most one of each.
    pub(crate) reauthentications: VecDeque<Reauthentication>,
    pub(crate) buffers: Vec<Output>,
    pub(crate) clients: Slab<Client>,
    pub(crate) by_client_id: HashMap<Arc<str>, u32, FixedState>,
    pub(crate) parked: Parked,
    pub(crate) next_session: u64,
    pub(crate) next_client_id: u64,
    /// CONNECTs that may come.
    pub(crate) connect_rate: Bucket,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) rings: Vec<Ring>,
    pub(crate) positions: Vec<LogOffset>,
    /// The positions of the last positions record: the next record stores these.
    pub(crate) earlier_positions: Vec<LogOffset>,
    /// Where sessions that keep up stand.
    pub(crate) usual_place: Arc<engine_session::Progress>,
    pub(crate) next_positions_ms: u64,
    pub(crate) next_tell_ms: u64,
    /// By log: behind the last QoS 0 event that was handled.
    pub(crate) handled_qos0: Vec<LogOffset>,
    /// QoS 0 events of this turn for this shard.
    pub(crate) local: Vec<Event>,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) committed: LogOffset,
    pub(crate) changes: Vec<Change>,
    /// Where the last record of changes ends.
    pub(crate) changes_end: LogOffset,
    pub(crate) turn_waits: Vec<Wait>,
    pub(crate) waits: VecDeque<(LogOffset, Wait)>,
    pub(crate) retain_waits: Vec<VecDeque<(LogOffset, Wait)>>,
    pub(crate) retained: RetainedTable,
    pub(crate) delayed: DelayedTable,
    pub(crate) retirement: Retirement,
    pub(crate) reads: Reads,
    pub(crate) pump: VecDeque<ClientKey>,
    /// Sessions at their shard's position that wait for it to pass their cut.
    pub(crate) waiting: Vec<ClientKey>,
    pub(crate) dirty: Vec<ClientKey>,
    /// Sessions that wait for one of the reads to be free.
    pub(crate) starved: VecDeque<ClientKey>,
    pub(crate) timers: Wheel<Timer>,
    pub(crate) stopping: bool,
    pub(crate) last_stamp: u64,
    pub(crate) clock: Clock,
    pub(crate) scratch: Vec<u8>,
    /// One zero per log: the cuts of sessions that never were away.
    pub(crate) zero: Arc<[LogOffset]>,
    /// A position has moved in this call.
    pub(crate) positions_moved: bool,
    /// Position records still to be written since a publication was handled.
    pub(crate) active: u8,
    /// Where the QoS 0 publication in hand was stored, if it was.
    pub(crate) last_appended: Option<(Address, u64)>,
    /// Changes of the routing table that nobody waits for.
    pub(crate) route_changes: Vec<engine_topic::Change>,
    /// Wills of ended connections whose delay runs, by client id.
    pub(crate) wills: BTreeMap<Arc<str>, engine_session::Will>,
    pub(crate) due_wills: Vec<Arc<str>>,
    pub(crate) retained_reads: BTreeMap<u64, ClientKey>,
    pub(crate) last_retained_read: u64,
    /// This shard's shared groups, by session id.
    pub(crate) by_group: BTreeMap<u64, u32>,
    /// This shard's sessions that have to do with shared groups, by session id.
    pub(crate) sharers: BTreeMap<u64, u32>,
    /// QoS 2 deliveries for groups that ended sessions have, or may have, received, and of which
    /// the group does not know for good: session, group, address.
    pub(crate) orphans: BTreeSet<(u64, u64, Address)>,
    /// What is to be told about groups at the end of the turn.
    pub(crate) group_messages: VecDeque<(ShardId, GroupMessage)>,
    /// What the node says by itself in this turn.
    pub(crate) announcements: Announcements,
    /// What other homes in the past mean.
    pub(crate) rehomed: Rehomed,
    /// Shards that have said at the start who their members are.
    pub(crate) members_heard: u8,
    /// Filters of which at most one session may have an exclusive subscription.
    pub(crate) exclusive: Exclusive,
}

impl Shard {
    pub(crate) fn empty(config: ShardConfig, now: Now) -> Self {
        let (logs, seed) = (usize::from(config.shards), config.seed);
        let zero = vec![LogOffset::ZERO; logs];
        Self {
            now,
            counters: Counters::default(),
            table: engine_topic::Writer::new().current(),
            routing: None,
            routes: RouteCache::new(seed),
            interest: Interest::new(config.shard, seed),
            barriers: Barriers::new(logs),
            connections: Connections::default(),
            transmits: VecDeque::new(),
            closing: VecDeque::new(),
            leaving: BTreeMap::new(),
            reauthentications: VecDeque::new(),
            buffers: Vec::new(),
            clients: Slab::new(),
            by_client_id: HashMap::with_hasher(FixedState::with_seed(seed)),
            parked: Parked::new(),
            next_session: (u64::from(config.boot) << 40) | (u64::from(config.shard.0) << 34),
            next_client_id: 0,
            connect_rate: Bucket::new(u64::from(config.connects_per_s), now.monotonic_ms),
            lanes: (0..logs).map(|_| Lane::new(LogOffset::ZERO)).collect(),
            rings: (0..logs).map(|_| Ring::new(LogOffset::ZERO)).collect(),
            positions: zero.clone(),
            earlier_positions: zero.clone(),
            usual_place: crate::persist::usual_place(config.boot),
            next_positions_ms: now.monotonic_ms + config.positions_interval_ms,
            next_tell_ms: u64::MAX,
            handled_qos0: zero,
            local: Vec::new(),
            pending: VecDeque::new(),
            committed: LogOffset::ZERO,
            changes: Vec::new(),
            changes_end: LogOffset::ZERO,
            turn_waits: Vec::new(),
            waits: VecDeque::new(),
            retain_waits: (0..logs).map(|_| VecDeque::new()).collect(),
            retained: RetainedTable::new(seed),
            delayed: DelayedTable::new(),
            retirement: Retirement::default(),
            reads: Reads::default(),
            pump: VecDeque::new(),
            waiting: Vec::new(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            timers: Wheel::new(now.monotonic_ms),
            stopping: false,
            last_stamp: 0,
            clock: Clock::new(now),
            scratch: Vec::new(),
            zero: vec![LogOffset::ZERO; logs].into(),
            positions_moved: false,
            active: 0,
            last_appended: None,
            route_changes: Vec::new(),
            wills: BTreeMap::new(),
            due_wills: Vec::new(),
            retained_reads: BTreeMap::new(),
            last_retained_read: 0,
            by_group: BTreeMap::new(),
            sharers: BTreeMap::new(),
            orphans: BTreeSet::new(),
            group_messages: VecDeque::new(),
            announcements: Announcements::new(),
            rehomed: Rehomed::default(),
            members_heard: 0,
            exclusive: Exclusive::new(seed),
            config,
        }
    }

    /// Before the first turn: the first routing table, its writer for shard 0, and where every
    /// log's durable records end.
    ///
    /// # Panics
    /// When `ends` has not one offset per shard.
    pub fn start(
        &mut self,
        table: Arc<RoutingTable>,
        writer: Option<engine_topic::Writer>,
        ends: &[LogOffset],
    ) {
        assert_eq!(ends.len(), self.lanes.len(), "one end per log");
        self.barriers.start(table.version());
        self.counters.routing_version = table.version();
        self.table = table;
        self.routing = writer.map(Routing::new);
        self.positions = ends.to_vec();
        self.earlier_positions = ends.to_vec();
        self.handled_qos0 = ends.to_vec();
        self.rings = ends.iter().map(|end| Ring::new(*end)).collect();
        let own = ends
            .get(self.config.shard.index())
            .copied()
            .unwrap_or_default();
        self.lanes = ends.iter().map(|_| Lane::new(own)).collect();
        self.committed = own;
        self.start_groups(ends);
        self.tell_holders();
    }

    /// A client's socket has been handed to this shard.
    pub fn connected(&mut self, now: Now, connection: ConnectionId) {
        self.begin_call(now);
        self.connections
            .insert(connection, Connection::new(now.monotonic_ms));
        self.counters.connections = self.connections.len() as u64;
        let deadline = now.monotonic_ms + self.config.connect_timeout_ms;
        self.timers.arm(deadline, Timer::KeepAlive(connection, 0));
    }

    /// Bytes from a client, from a packet boundary on. Returns how many were used; the caller
    /// brings the others again, with more.
    pub fn received<S: Store>(
        &mut self,
        now: Now,
        connection: ConnectionId,
        bytes: &[u8],
        store: &mut S,
    ) -> usize {
        self.begin_call(now);
        let Some(link) = self.connections.get_mut(&connection) else {
            return bytes.len();
        };
        link.last_ms = now.monotonic_ms;
        if link.stage == Stage::Open && link.stalled.is_empty() {
            return self.packets(connection, bytes, store);
        }
        self.received_early(connection, bytes, store)
    }

    /// The client's socket is gone.
    pub fn disconnected<S: Store>(&mut self, now: Now, connection: ConnectionId, _store: &mut S) {
        self.begin_call(now);
        self.leaving.remove(&connection);
        if let Some(link) = self.unlink(connection) {
            self.part(&link, Ending::Lost);
        }
    }

    /// A batch from another shard.
    pub fn mesh<S: Store>(&mut self, now: Now, from: ShardId, batch: MeshBatch, store: &mut S) {
        self.begin_call(now);
        self.adopt(batch.routing, store);
        for message in batch.messages {
            self.mesh_message(from, message, store);
        }
        self.after_positions_moved(store);
    }

    /// The store's durable watermark has moved.
    pub fn committed<S: Store>(&mut self, now: Now, store: &mut S) {
        self.begin_call(now);
        let durable = store.durable();
        if durable <= self.committed {
            return;
        }
        self.publish_durable(durable, store);
        self.committed = durable;
        let own = self.config.shard.index();
        self.move_position(own, durable);
        let mut behind = false;
        for lane in self.peer_lanes() {
            lane.durable(durable);
            behind |= lane.is_behind(durable);
        }
        if behind && self.next_tell_ms == u64::MAX {
            self.next_tell_ms = self.now.monotonic_ms + LANE_TELL_MS;
        }
        self.settle_waits(durable, store);
        self.retain_applied(self.config.shard, durable, &[]);
        self.after_positions_moved(store);
    }

    /// Time has passed; at [`Self::next_timeout`] or later.
    pub fn tick<S: Store>(&mut self, now: Now, store: &mut S) {
        self.begin_call(now);
        let mut fired = Vec::new();
        self.timers.advance(now.monotonic_ms, &mut fired);
        for timer in fired {
            match timer {
                Timer::KeepAlive(connection, armed) => self.check_keep_alive(connection, armed),
                Timer::Will(will) => self.check_will(&will.0, will.1),
                Timer::Expiry(index, session, absence) => {
                    self.check_expiry(ClientKey { index, session }, absence, store);
                }
                Timer::Farewell(connection) => self.end_farewell(connection),
            }
        }
        self.tick_parked(store);
        if now.monotonic_ms >= self.next_tell_ms {
            self.next_tell_ms = u64::MAX;
            let committed = self.committed;
            for lane in self.peer_lanes() {
                lane.tell(committed);
            }
        }
        if now.monotonic_ms >= self.next_positions_ms {
            self.next_positions_ms = now.monotonic_ms + self.config.positions_interval_ms;
            self.store_positions();
        }
        self.sweep_retained(store);
    }

    /// When to call [`Self::tick`], monotonic milliseconds.
    #[must_use]
    pub fn next_timeout(&self) -> u64 {
        let has_reads = self.can_feed() || self.retained.reads.is_held();
        if !self.pump.is_empty() || !self.group_messages.is_empty() || has_reads {
            return self.now.monotonic_ms;
        }
        let asks = if self.retirement.has_asks() {
            self.now.monotonic_ms + LANE_TELL_MS
        } else {
            u64::MAX
        };
        let positions = if self.wants_positions() {
            self.next_positions_ms
        } else {
            u64::MAX
        };
        let timers = self.timers.next_ms().min(self.next_tell_ms);
        let timers = timers.min(self.parked.next_ms()).min(self.next_sweep_ms());
        timers.min(positions).min(asks).min(self.next_delayed_ms())
    }

    /// The end of a turn: gives what was gathered to the log, the lanes and the sessions.
    pub fn end_turn<S: Store>(&mut self, now: Now, store: &mut S) {
        self.begin_call(now);
        self.begin_retained_turn(store);
        let local = std::mem::take(&mut self.local);
        for event in local {
            self.deliver(&Arc::new(event));
        }
        self.publish_wills(store);
        self.publish_delayed(store);
        self.send_group_messages(store);
        let mut changes = std::mem::take(&mut self.route_changes);
        changes.extend(self.interest.take_away_changes());
        self.route_change(changes, store);
        self.write_routing(store);
        self.pump_clients(store);
        self.send_group_messages(store);
        self.flush_changes(store);
        // What waits for nothing new need not wait for the next commit, which may never come.
        while self
            .waits
            .front()
            .is_some_and(|(end, _)| *end <= self.committed)
        {
            self.settle_waits(self.committed, store);
            self.send_group_messages(store);
            self.flush_changes(store);
        }
        self.send_announcements(store);
        self.serve_retire_asks(store);
        self.counters.pending = self.pending.len() as u64;
        self.counters.waits = self.waits.len() as u64;
        self.counters.reads = self.reads.len() as u64;
        self.counters.barriers = self.barriers.len() as u64;
        self.counters.timers = self.timers.len() as u64;
    }

    /// Whether publications may come: false while the store has no room, or too much waits to be
    /// durable. Everything else still may, so that subscribers go on.
    #[must_use]
    pub fn takes_publications<S: Store>(&self, store: &S) -> bool {
        !store.is_full()
            && self.pending.len() < self.config.pending_max
            && self.waits.len() < self.config.pending_max
    }

    /// Whether this connection's bytes begin with a publication that has to wait.
    #[must_use]
    pub fn holds(&self, connection: ConnectionId) -> Hold {
        let link = self.connections.get(&connection);
        let Some(link) = link.filter(|link| link.is_held) else {
            return Hold::No;
        };
        match link.rate.as_ref().map_or(0, |rate| rate.until_ms) {
            0 => Hold::Room,
            until_ms => Hold::Until(until_ms),
        }
    }

    /// Whether sockets may be read: false while bounds are reached.
    #[must_use]
    pub fn reads_sockets(&self) -> bool {
        self.pending.len() < 2 * self.config.pending_max
            && self.waits.len() < 2 * self.config.pending_max
            && self.barriers.len() < self.config.pending_max
            && self
                .lanes
                .iter()
                .all(|lane| lane.queued() < self.config.lane_events_max)
    }

    /// Bytes for a client, or the end of its connection.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(transmit) = self.closing.pop_front() {
            return Some(transmit);
        }
        while let Some(connection) = self.transmits.pop_front() {
            if let Some(link) = self.connections.get_mut(&connection) {
                link.queued = false;
                let output = std::mem::take(&mut link.output);
                link.backlog += output.len();
                if !output.is_empty() {
                    return Some(Transmit {
                        connection,
                        output,
                        close: false,
                    });
                }
            }
        }
        None
    }

    /// What became of a transmit: `backlog` bytes of this connection wait for its socket; `spent`
    /// is a buffer to use again.
    pub fn transmitted(&mut self, connection: ConnectionId, backlog: usize, mut spent: Output) {
        if spent.has_buffer() && spent.capacity() <= 65_536 && self.buffers.len() < 256 {
            spent.clear();
            self.buffers.push(spent);
        }
        let Some(link) = self.connections.get_mut(&connection) else {
            return;
        };
        let was = link.backlog;
        link.backlog = backlog;
        let client = link.client;
        if let Some(client) = client.filter(|_| backlog < was) {
            self.queue_pump(client);
        }
    }

    /// What this shard has for a peer. Not to be called while the ring to that peer is full: the
    /// lane collapses by itself.
    pub fn poll_mesh(&mut self, to: ShardId) -> Option<MeshBatch> {
        let lane = self.lanes.get_mut(to.index())?;
        if lane.queued() == 0 {
            return None;
        }
        Some(MeshBatch {
            routing: Arc::clone(&self.table),
            messages: lane.take(),
        })
    }

    /// By log: everything below has been matched and handled by this shard, retained messages
    /// included.
    #[must_use]
    pub fn positions(&self) -> &[LogOffset] {
        &self.positions
    }

    /// How many shards are homes.
    #[must_use]
    pub const fn homes(&self) -> u8 {
        self.config.homes
    }

    /// This shard's counters.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) const fn own_log(&self) -> LogId {
        LogId(self.config.shard.0 as u32)
    }

    pub(crate) fn key(&self, index: u32) -> ClientKey {
        ClientKey {
            index,
            session: self.clients[index].session.id,
        }
    }

    /// The client, unless its session has ended.
    pub(crate) fn client(&mut self, key: ClientKey) -> Option<&mut Client> {
        let same = self
            .clients
            .get(key.index)
            .is_some_and(|one| one.session.id == key.session);
        same.then(|| &mut self.clients[key.index])
    }

    pub(crate) fn version_of(&self, connection: ConnectionId) -> Version {
        self.connections
            .get(&connection)
            .map_or(Version::V311, |link| link.version)
    }

    pub(crate) fn stamp(&mut self) -> u64 {
        self.last_stamp = (self.last_stamp + 1).max(self.now.wall_ms << STAMP_COUNT_BITS);
        self.last_stamp
    }

    /// Takes a stamp from another log into account: later ones of this shard are higher.
    pub(crate) fn saw_stamp(&mut self, message: &Message) {
        self.last_stamp = self.last_stamp.max(message.stamp);
    }

    /// The lanes to the other shards: nobody empties the one to this shard.
    pub(crate) fn peer_lanes(&mut self) -> impl Iterator<Item = &mut Lane> {
        let own = self.config.shard.index();
        let lanes = self.lanes.iter_mut().enumerate();
        lanes
            .filter(move |(index, _)| *index != own)
            .map(|(_, lane)| lane)
    }

    /// Sends to a peer, or back to this shard's own machine at the end of the call.
    pub(crate) fn send_peer<S: Store>(&mut self, to: ShardId, message: MeshMessage, store: &mut S) {
        if to == self.config.shard {
            self.mesh_message(to, message, store);
        } else if let Some(lane) = self.lanes.get_mut(to.index()) {
            lane.push(message);
        }
    }

    /// Appends the changes gathered so far; what waits for them waits for their record.
    pub(crate) fn flush_changes<S: Store>(&mut self, store: &mut S) {
        if !self.changes.is_empty() {
            let changes = std::mem::take(&mut self.changes);
            let mut rest = changes.as_slice();
            while !rest.is_empty() {
                let mut bytes = 0;
                let fits = rest.iter().take_while(|change| {
                    bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len) + 16;
                    bytes <= CHANGES_BYTES_MAX
                });
                let (now, later) = rest.split_at(fits.count().max(1));
                store.append(&crate::port::NewRecord {
                    message: None,
                    changes: now,
                });
                rest = later;
            }
            self.changes = changes;
            self.changes.clear();
            self.parked.has_ended = false;
            self.changes_end = store.appended();
        }
        let end = store.appended();
        self.waits
            .extend(self.turn_waits.drain(..).map(|wait| (end, wait)));
    }

    /// Queues a change of state and what is to happen when it is durable.
    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Something to do once all changes so far are durable.
    pub(crate) fn when_durable(&mut self, wait: Wait) {
        self.turn_waits.push(wait);
    }

    pub(crate) fn mark_dirty(&mut self, index: u32) {
        let key = self.key(index);
        let session = &mut self.clients[index].session;
        if session.is_durable() && !session.dirty {
            session.dirty = true;
            self.dirty.push(key);
        }
    }

    pub(crate) fn queue_pump(&mut self, index: u32) {
        let key = self.key(index);
        let client = &mut self.clients[index];
        let wanted = client.session.behind.is_some()
            || !client.resend.is_empty()
            || !client.retained.is_empty()
            || !client.held.is_empty()
            || !client.assigned.is_empty()
            || client
                .group
                .as_ref()
                .is_some_and(|group| !group.returned.is_empty());
        if wanted && !client.queued && client.is_online() {
            client.queued = true;
            self.pump.push_back(key);
        }
    }

    /// Seconds left of a message's life, or `None` when it is over.
    pub(crate) fn life(&self, body: &engine_session::Body<'_>) -> Option<Option<u32>> {
        let left = body.remaining_expiry_s(self.now.wall_ms)?;
        Some((left != NO_EXPIRY).then_some(left))
    }

    pub(crate) fn address(&self, offset: LogOffset) -> Address {
        Address {
            log: self.own_log(),
            offset,
        }
    }
}
