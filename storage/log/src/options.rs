//! What a log can be told: when data counts as durable, and how much memory and disk it takes.

use crate::{LogOffset, limits};

/// When [`Log::durable`](crate::Log::durable) passes a record, so that it may be acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After the sync that covers it: survives a loss of power.
    #[default]
    Commit,
    /// After the write; a sync follows within so many milliseconds. Survives the end of the
    /// process, and a loss of power takes at most that much.
    Interval {
        /// Milliseconds between syncs.
        ms: u32,
    },
    /// After the write; a sync follows every 500 ms and at the end of a segment.
    None,
}

impl Durability {
    /// Milliseconds between syncs, `None` when every write is synced.
    pub(crate) fn sync_interval_ms(self) -> Option<u64> {
        match self {
            Self::Commit => None,
            Self::Interval { ms } => Some(u64::from(ms)),
            Self::None => Some(500),
        }
    }
}

/// The settings of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// When data counts as durable.
    pub durability: Durability,
    /// Bytes of the first segment, and of the first one after a recovery: a multiple of 4096, at
    /// least 16 KiB.
    pub segment_bytes_min: u64,
    /// Segments double in size up to this. A record that one has no room for gets a segment of its
    /// own size.
    pub segment_bytes_max: u64,
    /// Bytes appended and not yet durable above which the log calls itself full.
    pub unsynced_bytes_max: u64,
    /// Bytes of committed frames kept in memory for readers that keep up.
    pub tail_bytes_max: usize,
    /// Bytes of chunks read back from disk kept in memory, besides one large record.
    pub cache_bytes_max: usize,
    /// Bytes of the file system that preparing a segment leaves free: for the index and the state
    /// store.
    pub free_bytes_min: u64,
    /// Never rewrite a block that holds durable bytes: every group is filled up to 4096 bytes.
    pub pad_tail: bool,
    /// Randomness for the nonces of segments.
    pub seed: u64,
    /// The epoch that is stored in every frame.
    pub epoch: u32,
    /// Where records are known to end that were durable: a log that ends below has lost them, and
    /// is refused.
    pub known_end: LogOffset,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Commit,
            segment_bytes_min: limits::SEGMENT_BYTES_MIN,
            segment_bytes_max: limits::SEGMENT_BYTES_MAX,
            unsynced_bytes_max: limits::UNSYNCED_BYTES_MAX,
            tail_bytes_max: limits::TAIL_BYTES_MAX,
            cache_bytes_max: limits::CACHE_BYTES_MAX,
            free_bytes_min: 0,
            pad_tail: false,
            seed: 0,
            epoch: 0,
            known_end: LogOffset(0),
        }
    }
}

impl LogOptions {
    /// Bytes of a record for which no segment is ever made, as [`NewRecord::encoded_len`] counts
    /// them: a quarter of the smallest. A larger one, up to
    /// [`RECORD_BYTES_MAX`](crate::RECORD_BYTES_MAX), may leave more of a segment unused.
    ///
    /// [`NewRecord::encoded_len`]: crate::NewRecord::encoded_len
    #[must_use]
    pub const fn usual_record_bytes(&self) -> usize {
        crate::address::index(self.segment_bytes_min / 4)
    }

    pub(crate) fn check(&self) {
        let (min, max) = (self.segment_bytes_min, self.segment_bytes_max);
        assert!(
            min >= limits::SEGMENT_BYTES_LEAST
                && min <= max
                && max <= limits::SEGMENT_BYTES_MAX
                && min.is_multiple_of(storage_io::ALIGN as u64)
                && max.is_multiple_of(storage_io::ALIGN as u64),
            "segments of {min} to {max} bytes: allowed are multiples of 4096 from {} to {}",
            limits::SEGMENT_BYTES_LEAST,
            limits::SEGMENT_BYTES_MAX
        );
        assert!(
            self.unsynced_bytes_max < limits::UNSYNCED_BYTES_HARD / 2,
            "{} bytes may be unsynced, {} are the limit",
            self.unsynced_bytes_max,
            limits::UNSYNCED_BYTES_HARD / 2
        );
    }
}
