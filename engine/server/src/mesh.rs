//! The mesh: one lock-free ring per ordered pair of shards, and a bell per shard.
//!
//! A ring carries whole batches, one per peer and turn, in order. A sender never waits: when a ring
//! is full it keeps what it has and tries again next turn (the machine collapses its lane). A peer
//! is woken by a system call only when it sleeps: it says so by a flag, then looks into its rings
//! once more, while a sender first puts its batch in and then reads the flag; the fences between
//! make sure that at least one of them sees the other.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use engine_shard::Admission;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::descriptors::ClientSocket;
use crate::socket::EventFd;
use crate::transport::Layers;

/// Parcels that fit into the ring of one ordered pair of shards.
pub(crate) const MESH_PARCELS: usize = 64;

/// An accepted socket on its way to its home shard, with what was read from it.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) socket: ClientSocket,
    pub(crate) bytes: Vec<u8>,
    /// What is between socket and codec, with its state.
    pub(crate) layers: Layers,
    /// What its client has proved, if its CONNECT has an authentication method.
    pub(crate) admission: Option<Box<Admission>>,
    /// Where it comes from, if rules may ask.
    pub(crate) address: Option<IpAddr>,
}

/// What one shard gives another in one piece.
#[derive(Debug)]
pub(crate) enum Parcel<B> {
    /// From machine to machine.
    Batch(B),
    /// From door to home.
    Sockets(Vec<Handover>),
}

/// Wakes one shard.
#[derive(Debug)]
pub(crate) struct Bell {
    sleeping: AtomicBool,
    event: EventFd,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            sleeping: AtomicBool::new(false),
            event: EventFd::new()?,
        })
    }

    /// What wakes the sleeping shard; its disk's ring signals it too.
    pub(crate) const fn event(&self) -> &EventFd {
        &self.event
    }

    /// Wakes the shard if it sleeps or is about to. Called after something was put where the
    /// shard looks before it sleeps.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.event.signal();
        }
    }

    /// By the shard itself: from now on it must be rung. It looks at all its inputs once more
    /// after this, and sleeps only when they are empty.
    pub(crate) fn going_to_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// By the shard itself: it looks at its inputs anyway.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

struct Inbound<B> {
    from: usize,
    ring: Consumer<Parcel<B>>,
}

struct Outbound<B> {
    to: usize,
    ring: Producer<Parcel<B>>,
    /// Accepted sockets that did not fit yet; the door's bound is theirs.
    sockets: VecDeque<Handover>,
    rung: bool,
}

/// One shard's ends of all its rings.
pub(crate) struct Mesh<B> {
    inbound: Vec<Inbound<B>>,
    outbound: Vec<Outbound<B>>,
    bells: Arc<[Bell]>,
    /// Sends that found a ring full.
    full: u64,
}

/// The meshes of `shards` shards, by shard.
pub(crate) fn build<B>(shards: usize) -> io::Result<Vec<Mesh<B>>> {
    let bells: Arc<[Bell]> = (0..shards)
        .map(|_| Bell::new())
        .collect::<io::Result<Vec<_>>>()?
        .into();
    let mut meshes: Vec<Mesh<B>> = (0..shards)
        .map(|_| Mesh {
            inbound: Vec::with_capacity(shards),
            outbound: Vec::with_capacity(shards),
            bells: Arc::clone(&bells),
            full: 0,
        })
        .collect();
    for from in 0..shards {
        for to in (0..shards).filter(|&to| to != from) {
            let (producer, consumer) = RingBuffer::new(MESH_PARCELS);
            if let Some(mesh) = meshes.get_mut(from) {
                let sockets = VecDeque::new();
                mesh.outbound.push(Outbound {
                    to,
                    ring: producer,
                    sockets,
                    rung: false,
                });
            }
            if let Some(mesh) = meshes.get_mut(to) {
                mesh.inbound.push(Inbound {
                    from,
                    ring: consumer,
                });
            }
        }
    }
    Ok(meshes)
}

impl<B> Mesh<B> {
    /// The bells of all shards.
    pub(crate) const fn bells(&self) -> &Arc<[Bell]> {
        &self.bells
    }

    /// Gives every parcel that is there now to `take`, in order per sender. Returns how many.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(usize, Parcel<B>)) -> usize {
        let mut count = 0;
        for inbound in &mut self.inbound {
            for _ in 0..inbound.ring.slots() {
                let Ok(parcel) = inbound.ring.pop() else {
                    break;
                };
                take(inbound.from, parcel);
                count += 1;
            }
        }
        count
    }

    /// Whether a parcel waits to be received.
    pub(crate) fn has_input(&self) -> bool {
        self.inbound.iter().any(|inbound| !inbound.ring.is_empty())
    }

    /// Keeps a socket for its home shard; it leaves with the next [`Mesh::send`].
    pub(crate) fn hand_over(&mut self, to: usize, handover: Handover) {
        match self.outbound.iter_mut().find(|outbound| outbound.to == to) {
            Some(outbound) => outbound.sockets.push_back(handover),
            None => debug_assert!(false, "no ring to shard {to}"),
        }
    }

    /// Sends the kept sockets and what `batch` gives for each peer whose ring has room, and rings
    /// the bells of those that got something. Returns how many parcels left.
    pub(crate) fn send(&mut self, mut batch: impl FnMut(usize) -> Option<B>) -> usize {
        let mut count = 0;
        for outbound in &mut self.outbound {
            if !outbound.sockets.is_empty() && outbound.ring.slots() > 0 {
                let sockets = outbound.sockets.drain(..).collect();
                count += outbound.push(Parcel::Sockets(sockets));
            }
            if outbound.ring.slots() == 0 {
                self.full += 1;
            } else if let Some(batch) = batch(outbound.to) {
                count += outbound.push(Parcel::Batch(batch));
            }
            if std::mem::take(&mut outbound.rung)
                && let Some(bell) = self.bells.get(outbound.to)
            {
                bell.ring();
            }
        }
        count
    }

    /// How often a ring was found full.
    pub(crate) const fn full(&self) -> u64 {
        self.full
    }

    /// Parcels in the rings to the other shards, and sockets that did not fit.
    pub(crate) fn queued(&self) -> usize {
        self.outbound
            .iter()
            .map(|outbound| MESH_PARCELS - outbound.ring.slots() + outbound.sockets.len())
            .sum()
    }
}

impl<B> Outbound<B> {
    fn push(&mut self, parcel: Parcel<B>) -> usize {
        // Invariant: the caller has seen a free slot, and only the receiver changes their number.
        let pushed = self.ring.push(parcel).is_ok();
        assert!(pushed, "a ring with room for one parcel refused it");
        self.rung = true;
        1
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;
    use crate::descriptors::Descriptors;
    use crate::socket::wait_readable;

    /// Sleeps as a shard does, but fails instead of sleeping for ever.
    fn receive_or_sleep(mesh: &mut Mesh<u64>, me: usize, into: &mut Vec<(usize, u64)>) {
        loop {
            let take = |from, parcel| match parcel {
                Parcel::Batch(n) => into.push((from, n)),
                Parcel::Sockets(_) => unreachable!("nobody hands sockets over here"),
            };
            if mesh.receive(take) > 0 {
                return;
            }
            let bell = &mesh.bells()[me];
            bell.going_to_sleep();
            if !mesh.has_input() {
                assert!(
                    wait_readable(bell.event().as_fd(), 10_000),
                    "a wake-up was lost"
                );
                bell.event().wait();
            }
            mesh.bells()[me].awake();
        }
    }

    /// Two shards answer each other, so that each sleeps before nearly every parcel.
    #[test]
    fn no_wake_up_is_lost_between_two_threads() {
        const ROUNDS: u64 = 20_000;
        let mut meshes = build::<u64>(2).unwrap();
        let mut second = meshes.pop().unwrap();
        let mut first = meshes.pop().unwrap();
        let answering = thread::spawn(move || {
            let mut got = Vec::new();
            while (got.len() as u64) < ROUNDS {
                receive_or_sleep(&mut second, 1, &mut got);
                let answer = got.len() as u64;
                second.send(|_| Some(answer));
            }
            got
        });
        let mut answers = Vec::new();
        for round in 0..ROUNDS {
            first.send(|to| (to == 1).then_some(round));
            receive_or_sleep(&mut first, 0, &mut answers);
        }
        let questions = answering.join().unwrap();
        assert!(
            questions.iter().copied().eq((0..ROUNDS).map(|n| (0, n))),
            "order is kept"
        );
        assert!(
            answers.iter().copied().eq((1..=ROUNDS).map(|n| (1, n))),
            "order is kept"
        );
    }

    /// One sends without waiting; the other sleeps now and then.
    #[test]
    fn a_stream_arrives_whole_and_in_order() {
        const PARCELS: u64 = 50_000;
        let mut meshes = build::<u64>(2).unwrap();
        let mut second = meshes.pop().unwrap();
        let mut first = meshes.pop().unwrap();
        let sending = thread::spawn(move || {
            let mut next = 0;
            while next < PARCELS {
                if first.send(|_| Some(next)) > 0 {
                    next += 1;
                } else {
                    thread::yield_now();
                }
            }
            first.full()
        });
        let mut got = Vec::new();
        while (got.len() as u64) < PARCELS {
            receive_or_sleep(&mut second, 1, &mut got);
        }
        sending.join().unwrap();
        assert!(got.iter().copied().eq((0..PARCELS).map(|n| (0, n))));
    }

    #[test]
    fn a_full_ring_is_not_asked_for_a_batch_and_keeps_the_sockets() {
        let mut meshes = build::<u64>(3).unwrap();
        for _ in 0..MESH_PARCELS {
            assert_eq!(meshes[0].send(|to| (to == 1).then_some(7)), 1);
        }
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into();
        let socket = Descriptors::unlimited(1).admit(socket).unwrap();
        meshes[0].hand_over(
            1,
            Handover {
                socket,
                bytes: b"connect".to_vec(),
                layers: None,
                admission: None,
                address: None,
            },
        );
        let mut asked = Vec::new();
        meshes[0].send(|to| {
            asked.push(to);
            None
        });
        assert_eq!(asked, [2]);
        assert_eq!(
            (meshes[0].full(), meshes[0].queued()),
            (1, MESH_PARCELS + 1)
        );
        assert_eq!(meshes[1].receive(|_, _| {}), MESH_PARCELS);
        assert_eq!(
            meshes[0].send(|_| None),
            1,
            "the socket leaves when there is room"
        );
        let mut bytes = Vec::new();
        meshes[1].receive(|from, parcel| {
            assert_eq!(from, 0);
            if let Parcel::Sockets(sockets) = parcel {
                bytes.extend(sockets.into_iter().map(|s| s.bytes));
            }
        });
        assert_eq!(bytes, [b"connect"]);
    }
}
