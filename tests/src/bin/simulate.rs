//! Runs the whole node under seeds: `simulate node --seeds A..B` or `simulate node --seed N
//! [--trace]`, with `--steps N`, `--clients N`, `--shards N`. `tests/simulate` builds and calls it.

use std::io::{self, Write};
use std::process::ExitCode;

use corelane_tests::simulation::{Options, run_seed};

/// Seeds between two progress lines.
const PROGRESS: u64 = 50;

struct Arguments {
    from: u64,
    to: u64,
    options: Options,
}

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let outcome = match parse(std::env::args().skip(1)) {
        Ok(arguments) => run(&arguments, &mut out),
        Err(reason) => writeln!(
            out,
            "{reason}\nusage: simulate node (--seeds A..B | --seed N) [--trace] [--steps N] \
             [--clients N] [--shards N] [--ignore-syncs]"
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
        options: Options::default(),
    };
    while let Some(word) = words.next() {
        let options = &mut arguments.options;
        match word.as_str() {
            "--trace" => options.keeps_trace = true,
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

/// True: all seeds passed.
fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let (mut passed, mut failed, mut crashes, mut delivered) = (0u64, 0u64, 0u64, 0u64);
    for seed in arguments.from..arguments.to {
        let trace = match run_seed(seed, arguments.options) {
            Ok(summary) => {
                passed += 1;
                crashes += u64::from(summary.crashes);
                delivered += summary.totals.delivered;
                summary.trace
            }
            Err(failure) => {
                failed += 1;
                for line in &failure.trace {
                    writeln!(out, "{line}")?;
                }
                writeln!(out, "{failure}")?;
                Vec::new()
            }
        };
        for line in trace {
            writeln!(out, "{line}")?;
        }
        if (seed + 1 - arguments.from).is_multiple_of(PROGRESS) {
            writeln!(
                out,
                "up to seed {seed}: {passed} passed, {failed} failed, {crashes} crashes, \
                 {delivered} deliveries"
            )?;
        }
    }
    writeln!(out, "{passed} seeds passed, {failed} failed")?;
    Ok(failed == 0)
}
