//! One shard's thread: a glommio executor, and in it the one task that has the shard's turns.
//!
//! The executor gives placement on an explicit core and the edge at which a panic is caught: it
//! ends the node, and recovery does the rest. Its reactor does nothing while the shard lives:
//! sockets and disk have io_uring rings of their own, and a shard without work sleeps in that of
//! its sockets, which also watches the eventfd that the disk's ring and other shards signal.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use glommio::{LocalExecutorBuilder, Placement};

use crate::driver::Driver;
use crate::error::StartError;
use crate::machine::{Failure, Machine, Now};
use crate::mesh::{Bell, Mesh};
use crate::shared::Shared;

/// Memory for the executor's own I/O buffers, bytes; three rings register it.
const IO_MEMORY_BYTES: usize = 512 * 1024;

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

impl<M, F> Starter<M, F>
where
    M: Machine,
    F: FnOnce(BorrowedFd<'_>) -> Result<M, StartError> + Send + 'static,
{
    /// `open` makes the machine on the shard's thread, inside the executor; it is given the
    /// eventfd that wakes the shard.
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
fn run<M, F>(
    shard: usize,
    core: Option<usize>,
    plans: &flume::Receiver<(Plan<M::Batch>, F)>,
    reports: &flume::Sender<(usize, Report)>,
) -> Option<Report>
where
    M: Machine,
    F: FnOnce(BorrowedFd<'_>) -> Result<M, StartError> + Send + 'static,
{
    let placement = core.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .io_memory(IO_MEMORY_BYTES)
        .make();
    match executor {
        Ok(executor) => executor.run(async {
            let (plan, open) = plans.try_recv().ok()?;
            tell_waker(&plan.waker).await;
            Some(live(shard, plan, open, reports))
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

/// The shard's life. It never waits for the executor.
fn live<M, F>(
    shard: usize,
    plan: Plan<M::Batch>,
    open: F,
    reports: &flume::Sender<(usize, Report)>,
) -> Report
where
    M: Machine,
    F: FnOnce(BorrowedFd<'_>) -> Result<M, StartError>,
{
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
    let bells = Arc::clone(mesh.bells());
    let Some(bell) = bells.get(shard) else {
        return unstarted("no bell".to_owned());
    };
    let machine = match open(bell.event().as_fd()) {
        Ok(machine) => machine,
        Err(error) => return Report::NotStarted(error),
    };
    let mut driver = match Driver::new(shard, machine, mesh, listeners, shared) {
        Ok(driver) => driver,
        Err(error) => return unstarted(error.to_string()),
    };
    driver.name_meters();
    if let Err(error) = driver.listen() {
        return unstarted(format!("cannot listen: {error}"));
    }
    if reports.send((shard, Report::Ready)).is_err() {
        return Report::Stopped;
    }
    match take_turns(driver, bell, started) {
        Ok(()) => Report::Stopped,
        Err(Failure(problem)) => Report::Failed(problem),
    }
}

fn take_turns<M: Machine>(
    mut driver: Driver<M>,
    bell: &Bell,
    started: Instant,
) -> Result<(), Failure> {
    while !driver.is_finished() {
        let now = read_clocks(started);
        let worked = driver.turn(now)?;
        driver.count_turn();
        if worked {
            continue;
        }
        bell.going_to_sleep();
        if driver.may_sleep() {
            driver.sleep(now)?;
        }
        bell.awake();
    }
    Ok(())
}

/// The clocks of a turn.
pub(crate) fn read_clocks(started: Instant) -> Now {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let since = started.elapsed();
    let wall = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        monotonic_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
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
