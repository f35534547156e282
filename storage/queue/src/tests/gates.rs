//! What an entry costs in bytes, counted, at the gates of the storage design. The workload is that
//! of its benchmark in small: queues drawn evenly, records of 96 to 512 bytes, nine tags.

use storage_io::Disk;
use storage_io::sim::{Rng, SimDisk};
use storage_log::{LogId, LogOffset, QueueId};

use crate::{Entry, Index, Options};

const LOG: LogId = LogId(1);
const QUEUES: u64 = 2000;
const ENTRIES: u64 = 40_000;

fn options(join_from_runs: usize) -> Options {
    Options {
        memtable_entries_max: 2500,
        join_from_runs,
        merge_from_runs: usize::MAX,
        ..Options::default()
    }
}

/// The index of all entries.
fn filled(disk: &SimDisk, join_from_runs: usize) -> Index<SimDisk> {
    let mut index = Index::open(disk.clone(), LOG, options(join_from_runs))
        .unwrap()
        .index;
    let mut rng = Rng::new(42);
    let mut counts = vec![0; usize::try_from(QUEUES).unwrap()];
    let mut at = 0;
    for _ in 0..ENTRIES / 100 {
        let batch: Vec<Entry> = (0..100)
            .map(|_| {
                let queue = rng.below(QUEUES);
                let size = 96 + 8 * u32::try_from(rng.below(53)).unwrap();
                let tag = u32::try_from(rng.below(9)).unwrap() * 123_456_789;
                let count = &mut counts[usize::try_from(queue).unwrap()];
                let (queue, queue_offset, start) = (QueueId(queue), *count, LogOffset(at));
                *count += 1;
                at += u64::from(size);
                Entry {
                    queue,
                    queue_offset,
                    at: start,
                    size,
                    tag,
                }
            })
            .collect();
        index.append(&batch).unwrap();
        index.flush_blocking(LogOffset(at)).unwrap();
    }
    index.freeze();
    index.flush_blocking(LogOffset(at)).unwrap();
    index
}

fn run_bytes(disk: &SimDisk) -> u64 {
    let names = disk.list().unwrap();
    let runs = names.iter().filter(|name| name.starts_with("cq-"));
    runs.map(|name| disk.contents(name).unwrap().len() as u64)
        .sum()
}

#[test]
fn an_entry_takes_few_bytes() {
    let disk = SimDisk::new(1).sub("cq").unwrap();
    drop(filled(&disk, 1000));
    let flushed = run_bytes(&disk) as f64 / ENTRIES as f64;
    let disk = SimDisk::new(1).sub("cq").unwrap();
    let index = filled(&disk, 16);
    assert_eq!(index.counters().entries_in_runs, ENTRIES);
    assert_eq!(
        index.counters().runs_joined,
        16,
        "each entry was joined once"
    );
    let joined = run_bytes(&disk) as f64 / ENTRIES as f64;
    // The design's gates: 6 bytes on disk, a sixth of RocksDB's 113 written.
    assert!(joined <= 6.0, "{joined:.2} bytes per entry on disk");
    let written = flushed + joined;
    assert!(
        written <= 113.0 / 6.0,
        "{written:.2} bytes per entry written"
    );
}

#[test]
fn the_older_half_goes_without_a_write() {
    let disk = SimDisk::new(1).sub("cq").unwrap();
    let mut index = filled(&disk, 1000);
    let before: Vec<String> = disk.list().unwrap();
    let start = LogOffset(index.indexed_upto().0 / 2);
    let bytes = run_bytes(&disk);
    index.retire_blocking(start).unwrap();
    index.flush_blocking(start).unwrap();
    let after = disk.list().unwrap();
    assert!(after.len() < before.len());
    assert!(
        after.iter().all(|name| before.contains(name)),
        "nothing was written again"
    );
    let left = run_bytes(&disk) as f64 / bytes as f64;
    assert!(left < 0.6, "{left:.2} of the bytes are left");
    let found = index
        .read_blocking(QueueId(1), LogOffset(0), index.indexed_upto(), 100)
        .unwrap();
    assert!(!found.entries.is_empty());
    assert!(found.entries.iter().all(|entry| entry.at >= start));
}

#[test]
fn a_cold_read_is_one_page_of_a_run() {
    let disk = SimDisk::new(1).sub("cq").unwrap();
    drop(filled(&disk, 1000));
    let options = Options {
        cache_pages: 0,
        merge_from_runs: 2,
        ..options(1000)
    };
    let mut index = Index::open(disk, LOG, options).unwrap().index;
    let runs = index.counters().runs;
    let upto = index.indexed_upto();
    let mut most = 0;
    for queue in (0..QUEUES).step_by(7) {
        let before = index.counters().pages_read;
        index
            .read_blocking(QueueId(queue), LogOffset(0), upto, 32)
            .unwrap();
        most = most.max(index.counters().pages_read - before);
    }
    // A queue may lie across the border of two pages.
    assert!(most <= 2 * runs, "{most} pages of {runs} runs");
    let pages = index.counters().pages_read;
    let queues = QUEUES.div_ceil(7);
    assert!(
        pages <= runs * queues * 6 / 5,
        "{pages} pages for {queues} queues of {runs} runs"
    );
}
