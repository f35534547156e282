//! What a durable commit costs: one block written and synced, over and over, by each way that this
//! crate has. CPU time is that of all threads of the process, the kernel's workers for it included.
//!
//!     cargo run --release -p storage-io --example commit_cost -- [DIRECTORY] [COMMITS]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement that a person runs"
)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::channels::local_channel;
use glommio::{LocalExecutorBuilder, Placement};
use storage_io::{
    ALIGN, AlignedBuf, DirectDisk, DirectFile, Disk, DiskFile, DiskQueue, Done, GlommioQueue, Op,
    RingQueue,
};

/// Makes so many commits; how long each took.
type Way = fn(&DirectDisk, u64) -> Vec<Duration>;

/// Blocks of the file, written in turn.
const BLOCKS: u64 = 64;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments
        .next()
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let commits: u64 = arguments.next().map_or(3_000, |text| text.parse().unwrap());
    println!("| way | CPU us per commit | p50 us | p99 us |\n|---|---|---|---|");
    for round in 0..2 {
        let directory = tempfile::tempdir_in(&parent).unwrap();
        let disk = DirectDisk::open(directory.path()).unwrap();
        let ways: [(&str, Way); 3] = [
            ("blocking calls", blocking),
            ("ring of our own", ring),
            ("glommio", glommio),
        ];
        for (name, way) in ways {
            let before = cpu_ns();
            let mut times = way(&disk, commits);
            let cpu_us = (cpu_ns() - before) as f64 / 1000.0 / commits as f64;
            times.sort_unstable();
            let at = |share: usize| times[times.len() * share / 100].as_micros();
            println!(
                "| {name}, round {round} | {cpu_us:.1} | {} | {} |",
                at(50),
                at(99)
            );
        }
    }
}

fn file(disk: &DirectDisk, name: &str) -> DirectFile {
    let file = disk.create(name).unwrap();
    let zeroes = AlignedBuf::zeroed(ALIGN * usize::try_from(BLOCKS).unwrap());
    file.write_at(0, &zeroes).unwrap();
    file.sync().unwrap();
    file
}

fn offset(number: u64) -> u64 {
    number % BLOCKS * ALIGN as u64
}

fn op(file: &DirectFile, number: u64, buf: AlignedBuf) -> Op<DirectFile> {
    Op::Write {
        file: file.clone(),
        offset: offset(number),
        buf,
        sync: true,
    }
}

fn blocking(disk: &DirectDisk, commits: u64) -> Vec<Duration> {
    let file = file(disk, "blocking");
    let block = AlignedBuf::padded(&[1; ALIGN]);
    let commit = |number| {
        let begun = Instant::now();
        file.write_at(offset(number), &block).unwrap();
        file.sync().unwrap();
        begun.elapsed()
    };
    (0..commits).map(commit).collect()
}

fn ring(disk: &DirectDisk, commits: u64) -> Vec<Duration> {
    let file = file(disk, "ring");
    let event: OwnedFd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let mut queue = RingQueue::new(event.as_fd()).unwrap();
    let mut event = File::from(event);
    let mut block = AlignedBuf::padded(&[1; ALIGN]);
    let mut times = Vec::new();
    for number in 0..commits {
        let begun = Instant::now();
        queue.submit(0, op(&file, number, block));
        block = loop {
            if let Some(done) = queue.poll() {
                break written(done.result.unwrap());
            }
            event.read_exact(&mut [0; 8]).unwrap();
        };
        times.push(begun.elapsed());
    }
    times
}

fn glommio(disk: &DirectDisk, commits: u64) -> Vec<Duration> {
    let (disk, file) = (disk.clone(), file(disk, "glommio"));
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .make()
        .unwrap();
    executor.run(async move {
        let (sender, wakes) = local_channel::new_unbounded();
        let wake = Rc::new(move || sender.try_send(()).unwrap());
        let mut queue = GlommioQueue::open(&disk, wake).await.unwrap();
        let mut block = AlignedBuf::padded(&[1; ALIGN]);
        let mut times = Vec::new();
        for number in 0..commits {
            let begun = Instant::now();
            queue.submit(0, op(&file, number, block));
            wakes.recv().await.unwrap();
            block = written(queue.poll().unwrap().result.unwrap());
            times.push(begun.elapsed());
        }
        times
    })
}

fn written(done: Done) -> AlignedBuf {
    match done {
        Done::Written { buf } => buf,
        other @ (Done::Read(_) | Done::Synced) => panic!("{other:?}"),
    }
}

/// CPU time of all threads so far, those of the kernel for this process included.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}
