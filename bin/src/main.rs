//! `corelane`: command line -> configuration -> node -> exit code. No logic of its own.
//!
//! Exit codes: 0 after an orderly stop, 1 when the node cannot start or an inspection finds damage,
//! 2 for a wrong command line or configuration, 3 when a running node had to end. One line on
//! stdout, `ready ...`, tells that it serves; everything else goes to stderr.

mod cli;

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use engine_server::{
    Config, Node, ReloadHandle, Settings, StartError, StopHandle, Users, inspect, repair,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command, Serve, UserChange, What};

const NOT_STARTED: u8 = 1;
const USAGE: u8 = 2;
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("CORELANE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(options)) => serve(*options),
        Some(Command::User { change }) => match change_users(change) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => fail(NOT_STARTED, &problem),
        },
        Some(Command::Inspect { what, directory }) => look_into(what, &directory),
        Some(Command::Repair {
            config, directory, ..
        }) => repair(config.as_deref(), directory),
    }
}

fn serve(options: Serve) -> ExitCode {
    let only_check = options.check_config;
    let again = options.clone();
    let config = match read_config(options) {
        Ok(config) => config,
        Err(problem) => return fail(USAGE, &problem),
    };
    if only_check {
        if let Err(problem) = config.check_files() {
            return fail(USAGE, &problem);
        }
        return ExitCode::SUCCESS;
    }
    let node = match Node::start(&config) {
        Ok(node) => node,
        Err(StartError::Config(problem)) => return fail(USAGE, &problem),
        Err(problem) => return fail(NOT_STARTED, &problem),
    };
    if let Err(problem) = obey_signals(node.stop_handle(), node.reload_handle(), again) {
        return fail(NOT_STARTED, &format!("signals cannot be caught: {problem}"));
    }
    if let Err(problem) = tell_ready(&node) {
        // Nobody reads our stdout, which is no reason to end.
        info!(%problem, "the line on stdout could not be written");
    }
    match node.wait() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(FAILED, &problem),
    }
}

fn read_config(options: Serve) -> Result<Config, String> {
    let file = options.config.clone();
    finish(options.settings(), file.as_deref())
}

/// What was given, over what the configuration file says.
fn finish(given: Settings, file: Option<&Path>) -> Result<Config, String> {
    let base = match file {
        None => Settings::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|problem| format!("{}: {problem}", path.display()))?;
            Settings::from_toml(&text)
                .map_err(|problem| format!("{}: {problem}", path.display()))?
        }
    };
    given
        .over(base)
        .finish()
        .map_err(|problem| problem.to_string())
}

/// SIGHUP reads certificates, keys, users and rules again, and of the configuration file what it
/// says of topics.
///
/// The first SIGTERM or SIGINT begins an orderly stop, the second ends the process at once.
fn obey_signals(stop: StopHandle, files: ReloadHandle, options: Serve) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGTERM, SIGINT])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGHUP {
                    files.reload();
                    reload_topics(&files, &options);
                    continue;
                }
                info!(signal, "asked to stop");
                if !stop.stop() {
                    std::process::exit(128 + signal);
                }
            }
        })?;
    Ok(())
}

fn reload_topics(files: &ReloadHandle, options: &Serve) {
    if options.config.is_none() {
        return;
    }
    match read_config(options.clone()) {
        Ok(config) => files.reload_topics(&config),
        Err(problem) => error!("the old rewrite and auto-subscribe stay: {problem}"),
    }
}

fn tell_ready(node: &Node) -> io::Result<()> {
    let mut line = String::from("ready");
    for url in node.listeners() {
        line.push_str(&format!(" {url}"));
    }
    line.push_str(&format!(" shards={}", node.shards()));
    if let Some(address) = node.metrics_address() {
        line.push_str(&format!(" metrics=http://{address}/metrics"));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn change_users(change: UserChange) -> Result<(), String> {
    let read =
        |file: &Path| Users::read(file).map_err(|problem| format!("{}: {problem}", file.display()));
    let (file, users) = match change {
        UserChange::List { file } => {
            let mut out = io::stdout().lock();
            let users = read(&file)?;
            let mut names = users.names();
            return names
                .try_for_each(|name| writeln!(out, "{name}"))
                .map_err(|problem| problem.to_string());
        }
        UserChange::Add { file, name } => {
            let mut users = if file.exists() {
                read(&file)?
            } else {
                Users::default()
            };
            let password = first_line().map_err(|problem| problem.to_string())?;
            users
                .add(&name, password.as_bytes())
                .map_err(|problem| problem.to_string())?;
            (file, users)
        }
        UserChange::Remove { file, name } => {
            let mut users = read(&file)?;
            users
                .remove(&name)
                .map_err(|problem| format!("{}: {problem}", file.display()))?;
            (file, users)
        }
    };
    users
        .write(&file)
        .map_err(|problem| format!("{}: {problem}", file.display()))
}

fn first_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

fn look_into(what: What, directory: &Path) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let found = match what {
        What::Log => inspect::log(directory, &mut out),
        What::Queues => inspect::queues(directory, &mut out),
        What::Sessions => inspect::sessions(directory, &mut out),
    };
    let written = out.flush();
    match (found, written) {
        (Ok(0), Ok(())) => ExitCode::SUCCESS,
        (Ok(0), Err(problem)) => fail(NOT_STARTED, &problem),
        (Ok(damages), _) => fail(NOT_STARTED, &format!("{damages} damaged places were found")),
        (Err(problem), _) => fail(NOT_STARTED, &problem),
    }
}

/// Rebuilding the index is all there is to repair.
fn repair(file: Option<&Path>, directory: Option<PathBuf>) -> ExitCode {
    let given = Settings {
        data: directory,
        ..Settings::default()
    };
    let config = match finish(given, file) {
        Ok(config) => config,
        Err(problem) => return fail(USAGE, &problem),
    };
    match repair::rebuild_index(&config, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(NOT_STARTED, &problem),
    }
}

fn fail(code: u8, problem: &dyn Display) -> ExitCode {
    error!("{problem}");
    ExitCode::from(code)
}
