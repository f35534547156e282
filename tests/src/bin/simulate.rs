//! Runs the whole node under seeds: `simulate node --seeds A..B` or `simulate node --seed N
//! [--trace]`, with `--steps N`, `--clients N`, `--shards N`; `--stop` ends at the first failure.
//! `tests/simulate` builds and calls it.

use std::io::{self, Write};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::thread::{available_parallelism, scope};

use corelane_tests::simulation::{Failure, Options, Summary, run_seed};

/// Seeds between two progress lines.
const PROGRESS: u64 = 100;

struct Arguments {
    from: u64,
    to: u64,
    /// No seed is begun after one has failed.
    stops: bool,
    options: Options,
}

fn main() -> ExitCode {
    let mut out = io::stdout();
    let outcome = match parse(std::env::args().skip(1)) {
        Ok(arguments) => run(&arguments, &mut out),
        Err(reason) => writeln!(
            out,
            "{reason}\nusage: simulate node (--seeds A..B | --seed N) [--trace] [--steps N] \
             [--clients N] [--shards N] [--ignore-syncs] [--stop]"
        )
        .map(|()| false),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    if words.next().as_deref() != Some("node") {
        return Err("the first word must be: node".to_owned());
    }
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
            "--ignore-syncs" => options.ignores_syncs = true,
            "--steps" => options.steps = number(words.next())?,
            "--clients" => options.clients = number(words.next())?,
            "--shards" => options.shards = number(words.next())?,
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
    crashes: u64,
    delivered: u64,
}

/// True: all seeds passed.
fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let (next, end) = (AtomicU64::new(arguments.from), AtomicU64::new(arguments.to));
    let threads = available_parallelism().map_or(1, NonZero::get);
    scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..threads {
            let (sender, next, end) = (sender.clone(), &next, &end);
            scope.spawn(move || work(arguments, next, end, &sender));
        }
        drop(sender);
        let mut outcome = Outcome::default();
        for result in results {
            outcome.add(&result, out)?;
        }
        let Outcome { passed, failed, .. } = outcome;
        writeln!(out, "{passed} seeds passed, {failed} failed")?;
        Ok(failed == 0)
    })
}

/// One thread's share: whichever seed is next. Seeds are begun in order, so all below one that has
/// failed come to their end.
fn work(
    arguments: &Arguments,
    next: &AtomicU64,
    end: &AtomicU64,
    results: &Sender<Result<Summary, Failure>>,
) {
    loop {
        let seed = next.fetch_add(1, Relaxed);
        if seed >= end.load(Relaxed) {
            return;
        }
        let result = run_caught(seed, arguments.options);
        if arguments.stops && result.is_err() {
            end.fetch_min(seed, Relaxed);
        }
        if results.send(result).is_err() {
            return;
        }
    }
}

/// A panic of the node is a failure of its seed, as any broken promise.
fn run_caught(seed: u64, options: Options) -> Result<Summary, Failure> {
    catch_unwind(AssertUnwindSafe(|| run_seed(seed, options))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Failure {
            seed,
            step: 0,
            reason: format!("a panic: {}", text.unwrap_or("without a text")),
            trace: Vec::new(),
        })
    })
}

impl Outcome {
    fn add(&mut self, result: &Result<Summary, Failure>, out: &mut impl Write) -> io::Result<()> {
        let trace = match result {
            Ok(summary) => {
                self.passed += 1;
                self.crashes += u64::from(summary.crashes);
                self.delivered += summary.totals.delivered;
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
        if let Err(failure) = result {
            writeln!(out, "{failure}")?;
        }
        let Self {
            passed,
            failed,
            crashes,
            delivered,
        } = self;
        let done = *passed + *failed;
        if done.is_multiple_of(PROGRESS) {
            writeln!(
                out,
                "{done} seeds: {passed} passed, {failed} failed, {crashes} crashes, \
                 {delivered} deliveries"
            )?;
        }
        Ok(())
    }
}
