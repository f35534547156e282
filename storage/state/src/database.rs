//! The redb database: one file, three tables.
//!
//! | redb table | key | value |
//! |---|---|---|
//! | `format` | `"version"` | `1` (u64) |
//! | `applied` | log id (u32) | every change of that log that ends at or below is in (u64) |
//! | `state` | table number (1 byte), then the key | the value |
//!
//! redb is copy-on-write: a commit writes new pages, syncs, and makes them current with one
//! header sector, so after a crash the file holds the state of one commit.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use storage_io::{ByteFile, Disk, DiskError};

use crate::backend::{Backend, FirstFailure};
use crate::limits::{COMPACT_BYTES_MIN, PATH_BYTES, TRANSACTION_BYTES};
use crate::room::Room;
use crate::{StateError, section};

/// The name of the file in a shard's directory.
pub const FILE_NAME: &str = "state.redb";

pub(crate) const FORMAT_VERSION: u64 = 1;

const FORMAT: TableDefinition<'static, &str, u64> = TableDefinition::new("format");
const APPLIED: TableDefinition<'static, u32, u64> = TableDefinition::new("applied");
const STATE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("state");

/// What one transaction makes true.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// Sections in log order.
    pub(crate) sections: Vec<bytes::Bytes>,
    /// The new applied offsets.
    pub(crate) applied: Vec<(u32, u64)>,
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    redb: redb::Database,
    failure: FirstFailure,
    file: Arc<dyn ByteFile>,
    room: Room,
}

/// A range of stored rows, in key order.
pub(crate) type Range = redb::Range<'static, &'static [u8], &'static [u8]>;

/// All stored rows, of one moment.
pub(crate) type Snapshot = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

impl Database {
    /// Opens or creates the database, and checks every page of it.
    pub(crate) fn open<D: Disk>(disk: &D, cache_bytes: usize) -> Result<Self, StateError> {
        let exists = disk.list()?.iter().any(|name| name == FILE_NAME);
        let file: Arc<dyn ByteFile> = disk.byte_file(FILE_NAME)?.into();
        if !exists {
            disk.sync_dir()?;
        }
        let failure = FirstFailure::default();
        let room = Room::default();
        let backend = Backend::new(Arc::clone(&file), failure.clone(), room.clone());
        // Every page is checked, here and now, against its checksum: redb trusts pages later.
        // What it meets before that in a damaged file may panic inside, which is caught: the file
        // is then as unreadable as with an error.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            redb::Builder::new()
                .set_cache_size(cache_bytes)
                .set_check_integrity_on_open(true)
                .create_with_backend(backend)
        }));
        let redb = match opened {
            Ok(Ok(redb)) => redb,
            Ok(Err(error)) => return Err(unreadable(&failure, &error.to_string())),
            Err(_) => return Err(unreadable(&failure, "opening it failed in an assertion")),
        };
        let mut database = Self {
            redb,
            failure,
            file,
            room,
        };
        database.check_format()?;
        database.compact_if_sparse(disk)?;
        Ok(database)
    }

    /// Removes the file.
    pub(crate) fn remove<D: Disk>(disk: &D) -> Result<(), DiskError> {
        match disk.remove(FILE_NAME) {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => disk.sync_dir(),
        }
    }

    /// All applied offsets.
    pub(crate) fn applied(&self) -> Result<BTreeMap<u32, u64>, StateError> {
        let read = || -> Result<BTreeMap<u32, u64>, redb::Error> {
            let table = self.redb.begin_read()?.open_table(APPLIED)?;
            let mut applied = BTreeMap::new();
            for row in table.range::<u32>(..)? {
                let (log, offset) = row?;
                applied.insert(log.value(), offset.value());
            }
            Ok(applied)
        };
        read().map_err(|error| self.error("read the applied offsets", &error))
    }

    /// Commits a batch: all of it or nothing.
    pub(crate) fn write(&self, batch: &Batch) -> Result<(), StateError> {
        // The last change of a key wins, and keys in order share pages.
        let mut changes = BTreeMap::new();
        for section in &batch.sections {
            for change in section::decode(section).flatten() {
                changes.insert((change.table, change.key), change.value);
            }
        }
        let write = || -> Result<(), redb::Error> {
            let transaction = self.redb.begin_write()?;
            {
                let mut state = transaction.open_table(STATE)?;
                let mut key = Vec::new();
                for ((table, rest), value) in &changes {
                    full_key(*table, rest, &mut key);
                    match value {
                        Some(value) => drop(state.insert(key.as_slice(), *value)?),
                        None => drop(state.remove(key.as_slice())?),
                    }
                }
                let mut applied = transaction.open_table(APPLIED)?;
                for (log, offset) in &batch.applied {
                    applied.insert(log, offset)?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| self.error("commit a batch of changes", &error))
    }

    pub(crate) fn get(&self, table: u8, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let mut whole = Vec::new();
        full_key(table, key, &mut whole);
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let state = self.redb.begin_read()?.open_table(STATE)?;
            Ok(state
                .get(whole.as_slice())?
                .map(|value| value.value().to_vec()))
        };
        read().map_err(|error| self.error("read a key", &error))
    }

    /// The rows of all tables, as they are now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, StateError> {
        let read = || -> Result<_, redb::Error> { Ok(self.redb.begin_read()?.open_table(STATE)?) };
        read().map_err(|error| self.error("begin to read", &error))
    }

    /// All rows whose full key is not below `from`, in order.
    pub(crate) fn rows_from(&self, from: &[u8]) -> Result<Range, StateError> {
        let read = || -> Result<Range, redb::Error> {
            let state = self.redb.begin_read()?.open_table(STATE)?;
            Ok(state.range::<&[u8]>(from..)?)
        };
        read().map_err(|error| self.error("read a range of keys", &error))
    }

    /// Stands still until the device has room for a batch, so that the transaction, which readers
    /// would have to wait for, need not. False: the store is dropped.
    ///
    /// # Errors
    /// When the system cannot tell the room.
    pub(crate) fn wait_for_room(&self, batch: &Batch) -> Result<bool, StateError> {
        // Copy-on-write: at worst each change rewrites its path, and all of them every page.
        let bytes: usize = batch.sections.iter().map(bytes::Bytes::len).sum();
        let sections = batch.sections.iter();
        let changes: usize = sections.map(|one| section::decode(one).count()).sum();
        let (bytes, changes) = (bytes as u64, changes as u64);
        loop {
            let pages = (changes * PATH_BYTES).min(self.file.len()? + 2 * bytes);
            if self.file.space()?.free_bytes >= pages + 2 * bytes + TRANSACTION_BYTES {
                self.room.wait_no_more();
                return Ok(true);
            }
            if !self.room.wait() {
                return Ok(false);
            }
        }
    }

    /// The room that its writes wait for.
    pub(crate) const fn room(&self) -> &Room {
        &self.room
    }

    /// What an operation on the database failed with: the disk's own error where there is one.
    pub(crate) fn error(
        &self,
        operation: &'static str,
        error: &dyn std::error::Error,
    ) -> StateError {
        match self.failure.error() {
            Some(error) => StateError::Disk(error),
            None => StateError::Database {
                operation,
                reason: error.to_string(),
            },
        }
    }

    /// Makes a new database ours, and refuses one of another version.
    fn check_format(&self) -> Result<(), StateError> {
        let check = || -> Result<u64, redb::Error> {
            let transaction = self.redb.begin_write()?;
            let is_new = transaction.list_tables()?.next().is_none();
            if is_new {
                transaction
                    .open_table(FORMAT)?
                    .insert("version", FORMAT_VERSION)?;
                drop(transaction.open_table(APPLIED)?);
                drop(transaction.open_table(STATE)?);
                transaction.commit()?;
                return Ok(FORMAT_VERSION);
            }
            let has_format = transaction
                .list_tables()?
                .any(|t| t.name() == FORMAT.name());
            let mut found = 0;
            if has_format {
                let table = transaction.open_table(FORMAT)?;
                found = table.get("version")?.map_or(0, |version| version.value());
            }
            transaction.abort()?;
            Ok(found)
        };
        match check() {
            Ok(FORMAT_VERSION) => Ok(()),
            Ok(found) => Err(StateError::Format {
                file: FILE_NAME.to_owned(),
                found,
                expected: FORMAT_VERSION,
            }),
            Err(error) => Err(unreadable(&self.failure, &error.to_string())),
        }
    }

    /// The file doubles as it grows and does not shrink by itself: gives the rest back when less
    /// than a quarter of a large one is used, and there is room for another copy.
    fn compact_if_sparse<D: Disk>(&mut self, disk: &D) -> Result<(), StateError> {
        let used = || -> Result<(u64, u64), redb::Error> {
            let transaction = self.redb.begin_write()?;
            let stats = transaction.stats()?;
            let page = u64::try_from(stats.page_size()).unwrap_or(u64::MAX);
            let live = stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
            let allocated = stats.allocated_pages().saturating_mul(page);
            transaction.abort()?;
            Ok((live, allocated))
        };
        let (live, allocated) = used().map_err(|error| self.error("count its pages", &error))?;
        if allocated < COMPACT_BYTES_MIN || live > allocated / 4 {
            return Ok(());
        }
        if disk.space()?.free_bytes < allocated {
            return Ok(());
        }
        let compacted = self.redb.compact();
        compacted
            .map(drop)
            .map_err(|error| self.error("compact itself", &error))
    }
}

/// Writes the key of the `state` table to `out`.
pub(crate) fn full_key(table: u8, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(table);
    out.extend_from_slice(key);
}

fn unreadable(failure: &FirstFailure, reason: &str) -> StateError {
    match failure.error() {
        Some(error) => StateError::Disk(error),
        None => StateError::Unreadable {
            file: FILE_NAME.to_owned(),
            reason: reason.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use storage_io::sim::SimDisk;

    use super::*;
    use crate::section::{Change, encode};

    fn open_raw(disk: &SimDisk) -> redb::Database {
        let file = disk.byte_file(FILE_NAME).unwrap().into();
        let backend = Backend::new(file, FirstFailure::default(), Room::default());
        redb::Builder::new().create_with_backend(backend).unwrap()
    }

    #[test]
    fn golden_rows() {
        let disk = SimDisk::new(1);
        let database = Database::open(&disk, 1 << 20).unwrap();
        let mut section = Vec::new();
        encode(
            &Change {
                table: 7,
                key: b"a/b",
                value: Some(b"value"),
            },
            &mut section,
        )
        .unwrap();
        let batch = Batch {
            sections: vec![section.into()],
            applied: vec![(3, 4711)],
        };
        database.write(&batch).unwrap();
        drop(database);

        let redb = open_raw(&disk);
        let transaction = redb.begin_read().unwrap();
        let mut names: Vec<_> = transaction
            .list_tables()
            .unwrap()
            .map(|table| table.name().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["applied", "format", "state"]);
        let format = transaction.open_table(FORMAT).unwrap();
        assert_eq!(format.get("version").unwrap().unwrap().value(), 1);
        let applied = transaction.open_table(APPLIED).unwrap();
        assert_eq!(applied.get(3).unwrap().unwrap().value(), 4711);
        let state = transaction.open_table(STATE).unwrap();
        let value = state.get(b"\x07a/b".as_slice()).unwrap().unwrap();
        assert_eq!(value.value(), b"value");
    }

    #[test]
    fn another_version_is_refused() {
        let disk = SimDisk::new(2);
        drop(Database::open(&disk, 1 << 20).unwrap());
        let redb = open_raw(&disk);
        let transaction = redb.begin_write().unwrap();
        transaction
            .open_table(FORMAT)
            .unwrap()
            .insert("version", 2)
            .unwrap();
        transaction.commit().unwrap();
        drop(redb);
        let error = Database::open(&disk, 1 << 20).unwrap_err();
        let file = FILE_NAME.to_owned();
        assert_eq!(
            error,
            StateError::Format {
                file,
                found: 2,
                expected: 1
            }
        );
        assert!(error.is_cured_by_rebuild());
    }
}
