//! `simulate storage`: a range of seeds, on all cores.

use std::io::{self, Write};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread::{available_parallelism, scope};

use super::{Failure, Options, Summary, run_seed};

/// Seeds between two progress lines.
const PROGRESS: u64 = 500;

const USAGE: &str = "usage: simulate storage (--seeds A..B | --seed N) [--trace] [--lives N] \
    [--steps N] [--ignore-syncs] [--stop]";

struct Arguments {
    from: u64,
    to: u64,
    /// No seed is begun after one has failed.
    stops: bool,
    options: Options,
}

/// Runs what the words behind `simulate storage` say. True: all seeds passed.
///
/// # Errors
/// When the output fails.
pub fn command(words: impl Iterator<Item = String>, out: &mut impl Write) -> io::Result<bool> {
    match parse(words) {
        Ok(arguments) => run(&arguments, out),
        Err(reason) => writeln!(out, "{reason}\n{USAGE}").map(|()| false),
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        from: 0,
        to: 100,
        stops: false,
        options: Options::default(),
    };
    while let Some(word) = words.next() {
        let options = &mut arguments.options;
        match word.as_str() {
            "--trace" => options.keeps_trace = true,
            "--stop" => arguments.stops = true,
            // Runs of the storage are short; nothing is shrunk.
            "--no-shrink" => {}
            "--ignore-syncs" => options.ignores_syncs = true,
            "--lives" => options.lives = number(words.next())?,
            "--steps" => options.steps = number(words.next())?,
            "--seed" => {
                arguments.from = number(words.next())?;
                arguments.to = arguments.from + 1;
            }
            "--seeds" => {
                let range = words.next().unwrap_or_default();
                let (from, to) = range.split_once("..").ok_or("--seeds takes A..B")?;
                arguments.from = number(Some(from.to_owned()))?;
                arguments.to = number(Some(to.to_owned()))?;
            }
            other => return Err(format!("unknown word: {other}")),
        }
    }
    Ok(arguments)
}

fn number<N: std::str::FromStr>(word: Option<String>) -> Result<N, String> {
    let word = word.ok_or("a number is missing")?;
    word.parse()
        .map_err(|_| format!("not a number that fits: {word}"))
}

/// What became of the seeds so far.
#[derive(Default)]
struct Outcome {
    passed: u64,
    failed: u64,
    recoveries: u64,
    records: u64,
    damages: u64,
}

fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let (next, end) = (AtomicU64::new(arguments.from), AtomicU64::new(arguments.to));
    let threads = available_parallelism().map_or(1, NonZero::get);
    scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..threads {
            let (sender, next, end) = (sender.clone(), &next, &end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= end.load(Relaxed) {
                        return;
                    }
                    let result = run_seed(seed, arguments.options);
                    if arguments.stops && result.is_err() {
                        end.fetch_min(seed, Relaxed);
                    }
                    // An error: nobody listens any more.
                    if sender.send(Box::new(result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut outcome = Outcome::default();
        for result in results {
            outcome.add(*result, out)?;
        }
        let Outcome { passed, failed, .. } = outcome;
        writeln!(out, "{passed} seeds passed, {failed} failed")?;
        Ok(failed == 0)
    })
}

impl Outcome {
    fn add(&mut self, result: Result<Summary, Failure>, out: &mut impl Write) -> io::Result<()> {
        let trace = match &result {
            Ok(summary) => {
                self.passed += 1;
                self.recoveries += summary.recoveries;
                self.records += summary.records;
                self.damages += summary.damages;
                &summary.trace
            }
            Err(failure) => {
                self.failed += 1;
                &failure.trace
            }
        };
        for line in trace {
            writeln!(out, "{line}")?;
        }
        if let Err(failure) = &result {
            writeln!(out, "{failure}")?;
        }
        let Self {
            passed,
            failed,
            recoveries,
            records,
            damages,
        } = self;
        let done = *passed + *failed;
        if done.is_multiple_of(PROGRESS) {
            writeln!(
                out,
                "{done} seeds: {passed} passed, {failed} failed, {recoveries} recoveries, \
                 {records} records, {damages} damages"
            )?;
        }
        Ok(())
    }
}
