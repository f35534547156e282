//! Several shards in one process: every pair carries messages, and connections spread evenly.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

use engine_mqtt::{QoS, Version};
use engine_shard::home_shard;

use crate::client::{Client, Dial};
use crate::node::{DEADLINE, Node, free_port};

/// More than this machine's cores, which is allowed (unpinned, with a warning).
const SHARDS: u8 = 4;
const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A client id that starts with `prefix` and whose session lives on `shard`.
fn id_on(shard: u8, prefix: &str) -> String {
    (0..10_000)
        .map(|number| format!("{prefix}-{number}"))
        .find(|id| home_shard(id, SHARDS).0 == shard)
        .expect("a hash finds each of a few shards")
}

#[test]
fn every_pair_of_shards_carries_messages() {
    let node = Node::with_shards(SHARDS);
    let mut publishers: Vec<Client> = (0..SHARDS)
        .map(|shard| Dial::clean(Version::V5, &id_on(shard, "from")).connect(&node))
        .collect();
    for to in 0..SHARDS {
        let mut subscriber = Dial::clean(Version::V311, &id_on(to, "to")).connect(&node);
        for (from, publisher) in publishers.iter_mut().enumerate() {
            let exact = format!("pair/{from}/{to}");
            let wild = format!("wild/{from}/{to}");
            subscriber.subscribe(&exact, QoS::ExactlyOnce);
            subscriber.subscribe(&format!("wild/{from}/+"), QoS::ExactlyOnce);
            for qos in LEVELS {
                publisher.publish(&exact, "exact", qos);
                subscriber.expect(&exact, "exact", qos);
                publisher.publish(&wild, "wild", qos);
                subscriber.expect(&wild, "wild", qos);
            }
        }
    }
}

#[test]
fn every_pair_of_shards_catches_up_after_an_absence_and_a_crash() {
    let mut node = Node::with_shards(SHARDS);
    let dials: Vec<Dial> = (0..SHARDS)
        .map(|shard| Dial::durable(Version::V5, &id_on(shard, "away")))
        .collect();
    for (to, dial) in dials.iter().enumerate() {
        let mut subscriber = dial.connect(&node);
        subscriber.subscribe(&format!("away/+/{to}"), QoS::ExactlyOnce);
        subscriber.disconnect();
    }
    for from in 0..SHARDS {
        let mut publisher = Dial::clean(Version::V5, &id_on(from, "from")).connect(&node);
        for to in 0..SHARDS {
            publisher.publish(&format!("away/{from}/{to}"), "missed", QoS::ExactlyOnce);
        }
    }
    node.crash_and_restart();
    for (to, dial) in dials.iter().enumerate() {
        let mut subscriber = dial.connect(&node);
        assert!(subscriber.welcome().session_present);
        let mut topics: Vec<String> = (0..SHARDS).map(|_| subscriber.receive().topic).collect();
        topics.sort();
        let expected: Vec<String> = (0..SHARDS)
            .map(|from| format!("away/{from}/{to}"))
            .collect();
        assert_eq!(topics, expected);
    }
}

/// The page that `--metrics` serves: the value of each line of `name` by shard.
pub(crate) fn per_shard(port: u16, name: &str) -> BTreeMap<String, f64> {
    let mut stream =
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the metrics listener answers");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a read timeout");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .expect("a request is sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page of text");
    let prefix = format!("{name}{{shard=\"");
    page.lines()
        .filter_map(|line| line.strip_prefix(prefix.as_str())?.split_once("\"} "))
        .map(|(shard, value)| (shard.to_owned(), value.parse().expect("a number")))
        .collect()
}

#[test]
fn the_benchs_connections_spread_evenly() {
    const CONNECTIONS: usize = 400;
    let metrics = free_port();
    let node = Node::with_arguments(SHARDS, &["--metrics", &format!("127.0.0.1:{metrics}")]);
    // The ids that corelane-bench gives its clients by default.
    let clients: Vec<Client> = (0..CONNECTIONS)
        .map(|number| Dial::clean(Version::V311, &format!("bench-{number}")).connect(&node))
        .collect();
    let end = Instant::now() + DEADLINE;
    let spread = loop {
        let spread = per_shard(metrics, "corelane_connections");
        let total: f64 = spread.values().sum();
        if total >= 400.0 {
            break spread;
        }
        assert!(
            Instant::now() < end,
            "{CONNECTIONS} connections, but the metrics say {spread:?}"
        );
    };
    assert_eq!(spread.len(), usize::from(SHARDS), "{spread:?}");
    for (shard, count) in &spread {
        // 100 is the mean and 8.7 the standard deviation of a fair hash.
        assert!(
            (65.0..=135.0).contains(count),
            "shard {shard} has {count}: {spread:?}"
        );
    }
    drop(clients);
}
