//! Routing: what a topic's filters and queues are, and the one writer of the table (on shard 0).

use std::collections::HashMap;
use std::sync::Arc;

use engine_session::is_wildcard;
use engine_topic::{Change, FilterId, Match, RoutingTable, Writer};
use foldhash::fast::FixedState;

use crate::away::may_be_away;
use crate::port::{QueueName, Route, ShardId, Store};

const CACHE_TOPICS_MAX: usize = 65_536;

/// A new version, and who is to be told of which request.
pub(crate) type NextVersion = (Arc<RoutingTable>, Vec<(ShardId, u64)>);

/// The writer's side: changes gathered in a turn become one version.
#[derive(Debug)]
pub(crate) struct Routing {
    writer: Writer,
    changes: Vec<Change>,
    requests: Vec<(ShardId, u64)>,
}

impl Routing {
    pub(crate) const fn new(writer: Writer) -> Self {
        Self {
            writer,
            changes: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// Takes changes into the next version; `request` 0 asks for no answer.
    pub(crate) fn request(&mut self, from: ShardId, request: u64, changes: Vec<Change>) {
        self.changes.extend(changes);
        if request != 0 {
            self.requests.push((from, request));
        }
    }

    /// The next version and who is to be told, if anything was asked for.
    pub(crate) fn next(&mut self) -> Option<NextVersion> {
        if self.changes.is_empty() && self.requests.is_empty() {
            return None;
        }
        let table = self.writer.apply(&self.changes);
        self.changes.clear();
        Some((table, std::mem::take(&mut self.requests)))
    }
}

/// Routes of recent topics under one version.
#[derive(Debug)]
pub(crate) struct RouteCache {
    routes: HashMap<Box<str>, Arc<Route>, FixedState>,
    version: u64,
    queues_version: u64,
    scratch: Vec<Match>,
}

impl RouteCache {
    pub(crate) fn new(seed: u64) -> Self {
        let routes = HashMap::with_hasher(FixedState::with_seed(seed));
        Self {
            routes,
            version: 0,
            queues_version: 0,
            scratch: Vec::new(),
        }
    }

    /// The route of a topic, with its queues created; `None`: the cap on queues is reached.
    pub(crate) fn route<S: Store>(
        &mut self,
        table: &RoutingTable,
        topic: &str,
        store: &mut S,
    ) -> Option<Arc<Route>> {
        let versions = (table.version(), store.queues_version());
        let is_stale = versions != (self.version, self.queues_version);
        if is_stale || self.routes.len() > CACHE_TOPICS_MAX {
            self.routes.clear();
            (self.version, self.queues_version) = versions;
        }
        if let Some(route) = self.routes.get(topic) {
            return Some(Arc::clone(route));
        }
        self.scratch.clear();
        table.match_topic(topic, &mut self.scratch);
        let mut route = build(table.version(), topic, &self.scratch, store)?;
        route.is_unheard = self.scratch.is_empty() && !may_be_away(table, topic);
        let route = Arc::new(route);
        self.routes.insert(topic.into(), Arc::clone(&route));
        Some(route)
    }

    /// Who is online for a topic, without queues: for what is never stored. `None`: nobody.
    pub(crate) fn online(&mut self, table: &RoutingTable, topic: &str) -> Option<Arc<Route>> {
        self.scratch.clear();
        table.match_topic(topic, &mut self.scratch);
        let mut filters = Vec::new();
        for one in &self.scratch {
            add_online(one, &mut filters);
        }
        let route = Route {
            version: table.version(),
            filters,
            queues: Vec::new(),
            is_unheard: false,
        };
        (!route.filters.is_empty()).then(|| Arc::new(route))
    }

    /// The filters of one shard that a topic matches, without queues: for scans.
    pub(crate) fn local(
        &mut self,
        table: &RoutingTable,
        topic: &str,
        shard: ShardId,
    ) -> Option<Arc<Route>> {
        self.scratch.clear();
        table.match_topic(topic, &mut self.scratch);
        let mine = self
            .scratch
            .iter()
            .filter(|found| found.online.contains(shard.0));
        let filters: Vec<_> = mine.map(|found| found.filter).collect();
        let route = Route {
            version: table.version(),
            filters: vec![(shard, filters)],
            queues: Vec::new(),
            is_unheard: false,
        };
        (!route.filters_for(shard).is_empty()).then(|| Arc::new(route))
    }
}

fn build<S: Store>(version: u64, topic: &str, found: &[Match], store: &mut S) -> Option<Route> {
    let level = topic.split('/').next().unwrap_or(topic);
    let mut queues = vec![
        store.queue(&QueueName::Topic(topic.into()))?,
        store.queue(&QueueName::Service(level.into()))?,
    ];
    let mut filters = Vec::new();
    for one in found {
        if !one.queue.is_empty() && is_wildcard(&one.text) {
            queues.push(store.queue(&QueueName::Filter(Arc::clone(&one.text)))?);
        }
        add_online(one, &mut filters);
    }
    Some(Route {
        version,
        filters,
        queues,
        is_unheard: false,
    })
}

/// Adds a filter for every shard where somebody is online for it.
fn add_online(one: &Match, filters: &mut Vec<(ShardId, Vec<FilterId>)>) {
    for shard in one.online.iter() {
        match filters.iter_mut().find(|(id, _)| id.0 == shard) {
            Some((_, ids)) => ids.push(one.filter),
            None => filters.push((ShardId(shard), vec![one.filter])),
        }
    }
}

impl Route {
    /// The filters that matched on one shard.
    #[must_use]
    pub fn filters_for(&self, shard: ShardId) -> &[FilterId] {
        self.filters
            .iter()
            .find(|(id, _)| *id == shard)
            .map_or(&[], |(_, ids)| ids)
    }
}
