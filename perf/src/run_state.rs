//! What the main thread and the workers of a run share: a phase, a start time, and counters.
//!
//! Only relaxed atomics on lines of their own; a worker writes its counters once per turn of its
//! loop, the main thread reads them for the progress line and at both ends of the measured window.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

/// The clock of a run: nanoseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            epoch: Instant::now(),
        }
    }

    pub(crate) fn now_ns(self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What workers do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connect and subscribe.
    Setup,
    /// Send and receive, from the start time on.
    Load,
    /// Disconnect and end.
    Close,
}

/// One worker's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) connected: AtomicU64,
    pub(crate) ready: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) disconnected: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) delivered: AtomicU64,
    /// Turns of the worker's loop, each of which has written all of the above.
    pub(crate) turns: AtomicU64,
}

/// The sum of all workers' counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) connected: u64,
    pub(crate) ready: u64,
    pub(crate) failed: u64,
    pub(crate) disconnected: u64,
    pub(crate) sent: u64,
    pub(crate) in_flight: u64,
    pub(crate) delivered: u64,
}

/// Shared by all threads of a run.
#[derive(Debug)]
pub(crate) struct RunState {
    pub(crate) clock: Clock,
    /// Tells this run's messages from those of an earlier one.
    pub(crate) run: u8,
    pub(crate) counters: Box<[Counters]>,
    /// Deliveries made of each publisher's messages, lost ones that were overtaken included:
    /// what the closed loop waits for.
    pub(crate) passed: Box<[AtomicU64]>,
    /// When the first connection may start.
    pub(crate) setup_ns: u64,
    phase: AtomicU8,
    start_ns: AtomicU64,
    first_fault: OnceLock<String>,
}

impl RunState {
    pub(crate) fn new(clock: Clock, run: u8, workers: usize, publishers: u32) -> Self {
        Self {
            clock,
            run,
            counters: (0..workers).map(|_| Counters::default()).collect(),
            passed: (0..publishers).map(|_| AtomicU64::new(0)).collect(),
            setup_ns: clock.now_ns(),
            phase: AtomicU8::new(0),
            start_ns: AtomicU64::new(u64::MAX),
            first_fault: OnceLock::new(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Setup,
            1 => Phase::Load,
            _ => Phase::Close,
        }
    }

    /// Starts the load at `start_ns`.
    pub(crate) fn load_from(&self, start_ns: u64) {
        self.start_ns.store(start_ns, Ordering::Relaxed);
        self.phase.store(1, Ordering::Release);
    }

    /// When the load starts; meaningful from phase `Load` on.
    pub(crate) fn start_ns(&self) -> u64 {
        self.start_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        self.phase.store(2, Ordering::Release);
    }

    /// Keeps the first fault of the run for the report.
    pub(crate) fn note_fault(&self, text: impl FnOnce() -> String) {
        self.first_fault.get_or_init(text);
    }

    pub(crate) fn first_fault(&self) -> Option<&str> {
        self.first_fault.get().map(String::as_str)
    }

    /// How many turns each worker has made.
    pub(crate) fn turns(&self) -> Vec<u64> {
        self.counters
            .iter()
            .map(|counters| counters.turns.load(Ordering::Acquire))
            .collect()
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for counters in &self.counters {
            totals.connected += counters.connected.load(Ordering::Relaxed);
            totals.ready += counters.ready.load(Ordering::Relaxed);
            totals.failed += counters.failed.load(Ordering::Relaxed);
            totals.disconnected += counters.disconnected.load(Ordering::Relaxed);
            totals.sent += counters.sent.load(Ordering::Relaxed);
            totals.in_flight += counters.in_flight.load(Ordering::Relaxed);
            totals.delivered += counters.delivered.load(Ordering::Relaxed);
        }
        totals
    }
}
