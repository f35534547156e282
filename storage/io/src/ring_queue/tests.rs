//! The queue on a real ring and a real file system.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use tempfile::TempDir;

use super::*;
use crate::{ALIGN, DirectDisk, Disk, DiskFile};

/// An eventfd: reading it waits for completions.
fn event() -> File {
    // SAFETY: eventfd takes two integers and touches no memory of ours; nobody else owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    owned.into()
}

fn disk() -> (TempDir, DirectDisk) {
    let directory = TempDir::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let disk = DirectDisk::open(directory.path()).unwrap();
    (directory, disk)
}

fn wait(queue: &mut RingQueue, event: &mut File) -> Completion {
    loop {
        if let Some(done) = queue.poll() {
            return done;
        }
        event.read_exact(&mut [0; 8]).unwrap();
    }
}

fn write(file: &DirectFile, offset: u64, byte: u8, sync: bool) -> Op<DirectFile> {
    Op::Write {
        file: file.clone(),
        offset,
        buf: AlignedBuf::padded(&[byte; ALIGN]),
        sync,
    }
}

#[test]
fn operations_complete_on_the_same_file() {
    let (_directory, disk) = disk();
    let mut event = event();
    let mut queue = RingQueue::new(event.as_fd()).unwrap();
    let file = disk.create("a").unwrap();
    disk.rename("a", "b").unwrap();
    let read = |len| Op::Read {
        file: file.clone(),
        offset: 0,
        len,
    };
    let ops = [
        write(&file, 0, 7, true),
        write(&file, ALIGN as u64, 8, false),
        read(2 * ALIGN),
        read(4 * ALIGN),
        Op::Sync { file: file.clone() },
        Op::SyncDir { file: file.clone() },
    ];
    let mut done = Vec::new();
    for (token, op) in (0..).zip(ops) {
        queue.submit(token, op);
        let completion = wait(&mut queue, &mut event);
        assert_eq!(completion.token, token);
        done.push(completion.result);
    }
    assert_eq!(queue.under_way(), 0);
    assert!(matches!(&done[0], Ok(Done::Written { buf }) if buf.len() == ALIGN));
    assert!(matches!(&done[1], Ok(Done::Written { .. })));
    let Ok(Done::Read(bytes)) = &done[2] else {
        panic!("{:?}", done[2]);
    };
    assert_eq!((bytes[0], bytes[ALIGN]), (7, 8));
    let short = ErrorKind::Short {
        got: 2 * ALIGN,
        expected: 4 * ALIGN,
    };
    assert!(matches!(&done[3], Err(error) if error.kind == short));
    assert!(matches!(&done[4], Ok(Done::Synced)));
    assert!(matches!(&done[5], Ok(Done::Synced)));
    assert_eq!(file.read_at(0, ALIGN).unwrap()[..], [7; ALIGN]);
}

#[test]
fn a_write_that_fails_is_told_once_and_not_synced() {
    let (_directory, disk) = disk();
    let mut event = event();
    let mut queue = RingQueue::new(event.as_fd()).unwrap();
    let file = disk.create("a").unwrap();
    // Beyond what any file may hold.
    let offset = u64::MAX / 2 / ALIGN as u64 * ALIGN as u64;
    queue.submit(1, write(&file, offset, 7, true));
    queue.submit(2, write(&file, 0, 7, true));
    let mut results: Vec<Completion> = (0..2).map(|_| wait(&mut queue, &mut event)).collect();
    results.sort_by_key(|completion| completion.token);
    let error = results[0].result.as_ref().unwrap_err();
    assert_eq!((error.operation, error.offset), (Operation::Write, offset));
    assert!(results[1].result.is_ok(), "the next chain is its own");
    assert!(queue.poll().is_none() && queue.under_way() == 0);
}

#[test]
fn more_operations_than_entries_all_complete() {
    const COUNT: u64 = 1000;
    let (_directory, disk) = disk();
    let mut event = event();
    let mut queue = RingQueue::new(event.as_fd()).unwrap();
    let file = disk.create("a").unwrap();
    let byte = |number: u64| u8::try_from(number % 251).unwrap();
    for number in 0..COUNT {
        let offset = number * ALIGN as u64;
        let op = write(&file, offset, byte(number), number % 3 == 0);
        queue.submit(number, op);
    }
    let mut tokens: Vec<u64> = (0..COUNT)
        .map(|_| {
            let done = wait(&mut queue, &mut event);
            assert!(done.result.is_ok(), "{done:?}");
            done.token
        })
        .collect();
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..COUNT));
    for number in [0, 1, 500, COUNT - 1] {
        let block = file.read_at(number * ALIGN as u64, ALIGN).unwrap();
        assert_eq!(block[0], byte(number));
    }
}
