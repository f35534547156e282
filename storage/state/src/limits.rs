//! Every bound of the state store, with its arithmetic.

/// Bytes of changes that wait in the overlay before [`is_full`](crate::StateStore::is_full) says
/// so. A shard applies well under 1 KiB per session event, so this is some 100,000 events that the
/// database has not taken yet.
pub const OVERLAY_BYTES_MAX: usize = 64 << 20;

/// What one pending change costs in the overlay besides its bytes in the section: an entry of a
/// B-tree with two shared slices, at least half full.
pub const CHANGE_BYTES: usize = 192;

/// What one pending section costs besides its bytes: its place in the queue and the allocation.
pub const SECTION_BYTES: usize = 96;

/// Durable changes that are worth a transaction without being asked for: copy-on-write writes
/// several 4 KiB pages per changed key, which only large batches share.
pub const BATCH_BYTES_MIN: usize = 1 << 20;

/// Durable changes that go into one transaction at most; keeps the memory of a transaction, and
/// the time until the overlay shrinks, bounded.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Bytes of log without a single change after which the applied offset is stored anyway, so that
/// a restart replays no more than about this.
pub const APPLIED_LAG_BYTES: u64 = 256 << 20;

/// Memory that redb may use for pages.
pub const CACHE_BYTES: usize = 32 << 20;

/// A database below this is never compacted.
pub const COMPACT_BYTES_MIN: u64 = 64 << 20;

/// Bytes of new pages that one change of a key takes at most: the path to it, four pages long.
pub const PATH_BYTES: u64 = 4 * 4096;

/// Bytes of new pages that a transaction takes besides: its own tables and redb's lists of pages.
pub const TRANSACTION_BYTES: u64 = 256 << 10;
