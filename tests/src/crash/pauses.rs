//! SIGSTOP and SIGCONT at random points under load: a node that stands still for a while, as under
//! a debugger, a snapshot of its machine or a machine without time for it, loses nothing.
//!
//! While it stands still its sockets take bytes, its clients wait, and its clock goes on.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::{Laboratory, Report, Round, seed};
use crate::node::{Broker, DEADLINE};

/// Pauses in one round.
const PAUSES: u64 = 20;
/// Messages that each publisher sends in a round.
const MESSAGES: u64 = 300;
/// Reports between two pauses at most.
const REPORTS_MAX: u64 = 250;
/// Without a report for so long, everything that a stopped node has sent has arrived. The random
/// part lets timers of the node run out while it stands still: commits, markers, its watchdog.
const SILENCE_MS_MIN: u64 = 10;
const SILENCE_MS_MAX: u64 = 300;

impl Laboratory {
    /// Stops and continues the node while its clients work.
    pub(super) fn pause_under_load(&mut self, reports: &Receiver<Report>) {
        for _ in 0..PAUSES {
            for _ in 0..self.random.below(REPORTS_MAX) {
                match reports.recv_timeout(DEADLINE) {
                    Ok(report) => self.record(&report),
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        panic!("no client gets on: {}", self.waiting())
                    }
                }
            }
            self.stop_until_silent(reports);
            self.node.signal("CONT");
        }
    }

    fn stop_until_silent(&mut self, reports: &Receiver<Report>) {
        self.node.signal("STOP");
        let silence = SILENCE_MS_MIN + self.random.below(SILENCE_MS_MAX - SILENCE_MS_MIN);
        while let Ok(report) = reports.recv_timeout(Duration::from_millis(silence)) {
            self.record(&report);
        }
    }
}

#[test]
fn a_node_that_stands_still_now_and_then_loses_and_repeats_nothing() {
    let seed = seed();
    println!("crash: CORELANE_CRASH_SEED={seed}");
    let mut laboratory = Laboratory::new(seed);
    laboratory.round(Round::Paused(MESSAGES));
    // What it wrote to its sockets and disk before it was stopped counts after a crash as well.
    if laboratory.node.broker() == Broker::Corelane {
        laboratory.node.signal("STOP");
        laboratory.node.kill9();
        laboratory.node.run();
    }
    laboratory.round(Round::Paused(MESSAGES));
    laboratory.round(Round::ToTheEnd);
    if let Err(violation) = laboratory.history.finish() {
        panic!("{violation}");
    }
    let totals = laboratory.history.totals();
    println!("crash: {} pauses: {totals:?}", 2 * PAUSES);
    assert_eq!(totals.acknowledged, totals.published, "{totals:?}");
}
