//! Starts the threads of a node and waits for them: listeners, one executor per shard, watchdog.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::auth::Auth;
use crate::descriptors::Descriptors;
use crate::error::{RunError, StartError};
use crate::executor::{self, Plan, Report, Starter};
use crate::machine::Machine;
use crate::mesh::{self, Bell};
use crate::orders::Orders;
use crate::shared::Shared;
use crate::socket;
use crate::system;
use crate::transport::{Doorway, Doorways, ServerTls};
use crate::url::ListenUrl;
use crate::users::Users;
use crate::watchdog::{self, Watched};

/// How long a shard's thread may take to run its first task, and how often another is started.
const START_PATIENCE: Duration = Duration::from_millis(100);
const START_ATTEMPTS: u32 = 6;

/// A node's threads.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    bells: Arc<[Bell]>,
    reports: flume::Receiver<(usize, Report)>,
    shards: Vec<JoinHandle<()>>,
    /// Dropped, it ends the watchdog.
    watchdog: Option<flume::Sender<()>>,
    listeners: Vec<ListenUrl>,
}

/// Asks a node to stop, from any thread.
#[derive(Clone)]
pub struct StopHandle {
    shared: Arc<Shared>,
    bells: Arc<[Bell]>,
}

impl std::fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StopHandle")
            .field("stopping", &self.shared.is_stopping())
            .finish()
    }
}

impl StopHandle {
    /// Begins an orderly stop. Returns false when it had begun before.
    #[must_use]
    pub fn stop(&self) -> bool {
        let first = self.shared.stop();
        executor::ring_all(&self.bells);
        first
    }
}

/// How many shards there are, and the core of each.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) cores: Vec<Option<usize>>,
    /// The first so many take connections.
    pub(crate) homes: usize,
}

impl Placement {
    /// One shard per core unless `shards` says otherwise. More shards than cores float.
    pub(crate) fn choose(shards: Option<u8>) -> Result<Self, StartError> {
        let cores = system::cores().map_err(|error| {
            StartError::System(format!("the cores of this process cannot be read: {error}"))
        })?;
        let most = usize::from(crate::config::SHARDS_MAX);
        let count = shards.map_or_else(|| cores.len().clamp(1, most), usize::from);
        if count > cores.len() {
            warn!(
                shards = count,
                cores = cores.len(),
                "more shards than cores: shards are not \
                  pinned and share the cores"
            );
            return Ok(Self {
                cores: vec![None; count],
                homes: count,
            });
        }
        Ok(Self {
            cores: cores.into_iter().take(count).map(Some).collect(),
            homes: count,
        })
    }

    /// With the shards that only serve their sealed logs: they float, and mostly sleep.
    pub(crate) fn seal(&mut self, shards: usize) {
        self.cores.resize(shards.max(self.homes), None);
    }
}

/// Where clients come in.
#[derive(Clone, Copy)]
pub(crate) struct Doors<'a> {
    pub(crate) listen: &'a [ListenUrl],
    /// There is one when a listener needs it.
    pub(crate) tls: Option<&'a ServerTls>,
    /// Who may connect, and whether those that do not say who they are may, too.
    pub(crate) users: Option<(&'a Users, bool)>,
    /// Whether rules may ask where a client comes from.
    pub(crate) has_rules: bool,
}

/// Starts everything and returns when every shard's listeners are open. `open` gives each shard
/// what makes its machine. The machines' monotonic clocks count from `started`.
pub(crate) fn start<M, F>(
    placement: &Placement,
    doors: Doors<'_>,
    descriptors: Arc<Descriptors>,
    started: Instant,
    mut open: impl FnMut(usize) -> F,
) -> Result<Threads, StartError>
where
    M: Machine,
    F: FnOnce(BorrowedFd<'_>) -> Result<M, StartError> + Send + 'static,
{
    let count = placement.cores.len();
    let Bound {
        urls: listeners,
        doorways,
        mut sockets,
    } = bind_all(doors.listen, placement.homes)?;
    let doorways = Doorways::new(doorways, count, doors.tls);
    let meshes = mesh::build::<M::Batch>(count).map_err(system)?;
    let bells = meshes
        .first()
        .map_or_else(|| Arc::from([]), |mesh| Arc::clone(mesh.bells()));
    let auth = match doors.users {
        None => None,
        Some((users, allows_anonymous)) => {
            let bells = Arc::clone(&bells);
            Some(Auth::start(users.clone(), allows_anonymous, bells).map_err(system)?)
        }
    };
    let homes = u8::try_from(placement.homes).unwrap_or(u8::MAX);
    let orders = Orders::new(Arc::clone(&bells), homes, doors.has_rules);
    let shared = Shared::limited(count, descriptors, doorways, auth, orders);
    let (reporter, reports) = flume::unbounded();
    let mut watched = Vec::with_capacity(count);
    let mut starters = Vec::with_capacity(count);
    for (shard, (mesh, core)) in meshes.into_iter().zip(&placement.cores).enumerate() {
        let (waker, told) = flume::bounded(1);
        watched.push(Watched::new(told));
        let listeners = sockets.pop().unwrap_or_default();
        let plan = Plan {
            mesh,
            listeners,
            shared: Arc::clone(&shared),
            started,
            waker,
        };
        starters.push(Starter::<M, F>::new(
            shard,
            *core,
            reporter.clone(),
            plan,
            open(shard),
        ));
    }
    drop((open, reporter));
    let (watchdog, stopped) = flume::bounded(0);
    drop(watchdog::spawn(Arc::clone(&shared), watched, stopped).map_err(system)?);
    let shards = run_all(&starters)?;
    let watchdog = Some(watchdog);
    let threads = Threads {
        shared,
        bells,
        reports,
        shards,
        watchdog,
        listeners,
    };
    drop(starters);
    threads.wait_until_ready()?;
    Ok(threads)
}

/// Starts the threads of all shards; a thread that does not come to run its shard gets a successor.
fn run_all<M, F>(starters: &[Starter<M, F>]) -> Result<Vec<JoinHandle<()>>, StartError>
where
    M: Machine,
    F: FnOnce(BorrowedFd<'_>) -> Result<M, StartError> + Send + 'static,
{
    let mut threads = starters
        .iter()
        .map(Starter::spawn)
        .collect::<io::Result<Vec<_>>>()
        .map_err(system)?;
    for attempt in 1..=START_ATTEMPTS {
        let until = Instant::now() + START_PATIENCE * attempt;
        while Instant::now() < until && !starters.iter().all(Starter::is_running) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        for (starter, thread) in starters.iter().zip(&mut threads) {
            if !starter.is_running() && !thread.is_finished() {
                *thread = starter.spawn().map_err(system)?;
            }
        }
    }
    Ok(threads)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is the argument of map_err"
)]
fn system(error: io::Error) -> StartError {
    StartError::System(format!("starting threads: {error}"))
}

/// Listeners that are bound and do not listen yet.
struct Bound {
    urls: Vec<ListenUrl>,
    /// By listener, as the shards number them.
    doorways: Vec<Doorway>,
    /// By home, the first shard's last. Sealed shards have none.
    sockets: Vec<Vec<OwnedFd>>,
}

/// Binds every address once per home, and Unix sockets behind them for the first shard, as
/// several cannot share one. A port that somebody else has is found here; none listens.
fn bind_all(listen: &[ListenUrl], shards: usize) -> Result<Bound, StartError> {
    let mut urls = Vec::with_capacity(listen.len());
    let mut doorways = Vec::new();
    let mut sockets: Vec<Vec<OwnedFd>> = (0..shards).map(|_| Vec::new()).collect();
    for url in listen {
        let mut port = url.port();
        for mut address in url.resolve().map_err(|error| refused(url, &error))? {
            address.set_port(port);
            port = bind_shared(address, &mut sockets).map_err(|error| refused(url, &error))?;
            doorways.push(url.doorway());
        }
        urls.push(url.with_port(port));
    }
    for url in listen {
        if let (Some(path), Some(first)) = (url.socket_path(), sockets.last_mut()) {
            first.push(socket::bind_path(&path).map_err(|error| refused(url, &error))?);
            doorways.push(url.doorway());
        }
    }
    Ok(Bound {
        urls,
        doorways,
        sockets,
    })
}

fn refused(url: &ListenUrl, error: &io::Error) -> StartError {
    StartError::Listen {
        url: url.clone(),
        taken: error.kind() == io::ErrorKind::AddrInUse,
        error: error.to_string(),
    }
}

fn bind_shared(mut address: SocketAddr, sockets: &mut [Vec<OwnedFd>]) -> io::Result<u16> {
    // With SO_REUSEPORT alone a second node of the same user would share the port unseen.
    let alone = socket::bind(address, false)?;
    address.set_port(socket::local_address(&alone)?.port());
    drop(alone);
    for shard in sockets {
        shard.push(socket::bind(address, true)?);
    }
    Ok(address.port())
}

impl Threads {
    fn wait_until_ready(&self) -> Result<(), StartError> {
        let mut others = None;
        for _ in 0..self.shards.len() {
            let problem = match self.reports.recv() {
                Ok((_, Report::Ready)) => continue,
                Ok((_, Report::NotStarted(error))) => error,
                Ok((shard, Report::Failed(problem))) => {
                    StartError::System(RunError::Shard { shard, problem }.to_string())
                }
                Ok((_, Report::Stopped)) | Err(_) => {
                    StartError::System("a shard ended while the node started".to_owned())
                }
            };
            // The shards that wait for the failed one have less to say.
            if !matches!(problem, StartError::System(_)) {
                return Err(problem);
            }
            others.get_or_insert(problem);
        }
        others.map_or(Ok(()), Err)
    }

    /// The listeners, with the ports that the kernel chose.
    pub(crate) fn listeners(&self) -> &[ListenUrl] {
        &self.listeners
    }

    /// What the threads share.
    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn stop_handle(&self) -> StopHandle {
        StopHandle {
            shared: Arc::clone(&self.shared),
            bells: Arc::clone(&self.bells),
        }
    }

    /// Waits until all shards have come to an orderly end, or one has failed: then the others are
    /// not waited for, and the process should end.
    pub(crate) fn wait(mut self) -> Result<(), RunError> {
        for _ in 0..self.shards.len() {
            match self.reports.recv() {
                Ok((shard, Report::Stopped)) => info!(shard, "stopped"),
                Ok((shard, Report::Failed(problem))) => {
                    return Err(RunError::Shard { shard, problem });
                }
                Ok((shard, other)) => {
                    return Err(RunError::Shard {
                        shard,
                        problem: format!("{other:?}"),
                    });
                }
                Err(_) => break,
            }
        }
        for thread in self.shards.drain(..) {
            // Its report has told how it ended.
            drop(thread.join());
        }
        self.watchdog = None;
        for path in self.listeners.iter().filter_map(ListenUrl::socket_path) {
            socket::remove_path(&path);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "threads_tests.rs"]
mod tests;
