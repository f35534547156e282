//! The real submit-and-poll queue: an io_uring of its own per shard.
//!
//! A write with its sync is one chain: the kernel starts the sync when the write is complete, and
//! tells of the sync alone. The ring signals an eventfd, on which its shard sleeps, for every
//! completion; taking them is a look at memory. Operations leave with one system call each.
//!
//! The ring belongs to the thread that made it. It owns buffer and file of an operation until the
//! kernel has told its fate.
#![expect(
    unsafe_code,
    reason = "submission entries carry raw pointers; each block says why"
)]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::{
    AlignedBuf, Completion, DirectFile, DiskError, DiskFile, DiskQueue, Done, ErrorKind, Op,
    Operation,
};

/// Entries that fit before the kernel must take them.
const SUBMISSIONS: u32 = 256;

/// Set in the user data of a write that a sync follows: it completes by itself only when it fails.
const FIRST_OF_TWO: u64 = 1 << 63;

/// Operations on real files.
pub struct RingQueue {
    io: IoUring,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// What the kernel has not been given yet, in order.
    waiting: VecDeque<Chain>,
    done: VecDeque<Completion>,
}

/// An operation that the kernel has.
struct Flight {
    token: u64,
    file: DirectFile,
    offset: u64,
    what: What,
}

/// An entry, and the one that the kernel begins when it is complete.
type Chain = (squeue::Entry, Option<squeue::Entry>);

enum What {
    Write { buf: AlignedBuf, sync: bool },
    Read(AlignedBuf),
    Sync,
    SyncDir,
}

impl fmt::Debug for RingQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingQueue({} under way)", self.under_way())
    }
}

impl RingQueue {
    /// A queue for the calling thread, which signals `event`, an eventfd.
    ///
    /// # Errors
    /// When the kernel refuses a ring.
    pub fn new(event: BorrowedFd<'_>) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_submit_all()
            .build(SUBMISSIONS)?;
        io.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Self {
            io,
            flights: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            done: VecDeque::new(),
        })
    }

    /// Operations that the kernel has.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    fn start(&mut self, token: u64, file: DirectFile, offset: u64, what: What) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        let mut flight = Flight {
            token,
            file,
            offset,
            what,
        };
        // The heap block of a buffer stays where it is while its owner moves into the table.
        let chain = flight.chain(slot as u64);
        if let Some(place) = self.flights.get_mut(slot) {
            *place = Some(flight);
        }
        self.waiting.push_back(chain);
        self.enter();
    }

    /// Gives the kernel what it has room for.
    fn enter(&mut self) {
        while let Some((first, second)) = self.waiting.pop_front() {
            let entries = self.io.submission();
            let room = entries.capacity() - entries.len();
            drop(entries);
            if room < 2 && self.io.submit().is_err() {
                // The kernel can take no more for now; the next call or poll tries again.
                self.waiting.push_front((first, second));
                return;
            }
            for entry in [Some(first), second].into_iter().flatten() {
                // SAFETY: buffer and file of the entry live in `self.flights` until it completes,
                // and are leaked if the ring goes first.
                let pushed = unsafe { self.io.submission().push(&entry) };
                // A chain that were torn apart would lose its order.
                assert!(pushed.is_ok(), "the submission queue has room for two");
            }
        }
        // EAGAIN and EBUSY pass: what is queued stays queued for the next call.
        drop(self.io.submit());
    }

    fn take_completions(&mut self) {
        let entries: Vec<cqueue::Entry> = self.io.completion().collect();
        for entry in entries {
            let number = entry.user_data() & !FIRST_OF_TWO;
            let slot = usize::try_from(number).unwrap_or(usize::MAX);
            let Some(flight) = self.flights.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            self.free.push(slot);
            let is_first = entry.user_data() & FIRST_OF_TWO != 0;
            self.done.push_back(flight.finish(entry.result(), is_first));
        }
    }
}

impl DiskQueue<DirectFile> for RingQueue {
    fn submit(&mut self, token: u64, op: Op<DirectFile>) {
        match op {
            Op::Write {
                file,
                offset,
                buf,
                sync,
            } => self.start(token, file, offset, What::Write { buf, sync }),
            Op::Read { file, offset, len } => {
                let buf = AlignedBuf::zeroed(len);
                self.start(token, file, offset, What::Read(buf));
            }
            Op::Sync { file } => self.start(token, file, 0, What::Sync),
            Op::SyncDir { file } => self.start(token, file, 0, What::SyncDir),
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        if self.done.is_empty() && self.under_way() > 0 {
            if !self.waiting.is_empty() {
                self.enter();
            }
            self.take_completions();
        }
        self.done.pop_front()
    }
}

impl Drop for RingQueue {
    fn drop(&mut self) {
        // The kernel may read and write these until it has torn the ring down, which we cannot
        // wait for.
        for flight in self.flights.drain(..).flatten() {
            Box::leak(Box::new(flight));
        }
    }
}

impl Flight {
    /// Its entries, the second one to be begun when the first is complete.
    fn chain(&mut self, number: u64) -> Chain {
        let fd = types::Fd(self.file.inner().file.as_raw_fd());
        let offset = self.offset;
        match &mut self.what {
            What::Write { buf, sync } => {
                let write = opcode::Write::new(fd, buf.as_ptr(), len(buf));
                let write = write.offset(offset).build();
                if !*sync {
                    return (write.user_data(number), None);
                }
                let chained = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
                let write = write.flags(chained).user_data(number | FIRST_OF_TWO);
                (write, Some(data_sync(fd).user_data(number)))
            }
            What::Read(buf) => {
                let read = opcode::Read::new(fd, buf.as_mut_ptr(), len(buf)).offset(offset);
                (read.build().user_data(number), None)
            }
            What::Sync => (data_sync(fd).user_data(number), None),
            What::SyncDir => {
                let directory = types::Fd(self.file.inner().directory.as_raw_fd());
                let entry = opcode::Fsync::new(directory).build();
                (entry.user_data(number), None)
            }
        }
    }

    /// What came of it. `is_first`: it is the write of a chain, which tells of failures only.
    fn finish(self, result: i32, is_first: bool) -> Completion {
        let Self {
            token,
            file,
            offset,
            what,
        } = self;
        let result = match usize::try_from(result) {
            Ok(count) => what.succeeded(&file, offset, count, is_first),
            Err(_) => {
                let error = io::Error::from_raw_os_error(-result);
                Err(failed(&file, what.operation(is_first), offset, &error))
            }
        };
        Completion { token, result }
    }
}

impl What {
    fn succeeded(
        self,
        file: &DirectFile,
        offset: u64,
        got: usize,
        is_first: bool,
    ) -> Result<Done, DiskError> {
        let (operation, expected) = match &self {
            Self::Write { buf, sync } if is_first || !sync => (Operation::Write, buf.len()),
            Self::Read(buf) => (Operation::Read, buf.len()),
            Self::Write { .. } | Self::Sync | Self::SyncDir => (Operation::Sync, 0),
        };
        if got < expected {
            let kind = ErrorKind::Short { got, expected };
            return Err(DiskError::new(file.name(), operation, offset, kind));
        }
        Ok(match self {
            Self::Write { buf, .. } => Done::Written { buf },
            Self::Read(buf) => Done::Read(buf),
            Self::Sync | Self::SyncDir => Done::Synced,
        })
    }

    const fn operation(&self, is_first: bool) -> Operation {
        match self {
            Self::Write { sync, .. } if is_first || !*sync => Operation::Write,
            Self::Write { .. } | Self::Sync => Operation::Sync,
            Self::Read(_) => Operation::Read,
            Self::SyncDir => Operation::SyncDirectory,
        }
    }
}

fn len(buf: &AlignedBuf) -> u32 {
    // A buffer of 4 GiB or more would be a short write, and is reported as one.
    u32::try_from(buf.len()).unwrap_or(u32::MAX)
}

fn data_sync(fd: types::Fd) -> squeue::Entry {
    let flags = types::FsyncFlags::DATASYNC;
    opcode::Fsync::new(fd).flags(flags).build()
}

fn failed(file: &DirectFile, operation: Operation, offset: u64, error: &io::Error) -> DiskError {
    DiskError::system(file.name(), operation, offset, error)
}

#[cfg(test)]
mod tests;
