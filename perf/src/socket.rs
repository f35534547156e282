//! Non-blocking TCP sockets and epoll, thinly: everything that talks to the kernel about the
//! network. Level-triggered: what is not read now is reported again.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// Events taken from the kernel at a time.
const EVENT_COUNT_MAX: usize = 1024;
/// Connections the kernel holds for a listener: its own bound (somaxconn) is lower on most systems.
const BACKLOG: i32 = 4096;

/// What a socket is ready for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    pub(crate) token: usize,
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
}

/// An epoll instance and what it last reported.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Readiness>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENT_COUNT_MAX),
        })
    }

    /// Starts watching a socket for input, and for room to write if asked.
    pub(crate) fn add(&self, socket: &OwnedFd, token: usize, write: bool) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, socket, data, flags(write))?)
    }

    /// Changes what a watched socket is watched for.
    pub(crate) fn change(&self, socket: &OwnedFd, token: usize, write: bool) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::modify(&self.epoll, socket, data, flags(write))?)
    }

    /// Stops reporting input of a watched socket, for back-pressure.
    pub(crate) fn pause_input(&self, socket: &OwnedFd, token: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::modify(
            &self.epoll,
            socket,
            data,
            epoll::EventFlags::empty(),
        )?)
    }

    /// Waits for events, at most for `timeout`; `event` reads them out.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        self.events.clear();
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // The kernel's events hold pointers, which would tie this to one thread.
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENT_COUNT_MAX];
        let events = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(0),
            Err(errno) => return Err(errno.into()),
        };
        self.events.extend(events.iter().map(Readiness::of));
        Ok(self.events.len())
    }

    /// Event number `position` of the last `wait`.
    pub(crate) fn event(&self, position: usize) -> Option<Readiness> {
        self.events.get(position).copied()
    }
}

impl Readiness {
    fn of(event: &epoll::Event) -> Self {
        let (flags, data) = (event.flags, event.data);
        let is_broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
        Self {
            token: usize::try_from(data.u64()).unwrap_or(usize::MAX),
            is_readable: is_broken || flags.contains(epoll::EventFlags::IN),
            is_writable: flags.contains(epoll::EventFlags::OUT),
        }
    }
}

fn flags(write: bool) -> epoll::EventFlags {
    if write {
        epoll::EventFlags::IN | epoll::EventFlags::OUT
    } else {
        epoll::EventFlags::IN
    }
}

/// Starts a connection. It is made, or has failed, when the socket is writable.
///
/// `source` binds 127.0.0.(2 + source) first.
pub(crate) fn connect(address: SocketAddr, source: Option<u8>) -> io::Result<OwnedFd> {
    connect_with(address, source, None)
}

/// The same with a receive buffer of so many bytes, where that matters.
pub(crate) fn connect_with(
    address: SocketAddr,
    source: Option<u8>,
    receive_buffer: Option<usize>,
) -> io::Result<OwnedFd> {
    let socket = open(address)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(bytes) = receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    if let Some(source) = source {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, source.saturating_add(2)));
        net::bind(&socket, &SocketAddr::new(ip, 0))?;
    }
    match net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno.into()),
    }
}

/// How a started connection ended up, once its socket is writable.
pub(crate) fn connected(socket: &OwnedFd) -> io::Result<()> {
    Ok(sockopt::socket_error(socket)??)
}

/// Opens a listener.
pub(crate) fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = open(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The address a listener got.
pub(crate) fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(net::getsockname(socket)?)?)
}

/// Takes the next waiting connection; `None` when there is none.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => {
            sockopt::set_tcp_nodelay(&socket, true)?;
            Ok(Some(socket))
        }
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads what is there: `None` when nothing is, 0 bytes at the end of the stream.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match net::recv(socket, buffer, RecvFlags::empty()) {
        Ok((_, len)) => Ok(Some(len)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes what there is room for; 0 when there is none.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    match net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(len) => Ok(len),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

/// Closes with a reset, which leaves no TIME_WAIT behind.
pub(crate) fn reset(socket: OwnedFd) {
    // Without the option the close is an ordinary one: nothing is lost but the port for a minute.
    sockopt::set_socket_linger(socket.as_fd(), Some(Duration::ZERO)).ok();
    drop(socket);
}

fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(net::socket_with(family, SocketType::STREAM, flags, None)?)
}
