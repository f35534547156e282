//! Records from memory and from disk, scans, and damage that only a read finds.

use storage_io::sim::SimDisk;
use storage_io::{Disk, DiskFile};

use super::rig::{Rig, Sample, recover, samples, small_options};
use crate::{ChunkRead, Log, LogError, LogOffset, LogOptions, Lookup, Record, Scan};

pub(super) fn fetch<D: Disk>(log: &mut Log<D>, read: &ChunkRead<D::File>) {
    let buf = read.file.read_at(read.offset, read.len).unwrap();
    log.insert_chunk(read.chunk, buf);
}

pub(super) fn read_cold(log: &mut Log<SimDisk>, at: LogOffset) -> Result<Record, LogError> {
    for _ in 0..100 {
        match log.read(at, 0)? {
            Lookup::Ready(record) => return Ok(record),
            Lookup::Missing(read) => fetch(log, &read),
        }
    }
    panic!("{at} is never ready")
}

pub(super) fn scan_all(log: &mut Log<SimDisk>, from: LogOffset, upto: LogOffset) -> Vec<Record> {
    let mut records = Vec::new();
    let (mut at, mut reads) = (from, 0);
    loop {
        match log.scan(at, upto).unwrap() {
            Scan::Ready(record) => {
                at = record.end;
                records.push(record);
                reads = 0;
            }
            Scan::Missing(read) => {
                fetch(log, &read);
                reads += 1;
                assert!(reads < 100, "what is behind {at} is never ready");
            }
            Scan::End => return records,
        }
    }
}

/// What it reads of the next segment does not push out of the cache what it needs of this one.
#[test]
fn a_scan_with_a_small_cache_passes_segments_that_were_left_early() {
    let options = LogOptions {
        segment_bytes_min: 512 << 10,
        segment_bytes_max: 512 << 10,
        tail_bytes_max: 0,
        cache_bytes_max: 256 << 10,
        pad_tail: true,
        ..small_options()
    };
    let mut rig = Rig::new(5, options.clone());
    for bytes in [500, 510_000, 60_000, 500_000, 100, 520_000, 100] {
        rig.append_large(bytes);
        rig.log.request_marker();
        rig.settle().unwrap();
    }
    rig.disk.crash(1);
    let (mut log, _, _) = recover(&rig.disk, options, LogOffset(0)).unwrap();
    let (start, durable) = (log.start(), log.durable());
    let records = scan_all(&mut log, start, durable);
    assert_eq!(samples(&records), rig.appended);
}

#[test]
fn every_record_is_readable_from_memory_and_disk() {
    let options = LogOptions {
        tail_bytes_max: 100 << 10,
        ..small_options()
    };
    let mut rig = Rig::new(1, options);
    rig.fill(200, 2500);
    let (mut hot, mut cold) = (0, 0);
    for (at, end, sample) in &rig.appended {
        match rig.log.record(*at) {
            Some(record) => {
                assert_eq!((Sample::of(&record), record.end), (sample.clone(), *end));
                hot += 1;
            }
            None => cold += 1,
        }
        let record = read_cold(&mut rig.log, *at).unwrap();
        assert_eq!((Sample::of(&record), record.end), (sample.clone(), *end));
    }
    assert!(
        hot > 10 && cold > 100,
        "{hot} from memory, {cold} from disk"
    );
}

#[test]
fn a_scan_gives_all_records_in_order_from_anywhere() {
    let options = LogOptions {
        tail_bytes_max: 100 << 10,
        ..small_options()
    };
    let mut rig = Rig::new(2, options);
    for number in 0..200 {
        rig.append(2500);
        if number % 3 == 0 {
            rig.settle().unwrap();
        }
        if number % 50 == 0 {
            rig.log.request_marker();
            rig.settle().unwrap();
        }
    }
    rig.settle().unwrap();
    let end = LogOffset(u64::MAX);
    assert_eq!(
        samples(&scan_all(&mut rig.log, LogOffset(0), end)),
        rig.appended
    );
    for first in [1, 50, 199] {
        let (from, upto) = (rig.appended[first - 1].1, rig.appended[199].0);
        let found = samples(&scan_all(&mut rig.log, from, upto));
        assert_eq!(found, rig.appended[first..199]);
    }
    assert!(scan_all(&mut rig.log, rig.appended[199].1, end).is_empty());
}

#[test]
fn a_scan_crosses_a_recovery() {
    let mut rig = Rig::new(3, small_options());
    rig.fill(60, 2500);
    let before = std::mem::take(&mut rig.appended);
    rig.disk.crash(3);
    rig.log = recover(&rig.disk, small_options(), LogOffset(0)).unwrap().0;
    let end = LogOffset(u64::MAX);
    let header = LogOffset(rig.log.appended().0 - 8);
    assert!(scan_all(&mut rig.log, header, end).is_empty());
    rig.fill(60, 2500);
    let inside = LogOffset(rig.appended[0].0.0 - 4000);
    assert!(samples(&scan_all(&mut rig.log, inside, end)) == rig.appended);
    let found = samples(&scan_all(&mut rig.log, LogOffset(0), LogOffset(u64::MAX)));
    assert_eq!(found, [before, rig.appended].concat());
}

#[test]
fn a_chunk_read_before_the_tail_grew_is_read_again() {
    let options = LogOptions {
        tail_bytes_max: 0,
        ..small_options()
    };
    let mut rig = Rig::new(4, options);
    rig.fill(2, 100);
    read_cold(&mut rig.log, rig.appended[0].0).unwrap();
    rig.fill(5, 100);
    let (at, _, sample) = rig.appended[5].clone();
    assert_eq!(Sample::of(&read_cold(&mut rig.log, at).unwrap()), sample);
}

#[test]
fn a_place_without_a_record_is_an_error() {
    let mut rig = Rig::new(5, small_options());
    rig.fill(2, 100);
    let end = rig.log.durable();
    for at in [end, LogOffset(1 << 40), LogOffset(4097)] {
        assert_eq!(rig.log.read(at, 0).unwrap_err(), LogError::NoRecord { at });
    }
    // A frame is no record, nor are the middle of one and the header block of the segment.
    let (mut log, ..) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    for at in [
        LogOffset(4096),
        LogOffset(rig.appended[0].0.0 + 8),
        LogOffset(0),
    ] {
        assert!(
            matches!(read_cold(&mut log, at), Err(LogError::Damaged { .. })),
            "{at}"
        );
    }
}

#[test]
fn a_read_finds_damage_and_says_where() {
    let mut rig = Rig::new(6, small_options());
    rig.fill(3, 100);
    let at = rig.appended[1].0;
    let (mut log, ..) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    let name = rig.disk.list().unwrap().remove(0);
    let position = usize::try_from(at.0).unwrap();
    assert!(rig.disk.flip_bit(&name, position + 30, 2));
    let error = read_cold(&mut log, at).unwrap_err();
    let place = format!("{name} is damaged at byte {position}: CRC of a record should be");
    assert!(error.to_string().starts_with(&place), "{error}");
}
