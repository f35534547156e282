//! From a configuration to a running node, and to its end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use engine_shard::ClientLimits;
use storage_io::{DirectDisk, DirectoryLock, ErrorKind, RingQueue};
use storage_log::LogOptions;
use tracing::{info, warn};

use crate::checks;
use crate::config::{Config, Durability, SEGMENT_BYTES_LEAST};
use crate::descriptors::{Descriptors, Opened};
use crate::error::{RunError, StartError};
use crate::executor::read_clocks;
use crate::metrics::MetricsPage;
use crate::node::{NodeOptions, OpenError, RetentionOptions, ShardCore, ShardParts, open_node};
use crate::reload::ReloadHandle;
use crate::shard_machine::ShardMachine;
use crate::system::{self, Limit};
use crate::threads::{self, Doors, Placement, StopHandle, Threads};
use crate::transport::TlsFiles;
use crate::url::ListenUrl;

/// Bytes of the disk that the logs leave free, for each shard: a transaction of the state store and
/// a run of the index.
const FREE_BYTES_PER_SHARD: u64 = 32 << 20;

/// Bytes that each shard sets aside for a start on a full disk: the first segment of its log there
/// (16 MiB), and what the state store writes.
const RESERVE_BYTES: u64 = 24 << 20;

/// A node that serves.
pub struct Node {
    threads: Threads,
    page: Option<MetricsPage>,
    shards: usize,
    tls: Option<TlsFiles>,
    password_file: Option<PathBuf>,
    acl_file: Option<PathBuf>,
    /// Held as long as anything may write to the data directory.
    _lock: DirectoryLock,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Opens the data directory, recovers what is in it, and starts to serve.
    ///
    /// # Errors
    /// [`StartError`] says what to do.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        checks::machine()?;
        let tls = config.load_tls()?;
        let users = config.load_users()?;
        let data = |error: &dyn std::fmt::Display| StartError::Data(error.to_string());
        let disk = DirectDisk::open(&config.data).map_err(|error| data(&error))?;
        checks::data_directory(disk.path())?;
        let lock = disk.lock().map_err(|error| {
            if error.kind == ErrorKind::Locked {
                let path = disk.path().display();
                return StartError::Data(format!(
                    "the data directory {path} is locked: another node uses it; stop that node, \
                     or choose another directory with --data"
                ));
            }
            data(&error)
        })?;
        let mut placement = Placement::choose(config.shards)?;
        let homes = placement.cores.len();
        let count = u8::try_from(homes).map_err(|error| data(&error))?;
        let rules = config.load_rules()?.map(Arc::new);
        let has_rules = rules.is_some();
        let options = NodeOptions {
            rules,
            ..options(config, count)
        };
        let limits = config.limits;
        let numbers_ms = 1000 * u64::from(config.sys_interval_s);
        let started = Instant::now();
        let now = read_clocks(started);
        let opened = open_node(&disk, &options, now, Some(&mut spawn_writer)).map_err(|error| {
            if let OpenError::Disk(disk) = &error
                && disk.kind == ErrorKind::NoDirectIo
            {
                return StartError::DirectIo(config.data.clone());
            }
            data(&error)
        })?;
        for note in &opened.notes {
            info!("{note}");
        }
        placement.seal(opened.shards.len());
        let descriptors = divide_descriptors(config, &opened.shards)?;
        let mut parts = opened.shards.into_iter();
        let doors = Doors {
            listen: &config.listen,
            tls: tls.as_ref(),
            users: users.as_ref().map(|users| (users, config.allow_anonymous)),
            has_rules,
        };
        let threads = threads::start(&placement, doors, descriptors, started, |shard| {
            let parts = parts.next();
            move |event: BorrowedFd<'_>| {
                open_machine(parts, shard, count, limits, numbers_ms, event)
            }
        })?;
        let page = match &config.metrics {
            None => None,
            Some(address) => Some(serve_metrics(address, &threads)?),
        };
        Ok(Self {
            threads,
            page,
            shards: homes,
            tls: config.tls.clone(),
            password_file: config.password_file.clone(),
            acl_file: config.acl_file.clone(),
            _lock: lock,
        })
    }

    /// The listeners, with the ports that the kernel chose.
    #[must_use]
    pub fn listeners(&self) -> &[ListenUrl] {
        self.threads.listeners()
    }

    /// How many shards it has that serve clients.
    #[must_use]
    pub const fn shards(&self) -> usize {
        self.shards
    }

    /// Asks it to stop.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.threads.stop_handle()
    }

    /// Reads certificates, keys and users again.
    #[must_use]
    pub fn reload_handle(&self) -> ReloadHandle {
        ReloadHandle::new(
            Arc::clone(self.threads.shared()),
            self.tls.clone(),
            self.password_file.clone(),
            self.acl_file.clone(),
        )
    }

    /// Where the metrics are served, if they are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.page.as_ref().map(MetricsPage::address)
    }

    /// How often each shard has turned: one that works and does not turn is stuck.
    #[must_use]
    pub fn turns(&self) -> Vec<u64> {
        (0..self.threads.shared().shard_count())
            .map(|shard| self.threads.shared().turns(shard))
            .collect()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`RunError`] when a shard failed: the process has to end.
    pub fn wait(self) -> Result<(), RunError> {
        self.threads.wait()
    }
}

/// Starts the thread that writes a state store.
fn spawn_writer(work: Box<dyn FnOnce() + Send>) {
    let spawned = Builder::new().name("state".to_owned()).spawn(work);
    if let Err(error) = spawned {
        warn!(%error, "the state store's thread cannot be started");
    }
}

fn divide_descriptors(
    config: &Config,
    shards: &[ShardParts<DirectDisk>],
) -> Result<Arc<Descriptors>, StartError> {
    let refused = |error: io::Error| StartError::System(format!("descriptors: {error}"));
    let limit = system::raise(Limit::OpenFiles).map_err(refused)?;
    let files: usize = shards.iter().map(ShardParts::open_files).sum();
    let opened = Opened {
        all: system::open_descriptors().map_err(refused)?,
        files: files as u64,
        listeners: config.listen.len() as u64,
    };
    Descriptors::divide(limit, shards.len(), opened)
        .map_err(|needed| StartError::Descriptors { limit, needed })
}

fn serve_metrics(address: &str, threads: &Threads) -> Result<MetricsPage, StartError> {
    MetricsPage::serve(address, Arc::clone(threads.shared())).map_err(|error| StartError::Metrics {
        address: address.to_owned(),
        error: error.to_string(),
    })
}

fn open_machine(
    parts: Option<ShardParts<DirectDisk>>,
    shard: usize,
    homes: u8,
    limits: ClientLimits,
    numbers_interval_ms: u64,
    event: BorrowedFd<'_>,
) -> Result<ShardMachine, StartError> {
    let Some(parts) = parts else {
        return Err(StartError::System(format!("shard {shard} was not opened")));
    };
    let queue = RingQueue::new(event)
        .map_err(|error| StartError::System(format!("shard {shard}: a disk ring: {error}")))?;
    let core = ShardCore::new(parts, queue);
    let shard = u8::try_from(shard).unwrap_or(u8::MAX);
    Ok(ShardMachine::new(
        core,
        shard,
        homes,
        limits,
        numbers_interval_ms,
    ))
}

/// What a configuration means for the data directory and its shards.
pub(crate) fn options(config: &Config, shards: u8) -> NodeOptions {
    let durability = match config.durability {
        Durability::Commit => storage_log::Durability::Commit,
        Durability::Interval(ms) => storage_log::Durability::Interval {
            ms: u32::try_from(ms).unwrap_or(u32::MAX),
        },
        Durability::None => storage_log::Durability::None,
    };
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seed =
        u64::from(clock.subsec_nanos()) << 32 ^ clock.as_secs() ^ u64::from(std::process::id());
    let kept = &config.retention;
    let bytes = (kept.bytes > 0).then(|| kept.bytes / u64::from(shards.max(1)));
    // Whole segments go: a log that keeps little has small ones.
    let eighth = bytes.map_or(u64::MAX, |bytes| bytes / 8 / 4096 * 4096);
    let segment_bytes_max = kept.segment_bytes.min(eighth.max(SEGMENT_BYTES_LEAST));
    let usual = LogOptions::default();
    let log = LogOptions {
        durability,
        free_bytes_min: u64::from(shards) * FREE_BYTES_PER_SHARD,
        segment_bytes_min: usual.segment_bytes_min.min(segment_bytes_max),
        segment_bytes_max,
        ..usual
    };
    let retention = RetentionOptions {
        age_ms: (kept.hours > 0).then(|| u64::from(kept.hours) * 3_600_000),
        bytes,
        clean_percent: kept.clean_percent,
        force_percent: kept.force_percent,
        refuse_percent: kept.refuse_percent,
        ..RetentionOptions::default()
    };
    NodeOptions {
        log,
        commit_wait_us: config.commit_wait_us,
        reserve_bytes: RESERVE_BYTES,
        share_strategy: config.share_strategy,
        node_name: config.node_name.clone(),
        redirect: config.redirect.clone(),
        rewrites: config.rewrites.clone(),
        auto_subscriptions: config.auto_subscriptions.clone(),
        retention,
        clients: config.limits,
        ..NodeOptions::new(shards, seed)
    }
}
