//! What the device can do, by fio, on files that were written before.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::failed;
use crate::BenchError;

/// What fio has measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct FioFigures {
    /// 64 KiB written and synced, one at a time, bytes per second.
    pub(crate) commit_bytes_per_s: f64,
    /// 1 MiB read in order, four at a time, bytes per second.
    pub(crate) read_bytes_per_s: f64,
    /// 4 KiB read anywhere, one at a time: median, microseconds.
    pub(crate) random_read_p50_us: f64,
}

/// Runs fio in `path`; `None` when it is not installed.
pub(super) fn measure(path: &Path) -> Result<Option<FioFigures>, BenchError> {
    let installed = Command::new("fio")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !installed.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    run(path, &["--rw=write", "--bs=1m", "--iodepth=4"])?;
    let timed = ["--runtime=4", "--time_based"];
    let commit = run(
        path,
        &[
            "--rw=write",
            "--bs=64k",
            "--fdatasync=1",
            timed[0],
            timed[1],
        ],
    )?;
    let read = run(
        path,
        &["--rw=read", "--bs=1m", "--iodepth=4", timed[0], timed[1]],
    )?;
    let random = run(path, &["--rw=randread", "--bs=4k", timed[0], timed[1]])?;
    Ok(Some(FioFigures {
        commit_bytes_per_s: number(&commit, "/jobs/0/write/bw_bytes"),
        read_bytes_per_s: number(&read, "/jobs/0/read/bw_bytes"),
        random_read_p50_us: number(&random, "/jobs/0/read/clat_ns/percentile/50.000000") / 1e3,
    }))
}

fn run(path: &Path, options: &[&str]) -> Result<Value, BenchError> {
    let output = Command::new("fio")
        .args([
            "--name=corelane",
            "--filename=fio-file",
            "--size=512m",
            "--direct=1",
        ])
        .args([
            "--ioengine=io_uring",
            "--output-format=json",
            "--overwrite=1",
        ])
        .args(options)
        .current_dir(path)
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // Notes may come before the JSON.
    let from = text.find('{').unwrap_or(0);
    serde_json::from_str(text.get(from..).unwrap_or_default()).map_err(failed)
}

fn number(value: &Value, pointer: &str) -> f64 {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or(0.0)
}
