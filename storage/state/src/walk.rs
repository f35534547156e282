//! A walk over the rows of a table that may leave rows out: the database and the overlay side by
//! side, the overlay wins.

use crate::StateError;
use crate::database::{Database, Range, full_key};
use crate::overlay::Overlay;

/// What a visitor wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Walk {
    /// The next row.
    Next,
    /// The first row whose key is not below this one; a key that is not behind the row that was
    /// shown stands for the next row.
    Seek(Vec<u8>),
    /// No more rows.
    Stop,
}

/// Rows that are passed one by one to reach a key, before the database is asked for it: that costs
/// as much as several of them.
const NEAR_ROWS: usize = 4;

/// See [`StateStore::walk`](crate::StateStore::walk).
pub(crate) fn walk(
    database: &Database,
    overlay: &Overlay,
    (table, from): (u8, &[u8]),
    visit: &mut dyn FnMut(&[u8], &[u8]) -> Walk,
) -> Result<(), StateError> {
    let fail = |error: redb::StorageError| database.error("read a row", &error);
    let rows = database.snapshot()?;
    let mut full = Vec::new();
    let mut from = from.to_vec();
    loop {
        full_key(table, &from, &mut full);
        let stored = rows.range::<&[u8]>(full.as_slice()..).map_err(fail)?;
        match part(table, stored, overlay, &from, visit).map_err(fail)? {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// Shows rows until the visitor wants one that is far away: its key.
fn part(
    table: u8,
    mut stored: Range,
    overlay: &Overlay,
    from: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> Walk,
) -> Result<Option<Vec<u8>>, redb::StorageError> {
    let mut waiting = overlay.rows_from(table, from).peekable();
    let mut row = stored.next().transpose()?;
    let mut target: Option<Vec<u8>> = None;
    let mut passed = 0;
    loop {
        let key = row.as_ref().and_then(|(key, _)| key.value().split_first());
        let key = key.and_then(|(one, key)| (*one == table).then_some(key));
        let other = waiting.peek().copied();
        let (shown, value, is_stored, is_waiting) = match (key, other) {
            (None, None) => return Ok(None),
            (Some(key), Some((other, value))) if other <= key => (other, value, other == key, true),
            (None, Some((other, value))) => (other, value, false, true),
            (Some(key), _) => {
                let value = row.as_ref().map(|(_, value)| value.value());
                (key, value, true, false)
            }
        };
        let is_far = target.as_deref().is_some_and(|target| shown < target);
        if is_far && passed >= NEAR_ROWS {
            return Ok(target);
        }
        passed += usize::from(is_far);
        if let Some(value) = value.filter(|_| !is_far) {
            passed = 0;
            target = match visit(shown, value) {
                Walk::Next => None,
                Walk::Seek(key) => Some(key),
                Walk::Stop => return Ok(None),
            };
        }
        if is_waiting {
            waiting.next();
        }
        if is_stored {
            row = stored.next().transpose()?;
        }
    }
}
