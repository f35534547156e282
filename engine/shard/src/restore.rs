//! The start: sessions, subscriptions, what was in flight, retained messages and wills come back
//! from the state store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use engine_session::wire::ValueError;
use engine_session::{
    Behind, LogOffset, Now, Place, Progress, Session, SessionRecord, Subscription, Will, Window,
};
use engine_topic::{Change, Filter, is_shared};

use crate::client::Client;
use crate::config::ShardConfig;
use crate::group::{Group, group_text};
use crate::groups::group_need;
use crate::interest::Need;
use crate::port::Table;
use crate::shard::{Shard, Timer};
use crate::state::{self, DelayedRow, Outbound};

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

/// Rows that need others to be read first.
#[derive(Default)]
struct Rows {
    by_session: Vec<(Table, u64, Vec<u8>, Vec<u8>)>,
    positions: BTreeMap<u32, Vec<LogOffset>>,
    wills: Vec<(Vec<u8>, Will)>,
}

impl Shard {
    /// A shard as its state store has it.
    ///
    /// # Errors
    /// [`RestoreError`] names the row that cannot be read.
    pub fn restore(
        config: ShardConfig,
        now: Now,
        state: impl Iterator<Item = (Table, Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, RestoreError> {
        let mut shard = Self::empty(config, now);
        let mut rows = Rows::default();
        for (table, key, value) in state {
            let read = shard.take_row(table, &key, value, &mut rows);
            read.map_err(|error| RestoreError { table, key, error })?;
        }
        let indexes: Vec<u32> = shard.clients.indexes().collect();
        let ids: HashMap<u64, u32, foldhash::fast::FixedState> = indexes
            .iter()
            .map(|index| (shard.clients[*index].session.id, *index))
            .collect();
        for (table, session, key, value) in rows.by_session {
            let read = match ids.get(&session) {
                Some(index) => shard.take_session_row(*index, table, &key, &value),
                None => shard.take_orphan(table, session, &key, &value),
            };
            read.map_err(|error| RestoreError { table, key, error })?;
        }
        for index in indexes {
            let session = &shard.clients[index].session;
            if session.is_shared() {
                shard.sharers.insert(session.id, index);
            }
            shard.settle_session(index, &rows.positions);
        }
        shard.forget_boots(&rows.positions);
        for (client_id, will) in rows.wills {
            shard.settle_will(&client_id, will);
        }
        shard.counters.retained = shard.retained.len() as u64;
        shard.counters.delayed = shard.delayed.len() as u64;
        Ok(shard)
    }

    fn take_row(
        &mut self,
        table: Table,
        key: &[u8],
        value: Vec<u8>,
        rows: &mut Rows,
    ) -> Result<(), ValueError> {
        match table {
            Table::Session => {
                let record = SessionRecord::decode(&value)?;
                let window = Window::new(self.config.inflight_max);
                let client_id: Arc<str> = record.client_id.as_str().into();
                let session =
                    Session::new(record.id, Arc::clone(&client_id), record.expiry_s, window);
                let mut client = Client::new(session);
                if let Some(text) = group_text(&client_id) {
                    let what = ValueError::Text { what: "group" };
                    let filter = Filter::parse(text).map_err(|_| what)?.text;
                    let group = Group::new(text, filter, self.config.share_strategy);
                    client.group = Some(Box::new(group));
                }
                client.expires_ms = record.ended_ms;
                let index = self.clients.insert(client);
                if group_text(&client_id).is_some() {
                    self.by_group.insert(record.id, index);
                }
                self.by_client_id.insert(client_id, index);
                self.tally_sessions();
            }
            Table::Subscription | Table::Progress | Table::Outbound | Table::Inbound => {
                let (session, rest) = state::split_key("session row", key)?;
                rows.by_session.push((table, session, rest.to_vec(), value));
            }
            Table::Will => rows.wills.push((key.to_vec(), Will::decode(&value)?)),
            Table::Retained => {
                let message = state::read_retained(&value)?;
                self.saw_stamp(&message);
                let what = ValueError::Text {
                    what: "retained topic",
                };
                let topic = std::str::from_utf8(key).map_err(|_| what)?;
                let is_delete = message.parts().is_ok_and(|body| body.payload.is_empty());
                let now_stamp = self.now.wall_ms << 16;
                self.retained.put(topic, is_delete, message, now_stamp);
            }
            Table::Positions => {
                let (boot, offsets) = state::read_positions(key, &value)?;
                rows.positions.insert(boot, offsets);
            }
            Table::Delayed => {
                let due = state::read_delayed_key(key)?;
                DelayedRow::decode(&value)?;
                self.last_stamp = self.last_stamp.max(due.1);
                let (rows_max, bytes_max) = self.delayed_bounds();
                self.delayed.put(due, value, rows_max, bytes_max);
            }
            Table::Queue => {}
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

    fn take_session_row(
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
                let what = ValueError::Text {
                    what: "subscription filter",
                };
                let filter = std::str::from_utf8(rest).map_err(|_| what)?;
                let subscription = Subscription::decode(filter, value)?;
                let need = if is_group {
                    group_need(filter)
                } else {
                    Need::of(filter, subscription.qos, false)
                };
                session.replays |= subscription.replay.is_some();
                if subscription.exclusive {
                    let held = (Arc::clone(&subscription.filter), session.id);
                    self.exclusive.restored.push(held);
                }
                session.subscriptions.insert(Arc::new(subscription));
                self.counters.subscriptions += u64::from(!is_group);
                if (need.queue || is_group) && !is_shared(filter) {
                    self.interest.add(&filter.into(), need);
                }
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
    fn settle_session(&mut self, index: u32, positions: &BTreeMap<u32, Vec<LogOffset>>) {
        let logs = usize::from(self.config.shards);
        let session = &mut self.clients[index].session;
        let stored = session.stored.clone();
        let mut cursors = match stored.as_ref().map(|progress| &progress.place) {
            Some(Place::Shared { boot }) => positions.get(boot).cloned().unwrap_or_default(),
            Some(Place::Own(cursors)) => cursors.clone(),
            None => Vec::new(),
        };
        cursors.resize(logs, LogOffset::ZERO);
        let unacked = stored.iter().flat_map(|progress| &progress.unacked);
        for delivery in unacked.cloned() {
            session.window.restore(delivery);
        }
        session.behind = Some(Box::new(Behind::at(&cursors)));
        if let Some(group) = &mut self.clients[index].group {
            group.is_ready = true;
            self.mark_dirty(index);
            return;
        }
        let session = &mut self.clients[index].session;
        if session.expiry_s == 0 {
            // It was to end with its connection, which a crash has ended.
            self.destroy(index);
            return;
        }
        let ended_ms = std::mem::replace(&mut self.clients[index].expires_ms, u64::MAX);
        let waited_ms = if ended_ms == 0 {
            0
        } else {
            self.now.wall_ms.saturating_sub(ended_ms)
        };
        let expiry_ms = u64::from(self.clients[index].session.expiry_s) * 1000;
        if ended_ms == 0 {
            self.store_session(index, self.now.wall_ms.max(1));
        }
        self.arm_expiry(index, expiry_ms.saturating_sub(waited_ms));
        if !self.clients[index].session.completed.is_empty() {
            self.mark_dirty(index);
        }
    }

    /// Positions of earlier boots that no session stands at any more.
    fn forget_boots(&mut self, positions: &BTreeMap<u32, Vec<LogOffset>>) {
        let clients = self.clients.indexes().map(|index| &self.clients[index]);
        let used: BTreeSet<u32> = clients
            .filter_map(|client| match client.session.stored.as_ref()?.place {
                Place::Shared { boot } => Some(boot),
                Place::Own(_) => None,
            })
            .collect();
        let gone = positions.keys().filter(|boot| !used.contains(boot));
        self.changes
            .extend(gone.map(|boot| state::no_positions(*boot)));
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
