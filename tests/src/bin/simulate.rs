//! Runs the whole node under seeds: `simulate node --seeds A..B` or `simulate node --seed N
//! [--trace]`, with `--steps N`, `--clients N`, `--shards N`; `--actors 1,4` leaves out the other
//! clients; `--crashes N` crashes N times in 1,000 steps (2); `--stop` ends at the first failure,
//! `--until N` when the node has crashed N times. `simulate storage` does the same to the storage
//! of one shard, see `simulation_storage`. `tests/simulate` builds and calls it.
//!
//! A progress line says below which seed all are done, so that a run can go on there.
//!
//! The first three failing seeds of a range are shrunk: 400 runs or a minute each, at most.
//! `--no-shrink` leaves that out, `--shrink` does it for one seed as well.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::thread::{available_parallelism, scope};

use corelane_tests::simulation::{
    Failure, FaultCounts, FaultSet, Options, RotCounts, Shrunk, Summary, run_seed, shrink,
};
use corelane_tests::simulation_storage;

/// Seeds between two progress lines, and in a long run.
const PROGRESS: [u64; 2] = [100, 1_000];
/// Failures of a range that are shrunk.
const SHRINKS_MAX: u64 = 3;

const USAGE: &str = "usage: simulate node (--seeds A..B | --seed N) [--trace] [--steps N] \
    [--clients N] [--actors N,N] [--shards N] [--crashes N] [--faults none|WORD,WORD] \
    [--ignore-syncs] [--auto-subscribe] [--stop] [--until N] [--shrink] [--no-shrink]";

struct Arguments {
    from: u64,
    to: u64,
    /// No seed is begun after one has failed.
    stops: bool,
    /// No seed is begun after so many crashes.
    crashes_max: u64,
    /// Failures that are shrunk, at most.
    shrinks: u64,
    options: Options,
}

/// Panics that are shown with their place; a panic that is shrunk comes again and again.
const PANICS_SHOWN: u64 = 10;

fn main() -> ExitCode {
    let (shown, show) = (AtomicU64::new(0), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        if shown.fetch_add(1, Relaxed) < PANICS_SHOWN {
            show(panic);
        }
    }));
    let mut out = io::stdout();
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if_eq("storage").is_some() {
        return exit_code(simulation_storage::command(words, &mut out));
    }
    let outcome = match parse(words) {
        Ok(arguments) => run(&arguments, &mut out),
        Err(reason) => writeln!(out, "{reason}\n{USAGE}").map(|()| false),
    };
    exit_code(outcome)
}

fn exit_code(outcome: io::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    if words.next().as_deref() != Some("node") {
        return Err("the first word must be: node or storage".to_owned());
    }
    let mut arguments = Arguments {
        from: 0,
        to: 100,
        stops: false,
        crashes_max: u64::MAX,
        shrinks: SHRINKS_MAX,
        options: Options::default(),
    };
    let (mut is_shrunk, mut actors) = (None, None);
    while let Some(word) = words.next() {
        let options = &mut arguments.options;
        match word.as_str() {
            "--trace" => options.keeps_trace = true,
            "--stop" => arguments.stops = true,
            "--ignore-syncs" => options.ignores_syncs = true,
            "--auto-subscribe" => options.auto_subscribes = true,
            "--steps" => options.steps = number(words.next())?,
            "--faults" => {
                let words = words.next().ok_or("--faults takes words")?;
                options.faults = Some(FaultSet::parse(&words)?);
            }
            "--clients" => options.clients = number(words.next())?,
            "--crashes" => options.crashes = number(words.next())?,
            "--until" => arguments.crashes_max = number(words.next())?,
            "--shards" => options.shards = number(words.next())?,
            "--actors" => actors = Some(words.next().ok_or("--actors takes numbers")?),
            "--shrink" => is_shrunk = Some(true),
            "--no-shrink" => is_shrunk = Some(false),
            "--seed" => {
                is_shrunk.get_or_insert(false);
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
    if is_shrunk == Some(false) {
        arguments.shrinks = 0;
    }
    if let Some(actors) = actors {
        arguments.options = only(arguments.options, &actors)?;
    }
    Ok(arguments)
}

/// Leaves out all clients but these.
fn only(options: Options, actors: &str) -> Result<Options, String> {
    let mut here = Vec::new();
    for word in actors.split(',') {
        here.push(number::<u32>(Some(word.to_owned()))?);
    }
    let absent = (0..options.clients).filter(|client| !here.contains(client));
    Ok(absent.fold(options, Options::without))
}

fn number<N: std::str::FromStr>(word: Option<String>) -> Result<N, String> {
    let word = word.ok_or("a number is missing")?;
    word.parse()
        .map_err(|_| format!("not a number that fits: {word}"))
}

/// What a thread has to say.
enum News {
    Ran(Box<Result<Summary, Failure>>),
    Shrunk(Box<Shrunk>),
}

/// What became of the seeds so far.
#[derive(Default)]
struct Outcome {
    passed: u64,
    failed: u64,
    crashes: u64,
    delivered: u64,
    qos_2_acknowledged: u64,
    qos_2_delivered: u64,
    rot: RotCounts,
    /// All seeds below are done.
    next: u64,
    /// Above that one.
    done: BTreeSet<u64>,
    faults: FaultCounts,
}

/// True: all seeds passed.
fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let (next, end) = (AtomicU64::new(arguments.from), AtomicU64::new(arguments.to));
    let shrinks = AtomicU64::new(arguments.shrinks);
    let threads = available_parallelism().map_or(1, NonZero::get);
    scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..threads {
            let work = Work {
                arguments,
                next: &next,
                end: &end,
                shrinks: &shrinks,
                news: sender.clone(),
            };
            scope.spawn(move || work.run());
        }
        drop(sender);
        let mut outcome = Outcome {
            next: arguments.from,
            ..Outcome::default()
        };
        for news in results {
            match news {
                News::Ran(result) => outcome.add(&result, out)?,
                News::Shrunk(shrunk) => writeln!(out, "{shrunk}")?,
            }
            if outcome.crashes >= arguments.crashes_max {
                end.store(0, Relaxed);
            }
        }
        outcome.progress(out)?;
        let Outcome {
            passed,
            failed,
            faults,
            rot,
            ..
        } = outcome;
        writeln!(out, "{faults}")?;
        writeln!(out, "{rot}")?;
        writeln!(out, "{passed} seeds passed, {failed} failed")?;
        Ok(failed == 0)
    })
}

/// One thread's share: whichever seed is next. Seeds are begun in order, so all below one that has
/// failed come to their end.
struct Work<'a> {
    arguments: &'a Arguments,
    next: &'a AtomicU64,
    end: &'a AtomicU64,
    /// Failures that are still to be shrunk.
    shrinks: &'a AtomicU64,
    news: Sender<News>,
}

impl Work<'_> {
    fn run(&self) {
        let Self {
            arguments,
            next,
            end,
            shrinks,
            news,
        } = self;
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= end.load(Relaxed) {
                return;
            }
            let result = run_seed(seed, arguments.options);
            if arguments.stops && result.is_err() {
                end.fetch_min(seed, Relaxed);
            }
            let failure = result.as_ref().err().cloned();
            // An error: nobody listens any more.
            if news.send(News::Ran(Box::new(result))).is_err() {
                return;
            }
            let left = |left: u64| left.checked_sub(1);
            if let Some(failure) = failure
                && shrinks.fetch_update(Relaxed, Relaxed, left).is_ok()
                && news.send(News::Shrunk(Box::new(shrink(&failure)))).is_err()
            {
                return;
            }
        }
    }
}

impl Outcome {
    fn add(&mut self, result: &Result<Summary, Failure>, out: &mut impl Write) -> io::Result<()> {
        let (seed, trace) = match result {
            Ok(summary) => {
                self.passed += 1;
                self.crashes += u64::from(summary.crashes);
                self.delivered += summary.totals.delivered;
                self.qos_2_acknowledged += summary.totals.acknowledged_qos_2;
                self.qos_2_delivered += summary.totals.delivered_qos_2;
                self.faults += summary.faults;
                self.rot += summary.rot;
                (summary.seed, &summary.trace)
            }
            Err(failure) => {
                self.failed += 1;
                (failure.seed, &failure.trace)
            }
        };
        self.done.insert(seed);
        while self.done.remove(&self.next) {
            self.next += 1;
        }
        for line in trace {
            writeln!(out, "{line}")?;
        }
        if let Err(failure) = result {
            writeln!(out, "{failure}")?;
        }
        let done = self.passed + self.failed;
        let [often, seldom] = PROGRESS;
        let every = if done < seldom { often } else { seldom };
        if done.is_multiple_of(every) {
            self.progress(out)?;
        }
        Ok(())
    }

    fn progress(&self, out: &mut impl Write) -> io::Result<()> {
        let Self {
            passed,
            failed,
            crashes,
            delivered,
            qos_2_acknowledged,
            qos_2_delivered,
            next,
            ..
        } = self;
        writeln!(
            out,
            "{} seeds: {passed} passed, {failed} failed, {crashes} crashes, \
             {delivered} deliveries (QoS 2: {qos_2_acknowledged} acknowledged, {qos_2_delivered} \
             delivered), all done below {next}",
            passed + failed
        )
    }
}
