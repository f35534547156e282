//! Damaged, missing and foreign files: named, and cured by a replay.

use storage_io::sim::{Faults, Rng};
use storage_io::{Disk, DiskFile};

use super::model::{LOG, Model, options};
use crate::run_file::generation_of;
use crate::{Entry, Index, IndexError, LogId, LogOffset, Lookup, QueueId};

/// A model whose entries are all in runs, of which there are several.
fn in_runs(seed: u64) -> (Model, Vec<String>) {
    let mut model = Model::new(seed);
    (0..400).for_each(|_| model.append());
    model.settle();
    let names = model.disk.list().unwrap();
    let runs: Vec<_> = names
        .into_iter()
        .filter(|name| generation_of(name).is_some())
        .collect();
    assert!(runs.len() > 4);
    (model, runs)
}

#[test]
fn a_damaged_page_is_named_and_replayed() {
    for (place, offset) in [(5000, 4096), (100, 0), (8191, 4096)] {
        let (mut model, runs) = in_runs(3);
        let upto = model.index.indexed_upto();
        assert!(model.disk.flip_bit(&runs[2], place, 3));
        let damage = model.restart();
        let [
            IndexError::Damaged {
                file,
                offset: named,
                ..
            },
        ] = damage.as_slice()
        else {
            panic!("{damage:?}");
        };
        assert_eq!((file, *named), (&runs[2], offset));
        assert!(
            damage[0]
                .to_string()
                .contains(&format!("{file} is damaged at byte {offset}"))
        );
        assert_eq!(model.index.indexed_upto(), upto, "the runs behind are kept");
        assert_eq!(model.mended, log_bytes(&runs[2]), "its range alone is read");
        let names = model.disk.list().unwrap();
        let kept = runs.iter().filter(|run| names.contains(run)).count();
        assert_eq!(kept, runs.len() - 1);
        model.check();
        model.settle();
        assert_eq!(model.restart(), []);
        model.check();
    }
}

/// Bytes of the log that a run covers, from its name.
fn log_bytes(name: &str) -> u64 {
    let mut ends = name.split('-').skip(1);
    let mut end = || u64::from_str_radix(ends.next().unwrap(), 16).unwrap();
    let low = end();
    end() - low
}

#[test]
fn many_lost_runs_are_filled_each_alone() {
    let (mut model, runs) = in_runs(21);
    let lost = [&runs[0], &runs[1], &runs[3]];
    lost.iter()
        .for_each(|name| model.disk.remove(name).unwrap());
    assert_eq!(model.restart().len(), 3);
    assert_eq!(
        model.mended,
        lost.iter().map(|name| log_bytes(name)).sum::<u64>()
    );
    model.check();
    assert_eq!(model.restart(), []);
    model.check();
}

#[test]
fn the_last_runs_are_replayed_and_no_hole() {
    let (mut model, mut runs) = in_runs(22);
    let last = runs.pop().unwrap();
    let before = runs.pop().unwrap();
    model.disk.remove(&last).unwrap();
    model.disk.remove(&before).unwrap();
    let upto = model.index.indexed_upto();
    let opened = Index::open(model.disk.clone(), LOG, options()).unwrap();
    assert_eq!(opened.index.holes(), []);
    let lost = log_bytes(&last) + log_bytes(&before);
    assert_eq!(opened.index.indexed_upto().0, upto.0 - lost);
    model.restart();
    assert_eq!(model.mended, 0);
    model.check();
}

#[test]
fn a_hole_of_a_joined_run_becomes_several() {
    let mut model = Model::new(23);
    (0..1500).for_each(|_| model.append());
    model.settle();
    assert_eq!(model.restart(), []);
    (0..100).for_each(|_| model.append());
    model.settle();
    let before = model.index.counters();
    let mut names = model.disk.list().unwrap();
    names.retain(|name| generation_of(name).is_some());
    assert!(model.disk.flip_bit(&names[0], 9000, 1));
    let options = std::mem::replace(
        &mut model.options,
        crate::Options {
            merge_from_runs: usize::MAX,
            ..options()
        },
    );
    assert_eq!(model.restart().len(), 1);
    let after = model.index.counters();
    assert_eq!(after.entries_in_runs, before.entries_in_runs);
    assert!(after.runs > before.runs + 5, "{after:?}");
    model.check();
    model.options = options;
    assert_eq!(model.restart(), []);
    assert!(model.index.counters().runs <= 3);
    model.check();
}

#[test]
fn a_crash_while_a_hole_is_filled_leaves_the_hole_or_fills_it() {
    let (mut met, mut filled) = (0, 0);
    for seed in 0..40 {
        let (mut model, runs) = in_runs(seed);
        model.disk.remove(&runs[1]).unwrap();
        let mut index = Index::open(model.disk.clone(), LOG, options())
            .unwrap()
            .index;
        model.disk.set_faults(Faults {
            writes_per_10k: 1500,
            syncs_per_10k: 1500,
            ..Faults::default()
        });
        let mut mending = index.mend().unwrap();
        let ended = model.offer(&mut mending).and_then(|()| mending.finish());
        met += u32::from(ended.is_err());
        model.disk.set_faults(Faults::default());
        model.disk.crash(seed);
        filled += u32::from(model.restart().is_empty());
        model.check();
        assert_eq!(model.restart(), []);
        let names = model.disk.list().unwrap();
        let count = names.iter().filter(|name| generation_of(name).is_some());
        let runs = usize::try_from(model.index.counters().runs).unwrap();
        assert_eq!(count.count(), runs, "nothing lies about");
    }
    assert!(met > 5 && filled > 5, "{met} failed, {filled} were filled");
}

#[test]
fn too_many_runs_for_the_manifest_are_replayed_instead() {
    let (mut model, runs) = in_runs(24);
    model.disk.remove(&runs[1]).unwrap();
    // So many memtables could have been joined to this run that they are not listed one by one.
    let small = crate::Options {
        memtable_log_bytes_max: 4,
        ..options()
    };
    let opened = Index::open(model.disk.clone(), LOG, small).unwrap();
    assert_eq!(opened.index.holes(), []);
    assert_eq!(opened.index.indexed_upto().0, log_bytes(&runs[0]));
    assert_eq!(opened.damage.len(), 1);
    model.restart();
    model.check();
}

#[test]
fn a_hole_that_the_start_has_passed_in_part_is_filled_above_it() {
    let (model, runs) = in_runs(26);
    model.disk.remove(&runs[1]).unwrap();
    let small = crate::Options {
        memtable_entries_max: 20,
        ..options()
    };
    let mut index = Index::open(model.disk.clone(), LOG, small).unwrap().index;
    let start = log_bytes(&runs[0]) + log_bytes(&runs[1]) / 2;
    index.retire_blocking(LogOffset(start)).unwrap();
    let mut mending = index.mend().unwrap();
    model.offer(&mut mending).unwrap();
    mending.finish().unwrap();
    assert!(index.runs[0].id.high.0 > start, "a run is gone as a whole");
    let opened = Index::open(model.disk.clone(), LOG, options()).unwrap();
    assert_eq!((opened.damage, opened.index.start().0), (Vec::new(), start));
}

#[test]
#[should_panic(expected = "mended first")]
fn no_look_up_sees_a_hole() {
    let (model, runs) = in_runs(25);
    model.disk.remove(&runs[1]).unwrap();
    let mut index = Index::open(model.disk, LOG, options()).unwrap().index;
    drop(index.read(QueueId(1), LogOffset(0), LogOffset(9000), 1));
}

#[test]
fn any_flipped_bit_is_found() {
    let mut rng = Rng::new(9);
    for seed in 0..30 {
        let (mut model, runs) = in_runs(seed);
        let name = &runs[rng.index(runs.len())];
        let len = model.disk.contents(name).unwrap().len();
        assert!(
            model
                .disk
                .flip_bit(name, rng.index(len), u8::try_from(rng.below(8)).unwrap())
        );
        let damage = model.restart();
        assert!(
            matches!(damage.as_slice(), [IndexError::Damaged { file, .. }] if file == name),
            "{damage:?}"
        );
        model.check();
    }
}

#[test]
fn a_page_that_is_damaged_later_is_named_by_the_look_up() {
    let (mut model, runs) = in_runs(4);
    assert!(model.disk.flip_bit(&runs[0], 4096 + 77, 0));
    let read = model
        .index
        .read(QueueId(1_000_000), LogOffset(0), LogOffset(9000), 10);
    let Ok(Lookup::Missing(page)) = read else {
        panic!("{read:?}")
    };
    let bytes = page.file.read_at(page.offset, page.len).unwrap();
    let error = model.index.insert_page(page.token, bytes).unwrap_err();
    let reason = "the page fails its checksum";
    assert_eq!(
        error,
        IndexError::Damaged {
            file: runs[0].clone(),
            offset: 4096,
            reason
        }
    );
}

#[test]
fn garbage_never_panics() {
    for seed in 0..60 {
        let (mut model, runs) = in_runs(seed);
        let manifest = "manifest".to_owned();
        let run = &runs[Rng::new(seed).index(runs.len())];
        let name = if seed % 3 == 0 { &manifest } else { run };
        model.disk.rot(name, &mut |bytes| {
            // Called twice, once for each image that the device keeps: the same both times.
            let mut rng = Rng::new(seed);
            let from = rng.index(bytes.len());
            let len = (bytes.len() - from).min(1 + rng.index(9000));
            rng.fill(&mut bytes[from..from + len]);
        });
        model.restart();
        model.check();
        model.crash();
        model.check();
    }
}

#[test]
fn a_missing_run_is_named_and_replayed() {
    let (mut model, runs) = in_runs(5);
    model.disk.remove(&runs[1]).unwrap();
    let damage = model.restart();
    let [IndexError::Missing { file, got: 0, .. }] = damage.as_slice() else {
        panic!("{damage:?}");
    };
    assert_eq!(file, &runs[1]);
    model.check();
}

#[test]
fn an_unreadable_manifest_rebuilds_everything() {
    let (mut model, _) = in_runs(6);
    model.disk.rot("manifest", &mut |bytes| {
        bytes.iter_mut().for_each(|byte| *byte ^= 0x55)
    });
    let damage = model.restart();
    assert!(
        matches!(damage.as_slice(), [IndexError::Manifest { .. }]),
        "{damage:?}"
    );
    model.check();

    let (mut model, _) = in_runs(6);
    model.disk.remove("manifest").unwrap();
    let damage = model.restart();
    assert!(
        matches!(damage.as_slice(), [IndexError::Manifest { .. }]),
        "{damage:?}"
    );
    model.check();
}

#[test]
fn an_older_slot_of_the_manifest_is_enough() {
    let (mut model, _) = in_runs(7);
    let slots = model.disk.contents("manifest").unwrap();
    let sequence = |slot: usize| {
        let at = slot * 65536 + 24;
        u64::from_le_bytes(slots[at..at + 8].try_into().unwrap())
    };
    let newer = usize::from(sequence(1) > sequence(0));
    assert!(model.disk.flip_bit("manifest", newer * 65536 + 50, 1));
    assert_eq!(
        model.restart(),
        [],
        "a torn write of the manifest is no damage"
    );
    model.check();
}

#[test]
fn all_can_be_deleted() {
    let (mut model, _) = in_runs(8);
    for name in model.disk.list().unwrap() {
        model.disk.remove(&name).unwrap();
    }
    assert_eq!(model.restart(), []);
    model.check();
    let opened = Index::rebuild(model.disk.clone(), LOG, options()).unwrap();
    assert_eq!(
        (opened.damage, opened.index.indexed_upto()),
        (Vec::new(), LogOffset(0))
    );
}

#[test]
fn another_log_or_version_is_refused() {
    let (model, runs) = in_runs(9);
    let error = Index::open(model.disk.clone(), LogId(8), options()).unwrap_err();
    assert!(
        matches!(error, IndexError::WrongLog { found: LOG, .. }),
        "{error}"
    );

    let reseal = |bytes: &mut [u8], from: usize, len: usize, version: u8| {
        bytes[from + 8] = version;
        let sum = crc32fast::hash(&bytes[from..from + len - 4]);
        bytes[from + len - 4..from + len].copy_from_slice(&sum.to_le_bytes());
    };
    model
        .disk
        .rot(&runs[0], &mut |bytes| reseal(bytes, 0, 4096, 1));
    let error = Index::open(model.disk.clone(), LOG, options()).unwrap_err();
    let file = runs[0].clone();
    assert_eq!(
        error,
        IndexError::Format {
            file,
            found: 1,
            expected: 2
        }
    );

    model.disk.rot("manifest", &mut |bytes| {
        for slot in [0, 65536] {
            let len = u32::from_le_bytes(bytes[slot + 16..slot + 20].try_into().unwrap());
            reseal(bytes, slot, len as usize, 3);
        }
    });
    let error = Index::open(model.disk.clone(), LOG, options()).unwrap_err();
    let file = "manifest".to_owned();
    assert_eq!(
        error,
        IndexError::Format {
            file,
            found: 3,
            expected: 2
        }
    );
    let opened = Index::rebuild(model.disk, LOG, options()).unwrap();
    assert_eq!(opened.index.indexed_upto(), LogOffset(0));
}

#[test]
fn a_log_that_ends_below_the_runs_cuts_them() {
    let (mut model, _) = in_runs(11);
    let upto = model.index.indexed_upto();
    let end = LogOffset(upto.0 / 2);
    let from = model.index.truncate_above(end).unwrap();
    assert!(from <= end && from == model.index.indexed_upto());
    let found = model
        .index
        .read_blocking(QueueId(1_000_000), LogOffset(0), upto, 4096)
        .unwrap();
    assert!(found.entries.last().unwrap().at < end);
    assert_eq!(model.restart(), []);
    model.check();
}

#[test]
fn entries_out_of_order_are_refused() {
    let (mut model, _) = in_runs(12);
    let at = LogOffset(model.index.indexed_upto().0 + 100);
    let entry = |queue_offset, at| {
        let queue = QueueId(5_000_000);
        Entry {
            queue,
            queue_offset,
            at,
            size: 1,
            tag: 0,
        }
    };
    model.index.append(&[entry(4, at)]).unwrap();
    for wrong in [
        entry(4, LogOffset(at.0 + 8)),
        entry(5, at),
        entry(5, LogOffset(at.0 - 1)),
    ] {
        let error = model.index.append(&[wrong]).unwrap_err();
        assert!(
            matches!(error, IndexError::OutOfOrder { expected: 5, .. }),
            "{error}"
        );
    }
    model
        .index
        .append(&[entry(6, LogOffset(at.0 + 8))])
        .unwrap();
    assert_eq!(model.index.next_offset(QueueId(5_000_000)), 7);
}
