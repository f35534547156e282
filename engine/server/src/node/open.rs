//! Opening a data directory: meta file, state stores, indexes, recovery of every log, the machines.

use std::cell::RefCell;
use std::sync::Arc;

use engine_shard::{
    AutoSubscription, ClientLimits, LogOffset, Message, Redirect, Rehomed, Rewrites, Rules, Shard,
    ShardConfig, ShardId, Strategy, Table, home_shard, read_retained, retained_change,
};
use engine_topic::Writer;
use storage_io::{Disk, DiskError, ErrorKind, Operation};
use storage_log::{Log, LogError, LogId, LogOptions, Record, RecordKind};
use storage_queue::{Entry, Index, IndexError};
use storage_state::{Spawn, StateError, StateStore, Writing, section};

use super::error::{CoreError, OpenError};
use super::meta::Meta;
use super::names::{Names, read_name};
use super::now::Now;
use super::reads::ReadOptions;
use super::rehome::Rehoming;
use super::reserve::{Reserve, release_if_needed};
use super::retain::RetentionOptions;
use super::store::{DERIVED, RETAIN, StoreParts, count_files, encode_changes, message};

/// How a data directory is opened.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Shards that are homes, 1 to 64. A directory that had others gets them ([`open_node`]).
    pub shards: u8,
    /// Of every log.
    pub log: LogOptions,
    /// Of every index.
    pub index: storage_queue::Options,
    /// Of every state store.
    pub state: storage_state::Options,
    /// How long a commit may wait for more records when that pays, microseconds; 0: never.
    pub commit_wait_us: u64,
    /// What reads of one log take of memory.
    pub reads: ReadOptions,
    /// Bytes that each shard sets aside for a start on a full disk; 0: none.
    pub reserve_bytes: u64,
    /// Queues of one log, at most.
    pub queues_max: usize,
    /// Names of them in memory, about; the others are read from the state store when they are
    /// wanted.
    pub names_max: usize,
    /// What clients may do.
    pub clients: ClientLimits,
    /// What every log may keep.
    pub retention: RetentionOptions,
    /// Milliseconds between two transactions of a state store, when there is anything to write.
    pub state_interval_ms: u64,
    /// How shared groups choose a member.
    pub share_strategy: Strategy,
    /// In the topics of the node's events; `None`: `corelane`.
    pub node_name: Option<Arc<str>>,
    /// Where clients are sent instead of being served.
    pub redirect: Option<Redirect>,
    /// Who may publish and subscribe to what; `None`: everybody to everything.
    pub rules: Option<Arc<Rules>>,
    /// What topics and filters become; `None`: they stay.
    pub rewrites: Option<Arc<Rewrites>>,
    /// What every client is subscribed to; `None`: nothing.
    pub auto_subscriptions: Option<Arc<[AutoSubscription]>>,
    /// Randomness, used when the directory is made and mixed into every start.
    pub seed: u64,
    /// Changes a shard's settings from their defaults.
    pub tune: fn(&mut ShardConfig),
}

impl NodeOptions {
    /// The defaults for a number of shards.
    #[must_use]
    pub fn new(shards: u8, seed: u64) -> Self {
        Self {
            shards,
            log: LogOptions::default(),
            index: storage_queue::Options::default(),
            state: storage_state::Options::default(),
            commit_wait_us: crate::COMMIT_WAIT_US,
            reads: ReadOptions::default(),
            reserve_bytes: 0,
            queues_max: 10_000_000,
            names_max: 1 << 18,
            clients: ClientLimits::default(),
            retention: RetentionOptions::default(),
            state_interval_ms: 1_000,
            share_strategy: Strategy::default(),
            node_name: None,
            redirect: None,
            rules: None,
            rewrites: None,
            auto_subscriptions: None,
            seed,
            tune: |_| {},
        }
    }
}

impl NodeOptions {
    /// The same when there are more shards than homes: together the logs keep as much as before.
    fn for_shards(&self, shards: u8) -> Self {
        let mut all = Self {
            shards,
            ..self.clone()
        };
        if let Some(bytes) = &mut all.retention.bytes {
            *bytes = *bytes * u64::from(self.shards) / u64::from(shards.max(1));
        }
        all
    }
}

/// One shard of an opened node, on its way to its thread.
pub struct ShardParts<D: Disk> {
    pub(super) shard: Shard,
    pub(super) store: StoreParts<D>,
}

impl<D: Disk> ShardParts<D> {
    /// Files that are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        count_files(&self.store.log, &self.store.index)
    }
}

impl<D: Disk> ShardParts<D> {
    /// Writes everything that the index has in memory. Blocks; for offline tools.
    pub(crate) fn write_index(&mut self) -> Result<storage_queue::Counters, IndexError> {
        let StoreParts { log, index, .. } = &mut self.store;
        index.freeze();
        index.flush_blocking(log.durable())?;
        Ok(index.counters())
    }
}

impl<D: Disk> std::fmt::Debug for ShardParts<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardParts")
            .field("log", &self.store.log.log_id())
            .finish_non_exhaustive()
    }
}

/// An opened node.
#[derive(Debug)]
pub struct OpenedNode<D: Disk> {
    /// The meta file.
    pub meta: Meta,
    /// The shards, in order.
    pub shards: Vec<ShardParts<D>>,
    /// What was found and mended on the way, for the log.
    pub notes: Vec<String>,
}

/// The files of one shard before its log is recovered.
pub(super) struct Files<D: Disk> {
    pub(super) disk: D,
    index: Index<D>,
    pub(super) state: StateStore,
}

/// Opens the data directory `disk`, or makes it. `spawn` starts the threads that write the state
/// stores; without it they are written inline. Blocks.
///
/// # Errors
/// [`OpenError`]; nothing that was acknowledged is lost by trying.
pub fn open_node<D: Disk>(
    disk: &D,
    options: &NodeOptions,
    now: Now,
    mut spawn: Option<&mut Spawn<'_>>,
) -> Result<OpenedNode<D>, OpenError> {
    let mut meta = Meta::open(disk, options.shards, options.seed)?;
    let homes = options.shards;
    let options = &options.for_shards(meta.shards);
    let mut notes = Vec::new();
    if release_if_needed(disk, options) {
        notes.push("the disk is full: this start uses the room that was set aside for it".into());
    }
    let mut files = Vec::new();
    for shard in 0..options.shards {
        let writing = match &mut spawn {
            Some(spawn) => Writing::Background(&mut **spawn),
            None => Writing::Inline,
        };
        files.push(open_files(disk, shard, options, writing, &mut notes)?);
    }
    let (mut logs, mut oldest) = (Vec::new(), Vec::new());
    for shard in 0..options.shards {
        let (log, stamp) = recover_log(shard, options, (&meta, now), &mut files, &mut notes)?;
        oldest.push(stamp.unwrap_or(now.wall_ms << 16));
        logs.push(log);
    }
    let mut rehoming = Rehoming {
        disk,
        files: &mut files,
        logs: &mut logs,
        wall_ms: now.wall_ms,
    };
    let before = meta.homes;
    let moved = rehoming.run(&mut meta, homes)?;
    if homes != before {
        notes.push(format!(
            "clients and topics had their homes on {before} shards and have them on {homes}: \
             {moved} rows of state have moved"
        ));
    }
    let ends: Vec<LogOffset> = logs.iter().map(|log| LogOffset(log.durable().0)).collect();
    let mut shards = Vec::new();
    for ((shard, log), files) in (0u8..).zip(logs).zip(files) {
        shards.push(restore(shard, log, files, options, &meta, now)?);
    }
    tell_rehomed(&mut shards, &meta.fences);
    let changes: Vec<_> = shards
        .iter()
        .flat_map(|parts| parts.shard.durable_filters())
        .collect();
    let mut writer = Writer::with_seed(meta.seed ^ u64::from(meta.boot));
    let table = writer.apply(&changes);
    let mut writer = Some(writer);
    let newest = shards.iter().map(newest_stamp).max().unwrap_or_default();
    for parts in &mut shards {
        parts.shard.start(Arc::clone(&table), writer.take(), &ends);
        parts.shard.begin_behind(newest);
        parts.shard.set_oldest_stamps(&oldest);
    }
    Ok(OpenedNode {
        meta,
        shards,
        notes,
    })
}

/// Tells all shards what other homes in the past mean.
fn tell_rehomed<D: Disk>(shards: &mut [ShardParts<D>], fences: &[Vec<LogOffset>]) {
    let moved = shards.iter().flat_map(|parts| parts.shard.moved_here());
    let rehomed = Rehomed {
        away: Arc::new(moved.collect()),
        fences: fences.into(),
    };
    for parts in shards {
        parts.shard.set_rehomed(rehomed.clone());
    }
}

/// The newest stamp in a shard's log and state.
fn newest_stamp<D: Disk>(parts: &ShardParts<D>) -> u64 {
    let segments = parts
        .store
        .log
        .segments()
        .map(|segment| segment.newest_stamp);
    segments
        .max()
        .unwrap_or_default()
        .max(parts.shard.newest_stamp())
}

fn open_files<D: Disk>(
    disk: &D,
    shard: u8,
    options: &NodeOptions,
    writing: Writing<'_>,
    notes: &mut Vec<String>,
) -> Result<Files<D>, OpenError> {
    let fail = |error: CoreError| OpenError::Shard { shard, error };
    let disk = disk.sub(&format!("shard-{shard}"))?;
    let (state, opened) = StateStore::open_or_rebuild(&disk, options.state.clone(), writing)
        .map_err(|error| fail(error.into()))?;
    if let storage_state::Opened::Rebuilt(reason) = opened {
        notes.push(format!(
            "shard-{shard}: the state store is rebuilt from the logs: {reason}"
        ));
    }
    let opened = Index::open(disk.clone(), LogId(u32::from(shard)), options.index.clone())
        .map_err(|error| fail(error.into()))?;
    for damage in &opened.damage {
        notes.push(format!(
            "shard-{shard}: the index is rebuilt from the log: {damage}"
        ));
    }
    Ok(Files {
        disk,
        index: opened.index,
        state,
    })
}

/// Recovers one log into its own index and state store, and its retained messages into the state
/// stores of their topics' owners. Returns it, and a stamp that no record in it is below.
fn recover_log<D: Disk>(
    shard: u8,
    options: &NodeOptions,
    (meta, now): (&Meta, Now),
    files: &mut [Files<D>],
    notes: &mut Vec<String>,
) -> Result<(Log<D>, Option<u64>), OpenError> {
    let fail = |error: CoreError| OpenError::Shard { shard, error };
    let id = u32::from(shard);
    let own = usize::from(shard);
    let mut from = u64::MAX;
    for (owner, one) in files.iter().enumerate() {
        // What is retained is owned by homes; others get it when they become ones.
        if owner < usize::from(meta.homes) {
            from = from.min(one.state.applied(id | DERIVED));
        }
        if owner == own {
            from = from
                .min(one.state.applied(id))
                .min(one.index.indexed_upto().0);
        }
    }
    let Some(disk) = files.get(own).map(|one| one.disk.clone()) else {
        unreachable!("one set of files per shard");
    };
    let known_end = files.get(own).map_or(0, |one| one.state.applied(id));
    let log_options = LogOptions {
        known_end: storage_log::LogOffset(known_end),
        seed: meta.seed ^ u64::from(meta.boot) << 8 ^ u64::from(id),
        ..options.log.clone()
    };
    let mut failed = None;
    let recovered = Log::recover(
        disk,
        LogId(id),
        log_options,
        storage_log::LogOffset(from),
        &mut |record| {
            if failed.is_none() {
                failed = replay(own, (meta.homes, now), record, files).err();
            }
            Ok::<(), LogError>(())
        },
    );
    let (mut log, report) = recovered.map_err(|error| fail(error.into()))?;
    if let Some(error) = failed {
        return Err(fail(error));
    }
    if report.records > 0 || report.is_torn {
        notes.push(format!("shard-{shard}: {report}"));
    }
    if let Some(one) = files.get_mut(own) {
        one.index
            .truncate_above(log.durable())
            .and_then(|_| one.index.retire_blocking(log.start()))
            .map_err(|error| fail(error.into()))?;
        let holes = one.index.holes().len();
        let records = one.index.mend_from(&mut log).map_err(fail)?;
        if holes > 0 {
            notes.push(format!(
                "shard-{shard}: {holes} lost runs were made again from {records} records"
            ));
        }
    }
    Ok((log, report.oldest_stamp))
}

/// Takes one recovered record. Everything in it is durable.
fn replay<D: Disk>(
    own: usize,
    (homes, now): (u8, Now),
    record: Record,
    files: &mut [Files<D>],
) -> Result<(), CoreError> {
    let (log, at) = record.address;
    let end = record.end;
    let size = u32::try_from(end.0 - at.0).unwrap_or(u32::MAX);
    if let Some(one) = files.get_mut(own) {
        let entries: Vec<Entry> = record
            .queues
            .iter()
            .map(|(queue, queue_offset)| Entry {
                queue,
                queue_offset,
                at,
                size,
                tag: record.tag,
            })
            .collect();
        one.index.append(&entries)?;
        flush_if_full(&mut one.index, end)?;
        one.state.apply(log.0, end.0, &own_section(&record.state))?;
    }
    for change in section::decode(&record.state).flatten() {
        let retained = change
            .value
            .filter(|_| change.table == Table::Retained as u8);
        if let Some(Ok(message)) = retained.map(read_retained) {
            replay_retained((homes, now), (log.0, at.0), &message, files)?;
        }
    }
    if record.kind == RecordKind::Message && record.flags & RETAIN != 0 {
        replay_retained((homes, now), (log.0, at.0), &message(record), files)?;
    }
    for one in files.iter_mut() {
        settle_if_full(&mut one.state)?;
    }
    Ok(())
}

/// A section without what it says about retained messages: those go to their topics' owners, in
/// the order of their stamps. That a tombstone was freed is not replayed: it is freed again.
fn own_section(state: &[u8]) -> Vec<u8> {
    let mut own = Vec::with_capacity(state.len());
    let changes = section::decode(state).flatten();
    for change in changes.filter(|change| change.table != Table::Retained as u8) {
        let encoded = section::encode(&change, &mut own);
        debug_assert!(encoded.is_ok(), "it was encoded before");
    }
    own
}

/// Takes a retained publication of the record at `from`, unless its topic has a later one.
fn replay_retained<D: Disk>(
    (homes, now): (u8, Now),
    from: (u32, u64),
    retained: &Message,
    files: &mut [Files<D>],
) -> Result<(), CoreError> {
    let Ok(body) = retained.parts() else {
        return Ok(());
    };
    let owner = home_shard(body.topic, homes).index();
    let Some(one) = files.get_mut(owner) else {
        return Ok(());
    };
    let old = one
        .state
        .get(Table::Retained as u8, body.topic.as_bytes())?;
    let newer = old.and_then(|value| read_retained(&value).ok());
    if newer.is_some_and(|old| old.stamp >= retained.stamp) {
        return Ok(());
    }
    if let Ok(change) = retained_change(retained, now.wall_ms) {
        let mut section = Vec::new();
        encode_changes(&[change], &mut section);
        one.state.apply(from.0 | DERIVED, from.1 + 1, &section)?;
    }
    Ok(())
}

/// On a full disk what is replayed stays in memory: hardly more than was there before the crash,
/// or the start is refused.
fn flush_if_full<D: Disk>(
    index: &mut Index<D>,
    end: storage_log::LogOffset,
) -> Result<(), CoreError> {
    if index.is_full() {
        match index.shortage() {
            None => index.flush_blocking(end)?,
            Some(error) if index.is_overfull() => {
                return Err(IndexError::from(error.clone()).into());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// As [`flush_if_full`].
pub(super) fn settle_if_full(state: &mut StateStore) -> Result<(), CoreError> {
    if state.is_full() {
        if !state.waits_for_room() {
            state.settle(|_| u64::MAX)?;
        } else if state.is_overfull() {
            let (file, how) = (storage_state::FILE_NAME, Operation::Write);
            let error = DiskError::new(file, how, 0, ErrorKind::NoSpace);
            return Err(StateError::from(error).into());
        }
    }
    Ok(())
}

fn restore<D: Disk>(
    shard: u8,
    log: Log<D>,
    files: Files<D>,
    options: &NodeOptions,
    meta: &Meta,
    now: Now,
) -> Result<ShardParts<D>, OpenError> {
    let Files {
        disk,
        mut index,
        mut state,
    } = files;
    let fail = |error: CoreError| OpenError::Shard { shard, error };
    let seed = meta.seed ^ (u64::from(meta.boot) << 16) ^ u64::from(shard);
    let mut config = ShardConfig::new(ShardId(shard), options.shards, meta.boot, seed);
    config.homes = meta.homes;
    let mut config = config.limited(&options.clients);
    config.share_strategy = options.share_strategy;
    config.node_name = options.node_name.clone();
    config.redirect = options.redirect.clone();
    config.rules = options.rules.clone();
    config.rewrites = options.rewrites.clone();
    config.auto_subscriptions = options.auto_subscriptions.clone();
    (options.tune)(&mut config);
    let mut names = Names::new(options.names_max, seed);
    let queues = state.scan(Table::Queue as u8, &[]);
    for row in queues.map_err(|error| fail(error.into()))? {
        let row = row.map_err(|error| fail(error.into()))?;
        let (id, next) = read_name(&row.value);
        names.saw(id, !row.key.is_empty());
        if !row.key.is_empty() {
            index.raise_next_offset(storage_log::QueueId(id), next);
        }
    }
    let machine = restore_machine(shard, config, &mut state, now)?;
    let store = StoreParts {
        log,
        index,
        state,
        names,
        queues_max: options.queues_max,
        commit_wait_us: options.commit_wait_us,
        reads: options.reads,
        reserve: Reserve::new(disk, options),
        retention: options.retention,
        state_interval_ms: options.state_interval_ms,
        wall_ms: now.wall_ms,
    };
    Ok(ShardParts {
        shard: machine,
        store,
    })
}

/// The machine as the state store has it. Sessions that are away stay there, when all that was
/// replayed has got there: on a full disk it may not.
fn restore_machine(
    shard: u8,
    config: ShardConfig,
    state: &mut StateStore,
    now: Now,
) -> Result<Shard, OpenError> {
    let fail = |error: StateError| {
        let error = error.into();
        OpenError::Shard { shard, error }
    };
    if !state.waits_for_room() {
        state.settle(|_| u64::MAX).map_err(fail)?;
    }
    let is_stored = state.is_settled();
    let failed = RefCell::new(None);
    let fault = |error| {
        failed.borrow_mut().get_or_insert(error);
    };
    // One row after the other: the machine does not keep all of them.
    let rows = |table: Table| {
        let scan = state.scan(table as u8, &[]).map_err(fault).ok();
        let rows = scan.into_iter().flatten();
        rows.filter_map(|row| row.map_err(fault).ok().map(|row| (row.key, row.value)))
    };
    let restored = Shard::restore(config, now.into(), rows, is_stored);
    match failed.into_inner() {
        Some(error) => Err(fail(error)),
        None => restored.map_err(|error| OpenError::Restore { shard, error }),
    }
}
