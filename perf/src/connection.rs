//! One client's socket with what is half read and half written.
//!
//! Small, since there may be hundreds of thousands: both buffers stay unallocated while packets
//! come and go whole.

use std::io;
use std::os::fd::OwnedFd;

use crate::layers::Layers;
use crate::socket::{self, Poller};

/// The most bytes queued behind a socket that takes no more, before its owner must stop adding.
/// Acknowledgements may go over it: they are bounded by what is read.
const UNSENT_MAX: usize = 256 * 1024;

/// A TLS record's plaintext at most, bytes (RFC 8446, section 5.1).
const RECORD_LEN_MAX: usize = 16 * 1024;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Connecting,
    AwaitingConnAck,
    /// So many SUBSCRIBEs are sent; the SUBACK of the last one is to come.
    AwaitingSubAck(u16),
    Ready,
    /// DISCONNECT is sent; the server closes.
    Closing,
}

/// What a client is for: the index says which of its worker's publishers or hearers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Idle,
    Publisher(usize),
    Subscriber(usize),
    /// A member of a shared group: which one.
    Member(usize, usize),
}

impl Role {
    /// The hearer that it is, or is part of.
    pub(crate) fn hearer(self) -> Option<usize> {
        match self {
            Self::Subscriber(index) | Self::Member(index, _) => Some(index),
            Self::Idle | Self::Publisher(_) => None,
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    token: usize,
    pub(crate) stage: Stage,
    pub(crate) role: Role,
    /// When it was meant to connect.
    pub(crate) started_ns: u64,
    pub(crate) last_sent_ns: u64,
    /// When the last SUBSCRIBE was sent.
    pub(crate) subscribed_ns: u64,
    carry: Vec<u8>,
    unsent: Vec<u8>,
    unsent_from: usize,
    is_watched_for_room: bool,
    /// TLS, a WebSocket, or both; `None` when MQTT is on the socket itself.
    layers: Option<Box<Layers>>,
}

impl Connection {
    /// Takes over a socket that is connecting and starts watching it.
    pub(crate) fn new(
        poller: &Poller,
        socket: OwnedFd,
        token: usize,
        role: Role,
        started_ns: u64,
    ) -> io::Result<Self> {
        poller.add(&socket, token, true)?;
        Ok(Self {
            socket,
            token,
            stage: Stage::Connecting,
            role,
            started_ns,
            last_sent_ns: started_ns,
            subscribed_ns: started_ns,
            carry: Vec::new(),
            unsent: Vec::new(),
            unsent_from: 0,
            is_watched_for_room: true,
            layers: None,
        })
    }

    /// Puts layers between MQTT and the socket, before anything is sent.
    pub(crate) fn set_layers(&mut self, layers: Option<Box<Layers>>) {
        self.layers = layers;
    }

    /// Whether the connection was made, once its socket is writable.
    pub(crate) fn connected(&mut self, poller: &Poller) -> io::Result<()> {
        socket::connected(&self.socket)?;
        self.watch_for_room(poller, false)
    }

    /// Reads behind what was carried over; how many bytes of `buffer` are filled, `None` when
    /// nothing came. At most `room` new bytes.
    ///
    /// # Errors
    /// The socket's, `UnexpectedEof` at the end of the stream, and `InvalidData` when a packet
    /// does not fit the buffer.
    pub(crate) fn receive(
        &mut self,
        poller: &Poller,
        buffer: &mut [u8],
        room: usize,
    ) -> io::Result<Option<usize>> {
        let carried = self.carry.len();
        let end = buffer.len().min(carried.saturating_add(room));
        let buffer = buffer.get_mut(..end).unwrap_or_default();
        let Some((head, room)) = buffer.split_at_mut_checked(carried) else {
            return Err(too_large(carried));
        };
        if room.is_empty() {
            return Err(too_large(carried));
        }
        head.copy_from_slice(&self.carry);
        if self.layers.is_some() {
            let len = self.receive_through_layers(poller, room)?;
            return Ok(len.map(|len| carried + len));
        }
        match socket::receive(&self.socket, room)? {
            None => Ok(None),
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(len) => {
                self.carry.clear();
                Ok(Some(carried + len))
            }
        }
    }

    /// Reads what there is, and puts the MQTT in it into `room`.
    fn receive_through_layers(
        &mut self,
        poller: &Poller,
        room: &mut [u8],
    ) -> io::Result<Option<usize>> {
        // What comes out may be more than what goes in by a TLS record that was incomplete.
        let wire_room = room
            .len()
            .saturating_sub(RECORD_LEN_MAX)
            .max(room.len() / 2);
        let Some(target) = room.get_mut(..wire_room) else {
            return Ok(None);
        };
        let len = match socket::receive(&self.socket, target)? {
            None => return Ok(None),
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(len) => len,
        };
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        if let Some(layers) = &mut self.layers {
            let wire = room.get(..len).unwrap_or_default();
            layers.receive(wire, &mut plain, &mut answer)?;
        }
        if !answer.is_empty() {
            self.send_wire(poller, &answer)?;
        }
        if plain.is_empty() {
            return Ok(None);
        }
        let Some(place) = room.get_mut(..plain.len()) else {
            return Err(too_large(plain.len()));
        };
        place.copy_from_slice(&plain);
        self.carry.clear();
        Ok(Some(plain.len()))
    }

    /// Keeps the start of a packet for the next read.
    pub(crate) fn carry_over(&mut self, rest: &[u8]) {
        debug_assert!(self.carry.is_empty(), "carried over twice");
        self.carry.extend_from_slice(rest);
    }

    /// Sends, or queues what the socket does not take.
    pub(crate) fn send(&mut self, poller: &Poller, bytes: &[u8], now_ns: u64) -> io::Result<()> {
        self.last_sent_ns = now_ns;
        if let Some(layers) = &mut self.layers {
            let mut wire = Vec::new();
            layers.send(bytes, &mut wire)?;
            return self.send_wire(poller, &wire);
        }
        self.send_wire(poller, bytes)
    }

    fn send_wire(&mut self, poller: &Poller, bytes: &[u8]) -> io::Result<()> {
        if self.has_unsent() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = socket::send(&self.socket, bytes)?;
        if let Some(rest) = bytes.get(sent..)
            && !rest.is_empty()
        {
            self.unsent.extend_from_slice(rest);
            self.watch_for_room(poller, true)?;
        }
        Ok(())
    }

    /// Sends what was queued; whether everything has left.
    pub(crate) fn flush(&mut self, poller: &Poller) -> io::Result<bool> {
        let rest = self.unsent.get(self.unsent_from..).unwrap_or_default();
        if !rest.is_empty() {
            self.unsent_from += socket::send(&self.socket, rest)?;
        }
        if self.has_unsent() {
            return Ok(false);
        }
        self.unsent = Vec::new();
        self.unsent_from = 0;
        self.watch_for_room(poller, false)?;
        Ok(true)
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent_from < self.unsent.len()
    }

    /// Whether so much is queued that nothing should be added.
    pub(crate) fn is_congested(&self) -> bool {
        self.unsent.len() - self.unsent_from > UNSENT_MAX
    }

    /// Stops or resumes reading; resuming also restores watching for room.
    pub(crate) fn set_paused(&self, poller: &Poller, paused: bool) -> io::Result<()> {
        if paused {
            poller.pause_input(&self.socket, self.token)
        } else {
            poller.change(&self.socket, self.token, self.is_watched_for_room)
        }
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        socket::reset(self.socket);
    }

    fn watch_for_room(&mut self, poller: &Poller, wanted: bool) -> io::Result<()> {
        if self.is_watched_for_room != wanted {
            poller.change(&self.socket, self.token, wanted)?;
            self.is_watched_for_room = wanted;
        }
        Ok(())
    }
}

fn too_large(len: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a packet of more than {len} bytes"),
    )
}
