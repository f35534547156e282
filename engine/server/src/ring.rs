//! One io_uring instance: accepts, readiness of sockets, reads, sends, and the shard's sleep.
//!
//! It lives on its shard's thread (`SINGLE_ISSUER`) and runs completions only when that thread
//! enters the kernel (`DEFER_TASKRUN`). Operations are queued and leave with the next
//! [`Ring::enter`] or [`Ring::sleep`], many in one system call. A sleeping shard waits at its first
//! ring, which watches the bell: the other shards, the disk's ring and the shard's further rings
//! signal it. The ring owns the bytes of a send or a read until the kernel has told their fate.
//!
//! A ring has a table of direct descriptors: sockets that are known to it alone, by their slot, and
//! take none of the process's descriptors.
//!
//! One of the two modules with unsafe code.
#![expect(
    unsafe_code,
    reason = "submission entries carry raw pointers; each block says why"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use engine_shard::Output;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use crate::slots::{KEY_BITS, Key, Slots};
use crate::socket::EventFd;

/// Bytes thrown away at most when a socket is closed.
const DISCARDED_BYTES: u32 = 1 << 20;

/// Pieces of one send: the kernel takes no more.
const PIECES_MAX: usize = 1024;

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Operations that fit before the kernel must be entered.
    pub(crate) submissions: u32,
    /// Completions that fit before the kernel keeps them in a list of its own.
    pub(crate) completions: u32,
    /// Direct descriptors; at most as many as the process may have descriptors.
    pub(crate) slots: u32,
}

/// Bytes, the end of a stream or an error.
const READABLE: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;

/// Set in a completion of a multishot operation that goes on.
const MORE: u32 = 1 << 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accept = 1,
    Readable = 2,
    Send = 3,
    Bell = 4,
    Receive = 5,
    Close = 6,
}

impl Kind {
    const fn tag(self, low: u64) -> u64 {
        (self as u64) << KEY_BITS | low
    }

    const fn of(tag: u64) -> Option<Self> {
        match tag >> KEY_BITS {
            1 => Some(Self::Accept),
            2 => Some(Self::Readable),
            3 => Some(Self::Send),
            4 => Some(Self::Bell),
            5 => Some(Self::Receive),
            6 => Some(Self::Close),
            _ => None,
        }
    }
}

/// The user data of an operation whose end tells nothing: no kind has this tag.
const UNTOLD: u64 = 0;

/// The socket that an operation is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// A descriptor of the process.
    Plain(BorrowedFd<'a>),
    /// A direct descriptor of this ring.
    Slot(u32),
}

impl Target<'_> {
    /// As the fields of a submission entry.
    fn parts(self) -> (types::Fd, squeue::Flags) {
        match self {
            Self::Plain(socket) => (types::Fd(socket.as_raw_fd()), squeue::Flags::empty()),
            Self::Slot(slot) => (fixed(slot), squeue::Flags::FIXED_FILE),
        }
    }
}

/// Slots are fewer than 2^31: a table is bounded by RLIMIT_NOFILE.
fn fixed(slot: u32) -> types::Fd {
    types::Fd(slot.cast_signed())
}

/// What has happened.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A listener has a new connection, or failed to take one.
    Accepted {
        /// The number given to [`Ring::accept`].
        listener: u32,
        /// The connection.
        result: io::Result<OwnedFd>,
        /// Whether more will follow; otherwise the listener must be armed again.
        armed: bool,
    },
    /// A socket has bytes, its end, or an error to read. Its watch is used up.
    Readable(Key),
    /// A send is over.
    Sent {
        /// The key given to [`Ring::send`].
        connection: Key,
        /// What was to be sent comes back.
        output: Output,
        /// Where in it the send started.
        from: usize,
        /// How many bytes from where it started the socket has taken: perhaps not all.
        result: io::Result<usize>,
    },
    /// A read is over.
    Received {
        /// The key given to [`Ring::receive`].
        connection: Key,
        /// The buffer comes back.
        buffer: Vec<u8>,
        /// How many bytes are in it; 0: the end of the stream.
        result: io::Result<usize>,
    },
}

/// A read that the kernel has not finished.
struct Receiving {
    connection: Key,
    buffer: Vec<u8>,
}

/// A send that the kernel has not finished.
struct Sending {
    connection: Key,
    output: Output,
    from: usize,
    /// Of a send in several pieces; only the kernel reads it.
    _vector: Option<Box<Vector>>,
}

/// The pieces of one send, as the kernel reads them.
struct Vector {
    header: libc::msghdr,
    pieces: Vec<libc::iovec>,
}

impl Vector {
    /// The pieces of `output` from the byte `from` on, at most [`PIECES_MAX`].
    fn new(output: &Output, from: usize) -> Box<Self> {
        let pieces = output.pieces(from).take(PIECES_MAX);
        let pieces = pieces.map(|piece| libc::iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        });
        let mut vector = Box::new(Self {
            header: libc::msghdr {
                msg_name: ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: ptr::null_mut(),
                msg_iovlen: 0,
                msg_control: ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            pieces: pieces.collect(),
        });
        vector.header.msg_iov = vector.pieces.as_mut_ptr();
        vector.header.msg_iovlen = vector.pieces.len();
        vector
    }
}

/// See the module.
pub(crate) struct Ring {
    io: IoUring,
    /// What did not fit into the submission queue, in order.
    overflow: VecDeque<squeue::Entry>,
    sends: Slots<Sending>,
    receives: Slots<Receiving>,
    /// The bell's eventfd, if this ring watches it; its owner outlives the ring.
    bell: Option<types::Fd>,
    table: Table,
}

/// Which slots of the table of direct descriptors are free.
struct Table {
    slots: u32,
    /// Slots from this one on have never been used.
    unused: u32,
    free: Vec<u32>,
}

impl Table {
    fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let slot = self.unused;
            (slot < self.slots).then(|| {
                self.unused += 1;
                slot
            })
        })
    }
}

impl Ring {
    /// The first ring of the calling thread, in which it sleeps; the sleep ends when `bell` is
    /// signalled, which must stay open as long as the ring.
    pub(crate) fn first(bell: &EventFd, shape: Shape) -> io::Result<Self> {
        let mut ring = Self::new(shape)?;
        ring.bell = Some(types::Fd(bell.as_fd().as_raw_fd()));
        ring.watch_bell();
        Ok(ring)
    }

    /// A further ring of the calling thread, which signals `bell` when it has something.
    pub(crate) fn further(bell: &EventFd, shape: Shape) -> io::Result<Self> {
        let ring = Self::new(shape)?;
        ring.io
            .submitter()
            .register_eventfd(bell.as_fd().as_raw_fd())?;
        Ok(ring)
    }

    fn new(shape: Shape) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(shape.completions)
            .build(shape.submissions)?;
        io.submitter().register_files_sparse(shape.slots)?;
        Ok(Self {
            io,
            overflow: VecDeque::new(),
            sends: Slots::new(),
            receives: Slots::new(),
            bell: None,
            table: Table {
                slots: shape.slots,
                unused: 0,
                free: Vec::new(),
            },
        })
    }

    /// Completes at every signal: such a poll looks for changes, so the count is never read.
    fn watch_bell(&mut self) {
        if let Some(bell) = self.bell {
            let entry = opcode::PollAdd::new(bell, READABLE)
                .multi(true)
                .build()
                .user_data(Kind::Bell.tag(0));
            self.queue(entry);
        }
    }

    /// Takes connections from a listening socket, one completion each.
    pub(crate) fn accept(&mut self, listener: u32, socket: BorrowedFd<'_>) {
        let entry = opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Kind::Accept.tag(u64::from(listener)));
        self.queue(entry);
    }

    /// As [`Ring::accept`], for one connection.
    pub(crate) fn accept_one(&mut self, listener: u32, socket: BorrowedFd<'_>) {
        let nowhere = ptr::null_mut();
        let entry = opcode::Accept::new(types::Fd(socket.as_raw_fd()), nowhere, nowhere.cast())
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Kind::Accept.tag(u64::from(listener)));
        self.queue(entry);
    }

    /// Ends a listener's accept; its last completion says so, with `ECANCELED`.
    pub(crate) fn cancel_accept(&mut self, listener: u32) {
        let entry = opcode::AsyncCancel::new(Kind::Accept.tag(u64::from(listener)))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(UNTOLD);
        self.queue(entry);
    }

    /// Makes a socket a direct descriptor; the caller closes its own. `None`: the table is full.
    pub(crate) fn install(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
        let Some(slot) = self.table.take() else {
            return Ok(None);
        };
        let fds = [socket.as_raw_fd()];
        match self.io.submitter().register_files_update(slot, &fds) {
            Ok(_) => Ok(Some(slot)),
            Err(error) => {
                self.table.free.push(slot);
                Err(error)
            }
        }
    }

    /// Closes a direct descriptor behind everything queued; unread bytes are thrown away, because a
    /// close with unread bytes resets the connection and the client would lose what was sent last.
    pub(crate) fn close(&mut self, slot: u32) {
        let discard = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
        let entry = opcode::Recv::new(fixed(slot), ptr::null_mut(), DISCARDED_BYTES)
            .flags(discard)
            .build()
            .flags(squeue::Flags::FIXED_FILE | squeue::Flags::SKIP_SUCCESS)
            .user_data(UNTOLD);
        self.queue(entry);
        let entry = opcode::Close::new(types::Fixed(slot))
            .build()
            .user_data(Kind::Close.tag(u64::from(slot)));
        self.queue(entry);
    }

    /// Tells once when a socket has something to read.
    pub(crate) fn watch(&mut self, connection: Key, socket: Target<'_>) {
        let (fd, flags) = socket.parts();
        let entry = opcode::PollAdd::new(fd, READABLE)
            .build()
            .flags(flags)
            .user_data(Kind::Readable.tag(connection.0));
        self.queue(entry);
    }

    /// Ends a watch: it completes now.
    pub(crate) fn unwatch(&mut self, connection: Key) {
        let entry = opcode::PollRemove::new(Kind::Readable.tag(connection.0))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(UNTOLD);
        self.queue(entry);
    }

    /// Reads what has arrived, without waiting. The socket must stay open until the completion.
    pub(crate) fn receive(&mut self, connection: Key, socket: Target<'_>, mut buffer: Vec<u8>) {
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        // The heap block stays where it is while its owner moves into the table.
        let bytes = buffer.as_mut_ptr();
        let Ok(key) = self.receives.insert(Receiving { connection, buffer }) else {
            // Invariant: one read per connection, and the table of connections is as large.
            unreachable!("more reads than connections");
        };
        let (fd, flags) = socket.parts();
        let entry = opcode::Recv::new(fd, bytes, len)
            .flags(libc::MSG_DONTWAIT)
            .build()
            .flags(flags)
            .user_data(Kind::Receive.tag(key.0));
        self.queue(entry);
    }

    /// Sends `output` from its byte `from` on, as far as the kernel takes it at once. The socket
    /// must stay open until the completion. Returns the send's key.
    pub(crate) fn send(
        &mut self,
        connection: Key,
        socket: Target<'_>,
        output: Output,
        from: usize,
    ) -> Key {
        let (fd, flags) = socket.parts();
        let mut vector = output.is_shared().then(|| Vector::new(&output, from));
        // The heap blocks stay where they are while their owner moves into the table.
        let entry = match &mut vector {
            Some(vector) => opcode::SendMsg::new(fd, &raw const vector.header)
                .flags(libc::MSG_NOSIGNAL as u32)
                .build(),
            None => {
                let rest = output.pieces(from).next().unwrap_or_default();
                let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
                opcode::Send::new(fd, rest.as_ptr(), len)
                    .flags(libc::MSG_NOSIGNAL)
                    .build()
            }
        };
        let Ok(key) = self.sends.insert(Sending {
            connection,
            output,
            from,
            _vector: vector,
        }) else {
            // Invariant: one send per connection, and the table of connections is as large.
            unreachable!("more sends than connections");
        };
        self.queue(entry.flags(flags).user_data(Kind::Send.tag(key.0)));
        key
    }

    /// Ends a send that waits for room in its socket: it completes now.
    pub(crate) fn cancel_send(&mut self, send: Key) {
        let entry = opcode::AsyncCancel::new(Kind::Send.tag(send.0))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(UNTOLD);
        self.queue(entry);
    }

    /// Whether [`Ring::enter`] has something to do: operations wait for the kernel, or completions
    /// for this thread.
    pub(crate) fn wants_enter(&mut self) -> bool {
        let queued = self.io.submission();
        !self.overflow.is_empty() || !queued.is_empty() || queued.taskrun() || queued.cq_overflow()
    }

    /// As [`Ring::enter`], and waits until there is a completion, the bell is signalled or `delay`
    /// is over.
    pub(crate) fn sleep(&mut self, delay: Duration) -> io::Result<()> {
        self.refill();
        if !self.overflow.is_empty() {
            return self.enter();
        }
        let delay = types::Timespec::from(delay);
        let arguments = types::SubmitArgs::new().timespec(&delay);
        match self.io.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Gives the kernel everything queued and lets it post what is complete.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        loop {
            self.refill();
            let waiting = u32::try_from(self.io.submission().len()).unwrap_or(u32::MAX);
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: no argument is passed, and every queued entry is valid until it completes:
            // sends own their bytes in `self.sends`.
            let entered = unsafe {
                self.io
                    .submitter()
                    .enter::<libc::sigset_t>(waiting, 0, flags, None)
            };
            match entered {
                Ok(_) if self.overflow.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The kernel wants its completions drained first: the next turn goes on.
                    Some(libc::EAGAIN | libc::EBUSY) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Moves the posted completions to the end of `into`.
    pub(crate) fn drain(&mut self, into: &mut Vec<Completion>) {
        let mut posted = self.io.completion();
        let mut unwatched = false;
        let Self {
            sends,
            receives,
            table,
            ..
        } = self;
        for entry in &mut posted {
            let tag = entry.user_data();
            let low = tag & ((1 << KEY_BITS) - 1);
            match Kind::of(tag) {
                Some(Kind::Accept) => into.extend(accepted(&entry, low)),
                Some(Kind::Readable) => into.push(Completion::Readable(Key(low))),
                Some(Kind::Send) => into.extend(sent(&entry, sends.remove(Key(low)))),
                Some(Kind::Receive) => into.extend(received(&entry, receives.remove(Key(low)))),
                // The shard is awake, and looks at all its inputs.
                Some(Kind::Bell) => unwatched |= entry.flags() & MORE == 0,
                Some(Kind::Close) => table.free.extend(u32::try_from(low)),
                None => {}
            }
        }
        drop(posted);
        if unwatched {
            self.watch_bell();
        }
    }

    /// Sends whose fate is unknown.
    pub(crate) const fn sends_in_flight(&self) -> usize {
        self.sends.len()
    }

    fn queue(&mut self, entry: squeue::Entry) {
        if !self.overflow.is_empty() || !self.push(&entry) {
            self.overflow.push_back(entry);
        }
    }

    fn refill(&mut self) {
        while let Some(entry) = self.overflow.pop_front() {
            if !self.push(&entry) {
                self.overflow.push_front(entry);
                return;
            }
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: see `enter`: all that an entry points to lives until it completes.
        unsafe { self.io.submission().push(entry) }.is_ok()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may read these until it has torn the ring down, which we cannot wait for.
        self.sends.drain().for_each(std::mem::forget);
        for read in self.receives.drain() {
            read.buffer.leak();
        }
    }
}

fn accepted(entry: &cqueue::Entry, listener: u64) -> Option<Completion> {
    Some(Completion::Accepted {
        listener: u32::try_from(listener).ok()?,
        result: outcome(entry.result()).map(|fd| {
            // SAFETY: the kernel has just made this descriptor for us and told nobody else.
            unsafe { OwnedFd::from_raw_fd(fd) }
        }),
        armed: entry.flags() & MORE != 0,
    })
}

fn sent(entry: &cqueue::Entry, operation: Option<Sending>) -> Option<Completion> {
    let Sending {
        connection,
        output,
        from,
        ..
    } = operation?;
    Some(Completion::Sent {
        connection,
        output,
        from,
        result: outcome(entry.result()).map(|n| usize::try_from(n).unwrap_or(0)),
    })
}

fn received(entry: &cqueue::Entry, operation: Option<Receiving>) -> Option<Completion> {
    let Receiving { connection, buffer } = operation?;
    Some(Completion::Received {
        connection,
        buffer,
        result: outcome(entry.result()).map(|n| usize::try_from(n).unwrap_or(0)),
    })
}

fn outcome(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}
