//! CONNECT: the session that goes with it, take-over, and what a CONNACK waits for.

use std::sync::Arc;

use engine_mqtt::{ReasonCode, Version};
use engine_session::{Session, Subscription, Will, Window};

use crate::barrier::Goal;
use crate::client::{Client, ClientKey, Greeting, Stage};
use crate::config::home_shard;
use crate::ending::Ending;
use crate::interest::{Member, Need};
use crate::port::{ConnectionId, Store};
use crate::rate::PublishRate;
use crate::shard::{Shard, Timer};
use crate::waits::Wait;

/// Bytes that a client may send between CONNECT and CONNACK, beyond one packet.
const STALLED_BYTES_MAX: usize = 128 * 1024;

/// A CONNECT that the codec has found valid.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    /// Asked for; 3.1.1 clients: 0 with clean session, else never.
    pub(crate) expiry_s: u32,
    pub(crate) receive_max: u16,
    pub(crate) packet_bytes_max: u32,
    /// Topic Alias Maximum; 0: it takes none.
    pub(crate) aliases_max: u16,
    /// Without its session id.
    pub(crate) will: Option<Will>,
}

impl Shard {
    /// A client's CONNECT.
    pub(crate) fn on_connect<S: Store>(
        &mut self,
        connection: ConnectionId,
        mut opening: Opening,
        store: &mut S,
    ) {
        let assigned = opening.client_id.is_empty();
        if assigned {
            if !opening.clean_start && !opening.version.has_properties() {
                self.reject(
                    connection,
                    opening.version,
                    ReasonCode::ClientIdentifierNotValid,
                );
                return;
            }
            opening.client_id = self.assign_client_id();
        }
        let client_id: Arc<str> = opening.client_id.as_str().into();
        self.take_over(&client_id, opening.clean_start);
        self.end_expired(&client_id, store);
        self.forget_will(&client_id, store);
        self.unpark(&client_id, store);
        if self.clients.len() + self.parked.sessions >= self.config.sessions_max
            && !self.by_client_id.contains_key(&client_id)
        {
            self.counters.refused += 1;
            self.reject(connection, opening.version, ReasonCode::QuotaExceeded);
            return;
        }
        let expiry_s = opening.expiry_s.min(self.config.session_expiry_max_s);
        let (index, session_present) = self.session_for(&client_id, &opening, expiry_s);
        let greeting = Greeting {
            session_present,
            assigned_client_id: assigned.then_some(opening.client_id),
            expiry_s: (expiry_s != opening.expiry_s).then_some(expiry_s),
            waits: 0,
        };
        let Some(link) = self.connections.get_mut(&connection) else {
            return;
        };
        link.stage = Stage::Opening;
        link.version = opening.version;
        link.client = Some(index);
        link.packet_bytes_max = opening.packet_bytes_max;
        link.aliases_max = opening.aliases_max;
        link.keep_alive_ms = u32::from(opening.keep_alive_s) * 1_500;
        link.greeting = Some(Box::new(greeting));
        link.rate = PublishRate::new(
            self.config.publishes_per_s,
            self.config.publish_bytes_per_s,
            self.now.monotonic_ms,
        );
        link.armed += 1;
        let (keep_alive_ms, armed) = (link.keep_alive_ms, link.armed);
        if keep_alive_ms > 0 {
            let deadline = self.now.monotonic_ms + u64::from(keep_alive_ms);
            self.timers
                .arm(deadline, Timer::KeepAlive(connection, armed));
        }
        self.counters.connects += 1;
        self.open_session(index, connection, opening.will, store);
    }

    /// The client's earlier connection, if there is one, ends [MQTT-3.1.4-3].
    fn take_over(&mut self, client_id: &str, discards: bool) {
        let index = self.by_client_id.get(client_id).copied();
        if let Some(old) = index.and_then(|index| self.clients[index].connection) {
            self.counters.takeovers += 1;
            self.send_disconnect(old, ReasonCode::SessionTakenOver);
            let ending = if discards {
                Ending::Discarded
            } else {
                Ending::Told(ReasonCode::SessionTakenOver)
            };
            self.close_as(old, ending);
        }
    }

    fn assign_client_id(&mut self) -> String {
        loop {
            self.next_client_id += 1;
            let (boot, number) = (self.config.boot, self.next_client_id);
            let mixed =
                xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), self.config.seed);
            let id = format!("corelane-{boot}-{number}-{mixed:016x}");
            if home_shard(&id, self.config.homes) == self.config.shard {
                return id;
            }
        }
    }

    /// The session of a CONNECT, and whether it was there already.
    fn session_for(
        &mut self,
        client_id: &Arc<str>,
        opening: &Opening,
        expiry_s: u32,
    ) -> (u32, bool) {
        if let Some(index) = self.by_client_id.get(client_id).copied() {
            if !opening.clean_start {
                self.clients[index].session.expiry_s = expiry_s;
                self.set_window(index, opening.receive_max);
                self.store_session(index, 0);
                return (index, true);
            }
            self.destroy(index);
        }
        self.next_session += 1;
        let window = Window::new(0);
        let session = Session::new(self.next_session, Arc::clone(client_id), expiry_s, window);
        let durable = session.is_durable();
        let index = self.clients.insert(Client::new(session));
        self.by_client_id.insert(Arc::clone(client_id), index);
        self.tally_sessions();
        self.set_window(index, opening.receive_max);
        if durable {
            self.store_session(index, 0);
            self.store_shared_place(index);
        }
        (index, false)
    }

    fn set_window(&mut self, index: u32, receive_max: u16) {
        let limit = self.config.inflight_max.min(receive_max).max(1);
        self.clients[index].session.window.set_limit(limit);
    }

    /// Binds the session to its connection; CONNACK follows when all of it is durable and routed.
    fn open_session<S: Store>(
        &mut self,
        index: u32,
        connection: ConnectionId,
        will: Option<Will>,
        store: &mut S,
    ) {
        let key = self.key(index);
        let client = &mut self.clients[index];
        client.connection = Some(connection);
        let client_id = Arc::clone(&client.session.client_id);
        if let Some(mut will) = will {
            will.session = client.session.id;
            self.store_will(&client_id, &will);
            self.clients[index].will = Some(Box::new(will));
        }
        let filters: Vec<_> = self.clients[index]
            .session
            .subscriptions
            .iter()
            .cloned()
            .collect();
        let mut waits = 1;
        if filters.is_empty() {
            let zero = Arc::clone(&self.zero);
            if let Some(behind) = &mut self.clients[index].session.behind {
                behind.joined = Some(zero);
            }
        } else {
            waits += 1;
            let need = Need {
                online: true,
                queue: false,
            };
            for one in &filters {
                self.interest.come_back(&one.filter, one.qos);
            }
            let changes = filters
                .iter()
                .map(|one| self.interest.add(&one.filter, need))
                .collect();
            self.route_barrier(changes, Goal::Resume(key, connection), 0, store);
        }
        if let Some(greeting) = self
            .connections
            .get_mut(&connection)
            .and_then(|link| link.greeting.as_mut())
        {
            greeting.waits = waits;
        }
        // An earlier connection's changes count as well: with them, an earlier session ended.
        let is_durable = self.changes.is_empty() && self.changes_end <= self.committed;
        if is_durable && self.turn_waits.is_empty() {
            self.greet(connection, store);
        } else {
            self.when_durable(Wait::Greeting(connection));
        }
    }

    /// Every shard routes to a session that came back: it catches up from its cursors and goes
    /// live.
    pub(crate) fn resumed<S: Store>(
        &mut self,
        key: ClientKey,
        connection: ConnectionId,
        store: &mut S,
    ) {
        if self
            .client(key)
            .is_none_or(|client| client.connection != Some(connection))
        {
            return;
        }
        let cuts = self.cuts();
        let session = &mut self.clients[key.index].session;
        if let Some(behind) = &mut session.behind {
            behind.joined = Some(cuts);
        }
        let all: Vec<_> = session.subscriptions.iter().cloned().collect();
        for old in all {
            let Some(entry) = self.table.filter(&old.filter) else {
                continue;
            };
            let subscription = Arc::new(Subscription {
                filter_id: Some(entry.id),
                ..Subscription::clone(&old)
            });
            let session = &mut self.clients[key.index].session;
            session.subscriptions.insert(Arc::clone(&subscription));
            self.interest.join(
                entry.id,
                Member {
                    client: key.index,
                    subscription,
                },
            );
        }
        self.greet(connection, store);
    }

    /// One condition of a CONNACK is met; with the last one it is sent.
    pub(crate) fn greet<S: Store>(&mut self, connection: ConnectionId, store: &mut S) {
        let Some(link) = self.connections.get_mut(&connection) else {
            return;
        };
        let Some(greeting) = &mut link.greeting else {
            return;
        };
        greeting.waits -= 1;
        if greeting.waits > 0 {
            return;
        }
        let Some(greeting) = link.greeting.take() else {
            return;
        };
        link.stage = Stage::Open;
        let client = link.client;
        self.write_connack(connection, &greeting);
        if let Some(index) = client {
            self.announce_connected(index, connection, greeting.session_present);
            self.begin_resend(index, store);
            self.share_online(index);
            self.queue_pump(index);
            self.auto_subscribe(index, connection, store);
        }
        self.unstall(connection, store);
    }

    /// Bytes before CONNACK has gone: CONNECT is decoded, what follows waits.
    pub(crate) fn received_early<S: Store>(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
        store: &mut S,
    ) -> usize {
        let Some(link) = self.connections.get_mut(&connection) else {
            return bytes.len();
        };
        if link.stage == Stage::Fresh {
            let used = self.first_packet(connection, bytes, store);
            let Some(rest) = bytes
                .get(used..)
                .filter(|rest| used > 0 && !rest.is_empty())
            else {
                return used;
            };
            return used + self.received(self.now, connection, rest, store);
        }
        link.stalled.own().extend_from_slice(bytes);
        if link.stalled.len() > STALLED_BYTES_MAX + self.config.packet_bytes_max as usize {
            self.fail(connection, ReasonCode::QuotaExceeded);
        } else {
            self.unstall(connection, store);
        }
        bytes.len()
    }

    /// Decodes bytes that waited, once the connection is open.
    fn unstall<S: Store>(&mut self, connection: ConnectionId, store: &mut S) {
        let Some(link) = self.connections.get_mut(&connection) else {
            return;
        };
        if link.stage != Stage::Open || link.stalled.is_empty() {
            return;
        }
        let stalled = std::mem::take(&mut link.stalled).into_bytes();
        let used = self.packets(connection, &stalled, store);
        if let (Some(link), Some(rest)) =
            (self.connections.get_mut(&connection), stalled.get(used..))
        {
            link.stalled = rest.to_vec().into();
        }
    }

    /// Refuses a CONNECT.
    pub(crate) fn reject(
        &mut self,
        connection: ConnectionId,
        version: Version,
        reason: ReasonCode,
    ) {
        self.counters.closed_for_error += 1;
        if let Some(link) = self.connections.get_mut(&connection) {
            link.version = version;
        }
        self.write_refusal(connection, reason);
        self.close(connection, None, true);
    }
}
