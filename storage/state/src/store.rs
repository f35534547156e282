//! The state store itself: apply, flush, confirm, read.

use std::collections::BTreeMap;
use std::sync::Arc;

use storage_io::Disk;

use crate::database::{Batch, Database};
use crate::limits::{
    APPLIED_LAG_BYTES, BATCH_BYTES_MAX, BATCH_BYTES_MIN, CACHE_BYTES, OVERLAY_BYTES_MAX,
};
use crate::overlay::{Overlay, Pending};
use crate::scan::{Row, Scan};
use crate::walk::{Walk, walk};
use crate::writer::{Writer, Writing};
use crate::{StateError, section};

/// How much the store may use, and when it writes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of pending changes from which the store calls itself full.
    pub overlay_bytes_max: usize,
    /// Bytes of durable changes that start a transaction without being asked for.
    pub batch_bytes_min: usize,
    /// Memory for pages of the database, in bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            overlay_bytes_max: OVERLAY_BYTES_MAX,
            batch_bytes_min: BATCH_BYTES_MIN,
            cache_bytes: CACHE_BYTES,
        }
    }
}

/// What [`StateStore::open_or_rebuild`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A sound database, or a new one where there was none.
    Sound,
    /// A file that could not be used, for this reason; it was replaced by an empty one, and every
    /// log has to be replayed from its start.
    Rebuilt(StateError),
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changes taken from logs.
    pub changes_applied: u64,
    /// Transactions of the database.
    pub batches_committed: u64,
    /// Bytes of sections in these transactions.
    pub bytes_committed: u64,
    /// Bytes that wait in the overlay now, as [`Options::overlay_bytes_max`] counts them.
    pub overlay_bytes: u64,
    /// Records whose changes wait to be durable or to be handed over.
    pub sections_waiting: u64,
}

/// The tables of one shard: an overlay in memory and a database.
#[derive(Debug)]
pub struct StateStore {
    database: Arc<Database>,
    writer: Writer,
    overlay: Overlay,
    /// The batch that the writer has.
    in_flight: Option<InFlight>,
    /// Per log: what the database has confirmed.
    applied: BTreeMap<u32, u64>,
    /// Per log: what was seen of it.
    seen: BTreeMap<u32, Seen>,
    options: Options,
    counters: Counters,
    failed: Option<StateError>,
}

/// How far a log was looked at. Only the end of a record that is durable may become an applied
/// offset, never the durable offset itself: behind a recovery that lies above the log's end until
/// something is durable there, and a replay must not be asked to begin above the end.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The end of the last record.
    last: u64,
    /// The end of an earlier record, which becomes the reached one when it is durable.
    candidate: u64,
    /// The end of a record that is durable.
    reached: u64,
}

impl Seen {
    fn advance(&mut self, durable: u64) {
        if durable >= self.last {
            (self.candidate, self.reached) = (self.last, self.last);
        } else if durable >= self.candidate {
            (self.reached, self.candidate) = (self.candidate, self.last);
        }
    }
}

#[derive(Debug)]
struct InFlight {
    sections: Vec<Pending>,
    applied: Vec<(u32, u64)>,
}

impl Drop for StateStore {
    fn drop(&mut self) {
        self.database.room().end();
    }
}

impl StateStore {
    /// Opens the store in a shard's directory, or creates it. Blocks; reads and checks the whole
    /// file.
    ///
    /// # Errors
    /// [`StateError::Unreadable`] and [`StateError::Format`] are cured by a rebuild;
    /// [`StateError::Disk`] is not.
    pub fn open<D: Disk>(
        disk: &D,
        options: Options,
        writing: Writing<'_>,
    ) -> Result<Self, StateError> {
        Self::start(Database::open(disk, options.cache_bytes)?, options, writing)
    }

    fn start(
        database: Database,
        options: Options,
        writing: Writing<'_>,
    ) -> Result<Self, StateError> {
        let database = Arc::new(database);
        let applied = database.applied()?;
        let writer = Writer::start(writing, &database);
        Ok(Self {
            database,
            writer,
            overlay: Overlay::default(),
            in_flight: None,
            seen: BTreeMap::new(),
            applied,
            options,
            counters: Counters::default(),
            failed: None,
        })
    }

    /// Opens the store; one that can't be used is deleted and started empty, with 0 applied of
    /// every log.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open_or_rebuild<D: Disk>(
        disk: &D,
        options: Options,
        writing: Writing<'_>,
    ) -> Result<(Self, Opened), StateError> {
        match Database::open(disk, options.cache_bytes) {
            Err(reason) if reason.is_cured_by_rebuild() => {
                let store = Self::rebuild(disk, options, writing)?;
                Ok((store, Opened::Rebuilt(reason)))
            }
            Err(error) => Err(error),
            Ok(sound) => Ok((Self::start(sound, options, writing)?, Opened::Sound)),
        }
    }

    /// Deletes the store and starts an empty one, with 0 applied of every log.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn rebuild<D: Disk>(
        disk: &D,
        options: Options,
        writing: Writing<'_>,
    ) -> Result<Self, StateError> {
        Database::remove(disk)?;
        Self::open(disk, options, writing)
    }

    /// Takes the changes of the record of `log` that ends at `end`; all or, on error, none. An
    /// empty section only tells how far the log was looked at. What was applied before is skipped,
    /// so a replay may start anywhere at or below [`StateStore::applied`].
    ///
    /// # Errors
    /// When the section is damaged, or comes behind a later one of its log.
    pub fn apply(&mut self, log: u32, end: u64, section: &[u8]) -> Result<(), StateError> {
        if end <= self.applied(log) {
            return Ok(());
        }
        let seen = self.seen.entry(log).or_default();
        if end < seen.last {
            return Err(StateError::Order {
                log,
                end,
                seen: seen.last,
            });
        }
        let mut changes = 0;
        for change in section::decode(section) {
            if let Err(error) = change {
                return Err(StateError::Section { log, end, error });
            }
            changes += 1;
        }
        seen.last = end;
        if changes > 0 {
            self.overlay.push(log, end, section);
            self.counters.changes_applied += changes;
        }
        Ok(())
    }

    /// Hands what is durable to the writer when it is worth a transaction, and takes its
    /// confirmations. `durable` tells for a log below which offset it is on disk: really on disk,
    /// whatever weaker promise the durability mode makes to publishers. Cheap; for every turn.
    ///
    /// # Errors
    /// When the database could not be written, now or earlier. The store takes nothing more.
    pub fn flush(&mut self, durable: impl Fn(u32) -> u64) -> Result<(), StateError> {
        self.step(false, &durable)
    }

    /// As [`StateStore::flush`], but whatever is durable is worth it: for about once a second,
    /// and at a stop.
    ///
    /// # Errors
    /// As [`StateStore::flush`].
    pub fn flush_now(&mut self, durable: impl Fn(u32) -> u64) -> Result<(), StateError> {
        self.step(true, &durable)
    }

    /// Hands over all that is durable and waits until the database has confirmed it, or stands
    /// still for want of room, see [`StateStore::waits_for_room`]. Blocks; for replay and the
    /// orderly stop.
    ///
    /// # Errors
    /// As [`StateStore::flush`].
    pub fn settle(&mut self, durable: impl Fn(u32) -> u64) -> Result<(), StateError> {
        loop {
            self.step(true, &durable)?;
            if self.in_flight.is_none() {
                return Ok(());
            }
            let answer = self.writer.awaited_answer();
            if answer.is_none() && self.waits_for_room() {
                return Ok(());
            }
            self.take_answer(answer)?;
        }
    }

    /// Every change of this log that ends at or below is in the database: a replay starts here.
    #[must_use]
    pub fn applied(&self, log: u32) -> u64 {
        self.applied.get(&log).copied().unwrap_or(0)
    }

    /// The logs that the database knows, with what is applied of each. One whose log ends below
    /// that does not belong to these logs: [`StateStore::rebuild`] it.
    pub fn applied_logs(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.applied.iter().map(|(log, offset)| (*log, *offset))
    }

    /// Every change that was applied is in the database.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_none() && self.overlay.sections() == 0
    }

    /// The overlay has reached its bound: append no changes until it has not.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.overlay.bytes() >= self.options.overlay_bytes_max
    }

    /// The overlay has reached twice its bound: append nothing that may bring changes.
    #[must_use]
    pub const fn is_overfull(&self) -> bool {
        self.overlay.bytes() >= 2 * self.options.overlay_bytes_max
    }

    /// The device is full: the thread that writes stands still until there is room. What is applied
    /// waits in the overlay meanwhile. Nothing waits with [`Writing::Inline`]: a full device is an
    /// error there.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.database.room().is_waited_for()
    }

    /// The value of a key, durable or not. Blocks.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn get(&self, table: u8, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        match self.overlay.get(table, key) {
            Some(waiting) => Ok(waiting.map(|value| value.to_vec())),
            None => self.database.get(table, key),
        }
    }

    /// The rows of a table whose keys start with `prefix`, in key order, durable or not. Blocks.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn scan(&self, table: u8, prefix: &[u8]) -> Result<Scan, StateError> {
        Scan::new(&self.database, &self.overlay, Some(table), prefix)
    }

    /// The first rows of each of these tables that are in the database, in key order: those whose
    /// keys start with `prefix` and come behind `after`, `count` at most. What waits in the overlay
    /// is not looked at: see [`StateStore::applied`]. Blocks.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn stored_rows(
        &self,
        tables: &[u8],
        prefix: &[u8],
        after: Option<&[u8]>,
        count: usize,
    ) -> Result<Vec<Row>, StateError> {
        crate::scan::stored_rows(&self.database, tables, prefix, after, count)
    }

    /// Shows the rows of a table from a key on, in key order, durable or not, as long as `visit`
    /// wants them; all of them as they are at one moment. Blocks.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn walk(
        &self,
        table: u8,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Walk,
    ) -> Result<(), StateError> {
        walk(&self.database, &self.overlay, (table, from), visit)
    }

    /// The rows of all tables, in order of table and key. Blocks.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn scan_all(&self) -> Result<Scan, StateError> {
        Scan::new(&self.database, &self.overlay, None, &[])
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Counters {
            overlay_bytes: number(self.overlay.bytes()),
            sections_waiting: number(self.overlay.sections()),
            ..self.counters
        }
    }

    fn step(&mut self, now: bool, durable: &impl Fn(u32) -> u64) -> Result<(), StateError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.in_flight.is_some() {
            let answer = self.writer.answer();
            self.take_answer(answer)?;
        }
        self.overlay.advance(durable);
        for (log, seen) in &mut self.seen {
            seen.advance(durable(*log));
        }
        while self.in_flight.is_none() && self.is_due(now) {
            self.hand()?;
        }
        Ok(())
    }

    fn is_due(&self, now: bool) -> bool {
        let ready = self.overlay.ready_bytes();
        if ready >= self.options.batch_bytes_min {
            return true;
        }
        if ready > 0 && (now || self.is_full()) {
            return true;
        }
        // Only the applied offsets are behind; `now` stores them, too, when there are any.
        let lag_min = if now { 1 } else { APPLIED_LAG_BYTES };
        self.seen.iter().any(|(log, seen)| {
            let lag = seen.reached.saturating_sub(self.applied(*log));
            lag >= lag_min && self.is_complete(*log, seen.reached)
        })
    }

    /// Whether no change of a log waits that ends at or below `reached`.
    fn is_complete(&self, log: u32, reached: u64) -> bool {
        self.overlay.first_end(log).is_none_or(|end| end > reached)
    }

    fn hand(&mut self) -> Result<(), StateError> {
        let sections = self.overlay.take_ready(BATCH_BYTES_MAX);
        let mut applied: BTreeMap<u32, u64> = BTreeMap::new();
        for pending in &sections {
            applied.insert(pending.log, pending.end);
        }
        for (log, seen) in &self.seen {
            if self.is_complete(*log, seen.reached) {
                let entry = applied.entry(*log).or_default();
                *entry = (*entry).max(seen.reached);
            }
        }
        applied.retain(|log, offset| *offset > self.applied(*log));
        let applied: Vec<_> = applied.into_iter().collect();
        let batch = Batch {
            sections: sections
                .iter()
                .map(|pending| pending.section.clone())
                .collect(),
            applied: applied.clone(),
        };
        let answer = self.writer.hand(&self.database, batch);
        self.in_flight = Some(InFlight { sections, applied });
        self.take_answer(answer)
    }

    fn take_answer(&mut self, answer: Option<Result<(), StateError>>) -> Result<(), StateError> {
        match answer {
            None => Ok(()),
            Some(Err(error)) => {
                self.failed = Some(error.clone());
                Err(error)
            }
            Some(Ok(())) => {
                if let Some(done) = self.in_flight.take() {
                    self.overlay.confirm(&done.sections);
                    let bytes: usize = done.sections.iter().map(|p| p.section.len()).sum();
                    self.counters.bytes_committed += u64::try_from(bytes).unwrap_or(u64::MAX);
                    self.counters.batches_committed += 1;
                    self.applied.extend(done.applied);
                }
                Ok(())
            }
        }
    }
}
