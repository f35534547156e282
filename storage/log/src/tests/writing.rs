//! Appending, committing, preparing segments, watermarks, poison.

use storage_io::Disk;
use storage_io::sim::Faults;

use super::rig::{Rig, Sample, recover, samples, small_options};
use crate::{Durability, Log, LogError, LogOffset, LogOptions};

#[test]
fn a_record_is_durable_after_its_sync_and_not_before() {
    let mut rig = Rig::new(1, small_options());
    let at = rig.append(100);
    let end = rig.appended[0].1;
    assert!(rig.log.durable() <= at && rig.log.appended() == end);
    rig.log.commit(&mut rig.queue).unwrap();
    // Written, not synced yet.
    rig.step().unwrap();
    assert!(rig.log.durable() <= at);
    assert!(rig.log.record(at).is_none());
    rig.step().unwrap();
    assert_eq!(rig.log.durable(), end);
    assert_eq!(Sample::of(&rig.log.record(at).unwrap()), rig.appended[0].2);
}

#[test]
fn what_arrives_during_a_write_is_the_next_group() {
    let mut rig = Rig::new(1, small_options());
    rig.append(10);
    rig.log.commit(&mut rig.queue).unwrap();
    for _ in 0..5 {
        rig.append(10);
        rig.log.commit(&mut rig.queue).unwrap();
    }
    assert_eq!(rig.queue.under_way(), 1);
    rig.settle().unwrap();
    assert_eq!(rig.log.durable(), rig.appended[5].1);
    let (_, report, _) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    assert_eq!((report.frames, report.records), (2, 6));
}

#[test]
fn interval_and_none_are_visible_before_they_are_synced() {
    for durability in [Durability::Interval { ms: 20 }, Durability::None] {
        let mut rig = Rig::new(
            1,
            LogOptions {
                durability,
                ..small_options()
            },
        );
        rig.append(100);
        let end = rig.appended[0].1;
        rig.settle().unwrap();
        assert!(rig.log.durable() == end && rig.log.synced() < end);
        rig.log.tick(499);
        rig.log.tick(500);
        rig.settle().unwrap();
        assert_eq!(rig.log.synced(), end, "{durability:?}");
    }
}

#[test]
fn segments_double_and_are_ready_before_they_are_needed() {
    let mut rig = Rig::new(1, small_options());
    for _ in 0..400 {
        rig.append(1500);
        rig.log.commit(&mut rig.queue).unwrap();
        rig.step().unwrap();
        rig.step().unwrap();
    }
    rig.settle().unwrap();
    assert_eq!(rig.log.durable(), rig.appended[399].1);
    let names = rig.disk.list().unwrap();
    let sizes: Vec<_> = names
        .iter()
        .map(|name| rig.disk.contents(name).unwrap().len() >> 10)
        .collect();
    assert_eq!(sizes[..3], [64, 128, 128], "{names:?}");
    let (_, report, records) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    assert!(samples(&records) == rig.appended, "{report}");
    assert!(
        report.frames > 350,
        "few appends had to wait for a segment: {report}"
    );
}

#[test]
fn records_of_a_quarter_segment_fit() {
    let options = small_options();
    let limit = options.usual_record_bytes();
    let mut rig = Rig::new(1, options);
    for _ in 0..20 {
        let mut sample = Sample::random(&mut rig.rng, 0);
        sample.state.clear();
        sample.queues.clear();
        sample.body = vec![9; limit - 48];
        let put = sample.append(&mut rig.log);
        rig.appended.push((put.offset, put.end, sample));
        rig.log.commit(&mut rig.queue).unwrap();
    }
    rig.settle().unwrap();
    let (_, _, records) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    assert_eq!(samples(&records), rig.appended);
}

#[test]
fn a_failed_sync_or_write_poisons() {
    let sync = Faults {
        syncs_per_10k: 10_000,
        ..Faults::default()
    };
    let write = Faults {
        writes_per_10k: 10_000,
        ..Faults::default()
    };
    for faults in [sync, write] {
        let mut rig = Rig::new(1, small_options());
        rig.append(100);
        rig.settle().unwrap();
        let durable = rig.log.durable();
        rig.append(100);
        rig.disk.set_faults(faults);
        assert!(matches!(rig.settle(), Err(LogError::Poisoned(_))));
        rig.disk.set_faults(Faults::default());
        assert!(matches!(rig.settle(), Err(LogError::Poisoned(_))));
        assert_eq!(rig.log.durable(), durable);
        assert_eq!(rig.queue.under_way(), 0, "nothing is tried again");
    }
}

#[test]
fn a_full_disk_is_back_pressure() {
    shortage_is_back_pressure(Faults {
        space_bytes: Some(100 << 10),
        ..Faults::default()
    });
}

#[test]
fn a_lack_of_descriptors_is_back_pressure() {
    shortage_is_back_pressure(Faults {
        no_descriptors: true,
        ..Faults::default()
    });
}

#[test]
fn room_that_is_for_others_is_left_to_them() {
    let options = LogOptions {
        free_bytes_min: 1 << 20,
        ..small_options()
    };
    let faults = Faults {
        space_bytes: Some((1 << 20) + (50 << 10)),
        ..Faults::default()
    };
    shortage_is_back_pressure_with(options, faults);
}

fn shortage_is_back_pressure(faults: Faults) {
    shortage_is_back_pressure_with(small_options(), faults);
}

fn shortage_is_back_pressure_with(options: LogOptions, faults: Faults) {
    let options = LogOptions {
        unsynced_bytes_max: 64 << 10,
        ..options
    };
    let mut rig = Rig::new(1, options);
    rig.disk.set_faults(faults);
    let mut refused = false;
    for now in 0..500 {
        refused |= rig.log.is_full();
        if !rig.log.is_full() {
            rig.append(1000);
        }
        rig.log.tick(now);
        rig.settle().unwrap();
    }
    assert!(refused);
    rig.disk.set_faults(Faults::default());
    rig.log.tick(10_000);
    rig.settle().unwrap();
    assert!(!rig.log.is_full() && !rig.log.has_shortage());
    rig.fill(100, 1000);
    assert_eq!(rig.log.durable(), rig.appended.last().unwrap().1);
}

#[test]
fn an_idle_log_marks_its_last_data_once() {
    let mut rig = Rig::new(1, small_options());
    rig.log.tick(1000);
    assert!(rig.log.is_settled() && !rig.log.needs_tick());
    rig.append(100);
    rig.log.tick(1001);
    rig.settle().unwrap();
    assert!(rig.log.needs_tick() && !rig.log.is_settled());
    rig.log.tick(1050);
    rig.settle().unwrap();
    assert!(!rig.log.is_settled());
    rig.log.tick(1101);
    rig.settle().unwrap();
    assert!(rig.log.is_settled() && !rig.log.needs_tick());
    let durable = rig.log.durable();
    rig.log.tick(9999);
    rig.settle().unwrap();
    assert_eq!(rig.log.durable(), durable, "one marker, not one per tick");
}

#[test]
fn a_small_group_shares_its_block_and_a_large_one_does_not() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(3, 50);
    assert!(rig.appended[2].1.0 < 2 * 4096);
    for _ in 0..70 {
        rig.append(1500);
    }
    rig.settle().unwrap();
    let at = rig.append(50);
    assert_eq!(
        at.0 % 4096,
        64,
        "a frame of its own block, behind its header"
    );
}

#[test]
fn a_directory_with_a_log_is_not_created_again() {
    let rig = Rig::new(1, small_options());
    assert!(Log::create(rig.disk.clone(), super::rig::LOG, small_options()).is_err());
}
