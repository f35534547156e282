//! The sockets of one shard: a slab of connections over its rings.
//!
//! An idle connection is one entry here and one pending operation in the kernel. It has no task, no
//! timer and no buffer: when there is something to read, it borrows one of the shard's few, and
//! only what is not a whole packet yet is kept. A connection that ends has its operations ended,
//! and its entry and its socket go when the last one has completed.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use engine_shard::Output;
use tracing::debug;

use crate::descriptors::ClientSocket;
use crate::mesh::Handover;
use crate::ring::{Completion, Ring};
use crate::rings::{Link, Rings};
use crate::slots::{Key, Slots};
use crate::socket::{self, EventFd};
use crate::transport::{Flow, LayerCounters, LayerError, Layers};

/// Bytes that one read takes at most.
const BUFFER_BYTES: usize = 64 * 1024;

/// Reads that are underway at once at most.
const BUFFERS: usize = 16;

/// Reads in one turn from connections that are in a TLS handshake: each may cost a signature.
const HANDSHAKES_PER_TURN: usize = 16;

/// Unsent bytes above which a connection's layers may not answer by themselves: pongs and renewed
/// keys for a peer that does not read.
const ANSWER_BACKLOG_MAX: usize = 256 * 1024;

/// Reads of unread bytes before a socket is closed; a close with unread bytes resets the
/// connection, and the client would lose the last packet sent to it.
const READS_BEFORE_CLOSE: usize = 16;

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Its CONNECT is not complete.
    Door,
    /// The machine knows it.
    Home,
    /// The machine has forgotten it; its last bytes are on their way.
    Draining,
    /// Shut down; its operations complete.
    Shut,
}

struct Connection {
    link: Link,
    layers: Layers,
    /// Bytes that wait; none of an idle connection.
    waiting: Option<Box<Waiting>>,
    /// Bytes that the socket has not taken yet.
    backlog: usize,
    phase: Phase,
    watched: bool,
    receiving: bool,
    /// The running send.
    sending: Option<Key>,
}

/// Bytes of a connection that wait for others.
#[derive(Default)]
struct Waiting {
    /// From a packet boundary on, not a whole packet.
    partial: Vec<u8>,
    /// Behind the running send.
    queued: Output,
}

impl Connection {
    fn take_partial(&mut self) -> Vec<u8> {
        let Some(waiting) = &mut self.waiting else {
            return Vec::new();
        };
        let partial = std::mem::take(&mut waiting.partial);
        if waiting.queued.is_empty() {
            self.waiting = None;
        }
        partial
    }

    fn put_partial(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.waiting.get_or_insert_default().partial = bytes;
        }
    }

    fn take_queued(&mut self) -> Output {
        let Some(waiting) = &mut self.waiting else {
            return Output::EMPTY;
        };
        let queued = std::mem::take(&mut waiting.queued);
        if waiting.partial.is_empty() {
            self.waiting = None;
        }
        queued
    }

    fn is_handshaking(&self) -> bool {
        let layers = self.layers.as_ref();
        layers.is_some_and(|layers| layers.is_handshaking())
    }

    const fn is_idle(&self) -> bool {
        !self.watched && !self.receiving && self.sending.is_none()
    }
}

/// What a read has found.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// MQTT bytes, in a buffer that the caller gives back with [`Net::put_buffer`].
    Bytes(Vec<u8>, usize),
    /// Nothing is there yet.
    Nothing,
    /// The end of the stream, or an error.
    Ended,
    /// MQTT bytes as above, and the end of the stream behind them: the layers closed it, or
    /// failed, and what they have to say is on its way.
    Closed(Vec<u8>, usize),
}

/// What has become of a send.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Bytes that the socket has not taken yet.
    pub(crate) backlog: usize,
    /// The buffer, when it is all sent.
    pub(crate) spent: Option<Output>,
    /// The socket failed.
    pub(crate) failed: bool,
}

/// What the sockets count.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct NetCounters {
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) receives: u64,
    pub(crate) sends: u64,
}

/// See the module.
pub(crate) struct Net {
    connections: Slots<Connection>,
    rings: Rings,
    /// Connections to read from: their watch is used up.
    ready: VecDeque<Key>,
    /// Buffers that no read has.
    buffers: Vec<Vec<u8>>,
    /// Reads from connections in a TLS handshake that this turn may still begin.
    handshakes_left: usize,
    counters: NetCounters,
    layers: LayerCounters,
}

impl Net {
    /// For the calling thread, which `bell` wakes, in a process that may have so many descriptors.
    pub(crate) fn new(bell: &EventFd, descriptors: u64) -> io::Result<Self> {
        Ok(Self {
            connections: Slots::new(),
            rings: Rings::new(bell, descriptors)?,
            ready: VecDeque::new(),
            buffers: vec![Vec::new(); BUFFERS],
            handshakes_left: 0,
            counters: NetCounters::default(),
            layers: LayerCounters::default(),
        })
    }

    /// The ring for what belongs to no connection: listeners, the bell and the sleep.
    pub(crate) fn first_ring(&mut self) -> &mut Ring {
        self.rings.first()
    }

    /// All rings.
    pub(crate) const fn rings(&self) -> &Rings {
        &self.rings
    }

    /// Whether [`Net::enter`] has something to do.
    pub(crate) fn wants_enter(&mut self) -> bool {
        self.rings.want_enter()
    }

    /// Everything queued leaves, what is complete is posted.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        self.rings.enter()
    }

    /// Moves the posted completions to the end of `into`.
    pub(crate) fn drain(&mut self, into: &mut Vec<Completion>) {
        self.rings.drain(into);
    }

    /// Takes a socket in. At home it becomes a direct descriptor. `None`, and the socket is closed:
    /// the table is full.
    pub(crate) fn add(&mut self, handover: Handover, phase: Phase) -> Option<Key> {
        let Handover {
            socket,
            bytes,
            layers,
            ..
        } = handover;
        let link = match phase {
            Phase::Home => self.rings.install(socket),
            Phase::Door | Phase::Draining | Phase::Shut => Link::Plain(socket),
        };
        let mut connection = Connection {
            link,
            layers,
            waiting: None,
            backlog: 0,
            phase,
            watched: false,
            receiving: false,
            sending: None,
        };
        connection.put_partial(bytes);
        let kept = self.connections.insert(connection);
        kept.map_err(|refused| self.rings.close(&refused.link)).ok()
    }

    /// The phase of a connection that is still there.
    pub(crate) fn phase(&self, key: Key) -> Option<Phase> {
        self.connections.get(key).map(|connection| connection.phase)
    }

    /// The machine takes a connection over from the door. It must not be watched or sending.
    pub(crate) fn come_home(&mut self, key: Key) -> Option<Key> {
        let handover = self.leave(key)?;
        self.add(handover, Phase::Home)
    }

    /// Where a connection at the door comes from: as its PROXY header says, or its socket. `None`:
    /// from no address, or nobody `wants` to know.
    pub(crate) fn address(&mut self, key: Key, wants: bool) -> io::Result<Option<IpAddr>> {
        let connection = self
            .connections
            .get_mut(key)
            .ok_or(io::ErrorKind::NotFound)?;
        let source = connection
            .layers
            .as_mut()
            .and_then(|layers| layers.take_source());
        match (&connection.link, source) {
            (Link::Plain(socket), None) if wants => socket::peer_address(socket.as_fd()),
            (_, source) => Ok(source.filter(|_| wants)),
        }
    }

    /// Whether the socket has not taken all that its layers have to say.
    pub(crate) fn is_sending(&self, key: Key) -> bool {
        let connection = self.connections.get(key);
        connection.is_some_and(|connection| connection.sending.is_some())
    }

    /// Bytes that a connection's layers keep.
    pub(crate) fn layer_bytes(&self, key: Key) -> usize {
        let layers = self.connections.get(key).and_then(|c| c.layers.as_ref());
        layers.map_or(0, |layers| layers.held_bytes())
    }

    /// Takes a connection out of the door, to go to another shard. It must not be watched or
    /// sending.
    pub(crate) fn leave(&mut self, key: Key) -> Option<Handover> {
        let mut connection = self.connections.remove(key)?;
        assert!(connection.is_idle(), "an operation is left behind");
        let bytes = connection.take_partial();
        match connection.link {
            Link::Plain(socket) => Some(Handover {
                socket,
                bytes,
                layers: connection.layers,
                admission: None,
                address: None,
            }),
            // Invariant: only a connection at the door leaves, and those are plain.
            Link::Direct { .. } => unreachable!("a connection leaves its home"),
        }
    }

    /// The bytes that wait for the rest of their packet; the caller puts them back.
    pub(crate) fn take_partial(&mut self, key: Key) -> Vec<u8> {
        let connection = self.connections.get_mut(key);
        connection.map(Connection::take_partial).unwrap_or_default()
    }

    /// Keeps bytes until more have come. Nothing is kept of a connection that is closing.
    pub(crate) fn put_partial(&mut self, key: Key, bytes: Vec<u8>) {
        if let Some(connection) = self.connections.get_mut(key)
            && matches!(connection.phase, Phase::Door | Phase::Home)
        {
            connection.put_partial(bytes);
        }
    }

    /// Asks the kernel to tell when there is something to read.
    pub(crate) fn watch(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let open = matches!(connection.phase, Phase::Door | Phase::Home);
        if open && !connection.watched {
            connection.watched = true;
            self.rings.watch(key, &connection.link);
        }
    }

    /// A watch is used up: the connection is read from in its turn.
    pub(crate) fn readable(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.watched = false;
        if matches!(connection.phase, Phase::Door | Phase::Home) {
            self.ready.push_back(key);
        } else {
            self.release(key);
        }
    }

    /// Puts a connection back among those to be read from.
    pub(crate) fn read_later(&mut self, key: Key) {
        self.ready.push_back(key);
    }

    /// Connections to read from.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// A turn begins: it may do some handshakes.
    pub(crate) const fn allow_handshakes(&mut self) {
        self.handshakes_left = HANDSHAKES_PER_TURN;
    }

    /// Starts to read from the next connections, up to `max`, as far as there are buffers; returns
    /// how many. They end in [`Net::received`] after the next [`Net::enter`].
    pub(crate) fn receive(&mut self, max: usize) -> usize {
        let mut count = 0;
        for _ in 0..self.ready.len() {
            if count >= max || self.buffers.is_empty() {
                break;
            }
            let Some(key) = self.ready.pop_front() else {
                break;
            };
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            if connection.is_handshaking() {
                if self.handshakes_left == 0 {
                    self.ready.push_back(key);
                    continue;
                }
                self.handshakes_left -= 1;
            }
            if matches!(connection.phase, Phase::Door | Phase::Home)
                && let Some(mut buffer) = self.buffers.pop()
            {
                buffer.resize(BUFFER_BYTES, 0);
                connection.receiving = true;
                self.rings.receive(key, &connection.link, buffer);
                count += 1;
            }
        }
        count
    }

    /// A read is over: wire bytes have become MQTT bytes. `None`: the connection was closing.
    pub(crate) fn received(
        &mut self,
        key: Key,
        buffer: Vec<u8>,
        result: &io::Result<usize>,
    ) -> Option<Received> {
        let found = self.take_received(key, result);
        let Some(Received::Bytes(plain, n)) = found else {
            self.put_buffer(buffer);
            return found;
        };
        let Some(connection) = self.connections.get_mut(key) else {
            return Some(Received::Bytes(buffer, n));
        };
        let Some(layers) = &mut connection.layers else {
            return Some(Received::Bytes(buffer, n));
        };
        let (mut plain, mut answer) = (plain, Vec::new());
        let wire = buffer.get(..n).unwrap_or_default();
        let flow = layers.inbound(wire, &mut plain, &mut answer, &mut self.layers);
        if layers.is_done() {
            connection.layers = None;
        }
        let is_unread = !answer.is_empty() && connection.backlog > ANSWER_BACKLOG_MAX;
        self.put_buffer(buffer);
        Some(self.passed(key, plain, answer, flow, is_unread))
    }

    /// What bytes were for the layers.
    fn passed(
        &mut self,
        key: Key,
        plain: Vec<u8>,
        answer: Vec<u8>,
        flow: Result<Flow, LayerError>,
        is_unread: bool,
    ) -> Received {
        if is_unread {
            return Received::Ended;
        }
        self.send_wire(key, answer.into());
        let n = plain.len();
        match flow {
            Ok(Flow::Open) if n == 0 => Received::Nothing,
            Ok(Flow::Open) => Received::Bytes(plain, n),
            Ok(Flow::Ended) => Received::Closed(plain, n),
            Err(error) => {
                debug!(%error, "a connection is closed");
                Received::Closed(plain, n)
            }
        }
    }

    fn take_received(&mut self, key: Key, result: &io::Result<usize>) -> Option<Received> {
        let connection = self.connections.get_mut(key)?;
        connection.receiving = false;
        if !matches!(connection.phase, Phase::Door | Phase::Home) {
            self.release(key);
            return None;
        }
        Some(match result {
            Ok(0) => Received::Ended,
            Ok(n) => {
                self.counters.receives += 1;
                self.counters.received_bytes += *n as u64;
                Received::Bytes(Vec::new(), *n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            Err(_) => Received::Ended,
        })
    }

    /// Gives a buffer back.
    pub(crate) fn put_buffer(&mut self, buffer: Vec<u8>) {
        if buffer.len() == BUFFER_BYTES && self.buffers.len() < BUFFERS {
            self.buffers.push(buffer);
        }
    }

    /// Sends MQTT bytes behind everything sent before; the socket's last ones are behind us when
    /// it is shut.
    pub(crate) fn send(&mut self, key: Key, output: Output) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.phase == Phase::Shut {
            return;
        }
        let wire = match &mut connection.layers {
            Some(layers) => layers.outbound(output.into_bytes()).into(),
            None => output,
        };
        self.send_wire(key, wire);
    }

    fn send_wire(&mut self, key: Key, wire: Output) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.backlog += wire.len();
        if connection.sending.is_some() {
            let waiting = connection.waiting.get_or_insert_default();
            waiting.queued.append(wire);
        } else if !wire.is_empty() {
            self.counters.sends += 1;
            connection.sending = self.rings.send(key, &connection.link, wire, 0);
        }
    }

    /// A send is over: what is left is sent on. `None`: the connection is gone or was closing.
    pub(crate) fn sent(
        &mut self,
        key: Key,
        output: Output,
        from: usize,
        result: &io::Result<usize>,
    ) -> Option<Sent> {
        let connection = self.connections.get_mut(key)?;
        connection.sending = None;
        let Ok(n) = *result else {
            let failed = connection.phase == Phase::Home;
            self.shut(key);
            return failed.then_some(Sent {
                backlog: 0,
                spent: None,
                failed,
            });
        };
        self.counters.sent_bytes += n as u64;
        connection.backlog -= n;
        let backlog = connection.backlog;
        if connection.phase == Phase::Shut {
            self.release(key);
            return None;
        }
        let home = connection.phase == Phase::Home;
        let draining = connection.phase == Phase::Draining;
        let rest = from + n;
        let spent = if rest < output.len() {
            connection.sending = self.rings.send(key, &connection.link, output, rest);
            None
        } else {
            let queued = connection.take_queued();
            connection.backlog -= queued.len();
            self.send_wire(key, queued);
            Some(output)
        };
        if draining && backlog == 0 {
            self.shut(key);
        }
        home.then_some(Sent {
            backlog,
            spent,
            failed: false,
        })
    }

    /// Closes a connection that the machine has forgotten: at once, or behind its last bytes.
    /// Returns whether bytes are still on their way.
    pub(crate) fn close_behind_bytes(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            return false;
        };
        if connection.phase == Phase::Shut {
            return false;
        }
        connection.phase = Phase::Draining;
        connection.take_partial();
        if let Some(layers) = &mut connection.layers {
            let farewell = layers.farewell();
            self.send_wire(key, farewell.into());
        }
        let connection = self.connections.get(key);
        let draining = connection.is_some_and(|connection| connection.backlog > 0);
        if !draining {
            self.shut(key);
        }
        draining
    }

    /// Ends a connection; the entry goes when its operations have completed.
    pub(crate) fn shut(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.phase != Phase::Shut {
            connection.phase = Phase::Shut;
            connection.waiting = None;
            if connection.watched {
                self.rings.unwatch(key, &connection.link);
            }
            if let Some(send) = connection.sending {
                self.rings.cancel_send(send, &connection.link);
            }
        }
        self.release(key);
    }

    fn release(&mut self, key: Key) {
        let done = self
            .connections
            .get(key)
            .is_some_and(|connection| connection.phase == Phase::Shut && connection.is_idle());
        if done && let Some(connection) = self.connections.remove(key) {
            match &connection.link {
                Link::Plain(socket) => drain_unread(socket),
                Link::Direct { .. } => self.rings.close(&connection.link),
            }
        }
    }

    /// All connections.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.connections.keys()
    }

    /// How many connections there are, those at the door and the closing ones included.
    pub(crate) const fn len(&self) -> usize {
        self.connections.len()
    }

    /// Sends whose fate is unknown.
    pub(crate) fn sends_in_flight(&self) -> usize {
        self.rings.sends_in_flight()
    }

    /// What the layers have counted.
    pub(crate) const fn layer_counters(&self) -> LayerCounters {
        self.layers
    }

    /// What the sockets have counted.
    pub(crate) const fn counters(&self) -> NetCounters {
        self.counters
    }
}

/// Reads what nobody will, so that the close does not reset the connection.
fn drain_unread(socket: &ClientSocket) {
    let mut bin = [0; 4096];
    for _ in 0..READS_BEFORE_CLOSE {
        match socket::receive(socket.as_fd(), &mut bin) {
            Ok(n) if n == bin.len() => {}
            _ => return,
        }
    }
}
