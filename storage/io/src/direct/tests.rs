//! Direct I/O on a real file system: the target directory's, which is not in memory.

use tempfile::TempDir;

use super::*;

fn directory() -> (TempDir, DirectDisk) {
    let directory = TempDir::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let disk = DirectDisk::open(directory.path()).unwrap();
    (directory, disk)
}

#[test]
fn blocks_come_back() {
    let (_guard, disk) = directory();
    let file = disk.create("a").unwrap();
    file.write_at(0, &[7; 2 * ALIGN]).unwrap();
    file.write_at(ALIGN as u64, &AlignedBuf::padded(&[8; ALIGN]))
        .unwrap();
    file.sync().unwrap();
    disk.sync_dir().unwrap();
    let read = disk.open("a").unwrap().read_at(0, 2 * ALIGN).unwrap();
    assert_eq!(
        (&read[..ALIGN], &read[ALIGN..]),
        (&[7; ALIGN][..], &[8; ALIGN][..])
    );
    assert_eq!(file.len().unwrap(), 2 * ALIGN as u64);
}

#[test]
fn the_end_of_a_file_is_told() {
    let (_guard, disk) = directory();
    let file = disk.create("a").unwrap();
    file.write_at(0, &[7; ALIGN]).unwrap();
    let error = file.read_at(0, 2 * ALIGN).unwrap_err();
    assert_eq!(
        error.kind,
        ErrorKind::Short {
            got: ALIGN,
            expected: 2 * ALIGN
        }
    );
}

#[test]
fn names_come_and_go() {
    let (_guard, disk) = directory();
    drop(disk.create("a").unwrap());
    assert_eq!(disk.create("a").unwrap_err().kind, ErrorKind::Exists);
    assert!(disk.open("b").unwrap_err().is_not_found());
    disk.rename("a", "b").unwrap();
    drop(disk.sub("shard-0").unwrap());
    assert_eq!(disk.list().unwrap(), ["b"]);
    disk.remove("b").unwrap();
    assert!(disk.remove("b").unwrap_err().is_not_found());
}

#[test]
fn a_byte_file_takes_any_offset() {
    let (_guard, disk) = directory();
    let file = disk.byte_file("state").unwrap();
    file.set_len(10).unwrap();
    file.write_at(7, b"hello").unwrap();
    file.sync().unwrap();
    let mut bytes = [0; 6];
    disk.byte_file("state")
        .unwrap()
        .read_at(6, &mut bytes)
        .unwrap();
    assert_eq!((&bytes, file.len().unwrap()), (b"\0hello", 12));
    assert!(file.read_at(7, &mut bytes).is_err());
}

#[test]
fn the_lock_is_exclusive() {
    let (_guard, disk) = directory();
    let lock = disk.lock().unwrap();
    let error = disk.lock().unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("another process uses this data directory"),
        "{error}"
    );
    drop(lock);
    disk.lock().unwrap();
}

#[test]
fn the_file_system_is_found_by_its_device() {
    let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                  31 22 0:27 / /dev/shm rw - tmpfs tmpfs rw,size=1g\n";
    assert_eq!(file_system_of(mounts, "0:27").as_deref(), Some("tmpfs"));
    assert_eq!(file_system_of(mounts, "254:0").as_deref(), Some("ext4"));
    assert_eq!(file_system_of(mounts, "9:9"), None);
    let (_guard, disk) = directory();
    assert!(disk.file_system().is_some());
}

#[test]
fn room_is_told_and_set_aside() {
    let (_guard, disk) = directory();
    let space = disk.space().unwrap();
    assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
    disk.set_aside("reserve", 1 << 20).unwrap();
    disk.set_aside("reserve", 1 << 20).unwrap();
    let file = fs::metadata(disk.path().join("reserve")).unwrap();
    assert_eq!(file.len(), 1 << 20);
    assert!(file.blocks() * 512 >= 1 << 20, "{} blocks", file.blocks());
    let part = disk.open("reserve").unwrap();
    part.write_at(0, &[1; 4 * ALIGN]).unwrap();
    part.discard(ALIGN as u64, (1 << 20) - ALIGN as u64)
        .unwrap();
    let file = fs::metadata(disk.path().join("reserve")).unwrap();
    assert_eq!((file.len(), file.blocks() * 512), (1 << 20, ALIGN as u64));
    let read = part.read_at(0, 2 * ALIGN).unwrap();
    assert_eq!(*read, [[1; ALIGN], [0; ALIGN]].concat());
    let error = disk.set_aside("too-much", 1 << 60).unwrap_err();
    assert!(error.file.ends_with("too-much"), "{error}");
    assert!(!disk.list().unwrap().contains(&"too-much".to_owned()));
}
