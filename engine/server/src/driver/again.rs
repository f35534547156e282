//! Clients that authenticate again while they are connected: exchanges beside the connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine_shard::{ConnectionId, Proof, Reauthentication};

use super::Driver;
use crate::auth::Verdict;
use crate::machine::{Machine, Now};
use crate::scram::{ClientFirst, Exchange};
use crate::slots::Key;

/// Clients of one shard that authenticate again at the same time; more are disconnected.
const AGAIN_MAX: usize = 1024;

/// By connection: until when its exchange has to be over, monotonic milliseconds, and the exchange
/// when it has begun.
#[derive(Default, Debug)]
pub(super) struct Again(BTreeMap<Key, (u64, Option<Box<Exchange>>)>);

impl Again {
    /// How many authenticate again.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<M: Machine> Driver<M> {
    /// Takes the steps that clients have sent.
    pub(super) fn take_reauthentications(&mut self, now: Now) -> bool {
        let mut worked = false;
        while let Some(step) = self.machine.poll_reauthentication() {
            worked = true;
            let ConnectionId(number) = step.connection;
            let key = Key(number);
            let proof = if step.is_first {
                self.begin_again(now, key, &step)
            } else {
                let entry = self.again.0.remove(&key);
                let exchange = entry.and_then(|(_, exchange)| exchange);
                let proved = exchange.and_then(|exchange| exchange.finish(&step.data));
                Some(proved.map_or(Proof::Bad, Proof::Good))
            };
            if let Some(proof) = proof {
                self.machine.authenticated(key, &proof);
            }
        }
        worked
    }

    /// Asks for an exchange; an answer when there is to be none. It has to be the same user.
    fn begin_again(&mut self, now: Now, key: Key, step: &Reauthentication) -> Option<Proof> {
        let shared = Arc::clone(&self.shared);
        let first = ClientFirst::parse(&step.data).filter(|first| *first.name() == *step.user);
        let (Some(auth), Some(first)) = (shared.auth(), first) else {
            return Some(Proof::Bad);
        };
        if self.again.0.len() >= AGAIN_MAX || !auth.begin(self.shard, key, first) {
            return Some(Proof::Busy);
        }
        let until = now.monotonic_ms() + self.machine.connect_timeout_ms();
        self.again.0.insert(key, (until, None));
        None
    }

    /// An exchange of a connected client has begun.
    pub(super) fn take_begun(&mut self, key: Key, verdict: Verdict) {
        let Some((_, slot)) = self.again.0.get_mut(&key) else {
            return;
        };
        let proof = match verdict {
            Verdict::Begun(exchange) => {
                let proof = Proof::Continue(exchange.server_first().to_vec());
                *slot = Some(exchange);
                proof
            }
            Verdict::Good | Verdict::Bad => {
                self.again.0.remove(&key);
                Proof::Bad
            }
        };
        self.machine.authenticated(key, &proof);
    }

    /// Ends exchanges that have taken too long.
    pub(super) fn expire_again(&mut self, now: Now) {
        let now_ms = now.monotonic_ms();
        let late = |(_, (until, _)): &(&Key, &mut (u64, _))| *until <= now_ms;
        let late: Vec<Key> = self
            .again
            .0
            .iter_mut()
            .filter(late)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.again.0.remove(&key);
            self.machine.authenticated(key, &Proof::Bad);
        }
    }
}
