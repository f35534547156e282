//! Makes a run: in one stage, or in the several that `retained` and `offline` take.
//!
//! All stages share a clock and a tag: what one publishes is checked where another hears it.

use std::collections::HashMap;
use std::process::Command;

use crate::assemble::assemble;
use crate::error::BenchError;
use crate::ramp;
use crate::report::{Report, StageReport};
use crate::run_state::Clock;
use crate::runner::{self, Ran};
use crate::scenario::Flow;
use crate::server_usage::Usage;
use crate::settings::{Settings, Stage};

/// Makes a run, at a rate that is searched for if one is asked for.
///
/// # Errors
/// As [`run_once`].
pub(crate) fn run(settings: &Settings) -> Result<Report, BenchError> {
    match settings.load.as_ref().and_then(|load| load.ramp_to) {
        Some(target) => ramp::run(settings, target),
        None => run_once(settings),
    }
}

/// Makes a run.
///
/// # Errors
/// When clients can't connect, the system lacks something, or a worker fails. Faults of the broker
/// under load are in the report.
pub(crate) fn run_once(settings: &Settings) -> Result<Report, BenchError> {
    if let Some(pid) = settings.target.server_pid {
        Usage::read(pid).map_err(|source| BenchError::System {
            doing: "reading --server-pid",
            source,
        })?;
    }
    let (clock, tag) = runner::start_run();
    let mut stages = Stages {
        settings,
        clock,
        tag,
        done: Vec::new(),
        earlier: Vec::new(),
    };
    let ran = match &settings.scenario.flow {
        Flow::Hold | Flow::Load => stages.make("run", Stage::Whole)?,
        Flow::Retained { keep } => stages.retained(*keep)?,
        Flow::Offline { restart, .. } => stages.offline(restart.as_deref())?,
    };
    Ok(stages.report(ran))
}

struct Stages<'a> {
    settings: &'a Settings,
    clock: Clock,
    tag: u8,
    done: Vec<StageReport>,
    earlier: Vec<Ran>,
}

impl Stages<'_> {
    fn retained(&mut self, keep: bool) -> Result<Ran, BenchError> {
        let filled = self.make("publish retained", Stage::Fill)?;
        self.earlier.push(filled);
        let expected = self.expected();
        let caught_up = Stage::CatchUp {
            expected,
            resumes: false,
        };
        let ran = self.make("subscribe and receive", caught_up)?;
        if !keep {
            // What it published is not of interest: its payloads are empty.
            self.make("remove retained", Stage::Clear)?;
        }
        Ok(ran)
    }

    fn offline(&mut self, restart: Option<&str>) -> Result<Ran, BenchError> {
        self.make("subscribe and leave", Stage::Park)?;
        let filled = self.make("publish", Stage::Fill)?;
        self.earlier.push(filled);
        if let Some(command) = restart {
            self.restart(command)?;
        }
        let caught_up = Stage::CatchUp {
            expected: self.expected(),
            resumes: true,
        };
        self.make("come back and receive", caught_up)
    }

    fn make(&mut self, name: &'static str, stage: Stage) -> Result<Ran, BenchError> {
        let settings = self.settings.at(stage);
        let start_ns = self.clock.now_ns();
        let ran = runner::run(&settings, self.clock, self.tag)?;
        let last = &ran.samples.last;
        let totals = last.totals;
        let count = match stage {
            Stage::Whole | Stage::CatchUp { .. } => totals.delivered,
            Stage::Park => totals.ready,
            Stage::Fill | Stage::Clear => totals.sent,
        };
        self.note(name, last.at_ns.saturating_sub(start_ns), count);
        Ok(ran)
    }

    fn restart(&mut self, command: &str) -> Result<(), BenchError> {
        let start_ns = self.clock.now_ns();
        let status = Command::new("/bin/sh")
            .args(["-c", command])
            .status()
            .map_err(|source| BenchError::System {
                doing: "running --restart",
                source,
            })?;
        if !status.success() {
            return Err(BenchError::Options(format!(
                "--restart `{command}` ended with {status}"
            )));
        }
        self.note("restart", self.clock.now_ns().saturating_sub(start_ns), 1);
        Ok(())
    }

    fn note(&mut self, name: &'static str, ns: u64, count: u64) {
        self.done.push(StageReport {
            name: name.to_owned(),
            seconds: ns as f64 / 1e9,
            count,
        });
    }

    /// Deliveries that the earlier stages have made due.
    fn expected(&self) -> u64 {
        let scenario = &self.settings.scenario;
        let outcomes = self.earlier.iter().flat_map(|ran| &ran.outcomes);
        let sent: HashMap<u32, u64> = outcomes
            .flat_map(|outcome| outcome.sent.iter().copied())
            .collect();
        (0..scenario.subscribers)
            .flat_map(|subscriber| scenario.heard(subscriber))
            .filter_map(|stream| sent.get(&stream))
            .sum()
    }

    /// The report of the last stage, with what the earlier ones have sent.
    fn report(self, mut ran: Ran) -> Report {
        let is_staged = self.done.len() > 1;
        for earlier in self.earlier {
            ran.first_fault = earlier.first_fault.or(ran.first_fault);
            ran.samples.last.totals.disconnected += earlier.samples.last.totals.disconnected;
            ran.outcomes.extend(earlier.outcomes);
        }
        let mut report = assemble(self.settings, ran);
        if is_staged {
            report.stages = self.done;
        }
        report
    }
}
