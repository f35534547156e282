//! A run that failed, made small: the shortest prefix and the fewest clients that still fail in the
//! same way.
//!
//! What is cut off decides nothing that is left (see `streams`), so most of a run can go. The
//! search is a fixed order of runs, so the same failure always shrinks to the same run.

use std::fmt;
use std::time::{Duration, Instant};

use super::{Failure, Options, run_seed};

/// Runs that are tried for one failure, at most.
const RUNS_MAX: u32 = 400;
/// No run is begun later than this. One run takes some ten milliseconds; one that hangs takes up to
/// a second.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Prefixes that one round tries, evenly spaced.
const GRID: u64 = 12;

/// A failure made small.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shrunk {
    /// What is left of it. Its options repeat it.
    pub failure: Failure,
    /// Runs that this took.
    pub runs: u32,
}

impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            seed,
            options,
            reason,
            ..
        } = &self.failure;
        writeln!(
            f,
            "seed {seed} shrunk to {} steps and {} clients by {} runs: {reason}",
            options.steps,
            options.present(),
            self.runs
        )?;
        write!(
            f,
            "  repeat it: tests/simulate node --seed {seed}{options} --trace"
        )
    }
}

/// Cuts a failed run to a short prefix and few clients, within 400 runs of it and within about a
/// minute. What is left fails with the same kind of failure.
#[must_use]
pub fn shrink(failure: &Failure) -> Shrunk {
    let mut search = Search {
        kind: failure.kind().to_owned(),
        best: failure.clone(),
        runs: 0,
        begin: Instant::now(),
    };
    search.best.trace.clear();
    search.best.options.keeps_trace = false;
    loop {
        let before = search.best.options;
        search.drop_clients();
        search.cut_steps();
        if search.best.options == before || search.is_over() {
            break;
        }
    }
    let Search { best, runs, .. } = search;
    Shrunk {
        failure: best,
        runs,
    }
}

struct Search {
    kind: String,
    best: Failure,
    runs: u32,
    begin: Instant,
}

impl Search {
    fn is_over(&self) -> bool {
        self.runs >= RUNS_MAX || self.begin.elapsed() >= TIME_MAX
    }

    /// Whether a run fails in the same way; if so, it is the best one so far.
    fn fails(&mut self, options: Options) -> bool {
        if self.is_over() {
            return false;
        }
        self.runs += 1;
        let Err(failure) = run_seed(self.best.seed, options) else {
            return false;
        };
        let is_same = failure.kind() == self.kind;
        if is_same {
            self.best = failure;
        }
        is_same
    }

    /// Leaves out one client after the other.
    fn drop_clients(&mut self) {
        let options = self.best.options;
        for client in (0..options.clients).filter(|client| options.has(*client)) {
            let fewer = self.best.options.without(client);
            if fewer.present() > 0 {
                self.fails(fewer);
            }
        }
    }

    /// Finds a prefix that fails when the one that is a step shorter does not. Longer ones may pass
    /// again, so it looks at evenly spaced ones, shortest first, rather than at halves.
    fn cut_steps(&mut self) {
        let reached = self.best.options.steps.min(self.best.step);
        if reached < self.best.options.steps {
            self.fails(self.best.options.with_steps(reached));
        }
        if self.best.options.steps == 0 || self.fails(self.best.options.with_steps(0)) {
            return;
        }
        let (mut passes, mut fails) = (0, self.best.options.steps);
        while passes + 1 < fails && !self.is_over() {
            let width = (fails - passes).div_ceil(GRID);
            let mut prefix = passes + width;
            while prefix < fails && !self.fails(self.best.options.with_steps(prefix)) {
                passes = prefix;
                prefix += width;
            }
            fails = self.best.options.steps;
        }
    }
}
