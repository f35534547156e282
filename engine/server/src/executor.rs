//! One shard's thread: a glommio executor, and in it the task that has the shard's turns.
//!
//! The rules for glommio 0.9 live here and in `sleeper`: placement on an explicit core, a short
//! preempt timer, little I/O memory of its own, the turns in a queue that matters to latency, a
//! channel through which the watchdog wakes an executor that parked with work to do, and a panic
//! caught at the edge: it ends the node, and recovery does the rest.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
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
    pub(crate) shard: usize,
    /// The core to run on; `None`: wherever the scheduler likes.
    pub(crate) core: Option<usize>,
    pub(crate) mesh: Mesh<B>,
    pub(crate) listeners: Vec<OwnedFd>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) started: Instant,
    pub(crate) reports: flume::Sender<(usize, Report)>,
    /// What the watchdog sends arrives here.
    pub(crate) nudges: flume::Receiver<()>,
}

/// Starts a shard's thread. `open` makes its machine on that thread, inside the executor; the
/// signal wakes the shard when the disk has finished something.
pub(crate) fn spawn<M, F>(plan: Plan<M::Batch>, open: F) -> io::Result<JoinHandle<()>>
where
    M: Machine,
    F: FnOnce(Rc<Signal>) -> Result<M, StartError> + Send + 'static,
{
    Builder::new()
        .name(format!("shard-{}", plan.shard))
        .spawn(move || {
            let (shard, reports) = (plan.shard, plan.reports.clone());
            let report = catch_unwind(AssertUnwindSafe(|| run(plan, open)))
                .unwrap_or_else(|panic| Report::Failed(panic_text(panic.as_ref())));
            // The node has gone when nobody listens.
            drop(reports.send((shard, report)));
        })
}

fn run<M, F>(plan: Plan<M::Batch>, open: F) -> Report
where
    M: Machine,
    F: FnOnce(Rc<Signal>) -> Result<M, StartError> + Send + 'static,
{
    let placement = plan.core.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .preempt_timer(PREEMPT)
        .io_memory(IO_MEMORY_BYTES)
        .make();
    match executor {
        Ok(executor) => executor.run(live(plan, open)),
        Err(error) => Report::NotStarted(StartError::System(format!(
            "shard {}: the executor cannot start: {error}",
            plan.shard
        ))),
    }
}

async fn live<M, F>(plan: Plan<M::Batch>, open: F) -> Report
where
    M: Machine,
    F: FnOnce(Rc<Signal>) -> Result<M, StartError> + 'static,
{
    let queue = glommio::executor().create_task_queue(
        Shares::Static(TURN_SHARES),
        Latency::Matters(Duration::from_millis(1)),
        "turns",
    );
    let Plan {
        shard,
        mesh,
        listeners,
        shared,
        started,
        reports,
        nudges,
        ..
    } = plan;
    let unstarted = |problem: String| {
        Report::NotStarted(StartError::System(format!("shard {shard}: {problem}")))
    };
    let spawned = glommio::spawn_local_into(
        // Received in the executor, a nudge un-parks it; nothing else is needed.
        async move { while nudges.recv_async().await.is_ok() {} },
        queue,
    );
    let Ok(nudged) = spawned else {
        return unstarted("no task queue".to_owned());
    };
    let nudged = nudged.detach();
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
    let mut driver = match open(sleeper.signal()) {
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
    let report = match glommio::spawn_local_into(turns, queue) {
        Ok(task) => match task.await {
            Ok(()) => Report::Stopped,
            Err(Failure(problem)) => Report::Failed(problem),
        },
        Err(error) => unstarted(error.to_string()),
    };
    drop(nudged);
    report
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
