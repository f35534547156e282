//! What a shard counts: plain numbers, published by whoever drives it.

/// Whether a number only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $kind:ident $name:ident,)+) => {
        /// One shard's counters and gauges.
        #[derive(Clone, Default, Debug)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: u64,)+
        }

        impl Counters {
            /// Calls `visit` with every name, help text, kind and value, always in the same order.
            pub fn each(&self, mut visit: impl FnMut(&'static str, &'static str, Kind, u64)) {
                $({
                    let help = concat!($($help),+).trim_ascii();
                    visit(stringify!($name), help, Kind::$kind, self.$name);
                })+
            }
        }
    };
}

counters! {
    /// Client connections.
    Gauge connections,
    /// Sessions, connected or not.
    Gauge sessions,
    /// Sessions that are away and not in memory.
    Gauge sessions_parked,
    /// Subscriptions of all sessions.
    Gauge subscriptions,
    /// Shared groups that this shard owns.
    Gauge shared_groups,
    /// Retained messages that this shard owns.
    Gauge retained,
    /// Topics whose last retained publication this shard has in memory.
    Gauge retained_cached,
    /// Publications that wait until they are due.
    Gauge delayed,
    /// Filters of this shard to which a session has an exclusive subscription, or asks for one.
    Gauge exclusive,
    /// Publications that wait to be durable.
    Gauge pending,
    /// Answers that wait for their record to be durable.
    Gauge waits,
    /// Reads of logs under way.
    Gauge reads,
    /// SUBSCRIBE packets and sessions that wait until every shard routes by them.
    Gauge barriers,
    /// Timers.
    Gauge timers,
    /// Routing version.
    Gauge routing_version,
    /// Sessions that have left memory.
    Counter parks,
    /// Sessions that were read back.
    Counter unparks,
    /// CONNECT packets accepted.
    Counter connects,
    /// Connections closed for a protocol error or a bound.
    Counter closed_for_error,
    /// Connections taken over by a newer one with the same client id.
    Counter takeovers,
    /// Connections closed by an administrator.
    Counter kicked,
    /// CONNECT packets answered with another server.
    Counter redirected,
    /// Connections closed for keep-alive.
    Counter keep_alive_timeouts,
    /// PUBLISH packets received at QoS 0.
    Counter received_qos0,
    /// PUBLISH packets received at QoS 1.
    Counter received_qos1,
    /// PUBLISH packets received at QoS 2.
    Counter received_qos2,
    /// PUBLISH packets sent at QoS 0.
    Counter sent_qos0,
    /// PUBLISH packets sent at QoS 1.
    Counter sent_qos1,
    /// PUBLISH packets sent at QoS 2.
    Counter sent_qos2,
    /// PUBLISH packets sent again.
    Counter sent_again,
    /// Deliveries dropped because the granted QoS is 0 and the client is slow.
    Counter dropped_qos0,
    /// Deliveries dropped because they were too large for the client.
    Counter dropped_too_large,
    /// Deliveries dropped because the message had expired.
    Counter dropped_expired,
    /// Deliveries dropped because their record could not be read any more.
    Counter dropped_unreadable,
    /// Publications refused because a bound was reached.
    Counter refused,
    /// Publications, subscriptions and wills that the rules deny.
    Counter denied,
    /// Topics, filters and wills that became others.
    Counter rewritten,
    /// Topics, filters and wills for which a rule of rewriting has no valid name.
    Counter rewrites_refused,
    /// Subscriptions that every client gets and one did not.
    Counter auto_subscriptions_refused,
    /// Times that a connection stopped in front of a publication because the store had no room.
    Counter held,
    /// Lanes that collapsed because a peer's mesh ring was full.
    Counter lane_collapses,
    /// QoS 0 events dropped by collapsed lanes.
    Counter lane_dropped_qos0,
    /// Reads started for sessions that catch up.
    Counter catch_up_reads,
    /// Reads for sessions that catch up of which only a part was wanted.
    Counter reads_cancelled,
    /// Publications taken from the ring of recent events by sessions that catch up.
    Counter ring_deliveries,
    /// Times that retention took records which a durable session had not looked at.
    Counter retention_cuts,
    /// Bytes of logs that retention took before a durable session looked at them.
    Counter retention_cut_bytes,
    /// Retained messages removed because they had expired.
    Counter retained_expired,
    /// Deletes of retained messages that could be forgotten.
    Counter tombstones_freed,
    /// Records given to members of shared groups, again ones too.
    Counter shared_given,
    /// Records that members of shared groups gave back.
    Counter shared_returned,
    /// Wills published.
    Counter wills,
    /// Delayed publications published when they were due.
    Counter delayed_published,
    /// Exclusive subscriptions refused because another session has one to the same filter.
    Counter exclusive_refused,
    /// Exclusive subscriptions refused because there are as many as there may be.
    Counter exclusive_full,
    /// SUBSCRIBE packets that began in the past.
    Counter replays,
}
