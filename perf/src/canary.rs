//! What a load does to a client that has nothing to do with it: a lone pair is measured by itself,
//! then beside a scenario that another process of this program runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Serialize;

use crate::BenchError;
use crate::cli::CanaryArgs;
use crate::report::Report;

/// Between the canary's last and the end of what it waits for, seconds: connecting is not measured.
const WARM_UP_SECONDS: f64 = 0.5;

/// The canary beside a load, and by itself.
#[derive(Debug, Serialize)]
pub(crate) struct CanaryReport {
    /// The arguments of the load.
    load: String,
    /// Messages of the canary per second.
    rate: u64,
    alone: Figures,
    beside: Figures,
}

/// How the canary fared. Latencies are from the intended send time to the arrival, microseconds.
#[derive(Debug, Serialize)]
struct Figures {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    deliveries: u64,
    /// Whether all came once, in order, on connections that held.
    is_faultless: bool,
}

impl CanaryReport {
    /// Whether the canary lost nothing in either run.
    pub(crate) const fn is_faultless(&self) -> bool {
        self.alone.is_faultless && self.beside.is_faultless
    }
}

/// Runs both.
///
/// # Errors
/// `Options` when the load does not start or ends with an error; otherwise those of a run.
pub(crate) fn run(args: &CanaryArgs) -> Result<CanaryReport, BenchError> {
    let alone = figures(&Canary::start(args)?.end()?)?;
    let canary = Canary::start(args)?;
    let mut load = start(&args.load)?;
    let beside = canary.end();
    // A load that goes on for longer is not needed any more.
    let has_ended = load.try_wait().map_err(failed)?;
    let failure = has_ended.filter(|status| !status.success());
    load.kill().and_then(|()| load.wait()).map_err(failed)?;
    if let Some(status) = failure {
        let load = args.load.join(" ");
        return Err(BenchError::Options(format!("`{load}` ended: {status}")));
    }
    Ok(CanaryReport {
        load: args.load.join(" "),
        rate: args.rate,
        alone,
        beside: figures(&beside?)?,
    })
}

/// A run of the lone pair in a process of its own.
struct Canary {
    child: Child,
    result: PathBuf,
}

impl Canary {
    fn start(args: &CanaryArgs) -> Result<Self, BenchError> {
        let name = format!("corelane-canary-{}.json", std::process::id());
        let result = std::env::temp_dir().join(name);
        let words = [
            "p2p --pairs 1 --qos 1 --quiet --client-prefix canary".to_owned(),
            format!("--host {} --port {}", args.host, args.port),
            format!("--rate {} --duration {}", args.rate, args.seconds),
            format!("--warm-up {WARM_UP_SECONDS} --json"),
        ];
        let words = words.join(" ");
        let mut words: Vec<_> = words.split(' ').map(str::to_owned).collect();
        words.push(result.display().to_string());
        let child = start(&words)?;
        Ok(Self { child, result })
    }

    fn end(mut self) -> Result<Report, BenchError> {
        let status = self.child.wait().map_err(failed)?;
        if !status.success() {
            return Err(BenchError::Options(format!("the canary ended: {status}")));
        }
        let report = read(&self.result);
        // It is in a folder for such files.
        std::fs::remove_file(&self.result).ok();
        report
    }
}

fn start(words: &[String]) -> Result<Child, BenchError> {
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(words).stdout(Stdio::null());
    command.spawn().map_err(failed)
}

fn failed(source: std::io::Error) -> BenchError {
    BenchError::System {
        doing: "running the canary and its load",
        source,
    }
}

fn read(path: &Path) -> Result<Report, BenchError> {
    let input = |source| BenchError::Input {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(input)?;
    serde_json::from_str(&text).map_err(|error| input(error.into()))
}

fn figures(report: &Report) -> Result<Figures, BenchError> {
    let messages = report.messages.as_ref();
    let latency = messages.and_then(|one| Some((one, one.delivery_latency.as_ref()?)));
    let Some((messages, latency)) = latency else {
        return Err(BenchError::Measured("the canary heard nothing".to_owned()));
    };
    Ok(Figures {
        p50_us: latency.p50_us,
        p99_us: latency.p99_us,
        p999_us: latency.p999_us,
        max_us: latency.max_us,
        deliveries: latency.count,
        is_faultless: messages.is_faultless(),
    })
}

impl fmt::Display for CanaryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "canary: one pair, QoS 1, {} messages/s", self.rate)?;
        for (name, figures) in [("alone", &self.alone), (&self.load, &self.beside)] {
            writeln!(
                f,
                "  p50 {:.2} ms, p99 {:.2} ms, p999 {:.2} ms, max {:.2} ms, \
                 {} deliveries{}: {name}",
                figures.p50_us / 1e3,
                figures.p99_us / 1e3,
                figures.p999_us / 1e3,
                figures.max_us / 1e3,
                figures.deliveries,
                if figures.is_faultless {
                    ""
                } else {
                    ", with faults"
                },
            )?;
        }
        Ok(())
    }
}
