//! Delayed publications: what is sent to `$delayed/<seconds>/<topic>` is kept in the state store,
//! and published to the topic when it is due. One record publishes it and deletes its row.
//!
//! Only the earliest rows are in memory, the window; the others are read when it is empty.

use std::collections::BTreeMap;

use engine_mqtt::{Publish, QoS, ReasonCode};
use engine_session::Body;

use crate::port::{Change, ConnectionId, NewRecord, Store, Table};
use crate::publish::Publication;
use crate::shard::Shard;
use crate::state::{self, DelayedRow};
use crate::waits::{Ack, Pending};

/// What a topic begins with that is published to later.
const PREFIX: &str = "$delayed/";

/// The longest delay, seconds: 49 days.
const DELAY_MAX_S: u32 = 4_294_967;

/// Publications that one turn publishes because they are due, at most.
const DUE_PER_TURN: usize = 64;

/// How long what is due waits before it looks for room again, milliseconds.
const ROOM_MS: u64 = 50;

/// A topic that begins as a delayed one does and is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadDelay;

/// The seconds and the topic of `$delayed/<seconds>/<topic>`; any other topic is its own, at once.
pub(crate) fn split(topic: &str) -> Result<(u32, &str), BadDelay> {
    // Hardly any topic begins so.
    if topic.as_bytes().first() != Some(&b'$') {
        return Ok((0, topic));
    }
    let Some(rest) = topic.strip_prefix(PREFIX) else {
        return Ok((0, topic));
    };
    let (seconds, inner) = rest.split_once('/').ok_or(BadDelay)?;
    let is_number = seconds.bytes().all(|byte| byte.is_ascii_digit());
    let delay_s = seconds.parse().unwrap_or(0);
    let is_topic = !inner.is_empty() && !inner.starts_with(PREFIX);
    if is_number && is_topic && (1..=DELAY_MAX_S).contains(&delay_s) {
        return Ok((delay_s, inner));
    }
    Err(BadDelay)
}

/// The topic that [`split`] takes apart so.
pub(crate) fn join(delay_s: u32, topic: String) -> String {
    if delay_s == 0 {
        return topic;
    }
    format!("{PREFIX}{delay_s}/{topic}")
}

/// When a row is due, milliseconds of the node's time, and a number that no other row has; rows of
/// one time are published in its order.
pub(crate) type DueKey = (u64, u64);

/// The rows of this shard; see the module.
#[derive(Debug)]
pub(crate) struct DelayedTable {
    /// When the first row is due, or one that is not in memory may be, milliseconds; `u64::MAX`:
    /// never. This is all that a turn looks at.
    next_ms: u64,
    window: BTreeMap<DueKey, Vec<u8>>,
    window_bytes: usize,
    /// Rows from here on are in the state store alone.
    edge: Option<DueKey>,
    /// All rows.
    count: usize,
    /// What is due is looked at again then, monotonic milliseconds.
    again_ms: u64,
}

impl DelayedTable {
    pub(crate) const fn new() -> Self {
        Self {
            next_ms: u64::MAX,
            window: BTreeMap::new(),
            window_bytes: 0,
            edge: None,
            count: 0,
            again_ms: 0,
        }
    }

    /// All rows.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Rows in memory, and their bytes.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.window.len(), self.window_bytes)
    }

    /// Takes a row that the state store has, or gets.
    pub(crate) fn put(&mut self, key: DueKey, row: Vec<u8>, rows_max: usize, bytes_max: usize) {
        self.count += 1;
        if self.edge.is_some_and(|edge| key >= edge) {
            return;
        }
        self.window_bytes += row.len();
        self.window.insert(key, row);
        while (self.window.len() > rows_max || self.window_bytes > bytes_max)
            && self.window.len() > 1
            && let Some((last, row)) = self.window.pop_last()
        {
            self.window_bytes -= row.len();
            self.edge = Some(last);
        }
        self.look();
    }

    fn look(&mut self) {
        let first = self.window.first_key_value().map(|(key, _)| *key);
        let next = first.or(self.edge);
        self.next_ms = next.map_or(u64::MAX, |(due_ms, _)| due_ms);
    }

    fn pop_first(&mut self) -> Option<(DueKey, Vec<u8>)> {
        let (key, row) = self.window.pop_first()?;
        self.window_bytes -= row.len();
        self.count -= 1;
        self.look();
        Some((key, row))
    }

    /// Takes a row back whose turn has not come.
    fn put_back(&mut self, key: DueKey, row: Vec<u8>) {
        self.count += 1;
        self.window_bytes += row.len();
        self.window.insert(key, row);
        self.look();
    }

    /// Takes the first rows of the state store in place of an empty window.
    fn refill(&mut self, rows: Vec<(DueKey, Vec<u8>)>) {
        self.window_bytes = rows.iter().map(|(_, row)| row.len()).sum();
        self.window = rows.into_iter().collect();
        let last = self.window.last_key_value().map(|(key, _)| *key);
        let more = self.count > self.window.len();
        self.edge = last
            .map(|(due_ms, number)| (due_ms, number + 1))
            .or(self.edge)
            .filter(|_| more);
        self.look();
    }
}

impl Shard {
    /// Answers a publication to a topic that is none: clients that can be told are, others are
    /// closed.
    pub(crate) fn refuse_delay(
        &mut self,
        index: u32,
        connection: ConnectionId,
        publish: &Publish<'_>,
    ) {
        let reason = ReasonCode::TopicNameInvalid;
        let is_answered = publish.qos > QoS::AtMostOnce;
        if !is_answered || !self.deny(index, connection, publish, reason) {
            self.fail(connection, reason);
        }
    }

    /// Keeps a publication until it is due; false: there is no room for one more, nothing has
    /// happened. In the same record `changes` become true: at QoS 2, that the packet id has been
    /// received; for a will, that it is none any more.
    pub(crate) fn delay<S: Store>(
        &mut self,
        publication: &Publication<'_>,
        changes: &[Change],
        ack: Option<Ack>,
        store: &mut S,
    ) -> bool {
        let is_full = self.delayed.len() >= self.config.delayed_max;
        let is_held = publication.qos == QoS::AtMostOnce && !self.takes_publications(store);
        // A will has its place already.
        let has_room = store.has_room(publication.body.len(), 0);
        if !publication.was_kept && (is_full || is_held || !has_room) {
            return false;
        }
        let due_ms = self.now.wall_ms + u64::from(publication.delay_s) * 1000;
        let key = (due_ms, self.stamp());
        let row = DelayedRow {
            qos: publication.qos,
            retain: publication.retain,
            publisher: publication.publisher,
            body: publication.body,
        };
        let row = row.encode();
        let mut all = changes.to_vec();
        all.push(state::delayed(key, row.clone()));
        // State changes reach the log in the order in which they were made.
        self.flush_changes(store);
        let appended = store.append(&NewRecord {
            message: None,
            changes: &all,
        });
        let (rows_max, bytes_max) = self.delayed_bounds();
        self.delayed.put(key, row, rows_max, bytes_max);
        self.counters.delayed = self.delayed.len() as u64;
        // Acknowledged in the order of the log, with all others [MQTT-4.6.0-2].
        self.pending.push_back(Pending {
            offset: appended.offset,
            end: appended.end,
            route: None,
            owner: None,
            ack,
        });
        true
    }

    /// Rows and bytes of them that are in memory at most; one row is whatever its size.
    pub(crate) const fn delayed_bounds(&self) -> (usize, usize) {
        let config = &self.config;
        (config.delayed_window_max, config.delayed_window_bytes_max)
    }

    /// Publishes what is due, in the order of the times: as much as one turn may, and as there is
    /// room for. What finds no room stays.
    pub(crate) fn publish_delayed<S: Store>(&mut self, store: &mut S) {
        for _ in 0..DUE_PER_TURN {
            if self.delayed.next_ms > self.now.wall_ms || self.stopping {
                return;
            }
            if !self.takes_publications(store)
                || store.refuses()
                || !self.publish_first_delayed(store)
            {
                self.delayed.again_ms = self.now.monotonic_ms + ROOM_MS;
                return;
            }
        }
    }

    fn publish_first_delayed<S: Store>(&mut self, store: &mut S) -> bool {
        let Some((key, row)) = self.delayed.pop_first() else {
            return self.read_delayed(store);
        };
        let gone = [state::no_delayed(key)];
        let Ok(read) = DelayedRow::decode(&row) else {
            self.counters.dropped_unreadable += 1;
            self.changes.extend(gone);
            return true;
        };
        let publication = Publication {
            body: Body {
                published_ms: self.now.wall_ms,
                ..read.body
            },
            qos: read.qos,
            retain: read.retain,
            publisher: read.publisher,
            packet_id: 0,
            delay_s: 0,
            was_kept: true,
        };
        if !self.publish(&publication, &gone, None, store) {
            self.delayed.put_back(key, row);
            return false;
        }
        self.counters.delayed_published += 1;
        self.counters.delayed = self.delayed.len() as u64;
        true
    }

    /// Reads the next rows into the empty window; false: they can't be read.
    fn read_delayed<S: Store>(&mut self, store: &mut S) -> bool {
        // The state store knows what has been appended.
        self.flush_changes(store);
        let (rows_max, bytes_max) = self.delayed_bounds();
        let rows = store.first_rows(Table::Delayed, rows_max, bytes_max);
        let rows = rows.into_iter().filter_map(|(key, row)| {
            let key = state::read_delayed_key(&key).ok()?;
            Some((key, row))
        });
        self.delayed.refill(rows.collect());
        !self.delayed.window.is_empty()
    }

    /// When something is due, monotonic milliseconds.
    pub(crate) const fn next_delayed_ms(&self) -> u64 {
        if self.delayed.next_ms == u64::MAX || self.stopping {
            return u64::MAX;
        }
        let left_ms = self.delayed.next_ms.saturating_sub(self.now.wall_ms);
        let at_ms = self.now.monotonic_ms + left_ms;
        if at_ms > self.delayed.again_ms {
            at_ms
        } else {
            self.delayed.again_ms
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_whole_seconds_within_49_days() {
        for (topic, expected) in [
            ("a", Ok((0, "a"))),
            ("$delayed", Ok((0, "$delayed"))),
            ("$delayedx/1/a", Ok((0, "$delayedx/1/a"))),
            ("$delayed/1/a", Ok((1, "a"))),
            ("$delayed/007//", Ok((7, "/"))),
            ("$delayed/4294967/a/b", Ok((DELAY_MAX_S, "a/b"))),
            ("$delayed/4294968/a", Err(BadDelay)),
            ("$delayed/99999999999/a", Err(BadDelay)),
            ("$delayed/0/a", Err(BadDelay)),
            ("$delayed/+1/a", Err(BadDelay)),
            ("$delayed/-1/a", Err(BadDelay)),
            ("$delayed/1.5/a", Err(BadDelay)),
            ("$delayed/x/a", Err(BadDelay)),
            ("$delayed//a", Err(BadDelay)),
            ("$delayed/", Err(BadDelay)),
            ("$delayed/1", Err(BadDelay)),
            ("$delayed/1/", Err(BadDelay)),
            ("$delayed/1/$delayed/1/a", Err(BadDelay)),
        ] {
            assert_eq!(split(topic), expected, "{topic}");
        }
    }

    #[test]
    fn the_window_has_the_earliest_rows_and_its_bounds() {
        let mut table = DelayedTable::new();
        for n in [5, 1, 4, 2, 3, 0] {
            table.put((n, n), vec![0; 10], 3, 25);
        }
        assert_eq!((table.len(), table.load()), (6, (2, 20)));
        assert_eq!(table.pop_first().unwrap().0, (0, 0));
        assert_eq!(table.pop_first().unwrap().0, (1, 1));
        assert_eq!(table.next_ms, 2, "one that is not in memory");
        let rows: Vec<_> = [2, 3].map(|n| ((n, n), vec![0; 10])).into();
        table.refill(rows);
        table.put((3, 4), vec![0; 10], 3, 100);
        assert_eq!((table.len(), table.load()), (5, (2, 20)), "behind the edge");
        table.put((2, 9), vec![0; 40], 3, 45);
        assert_eq!((table.len(), table.load()), (6, (1, 10)), "one large row");
    }
}
