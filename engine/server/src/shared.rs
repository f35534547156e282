//! What the threads of a node share: flags, turn counters and published numbers. All atomics.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::auth::Auth;
use crate::descriptors::Descriptors;
use crate::machine::Meter;
use crate::orders::Orders;
use crate::transport::Doorways;

/// Numbers that one shard can publish.
const CELLS: usize = 256;

struct PerShard {
    /// Grows with every turn; the watchdog looks at it.
    turns: AtomicU64,
    cells: Box<[AtomicU64]>,
}

/// See the module.
pub(crate) struct Shared {
    stopping: AtomicBool,
    stopped: AtomicUsize,
    shards: Box<[PerShard]>,
    /// What the cells mean; the same for all shards, told by the first.
    meters: OnceLock<Vec<Meter>>,
    descriptors: Arc<Descriptors>,
    doorways: Doorways,
    auth: Option<Auth>,
    orders: Orders,
}

impl Shared {
    /// For so many shards, without a limit of descriptors.
    #[cfg(test)]
    pub(crate) fn new(shards: usize) -> Arc<Self> {
        Self::limited(
            shards,
            Descriptors::unlimited(shards),
            Doorways::default(),
            None,
            Orders::default(),
        )
    }

    /// For so many shards.
    pub(crate) fn limited(
        shards: usize,
        descriptors: Arc<Descriptors>,
        doorways: Doorways,
        auth: Option<Auth>,
        orders: Orders,
    ) -> Arc<Self> {
        let shard = |_| PerShard {
            turns: AtomicU64::new(0),
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
        };
        Arc::new(Self {
            stopping: AtomicBool::new(false),
            stopped: AtomicUsize::new(0),
            shards: (0..shards).map(shard).collect(),
            meters: OnceLock::new(),
            descriptors,
            doorways,
            auth,
            orders,
        })
    }

    /// Who checks passwords, where that is wanted.
    pub(crate) const fn auth(&self) -> Option<&Auth> {
        self.auth.as_ref()
    }

    /// What an administrator orders.
    pub(crate) const fn orders(&self) -> &Orders {
        &self.orders
    }

    /// What the listeners speak.
    pub(crate) const fn doorways(&self) -> &Doorways {
        &self.doorways
    }

    /// Who may take a descriptor.
    pub(crate) const fn descriptors(&self) -> &Arc<Descriptors> {
        &self.descriptors
    }

    /// Asks all shards to stop; they see it when their bells have been rung. Returns whether
    /// nobody has asked before.
    pub(crate) fn stop(&self) -> bool {
        !self.stopping.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// One shard has come to its end. Returns whether it was the last.
    pub(crate) fn one_stopped(&self) -> bool {
        self.stopped.fetch_add(1, Ordering::SeqCst) + 1 == self.shards.len()
    }

    pub(crate) fn all_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst) == self.shards.len()
    }

    /// A shard has had one more turn.
    pub(crate) fn count_turn(&self, shard: usize) {
        if let Some(shard) = self.shards.get(shard) {
            // Only the shard itself writes it.
            shard
                .turns
                .store(shard.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    pub(crate) fn turns(&self, shard: usize) -> u64 {
        self.shards
            .get(shard)
            .map_or(0, |shard| shard.turns.load(Ordering::Relaxed))
    }

    pub(crate) const fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Where a shard publishes its numbers, in the order of its meters.
    pub(crate) fn cells(&self, shard: usize) -> &[AtomicU64] {
        self.shards.get(shard).map_or(&[], |shard| &shard.cells)
    }

    /// Names the cells.
    pub(crate) fn name_cells(&self, meters: Vec<Meter>) {
        assert!(
            meters.len() <= CELLS,
            "{} numbers for {CELLS} cells",
            meters.len()
        );
        let meters = self.meters.get_or_init(|| meters);
        debug_assert!(!meters.is_empty(), "a shard counts something");
    }

    /// The names of the cells; empty before the first shard has started.
    pub(crate) fn meters(&self) -> &[Meter] {
        self.meters.get().map_or(&[], Vec::as_slice)
    }
}
