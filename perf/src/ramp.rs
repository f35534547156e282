//! Finds the rate at which a broker uses a given share of a core, and measures there.
//!
//! The CPU that a message costs falls as messages come in batches, so the rate is searched: short
//! trials, each scaled from the last one, between the highest rate that used too little and the
//! lowest that used too much or was not delivered.

use crate::error::BenchError;
use crate::report::{RampReport, RampTrial, Report};
use crate::settings::Settings;
use crate::staged;

/// Trials at most.
const TRIAL_COUNT_MAX: usize = 14;
/// How near the target a trial must be.
const TOLERANCE: f64 = 0.04;
/// How near each other two rates are that bound the one looked for.
const NARROW: f64 = 0.02;
/// Steps from one trial to the next at most.
const STEP_MAX: f64 = 8.0;
/// The share of what was due that must have been delivered for a rate to be held.
const DELIVERED_MIN: f64 = 0.95;
const TRIAL_NS: u64 = 2_000_000_000;
const TRIAL_WARM_UP_NS: u64 = 500_000_000;

/// Makes a run at the rate that uses `target` cores of the broker.
///
/// # Errors
/// `Options` without a broker to look at, otherwise those of a run.
pub(crate) fn run(settings: &Settings, target: f64) -> Result<Report, BenchError> {
    let mut search = Search::new(settings.rate().unwrap_or(1_000), target);
    let mut trials = Vec::new();
    let mut is_found = false;
    while !is_found && trials.len() < TRIAL_COUNT_MAX {
        let rate = search.rate;
        let report = staged::run_once(&settings.with_rate(rate, TRIAL_NS, TRIAL_WARM_UP_NS))?;
        let Some(server) = &report.server else {
            return Err(BenchError::Options(
                "--ramp-to needs --server-pid, the process whose CPU it looks at".to_owned(),
            ));
        };
        let cores = server.cores;
        let is_held = is_held(&report, rate);
        trials.push(RampTrial {
            rate,
            cores,
            is_held,
        });
        is_found = search.learn(cores, is_held);
    }
    if !is_found {
        search.settle();
    }
    let mut report = staged::run_once(&settings.at_rate(search.rate))?;
    report.ramp = Some(RampReport {
        target_cores: target,
        trials,
    });
    Ok(report)
}

/// Whether broker and generator kept up with a rate.
fn is_held(report: &Report, rate: u64) -> bool {
    let Some(messages) = &report.messages else {
        return false;
    };
    let fan_out = messages.expected as f64 / messages.sent.max(1) as f64;
    messages.unsent == 0
        && messages.sent_per_second >= rate as f64 * DELIVERED_MIN
        && messages.delivered_per_second >= rate as f64 * fan_out * DELIVERED_MIN
}

/// What is known of rates so far.
#[derive(Debug)]
struct Search {
    target: f64,
    rate: u64,
    too_low: u64,
    too_high: Option<u64>,
}

impl Search {
    fn new(rate: u64, target: f64) -> Self {
        Self {
            target,
            rate: rate.max(1),
            too_low: 0,
            too_high: None,
        }
    }

    /// Takes note of a trial and chooses the next rate; whether the search is over.
    fn learn(&mut self, cores: f64, is_held: bool) -> bool {
        let ratio = cores / self.target;
        if is_held && (ratio - 1.0).abs() <= TOLERANCE {
            return true;
        }
        if is_held && ratio < 1.0 {
            self.too_low = self.too_low.max(self.rate);
        } else {
            let highest = self.too_high.unwrap_or(u64::MAX);
            self.too_high = Some(highest.min(self.rate));
        }
        let wanted = if is_held {
            self.rate as f64 * (1.0 / ratio.max(1e-6)).clamp(1.0 / STEP_MAX, STEP_MAX)
        } else {
            self.rate as f64 / 2.0
        };
        let wanted = std::time::Duration::try_from_secs_f64(wanted)
            .map_or(u64::MAX, |wanted| wanted.as_secs());
        self.rate = match self.too_high {
            None => wanted.max(self.too_low + 1),
            Some(high) if wanted <= self.too_low || wanted >= high => {
                u64::midpoint(self.too_low, high)
            }
            Some(_) => wanted,
        }
        .max(1);
        let is_narrow = |high| high as f64 <= self.too_low as f64 * (1.0 + NARROW) + 1.0;
        let is_over = self.too_high.is_some_and(is_narrow);
        if is_over {
            self.settle();
        }
        is_over
    }

    /// Takes the highest rate that was held, when none uses what was asked for.
    fn settle(&mut self) {
        self.rate = self.too_low.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a broker whose use of cores is a function of the rate.
    fn found(start: u64, target: f64, cores: impl Fn(u64) -> f64, held_to: u64) -> (u64, usize) {
        let mut search = Search::new(start, target);
        for trial in 1..=TRIAL_COUNT_MAX {
            let rate = search.rate;
            if search.learn(cores(rate), rate <= held_to) {
                return (search.rate, trial);
            }
        }
        search.settle();
        (search.rate, TRIAL_COUNT_MAX)
    }

    #[test]
    fn the_rate_is_found_whatever_batching_does() {
        let batching = |rate: u64| (rate as f64 / 1_000_000.0).powf(0.6);
        for start in [1, 1_000, 50_000_000] {
            let (rate, _) = found(start, 0.75, batching, u64::MAX);
            assert!(
                (batching(rate) / 0.75 - 1.0).abs() < 0.05,
                "{start}: {rate}"
            );
        }
    }

    #[test]
    fn what_is_not_held_is_too_much() {
        let (rate, _) = found(1_000, 0.75, |rate| rate as f64 / 1e6, 300_000);
        assert!((280_000..=300_000).contains(&rate), "{rate}");
    }
}
