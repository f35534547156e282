//! How a run went over time: rates between looks at the counters, and latencies by the interval in
//! which a message was due.
//!
//! Latencies over time are counted in logarithmic buckets of a twelfth: exact enough for a plot,
//! 1.3 KiB an interval.

use serde::{Deserialize, Serialize};

use crate::assemble::Sample;

/// Intervals that a run is cut into at most.
const INTERVAL_COUNT: u64 = 100;
/// The shortest interval, nanoseconds.
const INTERVAL_NS_MIN: u64 = 100_000_000;
/// Buckets of one power of two.
const BUCKETS_PER_OCTAVE: u64 = 8;
/// Up to 2^40 ns, which is 18 minutes.
const BUCKET_COUNT: usize = 40 * 8;

/// The interval of a run of so many nanoseconds.
pub(crate) fn interval_ns(duration_ns: u64) -> u64 {
    (duration_ns / INTERVAL_COUNT).max(INTERVAL_NS_MIN)
}

/// A run over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Rates, oldest first.
    pub throughput: Vec<ThroughputTick>,
    /// Latencies, by when messages were due, oldest first; intervals without any are left out.
    pub latency: Vec<LatencyTick>,
}

/// Rates of one interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThroughputTick {
    /// Its end, seconds since the measured window began.
    pub at_s: f64,
    /// Messages sent per second.
    pub sent_per_second: f64,
    /// Different messages delivered per second.
    pub delivered_per_second: f64,
    /// Cores that the broker used.
    pub server_cores: Option<f64>,
}

/// Latencies of one interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyTick {
    /// Its end, seconds since the measured window began.
    pub at_s: f64,
    /// Messages.
    pub count: u64,
    /// Median, microseconds, within an eighth.
    pub p50_us: f64,
    /// 99th percentile, microseconds, within an eighth.
    pub p99_us: f64,
}

/// Latencies of one worker by interval.
#[derive(Debug, Default)]
pub(crate) struct LatencyRows {
    rows: Vec<Box<[u32]>>,
}

impl LatencyRows {
    /// Counts a latency of a message that was due so long after the start.
    pub(crate) fn record(&mut self, due_ns: u64, interval_ns: u64, latency_ns: u64) {
        let Ok(row) = usize::try_from(due_ns / interval_ns.max(1)) else {
            return;
        };
        // A message is only measured within the window, which ends with the last interval.
        let bound = usize::try_from(2 * INTERVAL_COUNT).unwrap_or(0);
        while self.rows.len() <= row.min(bound) {
            self.rows.push(vec![0; BUCKET_COUNT].into_boxed_slice());
        }
        let place = self
            .rows
            .get_mut(row)
            .and_then(|row| row.get_mut(bucket(latency_ns)));
        if let Some(count) = place {
            *count = count.saturating_add(1);
        }
    }

    /// Adds another worker's.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (row, theirs) in other.rows.into_iter().enumerate() {
            match self.rows.get_mut(row) {
                Some(ours) => {
                    for (count, more) in ours.iter_mut().zip(theirs) {
                        *count = count.saturating_add(more);
                    }
                }
                None => self.rows.push(theirs),
            }
        }
    }

    /// What is to be shown.
    pub(crate) fn ticks(&self, interval_ns: u64) -> Vec<LatencyTick> {
        let mut ticks = Vec::new();
        for (row, number) in self.rows.iter().zip(1..) {
            let count: u64 = row.iter().map(|count| u64::from(*count)).sum();
            if count > 0 {
                ticks.push(LatencyTick {
                    at_s: f64::from(number) * interval_ns as f64 / 1e9,
                    count,
                    p50_us: quantile_us(row, count.div_ceil(2)),
                    p99_us: quantile_us(row, (count * 99).div_ceil(100)),
                });
            }
        }
        ticks
    }
}

/// Rates between looks.
pub(crate) fn throughput(looks: &[Sample]) -> Vec<ThroughputTick> {
    let Some(first) = looks.first() else {
        return Vec::new();
    };
    looks
        .windows(2)
        .filter_map(|pair| {
            let [before, after] = pair else { return None };
            let ns = after.at_ns.checked_sub(before.at_ns).filter(|ns| *ns > 0)?;
            let seconds = ns as f64 / 1e9;
            let rate = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
            let used = before.server.zip(after.server);
            Some(ThroughputTick {
                at_s: after.at_ns.saturating_sub(first.at_ns) as f64 / 1e9,
                sent_per_second: rate(after.totals.sent, before.totals.sent),
                delivered_per_second: rate(after.totals.delivered, before.totals.delivered),
                server_cores: used
                    .map(|(a, b)| b.run_ns.saturating_sub(a.run_ns) as f64 / ns as f64),
            })
        })
        .collect()
}

/// The bucket of a latency: its power of two, and the next three bits.
fn bucket(ns: u64) -> usize {
    if ns < BUCKETS_PER_OCTAVE {
        return usize::try_from(ns).unwrap_or(0);
    }
    let octave = u64::from(ns.ilog2()) - 3;
    let place = (octave + 1) * BUCKETS_PER_OCTAVE + ((ns >> octave) & (BUCKETS_PER_OCTAVE - 1));
    usize::try_from(place)
        .unwrap_or(usize::MAX)
        .min(BUCKET_COUNT - 1)
}

/// The middle of a bucket, nanoseconds.
fn middle_ns(bucket: u64) -> f64 {
    if bucket < BUCKETS_PER_OCTAVE {
        return bucket as f64;
    }
    let octave = bucket / BUCKETS_PER_OCTAVE - 1;
    let low = (BUCKETS_PER_OCTAVE + bucket % BUCKETS_PER_OCTAVE) << octave;
    low as f64 + (1_u64 << octave) as f64 / 2.0
}

fn quantile_us(row: &[u32], wanted: u64) -> f64 {
    let mut seen = 0;
    for (count, bucket) in row.iter().zip(0_u64..) {
        seen += u64::from(*count);
        if seen >= wanted {
            return middle_ns(bucket) / 1_000.0;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_state::Totals;

    #[test]
    fn a_bucket_is_within_an_eighth_of_what_is_in_it() {
        let mut ns = 1_u64;
        let mut last = 0;
        while ns < 1 << 39 {
            let at = bucket(ns);
            assert!(at >= last, "{ns}");
            last = at;
            let middle = middle_ns(at as u64);
            assert!(
                (middle - ns as f64).abs() <= ns as f64 / 8.0 + 0.5,
                "{ns}: {middle}"
            );
            ns += ns / 5 + 1;
        }
        assert_eq!(bucket(u64::MAX), BUCKET_COUNT - 1);
    }

    #[test]
    fn rows_are_quantiles_of_their_interval_and_add_up() {
        let mut left = LatencyRows::default();
        let mut right = LatencyRows::default();
        for _ in 0..99 {
            left.record(50, 100, 10_000);
        }
        right.record(50, 100, 1_000_000);
        right.record(350, 100, 20_000);
        right.record(u64::MAX, 100, 1);
        left.absorb(right);
        let ticks = left.ticks(100);
        assert_eq!(
            ticks.iter().map(|tick| tick.count).collect::<Vec<_>>(),
            [100, 1]
        );
        assert!((ticks[0].p50_us - 10.0).abs() < 1.3 && (ticks[0].p99_us - 10.0).abs() < 1.3);
        assert!((ticks[1].p50_us - 20.0).abs() < 2.5, "{ticks:?}");
        assert!((ticks[1].at_s - 400e-9).abs() < 1e-12);
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let look = |at_ns, sent, delivered| Sample {
            at_ns,
            totals: Totals {
                sent,
                delivered,
                ..Totals::default()
            },
            server: None,
            generator: None,
        };
        let ticks = throughput(&[
            look(5, 0, 0),
            look(500_000_005, 10, 20),
            look(500_000_005, 1, 1),
        ]);
        assert_eq!(ticks.len(), 1);
        assert_eq!((ticks[0].at_s, ticks[0].sent_per_second), (0.5, 20.0));
        assert_eq!(ticks[0].delivered_per_second, 40.0);
        assert!(throughput(&[]).is_empty());
    }
}
