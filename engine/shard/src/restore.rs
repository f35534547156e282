//! The start: sessions, subscriptions, what was in flight and wills come back from the state store.
//! Retained messages stay there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use engine_session::wire::ValueError;
use engine_session::{
    Behind, LogOffset, Now, Place, Progress, Session, SessionRecord, Subscription, Will, Window,
};
use engine_topic::{Change, Filter, is_shared};
use foldhash::fast::FixedState;

use crate::client::Client;
use crate::config::ShardConfig;
use crate::group::{Group, group_text};
use crate::groups::group_need;
use crate::interest::Need;
use crate::park::SESSION_TABLES;
use crate::port::Table;
use crate::shard::{Shard, Timer};
use crate::state::{self, DelayedRow, Outbound, RetainedRow};

/// The tables that a start looks through, in this order.
const TABLES: [Table; 9] = [
    Table::Positions,
    Table::Session,
    Table::Subscription,
    Table::Progress,
    Table::Outbound,
    Table::Inbound,
    Table::Will,
    Table::Retained,
    Table::Delayed,
];

/// A row of the state store that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreError {
    /// The table.
    pub table: Table,
    /// The key.
    pub key: Vec<u8>,
    /// What is wrong with the key or the value.
    pub error: ValueError,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "state table {:?}, key {:02x?}: {}",
            self.table, self.key, self.error
        )
    }
}

impl std::error::Error for RestoreError {}

/// What the first look at all rows finds.
#[derive(Default)]
struct Survey {
    /// All sessions and groups.
    sessions: HashSet<u64, FixedState>,
    groups: HashSet<u64, FixedState>,
    /// Those that are to be in memory.
    wanted: HashSet<u64, FixedState>,
    /// Boots whose positions a session stands at.
    boots: BTreeSet<u32>,
    /// The earliest end of a session that is not wanted, monotonic milliseconds.
    earliest_ms: Option<u64>,
    /// All are wanted.
    wants_all: bool,
    wills: Vec<(Vec<u8>, Will)>,
}

impl Shard {
    /// A shard as its state store has it: `rows` gives those of a table, in the order of their
    /// keys. Unless `is_stored`, not all of them are what
    /// [`Store::stored_rows`](crate::Store::stored_rows) finds, and all sessions are taken
    /// into memory.
    ///
    /// # Errors
    /// [`RestoreError`] names the row that cannot be read.
    pub fn restore<I: Iterator<Item = (Vec<u8>, Vec<u8>)>>(
        config: ShardConfig,
        now: Now,
        rows: impl Fn(Table) -> I,
        is_stored: bool,
    ) -> Result<Self, RestoreError> {
        let mut shard = Self::empty(config, now);
        let mut survey = Survey {
            wants_all: !is_stored,
            ..Survey::default()
        };
        for table in TABLES {
            for (key, value) in rows(table) {
                let read = shard.survey_row(table, &key, value, &mut survey);
                read.map_err(|error| RestoreError { table, key, error })?;
            }
        }
        let all = survey.sessions.len() - survey.groups.len();
        let ids = shard.take_sessions(rows, &survey)?;
        for index in shard.clients.indexes().collect::<Vec<_>>() {
            let session = &shard.clients[index].session;
            if session.is_shared() {
                shard.sharers.insert(session.id, index);
            }
            shard.settle_session(index);
        }
        shard.parked.sessions = all - (ids.len() - survey.groups.len());
        if let Some(earliest_ms) = survey.earliest_ms.filter(|_| shard.parked.sessions > 0) {
            shard.parked.expires(earliest_ms);
        }
        let moved = survey.sessions.iter().filter(|id| !ids.contains_key(id));
        shard.parked.moved = moved.copied().filter(|id| !shard.is_own(*id)).collect();
        shard.parked.moved.sort_unstable();
        shard.forget_boots(&survey.boots);
        for (client_id, will) in survey.wills {
            shard.settle_will(&client_id, will);
        }
        shard.tally_sessions();
        shard.counters.retained = shard.retained.len() as u64;
        shard.counters.delayed = shard.delayed.len() as u64;
        Ok(shard)
    }

    /// Finds out which sessions are to be in memory, and takes everything else.
    fn survey_row(
        &mut self,
        table: Table,
        key: &[u8],
        value: Vec<u8>,
        survey: &mut Survey,
    ) -> Result<(), ValueError> {
        match table {
            Table::Session => {
                let record = SessionRecord::decode(&value)?;
                survey.sessions.insert(record.id);
                if let Some(text) = group_text(&record.client_id) {
                    let what = ValueError::Text { what: "group" };
                    Filter::parse(text).map_err(|_| what)?;
                    survey.groups.insert(record.id);
                }
                let left_ms = self.left_ms(&record);
                if survey.wants_all || !self.may_park(&record) {
                    survey.wanted.insert(record.id);
                } else if left_ms < u64::MAX {
                    // Of those that were connected it is to be noted that they are away.
                    let left_ms = if record.ended_ms == 0 { 0 } else { left_ms };
                    let end_ms = self.now.monotonic_ms + left_ms;
                    let earliest_ms = survey.earliest_ms.unwrap_or(end_ms).min(end_ms);
                    survey.earliest_ms = Some(earliest_ms);
                }
            }
            Table::Subscription => {
                let (session, rest) = state::split_key("session row", key)?;
                let subscription = read_subscription(rest, &value)?;
                if survey.sessions.contains(&session) && !survey.groups.contains(&session) {
                    self.survey_subscription(session, &subscription, survey);
                }
            }
            Table::Progress => {
                if let Place::Shared { boot } = Progress::decode(&value)?.place {
                    survey.boots.insert(boot);
                }
            }
            Table::Outbound => {
                let (session, rest) = state::split_key("session row", key)?;
                let is_shared = match state::read_outbound(rest, &value)? {
                    Outbound::Complete(_) => false,
                    Outbound::SharedComplete(..) => true,
                    Outbound::Open(delivery) => delivery.group.is_some(),
                };
                if is_shared {
                    survey.wanted.insert(session);
                }
            }
            Table::Inbound => {
                let (_, rest) = state::split_key("session row", key)?;
                state::read_packet_id(rest)?;
            }
            Table::Will => {
                let will = Will::decode(&value)?;
                survey.wanted.insert(will.session);
                survey.wills.push((key.to_vec(), will));
            }
            Table::Retained | Table::Positions | Table::Delayed | Table::Queue => {
                self.take_row(table, key, value)?;
            }
        }
        Ok(())
    }

    fn survey_subscription(&mut self, session: u64, one: &Subscription, survey: &mut Survey) {
        self.counters.subscriptions += 1;
        let need = Need::of(&one.filter, one.qos, false);
        if is_shared(&one.filter) || one.exclusive {
            survey.wanted.insert(session);
        }
        if need.queue && !is_shared(&one.filter) {
            self.interest.add(&one.filter, need);
        }
        if !is_shared(&one.filter) {
            self.interest.go_away(&one.filter, one.qos);
        }
    }

    /// Brings the wanted sessions into memory. Returns their indexes, by session id.
    fn take_sessions<I: Iterator<Item = (Vec<u8>, Vec<u8>)>>(
        &mut self,
        rows: impl Fn(Table) -> I,
        survey: &Survey,
    ) -> Result<HashMap<u64, u32, FixedState>, RestoreError> {
        let mut ids = HashMap::default();
        if survey.wanted.is_empty() {
            return Ok(ids);
        }
        let table = Table::Session;
        for (key, value) in rows(table) {
            let record = SessionRecord::decode(&value);
            let record = record.map_err(|error| RestoreError { table, key, error })?;
            if survey.wanted.contains(&record.id) {
                let index = self.insert_session(&record);
                self.clients[index].expires_ms = record.ended_ms;
                ids.insert(record.id, index);
            }
        }
        for table in SESSION_TABLES {
            for (key, value) in rows(table) {
                let read = state::split_key("session row", &key).and_then(|(session, rest)| {
                    match ids.get(&session) {
                        Some(index) => self.take_session_row(*index, table, rest, &value),
                        None if survey.sessions.contains(&session) => Ok(()),
                        None => self.take_orphan(table, session, rest, &value),
                    }
                });
                read.map_err(|error| RestoreError { table, key, error })?;
            }
        }
        Ok(ids)
    }

    /// A session or group without anything in it.
    pub(crate) fn insert_session(&mut self, record: &SessionRecord) -> u32 {
        let window = Window::new(self.config.inflight_max);
        let client_id: Arc<str> = record.client_id.as_str().into();
        let session = Session::new(record.id, Arc::clone(&client_id), record.expiry_s, window);
        let mut client = Client::new(session);
        let group = group_text(&client_id).and_then(|text| {
            let filter = Filter::parse(text).ok()?.text;
            Some(Group::new(text, filter, self.config.share_strategy))
        });
        client.group = group.map(Box::new);
        let is_group = client.group.is_some();
        let index = self.clients.insert(client);
        if is_group {
            self.by_group.insert(record.id, index);
        }
        self.by_client_id.insert(client_id, index);
        index
    }

    fn take_row(&mut self, table: Table, key: &[u8], value: Vec<u8>) -> Result<(), ValueError> {
        match table {
            Table::Retained => {
                let row = RetainedRow::decode(&value)?;
                self.last_stamp = self.last_stamp.max(row.stamp);
                self.retained.count(&row);
            }
            Table::Positions => {
                let (boot, offsets) = state::read_positions(key, &value)?;
                self.parked.boots.insert(boot, offsets);
            }
            Table::Delayed => {
                let due = state::read_delayed_key(key)?;
                DelayedRow::decode(&value)?;
                self.last_stamp = self.last_stamp.max(due.1);
                let (rows_max, bytes_max) = self.delayed_bounds();
                self.delayed.put(due, value, rows_max, bytes_max);
            }
            Table::Session
            | Table::Subscription
            | Table::Progress
            | Table::Outbound
            | Table::Inbound
            | Table::Will
            | Table::Queue => {}
        }
        Ok(())
    }

    /// A row of a session that has ended: what a group does not know for good.
    fn take_orphan(
        &mut self,
        table: Table,
        session: u64,
        rest: &[u8],
        value: &[u8],
    ) -> Result<(), ValueError> {
        if table == Table::Outbound
            && let Outbound::SharedComplete(group, at) = state::read_outbound(rest, value)?
        {
            self.orphans.insert((session, group, at));
        }
        Ok(())
    }

    /// Takes a row of a session, whose filters and subscriptions were counted before.
    pub(crate) fn take_session_row(
        &mut self,
        index: u32,
        table: Table,
        rest: &[u8],
        value: &[u8],
    ) -> Result<(), ValueError> {
        let is_group = self.clients[index].group.is_some();
        let session = &mut self.clients[index].session;
        match table {
            Table::Subscription => {
                let subscription = read_subscription(rest, value)?;
                session.replays |= subscription.replay.is_some();
                if subscription.exclusive {
                    let held = (Arc::clone(&subscription.filter), session.id);
                    self.exclusive.restored.push(held);
                }
                if is_group && !is_shared(&subscription.filter) {
                    let need = group_need(&subscription.filter);
                    self.interest.add(&subscription.filter, need);
                }
                session.subscriptions.insert(Arc::new(subscription));
            }
            Table::Progress => session.stored = Some(Arc::new(Progress::decode(value)?)),
            Table::Outbound => match state::read_outbound(rest, value)? {
                Outbound::Complete(at) => {
                    session.completed.insert(at);
                }
                Outbound::SharedComplete(group, at) => {
                    session.shared_done.insert(group, at);
                }
                Outbound::Open(delivery) => session.window.restore(delivery),
            },
            Table::Inbound => {
                session.inbound.insert(state::read_packet_id(rest)?);
            }
            Table::Session
            | Table::Will
            | Table::Retained
            | Table::Queue
            | Table::Positions
            | Table::Delayed => {}
        }
        Ok(())
    }

    /// The session stands where it was stored; one that shared its shard's positions stands at the
    /// last ones stored in that boot.
    pub(crate) fn place_session(&mut self, index: u32, boots: &BTreeMap<u32, Vec<LogOffset>>) {
        let logs = usize::from(self.config.shards);
        let session = &mut self.clients[index].session;
        let stored = session.stored.clone();
        let mut cursors = match stored.as_ref().map(|progress| &progress.place) {
            Some(Place::Shared { boot }) => boots.get(boot).cloned().unwrap_or_default(),
            Some(Place::Own(cursors)) => cursors.clone(),
            None => Vec::new(),
        };
        cursors.resize(logs, LogOffset::ZERO);
        let unacked = stored.iter().flat_map(|progress| &progress.unacked);
        for delivery in unacked.cloned() {
            session.window.restore(delivery);
        }
        session.behind = Some(Box::new(Behind::at(&cursors)));
        if !session.completed.is_empty() {
            self.mark_dirty(index);
        }
    }

    fn settle_session(&mut self, index: u32) {
        let boots = std::mem::take(&mut self.parked.boots);
        self.place_session(index, &boots);
        self.parked.boots = boots;
        let client = &mut self.clients[index];
        if let Some(group) = &mut client.group {
            group.is_ready = true;
            self.mark_dirty(index);
            return;
        }
        let ended_ms = std::mem::replace(&mut client.expires_ms, u64::MAX);
        let record = SessionRecord {
            id: client.session.id,
            expiry_s: client.session.expiry_s,
            ended_ms,
            client_id: String::new(),
        };
        if record.expiry_s == 0 {
            // It was to end with its connection, which a crash has ended.
            self.destroy(index);
            return;
        }
        if ended_ms == 0 {
            self.store_session(index, self.now.wall_ms.max(1));
        }
        self.arm_expiry(index, self.left_ms(&record));
    }

    /// Positions of earlier boots that no session stands at any more.
    fn forget_boots(&mut self, used: &BTreeSet<u32>) {
        let boots = &mut self.parked.boots;
        let gone = boots.extract_if(.., |boot, _| !used.contains(boot));
        let gone = gone.map(|(boot, _)| state::no_positions(boot));
        self.changes.extend(gone);
    }

    /// A will of a connection that a crash or a stop has ended waits for its client for a while.
    fn settle_will(&mut self, client_id: &[u8], will: Will) {
        let Ok(client_id) = std::str::from_utf8(client_id) else {
            return;
        };
        let client_id: Arc<str> = client_id.into();
        let delay_s = will.delay_s.max(self.config.will_delay_after_crash_s);
        let deadline = self.now.monotonic_ms + u64::from(delay_s) * 1000;
        self.timers.arm(
            deadline,
            Timer::Will(Box::new((Arc::clone(&client_id), will.session))),
        );
        self.wills.insert(client_id, will);
    }

    /// The filters of durable sessions whose queues must go on from the first publication after the
    /// start, as changes of the routing table.
    #[must_use]
    pub fn durable_filters(&self) -> Vec<Change> {
        self.interest.changes()
    }
}

fn read_subscription(filter: &[u8], value: &[u8]) -> Result<Subscription, ValueError> {
    let what = ValueError::Text {
        what: "subscription filter",
    };
    let filter = std::str::from_utf8(filter).map_err(|_| what)?;
    Subscription::decode(filter, value)
}
