//! Records that are larger than any segment would be: each gets one of its own size.

use std::panic::{AssertUnwindSafe, catch_unwind};

use storage_io::Disk;
use storage_io::sim::{Faults, SimQueue};

use super::reading::{fetch, read_cold, scan_all};
use super::rig::{Rig, Sample, recover, samples, small_options};
use crate::{LogOffset, LogOptions, Lookup, NewRecord, RECORD_BYTES_MAX, RecordKind};

const MIB: usize = 1 << 20;

impl Rig {
    /// Appends a record with a body of exactly so many bytes.
    pub(super) fn append_large(&mut self, bytes: usize) -> LogOffset {
        let mut sample = Sample::random(&mut self.rng, 0);
        sample.body = vec![0; bytes];
        let ends = bytes.min(9000);
        self.rng.fill(&mut sample.body[..ends]);
        self.rng.fill(&mut sample.body[bytes - ends..]);
        let put = sample.append(&mut self.log);
        self.appended.push((put.offset, put.end, sample));
        put.offset
    }
}

#[test]
fn a_large_record_is_written_recovered_read_and_retired_like_others() {
    let options = LogOptions {
        tail_bytes_max: 0,
        ..LogOptions::default()
    };
    let mut rig = Rig::new(1, options.clone());
    rig.fill(3, 3000);
    rig.append_large(64 * MIB);
    assert!(rig.log.is_full() && rig.log.durable() < rig.appended[3].0);
    rig.settle().unwrap();
    assert!(!rig.log.is_full() && rig.log.durable() == rig.appended[3].1);
    rig.fill(3, 3000);
    rig.append_large(5 * MIB);
    rig.fill(3, 3000);
    rig.disk.crash(1);
    let (log, report, records) = recover(&rig.disk, options.clone(), LogOffset(0)).unwrap();
    assert!(samples(&records) == rig.appended, "{report}");
    drop(records);
    rig.log = log;
    rig.queue = SimQueue::new();
    for (at, end, sample) in &rig.appended {
        let record = read_cold(&mut rig.log, *at).unwrap();
        assert!((Sample::of(&record), record.end) == (sample.clone(), *end));
    }
    let found = scan_all(&mut rig.log, LogOffset(0), LogOffset(u64::MAX));
    assert!(samples(&found) == rig.appended);
    let before = rig.disk.used_bytes();
    rig.fill(1, 100);
    let start = rig.log.retirable();
    assert!(start > rig.appended[10].1 && rig.log.retire(start, &mut rig.queue));
    rig.settle().unwrap();
    rig.log.release(true, &mut rig.queue).unwrap();
    rig.settle().unwrap();
    rig.disk.sync_dir().unwrap();
    let after = rig.disk.used_bytes();
    assert!(after + 64 * (MIB as u64) < before, "{before} {after}");
}

/// Whatever of it had reached the device, it is there whole or cut off.
#[test]
fn a_large_record_that_was_cut_short_is_cut_off() {
    let (mut torn, mut whole) = (0, 0);
    for seed in 0..40 {
        let mut rig = Rig::new(seed, small_options());
        rig.append_large(600_000);
        rig.append(300);
        let steps = 6 + rig.rng.index(10);
        for _ in 0..steps {
            rig.log.commit(&mut rig.queue).unwrap();
            rig.step().unwrap();
        }
        let durable = rig.log.synced();
        rig.disk.crash(seed);
        let (log, report, records) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
        assert!(report.end >= durable, "{report}");
        let found = samples(&records);
        assert!(
            found[..] == rig.appended[..found.len()],
            "seed {seed}: {report}"
        );
        torn += u32::from(report.is_torn);
        whole += u32::from(!found.is_empty());
        // What follows has offsets of its own.
        let last = rig.appended.last().unwrap().1;
        assert!(log.appended() > last, "{report}");
    }
    assert!(torn > 0 && whole > 2, "{torn} {whole}");
}

/// However large each of them is, records that are appended together are in one frame.
#[test]
fn of_records_appended_together_a_crash_leaves_all_or_none() {
    let (mut all, mut none) = (0, 0);
    for seed in 0..30 {
        let mut rig = Rig::new(seed, small_options());
        rig.fill(1, 100);
        let body = vec![7; 700_000];
        let body = [&body[..]];
        let records = [1, 3, 2].map(|stamp| NewRecord {
            kind: RecordKind::Message,
            flags: 0,
            stamp,
            publisher: 0,
            packet_id: 0,
            epoch: 0,
            queues: &[],
            tag: 0,
            state: &[],
            body: &body,
        });
        let put = rig.log.append_together(&records);
        assert_eq!(put.end, rig.log.appended());
        let steps = 10 + rig.rng.index(20);
        for _ in 0..steps {
            rig.log.commit(&mut rig.queue).unwrap();
            rig.step().unwrap();
        }
        let durable = rig.log.synced();
        assert!(durable <= rig.appended[0].1 || durable == put.end);
        rig.disk.crash(seed);
        let (log, _, found) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
        let found: Vec<_> = found.iter().skip(1).map(|record| record.stamp).collect();
        let is_there = durable == put.end || !found.is_empty();
        assert_eq!(found, if is_there { vec![1, 3, 2] } else { vec![] });
        all += u32::from(is_there);
        none += u32::from(!is_there);
        let newest = log.segments().map(|one| one.newest_stamp).max();
        assert!(!is_there || newest >= Some(3));
    }
    assert!(all > 3 && none > 3, "{all} {none}");
}

/// An empty segment is never left between others, whether it is planned, being filled or ready, or
/// the one that a recovery began.
#[test]
fn a_segment_in_which_nothing_is_yet_becomes_large_enough() {
    for fill in [0, 10, 18, 22, 26, 28] {
        let mut rig = Rig::new(fill, small_options());
        for _ in 0..fill {
            rig.append_large(2000);
            rig.settle().unwrap();
        }
        for bytes in [300_000, 100, 500_000, 60_000] {
            rig.append_large(bytes);
            rig.settle().unwrap();
        }
        let sizes: Vec<_> = rig.log.segments().map(|one| one.size).collect();
        let is_its_own = |size: &u64| (300_000..310_000).contains(size);
        assert!(sizes.iter().any(is_its_own), "{sizes:?} behind {fill}");
        for crash in 0..3 {
            rig.disk.crash(crash);
            let from = rig.appended.last().unwrap().0;
            let (_, report, records) = recover(&rig.disk, small_options(), from).unwrap();
            assert_eq!(records.len(), 1, "{report}");
            let (log, report, records) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
            assert!(samples(&records) == rig.appended, "{report}");
            (rig.log, rig.queue) = (log, SimQueue::new());
            rig.append_large(200_000);
            rig.settle().unwrap();
        }
    }
}

/// It comes with one read, and what others read does not push it out before it was seen.
#[test]
fn a_record_larger_than_the_cache_is_read_at_once() {
    let options = LogOptions {
        tail_bytes_max: 0,
        cache_bytes_max: 128 << 10,
        ..LogOptions::default()
    };
    let mut rig = Rig::new(2, options);
    let small = rig.append_large(100);
    rig.settle().unwrap();
    let large = rig.append_large(20 * MIB);
    rig.settle().unwrap();
    let other = rig.append_large(3 * MIB);
    rig.settle().unwrap();
    rig.append(0);
    rig.settle().unwrap();
    let wanted = 20 * MIB + 48;
    let Lookup::Missing(read) = rig.log.read(large, wanted).unwrap() else {
        panic!("it is not in memory");
    };
    assert!(read.len >= wanted && read.chunk.is_large());
    fetch(&mut rig.log, &read);
    read_cold(&mut rig.log, small).unwrap();
    let is_ready = |log: &crate::Log<_>| matches!(log.read(large, 0), Ok(Lookup::Ready(_)));
    assert!(is_ready(&rig.log) && rig.log.has_large_chunk());
    read_cold(&mut rig.log, other).unwrap();
    assert!(!is_ready(&rig.log), "one at a time is kept");
    read_cold(&mut rig.log, large).unwrap();
    rig.log.forget_large_chunk();
    assert!(!is_ready(&rig.log) && !rig.log.has_large_chunk());
}

#[test]
fn a_large_record_is_announced_before_it_fills_the_disk() {
    let mut rig = Rig::new(3, small_options());
    rig.fill(1, 100);
    let set_space = |space_bytes| {
        rig.disk.set_faults(Faults {
            space_bytes: Some(space_bytes),
            ..Faults::default()
        });
    };
    set_space(400_000);
    assert!(rig.log.has_room_for(30_000), "in what is ready");
    assert!(rig.log.has_room_for(300_000) && !rig.log.has_room_for(400_000));
    set_space(0);
    assert!(rig.log.has_room_for(30_000) && !rig.log.has_room_for(300_000));
    assert!(rig.log.has_room_for(16_384), "it is no large one");
    set_space(u64::MAX);
    assert!(rig.log.has_room_for(RECORD_BYTES_MAX) && !rig.log.has_room_for(RECORD_BYTES_MAX + 1));
}

#[test]
fn a_record_beyond_the_bound_is_refused() {
    let mut rig = Rig::new(4, small_options());
    let piece = vec![0; MIB];
    let body = vec![&piece[..]; RECORD_BYTES_MAX / MIB];
    let record = NewRecord {
        kind: RecordKind::Message,
        flags: 0,
        stamp: 0,
        publisher: 0,
        packet_id: 0,
        epoch: 0,
        queues: &[],
        tag: 0,
        state: &[],
        body: &body,
    };
    let refused = catch_unwind(AssertUnwindSafe(|| rig.log.append(&record)));
    assert!(refused.is_err());
}
