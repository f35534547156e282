//! Every bound of the log, with its arithmetic.

/// Bytes of the header block of a segment; the first frame follows it.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 4096;

/// Size of the first segment by default; each further one is twice as large, up to the maximum.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 16 << 20;

/// Size of the largest segments by default, and the limit for all but those that are made for one
/// large record.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// Bytes of one record at most: a packet of MQTT's largest size, 256 MiB, and what belongs to it.
pub const RECORD_BYTES_MAX: usize = 257 << 20;

/// Size of a segment that was made for the largest record: two blocks hold all headers.
pub(crate) const SEGMENT_BYTES_LIMIT: u64 = RECORD_BYTES_MAX as u64 + 2 * SEGMENT_HEADER_BYTES;

const _: () = assert!(SEGMENT_BYTES_MAX < SEGMENT_BYTES_LIMIT);

/// The highest base of a segment: far above what any disk holds (4 EiB), and low enough that no sum
/// of offsets overflows.
pub(crate) const BASE_MAX: u64 = 1 << 62;

/// The smallest segment that makes sense: a header block, and frames of a quarter segment.
pub(crate) const SEGMENT_BYTES_LEAST: u64 = 16 << 10;

/// Queues that one record can be in. More: the caller appends another record.
pub const RECORD_QUEUES_MAX: usize = 4096;

/// Bytes of frame after which a new one is begun, so that one write stays short (about 0.5 ms).
pub(crate) const FRAME_BYTES_TARGET: usize = 1 << 20;

/// A group commit of at least this many bytes is filled up to a whole block, so that the next one
/// rewrites nothing: at most 4095 of 32768 bytes (12 %) are wasted. A smaller one is not: its last
/// block is written again with the next group.
pub(crate) const PAD_FROM_BYTES: usize = 32 << 10;

/// Bytes appended and not yet durable above which [`is_full`](crate::Log::is_full) says so.
pub(crate) const UNSYNCED_BYTES_MAX: u64 = 32 << 20;

/// Bytes appended and not yet durable above which the log panics: the caller did not listen to
/// `is_full`, and recovery relies on the bound.
///
/// Bytes are counted as offsets, with the unused ends of segments, so a packet of the largest size
/// behind almost [`UNSYNCED_BYTES_MAX`] takes about half of it.
pub(crate) const UNSYNCED_BYTES_HARD: u64 = 1 << 30;

const _: () = assert!(UNSYNCED_BYTES_MAX + 2 * SEGMENT_BYTES_LIMIT < UNSYNCED_BYTES_HARD * 3 / 4);

/// Distance from the end of the last segment on disk to the first one after a recovery. It is
/// above every offset that could have been assigned before the crash: a record is appended while
/// less than [`UNSYNCED_BYTES_HARD`] is not durable, leaves at most the rest of a segment unused,
/// and ends in the next one.
pub(crate) const RECOVERY_GAP_BYTES: u64 = 2 << 30;

const _: () = assert!(UNSYNCED_BYTES_HARD + 2 * SEGMENT_BYTES_LIMIT < RECOVERY_GAP_BYTES);

/// Bytes of committed frames kept in memory by default.
pub(crate) const TAIL_BYTES_MAX: usize = 32 << 20;

/// Bytes of chunks read back from disk kept in memory by default.
pub(crate) const CACHE_BYTES_MAX: usize = 16 << 20;

/// Bytes of one chunk of the cache.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Bytes that one read from disk brings at most, unless it brings one record that is larger.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;

/// Bytes that a scan reads at once.
pub(crate) const SCAN_BYTES: usize = 256 << 10;

/// Bytes of zeroes that one step of preparing a segment writes.
pub(crate) const FILL_BYTES: usize = 256 << 10;

/// Milliseconds without an append after which a marker frame is due.
pub(crate) const MARKER_DELAY_MS: u64 = 100;
