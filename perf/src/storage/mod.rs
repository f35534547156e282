//! `storage`: the queue index and the log against what they replace, side by side in one run.
//!
//! Each store is measured in a process of its own (this program, with `--part`), so that CPU,
//! memory and device bytes are its own; the parent puts the table together.

mod figures;
mod fio;
#[cfg(feature = "peers")]
mod fjall_peer;
mod gauge;
mod log_part;
mod ours;
#[cfg(feature = "peers")]
mod peer;
mod plan;
#[cfg(feature = "peers")]
mod rocksdb_peer;
mod state;
mod table;
mod workload;

use std::path::Path;
use std::process::{Command, Stdio};

use crate::BenchError;
use crate::cli::{Part, StorageArgs};
use plan::{Plan, failed};
use serde::de::DeserializeOwned;
use table::Results;

pub(crate) use state::run as run_state;

/// Records that the log is measured with at most: 1.2 GB.
const LOG_RECORDS_MAX: u64 = 4_000_000;

/// Runs what the arguments ask for and prints the table, or the part.
pub(crate) fn run(args: &StorageArgs) -> Result<String, BenchError> {
    let plan = Plan::parse(args)?;
    std::fs::create_dir_all(&plan.directory).map_err(failed)?;
    let result = match args.part {
        Some(part) => run_part(&plan, part),
        None => run_all(args, &plan),
    };
    std::fs::remove_dir_all(&plan.directory).map_err(failed)?;
    result
}

/// Measures the commit log alone, and prints its figures as JSON.
pub(crate) fn run_log(args: &StorageArgs) -> Result<String, BenchError> {
    let args = StorageArgs {
        part: Some(Part::Log),
        ..args.clone()
    };
    let text = run(&args)?;
    let figures: serde_json::Value = serde_json::from_str(&text).map_err(failed)?;
    if let Some(path) = &args.json {
        std::fs::write(path, &text).map_err(failed)?;
    }
    serde_json::to_string_pretty(&figures)
        .map(|text| text + "\n")
        .map_err(failed)
}

fn run_part(plan: &Plan, part: Part) -> Result<String, BenchError> {
    let path: &Path = &plan.directory;
    let figures = match part {
        Part::Corelane => ours::measure(plan, path)?,
        Part::Log => {
            let figures = log_part::measure(plan, path)?;
            return serde_json::to_string(&figures).map_err(failed);
        }
        #[cfg(feature = "peers")]
        Part::Rocksdb => rocksdb_peer::measure(plan, path)?,
        #[cfg(feature = "peers")]
        Part::Fjall => fjall_peer::measure(plan, path)?,
        #[cfg(not(feature = "peers"))]
        Part::Rocksdb | Part::Fjall => {
            let text = "built without the feature `peers`";
            return Err(BenchError::Options(text.to_owned()));
        }
    };
    serde_json::to_string(&figures).map_err(failed)
}

fn run_all(args: &StorageArgs, plan: &Plan) -> Result<String, BenchError> {
    let mut results = Results {
        load_before: gauge::load_average(),
        corelane: child(args, Part::Corelane, false)?,
        log: child(args, Part::Log, false)?,
        fio: fio::measure(&plan.directory)?,
        ..Results::default()
    };
    if cfg!(feature = "peers") && !args.no_peers {
        results.rocksdb = Some(child(args, Part::Rocksdb, false)?);
        results.rocksdb_topics = Some(child(args, Part::Rocksdb, true)?);
        results.fjall = Some(child(args, Part::Fjall, false)?);
    }
    results.load_after = gauge::load_average();
    if let Some(path) = &args.json {
        let output = |source| BenchError::Output {
            path: path.clone(),
            source,
        };
        let text = serde_json::to_string_pretty(&results).map_err(|e| output(e.into()))?;
        std::fs::write(path, text + "\n").map_err(output)?;
    }
    Ok(table::render(plan, &results))
}

/// Runs one part in a process of its own.
fn child<T: DeserializeOwned>(
    args: &StorageArgs,
    part: Part,
    topic_keys: bool,
) -> Result<T, BenchError> {
    let program = std::env::current_exe().map_err(failed)?;
    let entries = match part {
        Part::Log => args.entries.min(LOG_RECORDS_MAX),
        // As in the baseline of the design: keys with topics over half the entries.
        Part::Rocksdb if topic_keys => args.entries / 2,
        Part::Corelane | Part::Rocksdb | Part::Fjall => args.entries,
    };
    let mut command = Command::new(program);
    command
        .args(["storage", "--part", part.name()])
        .args(["--entries", &entries.to_string()])
        .args(["--queues", &args.queues.to_string()])
        .args(["--batch", &args.batch.to_string()])
        .arg("--directory")
        .arg(&args.directory)
        .args(args.zipf.then_some("--zipf"))
        .args(topic_keys.then_some("--topic-keys"))
        .args(args.quiet.then_some("--quiet"))
        .stdout(Stdio::piped());
    let output = command
        .spawn()
        .and_then(std::process::Child::wait_with_output);
    let output = output.map_err(failed)?;
    if !output.status.success() {
        return Err(failed(format!("the part {} failed", part.name())));
    }
    serde_json::from_slice(&output.stdout).map_err(failed)
}
