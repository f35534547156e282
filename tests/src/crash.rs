//! `kill -9` of the real process at random points under load, held against the history checker.
//!
//! Its modules are further experiments on the real process: [`damage`] flips bits of its files,
//! [`full`] fills its disk, [`retention`] takes its old messages,
//! [`kept`] has it retain more than it knows by heart, [`memory`] gives it too little,
//! [`pauses`] stops it for a while, [`descriptors`] and [`storm`] bring more clients than it may
//! hold and many at once.
//!
//! Publishers (QoS 1 and 2, retained now and then) and subscribers (durable; exact and wildcard
//! filters; some always online, some seldom) run as threads. What they do and see goes through one
//! channel into a [`History`]: a thread reports a send before its first byte leaves and a receipt
//! after its last byte has arrived, so the order of the channel is an order that happened. After a
//! random number of reports the process is killed and started again on its data; the clients come
//! back, and resend what is open as MQTT asks. Now and then the process is killed while it starts.
//!
//! At the end all come back, everything open is completed, and the history must add up: every
//! acknowledged message at every durable subscriber, QoS 2 exactly once, each publisher's order,
//! nothing invented, sessions present, retained messages current.
//!
//! `CORELANE_CRASH_SEED` repeats the random choices of a run (not the timing of its threads);
//! `CORELANE_CRASH_KILLS` sets how many kills there are under load.

mod damage;
mod delayed;
mod descriptors;
mod full;
mod kept;
mod many_queues;
mod memory;
mod parked;
mod pauses;
mod pressure;
mod publisher;
mod random;
mod report;
mod retention;
mod small_disk;
mod storm;
mod subscriber;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use engine_mqtt::{QoS, Version};

use crate::client::Dial;
use crate::history::{ClientNumber, History, message_id};
use crate::node::{Broker, DEADLINE, Node};
use publisher::Publisher;
pub(crate) use random::Random;
use report::Report;
pub(crate) use storm::allow_descriptors;
use subscriber::Subscriber;

const SHARDS: u8 = 2;
/// Retention looks at the whole disk, which is the machine's: here nothing owed may go for it.
const DISK_OF_ITS_OWN: [&str; 6] = [
    "--disk-clean-percent",
    "98",
    "--disk-force-percent",
    "99",
    "--disk-refuse-percent",
    "100",
];
const PUBLISHERS: u32 = 6;
/// Kills under load in one run, unless `CORELANE_CRASH_KILLS` says otherwise.
const KILLS: u64 = 30;
/// Reports after which a kill comes at the latest.
const REPORTS_MAX: u64 = 900;

/// One run: the node, its clients and what happened.
struct Laboratory {
    node: Node,
    random: Random,
    history: History,
    start: Instant,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    /// Publishers of this round that have come to their end.
    finished: u32,
    interrupted: Interrupted,
}

/// Kills in the middle of QoS 2 exchanges, and how many exchanges that were, by direction.
#[derive(Debug, Default)]
struct Interrupted {
    to_node_kills: u64,
    to_node: usize,
    from_node_kills: u64,
    from_node: usize,
}

/// How the publishers of a round end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// They publish until the node dies.
    UntilKilled,
    /// They publish so many each, and complete it, while the node is stopped now and then.
    Paused(u64),
    /// They complete what is open, and everybody receives what is owed.
    ToTheEnd,
}

impl Laboratory {
    fn new(seed: u64) -> Self {
        let exact = |number: u32| format!("crash/{number}/exact");
        let filters: [(&str, Vec<(String, QoS)>); 6] = [
            (
                "exact",
                (0..PUBLISHERS)
                    .map(|p| (exact(p), QoS::ExactlyOnce))
                    .collect(),
            ),
            ("every", vec![("crash/#".to_owned(), QoS::ExactlyOnce)]),
            (
                "some",
                vec![("crash/+/wild/+".to_owned(), QoS::AtLeastOnce)],
            ),
            (
                "both",
                vec![
                    (exact(1), QoS::AtLeastOnce),
                    ("crash/1/#".to_owned(), QoS::ExactlyOnce),
                ],
            ),
            (
                "seldom-exact",
                vec![(exact(0), QoS::ExactlyOnce), (exact(3), QoS::AtLeastOnce)],
            ),
            (
                "seldom-every",
                vec![("crash/#".to_owned(), QoS::ExactlyOnce)],
            ),
        ];
        let publishers = (0..PUBLISHERS)
            .map(|number| Publisher::new(number, seed))
            .collect();
        let subscribers = filters
            .into_iter()
            .zip(100..)
            .map(|((name, filters), number)| Subscriber::new(number, name, filters, seed))
            .collect();
        Self {
            node: Node::with_arguments(SHARDS, &DISK_OF_ITS_OWN),
            random: Random::new(seed),
            history: History::new(),
            start: Instant::now(),
            publishers,
            subscribers,
            finished: 0,
            interrupted: Interrupted::default(),
        }
    }

    /// Counts what the last kill has left open.
    fn count_interrupted(&mut self) {
        let online = self.subscribers.iter().filter(|one| one.is_online());
        let from_node: usize = online.map(Subscriber::open_qos_2).sum();
        let to_node: usize = self.publishers.iter().map(Publisher::open_qos_2).sum();
        let all = &mut self.interrupted;
        all.to_node += to_node;
        all.to_node_kills += u64::from(to_node > 0);
        all.from_node += from_node;
        all.from_node_kills += u64::from(from_node > 0);
    }

    fn record(&mut self, report: &Report) {
        if matches!(report, Report::Disconnected { client } if client.0 < PUBLISHERS) {
            self.finished += 1;
        }
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).expect("a short run");
        if let Err(violation) = self.history.record(now_ms, report.event()) {
            panic!("{violation} (at {report:?})");
        }
    }

    /// Runs the clients; ends with a dead node, or with all clients done.
    fn round(&mut self, round: Round) {
        let done = AtomicBool::new(false);
        let address = self.node.address();
        let mut publishers = std::mem::take(&mut self.publishers);
        let mut subscribers = std::mem::take(&mut self.subscribers);
        self.finished = 0;
        let quota = match round {
            Round::UntilKilled => u64::MAX,
            Round::Paused(count) => count,
            Round::ToTheEnd => 0,
        };
        for subscriber in &mut subscribers {
            let here =
                round != Round::UntilKilled || self.random.below(100) < subscriber.presence();
            subscriber.set_online(here);
        }
        std::thread::scope(|scope| {
            let (sender, reports) = channel();
            for publisher in &mut publishers {
                let sender = sender.clone();
                scope.spawn(move || publisher.run(address, &sender, quota));
            }
            for subscriber in subscribers.iter_mut().filter(|one| one.is_online()) {
                let (sender, done) = (sender.clone(), &done);
                scope.spawn(move || subscriber.run(address, &sender, done, round));
            }
            drop(sender);
            match round {
                Round::UntilKilled => self.kill_under_load(&reports),
                Round::Paused(_) => {
                    self.pause_under_load(&reports);
                    self.until_complete(&reports, &done, address);
                }
                Round::ToTheEnd => self.until_complete(&reports, &done, address),
            }
        });
        self.publishers = publishers;
        self.subscribers = subscribers;
    }

    fn kill_under_load(&mut self, reports: &Receiver<Report>) {
        // A quarter of the kills comes while clients are still connecting and catching up.
        let early = self.random.below(4) == 0;
        let mut left = self.random.below(if early { 30 } else { REPORTS_MAX });
        let mut alive = true;
        loop {
            if alive && left == 0 {
                self.node.kill9();
                alive = false;
            }
            match reports.recv_timeout(DEADLINE) {
                Ok(report) => {
                    self.record(&report);
                    left = left.saturating_sub(1);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("no client gets on: {}", self.waiting()),
            }
        }
        if alive {
            self.node.kill9();
        }
    }

    /// Records until nothing is missing, then lets the subscribers go.
    fn until_complete(
        &mut self,
        reports: &Receiver<Report>,
        done: &AtomicBool,
        address: SocketAddr,
    ) {
        let mut last = Instant::now();
        loop {
            match reports.recv_timeout(Duration::from_millis(200)) {
                Ok(report) => {
                    self.record(&report);
                    last = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if done.load(Ordering::Relaxed) {
                        continue;
                    }
                    if self.finished == PUBLISHERS && self.missing() == 0 {
                        self.check_retained(address);
                        done.store(true, Ordering::Relaxed);
                    } else if last.elapsed() > DEADLINE {
                        done.store(true, Ordering::Relaxed);
                        panic!("deliveries are missing: {}", self.waiting());
                    }
                }
            }
        }
    }

    fn numbers() -> impl Iterator<Item = ClientNumber> {
        (100..106).map(ClientNumber)
    }

    fn missing(&self) -> usize {
        Self::numbers()
            .map(|client| self.history.missing(client).len())
            .sum()
    }

    fn waiting(&self) -> String {
        let each = Self::numbers().map(|client| {
            let missing = self.history.missing(client);
            format!(
                "client {} misses {}: {:?}",
                client.0,
                missing.len(),
                missing.first()
            )
        });
        format!(
            "{:?}; {}",
            self.history.totals(),
            each.collect::<Vec<_>>().join("; ")
        )
    }

    fn check_retained(&self, address: SocketAddr) {
        let topics: BTreeSet<String> = self
            .history
            .retained_topics()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let mut reader = Dial::clean(Version::V5, "reader")
            .attempt(address)
            .expect("the node serves");
        reader.subscribe("reader/marker", QoS::AtMostOnce);
        for topic in topics {
            reader.subscribe(&topic, QoS::AtMostOnce);
            // What is retained comes before what is published after SUBACK.
            reader.publish("reader/marker", "marker", QoS::AtMostOnce);
            let first = reader.receive();
            let found = if first.topic == topic {
                assert_eq!(reader.receive().topic, "reader/marker");
                message_id(&first.payload)
            } else {
                assert_eq!(first.topic, "reader/marker");
                None
            };
            if let Err(violation) = self.history.check_retained(&topic, found) {
                panic!("{violation}");
            }
        }
    }

    /// The node dies while it recovers, some times over.
    fn kill_while_starting(&mut self) -> u64 {
        let kills = self.random.below(3);
        for _ in 0..kills {
            let wait = Duration::from_millis(self.random.below(250));
            self.node.run_and_kill_within(wait);
        }
        kills
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: expected a number")),
    )
}

fn run(seed: u64, kills: u64) {
    println!("crash: CORELANE_CRASH_SEED={seed} CORELANE_CRASH_KILLS={kills}");
    let mut laboratory = Laboratory::new(seed);
    let mut while_starting = 0;
    for kill in 0..kills {
        laboratory.round(Round::UntilKilled);
        laboratory.count_interrupted();
        if kill % 5 == 4 && laboratory.node.broker() == Broker::Corelane {
            while_starting += laboratory.kill_while_starting();
        }
        laboratory.node.run();
    }
    laboratory.round(Round::ToTheEnd);
    if let Err(violation) = laboratory.history.finish() {
        panic!("{violation}");
    }
    let totals = laboratory.history.totals();
    println!("crash: {kills} kills under load, {while_starting} while starting: {totals:?}");
    let interrupted = &laboratory.interrupted;
    println!("crash: QoS 2 exchanges that kills interrupted: {interrupted:?}");
    assert!(totals.acknowledged > kills, "the load is one: {totals:?}");
    let fewer = interrupted.to_node_kills.min(interrupted.from_node_kills);
    assert!(
        fewer >= kills / 10,
        "QoS 2 is in the middle: {interrupted:?}"
    );
}

/// The seed of this run: from the environment, or another one each time.
fn seed() -> u64 {
    let now = std::time::SystemTime::now();
    let clock = now
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock after 1970");
    let seed = number_from("CORELANE_CRASH_SEED");
    seed.unwrap_or_else(|| u64::from(clock.subsec_nanos()))
}

#[test]
fn kill_9_at_random_points_loses_and_repeats_nothing() {
    run(seed(), number_from("CORELANE_CRASH_KILLS").unwrap_or(KILLS));
}

/// How threads tell what they do.
type Reports = Sender<Report>;
