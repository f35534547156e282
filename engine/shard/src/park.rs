//! Sessions that are away leave memory.
//!
//! A while after its connection has ended, when the state store has all that it is, a session is
//! *parked*: nothing of it is in memory but what its wildcard filters need, which their queues are
//! kept for. Its client's CONNECT reads it back. At a start, what is away stays where it is.
//!
//! Not parked are sessions that others may ask about or that have something to do: members of
//! shared groups, owners of exclusive subscriptions, those with a will that waits, and those that
//! end soon. A parked session that has expired is found by its client's CONNECT, or by a slow pass
//! through all sessions.

use std::collections::{BTreeMap, VecDeque};

use engine_mqtt::QoS;
use engine_session::{Delivery, LogOffset, NEVER, Phase, Session, SessionRecord};

use crate::client::ClientKey;
use crate::group::group_text;
use crate::port::{Store, Table};
use crate::restore::RestoreError;
use crate::shard::{Shard, Timer};
use crate::state;

/// Milliseconds between two looks at the sessions that wait to be parked, and two steps of a pass.
const STEP_MS: u64 = 20;

/// Sessions that one step parks at most; with it a step takes about a millisecond.
const PARKED_PER_STEP: usize = 1_024;

/// Rows that one step of a pass looks at, at most.
const ROWS_PER_STEP: usize = 1_024;

/// Two passes have so many microseconds between them for every parked session: with a million,
/// ten minutes.
const PASS_US_PER_SESSION: u64 = 600;

/// The tables with the rows of one session, keyed by its id.
pub(crate) const SESSION_TABLES: [Table; 4] = [
    Table::Subscription,
    Table::Progress,
    Table::Outbound,
    Table::Inbound,
];

/// See the module.
#[derive(Debug)]
pub(crate) struct Parked {
    /// How many there are.
    pub(crate) sessions: usize,
    /// Where the shard stood in earlier boots, for sessions that stood with it.
    pub(crate) boots: BTreeMap<u32, Vec<LogOffset>>,
    /// Those that another shard has made; only known at the start.
    pub(crate) moved: Vec<u64>,
    /// Among the changes of this turn are ends of sessions.
    pub(crate) has_ended: bool,
    waiting: VecDeque<Waiting>,
    next_step_ms: u64,
    pass: Pass,
}

/// A session that is to be parked when the state store knows its log up to `after`.
#[derive(Debug)]
struct Waiting {
    key: ClientKey,
    absence: u8,
    after: LogOffset,
}

/// A look at all sessions, for those that have expired.
#[derive(Debug)]
struct Pass {
    /// When its next step is due, or the next pass; monotonic milliseconds.
    next_ms: u64,
    /// The last key that it has looked at; `None`: none is underway.
    after: Option<Vec<u8>>,
    /// The earliest end of a session that it has seen, or that was parked meanwhile; monotonic
    /// milliseconds.
    earliest_ms: u64,
}

/// Whether a session can be parked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Readiness {
    Ready,
    /// Something is underway.
    Later,
    /// Not before it has been connected again.
    No,
}

impl Parked {
    pub(crate) const fn new() -> Self {
        Self {
            sessions: 0,
            boots: BTreeMap::new(),
            moved: Vec::new(),
            has_ended: false,
            waiting: VecDeque::new(),
            next_step_ms: u64::MAX,
            pass: Pass {
                next_ms: u64::MAX,
                after: None,
                earliest_ms: u64::MAX,
            },
        }
    }

    /// Sessions that wait to be parked.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When [`Shard::tick`] has something to do here, monotonic milliseconds.
    pub(crate) fn next_ms(&self) -> u64 {
        self.next_step_ms.min(self.pass.next_ms)
    }

    /// A parked session ends then, unless its client comes back.
    pub(crate) fn expires(&mut self, at_ms: u64) {
        if self.pass.after.is_some() {
            self.pass.earliest_ms = self.pass.earliest_ms.min(at_ms);
        } else {
            self.pass.next_ms = self.pass.next_ms.min(at_ms);
        }
    }
}

impl Shard {
    /// The session of this record may be out of memory when it is away, as far as the record tells.
    pub(crate) fn may_park(&self, record: &SessionRecord) -> bool {
        let is_client = group_text(&record.client_id).is_none();
        let left_ms = self.left_ms(record);
        is_client && self.config.park_after_ms < u64::MAX && left_ms > self.config.park_life_min_ms
    }

    /// Milliseconds until a session that is away ends; `u64::MAX`: never. One that was connected
    /// when the node went down is away since now.
    pub(crate) fn left_ms(&self, record: &SessionRecord) -> u64 {
        if record.expiry_s == NEVER {
            return u64::MAX;
        }
        let away_ms = match record.ended_ms {
            0 => 0,
            ended_ms => self.now.wall_ms.saturating_sub(ended_ms),
        };
        (u64::from(record.expiry_s) * 1_000).saturating_sub(away_ms)
    }

    /// A session is away and does not end yet: it is to be parked, or looked at again.
    pub(crate) fn begin_parking<S: Store>(&mut self, key: ClientKey, store: &mut S) {
        let client = &self.clients[key.index];
        let (absence, expires_ms) = (client.absence, client.expires_ms);
        match self.readiness(key.index) {
            Readiness::Ready => {
                self.flush_changes(store);
                let after = store.appended();
                self.parked.waiting.push_back(Waiting {
                    key,
                    absence,
                    after,
                });
                let next_ms = self.now.monotonic_ms + STEP_MS;
                self.parked.next_step_ms = self.parked.next_step_ms.min(next_ms);
            }
            Readiness::Later => self.arm_absence(key.index),
            Readiness::No if expires_ms < u64::MAX => {
                let timer = Timer::Expiry(key.index, key.session, absence);
                self.timers.arm(expires_ms, timer);
            }
            Readiness::No => {}
        }
    }

    /// Looks at a session that is away when it ends, or some time from now.
    pub(crate) fn arm_absence(&mut self, index: u32) {
        let key = self.key(index);
        let client = &self.clients[index];
        let look_ms = self
            .now
            .monotonic_ms
            .saturating_add(self.config.park_after_ms);
        let deadline = client.expires_ms.min(look_ms);
        if deadline < u64::MAX {
            let timer = Timer::Expiry(key.index, key.session, client.absence);
            self.timers.arm(deadline, timer);
        }
    }

    fn readiness(&self, index: u32) -> Readiness {
        let client = &self.clients[index];
        let session = &client.session;
        let left_ms = client.expires_ms.saturating_sub(self.now.monotonic_ms);
        let has_own = session.subscriptions.iter().any(|one| one.exclusive);
        if client.group.is_some()
            || session.is_shared()
            || has_own
            || !session.is_durable()
            || self.config.park_after_ms == u64::MAX
            || (client.expires_ms < u64::MAX && left_ms <= self.config.park_life_min_ms)
        {
            return Readiness::No;
        }
        let is_busy = client.queued
            || client.will.is_some()
            || client.refetch.is_some()
            || !client.assigned.is_empty()
            || session.dirty
            || !session.completed.is_empty()
            || session.stored.is_none()
            || session.window.iter().any(|one| one.phase == Phase::Mapping)
            || self.wills.contains_key(&session.client_id);
        if is_busy {
            Readiness::Later
        } else {
            Readiness::Ready
        }
    }

    /// Parks sessions, and goes on with a pass.
    pub(crate) fn tick_parked<S: Store>(&mut self, store: &mut S) {
        let now_ms = self.now.monotonic_ms;
        if now_ms >= self.parked.next_step_ms {
            self.park_waiting(store);
            self.parked.next_step_ms = if self.parked.waiting.is_empty() {
                u64::MAX
            } else {
                now_ms + STEP_MS
            };
        }
        if now_ms >= self.parked.pass.next_ms {
            self.step_pass(store);
        }
    }

    fn park_waiting<S: Store>(&mut self, store: &mut S) {
        let upto = store.stored_upto();
        for _ in 0..PARKED_PER_STEP {
            let next = self.parked.waiting.pop_front_if(|one| one.after <= upto);
            let Some(Waiting { key, absence, .. }) = next else {
                return;
            };
            let is_same = self
                .client(key)
                .is_some_and(|one| one.connection.is_none() && one.absence == absence);
            if !is_same {
                continue;
            }
            if self.readiness(key.index) == Readiness::Ready {
                self.park(key.index, store);
            } else {
                self.begin_parking(key, store);
            }
        }
    }

    fn park<S: Store>(&mut self, index: u32, store: &mut S) {
        if cfg!(debug_assertions) {
            self.check_stored(index, store);
        }
        let Some(client) = self.clients.remove(index) else {
            return;
        };
        self.by_client_id.remove(&client.session.client_id);
        self.parked.sessions += 1;
        self.counters.parks += 1;
        self.tally_sessions();
        if client.expires_ms < u64::MAX {
            self.parked.expires(client.expires_ms);
        }
    }

    /// Reads a session back, if one with this client id is parked. One whose end has come meanwhile
    /// ends.
    pub(crate) fn unpark<S: Store>(&mut self, client_id: &str, store: &mut S) -> Option<u32> {
        if self.parked.sessions == 0 || self.by_client_id.contains_key(client_id) {
            return None;
        }
        if self.parked.has_ended {
            // What has just ended must not be found again.
            self.flush_changes(store);
        }
        let key = client_id.as_bytes();
        let value = store.row(Table::Session, key)?;
        let index = self.load(key, &value, store);
        self.parked.sessions -= 1;
        self.counters.unparks += 1;
        self.tally_sessions();
        if self.clients[index].expires_ms <= self.now.monotonic_ms {
            self.destroy(index);
            return None;
        }
        Some(index)
    }

    /// Reads a session's rows. All were read before, at the start or when they were written.
    fn load<S: Store>(&mut self, key: &[u8], value: &[u8], store: &mut S) -> u32 {
        let record = read_record(key, value);
        let (index, left_ms) = (self.insert_session(&record), self.left_ms(&record));
        let session = self.clients[index].session.id;
        #[expect(clippy::big_endian_bytes, reason = "keys sort by number")]
        let prefix = session.to_be_bytes();
        for (table, key, value) in store.stored_rows(&SESSION_TABLES, &prefix, None, usize::MAX) {
            let read = state::split_key("session row", &key)
                .and_then(|(_, rest)| self.take_session_row(index, table, rest, &value));
            if let Err(error) = read {
                unreadable(table, &key, error);
            }
        }
        let boots = std::mem::take(&mut self.parked.boots);
        self.place_session(index, &boots);
        self.parked.boots = boots;
        self.clients[index].expires_ms = self.now.monotonic_ms.saturating_add(left_ms);
        index
    }

    /// One step through all sessions in the state store.
    fn step_pass<S: Store>(&mut self, store: &mut S) {
        let now_ms = self.now.monotonic_ms;
        let after = self.parked.pass.after.take().unwrap_or_else(|| {
            self.parked.pass.earliest_ms = u64::MAX;
            Vec::new()
        });
        let rows = store.stored_rows(&[Table::Session], &[], Some(&after), ROWS_PER_STEP);
        let last = (rows.len() == ROWS_PER_STEP)
            .then(|| rows.last().map(|(_, key, _)| key.clone()))
            .flatten();
        for (_, key, value) in rows {
            self.pass_row(&key, &value, store);
        }
        let count = self.parked.sessions as u64;
        let pass = &mut self.parked.pass;
        pass.next_ms = if last.is_some() {
            now_ms + STEP_MS
        } else if pass.earliest_ms == u64::MAX {
            u64::MAX
        } else {
            let pause_ms = count * PASS_US_PER_SESSION / 1_000;
            pass.earliest_ms.max(now_ms + pause_ms)
        };
        pass.after = last;
    }

    fn pass_row<S: Store>(&mut self, key: &[u8], value: &[u8], store: &mut S) {
        let mut record = read_record(key, value);
        let is_here = self.by_client_id.contains_key(record.client_id.as_str());
        if is_here || record.expiry_s == NEVER || group_text(&record.client_id).is_some() {
            return;
        }
        if record.ended_ms == 0 {
            // It was connected when the node went down: unless that is noted, and on its way to the
            // state store.
            match store.row(Table::Session, key) {
                Some(value) => record = read_record(key, &value),
                None => return,
            }
        }
        if record.ended_ms == 0 {
            record.ended_ms = self.now.wall_ms.max(1);
            self.change(state::session(&record));
        }
        let left_ms = self.left_ms(&record);
        if left_ms > 0 {
            let pass = &mut self.parked.pass;
            pass.earliest_ms = pass.earliest_ms.min(self.now.monotonic_ms + left_ms);
        } else if let Some(index) = self.unpark(&record.client_id, store) {
            // It has been here since the row was written, and does not end yet.
            self.arm_absence(index);
        }
    }

    /// What is to be parked must come back as it is.
    fn check_stored<S: Store>(&mut self, index: u32, store: &mut S) {
        let client_id = self.clients[index].session.client_id.clone();
        let key = client_id.as_bytes();
        let value = store.row(Table::Session, key).unwrap_or_default();
        let copy = self.load(key, &value, store);
        self.by_client_id.insert(client_id, index);
        let Some(copy) = self.clients.remove(copy) else {
            return;
        };
        let (own, copy) = (&self.clients[index].session, &copy.session);
        assert_eq!(describe(own), describe(copy), "a parked session");
    }
}

/// What must be in the state store of a session that is away.
fn describe(session: &Session) -> String {
    // What follows from PUBREC follows again; a mapping of QoS 2 is stored as sent before it is.
    let window = session.window.iter().map(|one| Delivery {
        sent: one.sent || one.qos == QoS::ExactlyOnce,
        phase: if one.phase == Phase::Released {
            Phase::Received
        } else {
            one.phase
        },
        ..one.clone()
    });
    let window: Vec<_> = window.collect();
    let subscriptions: BTreeMap<_, _> = session
        .subscriptions
        .iter()
        .map(|one| (&one.filter, one.encode()))
        .collect();
    let cursors = session.behind.as_ref().map(|behind| &behind.cursors);
    format!(
        "{} {} {} {window:?} {subscriptions:?} {cursors:?} {:?} {:?} {}",
        session.id,
        session.client_id,
        session.expiry_s,
        session.inbound.iter().collect::<Vec<_>>(),
        session.stored,
        session.replays,
    )
}

fn read_record(key: &[u8], value: &[u8]) -> SessionRecord {
    SessionRecord::decode(value).unwrap_or_else(|error| unreadable(Table::Session, key, error))
}

/// Rows are read at the start, which fails by name; later, one that can't be read is our own fault.
fn unreadable(table: Table, key: &[u8], error: engine_session::wire::ValueError) -> ! {
    let key = key.to_vec();
    let error = RestoreError { table, key, error };
    unreachable!("{error}")
}
