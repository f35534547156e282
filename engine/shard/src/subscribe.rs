//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! A subscription begins at its cuts: the offsets at which every shard adopted the routing version
//! that has it. SUBACK is sent when all have and the subscription is durable, so nothing published
//! after it is missed.

use std::num::NonZeroU32;
use std::sync::Arc;

use engine_mqtt::{QoS, ReasonCode, RetainHandling};
use engine_session::{LogOffset, Subscription};
use engine_topic::{is_shared, strip_exclusive};

use crate::barrier::Goal;
use crate::client::ClientKey;
use crate::interest::{Member, Need};
use crate::port::{ConnectionId, Store};
use crate::replay::Wish;
use crate::shard::Shard;
use crate::state;
use crate::waits::Wait;

/// SUBSCRIBE and UNSUBSCRIBE packets of one connection that wait, at most.
const REQUESTS_MAX: u16 = 64;

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) filter: Arc<str>,
    /// It came as `$exclusive/` and the filter.
    pub(crate) exclusive: bool,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: RetainHandling,
    pub(crate) id: Option<u32>,
}

/// A SUBSCRIBE under way.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) connection: ConnectionId,
    pub(crate) client: ClientKey,
    /// 0: no packet asked for it, and none answers.
    pub(crate) packet_id: u16,
    /// In the packet's order; an UNSUBSCRIBE that came meanwhile takes its filter out.
    pub(crate) filters: Vec<Result<Wanted, ReasonCode>>,
    /// Where its subscriptions begin, if not now.
    pub(crate) replay: Option<Box<Wish>>,
}

/// What a SUBACK says.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) connection: ConnectionId,
    pub(crate) client: ClientKey,
    /// 0: it is not said.
    pub(crate) packet_id: u16,
    pub(crate) reasons: Vec<ReasonCode>,
    /// Retained messages follow for so many of the filters.
    pub(crate) retained: usize,
}

const fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
        QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
    }
}

impl Shard {
    /// A client's SUBSCRIBE, its filters being valid.
    pub(crate) fn on_subscribe<S: Store>(&mut self, mut request: Request, store: &mut S) {
        let Some(link) = self.connections.get_mut(&request.connection) else {
            return;
        };
        link.subscribing += 1;
        if link.subscribing > REQUESTS_MAX {
            self.fail(request.connection, ReasonCode::QuotaExceeded);
            return;
        }
        let room = self.config.subscriptions_max.saturating_sub(
            self.clients[request.client.index]
                .session
                .subscriptions
                .len(),
        );
        let mut changes = Vec::new();
        let client = request.client;
        for (count, wanted) in request.filters.iter_mut().enumerate() {
            let Ok(one) = wanted else { continue };
            if count >= room {
                *wanted = Err(ReasonCode::QuotaExceeded);
                continue;
            }
            if is_shared(&one.filter) {
                continue;
            }
            changes.push(
                self.interest
                    .add(&one.filter, Need::of(&one.filter, one.qos, true)),
            );
        }
        let joins = Self::shared_of(&request.filters);
        let claims = Self::exclusive_of(&request.filters);
        let wish = request.replay.clone();
        let seeks = wish.as_ref().map_or(0, |w| w.seeks(self.positions.len()));
        let goal = Goal::Subscribe(Box::new(request));
        let answers = joins.len() + claims.len() + seeks;
        let request = self.route_barrier(changes, goal, answers, store);
        for text in joins {
            self.ask_to_join(request, &text, client.session);
        }
        for filter in claims {
            self.claim(request, filter, client.session, store);
        }
        if let Some(wish) = wish {
            self.seek(request, &wish, store);
        }
    }

    /// Every shard routes by the new subscriptions: they take effect.
    pub(crate) fn subscribed<S: Store>(&mut self, request: Request, store: &mut S) {
        let key = request.client;
        let Request {
            connection,
            packet_id,
            filters,
            replay,
            ..
        } = request;
        let alive = self
            .client(key)
            .is_some_and(|client| client.connection == Some(connection));
        if !alive {
            self.release_interest(key, &filters);
            return;
        }
        let cuts = self.cuts();
        let replay = replay.map(|wish| wish.begin(&cuts));
        if let Some(begin) = &replay {
            self.begin_replay(key, begin, &filters);
        }
        let mut reasons = Vec::with_capacity(filters.len());
        let mut retained = 0;
        let mut joined = Vec::new();
        for wanted in filters {
            match wanted {
                Ok(wanted) if is_shared(&wanted.filter) => {
                    reasons.push(granted(wanted.qos));
                    joined.push(Arc::clone(&wanted.filter));
                    self.subscribe_shared(key, wanted);
                }
                Ok(wanted) => {
                    reasons.push(granted(wanted.qos));
                    self.give_way(key, &wanted);
                    retained += usize::from(self.subscribe(key, wanted, &cuts, replay.as_ref()));
                }
                Err(reason) => reasons.push(reason),
            }
        }
        if let Some(begin) = &replay {
            self.go_back(key, begin, &cuts);
        }
        let answer = Answer {
            connection,
            client: key,
            packet_id,
            reasons,
            retained,
        };
        if joined.is_empty() {
            self.answer_subscribe(answer, store);
            return;
        }
        // What is published from the SUBACK on must find the member.
        let goal = Goal::Answer(Box::new(answer));
        let request = self.barriers.open_joins(goal, joined.len());
        for text in joined {
            self.tell_online(key.index, &text, request);
        }
    }

    /// The subscriptions of a SUBSCRIBE have taken effect everywhere.
    pub(crate) fn answer_subscribe<S: Store>(&mut self, answer: Answer, store: &mut S) {
        let client = self.client(answer.client);
        if client.is_some_and(|client| client.session.is_durable()) {
            self.when_durable(Wait::SubAck(Box::new(answer)));
        } else {
            self.send_suback(answer, store);
        }
    }

    /// Adds one subscription, which begins at the cuts or at `begin`; says whether retained
    /// messages are to follow.
    fn subscribe(
        &mut self,
        key: ClientKey,
        wanted: Wanted,
        cuts: &Arc<[LogOffset]>,
        begin: Option<&Arc<[LogOffset]>>,
    ) -> bool {
        let filter_id = self.table.filter(&wanted.filter).map(|entry| entry.id);
        let session = &mut self.clients[key.index].session;
        let old = session.subscriptions.find(&wanted.filter).cloned();
        let upgrade = old
            .as_ref()
            .is_some_and(|old| old.qos == QoS::AtMostOnce && wanted.qos > QoS::AtMostOnce);
        let same = old.as_ref().filter(|_| !upgrade);
        let replay = match begin {
            Some(_) => Self::replay_of(same, cuts),
            None => same.and_then(|old| old.replay.clone()),
        };
        let kept = begin.or_else(|| same.map(|old| &old.cuts)).unwrap_or(cuts);
        let subscription = Arc::new(Subscription {
            filter: wanted.filter,
            filter_id,
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            exclusive: wanted.exclusive,
            id: wanted.id.and_then(NonZeroU32::new),
            cuts: Arc::clone(kept),
            replay,
        });
        session.subscriptions.insert(Arc::clone(&subscription));
        let change = session
            .is_durable()
            .then(|| state::subscription(session.id, &subscription));
        self.changes.extend(change);
        if let Some(old) = &old {
            // The new subscription counts in the routing table since SUBSCRIBE came.
            let need = Need::of(&old.filter, old.qos, true);
            if let Some(change) = self.interest.remove(&old.filter, need) {
                self.route_changes.push(change);
            }
        } else {
            self.counters.subscriptions += 1;
        }
        if let Some(id) = filter_id {
            let member = Member {
                client: key.index,
                subscription: Arc::clone(&subscription),
            };
            self.interest.join(id, member);
        }
        let retained = match wanted.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => old.is_none(),
            RetainHandling::DoNotSend => false,
        };
        if retained {
            self.begin_retained(key, subscription, Arc::clone(cuts));
        }
        retained
    }

    fn release_interest(&mut self, key: ClientKey, filters: &[Result<Wanted, ReasonCode>]) {
        for wanted in filters.iter().flatten() {
            if is_shared(&wanted.filter) {
                self.give_up_joining(key, &wanted.filter);
                continue;
            }
            self.lose_interest(wanted);
            if wanted.exclusive {
                self.vacate(key, &wanted.filter, 0);
            }
        }
    }

    /// A filter of a SUBSCRIBE, not a shared one, comes to nothing.
    pub(crate) fn lose_interest(&mut self, wanted: &Wanted) {
        let need = Need::of(&wanted.filter, wanted.qos, true);
        if let Some(change) = self.interest.remove(&wanted.filter, need) {
            self.route_changes.push(change);
        }
    }

    /// SUBACK, and after it the retained messages.
    pub(crate) fn send_suback<S: Store>(&mut self, answer: Answer, store: &mut S) {
        let Answer {
            connection,
            client: key,
            packet_id,
            reasons,
            retained,
        } = answer;
        if let Some(link) = self.connections.get_mut(&connection) {
            link.subscribing -= 1;
        }
        if packet_id > 0 {
            self.write_suback(connection, packet_id, &reasons);
        } else {
            let refused = reasons.iter().filter(|reason| reason.number() >= 0x80);
            self.counters.auto_subscriptions_refused += refused.count() as u64;
        }
        let Some(client) = self.client(key) else {
            return;
        };
        if client.connection != Some(connection) {
            return;
        }
        let waiting = client.retained.iter_mut().filter(|job| !job.started);
        for job in waiting.take(retained) {
            job.started = true;
        }
        self.send_retained(key.index, store);
        self.queue_pump(key.index);
    }

    /// A client's UNSUBSCRIBE.
    pub(crate) fn on_unsubscribe(
        &mut self,
        index: u32,
        connection: ConnectionId,
        packet_id: u16,
        filters: &[&str],
    ) {
        let mut reasons = Vec::with_capacity(filters.len());
        let mut vacated = Vec::new();
        for filter in filters {
            reasons.push(self.end_named(index, connection, filter, &mut vacated));
        }
        if let Some(link) = self.connections.get_mut(&connection) {
            link.subscribing += 1;
        }
        if !vacated.is_empty() {
            let goal = Goal::Unsubscribed(connection, packet_id, reasons);
            let request = self.barriers.open_joins(goal, vacated.len());
            let key = self.key(index);
            for filter in vacated {
                self.vacate(key, &filter, request);
            }
        } else if self.clients[index].session.is_durable() {
            self.when_durable(Wait::UnsubAck(connection, packet_id, reasons));
        } else {
            self.send_unsuback(connection, packet_id, &reasons);
        }
    }

    /// Ends the subscription that a filter of UNSUBSCRIBE names: the one that it is rewritten to,
    /// or one with its own name, from a time without that rule. What may be free then, as it was
    /// the session's alone, is added to `vacated`.
    fn end_named(
        &mut self,
        index: u32,
        connection: ConnectionId,
        filter: &str,
        vacated: &mut Vec<Arc<str>>,
    ) -> ReasonCode {
        let rewritten = self.rewritten_filter(connection, filter);
        let other = rewritten.as_ref().ok().and_then(Option::as_deref);
        for name in other.into_iter().chain([filter]) {
            let exclusive = strip_exclusive(name);
            let same = (exclusive.unwrap_or(name), exclusive.is_some());
            let cancelled = self.cancel_requests(index, Some(same));
            let removed = self.unsubscribe(index, same);
            if cancelled || removed {
                vacated.extend(exclusive.map(Into::into));
                return ReasonCode::Success;
            }
        }
        let invalid = rewritten.err();
        invalid.unwrap_or(ReasonCode::NoSubscriptionExisted)
    }

    /// Ends a subscription, to a filter that came with or without `$exclusive/`.
    fn unsubscribe(&mut self, index: u32, (filter, exclusive): (&str, bool)) -> bool {
        let session = &mut self.clients[index].session;
        let held = session.subscriptions.find(filter);
        if held.is_none_or(|one| one.exclusive != exclusive) {
            return false;
        }
        let Some(old) = session.subscriptions.remove(filter) else {
            return false;
        };
        let change = session
            .is_durable()
            .then(|| state::no_subscription(session.id, filter));
        self.changes.extend(change);
        if session.replays {
            let mut all = session.subscriptions.iter();
            session.replays = all.any(|one| one.replay.is_some());
        }
        self.counters.subscriptions -= 1;
        if is_shared(&old.filter) {
            self.unsubscribe_shared(index, &old.filter);
            return true;
        }
        if let Some(id) = old.filter_id {
            self.interest.leave(id, index);
        }
        let need = Need::of(&old.filter, old.qos, true);
        if let Some(change) = self.interest.remove(&old.filter, need) {
            self.route_changes.push(change);
        }
        true
    }

    /// Takes filters out of SUBSCRIBE packets that are under way: one, which came with or without
    /// `$exclusive/`, or all of a client's.
    pub(crate) fn cancel_requests(&mut self, index: u32, filter: Option<(&str, bool)>) -> bool {
        let mut gone = Vec::new();
        for request in self
            .barriers
            .requests()
            .filter(|request| request.client.index == index)
        {
            for wanted in &mut request.filters {
                let hit = wanted.as_ref().is_ok_and(|one| {
                    filter.is_none_or(|same| (&*one.filter, one.exclusive) == same)
                });
                if hit {
                    let reason = wanted
                        .as_ref()
                        .map_or(ReasonCode::Success, |one| granted(one.qos));
                    gone.push(std::mem::replace(wanted, Err(reason)));
                }
            }
        }
        let key = self.key(index);
        self.release_interest(key, &gone);
        !gone.is_empty()
    }
}
