//! Conducts a run from the main thread: starts the workers, moves them from phase to phase, takes
//! the samples at both ends of the measured window, prints progress.

use std::io::{self, Write};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::assemble::{Sample, Samples};
use crate::error::BenchError;
use crate::plan;
use crate::run_state::{Clock, RunState, Totals};
use crate::scenario::Hears;
use crate::server_usage::Usage;
use crate::settings::{Load, Settings, Stage};
use crate::worker::{Outcome, Worker};

/// File descriptors that are not client sockets.
const DESCRIPTOR_RESERVE: u64 = 64;
/// Between the last client ready and the first message.
const LEAD_NS: u64 = 20_000_000;
/// How long connecting may make no progress.
const SETUP_NS_MAX: u64 = 10_000_000_000;
/// How often the main thread looks.
const LOOK: Duration = Duration::from_millis(1);
/// Looks that are kept for the report.
const LOOK_COUNT_MAX: usize = 10_000;
const SECOND_NS: u64 = 1_000_000_000;

type Handles<'s> = [ScopedJoinHandle<'s, Result<Outcome, BenchError>>];

/// What a stage leaves behind.
pub(crate) struct Ran {
    pub(crate) samples: Samples,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) setup_ns: u64,
    pub(crate) first_fault: Option<String>,
    /// Looks at the counters, an interval apart, from the start of the measured window on.
    pub(crate) looks: Vec<Sample>,
}

/// A clock and a tag for all stages of a run.
pub(crate) fn start_run() -> (Clock, u8) {
    (Clock::start(), run_tag())
}

/// Makes one stage of a run.
///
/// # Errors
/// When clients can't connect, the system lacks something, or a worker fails. Faults of the broker
/// under load are in the report.
pub(crate) fn run(settings: &Settings, clock: Clock, tag: u8) -> Result<Ran, BenchError> {
    raise_descriptor_limit(settings.client_count())?;
    let threads = settings.target.threads;
    let state = RunState::new(clock, tag, threads, settings.scenario.publishers);
    let mut parts = vec![Vec::new(); threads];
    for client in plan::clients(settings) {
        if let Some(part) = parts.get_mut(client.worker) {
            part.push(client);
        }
    }
    let workers = parts
        .into_iter()
        .zip(&state.counters)
        .map(|(clients, counters)| Worker::new(settings, &state, counters, clients))
        .collect::<Result<Vec<_>, _>>()?;
    thread::scope(|scope| {
        let handles: Vec<_> = workers
            .into_iter()
            .map(|worker| scope.spawn(move || worker.run()))
            .collect();
        let mut conductor = Conductor {
            settings,
            state: &state,
            progress: Progress::default(),
            looks: Vec::new(),
        };
        let samples = conductor.conduct(&handles);
        // Whatever happened, the workers must end before the scope does.
        state.close();
        let mut outcomes = Vec::with_capacity(threads);
        for handle in handles {
            outcomes.push(handle.join().map_err(|_| BenchError::WorkerPanicked)??);
        }
        Ok(Ran {
            samples: samples?,
            outcomes,
            setup_ns: state.setup_ns,
            first_fault: state.first_fault().map(str::to_owned),
            looks: conductor.looks,
        })
    })
}

struct Conductor<'a> {
    settings: &'a Settings,
    state: &'a RunState,
    progress: Progress,
    looks: Vec<Sample>,
}

impl Conductor<'_> {
    fn conduct(&mut self, handles: &Handles<'_>) -> Result<Samples, BenchError> {
        let first = self.sample();
        self.await_ready(handles)?;
        let ready = self.sample();
        if self.settings.stage == Stage::Park {
            return Ok(Samples::until_ready(first, ready, ready));
        }
        if let Stage::CatchUp { .. } = self.settings.stage {
            self.looks.extend([first, ready]);
            // What is to come has been published already.
            if let Some(load) = &self.settings.load {
                self.drain(load, handles);
            }
            let end = self.sample();
            return Ok(Samples {
                start: first,
                end,
                ..Samples::until_ready(first, ready, end)
            });
        }
        let Some(load) = &self.settings.load else {
            self.watch_until(ready.at_ns + self.settings.hold_ns, handles);
            let end = self.sample();
            return Ok(Samples::until_ready(first, ready, end));
        };
        let start_ns = self.state.clock.now_ns() + LEAD_NS;
        self.state.load_from(start_ns);
        self.watch_until(start_ns + load.warm_up_ns, handles);
        let start = self.sample();
        self.looks.push(start);
        self.watch_until(start_ns + load.warm_up_ns + load.duration_ns, handles);
        let end = self.sample();
        self.drain(load, handles);
        Ok(Samples {
            first,
            ready,
            start,
            end,
            last: self.sample(),
        })
    }

    /// Waits until every client is ready or has failed.
    fn await_ready(&mut self, handles: &Handles<'_>) -> Result<(), BenchError> {
        let wanted = self.settings.client_count();
        let mut before = self.state.totals();
        let mut changed_ns = self.state.clock.now_ns();
        loop {
            let totals = self.state.totals();
            let now_ns = self.state.clock.now_ns();
            if totals != before {
                (before, changed_ns) = (totals, now_ns);
            }
            let is_complete = totals.ready + totals.failed >= wanted;
            let is_stuck = now_ns - changed_ns > SETUP_NS_MAX || is_any_finished(handles);
            let has_failed = totals.failed > 0 && self.settings.load.is_some();
            if is_stuck || has_failed || (is_complete && totals.ready == 0) {
                let reason = self
                    .state
                    .first_fault()
                    .unwrap_or("no answer for 10 s")
                    .to_owned();
                return Err(BenchError::Setup {
                    ready: totals.ready,
                    wanted,
                    reason,
                });
            }
            if is_complete {
                return Ok(());
            }
            self.show_progress(now_ns, totals);
            thread::sleep(LOOK);
        }
    }

    /// Shows progress until a time, or until nobody is left.
    fn watch_until(&mut self, end_ns: u64, handles: &Handles<'_>) {
        loop {
            let now_ns = self.state.clock.now_ns();
            let totals = self.state.totals();
            let is_over = now_ns >= end_ns || self.has_sent_all(totals);
            if is_over || self.is_deserted(totals) || is_any_finished(handles) {
                return;
            }
            self.show_progress(now_ns, totals);
            thread::sleep(Duration::from_nanos(end_ns - now_ns).min(10 * LOOK));
        }
    }

    /// Waits for what is underway, as long as something comes.
    ///
    /// Counters are believed only when every worker has made a whole turn since they last changed:
    /// on a busy machine a worker may be away for longer than any patience here.
    fn drain(&mut self, load: &Load, handles: &Handles<'_>) {
        let fan_out = self.settings.fan_out();
        let planned = self.settings.planned_count().unwrap_or(0);
        let mut before = self.state.totals();
        let mut turns_before = self.state.turns();
        let mut changed_ns = self.state.clock.now_ns();
        // A slow reader makes progress for ever: what it is behind is to be seen.
        let is_slow = matches!(self.settings.scenario.hears, Hears::Slow { .. });
        let end_ns = changed_ns + if is_slow { load.drain_ns } else { u64::MAX / 2 };
        loop {
            // Turns first: what they have written is then in the totals.
            let turns = self.state.turns();
            let totals = self.state.totals();
            let now_ns = self.state.clock.now_ns();
            if totals != before {
                (before, changed_ns) = (totals, now_ns);
                turns_before.clone_from(&turns);
            }
            let is_current = turns
                .iter()
                .zip(&turns_before)
                .all(|(now, then)| *now >= then + 2);
            let is_complete = match self.settings.stage {
                Stage::CatchUp { expected, .. } => totals.delivered >= expected,
                Stage::Whole | Stage::Park | Stage::Fill | Stage::Clear => {
                    totals.sent >= planned
                        && totals.delivered >= totals.sent * fan_out
                        && totals.in_flight == 0
                }
            };
            let patience_ns = if is_complete {
                LEAD_NS
            } else {
                load.drain_ns.max(2 * LEAD_NS)
            };
            let is_over = is_current && (now_ns - changed_ns > patience_ns || now_ns > end_ns);
            if is_over || self.is_deserted(totals) || is_any_finished(handles) {
                return;
            }
            self.show_progress(now_ns, totals);
            thread::sleep(LOOK);
        }
    }

    fn is_deserted(&self, totals: Totals) -> bool {
        totals.disconnected + totals.failed >= self.settings.client_count()
    }

    /// Whether `--count` has ended the load, and everything has arrived.
    fn has_sent_all(&self, totals: Totals) -> bool {
        let load = self.settings.load.as_ref();
        load.is_some_and(|load| load.count.is_some())
            && self
                .settings
                .planned_count()
                .is_some_and(|planned| totals.sent >= planned)
            && totals.in_flight == 0
            && totals.delivered >= totals.sent * self.settings.fan_out()
    }

    fn sample(&self) -> Sample {
        let server = self
            .settings
            .target
            .server_pid
            .and_then(|pid| Usage::read(pid).ok());
        Sample {
            totals: self.state.totals(),
            server,
            generator: Usage::read(std::process::id()).ok(),
            at_ns: self.state.clock.now_ns(),
        }
    }

    fn show_progress(&mut self, now_ns: u64, totals: Totals) {
        let interval_ns = self.settings.interval_ns();
        let is_due = |look: &Sample| now_ns.saturating_sub(look.at_ns) >= interval_ns;
        if self.looks.last().is_some_and(is_due) && self.looks.len() < LOOK_COUNT_MAX {
            self.looks.push(self.sample());
        }
        if self.settings.target.quiet {
            return;
        }
        if let Some(line) = self.progress.line(now_ns, totals) {
            // A closed stderr is no reason to stop measuring.
            writeln!(io::stderr().lock(), "{line}").ok();
        }
    }
}

/// Makes one line per second.
#[derive(Debug, Default)]
struct Progress {
    shown_ns: u64,
    shown: Totals,
}

impl Progress {
    fn line(&mut self, now_ns: u64, totals: Totals) -> Option<String> {
        let elapsed_ns = now_ns
            .checked_sub(self.shown_ns)
            .filter(|ns| *ns >= SECOND_NS)?;
        let rate = |now: u64, before: u64| {
            now.saturating_sub(before) as f64 * SECOND_NS as f64 / elapsed_ns as f64
        };
        let line = format!(
            "{:>5.1} s  {} ready  {:.0} sent/s  {:.0} delivered/s  {} in flight  \
             {} lost connections",
            now_ns as f64 / SECOND_NS as f64,
            totals.ready,
            rate(totals.sent, self.shown.sent),
            rate(totals.delivered, self.shown.delivered),
            totals.in_flight,
            totals.disconnected + totals.failed,
        );
        *self = Self {
            shown_ns: now_ns,
            shown: totals,
        };
        Some(line)
    }
}

/// Workers end only when told to: an early end is a fault of the system or a panic.
fn is_any_finished(handles: &Handles<'_>) -> bool {
    handles.iter().any(ScopedJoinHandle::is_finished)
}

/// Any number that the last runs are unlikely to have had.
fn run_tag() -> u8 {
    let elapsed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let [low, next, ..] = elapsed.as_micros().to_le_bytes();
    low ^ next.rotate_left(3)
}

fn raise_descriptor_limit(clients: u64) -> Result<(), BenchError> {
    let needed = clients + DESCRIPTOR_RESERVE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        return Err(BenchError::Options(format!(
            "{clients} clients need {needed} file descriptors, and the hard limit is {}",
            limit.maximum.unwrap_or(0)
        )));
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(needed),
            maximum: limit.maximum,
        },
    )
    .map_err(|errno| BenchError::System {
        doing: "raising the limit of file descriptors",
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_shown_once_a_second_as_rates() {
        let mut progress = Progress::default();
        let totals = Totals {
            sent: 1_000,
            delivered: 500,
            ..Totals::default()
        };
        assert_eq!(progress.line(SECOND_NS - 1, totals), None);
        let line = progress.line(2 * SECOND_NS, totals).unwrap();
        assert!(
            line.contains("500 sent/s") && line.contains("250 delivered/s"),
            "{line}"
        );
        assert_eq!(progress.line(2 * SECOND_NS + 1, totals), None);
        let line = progress.line(3 * SECOND_NS, totals).unwrap();
        assert!(line.contains(" 0 sent/s"), "{line}");
    }

    #[test]
    fn too_many_clients_are_refused_before_anything_starts() {
        let error = raise_descriptor_limit(u64::MAX / 2)
            .err()
            .map(|error| error.to_string());
        // Without a hard limit there is nothing to refuse.
        if getrlimit(Resource::Nofile).maximum.is_some() {
            assert!(error.unwrap().contains("hard limit"));
        }
    }
}
