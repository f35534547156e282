//! Other homes: which rows of a shard's state belong to another shard from now on, where sessions
//! are that were made elsewhere, and what keeps the order of publications whose publisher's home,
//! and so whose log, has changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use engine_session::wire::ValueError;
use engine_session::{LogOffset, Place, Progress, SessionRecord};

use crate::config::home_shard;
use crate::group::group_text;
use crate::port::{Change, ShardId, Table};
use crate::restore::RestoreError;
use crate::shard::Shard;
use crate::state;

/// Sessions that are not on the shard that made them, by session id.
pub type Away = HashMap<u64, ShardId, foldhash::fast::FixedState>;

/// What other homes in the past mean for all shards of a node.
#[derive(Clone, Default, Debug)]
pub struct Rehomed {
    /// Sessions that have moved.
    pub away: Arc<Away>,
    /// Where every log ended when the homes changed, the oldest change first; logs that came later
    /// are missing. A session that is behind reads all logs up to there before it reads one
    /// further: a publisher's earlier messages lie in another log than its later ones.
    pub fences: Arc<[Vec<LogOffset>]>,
}

/// The shard that made a session: its id carries that.
const fn maker(session: u64) -> ShardId {
    ShardId((session >> 34 & 63) as u8)
}

impl Shard {
    /// What is here and was made elsewhere.
    pub fn moved_here(&self) -> impl Iterator<Item = (u64, ShardId)> + '_ {
        let here = self.config.shard;
        let sessions = self.clients.indexes();
        let sessions = sessions.map(|index| self.clients[index].session.id);
        let orphans = self.orphans.iter().map(|(session, _, _)| *session);
        let parked = self.parked.moved.iter().copied();
        sessions
            .chain(orphans)
            .chain(parked)
            .filter(move |session| maker(*session) != here)
            .map(move |session| (session, here))
    }

    /// Whether this shard has made a session.
    pub(crate) fn is_own(&self, session: u64) -> bool {
        maker(session) == self.config.shard
    }

    /// Before [`Self::start`]: what all shards have found.
    pub fn set_rehomed(&mut self, rehomed: Rehomed) {
        self.parked.moved = Vec::new();
        self.rehomed = rehomed;
    }

    /// The shard whose session this is.
    pub(crate) fn shard_of_session(&self, session: u64) -> ShardId {
        let away = &self.rehomed.away;
        let moved = (!away.is_empty()).then(|| away.get(&session).copied());
        moved.flatten().unwrap_or_else(|| maker(session))
    }

    /// How far a session may read in a log for now.
    pub(crate) fn fence(&self, index: u32, log: usize) -> LogOffset {
        let open = LogOffset(u64::MAX);
        let Some(behind) = &self.clients[index].session.behind else {
            return open;
        };
        let is_below = |fence: &&Vec<LogOffset>| {
            let both = fence.iter().zip(&behind.cursors);
            both.into_iter()
                .any(|(end, cursor)| cursor.is_some_and(|cursor| cursor < *end))
        };
        let fence = self.rehomed.fences.iter().find(is_below);
        fence.map_or(open, |fence| fence.get(log).copied().unwrap_or_default())
    }
}

/// Finds the rows that are not where their home is, with their values as another shard can take
/// them. What a log owns (names of queues) and what belongs to no client or topic stays.
#[derive(Debug)]
pub struct Strays {
    shard: ShardId,
    homes: u8,
    /// Homes of the sessions that are not here, by session id.
    sessions: HashMap<u64, ShardId, foldhash::fast::FixedState>,
    /// Where this shard stood, by boot.
    positions: BTreeMap<u32, Vec<LogOffset>>,
    rows: Vec<(ShardId, Change)>,
}

impl Strays {
    /// The tables to look through, in this order.
    pub const TABLES: [Table; 8] = [
        Table::Positions,
        Table::Session,
        Table::Subscription,
        Table::Progress,
        Table::Outbound,
        Table::Inbound,
        Table::Will,
        Table::Retained,
    ];

    /// For the rows of `shard` when the first `homes` shards are homes.
    #[must_use]
    pub fn new(shard: ShardId, homes: u8) -> Self {
        Self {
            shard,
            homes,
            sessions: HashMap::default(),
            positions: BTreeMap::new(),
            rows: Vec::new(),
        }
    }

    /// Looks at a row.
    ///
    /// # Errors
    /// [`RestoreError`] names a row that cannot be read.
    pub fn take(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) -> Result<(), RestoreError> {
        match self.examine(table, &key, value) {
            Ok(None) => Ok(()),
            Ok(Some((home, value))) => {
                let value = Some(value);
                self.rows.push((home, Change { table, key, value }));
                Ok(())
            }
            Err(error) => Err(RestoreError { table, key, error }),
        }
    }

    /// The rows and their homes: a session before what belongs to it.
    #[must_use]
    pub fn into_rows(self) -> Vec<(ShardId, Change)> {
        self.rows
    }

    fn examine(
        &mut self,
        table: Table,
        key: &[u8],
        value: Vec<u8>,
    ) -> Result<Option<(ShardId, Vec<u8>)>, ValueError> {
        let home = match table {
            Table::Session => {
                let record = SessionRecord::decode(&value)?;
                let name = record.client_id.as_str();
                let home = self.elsewhere(group_text(name).unwrap_or(name));
                if let Some(home) = home {
                    self.sessions.insert(record.id, home);
                }
                home
            }
            Table::Subscription | Table::Outbound | Table::Inbound => self.session_home(key)?,
            Table::Progress => {
                let home = self.session_home(key)?;
                return Ok(match home {
                    Some(home) => Some((home, self.own_progress(value)?)),
                    None => None,
                });
            }
            Table::Will | Table::Retained => {
                let what = ValueError::Text { what: "key" };
                self.elsewhere(std::str::from_utf8(key).map_err(|_| what)?)
            }
            Table::Positions => {
                let (boot, offsets) = state::read_positions(key, &value)?;
                self.positions.insert(boot, offsets);
                None
            }
            // A delayed publication waits on the shard that took it.
            Table::Queue | Table::Delayed => None,
        };
        Ok(home.map(|home| (home, value)))
    }

    fn elsewhere(&self, name: &str) -> Option<ShardId> {
        Some(home_shard(name, self.homes)).filter(|home| *home != self.shard)
    }

    fn session_home(&self, key: &[u8]) -> Result<Option<ShardId>, ValueError> {
        let (session, _) = state::split_key("session row", key)?;
        Ok(self.sessions.get(&session).copied())
    }

    /// A session that shared this shard's positions takes them along: elsewhere are others.
    fn own_progress(&self, value: Vec<u8>) -> Result<Vec<u8>, ValueError> {
        let mut progress = Progress::decode(&value)?;
        let Place::Shared { boot } = progress.place else {
            return Ok(value);
        };
        let offsets = self.positions.get(&boot).cloned().unwrap_or_default();
        progress.place = Place::Own(offsets);
        Ok(progress.encode())
    }
}
