//! The simulated disk keeps its own rules: what a sync covered survives, the rest may not.

use super::{Faults, Rng, SECTOR, SimDisk, SimQueue};
use crate::{ALIGN, AlignedBuf, Completion, Disk, DiskFile, DiskQueue, Done, ErrorKind, Op};

fn block(byte: u8) -> Vec<u8> {
    vec![byte; ALIGN]
}

#[test]
fn a_synced_block_survives_every_crash() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = disk.create("a").unwrap();
        file.write_at(0, &block(1)).unwrap();
        file.sync().unwrap();
        disk.sync_dir().unwrap();
        file.write_at(ALIGN as u64, &block(2)).unwrap();
        disk.crash(seed);
        assert_eq!(disk.contents("a").unwrap()[..ALIGN], block(1));
    }
}

#[test]
fn a_crash_loses_keeps_tears_and_corrupts() {
    let (mut lost, mut kept, mut torn, mut garbage) = (0, 0, 0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_at(0, &block(1)).unwrap();
        disk.crash(seed);
        let bytes = disk.contents("a").unwrap();
        match bytes.iter().filter(|byte| **byte == 1).count() {
            0 => lost += 1,
            ALIGN => kept += 1,
            _ => torn += 1,
        }
        if bytes.iter().any(|byte| *byte > 1) {
            garbage += 1;
        }
    }
    assert!(
        lost > 0 && kept > 0 && torn > 0 && garbage > 0,
        "{lost} {kept} {torn} {garbage}"
    );
}

#[test]
fn a_sector_that_held_durable_bytes_comes_back_old_or_new() {
    let mut mixed = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = disk.create("a").unwrap();
        file.write_at(0, &block(1)).unwrap();
        file.sync().unwrap();
        disk.sync_dir().unwrap();
        file.write_at(0, &block(2)).unwrap();
        disk.crash(seed);
        let bytes = disk.contents("a").unwrap();
        for sector in bytes.chunks(SECTOR) {
            assert!(
                sector == [1; SECTOR] || sector == [2; SECTOR],
                "seed {seed}"
            );
        }
        mixed += u32::from(bytes.contains(&1) && bytes.contains(&2));
    }
    assert!(mixed > 0);
}

#[test]
fn a_name_is_durable_after_the_directory_sync() {
    let mut undone = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.create("kept").unwrap().sync().unwrap();
        disk.sync_dir().unwrap();
        disk.create("new").unwrap().sync().unwrap();
        disk.rename("new", "renamed").unwrap();
        disk.remove("kept").unwrap();
        disk.crash(seed);
        let names = disk.list().unwrap();
        let prefixes: [&[&str]; 4] = [
            &["kept"],
            &["kept", "new"],
            &["kept", "renamed"],
            &["renamed"],
        ];
        assert!(prefixes.iter().any(|prefix| names == *prefix), "{names:?}");
        undone += u32::from(names == ["kept"]);
    }
    assert!(undone > 0);
}

#[test]
fn a_failed_sync_loses_blocks_at_once_or_not_at_all() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_at(0, &block(1)).unwrap();
        fail_syncs(&disk);
        assert_eq!(file.sync().unwrap_err().kind, ErrorKind::Injected);
        disk.set_faults(Faults::default());
        let left = disk.contents("a").unwrap();
        file.sync().unwrap();
        disk.crash(7);
        assert_eq!(
            disk.contents("a").unwrap(),
            left,
            "what is read is what stays"
        );
        lost += u32::from(left.is_empty());
        kept += u32::from(left == block(1));
    }
    assert!(lost > 0 && kept > 0 && lost + kept == 20);
}

#[test]
fn a_failed_sync_loses_bytes_for_good_and_the_cache_hides_it() {
    let disk = SimDisk::new(1);
    let file = disk.byte_file("a").unwrap();
    disk.sync_dir().unwrap();
    file.write_at(0, &[7; 100]).unwrap();
    fail_syncs(&disk);
    assert_eq!(file.sync().unwrap_err().kind, ErrorKind::Injected);
    disk.set_faults(Faults::default());
    file.sync().unwrap();
    assert_eq!(disk.contents("a").unwrap(), [7; 100]);
    disk.crash(7);
    assert!(disk.contents("a").unwrap().is_empty());
}

fn fail_syncs(disk: &SimDisk) {
    disk.set_faults(Faults {
        syncs_per_10k: 10_000,
        ..Faults::default()
    });
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let disk = SimDisk::new(1);
    let file = disk.create("a").unwrap();
    file.write_at(0, &block(1)).unwrap();
    disk.set_faults(Faults {
        space_bytes: Some(ALIGN as u64),
        ..Faults::default()
    });
    file.write_at(0, &block(2)).unwrap();
    assert!(
        file.write_at(ALIGN as u64, &block(2))
            .unwrap_err()
            .is_no_space()
    );
}

#[test]
fn a_file_opened_before_a_crash_is_dead() {
    let disk = SimDisk::new(1);
    let file = disk.create("a").unwrap();
    disk.sync_dir().unwrap();
    disk.crash(1);
    assert!(file.write_at(0, &block(1)).is_err());
    assert!(disk.open("a").unwrap().write_at(0, &block(1)).is_ok());
}

#[test]
fn ignored_syncs_lose_acknowledged_bytes() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        disk.set_faults(Faults {
            ignore_syncs: true,
            ..Faults::default()
        });
        file.write_at(0, &block(1)).unwrap();
        file.sync().unwrap();
        disk.crash(seed);
        lost += u32::from(disk.contents("a").unwrap() != block(1));
    }
    assert!(lost > 0);
}

#[test]
fn byte_files_take_unaligned_writes_and_lengths() {
    let disk = SimDisk::new(3);
    let file = disk.byte_file("state").unwrap();
    file.set_len(1000).unwrap();
    file.write_at(997, b"abcdef").unwrap();
    assert_eq!(file.len().unwrap(), 1003);
    file.sync().unwrap();
    disk.sync_dir().unwrap();
    file.write_at(0, b"lost?").unwrap();
    disk.crash(3);
    let file = disk.byte_file("state").unwrap();
    let mut bytes = [0; 8];
    file.read_at(995, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0\0abcdef");
    assert!(file.read_at(996, &mut bytes).is_err());
}

#[test]
fn the_queue_completes_in_an_order_that_the_seed_decides() {
    let order = |seed: u64| {
        let disk = SimDisk::new(0);
        let file = disk.create("a").unwrap();
        let mut queue = SimQueue::new();
        for token in 0..6 {
            let buf = AlignedBuf::padded(&block(1));
            let offset = token * ALIGN as u64;
            queue.submit(
                token,
                Op::Write {
                    file: file.clone(),
                    offset,
                    buf,
                    sync: true,
                },
            );
        }
        assert!(queue.poll().is_none());
        queue.run(&mut Rng::new(seed));
        std::iter::from_fn(|| queue.poll())
            .map(|done| done.token)
            .collect::<Vec<_>>()
    };
    assert_eq!(order(1), order(1));
    assert!((2..10).any(|seed| order(seed) != order(1)));
}

#[test]
fn the_queue_reads_what_was_written() {
    let disk = SimDisk::new(0);
    let file = disk.create("a").unwrap();
    file.write_at(0, &block(9)).unwrap();
    let mut queue = SimQueue::new();
    queue.submit(
        1,
        Op::Read {
            file: file.clone(),
            offset: 0,
            len: ALIGN,
        },
    );
    queue.submit(
        2,
        Op::Read {
            file,
            offset: 0,
            len: 2 * ALIGN,
        },
    );
    queue.run(&mut Rng::new(0));
    for Completion { token, result } in std::iter::from_fn(|| queue.poll()) {
        match (token, result) {
            (1, Ok(Done::Read(buf))) => assert_eq!(buf[..], block(9)),
            (2, Err(error)) => {
                assert_eq!(
                    error.kind,
                    ErrorKind::Short {
                        got: ALIGN,
                        expected: 2 * ALIGN
                    }
                );
            }
            (token, result) => panic!("{token}: {result:?}"),
        }
    }
}

#[test]
fn after_the_last_change_every_one_fails() {
    let disk = SimDisk::new(3);
    let file = disk.create("a").unwrap();
    disk.set_faults(Faults {
        changes_left: Some(2),
        ..Faults::default()
    });
    file.write_at(0, &block(1)).unwrap();
    file.sync().unwrap();
    assert!(file.write_at(0, &block(2)).is_err());
    assert!(disk.create("b").is_err() && disk.sync_dir().is_err());
    assert!(file.read_at(0, ALIGN).is_ok());
}

#[test]
fn short_writes_leave_their_first_sectors_and_short_reads_say_so() {
    let disk = SimDisk::new(3);
    let file = disk.create("a").unwrap();
    file.write_at(0, &block(1)).unwrap();
    disk.set_faults(Faults {
        short_per_10k: 10_000,
        ..Faults::default()
    });
    let error = file.write_at(0, &block(2)).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Short { got, .. } if got == ALIGN / 2));
    assert!(file.read_at(0, ALIGN).is_err());
    disk.set_faults(Faults::default());
    let bytes = file.read_at(0, ALIGN).unwrap();
    assert_eq!((bytes.first(), bytes.last()), (Some(&2), Some(&1)));
}

#[test]
fn rewritten_sectors_may_be_damaged_when_that_is_asked_for() {
    let damaged = (0..50).filter(|seed| {
        let disk = SimDisk::new(*seed);
        let file = disk.create("a").unwrap();
        file.write_at(0, &block(1)).unwrap();
        file.sync().unwrap();
        disk.sync_dir().unwrap();
        disk.set_faults(Faults {
            damage_rewritten: true,
            ..Faults::default()
        });
        file.write_at(0, &block(2)).unwrap();
        disk.crash(*seed);
        let bytes = disk.contents("a").unwrap();
        bytes.iter().any(|byte| *byte != 1 && *byte != 2)
    });
    assert!(damaged.count() > 0);
}

#[test]
fn a_bit_stays_bad_until_its_sector_is_written() -> Result<(), crate::DiskError> {
    let root = SimDisk::new(3);
    let disk = root.sub("below")?;
    let file = disk.create("f")?;
    file.write_at(0, &[7; ALIGN])?;
    assert_eq!(root.files(), [("/below/f".to_owned(), ALIGN)]);
    assert!(!root.decay("/below/f", ALIGN, 0), "there is no such byte");
    assert!(root.decay("/below/f", 600, 3));
    assert_eq!(file.read_at(0, ALIGN)?.get(600), Some(&15));
    let bad = root.replace_decay(None);
    assert_eq!(file.read_at(0, ALIGN)?.get(600), Some(&7));
    root.replace_decay(bad);
    assert_eq!(file.read_at(0, ALIGN)?.get(600), Some(&15));
    file.write_at(0, &[9; ALIGN])?;
    assert_eq!(file.read_at(0, ALIGN)?.get(600), Some(&9));
    assert_eq!(root.replace_decay(None), None);
    Ok(())
}
