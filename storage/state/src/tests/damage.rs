//! Damaged, deleted and foreign files.

use storage_io::Disk;
use storage_io::sim::Rng;

use super::fuse::FuseDisk;
use super::model::{Model, options};
use crate::{FILE_NAME, Opened, StateError, StateStore, Writing};

fn filled(seed: u64) -> Model {
    let mut model = Model::new(seed);
    (0..150).for_each(|_| model.append());
    model.settle();
    model
}

#[test]
fn a_deleted_file_comes_back_the_same() {
    let mut model = filled(1);
    let before = model.rows();
    model.disk.remove(FILE_NAME).unwrap();
    assert_eq!(model.restart(), Opened::Sound);
    model.settle();
    assert_eq!(model.rows(), before);
    model.check();
}

#[test]
fn garbage_is_unreadable_or_harmless() {
    let mut rebuilt = 0;
    for seed in 0..40 {
        let mut model = filled(seed);
        model.disk.disk.rot(FILE_NAME, &mut |bytes| {
            // Called twice, once for each image that the device keeps: the same both times.
            let mut rng = Rng::new(seed);
            let used = |page: &&mut [u8]| page.iter().any(|byte| *byte != 0);
            let mut pages: Vec<_> = bytes.chunks_mut(4096).filter(used).collect();
            let page = rng.index(pages.len());
            let from = rng.index(4096);
            rng.fill(&mut pages[page][from..]);
        });
        match model.restart() {
            Opened::Sound => {}
            Opened::Rebuilt(reason) => {
                assert!(matches!(reason, StateError::Unreadable { .. }), "{reason}");
                rebuilt += 1;
            }
        }
        model.check();
    }
    assert!(rebuilt > 5, "only {rebuilt} of 40 files were unreadable");
}

#[test]
fn an_unreadable_file_is_a_named_error_without_a_rebuild() {
    let model = filled(3);
    model
        .disk
        .disk
        .rot(FILE_NAME, &mut |bytes| bytes[..4096].fill(0x5A));
    let error = StateStore::open(&model.disk, options(), Writing::Inline).unwrap_err();
    assert!(
        matches!(&error, StateError::Unreadable { file, .. } if file == FILE_NAME),
        "{error}"
    );
    assert!(error.is_cured_by_rebuild());
}

#[test]
fn a_failing_disk_is_never_cured_by_a_rebuild() {
    let disk = FuseDisk::new(4);
    disk.arm(0);
    let error = StateStore::open_or_rebuild(&disk, options(), Writing::Inline).unwrap_err();
    assert!(matches!(error, StateError::Disk(_)), "{error}");
}
