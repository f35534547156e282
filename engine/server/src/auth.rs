//! Passwords, checked on a thread of its own: PBKDF2 takes milliseconds, which no shard has.
//!
//! A shard sends a name and a password with its connection's key, and gets back whether they are
//! good; meanwhile the connection waits at the door and its socket is not read. What waits has a
//! bound, beyond which connections are refused. Who was found good is remembered by a hash under a
//! key of this process, so a fleet that comes back costs no PBKDF2 twice.
//!
//! An exchange of SCRAM begins here as well, where the users are: what the client has to prove its
//! password against comes back, and the shard checks the proof itself, which takes microseconds.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::Builder;

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key as HmacKey};
use aws_lc_rs::rand;
use flume::{Receiver, Sender};

use crate::base64;
use crate::mesh::Bell;
use crate::scram::{ClientFirst, Exchange};
use crate::slots::Key;
use crate::users::{NAME_BYTES_MAX, PASSWORD_BYTES_MAX, Users};

/// Passwords of all shards that wait to be checked.
const JOBS_MAX: usize = 16_384;

/// Passwords that are remembered as good; beyond it all are forgotten.
const REMEMBERED_MAX: usize = 1 << 20;

/// What is remembered of a good password, bytes.
const MARK_BYTES: usize = 16;

/// Random bytes in a nonce.
const NONCE_BYTES: usize = 18;

/// Who a client says it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// Its CONNECT is not complete.
    NeedMore,
    /// It is no CONNECT; the machine refuses it.
    Unreadable,
    /// It does not say.
    Anonymous(Dialect),
    /// This user, with this password.
    User(Dialect, String, Vec<u8>),
    /// It wants to prove who it is, step by step.
    Method(Box<MethodClaim>),
}

/// A CONNECT with an authentication method.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MethodClaim {
    /// Bytes of the CONNECT.
    pub(crate) len: usize,
    /// The largest packet that the client takes.
    pub(crate) packet_bytes_max: usize,
    /// `None`: a method that is not here.
    pub(crate) first: Option<Vec<u8>>,
}

/// How a refusal is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// MQTT 3.1 and 3.1.1.
    Old,
    /// MQTT 5.
    New,
}

/// Why a client is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Not this name with this password.
    BadPassword,
    /// It must say who it is.
    NotAuthorized,
    /// Too many passwords wait to be checked.
    Busy,
    /// It asks for an authentication method that is not here, or for channel binding.
    BadMethod,
    /// Something else than the next step of its authentication.
    ProtocolError,
    /// The next step does not fit the client's Maximum Packet Size.
    PacketTooLarge,
}

impl Refusal {
    /// The CONNACK that says it.
    pub(crate) const fn connack(self, dialect: Dialect) -> [u8; 5] {
        let (old, new) = match self {
            Self::BadPassword => (4, 0x86),
            Self::NotAuthorized => (5, 0x87),
            Self::Busy => (3, 0x89),
            // Only clients of MQTT 5 authenticate in steps.
            Self::BadMethod => (5, 0x8C),
            Self::ProtocolError => (5, 0x82),
            Self::PacketTooLarge => (5, 0x95),
        };
        match dialect {
            // The last byte is not sent.
            Dialect::Old => [0x20, 2, 0, old, 0],
            Dialect::New => [0x20, 3, 0, new, 0],
        }
    }
}

enum Job {
    Check {
        shard: usize,
        connection: Key,
        name: String,
        password: Vec<u8>,
    },
    Begin {
        shard: usize,
        connection: Key,
        first: ClientFirst,
    },
    Users(Users),
}

/// What the thread has found.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The name with the password.
    Good,
    /// Neither that nor any exchange.
    Bad,
    /// The exchange has begun.
    Begun(Box<Exchange>),
}

type Answer = (Key, Verdict);

/// What the shards know of the thread.
pub(crate) struct Auth {
    /// Clients that do not say who they are are served.
    pub(crate) allows_anonymous: bool,
    jobs: Sender<Job>,
    answers: Vec<Receiver<Answer>>,
}

impl Auth {
    /// Starts the thread; it ends when nobody can ask it any more.
    pub(crate) fn start(
        users: Users,
        allows_anonymous: bool,
        bells: Arc<[Bell]>,
    ) -> io::Result<Self> {
        let (jobs, asked) = flume::bounded(JOBS_MAX);
        let (told, answers): (Vec<_>, Vec<_>) = bells.iter().map(|_| flume::unbounded()).unzip();
        let checker = Checker::new(users)?;
        Builder::new()
            .name("passwords".to_owned())
            .spawn(move || checker.run(&asked, &told, &bells))?;
        Ok(Self {
            allows_anonymous,
            jobs,
            answers,
        })
    }

    /// Asks; the answer comes with the bell. `false`: too many wait.
    pub(crate) fn ask(
        &self,
        shard: usize,
        connection: Key,
        name: String,
        password: Vec<u8>,
    ) -> bool {
        let job = Job::Check {
            shard,
            connection,
            name,
            password,
        };
        self.jobs.try_send(job).is_ok()
    }

    /// Asks for an exchange; it comes with the bell. `false`: too many wait.
    pub(crate) fn begin(&self, shard: usize, connection: Key, first: ClientFirst) -> bool {
        let job = Job::Begin {
            shard,
            connection,
            first,
        };
        self.jobs.try_send(job).is_ok()
    }

    /// The next answer for a shard. There are as many as it has asked for, so they are bounded.
    pub(crate) fn answer(&self, shard: usize) -> Option<Answer> {
        self.answers.get(shard)?.try_recv().ok()
    }

    /// Whether there is an answer for a shard.
    pub(crate) fn has_answer(&self, shard: usize) -> bool {
        let answers = self.answers.get(shard);
        answers.is_some_and(|answers| !answers.is_empty())
    }

    /// From now on these users may connect. Waits for room.
    pub(crate) fn change(&self, users: Users) {
        // The thread ends with the process.
        drop(self.jobs.send(Job::Users(users)));
    }
}

struct Checker {
    users: Users,
    /// Of this process: what is remembered is worth nothing elsewhere.
    key: HmacKey,
    good: BTreeSet<[u8; MARK_BYTES]>,
}

impl Checker {
    fn new(users: Users) -> io::Result<Self> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| io::Error::other("no randomness"))?;
        Ok(Self {
            users,
            key: HmacKey::new(HMAC_SHA256, &secret),
            good: BTreeSet::new(),
        })
    }

    fn run(mut self, asked: &Receiver<Job>, told: &[Sender<Answer>], bells: &[Bell]) {
        while let Ok(job) = asked.recv() {
            match job {
                Job::Users(users) => {
                    self.users = users;
                    self.good.clear();
                }
                Job::Check {
                    shard,
                    connection,
                    name,
                    password,
                } => {
                    let verdict = if self.is_good(&name, &password) {
                        Verdict::Good
                    } else {
                        Verdict::Bad
                    };
                    tell(told.get(shard), bells.get(shard), (connection, verdict));
                }
                Job::Begin {
                    shard,
                    connection,
                    first,
                } => {
                    let verdict = self.begin(first);
                    tell(told.get(shard), bells.get(shard), (connection, verdict));
                }
            }
        }
    }

    fn begin(&self, first: ClientFirst) -> Verdict {
        let mut random = [0; NONCE_BYTES];
        if rand::fill(&mut random).is_err() {
            return Verdict::Bad;
        }
        let verifier = self.users.verifier(first.name(), &self.key);
        let nonce = base64::encode(&random);
        Verdict::Begun(Box::new(Exchange::new(first, verifier, &nonce)))
    }

    fn is_good(&mut self, name: &str, password: &[u8]) -> bool {
        if name.len() > NAME_BYTES_MAX || password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        let mark = self.mark(name, password);
        if self.good.contains(&mark) {
            return true;
        }
        let is_good = self.users.verify(name, password);
        if is_good {
            if self.good.len() >= REMEMBERED_MAX {
                self.good.clear();
            }
            self.good.insert(mark);
        }
        is_good
    }

    fn mark(&self, name: &str, password: &[u8]) -> [u8; MARK_BYTES] {
        let mut context = Context::with_key(&self.key);
        context.update(&name.len().to_be_bytes());
        context.update(name.as_bytes());
        context.update(password);
        let tag = context.sign();
        let mut mark = [0; MARK_BYTES];
        let kept = tag.as_ref().iter();
        mark.iter_mut().zip(kept).for_each(|(to, from)| *to = *from);
        mark
    }
}

fn tell(told: Option<&Sender<Answer>>, bell: Option<&Bell>, answer: Answer) {
    if let (Some(told), Some(bell)) = (told, bell)
        && told.send(answer).is_ok()
    {
        bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_one_name_with_one_password() {
        let mut users = Users::default();
        users.add("ab", b"c").unwrap();
        let mut checker = Checker::new(users).unwrap();
        assert!(checker.is_good("ab", b"c"));
        assert_eq!(checker.good.len(), 1);
        assert!(checker.is_good("ab", b"c"));
        for (name, password) in [("a", "bc"), ("abc", ""), ("ab", "d"), ("x", "c")] {
            assert!(!checker.is_good(name, password.as_bytes()));
        }
        assert!(!checker.is_good(&"n".repeat(257), b"c"));
        assert_eq!(checker.good.len(), 1);
    }

    #[test]
    fn refusals_are_those_of_the_standard() {
        let refused = |dialect| Refusal::BadPassword.connack(dialect);
        assert_eq!(refused(Dialect::Old)[..4], [0x20, 2, 0, 4]);
        assert_eq!(refused(Dialect::New), [0x20, 3, 0, 0x86, 0]);
    }
}
