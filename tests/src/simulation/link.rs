//! One connection: bytes on their way in both directions.

use std::collections::VecDeque;

use storage_io::sim::Rng;

/// Bytes that the wire to the client holds; the rest waits at the node, which is told so.
const WIRE_BYTES: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    /// The client's place among the actors.
    pub(super) client: usize,
    /// The shard that is the client's home.
    pub(super) home: usize,
    pub(super) rng: Rng,
    to_node: VecDeque<u8>,
    /// Arrived at the node, not used yet.
    pub(super) input: Vec<u8>,
    /// The node's, before the wire.
    backlog: VecDeque<u8>,
    wire: VecDeque<u8>,
    /// The client reads nothing before this step.
    pub(super) sleeps_until: u64,
    /// The client has let go of it: the node hears of it some time.
    pub(super) is_cut: bool,
    /// The node closes it behind its last bytes.
    pub(super) is_closing: bool,
    /// The node knows it.
    pub(super) is_known: bool,
}

impl Link {
    pub(super) const fn new(client: usize, home: usize, rng: Rng) -> Self {
        Self {
            client,
            home,
            rng,
            to_node: VecDeque::new(),
            input: Vec::new(),
            backlog: VecDeque::new(),
            wire: VecDeque::new(),
            sleeps_until: 0,
            is_cut: false,
            is_closing: false,
            is_known: false,
        }
    }

    /// The client sends.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.to_node.extend(bytes);
    }

    /// Brings a piece of what the client has sent to the node. False: nothing came.
    pub(super) fn arrive(&mut self, all: bool) -> bool {
        let len = piece(self.to_node.len(), &mut self.rng, all);
        self.input.extend(self.to_node.drain(..len));
        len > 0
    }

    /// The node sends.
    pub(super) fn transmit(&mut self, bytes: &[u8]) {
        if !self.is_cut {
            self.backlog.extend(bytes);
        }
        self.fill_wire();
    }

    /// Bytes that the node can't get rid of.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// The client reads a piece of what has arrived.
    pub(super) fn read(&mut self, all: bool) -> Vec<u8> {
        let len = piece(self.wire.len(), &mut self.rng, all);
        let bytes = self.wire.drain(..len).collect();
        self.fill_wire();
        bytes
    }

    /// The client lets go: what it has not read is lost, and of what it has sent any part.
    pub(super) fn cut(&mut self) {
        self.is_cut = true;
        self.backlog.clear();
        self.wire.clear();
        let kept = self.rng.index(self.to_node.len() + 1);
        self.to_node.truncate(kept);
    }

    /// The client has nothing more to read, and the node will send nothing more.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_closing && self.backlog.is_empty() && self.wire.is_empty()
    }

    /// The client has connected anew: what the node has not taken of this connection never comes.
    /// A CONNECT that comes after a newer one would take over again, and nobody could promise
    /// anything.
    pub(super) fn abandon(&mut self) {
        self.is_cut = true;
        self.backlog.clear();
        self.wire.clear();
        self.to_node.clear();
        self.input.clear();
    }

    /// Everything that the client sent before it let go has arrived.
    pub(super) fn is_drained(&self) -> bool {
        self.to_node.is_empty()
    }

    fn fill_wire(&mut self) {
        let room = WIRE_BYTES
            .saturating_sub(self.wire.len())
            .min(self.backlog.len());
        self.wire.extend(self.backlog.drain(..room));
    }
}

fn piece(len: usize, rng: &mut Rng, all: bool) -> usize {
    if all || len == 0 || rng.chance(1, 2) {
        return len;
    }
    1 + rng.index(len)
}
