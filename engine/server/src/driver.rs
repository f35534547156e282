//! One shard's turns: sockets, mesh and disk into the machine, and its answers out again.
//!
//! A turn drains what has come, ends the machine's turn (which starts a commit), queues all sends
//! and mesh batches, and enters the kernel once. The driver decides nothing about MQTT. It runs on
//! its shard's thread and never waits: [`Driver::may_sleep`] tells its owner when it could.

mod accept;
mod again;
mod held;
mod meters;
mod orders;
mod welcome;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use engine_shard::Admission;
use tracing::info;

use self::again::Again;
use self::welcome::Check;
use crate::descriptors::FullDoor;
use crate::machine::{Failure, Hold, Machine, Now, Routing};
use crate::mesh::{Bell, Mesh, Parcel};
use crate::net::{Net, Phase, Received, Sent};
use crate::numbers;
use crate::ring::Completion;
use crate::shared::Shared;
use crate::slots::Key;
use crate::socket;
use crate::transport::ServerTls;

/// Connections of one shard whose CONNECT is not complete.
pub(crate) const DOOR_CONNECTIONS_MAX: usize = 16_384;

/// Bytes that all of them together may have sent.
pub(crate) const DOOR_BYTES_MAX: usize = 64 << 20;

/// How long the last bytes of a closed connection may take, in milliseconds.
const DRAIN_MS_MAX: u64 = 5_000;

/// How long a stop waits for slow clients to take their last bytes, in milliseconds.
const STOP_DRAIN_MS_MAX: u64 = 2_000;

/// Pause before a full mesh ring is tried again when there is nothing else to do, in milliseconds.
const MESH_RETRY_MS: u64 = 1;

/// How often the counters are published, in milliseconds.
const PUBLISH_MS: u64 = 1_000;

/// Sockets read from in one turn, and about how many bytes: a turn stays a matter of a few
/// milliseconds.
const READS_PER_TURN: usize = 512;
const BYTES_PER_TURN: usize = 4 << 20;

/// Bytes of packets that may leave the memory they were in to what follows them.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// Connections whose CONNECT is not complete.
#[derive(Default)]
struct Door {
    /// When each has to be done, and which it is; in order, because all get the same time.
    deadlines: VecDeque<(u64, Key)>,
    count: usize,
    bytes: usize,
    refused: u64,
    timeouts: u64,
}

/// See the module.
pub(crate) struct Driver<M: Machine> {
    machine: M,
    net: Net,
    mesh: Mesh<M::Batch>,
    shared: Arc<Shared>,
    shard: usize,
    listeners: Vec<OwnedFd>,
    /// The listeners whose accept has ended.
    unarmed: Vec<u32>,
    /// The listeners whose accept brings all that come.
    armed_for_all: Vec<u32>,
    /// Connections that came when there was no room, with their listeners.
    waiting: VecDeque<(u32, OwnedFd)>,
    door: Door,
    /// Closed connections with bytes on their way, and when that has to be over.
    draining: VecDeque<(u64, Key)>,
    /// Connections whose next packet has to wait for room.
    held: VecDeque<Key>,
    /// Connections whose next packet has to wait for its time, and that, monotonic milliseconds.
    paused: BinaryHeap<Reverse<(u64, Key)>>,
    completions: Vec<Completion>,
    accept_again_at: Option<u64>,
    publish_at: u64,
    stop_drain_until: Option<u64>,
    reported_stopped: bool,
    mesh_blocked: bool,
    /// Connections at the door whose password is being checked, and what was found.
    checking: BTreeMap<Key, Check>,
    /// What the connection that is about to leave the door has proved.
    admission: Option<Box<Admission>>,
    again: Again,
    passwords_good: u64,
    clients_unwelcome: u64,
    /// For new connections.
    tls: Option<ServerTls>,
    accepted: u64,
    handed_over: u64,
    accept_failures: u64,
    full_door: FullDoor,
}

impl<M: Machine> Driver<M> {
    /// On the shard's own thread. The listeners are bound and do not listen yet.
    pub(crate) fn new(
        shard: usize,
        machine: M,
        mesh: Mesh<M::Batch>,
        listeners: Vec<OwnedFd>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let bell = mesh.bells().get(shard).ok_or(io::ErrorKind::NotFound)?;
        let net = Net::new(bell.event(), shared.descriptors().limit())?;
        Ok(Self {
            machine,
            net,
            mesh,
            shared,
            shard,
            listeners,
            unarmed: Vec::new(),
            armed_for_all: Vec::new(),
            waiting: VecDeque::new(),
            door: Door::default(),
            draining: VecDeque::new(),
            held: VecDeque::new(),
            paused: BinaryHeap::new(),
            completions: Vec::new(),
            accept_again_at: None,
            publish_at: 0,
            stop_drain_until: None,
            reported_stopped: false,
            mesh_blocked: false,
            checking: BTreeMap::new(),
            admission: None,
            again: Again::default(),
            passwords_good: 0,
            clients_unwelcome: 0,
            tls: None,
            accepted: 0,
            handed_over: 0,
            accept_failures: 0,
            full_door: FullDoor::default(),
        })
    }

    /// Opens the listeners; the first turn takes connections. The routing table holds every durable
    /// filter by now.
    pub(crate) fn listen(&mut self) -> io::Result<()> {
        self.listeners.iter().try_for_each(socket::listen)?;
        self.unarmed = (0u32..)
            .zip(&self.listeners)
            .map(|(number, _)| number)
            .collect();
        Ok(())
    }

    /// Tells what the published numbers mean; the same for all shards.
    pub(crate) fn name_meters(&self) {
        let mut names = Vec::new();
        self.meters(&mut |meter, _| names.push(meter));
        self.shared.name_cells(names);
    }

    /// One more turn is done.
    pub(crate) fn count_turn(&self) {
        self.shared.count_turn(self.shard);
    }

    /// Gives the kernel what is queued, and lets it post what has come.
    fn enter(&mut self) -> Result<(), Failure> {
        self.net.enter().map_err(|error| enter_failed(&error))
    }

    /// Sleeps until something has come, the bell is rung or a deadline is near; `now` is the last
    /// turn's.
    pub(crate) fn sleep(&mut self, now: Now) -> Result<(), Failure> {
        let delay_ms = self.next_deadline(now).saturating_sub(now.monotonic_ms());
        let mut delay = Duration::from_millis(delay_ms.max(1));
        if let Some(due_us) = self.machine.commit_due_us() {
            let delay_us = due_us.saturating_sub(now.monotonic_us);
            delay = delay.min(Duration::from_micros(delay_us.max(1)));
        }
        self.net
            .first_ring()
            .sleep(delay)
            .map_err(|error| enter_failed(&error))
    }

    /// One turn; returns whether there was anything to do.
    pub(crate) fn turn(&mut self, now: Now) -> Result<bool, Failure> {
        if self.shared.is_stopping() && self.stop_drain_until.is_none() {
            self.begin_stop(now);
        }
        let mut worked = self.take_completions(now);
        // Before the mesh brings a client's next connection, which ends the one that is read here.
        worked |= self.read_sockets(now)?;
        worked |= self.take_mesh(now);
        worked |= self.take_reauthentications(now);
        worked |= self.take_verdicts(now);
        worked |= self.take_orders(now);
        worked |= self.machine.disk(now)?;
        worked |= self.resume_held(now);
        worked |= self.resume_paused(now);
        if now.monotonic_ms() >= self.machine.next_timeout() {
            self.machine.tick(now);
            worked = true;
        }
        self.machine.end_turn(now)?;
        worked |= self.transmit(now);
        worked |= self.send_mesh();
        self.expire(now);
        self.report_stopped(now);
        if self.net.wants_enter() {
            self.enter()?;
        }
        Ok(worked)
    }

    /// Whether nothing is there to be done until the bell rings. Asked after the shard has said
    /// that it is going to sleep.
    pub(crate) fn may_sleep(&self) -> bool {
        let reads = self.net.ready_count() > 0 && self.machine.reads_sockets();
        let stops = self.shared.is_stopping() && self.stop_drain_until.is_none();
        let resumes = !self.held.is_empty() && self.machine.takes_publications();
        let auth = self.shared.auth();
        let verdicts = auth.is_some_and(|auth| auth.has_answer(self.shard));
        let orders = self.shared.orders().has(self.shard);
        !(verdicts
            || orders
            || reads
            || resumes
            || stops
            || self.mesh.has_input()
            || self.is_finished())
    }

    /// Whether all shards have come to an orderly end.
    pub(crate) fn is_finished(&self) -> bool {
        self.reported_stopped && self.shared.all_stopped()
    }

    fn take_completions(&mut self, now: Now) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        self.net.drain(&mut completions);
        let worked = !completions.is_empty();
        for completion in completions.drain(..) {
            self.completed(now, completion);
        }
        self.completions = completions;
        worked
    }

    fn completed(&mut self, now: Now, completion: Completion) {
        match completion {
            Completion::Accepted {
                listener,
                result,
                armed,
            } => self.accepted(now, listener, result, armed),
            Completion::Readable(key) => self.net.readable(key),
            Completion::Received {
                connection,
                buffer,
                result,
            } => {
                let before = self.net.layer_bytes(connection);
                let received = self.net.received(connection, buffer, &result);
                if self.net.phase(connection) == Some(Phase::Door) {
                    self.door.bytes += self.net.layer_bytes(connection);
                    self.door.bytes -= before;
                }
                if let Some(received) = received {
                    self.received(now, connection, received);
                }
            }
            Completion::Sent {
                connection,
                output,
                from,
                result,
            } => {
                let sent = self.net.sent(connection, output, from, &result);
                self.sent(now, connection, sent);
            }
        }
    }

    fn sent(&mut self, now: Now, key: Key, sent: Option<Sent>) {
        match sent {
            Some(Sent { failed: true, .. }) => self.machine.disconnected(now, key),
            Some(Sent { backlog, spent, .. }) => {
                self.machine
                    .transmitted(key, backlog, spent.unwrap_or_default());
            }
            // The door's layers have said what they had to.
            None if self.net.phase(key) == Some(Phase::Door) => self.at_door(now, key, &[]),
            None => {}
        }
    }

    fn take_mesh(&mut self, now: Now) -> bool {
        let Self { mesh, machine, .. } = self;
        let mut arrived = Vec::new();
        let count = mesh.receive(|from, parcel| match parcel {
            Parcel::Batch(batch) => machine.mesh(now, from, batch),
            Parcel::Sockets(sockets) => arrived.extend(sockets),
        });
        for mut handover in arrived {
            let admission = handover.admission.take();
            let address = handover.address;
            if let Some(key) = self.net.add(handover, Phase::Home) {
                self.arrive(now, key, admission, address);
            }
        }
        count > 0
    }

    /// Reads from the sockets that are ready, as long as the machine has room: some at a time, with
    /// one system call for all of them.
    fn read_sockets(&mut self, now: Now) -> Result<bool, Failure> {
        let before = self.net.counters().received_bytes;
        let mut left = self.net.ready_count().min(READS_PER_TURN);
        let mut worked = false;
        self.net.allow_handshakes();
        while left > 0 && self.machine.reads_sockets() {
            let taken = self.net.counters().received_bytes - before;
            if taken > BYTES_PER_TURN as u64 {
                break;
            }
            let count = self.net.receive(left);
            if count == 0 {
                break;
            }
            left -= count;
            worked = true;
            self.enter()?;
            self.take_completions(now);
        }
        Ok(worked)
    }

    fn received(&mut self, now: Now, key: Key, received: Received) {
        let Some(phase) = self.net.phase(key) else {
            return;
        };
        match (phase, received) {
            (Phase::Draining | Phase::Shut, _) => {}
            (_, Received::Nothing) => {
                if phase == Phase::Home {
                    self.deliver(now, key, &[]);
                }
                self.read_on(key);
            }
            (Phase::Door, Received::Ended) => self.close_at_door(key),
            (Phase::Home, Received::Ended) => {
                self.net.shut(key);
                self.machine.disconnected(now, key);
            }
            (_, Received::Bytes(buffer, n)) => {
                let bytes = buffer.get(..n).unwrap_or_default();
                if phase == Phase::Door {
                    self.at_door(now, key, bytes);
                } else {
                    self.deliver(now, key, bytes);
                    self.read_on(key);
                }
                self.net.put_buffer(buffer);
            }
            (_, Received::Closed(bytes, n)) => {
                let bytes = bytes.get(..n).unwrap_or_default();
                self.closed_by_layers(now, key, bytes);
            }
        }
    }

    /// The layers have come to an end, behind these last bytes.
    fn closed_by_layers(&mut self, now: Now, key: Key, bytes: &[u8]) {
        if self.net.phase(key) == Some(Phase::Home) {
            self.deliver(now, key, bytes);
            // The machine may have ended it itself: those were DISCONNECT's bytes.
            self.machine.disconnected(now, key);
        } else {
            self.leave_door(key);
        }
        self.close(now, key);
    }

    /// Gives the machine what was left of the last read, and `new` behind it.
    fn deliver(&mut self, now: Now, key: Key, new: &[u8]) {
        let mut bytes = self.net.take_partial(key);
        if bytes.is_empty() {
            if !new.is_empty() {
                let used = self.machine.received(now, key, new);
                let rest = new.get(used..).unwrap_or_default();
                if !rest.is_empty() {
                    self.net.put_partial(key, rest.to_vec());
                }
            }
            return;
        }
        bytes.extend_from_slice(new);
        self.offer(now, key, bytes);
    }

    /// Gives the machine bytes, and keeps what it does not use.
    fn offer(&mut self, now: Now, key: Key, mut bytes: Vec<u8>) {
        let used = self.machine.received(now, key, &bytes);
        if used < bytes.len() {
            bytes.drain(..used);
            // The memory of a large packet does not stay with what follows it.
            if used > READ_AHEAD_BYTES {
                bytes.shrink_to_fit();
            }
            self.net.put_partial(key, bytes);
        }
    }

    /// A connection is at its home: the machine gets what it has sent so far.
    fn arrive(
        &mut self,
        now: Now,
        key: Key,
        admission: Option<Box<Admission>>,
        address: Option<IpAddr>,
    ) {
        self.machine.connected(now, key);
        if let Some(address) = address {
            self.machine.comes_from(key, address);
        }
        if let Some(admission) = admission {
            self.machine.admitted(key, *admission);
        }
        self.deliver(now, key, &[]);
        self.read_on(key);
    }

    /// A connection that was read from is watched again, or waits until the machine has room.
    fn read_on(&mut self, key: Key) {
        match self.machine.holds(key) {
            Hold::Room => self.held.push_back(key),
            Hold::Until(at_ms) => self.paused.push(Reverse((at_ms, key))),
            Hold::No if self.machine.reads_sockets() => self.net.watch(key),
            Hold::No => self.net.read_later(key),
        }
    }

    fn at_door(&mut self, now: Now, key: Key, new: &[u8]) {
        let mut bytes = self.net.take_partial(key);
        bytes.extend_from_slice(new);
        self.door.bytes += new.len();
        let routing = self.machine.route(&bytes);
        self.net.put_partial(key, bytes);
        match routing {
            Routing::NeedMore if self.door.bytes > DOOR_BYTES_MAX => {
                self.door.refused += 1;
                self.close_at_door(key);
            }
            Routing::NeedMore => self.net.watch(key),
            // It moves without operations: when that send is over, this is tried again.
            Routing::Home(_) if self.net.is_sending(key) => {}
            Routing::Home(_) if !self.is_welcome(now, key) => {}
            Routing::Home(home) => self.move_home(now, key, home),
        }
    }

    /// A connection leaves the door for its home, with what is known of it.
    fn move_home(&mut self, now: Now, key: Key, home: usize) {
        let admission = self.admission.take();
        let has_rules = self.shared.orders().has_rules;
        let Ok(address) = self.net.address(key, has_rules) else {
            self.door.refused += 1;
            self.close_at_door(key);
            return;
        };
        self.leave_door(key);
        if home == self.shard {
            if let Some(key) = self.net.come_home(key) {
                self.arrive(now, key, admission, address);
            }
        } else if let Some(mut handover) = self.net.leave(key) {
            handover.admission = admission;
            handover.address = address;
            self.handed_over += 1;
            self.mesh.hand_over(home, handover);
        }
    }

    fn leave_door(&mut self, key: Key) {
        self.checking.remove(&key);
        let bytes = self.net.take_partial(key);
        self.door.count -= 1;
        self.door.bytes -= bytes.len() + self.net.layer_bytes(key);
        self.net.put_partial(key, bytes);
    }

    fn close_at_door(&mut self, key: Key) {
        if self.net.phase(key) == Some(Phase::Door) {
            self.leave_door(key);
            self.net.shut(key);
        }
    }

    fn close(&mut self, now: Now, key: Key) {
        if self.net.close_behind_bytes(key) {
            self.draining
                .push_back((now.monotonic_ms() + DRAIN_MS_MAX, key));
        }
    }

    fn transmit(&mut self, now: Now) -> bool {
        let mut worked = false;
        while let Some(transmit) = self.machine.poll_transmit() {
            worked = true;
            let key = transmit.connection;
            self.net.send(key, transmit.output);
            if transmit.close {
                self.close(now, key);
            }
        }
        worked
    }

    fn send_mesh(&mut self) -> bool {
        let Self { mesh, machine, .. } = self;
        let before = mesh.full();
        let sent = mesh.send(|to| machine.poll_mesh(to));
        self.mesh_blocked = mesh.full() > before;
        sent > 0
    }

    /// Ends what has taken too long, takes connections again, publishes the counters.
    fn expire(&mut self, now: Now) {
        let now_ms = now.monotonic_ms();
        while let Some((_, key)) = self.door.deadlines.pop_front_if(|(at, _)| *at <= now_ms) {
            if self.net.phase(key) == Some(Phase::Door) {
                self.door.timeouts += 1;
                self.close_at_door(key);
            }
        }
        while let Some((_, key)) = self.draining.pop_front_if(|(at, _)| *at <= now_ms) {
            self.net.shut(key);
        }
        if self.accept_again_at.is_some_and(|at| at <= now_ms) {
            self.accept_again_at = None;
        }
        let is_open = self.stop_drain_until.is_none() && self.accept_again_at.is_none();
        if is_open && self.wants_accept() {
            self.accept(now);
        }
        if self.publish_at <= now_ms {
            self.publish_at = now_ms + PUBLISH_MS;
            self.expire_again(now);
            // The first ring is among what the thread has opened.
            let files = self.machine.open_files() + self.net.rings().len() - 1;
            let files = files as u64;
            self.shared.descriptors().tell_files(self.shard, files);
            self.publish();
            if self.machine.numbers_due(now) {
                for (topic, payload) in numbers::of(&self.shared, now.monotonic_ms()) {
                    self.machine.announce(now, topic, &payload);
                }
            }
        }
    }

    /// When the shard has to be awake again, in monotonic milliseconds.
    fn next_deadline(&self, now: Now) -> u64 {
        let mut at = self.machine.next_timeout().min(self.publish_at);
        let front = |queue: &VecDeque<(u64, Key)>| queue.front().map(|(at, _)| *at);
        let others = [
            front(&self.door.deadlines),
            front(&self.draining),
            self.paused.peek().map(|Reverse((at, _))| *at),
            self.accept_again_at,
        ];
        for other in others.into_iter().flatten() {
            at = at.min(other);
        }
        if self.mesh_blocked {
            at = at.min(now.monotonic_ms() + MESH_RETRY_MS);
        }
        if let Some(until) = self.stop_drain_until.filter(|_| !self.reported_stopped) {
            at = at.min(until);
        }
        at
    }

    fn begin_stop(&mut self, now: Now) {
        info!(shard = self.shard, connections = self.net.len(), "stopping");
        self.stop_drain_until = Some(now.monotonic_ms() + STOP_DRAIN_MS_MAX);
        self.accept_again_at = None;
        self.waiting.clear();
        for listener in &self.listeners {
            socket::shut_down(listener.as_fd());
        }
        for key in self.net.keys() {
            self.close_at_door(key);
        }
        self.machine.stop(now);
    }

    /// Tells the other shards once that this one has nothing left to do but to answer them.
    fn report_stopped(&mut self, now: Now) {
        let Some(until) = self.stop_drain_until else {
            return;
        };
        let drained = self.net.sends_in_flight() == 0 || until <= now.monotonic_ms();
        if !self.reported_stopped && drained && self.machine.stopped() {
            self.reported_stopped = true;
            self.publish();
            if self.shared.one_stopped() {
                self.mesh.bells().iter().for_each(Bell::ring);
            }
        }
    }

    fn publish(&self) {
        let mut values = self.shared.cells(self.shard).iter();
        self.meters(&mut |_, value| {
            if let Some(cell) = values.next() {
                cell.store(value, std::sync::atomic::Ordering::Relaxed);
            }
        });
    }
}

fn enter_failed(error: &io::Error) -> Failure {
    Failure(format!("io_uring_enter failed: {error}"))
}
