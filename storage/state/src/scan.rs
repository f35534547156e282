//! Rows of the database and of the overlay, merged: the overlay wins.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use crate::StateError;
use crate::database::{Database, Range, full_key};
use crate::overlay::{Key, Overlay};

/// One key and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The table.
    pub table: u8,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

type OverlayRows = std::collections::btree_map::IntoIter<Key, Option<Bytes>>;

/// Iterates over rows in order of table and key. It shows the state of one moment; what is
/// applied later is not in it. After an error it ends.
pub struct Scan {
    database: Arc<Database>,
    stored: Peekable<StoredRows>,
    overlay: Peekable<OverlayRows>,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").finish_non_exhaustive()
    }
}

impl Scan {
    pub(crate) fn new(
        database: &Arc<Database>,
        overlay: &Overlay,
        table: Option<u8>,
        prefix: &[u8],
    ) -> Result<Self, StateError> {
        let mut full_prefix = Vec::new();
        if let Some(table) = table {
            full_key(table, prefix, &mut full_prefix);
        }
        let rows = database.rows_from(&full_prefix)?;
        let waiting: BTreeMap<_, _> = overlay.range(table, prefix);
        Ok(Self {
            database: Arc::clone(database),
            stored: StoredRows {
                rows,
                prefix: full_prefix,
            }
            .peekable(),
            overlay: waiting.into_iter().peekable(),
        })
    }
}

impl Iterator for Scan {
    type Item = Result<Row, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(Err(_)) = self.stored.peek() {
                let error = self.stored.next()?.err()?;
                return Some(Err(self.database.error("read a row", &error)));
            }
            let stored_key = match self.stored.peek() {
                Some(Ok(row)) => Some((row.table, row.key.as_slice())),
                _ => None,
            };
            let Some((key, _)) = self.overlay.peek() else {
                return self.stored.next()?.ok().map(Ok);
            };
            let waiting_key = (key.0, key.1.as_ref());
            if stored_key.is_some_and(|stored| stored < waiting_key) {
                return self.stored.next()?.ok().map(Ok);
            }
            if stored_key == Some(waiting_key) {
                drop(self.stored.next());
            }
            let ((table, key), value) = self.overlay.next()?;
            if let Some(value) = value {
                return Some(Ok(Row {
                    table,
                    key: key.to_vec(),
                    value: value.to_vec(),
                }));
            }
        }
    }
}

/// See [`StateStore::stored_rows`](crate::StateStore::stored_rows).
pub(crate) fn stored_rows(
    database: &Arc<Database>,
    tables: &[u8],
    prefix: &[u8],
    after: Option<&[u8]>,
    count: usize,
) -> Result<Vec<Row>, StateError> {
    let snapshot = database.snapshot()?;
    let mut found = Vec::new();
    for table in tables {
        let (mut from, mut full_prefix) = (Vec::new(), Vec::new());
        full_key(*table, prefix, &mut full_prefix);
        full_key(*table, after.unwrap_or(prefix), &mut from);
        if after.is_some() {
            // The next key there can be.
            from.push(0);
        }
        let range = snapshot.range::<&[u8]>(from.as_slice()..);
        let rows = StoredRows {
            rows: range.map_err(|error| database.error("read a range of keys", &error))?,
            prefix: full_prefix,
        };
        for row in rows.take(count) {
            found.push(row.map_err(|error| database.error("read a row", &error))?);
        }
    }
    Ok(found)
}

/// The rows of the database as long as they have the prefix.
struct StoredRows {
    rows: Range,
    prefix: Vec<u8>,
}

impl Iterator for StoredRows {
    type Item = Result<Row, redb::StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.rows.next()? {
            Err(error) => Some(Err(error)),
            Ok((key, value)) => {
                let key = key.value();
                let (table, rest) = key.split_first()?;
                if !key.starts_with(&self.prefix) {
                    return None;
                }
                let value = value.value().to_vec();
                Some(Ok(Row {
                    table: *table,
                    key: rest.to_vec(),
                    value,
                }))
            }
        }
    }
}
