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

/// Runs of one index at most: what fits a slot of the manifest, rounded down. No memtable is
/// flushed while there are so many, only runs are joined; the index calls itself full meanwhile.
pub const RUNS_MAX: usize = 1024;

/// Runs from which a start joins adjacent ones by default.
pub const MERGE_FROM_RUNS: usize = 16;

/// Small runs from which adjacent ones are joined while the index is in use, by default: more than
/// a start leaves, so that it goes first, and few enough for look-ups, which ask the filter of
/// every run above their position.
pub const JOIN_FROM_RUNS: usize = 32;

/// Operations of joining that may go before a flush for each operation of the flush before. An
/// entry is rewritten once or twice, and each time read and written: so joining keeps up with any
/// number of flushes, and a memtable waits five times as long as its flush takes, at worst.
pub const JOIN_STEPS_PER_FLUSH_STEP: u64 = 4;

/// Entries of a joined run at most: about 160 MB, two seconds of work. A run with half of them
/// is not small: it is joined again only when three quarters of [`RUNS_MAX`] are reached, which
/// takes some 10^10 entries. So an entry is rewritten a few times at most, and nearly always once:
/// [`JOIN_FROM_RUNS`] whole memtables fit one run.
pub const MERGE_ENTRIES_MAX: u64 = 32 << 20;

/// Runs that are worth joining at least.
pub const MERGE_RUNS_MIN: usize = 4;

/// Runs that are joined at once at most; each needs about 0.1 MB meanwhile: 64 KiB of pages, and
/// the entries of one page unpacked.
pub const MERGE_RUNS_MAX: usize = 64;

/// Pages in the cache by default: 16 MiB.
pub const CACHE_PAGES: usize = 4096;

/// Pages in the cache at least: a look-up by queue offset may need one page of each of some runs.
pub const CACHE_PAGES_MIN: usize = 64;

/// Bytes that one step of a flush or a merge packs and writes: about 2,000 entries, some
/// 200 us.
pub const FLUSH_STEP_BYTES: usize = 12 << 10;

/// Bytes that one read at start-up brings.
pub const OPEN_READ_BYTES: usize = 1 << 20;

/// Entries that one look-up returns at most, whatever was asked for.
pub const READ_ENTRIES_MAX: usize = 4096;
