//! Runs are joined while the index is in use: bounded, in the background, and safe at every step.

use std::collections::{BTreeMap, BTreeSet};

use storage_io::sim::{Faults, Rng, SimDisk};
use storage_io::{Disk, DiskFile};

use super::model::{LOG, Model, joining, options};
use crate::groups::Bounds;
use crate::run_file::generation_of;
use crate::{Entry, Index, IndexError, LogOffset, Lookup, Options, QueueId};

/// A settled model with many runs, which will be joined from the next turn on.
fn many_runs(seed: u64, appends: usize) -> Model {
    let left_alone = Options {
        merge_from_runs: usize::MAX,
        ..options()
    };
    let mut model = Model::with(seed, left_alone);
    (0..appends).for_each(|_| model.append());
    model.settle();
    assert!(model.index.runs.len() > 6);
    model.options = joining();
    model.index.options = joining();
    model
}

fn run_files(model: &Model) -> usize {
    let names = model.disk.list().unwrap();
    let runs = names.iter().filter(|name| generation_of(name).is_some());
    runs.count()
}

/// Every file of a run is listed, and the entries are all there.
fn check(model: &mut Model) {
    assert_eq!(run_files(model), model.index.runs.len());
    model.check();
}

#[test]
fn runs_stay_few_while_the_index_is_in_use() {
    for seed in 0..3 {
        let mut model = Model::with(seed, joining());
        let mut runs = 0;
        for _ in 0..200 {
            (0..10).for_each(|_| model.append());
            model.sync();
            (0..12).for_each(|_| model.turn().unwrap());
            model.look_up();
            runs = runs.max(model.index.runs.len());
        }
        let joined = model.index.counters().runs_joined;
        assert!(joined > 20, "{joined} runs were joined");
        assert!(runs < 12, "there were {runs} runs");
        model.settle();
        while model.step() {}
        check(&mut model);
        assert_eq!(model.restart(), []);
        check(&mut model);
    }
}

#[test]
fn a_crash_at_any_step_leaves_one_set_or_the_other() {
    for seed in 0..2 {
        let mut whole = many_runs(seed, 600);
        let before = whole.index.runs.len();
        let mut steps = 0;
        while whole.step() {
            steps += 1;
        }
        let after = whole.index.runs.len();
        assert!(steps > 20 && after < 6, "{steps} steps to {after} runs");
        let mut seen = BTreeSet::new();
        for crash in 0..=steps {
            let mut model = many_runs(seed, 600);
            let entries = model.index.counters().entries_in_runs;
            for _ in 0..crash {
                model.step();
            }
            model.options.join_from_runs = usize::MAX;
            model.crash();
            seen.insert(model.index.runs.len());
            assert_eq!(model.index.counters().entries_in_runs, entries);
            assert_eq!(model.index.counters().entries_in_memory, 0);
            check(&mut model);
        }
        assert_eq!(Vec::from_iter(seen), [after, before]);
    }
}

#[test]
fn a_memtable_passes_a_merge() {
    let mut model = many_runs(1, 600);
    let before = model.index.runs.len();
    for _ in 0..5 {
        model.step();
    }
    assert!(model.index.merging.is_some());
    (0..20).for_each(|_| model.append());
    model.freeze();
    model.sync();
    while model.index.runs.len() == before {
        model.step();
        assert!(model.index.merging.is_some(), "the merge waits");
    }
    assert_eq!(model.index.runs.len(), before + 1);
    while model.step() {}
    assert!(model.index.runs.len() < before);
    check(&mut model);
    assert_eq!(model.restart(), []);
    check(&mut model);
}

#[test]
fn joining_goes_on_beside_flushes_without_a_pause() {
    let mut model = many_runs(2, 600);
    for _ in 0..100 {
        (0..5).for_each(|_| model.append());
        model.settle();
        assert!(model.index.runs.len() < 30);
    }
    assert!(model.index.counters().runs_joined > 100);
    check(&mut model);
}

#[test]
fn blocking_flushes_write_all_and_join() {
    let mut model = many_runs(3, 600);
    for _ in 0..60 {
        (0..20).for_each(|_| model.append());
        model.freeze();
        model.index.flush_blocking(LogOffset(u64::MAX)).unwrap();
        assert_eq!(model.index.counters().memtables_frozen, 0);
        assert!(model.index.runs.len() < 10);
    }
    model.sync();
    check(&mut model);
}

#[test]
fn a_blocking_flush_does_not_end_with_the_removal_of_a_file() {
    let mut model = many_runs(3, 600);
    while model.index.unlisted.len() != 1 || model.index.merging.is_some() {
        assert!(model.step());
    }
    (0..20).for_each(|_| model.append());
    model.freeze();
    model.index.owed = 1;
    model.index.flush_blocking(LogOffset(u64::MAX)).unwrap();
    assert_eq!(model.index.counters().memtables_frozen, 0);
}

/// The flushes ask for more runs than there may be, and small ones do not exist.
#[test]
fn the_bound_on_runs_is_never_reached() {
    let mut model = Model::with(4, options());
    model.bounds = Bounds {
        runs_max: 8,
        entries_max: 100,
    };
    model.index.bounds = model.bounds;
    model.options.merge_from_runs = usize::MAX;
    for _ in 0..60 {
        (0..100).for_each(|_| model.append());
        model.sync();
        (0..4).for_each(|_| model.turn().unwrap());
        assert!(model.index.runs.len() <= 8);
        model.index.freeze();
    }
    assert!(model.index.is_full(), "more comes than is written");
    model.settle();
    while model.step() {}
    check(&mut model);
    for name in model.disk.list().unwrap() {
        model.disk.remove(&name).unwrap();
    }
    // A rebuild, all of it blocking.
    model.restart();
    model.settle();
    while model.step() {}
    check(&mut model);
}

#[test]
fn a_full_disk_puts_joining_off() {
    let mut model = many_runs(5, 600);
    let before = model.index.runs.len();
    model.disk.set_faults(Faults {
        space_bytes: Some(0),
        ..Faults::default()
    });
    assert!(
        (0..100).any(|_| !model.step()),
        "it is tried again and again"
    );
    assert_eq!(model.index.runs.len(), before);
    check(&mut model);
    model.disk.set_faults(Faults::default());
    while model.index.counters().runs_joined == 0 {
        (0..20).for_each(|_| model.append());
        model.settle();
    }
    while model.step() {}
    assert!(model.index.runs.len() < 6);
    check(&mut model);
}

#[test]
fn what_runs_out_puts_flushes_off() {
    let no_space = Faults {
        space_bytes: Some(0),
        ..Faults::default()
    };
    let no_descriptors = Faults {
        no_descriptors: true,
        ..Faults::default()
    };
    for (seed, faults) in [(7, no_space), (8, no_descriptors)] {
        let mut model = Model::with(seed, options());
        (0..200).for_each(|_| model.append());
        model.disk.set_faults(faults);
        let runs = model.index.runs.len();
        for _ in 0..4 {
            (0..100).for_each(|_| model.append());
            model.index.freeze();
            model.sync();
            while model.step() {}
            let shortage = model.index.shortage().expect("a flush was due");
            assert!(shortage.is_shortage(), "{shortage}");
            model.index.try_again();
        }
        assert_eq!(model.index.runs.len(), runs);
        assert!(model.index.is_full(), "memtables pile up to the bound");
        model.check();
        model.disk.set_faults(Faults::default());
        model.settle();
        while model.step() {}
        assert!(!model.index.is_full() && model.index.runs.len() > runs);
        check(&mut model);
        assert_eq!(model.restart(), []);
        check(&mut model);
    }
}

#[test]
fn a_start_on_a_full_disk_joins_nothing() {
    let mut model = many_runs(6, 600);
    let before = model.index.runs.len();
    model.options = Options {
        merge_from_runs: 4,
        ..options()
    };
    model.disk.set_faults(Faults {
        space_bytes: Some(0),
        ..Faults::default()
    });
    assert_eq!(model.restart(), []);
    assert_eq!(model.index.runs.len(), before);
    check(&mut model);
    model.disk.set_faults(Faults::default());
    assert_eq!(model.restart(), []);
    assert!(model.index.runs.len() < 4);
    check(&mut model);
}

#[test]
fn a_failed_write_ends_joining_and_loses_nothing() {
    let mut failures = 0;
    for seed in 0..20 {
        let mut model = many_runs(seed, 400);
        let (writes_per_10k, syncs_per_10k) = (2000, 1000);
        model.disk.set_faults(Faults {
            writes_per_10k,
            syncs_per_10k,
            ..Faults::default()
        });
        let failed = (0..100).find_map(|_| model.turn().err());
        model.disk.set_faults(Faults::default());
        if let Some(error) = failed {
            assert!(matches!(error, IndexError::Disk(_)), "{error}");
            assert_eq!(model.turn(), Err(error));
            failures += 1;
        }
        model.crash();
        check(&mut model);
    }
    assert!(failures > 3, "only {failures} of 20 runs met a fault");
}

#[test]
fn a_page_that_is_damaged_is_named_and_replayed() {
    let mut model = many_runs(7, 400);
    let name = model.index.runs[2].id.file_name();
    assert!(model.disk.flip_bit(&name, 4096 + 300, 5));
    let error = (0..100).find_map(|_| model.turn().err()).unwrap();
    let named = matches!(&error, IndexError::Damaged { file, offset: 4096, .. } if *file == name);
    assert!(named, "{error}");
    assert_eq!(model.restart().len(), 1);
    model.check();
}

#[test]
fn a_read_that_a_merge_overtakes_is_asked_for_again() {
    let mut model = many_runs(8, 400);
    let (queue, upto) = (QueueId(1_000_000), LogOffset(u64::MAX));
    let Lookup::Missing(old) = model.index.read(queue, LogOffset(0), upto, 1).unwrap() else {
        panic!("nothing is in the cache");
    };
    while model.step() {}
    // The file has lost its name, not its bytes.
    let bytes = old.file.read_at(old.offset, old.len).unwrap();
    model.index.insert_page(old.token, bytes).unwrap();
    let Lookup::Missing(new) = model.index.read(queue, LogOffset(0), upto, 1).unwrap() else {
        panic!("a page of a run that is gone answers");
    };
    assert_ne!(new.token, old.token);
    check(&mut model);
}

/// Runs of several reads each, into one of several writes.
#[test]
fn large_runs_are_joined_in_steps() {
    let mut rng = Rng::new(9);
    let disk = SimDisk::new(9).sub("cq").unwrap();
    let options = Options {
        memtable_entries_max: 12_000,
        ..Options::default()
    };
    let mut index = Index::open(disk, LOG, options).unwrap().index;
    let mut model: BTreeMap<QueueId, Vec<Entry>> = BTreeMap::new();
    let word = |rng: &mut Rng| u32::try_from(rng.below(1 << 31)).unwrap();
    let end = LogOffset(60_000 * 64);
    for number in 0..60_000 {
        let queue = QueueId(rng.below(3) * rng.below(2000));
        let list = model.entry(queue).or_default();
        let entry = Entry {
            queue,
            queue_offset: list.len() as u64,
            at: LogOffset(number * 64),
            size: word(&mut rng),
            tag: word(&mut rng),
        };
        list.push(entry);
        index.append(&[entry]).unwrap();
    }
    index.freeze();
    index.flush_blocking(end).unwrap();
    assert_eq!(index.runs.len(), 5);
    assert!(index.runs.iter().all(|run| run.pages() > 20));
    index.options.join_from_runs = 5;
    index.flush_blocking(end).unwrap();
    assert_eq!(index.runs.len(), 1);
    for (queue, list) in model {
        let mut from = LogOffset(0);
        let mut found = Vec::new();
        while from < end {
            let read = index.read_blocking(queue, from, end, usize::MAX).unwrap();
            found.extend(read.entries);
            from = read.next;
        }
        assert_eq!(found, list);
    }
}
