//! Orders of an administrator, carried out between two turns.

use std::sync::Arc;

use tracing::debug;

use super::Driver;
use crate::machine::{Machine, Now};
use crate::orders::Order;

impl<M: Machine> Driver<M> {
    /// Carries out what has been ordered; returns whether there was anything.
    pub(super) fn take_orders(&mut self, now: Now) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut worked = false;
        while let Some(order) = shared.orders().take(self.shard) {
            worked = true;
            match order {
                Order::Topics(topics) => self.machine.set_topics(now, topics),
                Order::Rules(rules) => self.machine.set_rules(now, rules),
                Order::Kick(client_id, redirect, answer) => {
                    let was_connected = self.machine.kick(now, &client_id, redirect.as_ref());
                    if answer.try_send(was_connected).is_err() {
                        debug!(client = client_id, "nobody waits for the end of a kick");
                    }
                }
            }
        }
        worked
    }
}
