//! What an administrator tells the shards while the node runs.

use std::sync::Arc;
use std::time::Duration;

use engine_shard::{Redirect, Rules, TopicRules, home_shard};
use flume::{Receiver, Sender};

use crate::mesh::Bell;

/// Orders that wait for one shard; one more is refused.
const ORDERS_MAX: usize = 64;

/// How long a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// An order to a shard.
#[derive(Debug)]
pub(crate) enum Order {
    /// Disconnect this client, perhaps with where to go, and answer whether it was connected.
    Kick(String, Option<Redirect>, Sender<bool>),
    /// Other rules for clients.
    Rules(Arc<Rules>),
    /// Other rules for topics.
    Topics(TopicRules),
}

/// One bounded channel to each shard.
#[derive(Default)]
pub(crate) struct Orders {
    lines: Vec<(Sender<Order>, Receiver<Order>)>,
    /// The first so many shards have clients.
    homes: u8,
    bells: Arc<[Bell]>,
    /// Whether there are rules for clients.
    pub(crate) has_rules: bool,
}

impl Orders {
    pub(crate) fn new(bells: Arc<[Bell]>, homes: u8, has_rules: bool) -> Self {
        let lines = bells.iter().map(|_| flume::bounded(ORDERS_MAX)).collect();
        Self {
            lines,
            homes,
            bells,
            has_rules,
        }
    }

    /// Disconnects a client, from a thread that is no shard's. Whether it was connected; `None`:
    /// its shard does not answer.
    pub(crate) fn kick(&self, client_id: &str, redirect: Option<Redirect>) -> Option<bool> {
        let (answer, told) = flume::bounded(1);
        let shard = home_shard(client_id, self.homes).index();
        let order = Order::Kick(client_id.to_owned(), redirect, answer);
        self.lines.get(shard)?.0.try_send(order).ok()?;
        self.bells.get(shard)?.ring();
        told.recv_timeout(PATIENCE).ok()
    }

    /// Gives all shards other rules. Waits for room.
    pub(crate) fn set_rules(&self, rules: &Arc<Rules>) {
        self.tell_all(|| Order::Rules(Arc::clone(rules)));
    }

    /// Gives all shards other rules for topics. Waits for room.
    pub(crate) fn set_topics(&self, topics: &TopicRules) {
        self.tell_all(|| Order::Topics(topics.clone()));
    }

    fn tell_all(&self, order: impl Fn() -> Order) {
        for ((line, _), bell) in self.lines.iter().zip(self.bells.iter()) {
            // Both ends are here: it is never disconnected.
            if line.send(order()).is_ok() {
                bell.ring();
            }
        }
    }

    /// The next order for a shard.
    pub(crate) fn take(&self, shard: usize) -> Option<Order> {
        self.lines.get(shard)?.1.try_recv().ok()
    }

    /// Whether there is one.
    pub(crate) fn has(&self, shard: usize) -> bool {
        self.lines.get(shard).is_some_and(|line| !line.1.is_empty())
    }
}
