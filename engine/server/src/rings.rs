//! All rings of one shard, and on which of them a client's socket lives.
//!
//! A socket that is at home is a direct descriptor of one ring: it takes none of the process's
//! descriptors, so their limit does not bound the clients. The table of one ring is bounded by that
//! limit, so a shard makes further rings as its clients become more. It sleeps in the first; the
//! others signal its bell.

use std::io;
use std::os::fd::AsFd;

use engine_shard::Output;
use tracing::warn;

use crate::descriptors::ClientSocket;
use crate::ring::{Completion, Ring, Shape, Target};
use crate::slots::Key;
use crate::socket::EventFd;

/// Direct descriptors of a shard's first ring; each further ring has twice as many as the one
/// before it.
const FIRST_SLOTS: u32 = 4096;

/// Direct descriptors of one ring; a table takes 8 bytes of kernel memory for each.
const SLOTS_MAX: u32 = 65_536;

/// Rings of one shard.
const RINGS_MAX: usize = 1024;

/// A client's socket.
#[derive(Debug)]
pub(crate) enum Link {
    /// A descriptor of the process: a connection at the door, or no ring could take it.
    Plain(ClientSocket),
    /// A direct descriptor.
    Direct {
        /// Which of the shard's rings.
        ring: u16,
        /// Which of its slots.
        slot: u32,
    },
}

impl Link {
    fn target(&self) -> (usize, Target<'_>) {
        match self {
            Self::Plain(socket) => (0, Target::Plain(socket.as_fd())),
            Self::Direct { ring, slot } => (usize::from(*ring), Target::Slot(*slot)),
        }
    }
}

/// See the module.
pub(crate) struct Rings {
    rings: Vec<Ring>,
    bell: EventFd,
    slots_max: u32,
    /// Sockets that stayed plain because no further ring could be made.
    failures: u64,
}

impl Rings {
    /// For the calling thread, which `bell` wakes; no table is larger than the process's limit of
    /// descriptors.
    pub(crate) fn new(bell: &EventFd, descriptors: u64) -> io::Result<Self> {
        let limit = u32::try_from(descriptors).unwrap_or(u32::MAX);
        let slots_max = limit.min(SLOTS_MAX);
        let shape = Shape {
            submissions: 1024,
            completions: 16_384,
            slots: slots_max.min(FIRST_SLOTS),
        };
        Ok(Self {
            rings: vec![Ring::first(bell, shape)?],
            bell: bell.try_clone()?,
            slots_max,
            failures: 0,
        })
    }

    /// The ring for what belongs to no connection: listeners, the bell and the sleep.
    pub(crate) fn first(&mut self) -> &mut Ring {
        // Invariant: `new` makes one and nothing removes it.
        let Some(ring) = self.rings.first_mut() else {
            unreachable!("a shard without a ring")
        };
        ring
    }

    /// How many rings there are.
    pub(crate) const fn len(&self) -> usize {
        self.rings.len()
    }

    /// Sockets that stayed plain because no further ring could be made.
    pub(crate) const fn failures(&self) -> u64 {
        self.failures
    }

    /// Whether [`Rings::enter`] has something to do.
    pub(crate) fn want_enter(&mut self) -> bool {
        self.rings.iter_mut().any(Ring::wants_enter)
    }

    /// One system call per ring with something to do: everything queued leaves, what is complete
    /// is posted.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        let busy = self.rings.iter_mut().filter_map(|ring| {
            let wants = ring.wants_enter();
            wants.then_some(ring)
        });
        for ring in busy {
            ring.enter()?;
        }
        Ok(())
    }

    /// Moves the posted completions to the end of `into`.
    pub(crate) fn drain(&mut self, into: &mut Vec<Completion>) {
        for ring in &mut self.rings {
            ring.drain(into);
        }
    }

    /// Makes a socket a direct descriptor. It stays plain, which is counted, when that fails.
    pub(crate) fn install(&mut self, socket: ClientSocket) -> Link {
        for (number, ring) in (0..).zip(&mut self.rings) {
            match ring.install(socket.as_fd()) {
                Ok(Some(slot)) => return Link::Direct { ring: number, slot },
                Ok(None) => {}
                Err(error) => return self.keep_plain(socket, &error),
            }
        }
        match self.grow() {
            Ok(()) => self.install(socket),
            Err(error) => self.keep_plain(socket, &error),
        }
    }

    fn keep_plain(&mut self, socket: ClientSocket, error: &io::Error) -> Link {
        if self.failures == 0 {
            let rings = self.rings.len();
            warn!(rings, %error, "a client's socket cannot be a direct descriptor");
        }
        self.failures += 1;
        Link::Plain(socket)
    }

    fn grow(&mut self) -> io::Result<()> {
        if self.rings.len() == RINGS_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let doublings = u32::try_from(self.rings.len()).unwrap_or(u32::MAX);
        let slots = FIRST_SLOTS.saturating_mul(2_u32.saturating_pow(doublings));
        let shape = Shape {
            submissions: 256,
            completions: 4096,
            slots: slots.clamp(1, self.slots_max),
        };
        self.rings.push(Ring::further(&self.bell, shape)?);
        Ok(())
    }

    /// Closes a direct descriptor; a plain one is closed when it is dropped.
    pub(crate) fn close(&mut self, link: &Link) {
        if let Link::Direct { ring, slot } = *link
            && let Some(ring) = self.rings.get_mut(usize::from(ring))
        {
            ring.close(slot);
        }
    }

    /// As [`Ring::watch`].
    pub(crate) fn watch(&mut self, connection: Key, link: &Link) {
        let (ring, target) = link.target();
        if let Some(ring) = self.rings.get_mut(ring) {
            ring.watch(connection, target);
        }
    }

    /// As [`Ring::unwatch`].
    pub(crate) fn unwatch(&mut self, connection: Key, link: &Link) {
        if let Some(ring) = self.rings.get_mut(link.target().0) {
            ring.unwatch(connection);
        }
    }

    /// As [`Ring::receive`].
    pub(crate) fn receive(&mut self, connection: Key, link: &Link, buffer: Vec<u8>) {
        let (ring, target) = link.target();
        if let Some(ring) = self.rings.get_mut(ring) {
            ring.receive(connection, target, buffer);
        }
    }

    /// As [`Ring::send`].
    pub(crate) fn send(
        &mut self,
        connection: Key,
        link: &Link,
        output: Output,
        from: usize,
    ) -> Option<Key> {
        let (ring, target) = link.target();
        let ring = self.rings.get_mut(ring)?;
        Some(ring.send(connection, target, output, from))
    }

    /// As [`Ring::cancel_send`].
    pub(crate) fn cancel_send(&mut self, send: Key, link: &Link) {
        if let Some(ring) = self.rings.get_mut(link.target().0) {
            ring.cancel_send(send);
        }
    }

    /// Sends whose fate is unknown.
    pub(crate) fn sends_in_flight(&self) -> usize {
        self.rings.iter().map(Ring::sends_in_flight).sum()
    }
}
