//! The end of old records: what shards tell each other before a log's start moves, and what becomes
//! of whoever was behind.
//!
//! A log's shard asks every shard whether it has handled, and stored, everything below the new
//! start ([`Shard::ask_retire`]); asks the owners of retained topics which of the retained
//! publications below are still current ([`Shard::check_retained`]), to append those again; and
//! tells everybody how old its oldest record is when the start has moved ([`Shard::retired`]), for
//! tombstones to be freed.

use std::collections::VecDeque;
use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{Address, LogId, LogOffset, Now, Phase};

use crate::port::{MeshMessage, ReadAnswer, RetainedItem, ShardId, Store};
use crate::shard::Shard;
use crate::state;

/// Cuts that wait to be told, at most; further ones are counted only.
const CUTS_MAX: usize = 1_024;

/// What retention has taken from a durable session that was behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The client.
    pub client_id: Arc<str>,
    /// The log.
    pub log: LogId,
    /// The first offset that the session has not looked at.
    pub from: LogOffset,
    /// The first offset that it will look at.
    pub upto: LogOffset,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Retirement {
    /// The start that this shard's log is to have, and the shards, as bits, that are not ready.
    asked: Option<(LogOffset, u64)>,
    /// What other shards, or this one, have asked and were not answered.
    asks: Vec<(ShardId, LogOffset)>,
    checked: VecDeque<(u64, Vec<bool>)>,
    /// By log: no record has a lower stamp. Empty: nothing is known.
    oldest: Vec<u64>,
    cuts: VecDeque<Cut>,
}

impl Retirement {
    /// Whether somebody waits for this shard to have stored more.
    pub(crate) const fn has_asks(&self) -> bool {
        !self.asks.is_empty()
    }
}

impl Shard {
    /// Asks every shard whether it has handled and stored everything of this shard's log below
    /// `upto`.
    pub fn ask_retire<S: Store>(&mut self, now: Now, upto: LogOffset, store: &mut S) {
        self.now = now;
        let shards = u32::from(self.config.shards);
        self.retirement.asked = Some((upto, u64::MAX >> (64 - shards.clamp(1, 64))));
        for shard in (0..self.config.shards).map(ShardId) {
            self.send_peer(shard, MeshMessage::RetireAsk { upto }, store);
        }
    }

    /// Whether all have answered [`Self::ask_retire`].
    #[must_use]
    pub fn retire_ready(&self) -> bool {
        matches!(self.retirement.asked, Some((_, 0)))
    }

    /// Asks a topic's owner which of these retained publications are still the topics' last ones.
    /// [`Self::next_checked`] brings the answer, by `token`.
    pub fn check_retained<S: Store>(
        &mut self,
        now: Now,
        token: u64,
        owner: ShardId,
        items: Vec<RetainedItem>,
        store: &mut S,
    ) {
        self.now = now;
        self.send_peer(owner, MeshMessage::RetainedCheck { token, items }, store);
    }

    /// The next answer to a [`Self::check_retained`].
    pub fn next_checked(&mut self) -> Option<(u64, Vec<bool>)> {
        self.retirement.checked.pop_front()
    }

    /// The start of this shard's log has moved: no record has a lower stamp than `oldest` any more.
    pub fn retired<S: Store>(&mut self, now: Now, oldest: u64, store: &mut S) {
        self.now = now;
        self.retirement.asked = None;
        for shard in (0..self.config.shards).map(ShardId) {
            self.send_peer(shard, MeshMessage::Retired { oldest }, store);
        }
    }

    /// What was found at the start: by log, a stamp that no record is below.
    pub fn set_oldest_stamps(&mut self, oldest: &[u64]) {
        self.retirement.oldest = oldest.to_vec();
    }

    /// What retention has taken from a session, to be told to the operator; each once.
    pub fn next_cut(&mut self) -> Option<Cut> {
        self.retirement.cuts.pop_front()
    }

    pub(crate) fn retire_ask<S: Store>(&mut self, from: ShardId, upto: LogOffset, store: &mut S) {
        self.retirement.asks.retain(|(shard, _)| *shard != from);
        self.retirement.asks.push((from, upto));
        self.serve_retire_asks(store);
    }

    /// Answers those whose records are handled here, with all that follows from them on disk.
    pub(crate) fn serve_retire_asks<S: Store>(&mut self, store: &mut S) {
        if self.retirement.asks.is_empty() {
            return;
        }
        let positions = &self.positions;
        let is_done = |shard: ShardId, upto: LogOffset| {
            let position = positions.get(shard.index());
            let applied = store.applied_from(LogId(u32::from(shard.0)));
            position.is_some_and(|position| *position >= upto) && applied >= upto
        };
        let asks = &mut self.retirement.asks;
        let done: Vec<_> = asks
            .extract_if(.., |(shard, upto)| is_done(*shard, *upto))
            .collect();
        for (shard, upto) in done {
            self.send_peer(shard, MeshMessage::RetireReady { upto }, store);
        }
    }

    pub(crate) fn take_retire_ready(&mut self, from: ShardId, upto: LogOffset) {
        if let Some((asked, waits)) = &mut self.retirement.asked
            && *asked == upto
        {
            *waits &= !(1 << from.0);
        }
    }

    pub(crate) fn retained_check<S: Store>(
        &mut self,
        from: ShardId,
        token: u64,
        items: &[RetainedItem],
        store: &mut S,
    ) {
        let current = items
            .iter()
            .map(|item| self.is_last_retained(&item.topic, item.stamp, store))
            .collect();
        let answer = MeshMessage::RetainedChecked { token, current };
        self.send_peer(from, answer, store);
    }

    pub(crate) fn take_checked(&mut self, token: u64, current: Vec<bool>) {
        self.retirement.checked.push_back((token, current));
    }

    pub(crate) fn retired_at<S: Store>(&mut self, from: ShardId, oldest: u64, store: &mut S) {
        if let Some(known) = self.retirement.oldest.get_mut(from.index()) {
            *known = oldest.max(*known);
        }
        self.sweep_retained(store);
    }

    /// No record of any log has a lower stamp.
    pub(crate) fn oldest_stamp(&self) -> u64 {
        self.retirement.oldest.iter().min().copied().unwrap_or(0)
    }

    /// The session goes on at `upto`: what lies before is gone.
    pub(crate) fn cut(&mut self, index: u32, at: Address, upto: LogOffset) {
        let session = &mut self.clients[index].session;
        session.cut_bytes += upto.0.saturating_sub(at.offset.0);
        self.counters.retention_cuts += 1;
        self.counters.retention_cut_bytes += upto.0.saturating_sub(at.offset.0);
        if self.retirement.cuts.len() < CUTS_MAX {
            let client_id = Arc::clone(&self.clients[index].session.client_id);
            self.retirement.cuts.push_back(Cut {
                client_id,
                log: at.log,
                from: at.offset,
                upto,
            });
        }
    }

    /// Counts deliveries in flight whose records are gone: they can't be sent again.
    pub(crate) fn count_lost_flights(&mut self, index: u32, log: LogId, answer: &ReadAnswer) {
        let lost: Vec<_> = self.clients[index]
            .session
            .window
            .iter()
            .filter(|one| one.phase == Phase::Publish && one.address.log == log)
            .filter(|one| one.address.offset < answer.start)
            .map(|one| one.address)
            .collect();
        for at in lost {
            self.cut(index, at, at.offset.after());
        }
    }

    /// The record of a delivery in flight cannot be read any more. At QoS 1 it ends. At QoS 2 the
    /// client may have the message and hold its packet id: it is released, as if PUBREC had come.
    pub(crate) fn give_up(&mut self, index: u32, packet_id: u16) {
        self.counters.dropped_unreadable += 1;
        let session = &mut self.clients[index].session;
        let (id, is_durable) = (session.id, session.is_durable());
        let delivery = session.window.find(packet_id);
        let Some(delivery) = delivery.filter(|one| one.qos == QoS::ExactlyOnce) else {
            self.complete(index, packet_id);
            return;
        };
        delivery.phase = Phase::Received;
        let change = is_durable.then(|| state::outbound(id, delivery));
        self.changes.extend(change);
        self.release_again(index, packet_id);
    }
}
