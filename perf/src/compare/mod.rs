//! `tables`: from the results of many runs of `perf/compare` to what can be published.
//!
//! `perf/compare` leaves a folder with `LOAD.BROKER.ROUND.json` (or `.failed`, with the reason) for
//! each run, `BROKER.version` and `BROKER.conf` for each broker, `LOAD.arguments` for each load,
//! and `conditions` (lines of `key: value`). This writes one small JSON file for each load, with
//! every round and the medians, and the tables in markdown.

mod summary;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::cli::TablesArgs;
use crate::error::BenchError;
use crate::report::Report;
use summary::{Broker, Load, summarise};

/// Where the tables go in a document.
const BEGIN: &str = "<!-- begin: tables of perf/compare -->";
const END: &str = "<!-- end: tables of perf/compare -->";

/// Runs of one broker under one load: the round's number, and its result or why there is none.
type Rounds = BTreeMap<u32, Result<Report, String>>;

/// What `perf/compare` has left behind.
#[derive(Debug, Default)]
struct Runs {
    /// By load and broker.
    rounds: BTreeMap<(String, String), Rounds>,
    versions: BTreeMap<String, String>,
    configurations: BTreeMap<String, String>,
    arguments: BTreeMap<String, String>,
    conditions: BTreeMap<String, String>,
}

/// Reads the runs, writes the results and puts the tables into the document.
///
/// # Errors
/// `Input` when a file can't be read or is no result, `Output` when one can't be written, `Options`
/// when the document has no place for the tables.
pub(crate) fn run(args: &TablesArgs) -> Result<String, BenchError> {
    let runs = read(&args.runs)?;
    let loads = summarise(&runs);
    let text = tables::markdown(&loads, &runs.conditions, &runs.versions);
    if let Some(folder) = &args.results {
        write_results(folder, &runs, &loads)?;
    }
    if let Some(path) = &args.readme {
        let document = read_file(path)?;
        let document = insert(&document, &text).ok_or_else(|| {
            let path = path.display();
            BenchError::Options(format!("{path} has no lines `{BEGIN}` and `{END}`"))
        })?;
        write_file(path, &document)?;
    }
    Ok(text)
}

fn read(folder: &Path) -> Result<Runs, BenchError> {
    let input = |source| BenchError::Input {
        path: folder.to_owned(),
        source,
    };
    let mut runs = Runs::default();
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(input)? {
        paths.push(entry.map_err(input)?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let parts: Vec<&str> = name.split('.').collect();
        let place = match *parts.as_slice() {
            ["conditions"] => {
                let lines = read_file(&path)?;
                let pairs = lines.lines().filter_map(|line| line.split_once(": "));
                runs.conditions = pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
                continue;
            }
            [broker, "version"] => runs.versions.entry(broker.to_owned()),
            [broker, "conf"] => runs.configurations.entry(broker.to_owned()),
            [load, "arguments"] => runs.arguments.entry(load.to_owned()),
            [load, broker, round, kind] => {
                let result = match kind {
                    "json" => Ok(read_report(&path)?),
                    "failed" => Err(read_file(&path)?.trim().to_owned()),
                    _ => continue,
                };
                let key = (load.to_owned(), broker.to_owned());
                let round = round.parse().unwrap_or(0);
                runs.rounds.entry(key).or_default().insert(round, result);
                continue;
            }
            _ => continue,
        };
        place.or_insert(read_file(&path)?.trim_end().to_owned());
    }
    Ok(runs)
}

fn read_report(path: &Path) -> Result<Report, BenchError> {
    serde_json::from_str(&read_file(path)?).map_err(|error| BenchError::Input {
        path: path.to_owned(),
        source: error.into(),
    })
}

fn read_file(path: &Path) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(|source| BenchError::Input {
        path: path.to_owned(),
        source,
    })
}

fn write_file(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(|source| BenchError::Output {
        path: path.to_owned(),
        source,
    })
}

fn write_results(folder: &Path, runs: &Runs, loads: &[Load]) -> Result<(), BenchError> {
    fs::create_dir_all(folder).map_err(|source| BenchError::Output {
        path: folder.to_owned(),
        source,
    })?;
    for load in loads {
        let brokers: Vec<serde_json::Value> = load
            .brokers
            .iter()
            .map(|broker| described(runs, broker))
            .collect();
        let value = serde_json::json!({
            "load": load.name,
            "arguments": runs.arguments.get(&load.name),
            "conditions": runs.conditions,
            "brokers": brokers,
        });
        let path = folder.join(format!("{}.json", load.name));
        let text = serde_json::to_string_pretty(&value).map_err(|error| BenchError::Output {
            path: path.clone(),
            source: error.into(),
        })?;
        write_file(&path, &(text + "\n"))?;
    }
    Ok(())
}

fn described(runs: &Runs, broker: &Broker) -> serde_json::Value {
    serde_json::json!({
        "broker": broker.name,
        "version": runs.versions.get(&broker.name),
        "configuration": runs.configurations.get(&broker.name),
        "failures": broker.failures,
        "rounds": broker.rounds,
        "median": broker.median,
    })
}

/// The document with the tables between their two lines.
fn insert(document: &str, tables: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
