//! An inspection against the model.

use std::collections::BTreeMap;

use storage_io::Disk;

use super::model::{LOG, Model};
use crate::run_file::generation_of;
use crate::{Inspected, LogOffset, QueueId, inspect};

fn summary(found: &Inspected) -> BTreeMap<QueueId, (u64, u64, u64)> {
    let queues = found.queues.iter().filter_map(|(queue, found)| {
        let (first, last) = found.offsets?;
        assert!(!found.runs.is_empty());
        Some((*queue, (first, last, found.entries)))
    });
    queues.collect()
}

#[test]
fn an_inspection_tells_what_the_model_has_and_changes_nothing() {
    for seed in 0..20 {
        let mut model = Model::new(seed);
        (0..300).for_each(|_| model.append());
        model.settle();
        if seed % 2 == 1 {
            model.retire();
            model.settle();
        }
        let contents = |model: &Model| -> Vec<_> {
            let names = model.disk.list().unwrap().into_iter();
            names
                .map(|name| (model.disk.contents(&name), name))
                .collect()
        };
        let before = contents(&model);
        let found = inspect(&model.disk, LOG, LogOffset(0)).unwrap();
        assert_eq!(found.damage, []);
        assert_eq!(found.upto, model.index.indexed_upto());
        assert_eq!(summary(&found), model.summary());
        assert_eq!(contents(&model), before);
    }
}

#[test]
fn an_inspection_names_what_is_lost() {
    let mut model = Model::new(31);
    (0..400).for_each(|_| model.append());
    model.settle();
    let mut names = model.disk.list().unwrap();
    names.retain(|name| generation_of(name).is_some());
    model.disk.remove(&names[1]).unwrap();
    let whole = inspect(&model.disk, LOG, LogOffset(0)).unwrap();
    assert_eq!((whole.damage.len(), whole.holes.len()), (1, 1));
    assert_eq!(whole.runs.len(), names.len() - 1);
    let hole = &whole.holes[0];
    assert!(whole.lacks(hole.start) && !whole.lacks(hole.end));
    assert!(whole.lacks(whole.upto) && whole.upto == model.index.indexed_upto());
    model.disk.remove("manifest").unwrap();
    let none = inspect(&model.disk, LOG, LogOffset(0)).unwrap();
    assert_eq!((none.damage.len(), none.queues.len()), (1, 0));
}
