//! The sockets of one shard: a slab of connections over its rings.
//!
//! An idle connection is one entry here and one pending operation in the kernel. It has no task, no
//! timer and no buffer: bytes are read into one scratch buffer of the shard, and only what is not a
//! whole packet yet is kept. Nothing is ever cancelled: a socket is shut down, its operations
//! complete by themselves, and the entry goes when the last one has.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use crate::descriptors::ClientSocket;
use crate::layer::Layers;
use crate::mesh::Handover;
use crate::ring::{Completion, Ring};
use crate::slots::{Key, Slots};
use crate::socket::{self, EventFd};

/// Bytes that one read takes at most.
const SCRATCH_BYTES: usize = 64 * 1024;

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
    socket: ClientSocket,
    layer: Layers,
    /// Bytes from a packet boundary on that are not a whole packet.
    partial: Vec<u8>,
    /// Bytes behind the running send.
    queued: Vec<u8>,
    /// Bytes that the socket has not taken yet.
    backlog: usize,
    phase: Phase,
    ring: u8,
    watched: bool,
    sending: bool,
}

/// What a read has found.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// So many bytes, in [`Net::scratch`].
    Bytes(usize),
    /// Nothing is there yet.
    Nothing,
    /// The end of the stream, or an error.
    Ended,
}

/// What has become of a send.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Bytes that the socket has not taken yet.
    pub(crate) backlog: usize,
    /// The buffer, when it is all sent.
    pub(crate) spent: Option<Vec<u8>>,
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
    /// A table, because one ring's direct descriptors are bounded by RLIMIT_NOFILE; one for now.
    rings: Vec<Ring>,
    /// Connections to read from: their watch is used up.
    ready: VecDeque<Key>,
    scratch: Vec<u8>,
    counters: NetCounters,
}

impl Net {
    /// For the calling thread, which `bell` wakes.
    pub(crate) fn new(bell: &EventFd) -> io::Result<Self> {
        Ok(Self {
            connections: Slots::new(),
            rings: vec![Ring::new(bell)?],
            ready: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES],
            counters: NetCounters::default(),
        })
    }

    /// The ring for what belongs to no connection: listeners, the bell and the sleep.
    pub(crate) fn first_ring(&mut self) -> &mut Ring {
        // Invariant: `new` makes one and nothing removes it.
        let Some(ring) = self.rings.first_mut() else {
            unreachable!("a shard without a ring")
        };
        ring
    }

    /// Whether [`Net::enter`] has something to do.
    pub(crate) fn wants_enter(&mut self) -> bool {
        self.rings.iter_mut().any(Ring::wants_enter)
    }

    /// One system call per ring: everything queued leaves, what is complete is posted.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        self.rings.iter_mut().try_for_each(Ring::enter)
    }

    /// Moves the posted completions to the end of `into`.
    pub(crate) fn drain(&mut self, into: &mut Vec<Completion>) {
        for ring in &mut self.rings {
            ring.drain(into);
        }
    }

    /// Takes a socket in. `None`, and the socket is closed: the table is full.
    pub(crate) fn add(
        &mut self,
        socket: ClientSocket,
        phase: Phase,
        bytes: Vec<u8>,
    ) -> Option<Key> {
        let connection = Connection {
            socket,
            layer: None,
            partial: bytes,
            queued: Vec::new(),
            backlog: 0,
            phase,
            ring: 0,
            watched: false,
            sending: false,
        };
        self.connections.insert(connection).ok()
    }

    /// The phase of a connection that is still there.
    pub(crate) fn phase(&self, key: Key) -> Option<Phase> {
        self.connections.get(key).map(|connection| connection.phase)
    }

    /// The machine takes a connection over from the door.
    pub(crate) fn come_home(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            assert_eq!(
                connection.phase,
                Phase::Door,
                "a connection comes home once"
            );
            connection.phase = Phase::Home;
        }
    }

    /// Takes a connection out, to go to another shard. It must not be watched or sending.
    pub(crate) fn leave(&mut self, key: Key) -> Option<Handover> {
        let connection = self.connections.remove(key)?;
        assert!(
            !connection.watched && !connection.sending,
            "an operation is left behind"
        );
        Some(Handover {
            socket: connection.socket,
            bytes: connection.partial,
        })
    }

    /// The bytes that wait for the rest of their packet; the caller puts them back.
    pub(crate) fn take_partial(&mut self, key: Key) -> Vec<u8> {
        let connection = self.connections.get_mut(key);
        connection
            .map(|c| std::mem::take(&mut c.partial))
            .unwrap_or_default()
    }

    /// Keeps bytes until more have come. Nothing is kept of a connection that is closing.
    pub(crate) fn put_partial(&mut self, key: Key, bytes: Vec<u8>) {
        if let Some(connection) = self.connections.get_mut(key)
            && matches!(connection.phase, Phase::Door | Phase::Home)
        {
            connection.partial = bytes;
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
            if let Some(ring) = self.rings.get_mut(usize::from(connection.ring)) {
                ring.watch(key, connection.socket.as_fd());
            }
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

    /// The next connection to read from.
    pub(crate) fn next_ready(&mut self) -> Option<Key> {
        self.ready.pop_front()
    }

    /// Connections to read from.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Reads what has arrived into the scratch buffer: wire bytes without a layer, MQTT bytes
    /// with one.
    pub(crate) fn receive(&mut self, key: Key) -> Received {
        let Some(connection) = self.connections.get_mut(key) else {
            return Received::Nothing;
        };
        self.scratch.resize(SCRATCH_BYTES, 0);
        let n = match socket::receive(connection.socket.as_fd(), &mut self.scratch) {
            Ok(0) => return Received::Ended,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Nothing,
            Err(_) => return Received::Ended,
        };
        self.counters.receives += 1;
        self.counters.received_bytes += n as u64;
        let Some(layer) = &mut connection.layer else {
            return Received::Bytes(n);
        };
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        let wire = self.scratch.get(..n).unwrap_or_default();
        if layer.inbound(wire, &mut plain, &mut answer).is_err() {
            return Received::Ended;
        }
        let n = plain.len();
        self.scratch = plain;
        self.send_wire(key, answer);
        if n == 0 {
            Received::Nothing
        } else {
            Received::Bytes(n)
        }
    }

    /// Lends the scratch buffer; the caller gives it back.
    pub(crate) fn take_scratch(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.scratch)
    }

    /// Gives the scratch buffer back.
    pub(crate) fn put_scratch(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    /// Sends MQTT bytes behind everything sent before; the socket's last ones are behind us when
    /// it is shut.
    pub(crate) fn send(&mut self, key: Key, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.phase == Phase::Shut {
            return;
        }
        let wire = match &mut connection.layer {
            Some(layer) => layer.outbound(bytes),
            None => bytes,
        };
        self.send_wire(key, wire);
    }

    fn send_wire(&mut self, key: Key, bytes: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.backlog += bytes.len();
        if connection.sending {
            connection.queued.extend_from_slice(&bytes);
        } else if !bytes.is_empty() {
            connection.sending = true;
            self.counters.sends += 1;
            if let Some(ring) = self.rings.get_mut(usize::from(connection.ring)) {
                ring.send(key, connection.socket.as_fd(), bytes, 0);
            }
        }
    }

    /// A send is over: what is left is sent on. `None`: the connection is gone or was closing.
    pub(crate) fn sent(
        &mut self,
        key: Key,
        buffer: Vec<u8>,
        from: usize,
        result: &io::Result<usize>,
    ) -> Option<Sent> {
        let connection = self.connections.get_mut(key)?;
        connection.sending = false;
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
        let rest = from + n;
        let spent = if rest < buffer.len() {
            connection.sending = true;
            if let Some(ring) = self.rings.get_mut(usize::from(connection.ring)) {
                ring.send(key, connection.socket.as_fd(), buffer, rest);
            }
            None
        } else {
            let queued = std::mem::take(&mut connection.queued);
            connection.backlog -= queued.len();
            self.send_wire(key, queued);
            Some(buffer)
        };
        if !home && backlog == 0 {
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
        connection.partial = Vec::new();
        let draining = connection.backlog > 0;
        if !draining {
            self.shut(key);
        }
        draining
    }

    /// Shuts a connection down; the entry goes when its operations have completed.
    pub(crate) fn shut(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.phase != Phase::Shut {
            connection.phase = Phase::Shut;
            connection.partial = Vec::new();
            connection.queued = Vec::new();
            self.drain_unread(key);
            if let Some(connection) = self.connections.get(key) {
                socket::shut_down(connection.socket.as_fd());
            }
        }
        self.release(key);
    }

    fn drain_unread(&mut self, key: Key) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let mut bin = [0; 4096];
        for _ in 0..READS_BEFORE_CLOSE {
            match socket::receive(connection.socket.as_fd(), &mut bin) {
                Ok(n) if n == bin.len() => {}
                _ => return,
            }
        }
    }

    fn release(&mut self, key: Key) {
        let done = self.connections.get(key).is_some_and(|connection| {
            connection.phase == Phase::Shut && !connection.watched && !connection.sending
        });
        if done {
            self.connections.remove(key);
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
        self.rings.iter().map(Ring::sends_in_flight).sum()
    }

    /// What the sockets have counted.
    pub(crate) const fn counters(&self) -> NetCounters {
        self.counters
    }
}
