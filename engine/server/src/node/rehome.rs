//! Another number of homes: state moves to the shards that clients and topics belong to from now
//! on. The logs stay where they are: addresses are for ever, and a shard that is no home any more
//! serves its sealed log.
//!
//! 1. `node.meta` notes where to; rows are copied: appended to the log of their new home, durable
//!    there and in its state store.
//! 2. `node.meta` has the new homes, durably: this is the moment in which it happens.
//! 3. The rows are deleted where they were; then `node.meta` notes that.
//!
//! A start behind a crash in between deletes what lies where it does not belong, and begins anew
//! if it is asked to.

use engine_shard::{Change, ShardId, Strays, Table};
use storage_io::{Disk, DiskError, ErrorKind, InlineQueue, Operation};
use storage_log::{Log, LogError, LogOffset, NewRecord, RecordKind};

use super::error::{CoreError, OpenError};
use super::meta::Meta;
use super::open::{Files, settle_if_full};
use super::retain::SECTION_BYTES;
use super::store::{DERIVED, encode_changes};

/// Bytes of sections between two commits.
const COMMIT_BYTES: usize = 4 << 20;

/// Shards whose logs are recovered and whose machines are not made yet.
pub(super) struct Rehoming<'a, D: Disk> {
    pub(super) disk: &'a D,
    pub(super) files: &'a mut [Files<D>],
    pub(super) logs: &'a mut [Log<D>],
    pub(super) wall_ms: u64,
}

impl<D: Disk> Rehoming<'_, D> {
    /// Makes the first `homes` shards the homes. Returns how many rows have moved.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is lost, the next start goes on.
    pub(super) fn run(&mut self, meta: &mut Meta, homes: u8) -> Result<u64, OpenError> {
        if meta.moving != 0 {
            self.delete_strays(meta.homes)?;
            meta.set_homes(self.disk, meta.homes, 0)?;
        }
        if meta.homes == homes {
            return Ok(0);
        }
        let before = meta.homes;
        let ends = self
            .logs
            .iter()
            .map(|log| engine_shard::LogOffset(log.durable().0));
        let ends: Vec<_> = ends.collect();
        meta.set_homes(self.disk, before, homes)?;
        let mut moved = 0;
        for shard in self.shards() {
            let rows = self.strays(shard, homes)?;
            moved += rows.len() as u64;
            for home in (0..homes).map(ShardId) {
                let own = rows.iter().filter(|(to, _)| *to == home);
                self.append(home, own.map(|(_, change)| change))?;
            }
        }
        self.settle()?;
        meta.add_fence(ends);
        meta.set_homes(self.disk, homes, before)?;
        self.delete_strays(homes)?;
        meta.set_homes(self.disk, homes, 0)?;
        Ok(moved)
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<D> {
        let count = u8::try_from(self.files.len()).unwrap_or(u8::MAX);
        (0..count).map(ShardId)
    }

    /// The rows of a shard that belong to others.
    fn strays(&self, shard: ShardId, homes: u8) -> Result<Vec<(ShardId, Change)>, OpenError> {
        let number = shard.0;
        let fail = |error: CoreError| OpenError::Shard {
            shard: number,
            error,
        };
        let mut strays = Strays::new(shard, homes);
        let Some(files) = self.files.get(shard.index()) else {
            return Ok(Vec::new());
        };
        for table in Strays::TABLES {
            let rows = files.state.scan(table as u8, &[]);
            for row in rows.map_err(|error| fail(error.into()))? {
                let row = row.map_err(|error| fail(error.into()))?;
                strays
                    .take(table, row.key, row.value)
                    .map_err(|error| OpenError::Restore {
                        shard: number,
                        error,
                    })?;
            }
        }
        Ok(strays.into_rows())
    }

    /// Deletes what does not belong where it is: of a session, its own row last.
    fn delete_strays(&mut self, homes: u8) -> Result<(), OpenError> {
        for shard in self.shards() {
            let rows = self.strays(shard, homes)?;
            let deletes: Vec<_> = rows
                .into_iter()
                .rev()
                .map(|(_, change)| Change {
                    value: None,
                    ..change
                })
                .collect();
            self.append(shard, deletes.iter())?;
        }
        self.settle()
    }

    /// Appends changes to a shard's log, durably, and gives them to its state store.
    fn append<'b>(
        &mut self,
        shard: ShardId,
        changes: impl Iterator<Item = &'b Change>,
    ) -> Result<(), OpenError> {
        let (files, logs) = (&mut *self.files, &mut *self.logs);
        let (Some(files), Some(log)) = (files.get_mut(shard.index()), logs.get_mut(shard.index()))
        else {
            return Ok(());
        };
        let stamp = self.wall_ms << 16;
        append(log, files, stamp, changes).map_err(|error| OpenError::Shard {
            shard: shard.0,
            error,
        })
    }

    /// Everything is durable in all state stores, which have seen all logs: what is retained in
    /// them has been copied.
    fn settle(&mut self) -> Result<(), OpenError> {
        for (shard, files) in (0u8..).zip(self.files.iter_mut()) {
            for log in self.logs.iter() {
                let id = log.log_id().0 | DERIVED;
                let seen = files.state.apply(id, log.durable().0, &[]);
                seen.map_err(|error| OpenError::Shard {
                    shard,
                    error: error.into(),
                })?;
            }
            let settled = files.state.settle(|_| u64::MAX);
            settled.map_err(|error| OpenError::Shard {
                shard,
                error: error.into(),
            })?;
        }
        Ok(())
    }
}

fn append<'a, D: Disk>(
    log: &mut Log<D>,
    files: &mut Files<D>,
    stamp: u64,
    changes: impl Iterator<Item = &'a Change>,
) -> Result<(), CoreError> {
    let most = SECTION_BYTES.min(log.usual_record_bytes() / 4);
    let (mut section, mut sections, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut changes = changes.peekable();
    while let Some(change) = changes.next() {
        debug_assert!(change.table != Table::Queue, "a name stays with its log");
        encode_changes(std::slice::from_ref(change), &mut section);
        let is_last = changes.peek().is_none();
        if section.len() < most && !is_last {
            continue;
        }
        let record = NewRecord {
            kind: RecordKind::State,
            flags: 0,
            stamp,
            publisher: 0,
            packet_id: 0,
            epoch: 0,
            queues: &[],
            tag: 0,
            state: &section,
            body: &[],
        };
        let end = log.append(&record).end;
        bytes += section.len();
        sections.push((end, std::mem::take(&mut section)));
        if bytes >= COMMIT_BYTES || is_last {
            sync(log, &files.disk)?;
            for (end, section) in sections.drain(..) {
                files.state.apply(log.log_id().0, end.0, &section)?;
                settle_if_full(&mut files.state)?;
            }
            bytes = 0;
        }
    }
    Ok(())
}

/// Waits until everything that was appended is on disk.
fn sync<D: Disk>(log: &mut Log<D>, disk: &D) -> Result<(), CoreError> {
    let mut queue = InlineQueue::new(disk.clone());
    let end: LogOffset = log.appended();
    while log.synced() < end {
        log.commit(&mut queue)?;
        let mut any = false;
        while let Some(completion) = storage_io::DiskQueue::poll(&mut queue) {
            any = true;
            log.complete(completion)?;
        }
        if !any || log.has_shortage() {
            let error = DiskError::new("the log", Operation::Write, end.0, ErrorKind::NoSpace);
            return Err(LogError::from(error).into());
        }
    }
    Ok(())
}
