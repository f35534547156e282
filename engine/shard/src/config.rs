//! A shard's settings and bounds.

use std::sync::Arc;

use crate::auto_subscribe::AutoSubscription;
use crate::group::Strategy;
use crate::limits::ClientLimits;
use crate::port::ShardId;
use crate::redirect::Redirect;
use crate::rewrite::Rewrites;
use crate::rules::Rules;

/// Bytes of a topic name or filter, at most: as many as MQTT allows.
pub const NAME_BYTES_MAX: u16 = u16::MAX;

/// Bytes of events in a lane besides one of the largest packets, at least.
const LANE_BYTES_MIN: usize = 1024 * 1024;

/// What a shard is told at its start. Every bound has a default.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many there are, 1 to 64: each has a log.
    pub shards: u8,
    /// The first so many are the homes of clients and topics. The others are left from a time with
    /// more: their logs are sealed, they only serve what is in them.
    pub homes: u8,
    /// The boot number of the data directory: grows by one with every start.
    pub boot: u32,
    /// Randomness for assigned client ids and hash tables.
    pub seed: u64,
    /// QoS 1/2 deliveries in flight to one client, at most (and its Receive Maximum).
    pub inflight_max: u16,
    /// Inbound QoS 1/2 publications of one client that are not acknowledged, at most; told to MQTT
    /// 5 clients as Receive Maximum.
    pub receive_max: u16,
    /// The largest packet taken from a client, bytes.
    pub packet_bytes_max: u32,
    /// Above this many unsent bytes a connection gets no more PUBLISH packets.
    pub output_bytes_max: usize,
    /// Payloads from this size on are sent from the block that all receivers refer to, bytes;
    /// below, a copy costs less than one more piece of a send (perf/README.md).
    pub shared_payload_min: usize,
    /// Bytes of QoS 0 messages kept for a session while its retained messages are read.
    pub held_bytes_max: usize,
    /// Session expiry intervals are cut to this many seconds; `u32::MAX`: no bound.
    pub session_expiry_max_s: u32,
    /// Sessions of this shard.
    pub sessions_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Retained messages of this shard.
    pub retained_max: usize,
    /// Retained messages of one answer to the shard of a new subscriber.
    pub retained_page_max: usize,
    /// Topics whose last retained publication is in memory; the others are read when they matter.
    pub retained_cached_max: usize,
    /// Delayed publications of this shard that are not due yet.
    pub delayed_max: usize,
    /// Those of them in memory: the earliest.
    pub delayed_window_max: usize,
    /// Bytes of those; one is there whatever its size.
    pub delayed_window_bytes_max: usize,
    /// Filters of which this shard says who has an exclusive subscription to them.
    pub exclusive_max: usize,
    /// Bytes of a client id.
    pub client_id_bytes_max: u16,
    /// Bytes of a topic name or filter, at most [`NAME_BYTES_MAX`].
    pub topic_bytes_max: u16,
    /// Levels of a topic name or filter.
    pub topic_levels_max: u16,
    /// Milliseconds until a connection's CONNECT has to be there.
    pub connect_timeout_ms: u64,
    /// CONNECTs that this shard takes in a second; 0: no bound.
    pub connects_per_s: u32,
    /// PUBLISH packets of one client in a second; 0: no bound.
    pub publishes_per_s: u32,
    /// Bytes of them; 0: no bound.
    pub publish_bytes_per_s: u64,
    /// Milliseconds between two records of the shard's positions: half of what is sent again after
    /// a crash at most.
    pub positions_interval_ms: u64,
    /// Milliseconds that a session is away before it leaves memory; `u64::MAX`: it stays.
    pub park_after_ms: u64,
    /// Sessions that end within so many milliseconds stay in memory.
    pub park_life_min_ms: u64,
    /// Seconds that a will of a crashed node waits at least for its client to come back.
    pub will_delay_after_crash_s: u32,
    /// Publications kept per log for sessions that are only a little behind.
    pub ring_events_max: usize,
    /// Bytes of them.
    pub ring_bytes_max: usize,
    /// Events waiting for a full mesh ring, per peer; above it the lane collapses.
    pub lane_events_max: usize,
    /// Bytes of them.
    pub lane_bytes_max: usize,
    /// Outstanding reads for sessions that catch up: the more at once, the fewer passes over a log.
    pub reads_max: usize,
    /// Publications that wait to be durable; above it the shard stops reading sockets.
    pub pending_max: usize,
    /// Milliseconds by which the oldest record of every log must be younger than the delete of a
    /// retained message before that is forgotten: longer than a carried publication waits to be
    /// written.
    pub tombstone_margin_ms: u64,
    /// Records of one shared group in flight to all its members, at most.
    pub group_inflight_max: u16,
    /// How shared groups choose a member.
    pub share_strategy: Strategy,
    /// In the topics of its events; `None`: `corelane`.
    pub node_name: Option<Arc<str>>,
    /// Where clients are sent instead of being served.
    pub redirect: Option<Redirect>,
    /// Who may publish and subscribe to what; `None`: everybody to everything.
    pub rules: Option<Arc<Rules>>,
    /// What topics and filters become; `None`: they stay.
    pub rewrites: Option<Arc<Rewrites>>,
    /// What every client is subscribed to; `None`: nothing.
    pub auto_subscriptions: Option<Arc<[AutoSubscription]>>,
    /// QoS 0 publications are stored too (for consumers other than MQTT).
    pub store_qos0: bool,
}

impl ShardConfig {
    /// The defaults for one of `shards` shards.
    #[must_use]
    pub const fn new(shard: ShardId, shards: u8, boot: u32, seed: u64) -> Self {
        Self {
            shard,
            shards,
            homes: shards,
            boot,
            seed,
            inflight_max: 64,
            receive_max: 256,
            packet_bytes_max: 1024 * 1024,
            output_bytes_max: 32 * 1024,
            shared_payload_min: 8 * 1024,
            held_bytes_max: 16 * 1024,
            session_expiry_max_s: u32::MAX,
            sessions_max: 4_000_000,
            subscriptions_max: 10_000,
            retained_max: 1_000_000,
            retained_page_max: 64,
            retained_cached_max: 32_768,
            delayed_max: 1_000_000,
            delayed_window_max: 8_192,
            delayed_window_bytes_max: 1024 * 1024,
            exclusive_max: 100_000,
            client_id_bytes_max: u16::MAX,
            topic_bytes_max: NAME_BYTES_MAX,
            topic_levels_max: 128,
            connect_timeout_ms: 10_000,
            connects_per_s: 0,
            publishes_per_s: 0,
            publish_bytes_per_s: 0,
            positions_interval_ms: 500,
            park_after_ms: 10_000,
            park_life_min_ms: 60_000,
            will_delay_after_crash_s: 30,
            ring_events_max: 8_192,
            ring_bytes_max: 8 * 1024 * 1024,
            lane_events_max: 8_192,
            lane_bytes_max: 4 * 1024 * 1024,
            reads_max: 1 << 17,
            pending_max: 65_536,
            tombstone_margin_ms: 60_000,
            group_inflight_max: 1_024,
            share_strategy: Strategy::RoundRobin,
            node_name: None,
            redirect: None,
            rules: None,
            rewrites: None,
            auto_subscriptions: None,
            store_qos0: false,
        }
    }

    /// With these limits for its clients.
    #[must_use]
    pub fn limited(self, limits: &ClientLimits) -> Self {
        let share = |all| ClientLimits::share(all, self.homes);
        Self {
            packet_bytes_max: limits.packet_bytes,
            client_id_bytes_max: limits.client_id_bytes,
            topic_bytes_max: limits.topic_bytes,
            topic_levels_max: limits.topic_levels,
            subscriptions_max: limits.subscriptions as usize,
            inflight_max: limits.inflight,
            receive_max: limits.receive_maximum,
            sessions_max: share(limits.sessions) as usize,
            retained_max: share(limits.retained) as usize,
            delayed_max: share(limits.delayed) as usize,
            exclusive_max: share(limits.exclusive) as usize,
            session_expiry_max_s: limits.session_expiry_s,
            park_after_ms: 1000 * u64::from(limits.park_after_s),
            connect_timeout_ms: 1000 * u64::from(limits.connect_timeout_s),
            connects_per_s: share(limits.connects_per_s),
            // One packet never fills a lane: at QoS 0 it would be lost.
            lane_bytes_max: self
                .lane_bytes_max
                .max(limits.packet_bytes as usize + LANE_BYTES_MIN),
            publishes_per_s: limits.publishes_per_s,
            publish_bytes_per_s: limits.publish_bytes_per_s,
            ..self
        }
    }
}

/// The home shard of a client: XXH3-64 of its id, seed 0, modulo the number of homes. The same hash
/// gives a topic's owner. It is named in the data directory, as it decides where state lives.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "below the number of homes")]
pub fn home_shard(name: &str, homes: u8) -> ShardId {
    ShardId((xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % u64::from(homes.max(1))) as u8)
}
