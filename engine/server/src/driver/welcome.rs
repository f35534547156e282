//! Who may leave the door: clients whose name and password are good, and, where that is allowed,
//! those that do not say who they are.

use std::sync::Arc;

use engine_shard::Admission;

use super::{DOOR_BYTES_MAX, Driver};
use crate::auth::{Claim, Dialect, MethodClaim, Refusal, Verdict};
use crate::handshake::{self, Reply};
use crate::machine::{Machine, Now};
use crate::scram::{ClientFirst, Exchange, METHOD};
use crate::slots::Key;

/// How far a client at the door is.
#[derive(Debug)]
pub(super) enum Check {
    /// The thread that knows the users is asked.
    Asked,
    /// Its password is good.
    Good,
    /// It is not.
    Bad,
    /// It has to prove that it knows its password.
    Challenged(Box<Exchange>),
}

impl<M: Machine> Driver<M> {
    /// Whether a connection whose CONNECT has come may go on. If not, it waits or is refused.
    pub(super) fn is_welcome(&mut self, now: Now, key: Key) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(auth) = shared.auth() else {
            return true;
        };
        let is_bad = match self.checking.remove(&key) {
            Some(Check::Asked) => {
                self.checking.insert(key, Check::Asked);
                return false;
            }
            Some(Check::Good) => return true,
            Some(Check::Challenged(exchange)) => return self.take_reply(now, key, exchange),
            Some(Check::Bad) => true,
            None => false,
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
            Claim::User(dialect, ..) if is_bad => {
                self.refuse(now, key, Refusal::BadPassword, dialect);
            }
            Claim::Method(_) if is_bad => {
                self.refuse(now, key, Refusal::NotAuthorized, Dialect::New);
            }
            Claim::Method(claim) => self.begin_exchange(now, key, *claim),
            Claim::User(dialect, name, password) => {
                if auth.ask(self.shard, key, name, password) {
                    self.checking.insert(key, Check::Asked);
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
        while let Some((key, verdict)) = auth.answer(self.shard) {
            worked = true;
            // The connection may have gone meanwhile.
            let Some(check) = self.checking.get_mut(&key) else {
                self.take_begun(key, verdict);
                continue;
            };
            *check = match verdict {
                Verdict::Good => Check::Good,
                Verdict::Bad => Check::Bad,
                Verdict::Begun(exchange) => {
                    self.challenge(now, key, exchange);
                    continue;
                }
            };
            self.passwords_good += u64::from(matches!(check, Check::Good));
            self.at_door(now, key, &[]);
        }
        worked
    }

    /// A CONNECT with an authentication method.
    fn begin_exchange(&mut self, now: Now, key: Key, claim: MethodClaim) {
        let shared = Arc::clone(&self.shared);
        let refusal = match (shared.auth(), claim.first) {
            (None, _) | (_, None) => Refusal::BadMethod,
            (Some(_), Some(data)) if ClientFirst::binds(&data) => Refusal::BadMethod,
            (Some(auth), Some(data)) => {
                let asked =
                    ClientFirst::parse(&data).map(|first| auth.begin(self.shard, key, first));
                match asked {
                    None => Refusal::NotAuthorized,
                    Some(false) => Refusal::Busy,
                    Some(true) => {
                        self.checking.insert(key, Check::Asked);
                        return;
                    }
                }
            }
        };
        self.refuse(now, key, refusal, Dialect::New);
    }

    /// The server's step of an exchange; when it is sent, the client's is waited for.
    fn challenge(&mut self, now: Now, key: Key, exchange: Box<Exchange>) {
        let packet = handshake::challenge(exchange.server_first());
        let bytes = self.net.take_partial(key);
        let claim = self.machine.claim(&bytes);
        self.net.put_partial(key, bytes);
        let fits = matches!(claim, Claim::Method(claim) if packet.len() <= claim.packet_bytes_max);
        if fits {
            self.checking.insert(key, Check::Challenged(exchange));
            self.net.send(key, packet.into());
        } else {
            self.refuse(now, key, Refusal::PacketTooLarge, Dialect::New);
        }
    }

    /// What came behind a CONNECT that was answered with a challenge. Whether its client may go on;
    /// what it has proved goes with it, and its AUTH packet does not.
    fn take_reply(&mut self, now: Now, key: Key, exchange: Box<Exchange>) -> bool {
        let mut bytes = self.net.take_partial(key);
        let from = match self.machine.claim(&bytes) {
            Claim::Method(claim) => claim.len,
            // Invariant: the bytes of the CONNECT are still the same.
            Claim::NeedMore | Claim::Unreadable | Claim::Anonymous(_) | Claim::User(..) => {
                bytes.len()
            }
        };
        let reply = handshake::read(bytes.get(from..).unwrap_or_default());
        let proof = match &reply {
            Reply::Step(data, len) => {
                bytes.drain(from..from + len);
                self.door.bytes -= len;
                exchange.finish(data)
            }
            Reply::NeedMore | Reply::Leave | Reply::Wrong => None,
        };
        self.net.put_partial(key, bytes);
        match (reply, proof) {
            (Reply::NeedMore, _) => {
                self.checking.insert(key, Check::Challenged(exchange));
                self.net.watch(key);
            }
            (Reply::Leave, _) => self.close_at_door(key),
            (Reply::Wrong, _) => self.refuse(now, key, Refusal::ProtocolError, Dialect::New),
            (Reply::Step(..), None) => {
                self.refuse(now, key, Refusal::NotAuthorized, Dialect::New);
            }
            (Reply::Step(..), Some(data)) => {
                self.passwords_good += 1;
                self.admission = Some(Box::new(Admission {
                    method: METHOD,
                    user: exchange.name().into(),
                    data,
                }));
                return true;
            }
        }
        false
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
