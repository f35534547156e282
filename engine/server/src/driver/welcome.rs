//! Who may leave the door: clients whose name and password are good, and, where that is allowed,
//! those that do not say who they are.

use std::sync::Arc;

use super::{DOOR_BYTES_MAX, Driver};
use crate::auth::{Claim, Dialect, Refusal};
use crate::machine::{Machine, Now};
use crate::slots::Key;

impl<M: Machine> Driver<M> {
    /// Whether a connection whose CONNECT has come may go on. If not, it waits or is refused.
    pub(super) fn is_welcome(&mut self, now: Now, key: Key) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(auth) = shared.auth() else {
            return true;
        };
        let verdict = match self.checking.get(&key) {
            Some(None) => return false,
            Some(Some(true)) => {
                self.checking.remove(&key);
                return true;
            }
            Some(Some(false)) => Some(false),
            None => None,
        };
        let bytes = self.net.take_partial(key);
        let claim = self.machine.claim(&bytes);
        self.net.put_partial(key, bytes);
        match claim {
            Claim::NeedMore if self.door.bytes > DOOR_BYTES_MAX => {
                self.door.refused += 1;
                self.close_at_door(key);
            }
            Claim::NeedMore => self.net.watch(key),
            Claim::Unreadable => return true,
            Claim::Anonymous(_) if auth.allows_anonymous => return true,
            Claim::Anonymous(dialect) => self.refuse(now, key, Refusal::NotAuthorized, dialect),
            Claim::User(dialect, ..) if verdict.is_some() => {
                self.refuse(now, key, Refusal::BadPassword, dialect);
            }
            Claim::User(dialect, name, password) => {
                if auth.ask(self.shard, key, name, password) {
                    self.checking.insert(key, None);
                } else {
                    self.refuse(now, key, Refusal::Busy, dialect);
                }
            }
        }
        false
    }

    /// Takes what the thread that checks passwords has found.
    pub(super) fn take_verdicts(&mut self, now: Now) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(auth) = shared.auth() else {
            return false;
        };
        let mut worked = false;
        while let Some((key, is_good)) = auth.answer(self.shard) {
            worked = true;
            // The connection may have gone meanwhile.
            if let Some(verdict) = self.checking.get_mut(&key) {
                *verdict = Some(is_good);
                self.passwords_good += u64::from(is_good);
                self.at_door(now, key, &[]);
            }
        }
        worked
    }

    fn refuse(&mut self, now: Now, key: Key, reason: Refusal, dialect: Dialect) {
        self.clients_unwelcome += 1;
        let connack = reason.connack(dialect);
        let len = match dialect {
            Dialect::Old => 4,
            Dialect::New => 5,
        };
        self.net
            .send(key, connack.get(..len).unwrap_or_default().to_vec().into());
        self.leave_door(key);
        self.close(now, key);
    }
}
