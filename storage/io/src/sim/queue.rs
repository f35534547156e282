//! The simulated submit-and-poll queue: operations progress when the simulation says so.

use std::collections::VecDeque;

use super::{Rng, SimFile};
use crate::{AlignedBuf, Completion, DiskError, DiskFile, DiskQueue, Done, Op};

/// Operations on simulated files. Each [`SimQueue::step`] moves one of them, which the generator
/// picks: a write first reaches the device's cache, later its sync happens, and a crash may come
/// between the two. Dropping the queue drops what has not happened yet.
#[derive(Debug, Default)]
pub struct SimQueue {
    pending: Vec<(u64, Stage)>,
    done: VecDeque<Completion>,
}

#[derive(Debug)]
enum Stage {
    Submitted(Op<SimFile>),
    /// Written, and the sync is still to come.
    Written(SimFile, AlignedBuf),
}

impl SimQueue {
    /// A queue with nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pending: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// How many operations are under way: submitted, and not completed.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.pending.len()
    }

    /// Moves one operation that `rng` picks. False when there is none.
    pub fn step(&mut self, rng: &mut Rng) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let (token, stage) = self.pending.swap_remove(rng.index(self.pending.len()));
        match advance(stage) {
            Ok(stage) => self.pending.push((token, stage)),
            Err(result) => self.done.push_back(Completion { token, result }),
        }
        true
    }

    /// Moves operations until all are complete.
    pub fn run(&mut self, rng: &mut Rng) {
        while self.step(rng) {}
    }
}

impl DiskQueue<SimFile> for SimQueue {
    fn submit(&mut self, token: u64, op: Op<SimFile>) {
        self.pending.push((token, Stage::Submitted(op)));
    }

    fn poll(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}

/// The next stage, or what came of the operation.
fn advance(stage: Stage) -> Result<Stage, Result<Done, DiskError>> {
    match stage {
        Stage::Submitted(Op::Write {
            file,
            offset,
            buf,
            sync,
        }) => match file.write_at(offset, &buf) {
            Ok(()) if sync => Ok(Stage::Written(file, buf)),
            Ok(()) => Err(Ok(Done::Written { buf })),
            Err(error) => Err(Err(error)),
        },
        Stage::Submitted(Op::Read { file, offset, len }) => {
            Err(file.read_at(offset, len).map(Done::Read))
        }
        Stage::Submitted(Op::Sync { file }) => Err(file.sync().map(|()| Done::Synced)),
        Stage::Submitted(Op::SyncDir { file }) => Err(file.sync_directory().map(|()| Done::Synced)),
        Stage::Written(file, buf) => Err(file.sync().map(|()| Done::Written { buf })),
    }
}
