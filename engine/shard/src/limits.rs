//! What the clients of a node may do.

/// Bytes of a CONNECT, at most: who has not said who they are takes no more memory.
pub const CONNECT_BYTES_MAX: u32 = 1024 * 1024;

/// Bounds of clients. Each has a default and a key in the configuration; what MQTT has words for is
/// told to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientLimits {
    /// Bytes of a packet. Told as Maximum Packet Size; a larger one closes with 0x95.
    pub packet_bytes: u32,
    /// Bytes of a client id. A longer one is refused with 0x85.
    pub client_id_bytes: u16,
    /// Bytes of a topic name or filter. A longer name closes with 0x90, a longer filter is refused
    /// with 0x8F.
    pub topic_bytes: u16,
    /// Levels of a topic name or filter; the same answers.
    pub topic_levels: u16,
    /// Subscriptions of one session. One more is refused with 0x97.
    pub subscriptions: u32,
    /// QoS 1 and 2 deliveries in flight to one client, which may say less by Receive Maximum.
    pub inflight: u16,
    /// QoS 1 and 2 publications of one client that are not acknowledged. Told as Receive Maximum;
    /// one more closes with 0x93 (MQTT 5).
    pub receive_maximum: u16,
    /// Sessions of the node, the same share for each shard. One more is refused with 0x97.
    pub sessions: u32,
    /// Retained messages of the node, the same share for each shard. A publication of one more is
    /// delivered and not retained, and counted.
    pub retained: u32,
    /// Delayed publications of the node, the same share for each shard. One more is refused with
    /// 0x97.
    pub delayed: u32,
    /// Exclusive subscriptions of the node, the same share for each shard; 0: none. One more is
    /// refused with 0x97.
    pub exclusive: u32,
    /// Session expiry interval, seconds; `u32::MAX`: no bound. A client that asks for more is told
    /// what it has.
    pub session_expiry_s: u32,
    /// Seconds that a session is away before it leaves memory.
    pub park_after_s: u32,
    /// Seconds from a connection to its whole CONNECT; then it is closed.
    pub connect_timeout_s: u16,
    /// CONNECTs in a second that the node takes, the same share for each shard; 0: no bound. One
    /// more is refused with 0x9F.
    pub connects_per_s: u32,
    /// PUBLISH packets in a second that are taken from one client; 0: no bound. More of them are
    /// not read until their time has come.
    pub publishes_per_s: u32,
    /// Bytes of them; the same.
    pub publish_bytes_per_s: u64,
}

/// Why a connection's next packet is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// It is taken.
    No,
    /// It waits until [`crate::Shard::takes_publications`].
    Room,
    /// It waits for its client's rate: until then, monotonic milliseconds.
    Until(u64),
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            packet_bytes: 1024 * 1024,
            client_id_bytes: u16::MAX,
            topic_bytes: crate::NAME_BYTES_MAX,
            topic_levels: 128,
            subscriptions: 10_000,
            inflight: 64,
            receive_maximum: 256,
            sessions: 4_000_000,
            retained: 1_000_000,
            delayed: 1_000_000,
            exclusive: 100_000,
            session_expiry_s: u32::MAX,
            park_after_s: 10,
            connect_timeout_s: 10,
            connects_per_s: 0,
            publishes_per_s: 0,
            publish_bytes_per_s: 0,
        }
    }
}

impl ClientLimits {
    /// One of so many shards' share of a number of the node.
    #[must_use]
    pub fn share(all: u32, shards: u8) -> u32 {
        all.div_ceil(u32::from(shards.max(1)))
    }
}
