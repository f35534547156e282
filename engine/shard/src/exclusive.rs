//! Exclusive subscriptions, `$exclusive/` and a filter: at most one session has one to a filter.
//!
//! A filter's owner, `hash(filter) % homes`, says who. A SUBSCRIBE asks it by a claim, which takes
//! effect at once; if nothing comes of the SUBSCRIBE, or when the subscription ends, the home
//! releases the filter, but not before the end is durable: after a crash, a subscription that is
//! still in the state store is still the only one. Claims and releases of a session come to the
//! owner in order, so a release that is sent when the session does not want the filter any more
//! takes back every earlier claim.
//!
//! After a start every shard tells the owners first what its durable sessions have; until all
//! have, claims and releases wait.

use std::collections::HashMap;
use std::sync::Arc;

use engine_mqtt::ReasonCode;
use foldhash::fast::FixedState;

use crate::client::ClientKey;
use crate::config::home_shard;
use crate::counters::Counters;
use crate::port::{ExclusiveMessage, MeshMessage, ShardId, Store};
use crate::shard::Shard;
use crate::subscribe::Wanted;
use crate::waits::Wait;

/// What this shard knows as an owner.
#[derive(Debug)]
pub(crate) struct Exclusive {
    /// By filter, the session.
    holders: HashMap<Arc<str>, u64, FixedState>,
    /// Shards that have said at the start what their sessions have.
    heard: u8,
    /// What came before all have; of every SUBSCRIBE under way, a claim and a release at most.
    early: Vec<(ShardId, ExclusiveMessage)>,
    /// Until the start: what the state store has of this shard's own sessions. Those that ended
    /// with a crash release theirs when that is durable, as all do.
    pub(crate) restored: Vec<(Arc<str>, u64)>,
}

impl Exclusive {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            holders: HashMap::with_hasher(FixedState::with_seed(seed)),
            heard: 0,
            early: Vec::new(),
            restored: Vec::new(),
        }
    }

    /// Filters that a session has.
    pub(crate) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Claims and releases that wait for the start.
    pub(crate) const fn early(&self) -> usize {
        self.early.len()
    }

    /// Whether the session has the filter from now on, or had it; one more filter only below `max`.
    fn claim(
        &mut self,
        filter: Arc<str>,
        session: u64,
        max: usize,
        counters: &mut Counters,
    ) -> bool {
        let holder = self.holders.get(&filter).copied();
        if let Some(holder) = holder {
            counters.exclusive_refused += u64::from(holder != session);
            return holder == session;
        }
        if self.holders.len() >= max {
            counters.exclusive_full += 1;
            return false;
        }
        self.holders.insert(filter, session);
        true
    }

    /// What a shard's sessions have at the start, whatever the bound is now.
    fn hear(&mut self, list: Vec<(Arc<str>, u64)>) {
        for (filter, session) in list {
            self.holders.entry(filter).or_insert(session);
        }
        self.heard += 1;
    }

    fn release(&mut self, filter: &str, session: u64) {
        if self.holders.get(filter) == Some(&session) {
            self.holders.remove(filter);
        }
    }
}

impl Shard {
    /// The exclusive ones among the filters of a SUBSCRIBE.
    pub(crate) fn exclusive_of(filters: &[Result<Wanted, ReasonCode>]) -> Vec<Arc<str>> {
        let wanted = filters.iter().flatten().filter(|one| one.exclusive);
        wanted.map(|one| Arc::clone(&one.filter)).collect()
    }

    /// Asks for a filter; `request` waits for the answer.
    pub(crate) fn claim<S: Store>(
        &mut self,
        request: u64,
        filter: Arc<str>,
        session: u64,
        store: &mut S,
    ) {
        let owner = home_shard(&filter, self.config.homes);
        let message = ExclusiveMessage::Claim {
            request,
            filter,
            session,
        };
        self.send_peer(owner, MeshMessage::Exclusive(message), store);
    }

    /// A session may want a filter no more. Its owner is told when what the session has done is
    /// durable, and answers to `request`; 0: nobody waits.
    pub(crate) fn vacate(&mut self, key: ClientKey, filter: &Arc<str>, request: u64) {
        self.when_durable(Wait::Vacate(key, Arc::clone(filter), request));
    }

    /// A subscription is about to be replaced: an exclusive one by one that is not.
    pub(crate) fn give_way(&mut self, key: ClientKey, wanted: &Wanted) {
        if !wanted.exclusive && self.has_alone(key, &wanted.filter) {
            self.vacate(key, &wanted.filter, 0);
        }
    }

    fn has_alone(&mut self, key: ClientKey, filter: &str) -> bool {
        let client = self.client(key);
        let held = client.and_then(|client| client.session.subscriptions.find(filter));
        held.is_some_and(|one| one.exclusive)
    }

    /// It is durable, unless the session wants the filter again by now: then a claim is under way
    /// behind the one that is not released.
    pub(crate) fn vacated<S: Store>(
        &mut self,
        key: ClientKey,
        filter: Arc<str>,
        request: u64,
        store: &mut S,
    ) {
        let is_same = |one: &Wanted| one.exclusive && one.filter == filter;
        let is_wanted = self.has_alone(key, &filter)
            || self
                .barriers
                .requests()
                .any(|open| open.client == key && open.filters.iter().flatten().any(is_same));
        if is_wanted {
            self.released(request, store);
            return;
        }
        let owner = home_shard(&filter, self.config.homes);
        let message = ExclusiveMessage::Release {
            request,
            filter,
            session: key.session,
        };
        self.send_peer(owner, MeshMessage::Exclusive(message), store);
    }

    /// What claimed nothing, or what is free: an UNSUBACK may wait for it.
    fn released<S: Store>(&mut self, request: u64, store: &mut S) {
        if request != 0 {
            self.barriers.joined(request, true, |_| false);
            self.check_barriers(store);
        }
    }

    /// The answer to a claim. Nothing is to be released when it is no.
    fn claimed<S: Store>(&mut self, request: u64, filter: &str, accepted: bool, store: &mut S) {
        let same = |one: &Wanted| one.exclusive && *one.filter == *filter;
        let refused = self.barriers.joined(request, accepted, same);
        if let Some((_, wanted)) = refused {
            self.lose_interest(&wanted);
        }
        self.check_barriers(store);
    }

    pub(crate) fn exclusive_message<S: Store>(
        &mut self,
        from: ShardId,
        message: ExclusiveMessage,
        store: &mut S,
    ) {
        match message {
            ExclusiveMessage::Claim { .. } | ExclusiveMessage::Release { .. }
                if self.exclusive.heard < self.config.shards =>
            {
                self.exclusive.early.push((from, message));
            }
            ExclusiveMessage::Claim {
                request,
                filter,
                session,
            } => {
                let max = self.config.exclusive_max;
                let counters = &mut self.counters;
                let name = Arc::clone(&filter);
                let accepted = self.exclusive.claim(name, session, max, counters);
                self.counters.exclusive = self.exclusive.len() as u64;
                let answer = ExclusiveMessage::Claimed {
                    request,
                    filter,
                    accepted,
                };
                self.send_peer(from, MeshMessage::Exclusive(answer), store);
            }
            ExclusiveMessage::Claimed {
                request,
                filter,
                accepted,
            } => self.claimed(request, &filter, accepted, store),
            ExclusiveMessage::Release {
                request,
                filter,
                session,
            } => {
                self.exclusive.release(&filter, session);
                self.counters.exclusive = self.exclusive.len() as u64;
                if request != 0 {
                    let answer = ExclusiveMessage::Released { request };
                    self.send_peer(from, MeshMessage::Exclusive(answer), store);
                }
            }
            ExclusiveMessage::Released { request } => self.released(request, store),
            ExclusiveMessage::Holders(list) => self.take_holders(list, store),
        }
    }

    /// The start: tells every owner what durable sessions have, before anything else is said about
    /// exclusive subscriptions.
    pub(crate) fn tell_holders(&mut self) {
        let homes = self.config.homes;
        let mut lists: Vec<Vec<(Arc<str>, u64)>> = vec![Vec::new(); usize::from(homes)];
        for (filter, session) in std::mem::take(&mut self.exclusive.restored) {
            if let Some(list) = lists.get_mut(home_shard(&filter, homes).index()) {
                list.push((filter, session));
            }
        }
        let own = self.config.shard.index();
        for (owner, (lane, list)) in self.lanes.iter_mut().zip(lists).enumerate() {
            if owner == own {
                self.exclusive.hear(list);
            } else {
                lane.push(MeshMessage::Exclusive(ExclusiveMessage::Holders(list)));
            }
        }
        self.counters.exclusive = self.exclusive.len() as u64;
    }

    /// What a shard said at the start. When all have, what came meanwhile is done.
    fn take_holders<S: Store>(&mut self, list: Vec<(Arc<str>, u64)>, store: &mut S) {
        self.exclusive.hear(list);
        self.counters.exclusive = self.exclusive.len() as u64;
        if self.exclusive.heard >= self.config.shards {
            for (from, message) in std::mem::take(&mut self.exclusive.early) {
                self.exclusive_message(from, message, store);
            }
        }
    }
}
