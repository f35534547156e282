//! Ten thousand clients come back at once, after a `kill -9` and after all were cut off: each finds
//! its session and what it is owed, in bounded time, and another client's messages go on meanwhile.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use engine_mqtt::{
    Packet, Properties, Publish, QoS, ReasonCode, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Version,
};

use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, Node};

const CLIENTS: usize = 10_000;
/// Threads that connect them.
const THREADS: usize = 4;
/// Messages of the publisher that are open at once.
const WINDOW: usize = 100;
/// One of so many has a session that ends with its connection.
const CLEAN_SHARE: usize = 4;
/// Until all are served, and until another client's message comes back: generous, as other tests
/// may have the cores.
const SERVED_MAX: Duration = Duration::from_secs(60);
const GAP_MAX: Duration = Duration::from_secs(20);
/// What the test itself needs: a socket for each client.
const DESCRIPTORS: usize = CLIENTS + 500;

const fn is_durable(number: usize) -> bool {
    !number.is_multiple_of(CLEAN_SHARE)
}

fn dial(number: usize) -> Dial {
    let id = format!("storm-{number}");
    if is_durable(number) {
        Dial::durable(Version::V5, &id)
    } else {
        Dial::clean(Version::V5, &id)
    }
}

/// Raises the soft limit of this process, when it is too low.
pub(crate) fn allow_descriptors() {
    let limits = fs::read_to_string("/proc/self/limits").expect("the limits of this process");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    let soft: usize = soft.map_or(0, |soft| soft.parse().unwrap_or(usize::MAX));
    if soft >= DESCRIPTORS {
        return;
    }
    let process = std::process::id().to_string();
    let limit = format!("--nofile={DESCRIPTORS}:");
    let status = Command::new("prlimit")
        .args(["--pid", &process, &limit])
        .status()
        .expect("prlimit runs");
    assert!(status.success(), "prlimit {limit}: {status}");
}

/// Sends every CONNECT before the first CONNACK is awaited, from some threads at once.
fn connect_all(address: SocketAddr, session_present: bool) -> Vec<Client> {
    let part = |first: usize| -> Vec<(usize, Client)> {
        let numbers = (first..CLIENTS).step_by(THREADS);
        let mut clients: Vec<_> = numbers
            .map(|number| {
                let mut client = Dial::silent_to(Version::V5, address);
                dial(number).send(&mut client);
                (number, client)
            })
            .collect();
        for (number, client) in &mut clients {
            match client.next() {
                Answer::ConnAck(welcome) => {
                    assert_eq!(welcome.reason, ReasonCode::Success, "client {number}");
                    let present = session_present && is_durable(*number);
                    assert_eq!(welcome.session_present, present, "client {number}");
                }
                other => panic!("client {number}: {other:?}"),
            }
        }
        clients
    };
    let mut all: Vec<(usize, Client)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|first| scope.spawn(move || part(first)))
            .collect();
        let parts = threads.into_iter();
        parts
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, client)| client).collect()
}

/// Each client with a durable session subscribes to a topic of its own and to one that all have.
fn subscribe_all(clients: &mut [Client]) {
    let mut durable: Vec<_> = (0..).zip(clients).filter(|(n, _)| is_durable(*n)).collect();
    for (number, client) in &mut durable {
        let own = format!("storm/{number}");
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            ..SubscriptionOptions::default()
        };
        let filters = [own.as_str(), "storm/all"].map(|filter| Subscription { filter, options });
        let packet_id = client.packet_id();
        client.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters: Subscriptions::from(filters.as_slice()),
        }));
    }
    for (_, client) in durable {
        match client.next() {
            Answer::SubAck(_, codes) => {
                assert!(codes.iter().all(|code| code.number() == 1), "{codes:?}");
            }
            other => panic!("expected SUBACK, got {other:?}"),
        }
    }
}

/// One QoS 1 message to each client's own topic; returns when all are acknowledged.
fn publish_to_each(publisher: &mut Client) {
    for first in (0..CLIENTS).step_by(WINDOW) {
        publish_window(publisher, first..CLIENTS.min(first + WINDOW));
    }
}

fn publish_window(publisher: &mut Client, numbers: Range<usize>) {
    let count = numbers.len();
    for number in numbers {
        let packet_id = publisher.packet_id();
        publisher.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: &format!("storm/{number}"),
            packet_id: Some(packet_id),
            properties: Properties::EMPTY,
            payload: b"own",
        }));
    }
    for _ in 0..count {
        match publisher.answer() {
            Answer::PubAck(_, reason) => assert!(!reason.is_failure(), "{reason:?}"),
            other => panic!("expected PUBACK, got {other:?}"),
        }
    }
}

/// A client whose messages come back to it, one at a time, while all others connect.
struct Canary {
    over: Arc<AtomicBool>,
    thread: JoinHandle<(u32, Duration)>,
}

impl Canary {
    fn start(node: &Node) -> Self {
        let mut client = Dial::clean(Version::V5, "canary").connect(node);
        client.subscribe("canary", QoS::AtLeastOnce);
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !seen.load(Ordering::Relaxed) {
                let begin = Instant::now();
                client.publish("canary", "sings", QoS::AtLeastOnce);
                client.expect("canary", "sings", QoS::AtLeastOnce);
                longest = longest.max(begin.elapsed());
                count += 1;
            }
            (count, longest)
        });
        Self { over, thread }
    }

    /// How many messages have come back, and how long the slowest took.
    fn stop(self) -> (u32, Duration) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the canary lives")
    }
}

/// All connect at once, find their sessions and what they are owed.
fn storm(
    what: &str,
    node: &Node,
    owed: impl Fn(usize) -> Vec<(String, &'static str)>,
) -> Vec<Client> {
    let canary = Canary::start(node);
    let begin = Instant::now();
    let mut clients = connect_all(node.address(), true);
    let welcome = begin.elapsed();
    for (number, client) in clients.iter_mut().enumerate() {
        for (topic, payload) in owed(number) {
            client.expect(&topic, payload, QoS::AtLeastOnce);
        }
    }
    let served = begin.elapsed();
    let (songs, longest) = canary.stop();
    println!(
        "{CLIENTS} clients after {what}: the last CONNACK after {welcome:?}, the last message \
         after {served:?}; meanwhile {songs} messages of another client, {longest:?} at most"
    );
    assert!(served < SERVED_MAX, "all are served after {served:?}");
    assert!(
        longest < GAP_MAX,
        "the canary was not heard for {longest:?}"
    );
    clients
}

#[test]
fn all_clients_come_back_at_once_and_find_their_sessions() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    allow_descriptors();
    let mut node = Node::with_shards(2);
    let mut clients = connect_all(node.address(), false);
    subscribe_all(&mut clients);
    let publisher = Dial::durable(Version::V5, "publisher");
    let mut online = publisher.connect(&node);
    // This one is in flight to everybody, unacknowledged, when the node dies ...
    online.publish("storm/all", "in flight", QoS::AtLeastOnce);
    node.kill9();
    drop(clients);
    node.run();
    // ... and these are queued while nobody is there.
    publish_to_each(&mut publisher.connect(&node));
    node.crash_and_restart();
    let own = |number: usize| (format!("storm/{number}"), "own");
    let clients = storm("kill -9", &node, |number| {
        if is_durable(number) {
            vec![("storm/all".to_owned(), "in flight"), own(number)]
        } else {
            Vec::new()
        }
    });
    // All are cut off at once, and come back to a node that is still clearing up behind them.
    drop(clients);
    let mut publisher = publisher.connect(&node);
    publish_to_each(&mut publisher);
    let mut clients = storm("a cut", &node, |number| {
        is_durable(number)
            .then(|| own(number))
            .into_iter()
            .collect()
    });
    publisher.publish("storm/all", "after", QoS::AtLeastOnce);
    for (number, client) in clients.iter_mut().enumerate() {
        if is_durable(number) {
            client.expect("storm/all", "after", QoS::AtLeastOnce);
        } else {
            client.ping();
        }
    }
    assert!(node.terminate().success());
}
