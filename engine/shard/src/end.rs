//! The end of connections and sessions: wills, expiry, take-over, an orderly stop.

use std::sync::Arc;

use engine_mqtt::ReasonCode;
use engine_session::{NEVER, SessionRecord, Will};

use crate::client::{ClientKey, Connection, Stage};
use crate::ending::Ending;
use crate::interest::Need;
use crate::port::{ConnectionId, Store, Transmit};
use crate::shard::{Shard, Timer};
use crate::share::outlives;
use crate::state;
use crate::waits::Wait;

/// How long a connection stays open after DISCONNECT at most, until it is durable that its will is
/// gone; milliseconds.
const FAREWELL_MS_MAX: u64 = 5_000;

impl Shard {
    /// Ends a connection from this side; `reason` is told to MQTT 5 clients. The session's will is
    /// published unless `orderly`.
    pub(crate) fn close(
        &mut self,
        connection: ConnectionId,
        reason: Option<ReasonCode>,
        abnormal: bool,
    ) {
        if let Some(reason) = reason {
            self.send_disconnect(connection, reason);
        }
        self.close_as(connection, Ending::of(reason, abnormal));
    }

    /// Ends a connection that knows why.
    pub(crate) fn close_as(&mut self, connection: ConnectionId, ending: Ending) {
        let Some(mut link) = self.unlink(connection) else {
            return;
        };
        self.closing.push_back(Transmit {
            connection,
            output: std::mem::take(&mut link.output),
            close: true,
        });
        self.part(&link, ending);
    }

    /// The connection of a session, if it had one, has ended.
    pub(crate) fn part(&mut self, link: &Connection, ending: Ending) {
        if let Some(client) = link.client {
            self.announce_disconnected(client, link, ending);
            self.detach(client, ending.is_abnormal());
        }
    }

    /// Ends a connection after DISCONNECT. With a will, it is closed when it is durable that the
    /// will is gone, so that a client that has seen the end knows it; but not later than
    /// [`FAREWELL_MS_MAX`].
    pub(crate) fn farewell(&mut self, connection: ConnectionId) {
        let client = self
            .connections
            .get(&connection)
            .and_then(|link| link.client);
        let has_will = client.is_some_and(|index| self.clients[index].will.is_some());
        if !has_will {
            self.close(connection, None, false);
            return;
        }
        let Some(mut link) = self.unlink(connection) else {
            return;
        };
        let output = std::mem::take(&mut link.output);
        self.part(&link, Ending::Left(ReasonCode::Success));
        self.leaving.insert(connection, output);
        self.when_durable(Wait::Farewell(connection));
        let deadline = self.now.monotonic_ms + FAREWELL_MS_MAX;
        self.timers.arm(deadline, Timer::Farewell(connection));
    }

    /// Forgets a connection; nothing more is done for what it sends.
    pub(crate) fn unlink(&mut self, connection: ConnectionId) -> Option<Connection> {
        let link = self.connections.remove(&connection)?;
        self.counters.connections = self.connections.len() as u64;
        Some(link)
    }

    /// The will of a connection after DISCONNECT is gone, or this has taken too long.
    pub(crate) fn end_farewell(&mut self, connection: ConnectionId) {
        if let Some(output) = self.leaving.remove(&connection) {
            self.closing.push_back(Transmit {
                connection,
                output,
                close: true,
            });
        }
    }

    /// A peer's fault: the connection is closed with a reason.
    pub(crate) fn fail(&mut self, connection: ConnectionId, reason: ReasonCode) {
        self.counters.closed_for_error += 1;
        self.close(connection, Some(reason), true);
    }

    /// The session has lost its connection.
    pub(crate) fn detach(&mut self, index: u32, abnormal: bool) {
        let client = &mut self.clients[index];
        client.connection = None;
        client.holds = 0;
        client.held.clear();
        client.held_bytes = 0;
        client.resend.clear();
        client.retained.clear();
        client.refetch = None;
        self.share_offline(index);
        self.leave_filters(index);
        self.end_will(index, abnormal);
        if !self.clients[index].session.is_durable() {
            self.destroy(index);
            return;
        }
        self.store_own_place(index);
        self.store_session(index, self.now.wall_ms.max(1));
        let left_ms = u64::from(self.clients[index].session.expiry_s) * 1000;
        self.arm_expiry(index, left_ms);
    }

    /// Writes the session's record; `ended_ms` 0: it is connected.
    pub(crate) fn store_session(&mut self, index: u32, ended_ms: u64) {
        let session = &self.clients[index].session;
        let record = SessionRecord {
            id: session.id,
            expiry_s: session.expiry_s,
            ended_ms,
            client_id: session.client_id.to_string(),
        };
        self.change(state::session(&record));
    }

    /// The session is away: it ends so many milliseconds from now, unless its client comes back.
    pub(crate) fn arm_expiry(&mut self, index: u32, left_ms: u64) {
        let deadline = self.now.monotonic_ms.saturating_add(left_ms);
        let client = &mut self.clients[index];
        let is_endless = client.session.expiry_s == NEVER;
        client.expires_ms = if is_endless { u64::MAX } else { deadline };
        client.absence = client.absence.wrapping_add(1);
        self.arm_absence(index);
    }

    /// Takes an offline session's filters out of the table's online part.
    fn leave_filters(&mut self, index: u32) {
        let session = &self.clients[index].session;
        let is_durable = session.is_durable();
        let all: Vec<_> = session.subscriptions.iter().cloned().collect();
        for subscription in all {
            if let Some(id) = subscription.filter_id {
                self.interest.leave(id, index);
            }
            let need = Need {
                online: true,
                queue: false,
            };
            if let Some(change) = self.interest.remove(&subscription.filter, need) {
                self.route_changes.push(change);
            }
            if is_durable {
                let qos = subscription.qos;
                self.interest.go_away(&subscription.filter, qos);
            }
        }
        self.cancel_requests(index, None);
    }

    /// Ends a session and all that it owns.
    pub(crate) fn destroy(&mut self, index: u32) {
        let Some(mut client) = self.clients.remove(index) else {
            return;
        };
        let session = client.session;
        self.by_client_id.remove(&session.client_id);
        self.tally_sessions();
        let shared: Vec<_> = client.assigned.take().into_iter().collect();
        self.share_destroyed(&session, &shared);
        let is_group = client.group.is_some();
        let id = session.id;
        for one in session.subscriptions.iter().filter(|one| one.exclusive) {
            self.vacate(ClientKey { index, session: id }, &one.filter, 0);
        }
        if !is_group {
            self.counters.subscriptions -= session.subscriptions.len() as u64;
        }
        for subscription in session.subscriptions.iter().filter(|_| !is_group) {
            let need = Need::of(&subscription.filter, subscription.qos, false);
            if let Some(change) = self.interest.remove(&subscription.filter, need) {
                self.route_changes.push(change);
            }
            if session.is_durable() {
                let qos = subscription.qos;
                self.interest.come_back(&subscription.filter, qos);
            }
        }
        if session.stored.is_none() {
            return;
        }
        let mut changes = vec![
            state::no_session(&session.client_id),
            state::no_progress(id),
        ];
        let own = session.subscriptions.iter();
        let filters = own.chain(session.subscriptions.shared());
        changes.extend(filters.map(|one| state::no_subscription(id, &one.filter)));
        let flying = session.window.iter().filter(|one| !outlives(one));
        changes.extend(flying.map(|delivery| state::no_outbound(id, delivery)));
        let completed = session.completed.iter();
        changes.extend(completed.map(|at| state::no_completed(id, *at)));
        changes.extend(
            session
                .inbound
                .iter()
                .map(|packet_id| state::no_inbound(id, *packet_id)),
        );
        self.changes.extend(changes);
        self.parked.has_ended = true;
    }

    /// How many sessions of clients and how many groups there are.
    pub(crate) fn tally_sessions(&mut self) {
        self.counters.shared_groups = self.by_group.len() as u64;
        let here = self.clients.len() - self.by_group.len();
        self.counters.sessions = (here + self.parked.sessions) as u64;
        self.counters.sessions_parked = self.parked.sessions as u64;
    }

    /// The connection has ended: its will is published, waits for its delay, or is gone.
    fn end_will(&mut self, index: u32, abnormal: bool) {
        let stopping = self.stopping;
        let client = &mut self.clients[index];
        let Some(will) = client.will.take() else {
            return;
        };
        let client_id = Arc::clone(&client.session.client_id);
        if !abnormal {
            self.change(state::no_will(&client_id));
            return;
        }
        if stopping {
            // It stays in the state store, and fires after the next start unless the client is
            // back.
            return;
        }
        let delay_s = will.delay_s.min(client.session.expiry_s);
        let session = will.session;
        self.wills.insert(Arc::clone(&client_id), *will);
        if delay_s == 0 {
            self.due_wills.push(client_id);
        } else {
            let deadline = self.now.monotonic_ms + u64::from(delay_s) * 1000;
            self.timers
                .arm(deadline, Timer::Will(Box::new((client_id, session))));
        }
    }

    /// A will whose delay has passed is published, unless its client came back.
    pub(crate) fn check_will(&mut self, client_id: &Arc<str>, session: u64) {
        if self
            .wills
            .get(client_id)
            .is_some_and(|will| will.session == session)
        {
            self.due_wills.push(Arc::clone(client_id));
        }
    }

    /// Publishes the wills that are due.
    pub(crate) fn publish_wills<S: Store>(&mut self, store: &mut S) {
        for client_id in std::mem::take(&mut self.due_wills) {
            if let Some(will) = self.wills.remove(&client_id) {
                self.publish_will(&client_id, &will, store);
            }
        }
    }

    /// A client is back: its waiting will is not published. A will without delay is due already.
    pub(crate) fn forget_will<S: Store>(&mut self, client_id: &str, store: &mut S) {
        self.publish_wills(store);
        if self.wills.remove(client_id).is_some() {
            self.change(state::no_will(client_id));
        }
    }

    /// Ends the session of a client that is back when its time has passed, whether its timer has
    /// fired or not.
    pub(crate) fn end_expired<S: Store>(&mut self, client_id: &str, store: &mut S) {
        if let Some(index) = self.by_client_id.get(client_id).copied() {
            let client = &self.clients[index];
            if client.connection.is_none() && client.expires_ms <= self.now.monotonic_ms {
                self.check_expiry(self.key(index), client.absence, store);
            }
        }
    }

    /// A session that is still offline when its interval has passed ends; before, it is parked.
    pub(crate) fn check_expiry<S: Store>(&mut self, key: ClientKey, absence: u8, store: &mut S) {
        let now = self.now.monotonic_ms;
        let Some(client) = self.client(key) else {
            return;
        };
        if client.connection.is_some() || client.absence != absence {
            return;
        }
        if client.expires_ms > now {
            self.begin_parking(key, store);
            return;
        }
        let client_id = Arc::clone(&client.session.client_id);
        if let Some(will) = self.wills.remove(&client_id) {
            self.publish_will(&client_id, &will, store);
        }
        self.destroy(key.index);
    }

    /// A client that has been silent for one and a half keep-alive intervals is closed
    /// [MQTT-3.1.2-22].
    pub(crate) fn check_keep_alive(&mut self, connection: ConnectionId, armed: u8) {
        let now = self.now.monotonic_ms;
        let Some(link) = self
            .connections
            .get(&connection)
            .filter(|link| link.armed == armed)
        else {
            return;
        };
        let limit = match link.stage {
            Stage::Fresh => self.config.connect_timeout_ms,
            Stage::Opening | Stage::Open if link.keep_alive_ms == 0 => return,
            Stage::Opening | Stage::Open => u64::from(link.keep_alive_ms),
        };
        // Of one that is held nothing is read: it need not be silent.
        let last_ms = if link.is_held { now } else { link.last_ms };
        let deadline = last_ms + limit;
        if deadline > now {
            self.timers
                .arm(deadline, Timer::KeepAlive(connection, armed));
            return;
        }
        self.counters.keep_alive_timeouts += 1;
        self.close(connection, Some(ReasonCode::KeepAliveTimeout), true);
    }

    /// An orderly stop: clients are told, every session's place is stored, wills wait for the next
    /// start. The driver goes on turning until [`Self::stopped`].
    pub fn stop<S: Store>(&mut self, now: engine_session::Now, store: &mut S) {
        self.begin_call(now);
        self.stopping = true;
        let mut all: Vec<_> = self.connections.keys().copied().collect();
        all.sort_unstable_by_key(|connection| connection.0);
        for connection in all {
            self.close(connection, Some(ReasonCode::ServerShuttingDown), true);
        }
        self.active = 2;
        self.store_positions();
        self.store_positions();
        self.flush_changes(store);
    }

    /// Everything that the stop wrote is durable.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopping
            && self.pending.is_empty()
            && self.waits.is_empty()
            && self.turn_waits.is_empty()
            && self.changes.is_empty()
            && self.group_messages.is_empty()
            && self
                .retain_waits
                .iter()
                .all(std::collections::VecDeque::is_empty)
    }

    /// A will's row in the state store.
    pub(crate) fn store_will(&mut self, client_id: &str, will: &Will) {
        self.change(state::will(client_id, will));
    }
}
