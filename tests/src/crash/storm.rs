//! All clients come back at once after a `kill -9`: each finds its session and what it is owed, in
//! bounded time.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use engine_mqtt::{
    Packet, Properties, Publish, QoS, ReasonCode, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Version,
};

use crate::client::{Answer, Client, Dial};
use crate::node::{Broker, Node};

const CLIENTS: usize = 2_000;
/// Threads that connect them.
const THREADS: usize = 4;
/// Messages of the publisher that are open at once.
const WINDOW: usize = 100;
/// Until the last CONNACK; it takes about a second on one core.
const WELCOME_MAX: Duration = Duration::from_secs(10);
/// What the test itself needs: a socket for each client.
const DESCRIPTORS: usize = CLIENTS + 500;

fn dial(number: usize) -> Dial {
    Dial::durable(Version::V5, &format!("storm-{number}"))
}

/// Raises the soft limit of this process, when it is too low.
fn allow_descriptors() {
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
                    assert_eq!(welcome.session_present, session_present, "client {number}");
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

/// Each client subscribes to a topic of its own and to one that all have.
fn subscribe_all(clients: &mut [Client]) {
    for (number, client) in clients.iter_mut().enumerate() {
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
    for client in clients {
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

    let begin = Instant::now();
    let mut clients = connect_all(node.address(), true);
    let welcome = begin.elapsed();
    for (number, client) in clients.iter_mut().enumerate() {
        client.expect("storm/all", "in flight", QoS::AtLeastOnce);
        client.expect(&format!("storm/{number}"), "own", QoS::AtLeastOnce);
    }
    println!(
        "{CLIENTS} clients: the last CONNACK after {welcome:?}, the last message after {:?}",
        begin.elapsed()
    );
    assert!(
        welcome < WELCOME_MAX,
        "the last CONNACK came after {welcome:?}"
    );
    let mut after = publisher.connect(&node);
    after.publish("storm/all", "after", QoS::AtLeastOnce);
    for client in &mut clients {
        client.expect("storm/all", "after", QoS::AtLeastOnce);
    }
}
