//! One io_uring instance: accepts, readiness of sockets, sends and one clock.
//!
//! It lives on its shard's thread (`SINGLE_ISSUER`), runs completions only when that thread enters
//! the kernel (`DEFER_TASKRUN`), and signals the shard's eventfd when there is something to come
//! for. Operations are queued and leave with the next [`Ring::enter`], many in one system call. The
//! ring owns the bytes of a send until the kernel has told their fate.
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

/// Set in a completion of a multishot operation that goes on.
const MORE: u32 = 1 << 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accept = 1,
    Readable = 2,
    Send = 3,
    Clock = 4,
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
            4 => Some(Self::Clock),
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
    /// A time given to [`Ring::wake_after`] has passed.
    Clock,
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
    /// Read by the kernel when the clock operation is submitted.
    delay: Box<types::Timespec>,
}

impl Ring {
    /// A ring for the calling thread, which signals `event`.
    pub(crate) fn new(event: &EventFd) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        io.submitter().register_eventfd(event.as_fd().as_raw_fd())?;
        let delay = Box::new(types::Timespec::new());
        Ok(Self {
            io,
            overflow: VecDeque::new(),
            sends: Slots::new(),
            delay,
        })
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
        #[expect(clippy::cast_sign_loss, reason = "a bit mask")]
        let events = i32::from(libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), events)
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

    /// Completes [`Completion::Clock`] once, after `delay`.
    pub(crate) fn wake_after(&mut self, delay: Duration) {
        *self.delay = types::Timespec::from(delay);
        let entry = opcode::Timeout::new(&raw const *self.delay)
            .build()
            .user_data(Kind::Clock.tag(0));
        self.queue(entry);
    }

    /// Whether operations wait for [`Ring::enter`].
    pub(crate) fn has_queued(&mut self) -> bool {
        !self.overflow.is_empty() || !self.io.submission().is_empty()
    }

    /// Gives the kernel everything queued and lets it post what is complete.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        loop {
            self.refill();
            let waiting = u32::try_from(self.io.submission().len()).unwrap_or(u32::MAX);
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: no argument is passed, and every queued entry is valid until it completes:
            // sends own their bytes in `self.sends`, the clock's time lives in `self.delay`.
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
        into.extend(
            io.completion()
                .filter_map(|entry| completion(&entry, sends)),
        );
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
        Kind::Clock => Some(Completion::Clock),
    }
}

fn outcome(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}
