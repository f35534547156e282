//! The log on a real file system, through a real executor.

use std::rc::Rc;

use glommio::channels::local_channel::{self, LocalReceiver};
use glommio::{LocalExecutorBuilder, Placement};
use storage_io::sim::Rng;
use storage_io::{DirectDisk, DirectFile, Disk, DiskFile, DiskQueue, GlommioQueue};
use tempfile::TempDir;

use super::rig::{LOG, Sample, samples, small_options};
use crate::{Log, LogOffset, Lookup, Record};

/// Commits until all is durable and claimed.
async fn settle(log: &mut Log<DirectDisk>, queue: &mut GlommioQueue, wakes: &LocalReceiver<()>) {
    while !log.is_settled() {
        log.request_marker();
        log.commit(queue).unwrap();
        wakes.recv().await.unwrap();
        while let Some(completion) = queue.poll() {
            log.complete(completion).unwrap();
        }
    }
}

fn recover(disk: &DirectDisk) -> (Log<DirectDisk>, Vec<Record>) {
    let mut records = Vec::new();
    let (log, _) = Log::recover(
        disk.clone(),
        LOG,
        small_options(),
        LogOffset(0),
        &mut |record| {
            records.push(record);
            Ok(())
        },
    )
    .unwrap();
    (log, records)
}

#[test]
fn a_log_lives_on_a_real_disk() {
    let directory = TempDir::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let disk = DirectDisk::open(directory.path()).unwrap();
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20);
    builder.make().unwrap().run(async move {
        let (sender, wakes) = local_channel::new_unbounded();
        let on_completion = Rc::new(move || sender.try_send(()).unwrap());
        let mut queue = GlommioQueue::open(&disk, on_completion).await.unwrap();
        let disk = disk.sub("shard-0").unwrap();
        let mut log = Log::create(disk.clone(), LOG, small_options()).unwrap();
        let mut rng = Rng::new(1);
        let mut appended = Vec::new();
        for _ in 0..60 {
            for _ in 0..5 {
                let sample = Sample::random(&mut rng, 2000);
                let put = sample.append(&mut log);
                appended.push((put.offset, put.end, sample));
            }
            settle(&mut log, &mut queue, &wakes).await;
        }
        drop(log);
        let (log, records) = recover(&disk);
        assert!(samples(&records) == appended);
        assert!(log.appended() > appended.last().unwrap().1);
        read_one(log, &appended[7]);
    });
}

fn read_one(mut log: Log<DirectDisk>, expected: &(LogOffset, LogOffset, Sample)) {
    let Lookup::Missing(read) = log.read(expected.0, 0).unwrap() else {
        panic!("nothing was read yet");
    };
    let file: &DirectFile = &read.file;
    let buf = file.read_at(read.offset, read.len).unwrap();
    log.insert_chunk(read.chunk, buf);
    let Lookup::Ready(record) = log.read(expected.0, 0).unwrap() else {
        panic!("the chunk is there");
    };
    assert_eq!(Sample::of(&record), expected.2);
}
