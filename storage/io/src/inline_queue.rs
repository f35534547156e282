//! The submit-and-poll queue done at once, for start-up and offline tools.

use std::collections::VecDeque;

use crate::{Completion, Disk, DiskFile, DiskQueue, Done, Op};

/// Does every operation when it is submitted.
#[derive(Debug)]
pub struct InlineQueue<D> {
    disk: D,
    done: VecDeque<Completion>,
}

impl<D: Disk> InlineQueue<D> {
    /// A queue with nothing in it, for the files of `disk`.
    pub const fn new(disk: D) -> Self {
        Self {
            disk,
            done: VecDeque::new(),
        }
    }
}

impl<D: Disk> DiskQueue<D::File> for InlineQueue<D> {
    fn submit(&mut self, token: u64, op: Op<D::File>) {
        let result = match op {
            Op::Write {
                file,
                offset,
                buf,
                sync,
            } => file
                .write_at(offset, &buf)
                .and_then(|()| if sync { file.sync() } else { Ok(()) })
                .map(|()| Done::Written { buf }),
            Op::Read { file, offset, len } => file.read_at(offset, len).map(Done::Read),
            Op::Sync { file } => file.sync().map(|()| Done::Synced),
            Op::SyncDir { .. } => self.disk.sync_dir().map(|()| Done::Synced),
        };
        self.done.push_back(Completion { token, result });
    }

    fn poll(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}
