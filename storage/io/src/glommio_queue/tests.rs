//! The queue on a real executor and a real file system.

use glommio::channels::local_channel::{self, LocalReceiver};
use glommio::{LocalExecutorBuilder, Placement};
use tempfile::TempDir;

use super::*;
use crate::ALIGN;

/// Runs operations one after the other and returns what came of them.
async fn run_all(
    queue: &mut GlommioQueue,
    wakes: &LocalReceiver<()>,
    ops: Vec<Op<DirectFile>>,
) -> Vec<Completion> {
    let mut completions = Vec::new();
    for (token, op) in (0..).zip(ops) {
        queue.submit(token, op);
        assert!(queue.poll().is_none());
        wakes.recv().await.unwrap();
        let done = queue.poll().unwrap();
        assert_eq!(done.token, token);
        completions.push(done);
    }
    completions
}

#[test]
fn operations_complete_on_the_same_file() {
    let directory = TempDir::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let disk = DirectDisk::open(directory.path()).unwrap();
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(1 << 20)
        .make()
        .unwrap();
    executor.run(async move {
        let (sender, wakes) = local_channel::new_unbounded();
        let on_completion = Rc::new(move || sender.try_send(()).unwrap());
        let mut queue = GlommioQueue::open(&disk, on_completion).await.unwrap();
        let file = disk.create("a").unwrap();
        let buf = AlignedBuf::padded(&[7; 3 * ALIGN]);
        let write = Op::Write {
            file: file.clone(),
            offset: 0,
            buf: buf.clone(),
            sync: true,
        };
        let rewrite = Op::Write {
            file: file.clone(),
            offset: 4096,
            buf,
            sync: false,
        };
        let read = Op::Read {
            file: file.clone(),
            offset: 0,
            len: 4 * ALIGN,
        };
        let beyond = Op::Read {
            file: file.clone(),
            offset: 0,
            len: 8 * ALIGN,
        };
        let sync = Op::Sync { file: file.clone() };
        let names = Op::SyncDir { file: file.clone() };
        disk.rename("a", "b").unwrap();
        let done = run_all(
            &mut queue,
            &wakes,
            vec![write, rewrite, read, beyond, sync, names],
        )
        .await;
        assert!(matches!(&done[0].result, Ok(Done::Written { buf }) if buf.len() == 3 * ALIGN));
        assert!(matches!(&done[1].result, Ok(Done::Written { .. })));
        assert!(matches!(&done[2].result, Ok(Done::Read(buf)) if buf[..] == [7; 4 * ALIGN]));
        let short = ErrorKind::Short {
            got: 4 * ALIGN,
            expected: 8 * ALIGN,
        };
        assert!(matches!(&done[3].result, Err(error) if error.kind == short));
        assert!(matches!(&done[4].result, Ok(Done::Synced)));
        assert!(matches!(&done[5].result, Ok(Done::Synced)));
        assert_eq!(file.read_at(0, ALIGN).unwrap()[..], [7; ALIGN]);
    });
}
