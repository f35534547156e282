//! The node's numbers under the topics that mosquitto has for them, so that what reads those reads
//! these (docs/topics.md).

use std::sync::atomic::Ordering;

use crate::shared::Shared;

/// Topics, and the meters that are added up for them, of all shards.
const NUMBERS: [(&str, &[&str]); 9] = [
    ("$SYS/broker/clients/connected", &["connections"]),
    ("$SYS/broker/clients/total", &["sessions"]),
    (
        "$SYS/broker/messages/received",
        &["received_qos0", "received_qos1", "received_qos2"],
    ),
    (
        "$SYS/broker/messages/sent",
        &["sent_qos0", "sent_qos1", "sent_qos2"],
    ),
    ("$SYS/broker/bytes/received", &["received_bytes"]),
    ("$SYS/broker/bytes/sent", &["sent_bytes"]),
    ("$SYS/broker/subscriptions/count", &["subscriptions"]),
    ("$SYS/broker/retained messages/count", &["retained"]),
    ("$SYS/broker/publish/messages/dropped", &["dropped_qos0"]),
];

/// Topics and payloads; `now_ms` counts from the start of the node. The shards tell their numbers
/// once a second.
pub(crate) fn of(shared: &Shared, now_ms: u64) -> Vec<(&'static str, String)> {
    let mut all = vec![
        (
            "$SYS/broker/version",
            format!("corelane version {}", env!("CARGO_PKG_VERSION")),
        ),
        ("$SYS/broker/uptime", format!("{} seconds", now_ms / 1000)),
    ];
    let numbers = NUMBERS.iter();
    all.extend(numbers.map(|(topic, meters)| (*topic, sum(shared, meters).to_string())));
    all
}

fn sum(shared: &Shared, names: &[&str]) -> u64 {
    let shards = (0..shared.shard_count()).map(|shard| shared.cells(shard));
    let of_shard = |cells: &[std::sync::atomic::AtomicU64]| -> u64 {
        let named = shared.meters().iter().zip(cells);
        let wanted = named.filter(|(meter, _)| names.contains(&meter.name));
        wanted.map(|(_, cell)| cell.load(Ordering::Relaxed)).sum()
    };
    shards.map(of_shard).sum()
}
