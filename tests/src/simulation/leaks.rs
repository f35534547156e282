//! Nothing is left of what has ended, and every bound is kept.
//!
//! At the end of a run, when everything has come to rest: no shard holds anything that is under
//! way; when all clients have left, no connection, timer or will is left, and the state store has
//! the sessions and subscriptions that it must have; when all sessions have ended, nothing of them
//! is left anywhere.

use std::collections::{BTreeMap, BTreeSet};

use engine_session::{SessionRecord, Subscription};
use engine_shard::{Census, ShardConfig, Table};

use super::actor::Actor;
use super::claims::{STORED, check_one_holder, check_owners};
use super::node::{AUTO_FILTERS, Rows};
use super::world::World;

/// What sessions at rest may hold: all else is under way, and must have come to its end.
const HELD_AT_REST: [&str; 9] = [
    "connections",
    "sessions",
    "client_ids",
    "subscriptions",
    "wills",
    "wanted_filters",
    "online_filters",
    "members",
    "routed_filters",
];
/// What is left of durable sessions without connections.
const HELD_OFFLINE: [&str; 6] = [
    "sessions",
    "parked",
    "client_ids",
    "subscriptions",
    "wanted_filters",
    "routed_filters",
];
/// What a group holds besides, with members online or not: its filter is routed to it.
const HELD_BY_GROUPS: [&str; 6] = [
    "groups",
    "group_members",
    "sharers",
    "wanted_filters",
    "online_filters",
    "members",
];
/// What one session has for itself, and its owner, which knows that.
const HELD_BY_CLAIMS: [&str; 2] = ["exclusive_subscriptions", "exclusive_filters"];
/// Kept for later use, within bounds.
const KEPT: [&str; 3] = ["ring_events_most", "ring_bytes_most", "buffers"];
/// What waits for time to pass. A timer is not cancelled: it fires, and finds nothing to do.
const TIMED: [&str; 1] = ["timers"];

/// Milliseconds after which places are stored and complete deliveries forgotten: three times the
/// interval of the positions.
const SETTLE_MS: u64 = 1_600;
/// Longer than every timer of a session without expiry: wills wait 30 s after a crash.
const TIMERS_MS: u64 = 32_000;
/// As long as the longest session expiry interval of a client.
const EXPIRY_MS: u64 = 3_600_000;
/// Milliseconds of one round without clients.
const STRIDE_MS: u64 = 400;

impl World {
    /// See the module. All clients are connected and at rest.
    pub(super) fn check_leaks(&mut self) -> Result<(), String> {
        self.pass(SETTLE_MS)?;
        let groups = if self.shares() {
            &HELD_BY_GROUPS[..]
        } else if self.claims() {
            &HELD_BY_CLAIMS[..]
        } else {
            &[]
        };
        let kept = [&HELD_AT_REST[..], &TIMED, groups].concat();
        self.check_empty("at rest", &kept)?;
        self.leave()?;
        self.pass(TIMERS_MS)?;
        // Sessions that expire have timers.
        let timed = if self.trouble.has_hours() {
            &TIMED[..]
        } else {
            &[]
        };
        self.check_empty(
            "without clients",
            &[&HELD_OFFLINE[..], groups, timed].concat(),
        )?;
        self.check_rows()?;
        for actor in self.actors.values_mut() {
            actor.end_session();
        }
        self.drain()?;
        self.leave()?;
        if self.trouble.has_hours() {
            self.now_ms += EXPIRY_MS;
        }
        self.pass(TIMERS_MS)?;
        self.check_empty("without sessions", &[])?;
        self.check_no_rows()
    }

    /// Everybody says good-bye, and goes when the node has closed the connection.
    fn leave(&mut self) -> Result<(), String> {
        for client in self.clients() {
            let Some(actor) = self.actors.get_mut(&client) else {
                continue;
            };
            let (connection, bytes) = (actor.connection, actor.farewell()?);
            actor.is_leaving = true;
            if let Some(link) = connection.and_then(|id| self.links.get_mut(&id)) {
                link.send(&bytes);
            }
        }
        for _ in 0..20 {
            self.node_round()?;
            for client in self.clients() {
                self.read(client, true)?;
            }
        }
        let left: Vec<_> = self.links.keys().map(|id| id.0).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(format!("leak: connections {left:?} do not end"))
    }

    fn pass(&mut self, ms: u64) -> Result<(), String> {
        for _ in 0..ms / STRIDE_MS {
            self.now_ms += STRIDE_MS;
            self.node_round()?;
        }
        Ok(())
    }

    fn check_empty(&self, when: &str, kept: &[&str]) -> Result<(), String> {
        let censuses = self.censuses();
        check_one_holder(&censuses)?;
        check_owners(&censuses)?;
        for (shard, census) in censuses.iter().enumerate() {
            let left = census.all().into_iter().filter(|(name, count)| {
                let may_be = kept.contains(name) || KEPT.contains(name);
                *count > 0 && !may_be
            });
            let left: Vec<String> = left
                .map(|(name, count)| format!("{count} {name}"))
                .collect();
            if !left.is_empty() {
                return Err(format!(
                    "leak: shard {shard} {when} has {}",
                    left.join(", ")
                ));
            }
        }
        let clients = self.actors.values().filter(|actor| actor.is_open).count();
        let connections: usize = self.censuses().iter().map(|one| one.connections).sum();
        if clients == connections {
            return Ok(());
        }
        Err(format!(
            "leak: {connections} connections of {clients} clients"
        ))
    }

    /// Publications that wait until they are due, whether anybody is owed them or not.
    pub(super) fn delayed(&self) -> usize {
        self.censuses().iter().map(|census| census.delayed).sum()
    }

    /// What a crash would make forgotten: a claim that nobody has any more.
    pub(super) fn check_owners(&self) -> Result<(), String> {
        check_owners(&self.censuses())
    }

    fn censuses(&self) -> Vec<Census> {
        self.node
            .as_ref()
            .map_or_else(Vec::new, |node| node.censuses())
    }

    fn rows(&self) -> Result<Rows, String> {
        self.node
            .as_ref()
            .map_or_else(|| Ok(Rows::new()), |node| node.rows())
    }

    /// The state stores have what the history says, and nothing else of any session.
    fn check_rows(&self) -> Result<(), String> {
        let rows = self.rows()?;
        let of = |table: Table| rows.get(&(table as u8)).map_or(&[][..], Vec::as_slice);
        for table in [Table::Outbound, Table::Inbound, Table::Will, Table::Delayed] {
            if let [first, ..] = of(table) {
                return Err(format!("leak: {table:?} has a row {:02x?}", first.0));
            }
        }
        let mut clients = BTreeMap::new();
        for (_, value) in of(Table::Session) {
            let record = SessionRecord::decode(value).map_err(|error| error.to_string())?;
            clients.insert(record.client_id, record.id);
        }
        let mut expected = BTreeSet::new();
        // A shared group has a session of this name, and no client.
        expected.extend(clients.remove("\0$share/g/t/#"));
        for actor in self.actors.values() {
            let session = clients.remove(&actor.client_id);
            if self.history.has_session(actor.number()) == session.is_none() {
                let wrong = if session.is_none() { "lost" } else { "left" };
                return Err(format!(
                    "leak: the session of {} is {wrong}",
                    actor.client_id
                ));
            }
            expected.extend(session);
            self.check_subscriptions(actor, session, of(Table::Subscription))?;
        }
        if let Some((client_id, _)) = clients.first_key_value() {
            return Err(format!(
                "leak: a session of {client_id}, who never was here"
            ));
        }
        for table in [Table::Subscription, Table::Progress] {
            let found: BTreeSet<u64> = of(table).iter().map(|(key, _)| session_of(key)).collect();
            let stray = found.difference(&expected).next();
            if let Some(stray) = stray {
                return Err(format!(
                    "leak: {table:?} of session {stray:x}, which has ended"
                ));
            }
        }
        Ok(())
    }

    fn check_subscriptions(
        &self,
        actor: &Actor,
        session: Option<u64>,
        rows: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for (key, value) in rows
            .iter()
            .filter(|(key, _)| session == Some(session_of(key)))
        {
            let filter = String::from_utf8_lossy(key.get(8..).unwrap_or_default()).into_owned();
            let read = Subscription::decode(&filter, value).map_err(|error| error.to_string())?;
            found.insert(filter, read.qos.bits());
        }
        let client = actor.number();
        for filter in AUTO_FILTERS {
            let is_there = found.remove(filter).is_some();
            if is_there != (session.is_some() && self.options.auto_subscribes) {
                return Err(format!("{client:?} has {filter}: {is_there}"));
            }
        }
        let is_claimed = found.remove(STORED).is_some();
        if session.is_some() {
            actor.claim.check(is_claimed)?;
        }
        let checked = self.history.check_subscriptions(client, &found);
        checked.map_err(|violation| violation.report())
    }

    fn check_no_rows(&self) -> Result<(), String> {
        // Positions are the shard's own; queues stay, as a topic may come back.
        let stay = [Table::Retained, Table::Positions, Table::Queue].map(|table| table as u8);
        let mut rows = self.rows()?.into_iter();
        let left = rows.find(|(table, rows)| !stay.contains(table) && !rows.is_empty());
        match left.and_then(|(table, rows)| Some((table, rows.into_iter().next()?))) {
            None => Ok(()),
            Some((table, (key, _))) => Err(format!("leak: table {table} has a row {key:02x?}")),
        }
    }
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
fn session_of(key: &[u8]) -> u64 {
    key.first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The largest PUBLISH of the clients here, bytes.
const PUBLISH_BYTES: usize = 1_700;
/// What a client here can have asked for and not read the answers of, bytes.
const ANSWER_BYTES: usize = 1_024;
/// What all clients here can send into one turn, in packets: above a bound, sockets are not read
/// from the next turn on.
const TURN_PACKETS: usize = 100;

/// Every bound of a shard is kept.
pub(super) fn check_bounds(census: &Census, config: &ShardConfig) -> Result<(), String> {
    let queue = config.pending_max + TURN_PACKETS;
    let lanes = usize::from(config.shards) * (config.lane_events_max + TURN_PACKETS);
    let unsent = config.output_bytes_max + PUBLISH_BYTES + ANSWER_BYTES;
    let delayed = config.delayed_window_bytes_max + PUBLISH_BYTES;
    let bounds = [
        // After a crash: what was not acknowledged when the place was stored, and QoS 2
        // deliveries that were opened since.
        ("in_flight_most", 2 * usize::from(config.inflight_max)),
        ("inbound_most", usize::from(config.receive_max)),
        ("held_bytes_most", config.held_bytes_max),
        ("unsent_bytes_most", unsent),
        ("ring_events_most", config.ring_events_max),
        ("ring_bytes_most", config.ring_bytes_max),
        ("lane_events_most", config.lane_events_max),
        ("lane_bytes_most", config.lane_bytes_max),
        ("lane_messages", lanes),
        ("catch_up_reads", config.reads_max),
        ("pending", queue),
        ("waits", queue),
        ("barriers", queue),
        ("delayed", config.delayed_max),
        ("delayed_rows_most", config.delayed_window_max),
        ("delayed_bytes_most", delayed),
    ];
    for (name, count) in census.all() {
        let bound = bounds.iter().find(|(bounded, _)| *bounded == name);
        if let Some((_, most)) = bound.filter(|(_, most)| count > *most) {
            return Err(format!("bound: {count} {name}, at most {most} are allowed"));
        }
    }
    Ok(())
}
