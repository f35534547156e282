//! The shard's store: log, index and state behind the machine's port.

use std::collections::VecDeque;

use engine_mqtt::QoS;
use engine_shard::{
    Address, Appended, Change, LogId, LogOffset, Message, NewMessage, NewRecord, QueueId,
    QueueName, ReadAnswer, ReadRequest, ReadToken, Store, Table, Walk,
};
use storage_io::{Completion, Disk, DiskQueue};
use storage_log::{Log, RECORD_BYTES_MAX, RECORD_QUEUES_MAX, Record, RecordKind};
use storage_queue::{Entry, Index};
use storage_state::{Row, StateStore};

use super::error::CoreError;
use super::names::{Names, name_row, stored_name};
use super::now::Now;
use super::pace::Pace;
use super::reads::{ReadOptions, Reads};
use super::reserve::Reserve;
use super::retain::{Retention, RetentionCounters, RetentionOptions};

/// State that follows from records of any log (retained messages at their owner) is counted under
/// this bit, beside the log's own changes of state.
pub(super) const DERIVED: u32 = 1 << 31;

/// The high byte of the tokens of this module's reads.
const TOKEN_OWNER: u64 = 3 << 56;

/// Milliseconds between two attempts to flush the index when space or descriptors have run out.
const SHORTAGE_INTERVAL_MS: u64 = 1_000;

/// Milliseconds between two looks at an idle log that wants its marker.
const LOG_TICK_MS: u64 = 50;

/// What the store counts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct StoreCounters {
    /// Records appended.
    pub records_appended: u64,
    /// Bytes of them.
    pub bytes_appended: u64,
    /// Queues of this log.
    pub queues: u64,
    /// Commits that waited for more records.
    pub commits_held: u64,
    /// Records that could not be read back: damaged.
    pub unreadable: u64,
    /// Reads of the disk for reads of the log.
    pub chunk_reads: u64,
    /// Bytes of the log read back from the disk.
    pub chunk_bytes: u64,
    /// Reads of the disk that failed, and were begun once more.
    pub reads_again: u64,
    /// Reads under way.
    pub reads: u64,
    /// What retention does.
    pub retention: RetentionCounters,
}

/// What a store is made of.
pub(super) struct StoreParts<D: Disk> {
    pub(super) log: Log<D>,
    pub(super) index: Index<D>,
    pub(super) state: StateStore,
    pub(super) names: Names,
    pub(super) queues_max: usize,
    pub(super) commit_wait_us: u64,
    pub(super) reads: ReadOptions,
    pub(super) reserve: Reserve<D>,
    pub(super) retention: RetentionOptions,
    pub(super) state_interval_ms: u64,
    /// The wall clock, milliseconds.
    pub(super) wall_ms: u64,
}

/// Log, index and state of one shard.
pub struct ShardStore<D: Disk, Q> {
    pub(super) log: Log<D>,
    pub(super) index: Index<D>,
    pub(super) state: StateStore,
    pub(super) queue: Q,
    pub(super) names: Names,
    pub(super) queues_max: usize,
    pace: Pace,
    /// The clock of this turn, monotonic microseconds.
    pub(super) now_us: u64,
    /// Grows when a name is removed.
    pub(super) queues_version: u64,
    pub(super) retention: Retention,
    state_interval_ms: u64,
    /// Changes of the queue table that go with the next record.
    created: Vec<u8>,
    section: Vec<u8>,
    entries: Vec<Entry>,
    pub(super) reads: Reads,
    pub(super) answers: VecDeque<(ReadToken, ReadAnswer)>,
    pub(super) next_token: u64,
    /// How long what was read for a large record stays in memory, monotonic milliseconds.
    pub(super) large_until_ms: u64,
    pub(super) counters: StoreCounters,
    /// An error that a call without a result met.
    pub(super) failed: Option<CoreError>,
    reserve: Reserve<D>,
    pub(super) next_state_ms: u64,
    next_flush_ms: u64,
    pub(super) now_ms: u64,
    /// The wall clock at the end of the last turn, milliseconds.
    pub(super) wall_ms: u64,
}

impl<D: Disk, Q> std::fmt::Debug for ShardStore<D, Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardStore")
            .field("log", &self.log.log_id())
            .finish_non_exhaustive()
    }
}

/// Set in the flags of a record that replaces its topic's retained message.
pub(super) const RETAIN: u16 = 4;

/// Set in the flags of a record that is the message of the one before once more, for queues that
/// had no room there. A crash leaves both or none. Its tag is how many bytes before it the first of
/// them begins.
const AGAIN: u16 = 8;

/// Bytes of a record for each of its queues.
const QUEUE_BYTES: usize = 16;

/// Bytes of a record besides its message and the ids of its queues, at most: names, other changes
/// of state, headers.
const RECORD_BYTES: usize = 512 << 10;

/// Bytes of names of new queues that go with another record; more get records of their own.
const CREATED_BYTES_MAX: usize = 64 << 10;

/// Whether a record is a message that a record before it is, too.
pub(super) const fn is_again(record: &Record) -> bool {
    record.flags & AGAIN != 0
}

/// A record of the log as the engine sees it.
pub(super) fn message(record: Record) -> Message {
    let (log, offset) = record.address;
    Message {
        address: Address {
            log: LogId(log.0),
            offset: LogOffset(offset.0),
        },
        stamp: record.stamp,
        publisher: record.publisher,
        qos: QoS::from_bits((record.flags & 3) as u8).unwrap_or(QoS::AtMostOnce),
        retain: record.flags & RETAIN != 0,
        body: record.body,
    }
}

/// What the index has to know of a record at `at`; returns where it ends.
fn add_entries(
    record: &storage_log::NewRecord<'_>,
    at: storage_log::LogOffset,
    entries: &mut Vec<Entry>,
) -> storage_log::LogOffset {
    let len = record.encoded_len();
    let size = u32::try_from(len).unwrap_or(u32::MAX);
    entries.extend(record.queues.iter().map(|(queue, queue_offset)| Entry {
        queue: *queue,
        queue_offset: *queue_offset,
        at,
        size,
        tag: record.tag,
    }));
    storage_log::LogOffset(at.0 + len as u64)
}

/// See [`ShardStore::open_files`]; the descriptor of the directory is counted as well.
pub(super) fn count_files<D: Disk>(log: &Log<D>, index: &Index<D>) -> usize {
    // The state store, the index's manifest, the log's root and the directory.
    const OTHERS: usize = 4;
    let runs = usize::try_from(index.counters().runs).unwrap_or(usize::MAX);
    log.open_segments() + runs + OTHERS
}

/// Appends changes to a section.
pub(super) fn encode_changes(changes: &[Change], section: &mut Vec<u8>) {
    for change in changes {
        let stored = storage_state::Change {
            table: change.table as u8,
            key: &change.key,
            value: change.value.as_deref(),
        };
        let encoded = storage_state::section::encode(&stored, section);
        assert!(
            encoded.is_ok(),
            "a change of state within its bounds: {encoded:?}"
        );
    }
}

impl<D: Disk, Q: DiskQueue<D::File>> ShardStore<D, Q> {
    pub(super) fn new(parts: StoreParts<D>, queue: Q) -> Self {
        let StoreParts {
            log,
            index,
            state,
            names,
            queues_max,
            commit_wait_us,
            reads,
            reserve,
            retention,
            state_interval_ms,
            wall_ms,
        } = parts;
        Self {
            log,
            index,
            state,
            queue,
            names,
            queues_max,
            pace: Pace::new(commit_wait_us),
            now_us: 0,
            queues_version: 0,
            retention: Retention::new(retention, wall_ms),
            state_interval_ms,
            wall_ms,
            created: Vec::new(),
            section: Vec::new(),
            entries: Vec::new(),
            reads: Reads::new(reads),
            answers: VecDeque::new(),
            next_token: TOKEN_OWNER,
            large_until_ms: 0,
            counters: StoreCounters::default(),
            failed: None,
            reserve,
            next_state_ms: 0,
            next_flush_ms: 0,
            now_ms: 0,
        }
    }

    /// What the store counts.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        StoreCounters {
            queues: count(self.names.count()),
            commits_held: self.pace.held(),
            reads: count(self.reads.len()),
            retention: self.retention.counters,
            ..self.counters
        }
    }

    /// The log, index and state store, for metrics and checks.
    pub const fn parts(&self) -> (&Log<D>, &Index<D>, &StateStore) {
        (&self.log, &self.index, &self.state)
    }

    /// Files that are open now: of the log, of the index, and the state store's.
    #[must_use]
    pub fn open_files(&self) -> usize {
        count_files(&self.log, &self.index)
    }

    /// Whether so much waits for the disk that nothing at all may be appended, publications or not.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.log.is_overfull() || self.index.is_overfull() || self.state.is_overfull()
    }

    /// The operations under way, for whoever drives the disk.
    pub const fn queue_mut(&mut self) -> &mut Q {
        &mut self.queue
    }

    /// Takes all completions; says whether there was one.
    pub(super) fn complete_all(&mut self) -> Result<bool, CoreError> {
        let mut any = false;
        while let Some(completion) = self.queue.poll() {
            any = true;
            self.complete(completion)?;
        }
        Ok(any)
    }

    fn complete(&mut self, completion: Completion) -> Result<(), CoreError> {
        let token = completion.token;
        if Log::<D>::owns(token) {
            let was_committing = self.log.is_committing();
            self.log.complete(completion)?;
            if was_committing && !self.log.is_committing() {
                let appended = self.counters.records_appended;
                self.pace.ended(self.now_us, appended);
            }
            return Ok(());
        }
        if Index::<D>::is_flush(token) {
            self.index.complete(completion, &mut self.queue)?;
            return Ok(());
        }
        self.read_ended(token, completion.result)
    }

    /// Starts whatever can be started: a group commit, a flush of the index, a transaction of the
    /// state store. `positions` are the machine's.
    pub(super) fn end_turn(&mut self, now: Now, positions: &[LogOffset]) -> Result<(), CoreError> {
        let now_ms = now.monotonic_ms();
        (self.now_ms, self.wall_ms) = (now_ms, now.wall_ms);
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.reserve.keep(now_ms);
        if self.index.shortage().is_some() && now_ms >= self.next_flush_ms {
            self.next_flush_ms = now_ms + SHORTAGE_INTERVAL_MS;
            self.index.try_again();
        }
        self.log.tick(now_ms);
        self.commit()?;
        self.index.advance(self.log.appended());
        self.index.flush(self.log.synced(), &mut self.queue)?;
        let synced = self.log.synced().0;
        let durable = |log: u32| if log & DERIVED == 0 { synced } else { u64::MAX };
        if now_ms >= self.next_state_ms {
            self.next_state_ms = now_ms + self.state_interval_ms;
            self.note_positions(positions)?;
            self.state.flush_now(durable)?;
        } else {
            self.state.flush(durable)?;
        }
        if self.log.has_large_chunk() && now_ms >= self.large_until_ms {
            self.log.forget_large_chunk();
        }
        Ok(())
    }

    /// Starts a group commit, unless it pays to wait for more records.
    fn commit(&mut self) -> Result<(), CoreError> {
        let was_committing = self.log.is_committing();
        if !was_committing && self.pace.holds(self.now_us, self.log.unwritten()) {
            return Ok(());
        }
        self.log.commit(&mut self.queue)?;
        if !was_committing && self.log.is_committing() {
            let appended = self.counters.records_appended;
            self.pace.begun(self.now_us, appended);
        }
        Ok(())
    }

    /// When a commit that is held is due, monotonic microseconds.
    pub(super) fn commit_due_us(&self) -> Option<u64> {
        self.pace.due_us()
    }

    /// Tells the state store how far every log's retained messages have been applied.
    fn note_positions(&mut self, positions: &[LogOffset]) -> Result<(), CoreError> {
        for (log, position) in (0u32..).zip(positions) {
            self.state.apply(log | DERIVED, position.0, &[])?;
        }
        Ok(())
    }

    /// When [`Self::end_turn`] wants to be called again, monotonic milliseconds.
    pub(super) fn next_timeout(&self) -> u64 {
        let log = if self.log.needs_tick() {
            self.now_ms + LOG_TICK_MS
        } else {
            u64::MAX
        };
        let waiting = self.state.counters().sections_waiting > 0;
        let state = if waiting {
            self.next_state_ms
        } else {
            u64::MAX
        };
        let index = if self.index.shortage().is_some() {
            self.next_flush_ms
        } else {
            u64::MAX
        };
        let retention = self.retention.next_timeout(self.now_ms);
        if self.reads.is_ready() {
            return self.now_ms;
        }
        log.min(state).min(index).min(retention)
    }

    /// At an orderly stop: makes the log's end known, and the state store complete.
    pub(super) fn close(&mut self, positions: &[LogOffset]) -> Result<(), CoreError> {
        self.note_positions(positions)?;
        let synced = self.log.synced().0;
        self.state
            .settle(|log| if log & DERIVED == 0 { synced } else { u64::MAX })?;
        Ok(())
    }

    /// The id of a queue that exists.
    pub(super) fn queue_id(&mut self, name: &QueueName) -> Option<storage_log::QueueId> {
        self.find_queue(&stored_name(name))
            .map(|id| storage_log::QueueId(id.0))
    }

    /// The id of a queue that exists, by its stored name. What is not in memory is read, which
    /// blocks.
    fn find_queue(&mut self, stored: &[u8]) -> Option<QueueId> {
        if let Some(id) = self.names.get(stored) {
            return Some(id);
        }
        let id = self.stored_queue(stored)?;
        self.names.keep(stored.to_vec(), id);
        Some(id)
    }

    /// The id of a queue that the state store knows. Blocks.
    pub(super) fn stored_queue(&mut self, stored: &[u8]) -> Option<QueueId> {
        let value = self.row(Table::Queue, stored)?;
        Some(QueueId(u64::from_le_bytes(*value.first_chunk()?)))
    }

    /// Appends a record of changes; `applied` are those that the state store does not have.
    pub(super) fn append_state(&mut self, section: &[u8], applied: &[u8]) -> LogOffset {
        let appended = self.log.append(&storage_log::NewRecord {
            kind: RecordKind::State,
            flags: 0,
            stamp: self.wall_ms << 16,
            publisher: 0,
            packet_id: 0,
            epoch: 0,
            queues: &[],
            tag: 0,
            state: section,
            body: &[],
        });
        self.counters.records_appended += 1;
        self.counters.bytes_appended += appended.end.0 - appended.offset.0;
        let log = self.log.log_id().0;
        if let Err(error) = self.state.apply(log, appended.end.0, applied) {
            self.failed.get_or_insert_with(|| error.into());
        }
        LogOffset(appended.end.0)
    }

    /// The shard ends behind this turn, before it commits.
    fn fail<T: Default>(&mut self, error: CoreError) -> T {
        self.failed.get_or_insert(error);
        T::default()
    }

    fn append_record(&mut self, record: &NewRecord<'_>) -> Appended {
        self.section.clear();
        self.section.append(&mut self.created);
        self.names.created();
        encode_changes(record.changes, &mut self.section);
        let mut queues = Vec::new();
        let new = record.message.as_ref();
        for id in new.map_or(&[][..], |new| new.queues) {
            let id = storage_log::QueueId(id.0);
            queues.push((id, self.index.next_offset(id)));
        }
        let appended = self.append_parts(new, &queues);
        let (offset, end) = (appended.offset, appended.end);
        self.counters.bytes_appended += end.0 - offset.0;
        if let Err(error) = self.index.append(&self.entries) {
            self.failed.get_or_insert_with(|| error.into());
        }
        let log = self.log.log_id().0;
        if let Err(error) = self.state.apply(log, end.0, &self.section) {
            self.failed.get_or_insert_with(|| error.into());
        }
        Appended {
            offset: LogOffset(offset.0),
            end: LogOffset(end.0),
        }
    }

    /// Appends a message, or changes of state without one: as one record, or as several when it is
    /// in more queues than one may have. What the index has to know is in `entries` then.
    fn append_parts(
        &mut self,
        new: Option<&NewMessage<'_>>,
        queues: &[(storage_log::QueueId, u64)],
    ) -> storage_log::Appended {
        let body = [new.map_or(&[][..], |new| new.body)];
        let retain = new.map_or(0, |new| if new.retain { RETAIN } else { 0 });
        let (first, more) = queues.split_at(queues.len().min(RECORD_QUEUES_MAX));
        let first = storage_log::NewRecord {
            kind: new.map_or(RecordKind::State, |_| RecordKind::Message),
            flags: new.map_or(0, |new| new.qos as u16 | retain),
            stamp: new.map_or(self.wall_ms << 16, |new| new.stamp),
            publisher: new.map_or(0, |new| new.publisher),
            packet_id: new.map_or(0, |new| new.packet_id),
            epoch: 0,
            queues: first,
            tag: 0,
            state: &self.section,
            body: &body,
        };
        self.entries.clear();
        if more.is_empty() {
            let appended = self.log.append(&first);
            add_entries(&first, appended.offset, &mut self.entries);
            self.counters.records_appended += 1;
            return appended;
        }
        let mut records = vec![first];
        let mut len = first.encoded_len();
        for queues in more.chunks(RECORD_QUEUES_MAX) {
            let again = storage_log::NewRecord {
                flags: new.map_or(0, |new| new.qos as u16 | AGAIN),
                queues,
                tag: u32::try_from(len).unwrap_or(u32::MAX),
                state: &[],
                ..first
            };
            len += again.encoded_len();
            records.push(again);
        }
        let appended = self.log.append_together(&records);
        let mut at = appended.offset;
        for record in &records {
            at = add_entries(record, at, &mut self.entries);
        }
        self.counters.records_appended += records.len() as u64;
        appended
    }

    /// Writes the names of new queues, once there are many, in a record of their own.
    fn write_created(&mut self) {
        if self.created.len() > CREATED_BYTES_MAX {
            let section = std::mem::take(&mut self.created);
            self.append_state(&section, &section);
            self.names.created();
        }
    }
}

impl<D: Disk, Q: DiskQueue<D::File>> Store for ShardStore<D, Q> {
    fn log_id(&self) -> LogId {
        LogId(self.log.log_id().0)
    }

    fn appended(&self) -> LogOffset {
        LogOffset(self.log.appended().0)
    }

    fn durable(&self) -> LogOffset {
        LogOffset(self.log.durable().0)
    }

    fn refuses(&self) -> bool {
        self.retention.refuses
    }

    fn has_room(&self, bytes: usize, queues: usize) -> bool {
        let records = queues.div_ceil(RECORD_QUEUES_MAX).max(1);
        let all = records.saturating_mul(bytes);
        let all = all.saturating_add(queues * QUEUE_BYTES);
        all <= RECORD_BYTES_MAX - RECORD_BYTES && self.log.has_room_for(all)
    }

    fn applied_from(&self, log: LogId) -> LogOffset {
        LogOffset(self.state.applied(log.0 | DERIVED))
    }

    fn queues_version(&self) -> u64 {
        self.queues_version
    }

    fn is_full(&self) -> bool {
        self.log.is_full() || self.index.is_full() || self.state.is_full()
    }

    fn queue(&mut self, name: &QueueName) -> Option<QueueId> {
        let stored = stored_name(name);
        if let Some(id) = self.find_queue(&stored) {
            return Some(id);
        }
        if self.names.count() >= self.queues_max {
            return None;
        }
        let id = self.names.create(stored.clone());
        let change = Change {
            table: Table::Queue,
            key: stored,
            value: Some(name_row(id, None)),
        };
        encode_changes(&[change], &mut self.created);
        self.write_created();
        Some(id)
    }

    fn append(&mut self, record: &NewRecord<'_>) -> Appended {
        self.append_record(record)
    }

    fn message(&self, at: LogOffset) -> Option<Message> {
        self.log.record(storage_log::LogOffset(at.0)).map(message)
    }

    fn apply(&mut self, from: Address, change: Change) {
        self.section.clear();
        encode_changes(&[change], &mut self.section);
        let log = from.log.0 | DERIVED;
        if let Err(error) = self.state.apply(log, from.offset.0 + 1, &self.section) {
            self.failed.get_or_insert_with(|| error.into());
        }
    }

    fn first_rows(&mut self, table: Table, rows: usize, bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        let mut len = 0;
        let read = self.state.scan(table as u8, &[]).and_then(|scan| {
            for row in scan.take(rows) {
                let row = row?;
                len += row.value.len();
                found.push((row.key, row.value));
                if len >= bytes {
                    break;
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            self.failed.get_or_insert_with(|| error.into());
            found.clear();
        }
        found
    }

    fn row(&mut self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.state
            .get(table as u8, key)
            .unwrap_or_else(|error| self.fail(error.into()))
    }

    fn stored_rows(
        &mut self,
        tables: &[Table],
        prefix: &[u8],
        after: Option<&[u8]>,
        rows: usize,
    ) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        let numbers: Vec<u8> = tables.iter().map(|table| *table as u8).collect();
        let found = self.state.stored_rows(&numbers, prefix, after, rows);
        let found = found.unwrap_or_else(|error| self.fail(error.into()));
        let known = |row: Row| Some((Table::from_number(row.table)?, row.key, row.value));
        found.into_iter().filter_map(known).collect()
    }

    fn stored_upto(&self) -> LogOffset {
        if self.state.is_settled() {
            return self.appended();
        }
        LogOffset(self.state.applied(self.log.log_id().0))
    }

    fn walk(&mut self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Walk) {
        let mut step = |key: &[u8], value: &[u8]| match visit(key, value) {
            Walk::Next => storage_state::Walk::Next,
            Walk::Seek(key) => storage_state::Walk::Seek(key),
            Walk::Stop => storage_state::Walk::Stop,
        };
        if let Err(error) = self.state.walk(table as u8, from, &mut step) {
            self.fail::<()>(error.into());
        }
    }

    fn read(&mut self, token: ReadToken, request: ReadRequest) {
        self.begin_read(token, request);
    }

    fn cancel(&mut self, token: ReadToken) {
        self.end_read(token);
    }
}
