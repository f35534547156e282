//! What a run of `storage` does, and how it tells how far it is.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use crate::BenchError;
use crate::cli::StorageArgs;

/// A run, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) entries: u64,
    pub(crate) queues: usize,
    pub(crate) batch: usize,
    pub(crate) is_zipf: bool,
    /// Keys as RocketMQ writes them, with the topic, rather than numbers.
    #[cfg(feature = "peers")]
    pub(crate) has_topic_keys: bool,
    pub(crate) is_quiet: bool,
    /// Where the files go; removed at the end.
    pub(crate) directory: PathBuf,
}

impl Plan {
    pub(crate) fn parse(args: &StorageArgs) -> Result<Self, BenchError> {
        let number = |value: u64| usize::try_from(value).map_err(failed);
        Ok(Self {
            entries: args.entries,
            queues: number(args.queues)?,
            batch: number(args.batch)?,
            is_zipf: args.zipf,
            #[cfg(feature = "peers")]
            has_topic_keys: args.topic_keys,
            is_quiet: args.quiet,
            directory: args
                .directory
                .join(format!("corelane-storage-{}", std::process::id())),
        })
    }
}

/// An error of something measured, in its own words.
pub(crate) fn failed(error: impl fmt::Display) -> BenchError {
    BenchError::Measured(error.to_string())
}

/// A line about every second on stderr.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    entries: u64,
    is_quiet: bool,
    begun: Instant,
    told: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, plan: &Plan) -> Self {
        let now = Instant::now();
        Self {
            what,
            entries: plan.entries,
            is_quiet: plan.is_quiet,
            begun: now,
            told: now,
        }
    }

    pub(crate) fn tell(&mut self, made: u64) {
        if self.told.elapsed().as_millis() >= 1000 || made == self.entries {
            self.told = Instant::now();
            let seconds = self.begun.elapsed().as_secs();
            let share = made as f64 * 100.0 / self.entries.max(1) as f64;
            self.say(&format!(
                "{share:.0} % of {} entries, {seconds} s",
                self.entries
            ));
        }
    }

    pub(crate) fn say(&self, text: &str) {
        if !self.is_quiet {
            // Nobody is left to tell when stderr is closed.
            writeln!(std::io::stderr().lock(), "{}: {text}", self.what).ok();
        }
    }
}
