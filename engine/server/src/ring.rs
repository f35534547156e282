//! One io_uring instance: accepts, readiness of sockets, sends, and the shard's sleep.
//!
//! It lives on its shard's thread (`SINGLE_ISSUER`) and runs completions only when that thread
//! enters the kernel (`DEFER_TASKRUN`). Operations are queued and leave with the next
//! [`Ring::enter`] or [`Ring::sleep`], many in one system call. A sleeping shard waits here: the
//! ring also watches the bell, which the other shards and the disk's ring signal. The ring owns the
//! bytes of a send until the kernel has told their fate.
//!
//! One of the two modules with unsafe code.
#![expect(
    unsafe_code,
    reason = "submission entries carry raw pointers; each block says why"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use crate::slots::{KEY_BITS, Key, Slots};
use crate::socket::EventFd;

/// Operations that fit before the kernel must be entered.
const SUBMISSIONS: u32 = 1024;

/// Completions that fit before the kernel keeps them in a list of its own.
const COMPLETIONS: u32 = 16_384;

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
            _ => None,
        }
    }
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
        /// The buffer comes back.
        buffer: Vec<u8>,
        /// Where in it the send started.
        from: usize,
        /// How many bytes from where it started the socket has taken: perhaps not all.
        result: io::Result<usize>,
    },
}

struct InFlight {
    connection: Key,
    buffer: Vec<u8>,
    from: usize,
}

/// See the module.
pub(crate) struct Ring {
    io: IoUring,
    /// What did not fit into the submission queue, in order.
    overflow: VecDeque<squeue::Entry>,
    sends: Slots<InFlight>,
    /// The bell's eventfd; its owner outlives the ring.
    bell: types::Fd,
}

impl Ring {
    /// A ring for the calling thread; its sleep ends when `bell` is signalled, which must stay
    /// open as long as the ring.
    pub(crate) fn new(bell: &EventFd) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let mut ring = Self {
            io,
            overflow: VecDeque::new(),
            sends: Slots::new(),
            bell: types::Fd(bell.as_fd().as_raw_fd()),
        };
        ring.watch_bell();
        Ok(ring)
    }

    /// Completes at every signal: such a poll looks for changes, so the count is never read.
    fn watch_bell(&mut self) {
        let entry = opcode::PollAdd::new(self.bell, READABLE)
            .multi(true)
            .build()
            .user_data(Kind::Bell.tag(0));
        self.queue(entry);
    }

    /// Takes connections from a listening socket, one completion each.
    pub(crate) fn accept(&mut self, listener: u32, socket: BorrowedFd<'_>) {
        let entry = opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Kind::Accept.tag(u64::from(listener)));
        self.queue(entry);
    }

    /// Tells once when a socket has something to read.
    pub(crate) fn watch(&mut self, connection: Key, socket: BorrowedFd<'_>) {
        let entry = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), READABLE)
            .build()
            .user_data(Kind::Readable.tag(connection.0));
        self.queue(entry);
    }

    /// Sends `buffer` from its byte `from` on. The socket must stay open until the completion.
    pub(crate) fn send(
        &mut self,
        connection: Key,
        socket: BorrowedFd<'_>,
        buffer: Vec<u8>,
        from: usize,
    ) {
        let rest = buffer.get(from..).unwrap_or_default();
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        // The heap block stays where it is while its owner moves into the table.
        let bytes = rest.as_ptr();
        let Ok(key) = self.sends.insert(InFlight {
            connection,
            buffer,
            from,
        }) else {
            // Invariant: one send per connection, and the table of connections is as large.
            unreachable!("more sends than connections");
        };
        let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes, len)
            .flags(libc::MSG_NOSIGNAL)
            .build()
            .user_data(Kind::Send.tag(key.0));
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
        let Self { io, sends, .. } = self;
        let mut unwatched = false;
        into.extend(io.completion().filter_map(|entry| {
            let is_bell = Kind::of(entry.user_data()) == Some(Kind::Bell);
            unwatched |= is_bell && entry.flags() & MORE == 0;
            completion(&entry, sends)
        }));
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
        for send in self.sends.drain() {
            send.buffer.leak();
        }
    }
}

fn completion(entry: &cqueue::Entry, sends: &mut Slots<InFlight>) -> Option<Completion> {
    let tag = entry.user_data();
    let low = tag & ((1 << KEY_BITS) - 1);
    match Kind::of(tag)? {
        Kind::Accept => Some(Completion::Accepted {
            listener: u32::try_from(low).ok()?,
            result: outcome(entry.result()).map(|fd| {
                // SAFETY: the kernel has just made this descriptor for us and told nobody else.
                unsafe { OwnedFd::from_raw_fd(fd) }
            }),
            armed: entry.flags() & MORE != 0,
        }),
        Kind::Readable => Some(Completion::Readable(Key(low))),
        Kind::Send => {
            let InFlight {
                connection,
                buffer,
                from,
            } = sends.remove(Key(low))?;
            let result = outcome(entry.result()).map(|n| usize::try_from(n).unwrap_or(0));
            Some(Completion::Sent {
                connection,
                buffer,
                from,
                result,
            })
        }
        // The shard is awake, and looks at all its inputs.
        Kind::Bell => None,
    }
}

fn outcome(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}
