//! What holds after every recovery, and while the storage is in use.

use std::collections::BTreeSet;

use storage_io::Disk;
use storage_io::sim::SimDisk;
use storage_log::LogOffset;
use storage_queue::{Index, QueueId};

use super::model::{Model, Rows, Sample};
use super::stack::{LOG, Stack, StackError, StackOptions};

/// Why a check did not come to its end.
#[derive(Debug)]
pub(super) enum Wrong {
    /// The storage refused: whether it may is for the caller to say.
    Stopped(StackError),
    /// A promise is broken.
    Broken(String),
}

impl<E: Into<StackError>> From<E> for Wrong {
    fn from(error: E) -> Self {
        Self::Stopped(error.into())
    }
}

pub(super) fn broken<T>(text: String) -> Result<T, Wrong> {
    Err(Wrong::Broken(text))
}

/// Compares what was recovered with what was appended, and takes over how much of it is left.
pub(super) fn recovered(stack: &mut Stack, model: &mut Model) -> Result<(), Wrong> {
    log(stack, model)?;
    model.durable = stack.log.synced().0;
    queues(stack, model)?;
    let (found, expected) = (rows(stack)?, model.rows(|_| true));
    if found != expected {
        return broken(format!(
            "lost state: {} rows are there, {} are expected, or their values differ",
            found.len(),
            expected.len()
        ));
    }
    let appended = stack.log.appended().0;
    if appended < model.given {
        return broken(format!(
            "used twice: the log goes on at {appended}, up to {} was given out",
            model.given
        ));
    }
    Ok(())
}

/// 1, 2, 5, 10: the log's records are a prefix of what was appended, and all that was durable.
fn log(stack: &mut Stack, model: &mut Model) -> Result<(), Wrong> {
    let start = stack.log.start().0;
    if start < model.start || start > model.asked_start {
        return broken(format!(
            "wrong start: {start}, it was {} and asked for was {}",
            model.start, model.asked_start
        ));
    }
    model.start = start;
    let found = stack.scan(0, usize::MAX)?;
    let gone = model.records.partition_point(|record| record.at < start);
    let expected = model.records.get(gone..).unwrap_or_default();
    if found.len() > expected.len() {
        return broken(format!(
            "invented: {} records are there, {} were appended",
            found.len(),
            expected.len()
        ));
    }
    for (record, expected) in found.iter().zip(expected) {
        same(expected, &Sample::of(record))?;
    }
    let mark = model.durable.max(model.written);
    let must = expected.partition_point(|record| record.end <= mark);
    if found.len() < must {
        return broken(format!(
            "lost: {} records are there, {must} were durable below {mark}",
            found.len(),
        ));
    }
    let kept = gone + found.len();
    model.truncate(kept);
    Ok(())
}

pub(super) fn same(expected: &Sample, found: &Sample) -> Result<(), Wrong> {
    if found == expected {
        return Ok(());
    }
    broken(format!(
        "different: the record at {} (up to {}) is not the one appended at {} (up to {})",
        found.at, found.end, expected.at, expected.end
    ))
}

/// 3, 4, 7: every queue has its entries, and each names a record that names it.
fn queues(stack: &mut Stack, model: &Model) -> Result<(), Wrong> {
    for queue in (0..32).chain([100, 450, 899]) {
        let next = stack.index.next_offset(QueueId(queue));
        let expected = model.queues.get(&queue).map_or(0, |list| list.len() as u64);
        if next != expected {
            return broken(format!(
                "wrong next offset: {next} in queue {queue}, expected {expected}"
            ));
        }
        queue_by_log_offset(stack, model, queue, model.start, u64::MAX)?;
        queue_by_queue_offset(stack, model, queue, 0, usize::MAX)?;
    }
    Ok(())
}

/// The entries of a queue in a range of the log.
pub(super) fn queue_by_log_offset(
    stack: &mut Stack,
    model: &Model,
    queue: u64,
    from: u64,
    upto: u64,
) -> Result<(), Wrong> {
    let upto = upto.min(stack.log.appended().0);
    let from = from.max(model.start);
    let expected = model.entries(queue, from, upto);
    let max = expected.len() + 1;
    let found = stack
        .index
        .read_blocking(QueueId(queue), LogOffset(from), LogOffset(upto), max)?;
    let found: Vec<_> = found
        .entries
        .iter()
        .map(|e| (e.queue_offset, e.at.0))
        .collect();
    let wanted: Vec<_> = expected.iter().map(|(offset, r)| (*offset, r.at)).collect();
    if found != wanted {
        return broken(format!(
            "wrong entries of queue {queue} in {from}..{upto}: {} are there, {} are expected",
            found.len(),
            wanted.len()
        ));
    }
    Ok(())
}

/// The entries of a queue from a queue offset on; those below the log's start may be there.
pub(super) fn queue_by_queue_offset(
    stack: &mut Stack,
    model: &Model,
    queue: u64,
    from: u64,
    max: usize,
) -> Result<(), Wrong> {
    let expected = model.entries(queue, 0, u64::MAX);
    let expected: Vec<_> = expected
        .into_iter()
        .filter(|(offset, record)| *offset >= from && record.at >= model.start)
        .collect();
    let found = stack.by_offset(queue, from, max)?;
    let mut live = found.iter().filter(|entry| entry.at.0 >= model.start);
    for (offset, record) in expected
        .iter()
        .take(max.saturating_sub(found.len() - live.clone().count()))
    {
        let Some(entry) = live.next() else {
            return broken(format!("missing: entry {offset} of queue {queue}"));
        };
        let size = record.end - record.at;
        let is_right = entry.queue_offset == *offset
            && entry.at.0 == record.at
            && entry.tag == record.tag
            && u64::from(entry.size) == size;
        let is_named = record.queues.contains(&(QueueId(queue), *offset));
        if !is_right || !is_named {
            return broken(format!(
                "wrong entry: {entry:?} of queue {queue}, expected {offset} at {}",
                record.at
            ));
        }
    }
    match live.next() {
        Some(entry) => broken(format!("invented: {entry:?}")),
        None => Ok(()),
    }
}

pub(super) fn rows(stack: &Stack) -> Result<Rows, Wrong> {
    let mut rows = Rows::new();
    for row in stack.state.scan_all()? {
        let row = row?;
        rows.insert((row.table, row.key), row.value);
    }
    Ok(rows)
}

/// 6: nothing lies about. For a stack that has just been opened.
pub(super) fn files(disk: &SimDisk, stack: &Stack) -> Result<(), Wrong> {
    let names = disk.list()?;
    let count = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    let (segments, runs) = (count("segment-"), count("cq-"));
    let in_use = (stack.log.open_segments(), stack.index.counters().runs);
    if (segments, runs as u64) != in_use {
        return broken(format!(
            "wrong files: {segments} segments and {runs} runs, in use are {in_use:?}"
        ));
    }
    let known = [
        "segment-",
        "cq-",
        "spare-",
        "start",
        "manifest",
        "state.redb",
    ];
    let stray = names
        .iter()
        .find(|name| !known.iter().any(|known| name.starts_with(known)) || name.ends_with(".new"));
    match stray {
        Some(name) => broken(format!("wrong files: {name} is nobody's")),
        None => Ok(()),
    }
}

/// 7: an index that is made from the log alone, beside the one in use, says the same.
pub(super) fn rebuilt(stack: &mut Stack, options: &StackOptions) -> Result<(), Wrong> {
    let disk = SimDisk::new(1);
    let mut other = Index::open(disk, LOG, options.index.clone())?.index;
    let mut queues = BTreeSet::new();
    let start = stack.log.start();
    for record in stack.scan(0, usize::MAX)? {
        let at = record.address.1;
        let size = u32::try_from(record.end.0 - at.0).unwrap_or(u32::MAX);
        for (queue, queue_offset) in record.queues.iter() {
            queues.insert(queue);
            let tag = record.tag;
            other.append(&[storage_queue::Entry {
                queue,
                queue_offset,
                at,
                size,
                tag,
            }])?;
        }
        other.flush_blocking(record.end)?;
    }
    let end = LogOffset(stack.log.appended().0.max(1));
    for queue in queues {
        let one = stack.index.read_blocking(queue, start, end, 4096)?;
        let two = other.read_blocking(queue, start, end, 4096)?;
        if one.entries != two.entries {
            return broken(format!(
                "not what the log says: {} entries of queue {}, the log has {}",
                one.entries.len(),
                queue.0,
                two.entries.len()
            ));
        }
    }
    Ok(())
}
