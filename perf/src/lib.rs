//! `corelane-bench`: a load generator for MQTT brokers.
//!
//! One process plays all publishers and subscribers, so one clock times both ends. Each worker
//! thread runs an event loop over epoll for its share of the clients (`worker`, with its parts
//! `handshake`, `delivery` and `closing`); the main thread (`runner`) moves the workers from phase
//! to phase and samples the broker's CPU time (`server_usage`). Every message carries who sent it,
//! its place and its intended time (`payload`), from which `check` finds loss, repetition and
//! disorder, and
//! `latency` the delay since the time it was due (`schedule`). `packet` and `control_packet` are
//! all that knows MQTT. `sink` is a minimal server that shows what the generator itself costs.
//! A run is spelled out by `scenario` (who hears whom) and `plan` (client by client); `preset` has
//! the defaults of the named ones, and `staged` makes those that take several steps.
//! `crowd` holds as many connections as memory allows; `canary` runs a scenario beside a lone pair.
//! `storage` measures the index and the log by themselves, beside what they replace.

mod assemble;
mod canary;
mod check;
mod cli;
mod cli_plan;
mod closing;
mod compare;
mod connection;
mod control_packet;
mod crowd;
mod delivery;
mod error;
mod handshake;
mod html;
mod latency;
mod layers;
mod packet;
mod payload;
mod plan;
mod preset;
mod publisher;
mod ramp;
mod report;
mod run_state;
mod runner;
mod scenario;
mod scenario_file;
mod schedule;
mod server_usage;
mod settings;
mod shape;
mod sink;
mod sink_route;
mod slow_reader;
mod socket;
mod staged;
mod storage;
mod svg;
mod tally;
mod timeline;
mod websocket;
mod worker;

#[cfg(test)]
#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

pub use cli::{
    CanaryArgs, Cli, Command, ConnArgs, CrowdArgs, CrowdPartArgs, Durable, FaninArgs, FanoutArgs,
    HearsArg, HtmlArgs, LoadArgs, MqttVersion, OfflineArgs, P2pArgs, Part, PlanArgs, RetainedArgs,
    RunArgs, SinkArgs, SlowSubArgs, StateArgs, StorageArgs, TablesArgs, TargetArgs,
};
pub use error::BenchError;
pub use latency::LatencySummary;
pub use preset::parse;
pub use report::{
    ConnectReport, MessageReport, RampReport, RampTrial, Report, ServerReport, ShareReport,
    SlowReport, StageReport,
};
pub use scenario::Filters;
pub use sink::Sink;
pub use timeline::{LatencyTick, ThroughputTick, Timeline};

/// The exit status of a run with `--strict` that found a fault.
const EXIT_FAULTS: u8 = 3;

/// Does what the command line says: prints the result on stdout, progress on stderr.
///
/// # Errors
/// When there is no result; see [`BenchError`].
pub fn execute(cli: &Cli) -> Result<ExitCode, BenchError> {
    if let (true, Some(text)) = (cli.print_toml, &cli.toml) {
        print(text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Sink(args) = &cli.command {
        let mut sink = Sink::bind(SocketAddr::new(args.host, args.port), args.relay)?;
        let mode = if args.relay { "relaying" } else { "swallowing" };
        print(&format!("ready {mode} mqtt://{}\n", sink.address()?))?;
        sink.run(&AtomicBool::new(false))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Tables(args) = &cli.command {
        print(&compare::run(args)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Html(args) = &cli.command {
        html::convert(&args.results, &args.out)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Storage(args) = &cli.command {
        print(&storage::run(args)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Log(args) = &cli.command {
        print(&storage::run_log(args)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::State(args) = &cli.command {
        print(&storage::run_state(args)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::CrowdPart(args) = &cli.command {
        crowd::run_part(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Crowd(args) = &cli.command {
        let report = crowd::run(args)?;
        return tell(&report, args.json.as_deref(), report.is_faultless());
    }
    if let Command::Canary(args) = &cli.command {
        let report = canary::run(args)?;
        return tell(&report, args.json.as_deref(), report.is_faultless());
    }
    let Some(settings) = settings::Settings::parse(&cli.command)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let report = staged::run(&settings)?;
    print(&report.to_string())?;
    write_json(settings.target.json.as_deref(), &report)?;
    if let Some(path) = &settings.target.html {
        html::write(std::slice::from_ref(&report), path)?;
    }
    let is_strict = settings.load.as_ref().is_some_and(|load| load.strict);
    let is_faultless = report
        .messages
        .as_ref()
        .is_none_or(MessageReport::is_faultless);
    if is_strict && !is_faultless {
        return Ok(ExitCode::from(EXIT_FAULTS));
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes one run and returns its result, without printing it.
///
/// # Errors
/// `Options` for what makes no such report, as `sink`, `storage` and `crowd`; otherwise as
/// [`execute`].
pub fn measure(command: &Command) -> Result<Report, BenchError> {
    match settings::Settings::parse(command)? {
        Some(settings) => staged::run(&settings),
        None => Err(BenchError::Options(
            "`sink`, `storage` and `crowd` have no report of messages".to_owned(),
        )),
    }
}

/// Prints a result and writes it as JSON if that is asked for.
fn tell<T: serde::Serialize + std::fmt::Display>(
    report: &T,
    json: Option<&Path>,
    is_faultless: bool,
) -> Result<ExitCode, BenchError> {
    print(&report.to_string())?;
    write_json(json, report)?;
    let code = if is_faultless { 0 } else { EXIT_FAULTS };
    Ok(ExitCode::from(code))
}

fn write_json<T: serde::Serialize>(path: Option<&Path>, report: &T) -> Result<(), BenchError> {
    let Some(path) = path else {
        return Ok(());
    };
    let output = |source| BenchError::Output {
        path: path.to_owned(),
        source,
    };
    let text = serde_json::to_string_pretty(report).map_err(|error| output(error.into()))?;
    std::fs::write(path, text + "\n").map_err(output)
}

fn print(text: &str) -> Result<(), BenchError> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|source| BenchError::System {
            doing: "writing to stdout",
            source,
        })
}
