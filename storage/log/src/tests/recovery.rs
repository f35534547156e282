//! What recovery refuses, what it cuts off, and what it leaves.

use storage_io::Disk;
use storage_io::sim::{Faults, SimQueue};

use super::rig::{LOG, Rig, recover, samples, small_options};
use crate::{Log, LogError, LogId, LogOffset};

#[test]
fn an_empty_directory_becomes_a_new_log() {
    let disk = storage_io::sim::SimDisk::new(1);
    let (log, report, records) = recover(&disk, small_options(), LogOffset(0)).unwrap();
    assert!(records.is_empty() && report.end == LogOffset(0) && report.next == log.appended());
}

#[test]
fn replay_begins_where_it_is_asked_to() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(300, 1500);
    for first in [0, 1, 100, 150, 299] {
        let from = rig.appended[first].0;
        let (_, _, records) = recover(&rig.disk, small_options(), from).unwrap();
        assert_eq!(
            samples(&records),
            rig.appended[first..],
            "from record {first}"
        );
    }
    let durable = rig.log.durable();
    let (log, report, records) = recover(&rig.disk, small_options(), durable).unwrap();
    assert_eq!(
        (records.len(), report.end, report.segments),
        (0, durable, 3),
        "{report}"
    );
    // The segments before are readable although they were not walked.
    let (at, _, sample) = &rig.appended[5];
    let mut log = log;
    let read = super::reading::read_cold(&mut log, *at).unwrap();
    assert_eq!(super::rig::Sample::of(&read), *sample);
}

#[test]
fn a_log_that_ends_below_what_was_durable_is_refused() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(10, 100);
    let beyond = LogOffset(rig.log.durable().0 + 8);
    let error = recover(&rig.disk, small_options(), beyond).unwrap_err();
    assert_eq!(
        error,
        LogError::EndsEarly {
            end: rig.log.durable(),
            expected: beyond
        }
    );
}

#[test]
fn without_room_for_a_segment_the_log_is_read_and_goes_on_later() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(300, 1500);
    rig.disk.set_faults(Faults {
        space_bytes: Some(0),
        ..Faults::default()
    });
    for _ in 0..3 {
        let (log, _, records) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
        assert_eq!(samples(&records), rig.appended);
        rig.log = log;
    }
    let (at, _, sample) = &rig.appended[5];
    let read = super::reading::read_cold(&mut rig.log, *at).unwrap();
    assert_eq!(super::rig::Sample::of(&read), *sample);
    let durable = rig.log.durable();
    rig.append(100);
    rig.log.tick(100);
    rig.settle().unwrap();
    assert_eq!(rig.log.durable(), durable);
    rig.disk.set_faults(Faults::default());
    rig.log.tick(10_000);
    rig.settle().unwrap();
    assert_eq!(rig.log.durable(), rig.appended[300].1);
    let (_, _, records) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    assert_eq!(samples(&records), rig.appended);
}

/// A driver that stores where the log stood after a recovery, and is killed before any record.
#[test]
fn a_position_in_the_gap_of_a_recovery_is_accepted() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(10, 100);
    let end = rig.log.durable();
    let mut positions = vec![end];
    for crash in 0..4 {
        for position in &positions {
            let found = recover(&rig.disk, small_options(), *position);
            let (log, report, records) = found.unwrap_or_else(|error| panic!("{crash}: {error}"));
            assert_eq!((records.len(), report.end), (0, end), "{report}");
            rig.log = log;
        }
        positions.push(rig.log.durable());
        rig.disk.crash(crash);
    }
    let beyond = LogOffset(rig.log.durable().0 + 8);
    let error = recover(&rig.disk, small_options(), beyond).unwrap_err();
    let expected = beyond;
    assert_eq!(error, LogError::EndsEarly { end, expected });
    // What comes next lies above every one of these positions.
    rig.log = recover(&rig.disk, small_options(), end).unwrap().0;
    rig.queue = SimQueue::new();
    rig.appended.clear();
    rig.fill(3, 100);
    for position in positions {
        let (_, _, records) = recover(&rig.disk, small_options(), position).unwrap();
        assert_eq!(samples(&records), rig.appended, "from {position}");
    }
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    let rig = Rig::new(1, small_options());
    let name = rig.disk.list().unwrap().remove(0);
    rig.disk.rot(&name, &mut |bytes| bytes[8] = 2);
    let error = recover(&rig.disk, small_options(), LogOffset(0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "segment-0000000000000000 has format version 2; this program reads version 1"
    );
}

#[test]
fn another_log_and_a_damaged_header_are_refused() {
    let rig = Rig::new(1, small_options());
    let other = Log::recover(
        rig.disk.clone(),
        LogId(9),
        small_options(),
        LogOffset(0),
        &mut |_| Ok(()),
    );
    let text = other.unwrap_err().to_string();
    assert!(text.contains("log id of a segment should be 9"), "{text}");
    let name = rig.disk.list().unwrap().remove(0);
    assert!(rig.disk.flip_bit(&name, 33, 1));
    let text = recover(&rig.disk, small_options(), LogOffset(0))
        .unwrap_err()
        .to_string();
    assert!(text.contains("CRC of a segment header"), "{text}");
}

/// Found by the simulated node with one shard, seed 1107: the end of the segment before was named.
#[test]
fn a_damaged_first_frame_is_named_with_its_segment() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(300, 1500);
    let names = rig.disk.list().unwrap();
    let mut segments = names.iter().filter(|name| name.starts_with("segment-"));
    let second = segments.nth(1).unwrap();
    assert!(rig.disk.flip_bit(second, 4096 + 100, 1));
    let text = recover(&rig.disk, small_options(), LogOffset(0))
        .unwrap_err()
        .to_string();
    assert!(text.contains(second.as_str()), "{text}");
    assert!(text.contains("at byte 4096"), "{text}");
}

#[test]
fn a_missing_segment_is_named() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(300, 1500);
    let names = rig.disk.list().unwrap();
    rig.disk.remove(&names[1]).unwrap();
    let error = recover(&rig.disk, small_options(), LogOffset(0)).unwrap_err();
    let base = LogOffset(64 << 10);
    assert_eq!(error, LogError::MissingSegment { base, below: base });
    assert_eq!(error.to_string(), format!("{} is missing", names[1]));
}

#[test]
fn a_missing_segment_below_a_recovery_is_named() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(300, 1500);
    let end = rig.log.durable();
    drop(recover(&rig.disk, small_options(), LogOffset(0)).unwrap());
    let names = rig.disk.list().unwrap();
    let segments: Vec<_> = names.iter().filter(|n| n.starts_with("segment-")).collect();
    let last = segments[segments.len() - 2];
    rig.disk.remove(last).unwrap();
    let error = recover(&rig.disk, small_options(), LogOffset(0)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("{last} is missing, or a later")),
        "{text}"
    );
    assert!(text.ends_with(&format!("below offset {end}")), "{text}");
}

#[test]
fn damage_before_an_earlier_recovery_is_found_by_the_next() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(10, 300);
    let last = rig.appended[9].0.0;
    drop(recover(&rig.disk, small_options(), LogOffset(0)).unwrap());
    let name = rig.disk.list().unwrap().remove(0);
    assert!(
        rig.disk
            .flip_bit(&name, usize::try_from(last).unwrap() + 20, 0)
    );
    let error = recover(&rig.disk, small_options(), LogOffset(0)).unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}

#[test]
fn the_last_frame_may_be_cut_off_when_nothing_claims_it() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(10, 300);
    let last = usize::try_from(rig.appended[9].0.0).unwrap();
    let name = rig.disk.list().unwrap().remove(0);
    assert!(rig.disk.flip_bit(&name, last + 20, 0));
    let (_, report, records) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    assert!(report.is_torn && records.len() == 9);
}

#[test]
fn a_sink_that_refuses_ends_the_recovery() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(3, 10);
    let before = rig.disk.list().unwrap();
    let result = Log::recover(
        rig.disk.clone(),
        LOG,
        small_options(),
        LogOffset(0),
        &mut |record| {
            Err(LogError::Refused {
                at: record.address.1,
                reason: "no".to_owned(),
            })
        },
    );
    assert!(matches!(result, Err(LogError::Refused { .. })));
    assert_eq!(rig.disk.list().unwrap(), before);
}

#[test]
fn unused_and_unfinished_segments_are_removed() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(30, 1500);
    let names = rig.disk.list().unwrap();
    assert_eq!(
        names.len(),
        3,
        "the start; the second is being prepared or ready: {names:?}"
    );
    rig.disk.create("prepare-00000000deadbeef").unwrap();
    let (log, report, _) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    let base = crate::segment::segment_name(LogOffset(log.appended().0 - 4096));
    assert_eq!(
        rig.disk.list().unwrap(),
        [names[0].clone(), base, "start".to_owned()]
    );
    assert_eq!(report.segments, 1);
}

/// A frame that is valid by itself, at the right place of the right segment, but of another
/// history, as a stale or misdirected write leaves it.
#[test]
fn a_frame_that_names_another_predecessor_is_refused() {
    let log_of = |byte: u8| {
        let mut rig = Rig::new(1, small_options());
        for _ in 0..3 {
            let mut sample = super::rig::Sample::random(&mut rig.rng, 0);
            sample.body = vec![byte; 100];
            let put = sample.append(&mut rig.log);
            rig.appended.push((put.offset, put.end, sample));
            rig.settle().unwrap();
        }
        rig
    };
    let (rig, other) = (log_of(1), log_of(2));
    let name = rig.disk.list().unwrap().remove(0);
    let from = usize::try_from(rig.appended[0].1.0).unwrap();
    let upto = usize::try_from(rig.appended[1].1.0).unwrap();
    let stray = other.disk.contents(&name).unwrap();
    rig.disk.rot(&name, &mut |bytes| {
        bytes[from..upto].copy_from_slice(&stray[from..upto])
    });
    let error = recover(&rig.disk, small_options(), LogOffset(0)).unwrap_err();
    let text = format!("{name} is damaged at byte {from}: previous frame of a frame");
    assert!(error.to_string().starts_with(&text), "{error}");
}

/// The last frame before a recovery is claimed by no frame, but by the recovery itself. When it is
/// the first one of its segment, the segment behind says so, not its own.
#[test]
fn damage_in_the_only_frame_of_the_last_segment_is_reported() {
    let mut rig = Rig::new(1, small_options());
    while rig.log.open_segments() < 3 {
        rig.fill(1, 3000);
    }
    // Up to the first frame of the segment that was made last.
    let base = rig.log.segments().last().map(|last| last.base).unwrap();
    while rig.log.durable() <= base {
        rig.fill(1, 3000);
    }
    drop(recover(&rig.disk, small_options(), LogOffset(0)).unwrap());
    rig.disk.crash(1);
    let (at, ..) = *rig.appended.last().unwrap();
    let position = usize::try_from(at.0 - base.0).unwrap();
    let name = crate::segment::segment_name(base);
    assert!(rig.disk.flip_bit(&name, position + 20, 3));
    let error = recover(&rig.disk, small_options(), LogOffset(0)).unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}
