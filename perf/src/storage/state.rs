//! The state store of storage-state with as much in it as a large node has: what it takes on disk
//! and in memory, what a change costs, what a start reads, and what reading a session back costs.

use std::fmt::{self, Write};
use std::path::Path;

use storage_io::DirectDisk;
use storage_state::{Change, FILE_NAME, Options, StateStore, Writing, section};

use super::gauge::{Gauge, Spent, resident_bytes};
use super::plan::failed;
use crate::BenchError;
use crate::cli::StateArgs;

/// The tables of a node that are filled here; their numbers are those on disk.
const SESSION: u8 = 1;
const SUBSCRIPTION: u8 = 2;
const PROGRESS: u8 = 3;
const OUTBOUND: u8 = 4;
const INBOUND: u8 = 5;
const RETAINED: u8 = 7;
const QUEUE: u8 = 8;

/// Bytes of values: what two shards make of them.
const SESSION_BYTES: usize = 48;
const SUBSCRIPTION_BYTES: usize = 26;
const PROGRESS_BYTES: usize = 23;
const RETAINED_BYTES: usize = 30 + 100;
const QUEUE_BYTES: usize = 8;

/// The log that all changes come from.
const LOG: u32 = 0;
/// Bytes that one record takes in the log.
const RECORD_BYTES: u64 = 256;
/// Sessions that are read back, at most.
const READ_MAX: u64 = 100_000;

struct Subject {
    store: StateStore,
    end: u64,
    section: Vec<u8>,
}

/// Measures in a new folder below the one of the arguments, which is removed.
///
/// # Errors
/// When the disk or the store fails.
pub(crate) fn run(args: &StateArgs) -> Result<String, BenchError> {
    let path = args
        .directory
        .join(format!("corelane-state-{}", std::process::id()));
    std::fs::create_dir_all(&path).map_err(failed)?;
    let told = measure(args, &path);
    std::fs::remove_dir_all(&path).ok();
    told
}

fn measure(args: &StateArgs, path: &Path) -> Result<String, BenchError> {
    let mut out = String::new();
    let empty = resident_bytes();
    let mut subject = Subject::open(path)?;
    let begun = Gauge::now();
    let rows = subject.fill(args)?;
    line(&mut out, "filled", rows, "rows", &begun.spent())?;
    place(&mut out, path, rows, empty)?;
    let begun = Gauge::now();
    let updates = subject.update(args)?;
    line(&mut out, "updated", updates, "places", &begun.spent())?;
    drop(subject);
    let begun = Gauge::now();
    let subject = Subject::open(path)?;
    line(&mut out, "opened", rows, "rows checked", &begun.spent())?;
    let begun = Gauge::now();
    let mut found = 0;
    for row in subject.store.scan_all().map_err(failed)? {
        row.map_err(failed)?;
        found += 1;
    }
    line(&mut out, "scanned", found, "rows", &begun.spent())?;
    let begun = Gauge::now();
    let sessions = subject.read_sessions(args)?;
    line(&mut out, "read", sessions, "sessions", &begun.spent())?;
    place(&mut out, path, rows, empty)?;
    Ok(out)
}

fn line(
    out: &mut String,
    what: &str,
    count: u64,
    units: &str,
    spent: &Spent,
) -> Result<(), BenchError> {
    let each = spent.cpu_s * 1e6 / count.max(1) as f64;
    let written = spent.written >> 20;
    writeln!(
        out,
        "{what:<13} {count} {units} in {:.1} s, {:.0}/s, {each:.2} us CPU each, \
         {written} MB written",
        spent.wall_s,
        count as f64 / spent.wall_s
    )
    .map_err(|error: fmt::Error| failed(error))
}

fn place(out: &mut String, path: &Path, rows: u64, empty: u64) -> Result<(), BenchError> {
    let file = std::fs::metadata(path.join(FILE_NAME)).map_err(failed)?;
    let memory = resident_bytes().saturating_sub(empty);
    writeln!(
        out,
        "place         {} MB on disk, {:.0} B/row, {} MB of memory",
        file.len() >> 20,
        file.len() as f64 / rows.max(1) as f64,
        memory >> 20
    )
    .map_err(|error: fmt::Error| failed(error))
}

/// A number that looks like none before it.
const fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 29)
}

fn session_key(session: u64, rest: &str) -> Vec<u8> {
    let mut key = session.to_be_bytes().to_vec();
    key.extend_from_slice(rest.as_bytes());
    key
}

impl Subject {
    fn open(path: &Path) -> Result<Self, BenchError> {
        let disk = DirectDisk::open(path).map_err(failed)?;
        let options = Options::default();
        let store = StateStore::open(&disk, options, Writing::Inline).map_err(failed)?;
        let end = store.applied(LOG);
        Ok(Self {
            store,
            end,
            section: Vec::new(),
        })
    }

    fn put(&mut self, table: u8, key: &[u8], len: usize) -> Result<(), BenchError> {
        let value = vec![table; len];
        let value = Some(value.as_slice());
        section::encode(&Change { table, key, value }, &mut self.section).map_err(failed)
    }

    /// The end of a record: what was put goes to the store, as in a turn of a shard.
    fn record(&mut self) -> Result<(), BenchError> {
        self.end += RECORD_BYTES;
        let section = std::mem::take(&mut self.section);
        self.store.apply(LOG, self.end, &section).map_err(failed)?;
        self.store.flush(|_| u64::MAX).map_err(failed)
    }

    /// Returns how many rows there are.
    fn fill(&mut self, args: &StateArgs) -> Result<u64, BenchError> {
        for number in 0..args.sessions {
            let id = format!("device-{:016x}", mix(number));
            self.put(SESSION, id.as_bytes(), SESSION_BYTES)?;
            for filter in ["down", "all/+"] {
                let key = session_key(number, &format!("site/{id}/{filter}"));
                self.put(SUBSCRIPTION, &key, SUBSCRIPTION_BYTES)?;
            }
            self.put(PROGRESS, &session_key(number, ""), PROGRESS_BYTES)?;
            self.record()?;
        }
        for number in 0..args.retained {
            let topic = format!("site/device-{:016x}/state", mix(number));
            self.put(RETAINED, topic.as_bytes(), RETAINED_BYTES)?;
            self.record()?;
        }
        for number in 0..args.queues {
            let name = format!("tsite/device-{:016x}/up", mix(number));
            self.put(QUEUE, name.as_bytes(), QUEUE_BYTES)?;
            self.record()?;
        }
        self.store.settle(|_| u64::MAX).map_err(failed)?;
        Ok(4 * args.sessions + args.retained + args.queues)
    }

    /// New places of as many sessions, in no order.
    fn update(&mut self, args: &StateArgs) -> Result<u64, BenchError> {
        for number in 0..args.sessions {
            let session = mix(number) % args.sessions.max(1);
            self.put(PROGRESS, &session_key(session, ""), PROGRESS_BYTES)?;
            self.record()?;
        }
        self.store.settle(|_| u64::MAX).map_err(failed)?;
        Ok(args.sessions)
    }

    /// All rows of sessions in no order, as when they come back.
    fn read_sessions(&self, args: &StateArgs) -> Result<u64, BenchError> {
        let count = args.sessions.min(READ_MAX);
        for number in 0..count {
            let session = mix(number) % args.sessions;
            let id = format!("device-{:016x}", mix(session));
            let row = self.store.get(SESSION, id.as_bytes()).map_err(failed)?;
            let tables = [SUBSCRIPTION, PROGRESS, OUTBOUND, INBOUND];
            let prefix = session.to_be_bytes();
            let rows = self.store.stored_rows(&tables, &prefix, None, usize::MAX);
            let rows = rows.map_err(failed)?;
            if row.is_none() || rows.len() != 3 {
                return Err(failed(format!("session {session} has {} rows", rows.len())));
            }
        }
        Ok(count)
    }
}
