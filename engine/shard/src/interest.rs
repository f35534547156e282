//! Which filters this shard's sessions want, and which of the sessions are online.

use std::collections::HashMap;
use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{Subscription, is_wildcard};
use engine_topic::{Change, FilterId};
use foldhash::fast::FixedState;
use smallvec::SmallVec;

use crate::away::Away;
use crate::census::Census;
use crate::port::ShardId;

/// How many sessions of this shard want a filter.
#[derive(Clone, Copy, Default, Debug)]
struct Wanted {
    /// Online sessions.
    online: u32,
    /// Sessions that need the filter's queue: wildcard filters at QoS 1 or 2.
    queue: u32,
}

/// One online session's subscription to a filter.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) client: u32,
    pub(crate) subscription: Arc<Subscription>,
}

/// The online sessions of a filter; mostly one.
pub(crate) type Members = SmallVec<[Member; 1]>;

/// The shard's filters.
#[derive(Debug)]
pub(crate) struct Interest {
    shard: ShardId,
    wanted: HashMap<Arc<str>, Wanted, FixedState>,
    away: Away,
    members: HashMap<FilterId, Members, FixedState>,
}

/// What one more or one less session changes about a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Need {
    /// The session is online.
    pub(crate) online: bool,
    /// It needs the queue.
    pub(crate) queue: bool,
}

impl Need {
    pub(crate) fn of(filter: &str, qos: QoS, online: bool) -> Self {
        Self {
            online,
            queue: qos > QoS::AtMostOnce && is_wildcard(filter),
        }
    }
}

impl Interest {
    pub(crate) fn new(shard: ShardId, seed: u64) -> Self {
        let state = FixedState::with_seed(seed);
        Self {
            shard,
            wanted: HashMap::with_hasher(state.clone()),
            away: Away::default(),
            members: HashMap::with_hasher(state),
        }
    }

    fn change(&self, filter: &Arc<str>, wanted: Wanted) -> Change {
        Change {
            filter: Arc::clone(filter),
            shard: self.shard.0,
            online: wanted.online > 0,
            queue: wanted.queue > 0,
        }
    }

    /// Counts a session in. Always gives the change, as the routing version is the cut.
    pub(crate) fn add(&mut self, filter: &Arc<str>, need: Need) -> Change {
        let wanted = self.wanted.entry(Arc::clone(filter)).or_default();
        wanted.online += u32::from(need.online);
        wanted.queue += u32::from(need.queue);
        let wanted = *wanted;
        self.change(filter, wanted)
    }

    /// Counts a session out; gives a change when the routing table must know.
    pub(crate) fn remove(&mut self, filter: &Arc<str>, need: Need) -> Option<Change> {
        let wanted = self.wanted.get_mut(filter)?;
        let before = (wanted.online > 0, wanted.queue > 0);
        wanted.online -= u32::from(need.online);
        wanted.queue -= u32::from(need.queue);
        let wanted = *wanted;
        if wanted.online == 0 && wanted.queue == 0 {
            self.wanted.remove(filter);
        }
        let after = (wanted.online > 0, wanted.queue > 0);
        (before != after).then(|| self.change(filter, wanted))
    }

    /// A session with this filter goes away, or is away at the start.
    pub(crate) fn go_away(&mut self, filter: &str, qos: QoS) {
        self.away.add(self.shard, filter, qos);
    }

    /// A session with this filter is back, or has ended.
    pub(crate) fn come_back(&mut self, filter: &str, qos: QoS) {
        self.away.remove(self.shard, filter, qos);
    }

    /// What the routing table has to be told of sessions that are away, together with the changes
    /// of this turn.
    pub(crate) fn take_away_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.away.changes)
    }

    pub(crate) fn count(&self, census: &mut Census) {
        census.wanted_filters = self.wanted.len() + self.away.counts.len();
        census.online_filters = self.members.len();
        census.members = self.members.values().map(SmallVec::len).sum();
    }

    /// All filters with their present state.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut all: Vec<_> = self
            .wanted
            .iter()
            .map(|(f, wanted)| self.change(f, *wanted))
            .collect();
        all.extend(self.away.all(self.shard));
        all.sort_by(|a, b| a.filter.cmp(&b.filter));
        all
    }

    /// Lets events of a filter reach a session; replaces its earlier subscription to it.
    pub(crate) fn join(&mut self, id: FilterId, member: Member) {
        let members = self.members.entry(id).or_default();
        match members.iter_mut().find(|one| one.client == member.client) {
            Some(one) => *one = member,
            None => members.push(member),
        }
    }

    /// Ends that.
    pub(crate) fn leave(&mut self, id: FilterId, client: u32) {
        if let Some(members) = self.members.get_mut(&id) {
            members.retain(|one| one.client != client);
            if members.is_empty() {
                self.members.remove(&id);
            }
        }
    }

    /// The online sessions of a filter, lent out: give them back by [`Self::give_back`].
    pub(crate) fn lend(&mut self, id: FilterId) -> Option<Members> {
        self.members.get_mut(&id).map(std::mem::take)
    }

    pub(crate) fn give_back(&mut self, id: FilterId, members: Members) {
        if let Some(place) = self.members.get_mut(&id) {
            *place = members;
        }
    }
}
