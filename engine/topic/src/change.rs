//! What goes into the routing table and what comes out.

use std::sync::Arc;

use crate::ShardSet;

/// The number of a filter in the routing table. Assigned when the filter enters the table, never
/// used again within a boot: a filter that leaves and comes back gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub u32);

/// Sets one shard's two bits of one filter. The filter's entry appears with its first bit and
/// disappears with its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// A valid filter without a share prefix: [`crate::Filter::text`]. The table keeps this very
    /// allocation when the filter is new to it.
    pub filter: Arc<str>,
    /// The shard whose bits are set; below [`crate::SHARDS_MAX`].
    pub shard: u8,
    /// Whether the shard has online subscribers of the filter.
    pub online: bool,
    /// Whether the shard needs the filter's queue.
    pub queue: bool,
}

/// One filter of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterEntry {
    /// The filter's number.
    pub id: FilterId,
    /// The filter.
    pub text: Arc<str>,
    /// Shards with online subscribers.
    pub online: ShardSet,
    /// Shards that need the filter's queue.
    pub queue: ShardSet,
}

/// One filter that a topic matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The filter's number.
    pub filter: FilterId,
    /// Shards with online subscribers.
    pub online: ShardSet,
    /// Shards that need the filter's queue.
    pub queue: ShardSet,
    /// The filter.
    pub text: Arc<str>,
}
