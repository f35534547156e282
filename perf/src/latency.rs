//! Latency recording into an HDR histogram, and its summary.
//!
//! Runs on a worker thread, once per message. Messages of one batch often have the same latency to
//! the nanosecond (same intended time, same read), so equal neighbours are counted first and
//! recorded together: that keeps the recorder under a nanosecond a message in a flood.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency told apart, nanoseconds: 10 minutes. Longer ones count as this.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// The finest unit told apart, nanoseconds.
const LATENCY_NS_UNIT: u64 = 64;

/// Records latencies of one worker.
#[derive(Debug)]
pub(crate) struct Recorder {
    histogram: Histogram<u64>,
    held_ns: u64,
    held_count: u64,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        #[expect(
            clippy::expect_used,
            reason = "constant bounds, covered by every test here"
        )]
        let histogram = Histogram::new_with_bounds(LATENCY_NS_UNIT, LATENCY_NS_MAX, 3)
            .expect("constant bounds are valid");
        Self {
            histogram,
            held_ns: 0,
            held_count: 0,
        }
    }

    /// Counts one latency in nanoseconds.
    pub(crate) fn record(&mut self, latency_ns: u64) {
        if latency_ns != self.held_ns {
            self.settle();
            self.held_ns = latency_ns;
        }
        self.held_count += 1;
    }

    /// Adds all latencies of another recorder.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.settle();
        other.settle();
        // Invariant: both have the same bounds, so adding cannot fail.
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok(), "histograms of different bounds");
    }

    /// What was recorded, in microseconds; `None` when nothing was.
    pub(crate) fn summary(mut self) -> Option<LatencySummary> {
        self.settle();
        let histogram = &self.histogram;
        if histogram.is_empty() {
            return None;
        }
        let quantile = |q: f64| micros(histogram.value_at_quantile(q));
        Some(LatencySummary {
            count: histogram.len(),
            mean_us: histogram.mean() / 1_000.0,
            min_us: micros(histogram.min()),
            p50_us: quantile(0.50),
            p90_us: quantile(0.90),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: micros(histogram.max()),
            percentiles: QUANTILES.map(|q| (q, quantile(q))).to_vec(),
            histogram: buckets(histogram),
        })
    }

    fn settle(&mut self) {
        if self.held_count > 0 {
            self.histogram
                .saturating_record_n(self.held_ns, self.held_count);
            self.held_count = 0;
        }
    }
}

/// A latency distribution, microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Latencies recorded.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Smallest.
    pub min_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Largest.
    pub max_us: f64,
    /// Quantiles (0 to 1) and their latencies, ascending.
    pub percentiles: Vec<(f64, f64)>,
    /// Upper ends of buckets and how many latencies are in each, ascending; empty ones left out
    /// at both ends.
    pub histogram: Vec<(f64, u64)>,
}

/// The quantiles of a curve.
const QUANTILES: [f64; 17] = [
    0.0, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999,
    0.99999, 1.0,
];
/// Where the buckets of a printed histogram begin, and how they grow.
const BUCKET_NS: u64 = 1_000;
const BUCKET_GROWTH: f64 = 1.25;

/// The histogram in logarithmic buckets.
fn buckets(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    histogram
        .iter_log(BUCKET_NS, BUCKET_GROWTH)
        .map(|step| {
            let count = step.count_since_last_iteration();
            (micros(step.value_iterated_to()), count)
        })
        .skip_while(|bucket| bucket.1 == 0)
        .collect()
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_close(value: f64, expected: f64) -> bool {
        (value - expected).abs() <= expected * 0.002 + 0.07
    }

    #[test]
    fn nothing_recorded_has_no_summary() {
        assert_eq!(Recorder::new().summary(), None);
    }

    #[test]
    fn quantiles_are_those_of_the_recorded_values() {
        let mut recorder = Recorder::new();
        for step in 1..=1_000_u64 {
            recorder.record(step * 1_000);
        }
        let summary = recorder.summary().unwrap();
        assert_eq!(summary.count, 1_000);
        assert!(is_close(summary.p50_us, 500.0), "{summary:?}");
        assert!(is_close(summary.p99_us, 990.0), "{summary:?}");
        assert!(is_close(summary.max_us, 1_000.0), "{summary:?}");
        assert!(is_close(summary.mean_us, 500.5), "{summary:?}");
    }

    #[test]
    fn runs_of_equal_values_and_other_recorders_all_count() {
        let mut left = Recorder::new();
        let mut right = Recorder::new();
        for _ in 0..90 {
            left.record(10_000);
        }
        for _ in 0..10 {
            right.record(80_000);
        }
        left.absorb(right);
        let summary = left.summary().unwrap();
        assert_eq!(summary.count, 100);
        assert!(is_close(summary.p90_us, 10.0), "{summary:?}");
        assert!(is_close(summary.p99_us, 80.0), "{summary:?}");
    }

    #[test]
    fn a_latency_past_the_bound_counts_as_the_bound() {
        let mut recorder = Recorder::new();
        recorder.record(u64::MAX);
        let summary = recorder.summary().unwrap();
        assert!(is_close(summary.max_us, 600_000_000.0), "{summary:?}");
    }
}
