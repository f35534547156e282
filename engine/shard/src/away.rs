//! What the routing table knows of exact filters whose sessions are away.
//!
//! Such a filter is not in the table: the session reads the queue of its topic when it is back. So
//! that a publisher is not told that nobody has subscribed, each of them counts in one of
//! [`BUCKETS`] buckets, by a hash. The table has an entry for a bucket while a shard counts
//! something in it, under a name that no topic and no filter of a client can have. Where a filter
//! that is away shares a bucket with a topic, nobody knows of that topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::is_wildcard;
use engine_topic::{Change, RoutingTable};

use crate::port::ShardId;

/// More are more exact and cost memory once: about 200 bytes for each that is in use.
const BUCKETS: u64 = 16_384;

/// How many filters are away, by bucket.
#[derive(Default, Debug)]
pub(crate) struct Away {
    pub(crate) counts: BTreeMap<u16, u32>,
    pub(crate) changes: Vec<Change>,
}

impl Away {
    /// A QoS 0 subscription brings nothing to a session that is away, and does not count.
    pub(crate) fn add(&mut self, shard: ShardId, filter: &str, qos: QoS) {
        if qos == QoS::AtMostOnce || is_wildcard(filter) {
            return;
        }
        let bucket = bucket(filter);
        let count = self.counts.entry(bucket).or_default();
        *count += 1;
        if *count == 1 {
            self.changes.push(change(bucket, shard, true));
        }
    }

    /// Takes back what [`Self::add`] did.
    pub(crate) fn remove(&mut self, shard: ShardId, filter: &str, qos: QoS) {
        if qos == QoS::AtMostOnce || is_wildcard(filter) {
            return;
        }
        let bucket = bucket(filter);
        let left = self.counts.get_mut(&bucket).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            self.counts.remove(&bucket);
            self.changes.push(change(bucket, shard, false));
        }
    }

    /// All that the table has to know.
    pub(crate) fn all(&self, shard: ShardId) -> impl Iterator<Item = Change> {
        let buckets = self.counts.keys();
        buckets.map(move |bucket| change(*bucket, shard, true))
    }
}

/// Whether a session that is away may have a subscription to this topic, by its exact name.
pub(crate) fn may_be_away(table: &RoutingTable, topic: &str) -> bool {
    table.filter(&name(bucket(topic))).is_some()
}

fn bucket(text: &str) -> u16 {
    let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    u16::try_from(hash % BUCKETS).unwrap_or_default()
}

/// A text with U+0000 is never a client's [MQTT-1.5.4-2].
fn name(bucket: u16) -> Arc<str> {
    format!("\0{bucket}").into()
}

fn change(bucket: u16, shard: ShardId, queue: bool) -> Change {
    let filter = name(bucket);
    let (shard, online) = (shard.0, false);
    Change {
        filter,
        shard,
        online,
        queue,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_and_the_last_of_a_bucket_change_the_table() {
        let mut away = Away::default();
        let mut writer = engine_topic::Writer::new();
        let mut check = |away: &mut Away, changes: usize, expected| {
            let made = std::mem::take(&mut away.changes);
            assert_eq!(made.len(), changes);
            assert_eq!(may_be_away(&writer.apply(&made), "a/b"), expected);
        };
        let (shard, qos) = (ShardId(3), QoS::AtLeastOnce);
        away.add(shard, "a/b", QoS::AtMostOnce);
        away.add(shard, "a/+", qos);
        check(&mut away, 0, false);
        away.add(shard, "a/b", qos);
        away.add(shard, "a/b", QoS::ExactlyOnce);
        assert_eq!(away.all(shard).count(), 1);
        check(&mut away, 1, true);
        away.remove(shard, "a/b", qos);
        away.remove(shard, "a/+", qos);
        check(&mut away, 0, true);
        away.remove(shard, "a/b", QoS::ExactlyOnce);
        check(&mut away, 1, false);
        assert!(away.counts.is_empty());
    }
}
