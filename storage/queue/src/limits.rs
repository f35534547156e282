//! Every bound of the index, with its arithmetic.

/// Bytes of a page of a run: one read of the device.
pub const PAGE_BYTES: usize = 4096;

/// Entries of one block at most: 128 entries of at most 12 bytes fit an empty page.
pub const BLOCK_ENTRIES_MAX: usize = 128;

/// Entries of a memtable from which it is frozen by default. At worst (every entry alone in its
/// queue) each costs 64 bytes of chunk, 32 of slot and 32 of table: 128 MiB.
pub const MEMTABLE_ENTRIES_MAX: usize = 1 << 20;

/// Bytes of log that a memtable covers from its first entry at most; bounds the replay.
pub const MEMTABLE_LOG_BYTES_MAX: u64 = 1 << 30;

/// Frozen memtables from which the index calls itself full.
pub const FROZEN_MAX: usize = 4;

/// Runs of one index at most: what fits a slot of the manifest, rounded down. At the default
/// memtable that is 10^9 entries between two starts, which join runs.
pub const RUNS_MAX: usize = 1024;

/// Runs from which a start joins adjacent ones by default.
pub const MERGE_FROM_RUNS: usize = 16;

/// Entries of a joined run at most: about 100 MB, half a second to write. A run with half of them
/// is never joined again, so an entry is rewritten a few times at most.
pub const MERGE_ENTRIES_MAX: u64 = 16 << 20;

/// Runs that are worth joining at least.
pub const MERGE_RUNS_MIN: usize = 4;

/// Runs that are joined at once at most; each needs about 0.5 MB meanwhile.
pub const MERGE_RUNS_MAX: usize = 64;

/// Pages in the cache by default: 16 MiB.
pub const CACHE_PAGES: usize = 4096;

/// Pages in the cache at least: a look-up by queue offset may need one page of each of some runs.
pub const CACHE_PAGES_MIN: usize = 64;

/// Bytes that one step of a flush packs and writes: about 10,000 entries, 1 to 3 ms.
pub const FLUSH_STEP_BYTES: usize = 64 << 10;

/// Bytes that one read at start-up brings.
pub const OPEN_READ_BYTES: usize = 1 << 20;

/// Entries that one look-up returns at most, whatever was asked for.
pub const READ_ENTRIES_MAX: usize = 4096;
