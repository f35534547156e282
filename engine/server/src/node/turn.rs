//! The order of a turn.

use std::net::IpAddr;
use std::sync::Arc;

use engine_shard::{
    Admission, ConnectionId, Cut, Hold, LogOffset, MeshBatch, Output, Proof, Reauthentication,
    Redirect, Rules, Shard, ShardId, Store, TopicRules, Transmit,
};
use storage_io::{Disk, DiskQueue};

use super::error::CoreError;
use super::now::Now;
use super::open::ShardParts;
use super::store::ShardStore;

/// Rounds of reads and their consequences in one turn; what remains waits for the next turn.
const READ_ROUNDS: usize = 4;

/// A shard: its machine and its store.
#[derive(Debug)]
pub struct ShardCore<D: Disk, Q> {
    pub(super) shard: Shard,
    pub(super) store: ShardStore<D, Q>,
    /// What retention has taken from sessions, newest last; whoever drives takes it.
    pub(super) cuts: Vec<Cut>,
    stopping: bool,
    closed: bool,
}

impl<D: Disk, Q: DiskQueue<D::File>> ShardCore<D, Q> {
    /// Joins what [`super::open_node`] has opened with the disk queue of the shard's thread.
    #[must_use]
    pub fn new(parts: ShardParts<D>, queue: Q) -> Self {
        let ShardParts { shard, store } = parts;
        let store = ShardStore::new(store, queue);
        Self {
            shard,
            store,
            cuts: Vec::new(),
            stopping: false,
            closed: false,
        }
    }

    /// A client's socket has come home.
    pub fn connected(&mut self, now: Now, connection: ConnectionId) {
        self.shard.connected(now.into(), connection);
    }

    /// As [`Shard::admitted`].
    pub fn admitted(&mut self, connection: ConnectionId, admission: Admission) {
        self.shard.admitted(connection, admission);
    }

    /// As [`Shard::poll_reauthentication`].
    pub fn poll_reauthentication(&mut self) -> Option<Reauthentication> {
        self.shard.poll_reauthentication()
    }

    /// As [`Shard::authenticated`].
    pub fn authenticated(&mut self, connection: ConnectionId, proof: &Proof) {
        self.shard.authenticated(connection, proof);
    }

    /// As [`Shard::set_rules`].
    pub fn set_rules(&mut self, now: Now, rules: Arc<Rules>) {
        self.shard.set_rules(now.into(), rules);
    }

    /// As [`Shard::set_topics`].
    pub fn set_topics(&mut self, now: Now, topics: TopicRules) {
        self.shard.set_topics(now.into(), topics);
    }

    /// As [`Shard::comes_from`].
    pub fn comes_from(&mut self, connection: ConnectionId, address: IpAddr) {
        self.shard.comes_from(connection, address);
    }

    /// As [`Shard::kick`].
    pub fn kick(&mut self, now: Now, client_id: &str, redirect: Option<&Redirect>) -> bool {
        self.shard.kick(now.into(), client_id, redirect)
    }

    /// As [`Shard::announce`].
    pub fn announce(&mut self, now: Now, topic: &str, payload: &str) {
        self.shard.announce(now.into(), topic, payload);
    }

    /// As [`Shard::received`].
    pub fn received(&mut self, now: Now, connection: ConnectionId, bytes: &[u8]) -> usize {
        self.shard
            .received(now.into(), connection, bytes, &mut self.store)
    }

    /// As [`Shard::disconnected`].
    pub fn disconnected(&mut self, now: Now, connection: ConnectionId) {
        self.shard
            .disconnected(now.into(), connection, &mut self.store);
    }

    /// As [`Shard::mesh`].
    pub fn mesh(&mut self, now: Now, from: ShardId, batch: MeshBatch) {
        self.shard.mesh(now.into(), from, batch, &mut self.store);
    }

    /// Takes what the disk has finished; says whether there was anything.
    ///
    /// # Errors
    /// [`CoreError`]: the process has to end.
    pub fn disk(&mut self, now: Now) -> Result<bool, CoreError> {
        self.store.now_us = now.monotonic_us;
        let any = self.store.complete_all()?;
        if any {
            self.shard.committed(now.into(), &mut self.store);
            self.serve_reads(now)?;
        }
        Ok(any)
    }

    fn serve_reads(&mut self, now: Now) -> Result<bool, CoreError> {
        self.store.step_reads()?;
        let mut any = false;
        while let Some((token, answer)) = self.store.answers.pop_front() {
            any = true;
            self.shard
                .read_done(now.into(), token, answer, &mut self.store);
        }
        Ok(any)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        self.shard.tick(now.into(), &mut self.store);
    }

    /// When [`Self::tick`] and [`Self::end_turn`] are to be called again, monotonic milliseconds.
    #[must_use]
    pub fn next_timeout(&self) -> u64 {
        let commit = self
            .commit_due_us()
            .map_or(u64::MAX, |us| us.div_ceil(1000));
        let machine = self.shard.next_timeout();
        machine.min(self.store.next_timeout()).min(commit)
    }

    /// When a commit that waits for more records is due: [`Self::end_turn`] is to be called then,
    /// monotonic microseconds.
    #[must_use]
    pub fn commit_due_us(&self) -> Option<u64> {
        self.store.commit_due_us()
    }

    /// The end of a turn: the machine's, then a commit of what was appended, at once or when it is
    /// due.
    ///
    /// # Errors
    /// [`CoreError`]: the process has to end.
    pub fn end_turn(&mut self, now: Now) -> Result<(), CoreError> {
        self.store.now_us = now.monotonic_us;
        self.shard.end_turn(now.into(), &mut self.store);
        for _ in 0..READ_ROUNDS {
            if !self.serve_reads(now)? {
                break;
            }
            self.shard.end_turn(now.into(), &mut self.store);
        }
        self.cuts.clear();
        if !self.stopping {
            self.retain(now)?;
        }
        self.store.end_turn(now, self.shard.positions())?;
        if self.stopping && !self.closed && self.shard.stopped() {
            self.store.log.request_marker();
            self.store.log.commit(&mut self.store.queue)?;
            if self.store.log.is_settled() {
                self.store.close(self.shard.positions())?;
                self.closed = true;
            }
        }
        Ok(())
    }

    /// What retention has taken from sessions in the last turn.
    #[must_use]
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// Whether sockets may be read.
    #[must_use]
    pub fn reads_sockets(&self) -> bool {
        self.shard.reads_sockets() && !self.store.is_overfull()
    }

    /// Whether publications may come; while not, [`Self::received`] stops in front of one.
    #[must_use]
    pub fn takes_publications(&self) -> bool {
        self.shard.takes_publications(&self.store)
    }

    /// Whether the machine has stopped in front of a publication of this connection: it gets its
    /// bytes again when [`Self::takes_publications`], and its socket is not read until then.
    #[must_use]
    pub fn holds(&self, connection: ConnectionId) -> Hold {
        self.shard.holds(connection)
    }

    /// As [`Shard::poll_transmit`].
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shard.poll_transmit()
    }

    /// As [`Shard::transmitted`].
    pub fn transmitted(&mut self, connection: ConnectionId, backlog: usize, spent: Output) {
        self.shard.transmitted(connection, backlog, spent);
    }

    /// As [`Shard::poll_mesh`].
    pub fn poll_mesh(&mut self, to: ShardId) -> Option<MeshBatch> {
        self.shard.poll_mesh(to)
    }

    /// Begins an orderly stop; the driver goes on turning until [`Self::stopped`].
    pub fn stop(&mut self, now: Now) {
        self.stopping = true;
        self.shard.stop(now.into(), &mut self.store);
    }

    /// Everything is on disk and the state store is complete.
    #[must_use]
    pub const fn stopped(&self) -> bool {
        self.closed
    }

    /// The machine, for its counters.
    pub const fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The store, for its counters, and for whoever drives the disk.
    pub const fn store(&self) -> &ShardStore<D, Q> {
        &self.store
    }

    /// As [`Self::store`].
    pub const fn store_mut(&mut self) -> &mut ShardStore<D, Q> {
        &mut self.store
    }

    /// Everything of this shard's log below is durable.
    #[must_use]
    pub fn durable(&self) -> LogOffset {
        self.store.durable()
    }
}
