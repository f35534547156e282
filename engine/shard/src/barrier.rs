//! Barriers: what waits until every shard routes by a version. The offsets at which they adopted it
//! are the cuts of the subscriptions in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine_mqtt::ReasonCode;
use engine_session::LogOffset;
use engine_topic::{Change, RoutingTable};

use crate::client::ClientKey;
use crate::port::{ConnectionId, MeshMessage, ShardId, Store};
use crate::shard::Shard;
use crate::subscribe::{Answer, Request, Wanted};

/// The writer of the routing table.
const WRITER: ShardId = ShardId(0);

/// What goes on when every shard has adopted a version.
#[derive(Debug)]
pub(crate) enum Goal {
    /// A SUBSCRIBE takes effect.
    Subscribe(Box<Request>),
    /// A session that came back is in the table.
    Resume(ClientKey, ConnectionId),
    /// A new shared group is in the table.
    Group(ClientKey),
    /// Groups give records to new members: they get their SUBACK.
    Answer(Box<Answer>),
    /// Topics that an UNSUBSCRIBE gave up are free: its UNSUBACK goes.
    Unsubscribed(ConnectionId, u16, Vec<ReasonCode>),
}

#[derive(Debug)]
struct Barrier {
    version: Option<u64>,
    goal: Goal,
    /// Answers of owners of groups and topics, and of logs, that it waits for besides.
    joins: usize,
}

/// Open barriers, by request.
#[derive(Debug)]
pub(crate) struct Barriers {
    adopted: Vec<(u64, LogOffset)>,
    open: BTreeMap<u64, Barrier>,
    last_request: u64,
}

impl Barriers {
    pub(crate) fn new(shards: usize) -> Self {
        let adopted = vec![(0, LogOffset::ZERO); shards];
        Self {
            adopted,
            open: BTreeMap::new(),
            last_request: 0,
        }
    }

    pub(crate) fn start(&mut self, version: u64) {
        for adopted in &mut self.adopted {
            adopted.0 = version;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    fn open(&mut self, goal: Goal, joins: usize) -> u64 {
        self.last_request += 1;
        self.open.insert(
            self.last_request,
            Barrier {
                version: None,
                goal,
                joins,
            },
        );
        self.last_request
    }

    /// Something that waits for `joins` owners alone.
    pub(crate) fn open_joins(&mut self, goal: Goal, joins: usize) -> u64 {
        let request = self.open(goal, joins);
        if let Some(barrier) = self.open.get_mut(&request) {
            barrier.version = Some(0);
        }
        request
    }

    fn adopted(&mut self, shard: ShardId, version: u64, appended: LogOffset) {
        if let Some(last) = self.adopted.get_mut(shard.index()) {
            *last = (version, appended).max(*last);
        }
    }

    fn pop_ready(&mut self) -> Option<Goal> {
        let everywhere = self.adopted.iter().map(|(version, _)| *version).min()?;
        let ready = |barrier: &Barrier| {
            barrier.joins == 0 && barrier.version.is_some_and(|v| v <= everywhere)
        };
        let (request, _) = self.open.iter().find(|(_, barrier)| ready(barrier))?;
        let request = *request;
        self.open.remove(&request).map(|barrier| barrier.goal)
    }

    /// Requests of SUBSCRIBE packets that are under way.
    pub(crate) fn requests(&mut self) -> impl Iterator<Item = &mut Request> {
        self.open
            .values_mut()
            .filter_map(|barrier| match &mut barrier.goal {
                Goal::Subscribe(request) => Some(&mut **request),
                Goal::Resume(..) | Goal::Group(_) | Goal::Answer(_) | Goal::Unsubscribed(..) => {
                    None
                }
            })
    }

    /// A log has told where a replay begins.
    pub(crate) fn sought(&mut self, request: u64, log: usize, at: LogOffset) {
        let Some(barrier) = self.open.get_mut(&request) else {
            return;
        };
        barrier.joins = barrier.joins.saturating_sub(1);
        if let Goal::Subscribe(request) = &mut barrier.goal
            && let Some(wish) = &mut request.replay
        {
            wish.found(log, at);
        }
    }

    /// An owner has answered about the filter that is the `same`. One that has refused takes it out
    /// of the SUBSCRIBE: returned if it was still wanted.
    pub(crate) fn joined(
        &mut self,
        request: u64,
        accepted: bool,
        same: impl Fn(&Wanted) -> bool,
    ) -> Option<(ClientKey, Wanted)> {
        let barrier = self.open.get_mut(&request)?;
        barrier.joins = barrier.joins.saturating_sub(1);
        let Goal::Subscribe(request) = &mut barrier.goal else {
            return None;
        };
        let wanted = request
            .filters
            .iter_mut()
            .filter(|_| !accepted)
            .find(|wanted| wanted.as_ref().is_ok_and(&same))?;
        let refused = std::mem::replace(wanted, Err(ReasonCode::QuotaExceeded));
        refused.ok().map(|one| (request.client, one))
    }
}

impl Shard {
    /// Tells the writer of changes that nobody waits for.
    pub(crate) fn route_change<S: Store>(&mut self, changes: Vec<Change>, store: &mut S) {
        if !changes.is_empty() {
            self.send_peer(
                WRITER,
                MeshMessage::RouteChange {
                    request: 0,
                    changes,
                },
                store,
            );
        }
    }

    /// Tells the writer of changes, and goes on with `goal` when every shard routes by them and
    /// `joins` groups have answered. Returns the request, for their answers.
    pub(crate) fn route_barrier<S: Store>(
        &mut self,
        changes: Vec<Change>,
        goal: Goal,
        joins: usize,
        store: &mut S,
    ) -> u64 {
        // In the order in which they were made: a filter that was given up in this turn and is
        // wanted again ends as wanted.
        let mut all = std::mem::take(&mut self.route_changes);
        all.extend(self.interest.take_away_changes());
        all.extend(changes);
        let request = self.barriers.open(goal, joins);
        self.send_peer(
            WRITER,
            MeshMessage::RouteChange {
                request,
                changes: all,
            },
            store,
        );
        request
    }

    /// The writer's turn: one version for all changes that came.
    pub(crate) fn write_routing<S: Store>(&mut self, store: &mut S) {
        let Some((table, requests)) = self
            .routing
            .as_mut()
            .and_then(crate::routing::Routing::next)
        else {
            return;
        };
        let version = table.version();
        for (shard, request) in requests {
            self.send_peer(shard, MeshMessage::Routed { request, version }, store);
        }
        self.broadcast(&MeshMessage::Adopt);
        self.adopt(table, store);
    }

    /// Routes by a newer table from here on, and tells every shard since which offset.
    pub(crate) fn adopt<S: Store>(&mut self, table: Arc<RoutingTable>, store: &mut S) {
        if table.version() <= self.table.version() {
            return;
        }
        let version = table.version();
        self.table = table;
        self.counters.routing_version = version;
        let appended = store.appended();
        self.broadcast(&MeshMessage::Adopted { version, appended });
        let committed = self.committed;
        for lane in self.peer_lanes() {
            lane.want(appended);
            lane.durable(committed);
        }
        self.adopted(self.config.shard, version, appended, store);
    }

    pub(crate) fn adopted<S: Store>(
        &mut self,
        shard: ShardId,
        version: u64,
        appended: LogOffset,
        store: &mut S,
    ) {
        self.barriers.adopted(shard, version, appended);
        self.check_barriers(store);
    }

    pub(crate) fn routed<S: Store>(&mut self, request: u64, version: u64, store: &mut S) {
        if let Some(barrier) = self.barriers.open.get_mut(&request) {
            barrier.version = Some(version);
        }
        self.check_barriers(store);
    }

    pub(crate) fn check_barriers<S: Store>(&mut self, store: &mut S) {
        while let Some(goal) = self.barriers.pop_ready() {
            match goal {
                Goal::Subscribe(request) => self.subscribed(*request, store),
                Goal::Resume(key, connection) => self.resumed(key, connection, store),
                Goal::Group(key) => self.group_routed(key),
                Goal::Answer(answer) => self.answer_subscribe(*answer, store),
                Goal::Unsubscribed(connection, packet_id, reasons) => {
                    self.send_unsuback(connection, packet_id, &reasons);
                }
            }
        }
    }

    /// By log: from here on this shard is sent everything that the version routes to it, and
    /// nothing at or above has been handled yet.
    pub(crate) fn cuts(&self) -> Arc<[LogOffset]> {
        let adopted = self.barriers.adopted.iter().map(|(_, offset)| *offset);
        let handled = self.positions.iter().zip(&self.handled_qos0);
        adopted
            .zip(handled)
            .map(|(cut, (position, qos0))| cut.max(*position).max(*qos0))
            .collect()
    }
}
