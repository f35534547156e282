//! What one store was measured to need.

use serde::{Deserialize, Serialize};

use super::gauge::Spent;
use crate::latency::Recorder;

/// Half and ninety-nine hundredths of a distribution, microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Quantiles {
    pub(crate) fn of(recorder: Recorder) -> Self {
        let summary = recorder.summary();
        summary.map_or_else(Self::default, |summary| Self {
            p50_us: summary.p50_us,
            p99_us: summary.p99_us,
            max_us: summary.max_us,
        })
    }
}

/// The figures of one store. What was not measured is absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) entries: u64,
    pub(crate) queues: u64,
    /// Appending, flushing and merging of all entries.
    pub(crate) ingest: Spent,
    /// One batch of entries, while flushes and merges go on beside it.
    pub(crate) batch: Quantiles,
    /// CPU time of one batch with the steps of flushes and merges in its turn, where they share a
    /// thread.
    pub(crate) turn: Option<Quantiles>,
    /// Bytes of all files in the end.
    pub(crate) disk_bytes: u64,
    /// Resident bytes above what the process had before, in the end and at most.
    pub(crate) resident_bytes: u64,
    pub(crate) resident_peak_bytes: u64,
    /// Reading 32 entries from one of the last 100,000 that were written.
    pub(crate) tail: Quantiles,
    /// Reading 32 entries anywhere, with hardly a cache.
    pub(crate) cold: Quantiles,
    pub(crate) cold_per_s: f64,
    pub(crate) cold_bytes: f64,
    /// Seconds from open to the first read.
    pub(crate) restart_s: f64,
    /// Seconds, and bytes written, to be rid of the older half.
    pub(crate) clean: Option<Spent>,
    /// Bytes of all files after that, by bytes before.
    pub(crate) clean_disk_ratio: f64,
}

impl Figures {
    pub(crate) fn per_cpu_s(&self) -> f64 {
        self.entries as f64 / self.ingest.cpu_s
    }

    pub(crate) fn written_per_entry(&self) -> f64 {
        self.ingest.written as f64 / self.entries as f64
    }

    pub(crate) fn disk_per_entry(&self) -> f64 {
        self.disk_bytes as f64 / self.entries as f64
    }
}
