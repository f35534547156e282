//! One shard's thread: a glommio executor, and in it the task that has the shard's turns.
//!
//! The rules for glommio 0.9 live here and in `sleeper`: placement on an explicit core, a short
//! preempt timer, little I/O memory of its own, the turns in a queue that matters to latency, a
//! waker by which the watchdog wakes an executor that parked with work to do, and a panic caught
//! at the edge: it ends the node, and recovery does the rest.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};

use crate::driver::Driver;
use crate::error::StartError;
use crate::machine::{Failure, Machine, Now};
use crate::mesh::{Bell, Mesh};
use crate::shared::Shared;
use crate::sleeper::{Signal, Sleeper};

/// How long one task may run before the executor looks at its I/O.
const PREEMPT: Duration = Duration::from_micros(250);

/// Memory for the executor's own I/O buffers, bytes; three rings register it.
const IO_MEMORY_BYTES: usize = 512 * 1024;

/// The scheduling share of the turns, out of 1000 each for the default queue and this one.
const TURN_SHARES: usize = 1000;

/// What a shard's thread tells the node.
#[derive(Debug)]
pub(crate) enum Report {
    /// Its listeners are open.
    Ready,
    /// It did not get that far.
    NotStarted(StartError),
    /// It has come to an orderly end.
    Stopped,
    /// It cannot go on.
    Failed(String),
}

/// Everything a shard's thread needs.
pub(crate) struct Plan<B> {
    pub(crate) mesh: Mesh<B>,
    pub(crate) listeners: Vec<OwnedFd>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) started: Instant,
    /// Gets the waker by which the watchdog un-parks the executor.
    pub(crate) waker: flume::Sender<Waker>,
}

/// Starts one shard's thread, and if need be another.
///
/// An executor can park before its first task has run, when there is no waker of it yet. So the
/// thread's task fetches the plan when it runs; while nobody has, a new thread may be started, and
/// one that comes late finds nothing to do.
pub(crate) struct Starter<M: Machine, F> {
    shard: usize,
    /// The core to run on; `None`: wherever the scheduler likes.
    core: Option<usize>,
    reports: flume::Sender<(usize, Report)>,
    plans: flume::Receiver<(Plan<M::Batch>, F)>,
}

impl<M, F, R> Starter<M, F>
where
    M: Machine,
    F: FnOnce(Rc<Signal>) -> R + Send + 'static,
    R: Future<Output = Result<M, StartError>> + 'static,
{
    /// `open` makes the machine on the shard's thread, inside the executor; the signal wakes the
    /// shard when the disk has finished something.
    pub(crate) fn new(
        shard: usize,
        core: Option<usize>,
        reports: flume::Sender<(usize, Report)>,
        plan: Plan<M::Batch>,
        open: F,
    ) -> Self {
        let (sender, plans) = flume::bounded(1);
        let kept = sender.send((plan, open)).is_ok();
        debug_assert!(kept, "the receiver is still here");
        Self {
            shard,
            core,
            reports,
            plans,
        }
    }

    /// Whether a thread has fetched the plan.
    pub(crate) fn is_running(&self) -> bool {
        self.plans.is_empty()
    }

    /// Starts a thread.
    pub(crate) fn spawn(&self) -> io::Result<JoinHandle<()>> {
        let (shard, core) = (self.shard, self.core);
        let (reports, plans) = (self.reports.clone(), self.plans.clone());
        Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || {
                let run = || run(shard, core, &plans, &reports);
                let report = catch_unwind(AssertUnwindSafe(run))
                    .unwrap_or_else(|panic| Some(Report::Failed(panic_text(panic.as_ref()))));
                if let Some(report) = report {
                    // The node has gone when nobody listens.
                    drop(reports.send((shard, report)));
                }
            })
    }
}

/// `None`: another thread runs the shard.
fn run<M, F, R>(
    shard: usize,
    core: Option<usize>,
    plans: &flume::Receiver<(Plan<M::Batch>, F)>,
    reports: &flume::Sender<(usize, Report)>,
) -> Option<Report>
where
    M: Machine,
    F: FnOnce(Rc<Signal>) -> R + Send + 'static,
    R: Future<Output = Result<M, StartError>> + 'static,
{
    let placement = core.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .preempt_timer(PREEMPT)
        .io_memory(IO_MEMORY_BYTES)
        .make();
    match executor {
        Ok(executor) => executor.run(async {
            let (plan, open) = plans.try_recv().ok()?;
            tell_waker(&plan.waker).await;
            Some(live(shard, plan, open, reports).await)
        }),
        Err(error) => Some(Report::NotStarted(StartError::System(format!(
            "shard {shard}: the executor cannot start: {error}"
        )))),
    }
}

/// Sends the waker of this task: waking it un-parks the executor.
async fn tell_waker(waker: &flume::Sender<Waker>) {
    poll_fn(|context| {
        // Without a watchdog there is nobody to tell.
        drop(waker.send(context.waker().clone()));
        Poll::Ready(())
    })
    .await;
}

async fn live<M, F, R>(
    shard: usize,
    plan: Plan<M::Batch>,
    open: F,
    reports: &flume::Sender<(usize, Report)>,
) -> Report
where
    M: Machine,
    F: FnOnce(Rc<Signal>) -> R + 'static,
    R: Future<Output = Result<M, StartError>> + 'static,
{
    let queue = glommio::executor().create_task_queue(
        Shares::Static(TURN_SHARES),
        Latency::Matters(Duration::from_millis(1)),
        "turns",
    );
    let Plan {
        mesh,
        listeners,
        shared,
        started,
        ..
    } = plan;
    let unstarted = |problem: String| {
        Report::NotStarted(StartError::System(format!("shard {shard}: {problem}")))
    };
    let Some(bell) = mesh.bells().get(shard) else {
        return unstarted("no bell".to_owned());
    };
    let sleeper = match Sleeper::new(bell.event()) {
        Ok((sleeper, reader)) => {
            drop(glommio::spawn_local_into(reader, queue).map(glommio::Task::detach));
            sleeper
        }
        Err(error) => return unstarted(error.to_string()),
    };
    let mut driver = match open(sleeper.signal()).await {
        Ok(machine) => match Driver::new(shard, machine, mesh, listeners, shared) {
            Ok(driver) => driver,
            Err(error) => return unstarted(error.to_string()),
        },
        Err(error) => return Report::NotStarted(error),
    };
    driver.name_meters();
    if let Err(error) = driver.listen() {
        return unstarted(format!("cannot listen: {error}"));
    }
    if reports.send((shard, Report::Ready)).is_err() {
        return Report::Stopped;
    }
    let turns = async move { take_turns(driver, sleeper, started).await };
    match glommio::spawn_local_into(turns, queue) {
        Ok(task) => match task.await {
            Ok(()) => Report::Stopped,
            Err(Failure(problem)) => Report::Failed(problem),
        },
        Err(error) => unstarted(error.to_string()),
    }
}

async fn take_turns<M: Machine>(
    mut driver: Driver<M>,
    sleeper: Sleeper,
    started: Instant,
) -> Result<(), Failure> {
    driver.enter()?;
    while !driver.is_finished() {
        let worked = driver.turn(read_clocks(started))?;
        driver.count_turn();
        if worked {
            glommio::yield_if_needed().await;
            continue;
        }
        driver.bell().going_to_sleep();
        if driver.may_sleep() {
            sleeper.sleep().await;
        }
        driver.bell().awake();
        driver.enter()?;
    }
    Ok(())
}

/// The clocks of a turn.
fn read_clocks(started: Instant) -> Now {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let wall = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        monotonic_ms: millis(started.elapsed()),
        wall_ms: millis(wall),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}

/// Wakes every shard, whatever it does.
pub(crate) fn ring_all(bells: &[Bell]) {
    bells.iter().for_each(|bell| bell.event().signal());
}
