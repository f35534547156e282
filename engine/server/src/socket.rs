//! Sockets and eventfds: the system calls that the standard library does not offer.
//!
//! One of the two modules with unsafe code. Sockets stay in blocking mode: a SEND on the ring then
//! waits inside the kernel for room, and reads here pass `MSG_DONTWAIT`.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each block says why"
)]

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Connections that the kernel keeps until they are accepted; it caps this at somaxconn.
pub(crate) const BACKLOG: i32 = 4096;

/// A counter in the kernel: whoever adds to it wakes the reader.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes two integers and touches no memory of ours.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
        // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Another descriptor of the same counter.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Waits until it has been signalled, and clears it.
    #[cfg(test)]
    pub(crate) fn wait(&self) {
        let mut count = 0;
        // SAFETY: `count` is a u64 of ours; the descriptor is open as long as `self` lives. An
        // interrupted wait is one that ends early: the caller looks at its inputs anyway.
        let _ = unsafe { libc::eventfd_read(self.0.as_raw_fd(), &raw mut count) };
    }

    /// Wakes whoever reads it, now or later.
    pub(crate) fn signal(&self) {
        // SAFETY: the descriptor is open as long as `self` lives. The only failure is a counter
        // at its maximum, at which the reader is awake already.
        let _ = unsafe { libc::eventfd_write(self.0.as_raw_fd(), 1) };
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until there is something to read. False: the time, in milliseconds, is over.
#[cfg(test)]
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, ours alone during the call.
    unsafe { libc::poll(&raw mut poll, 1, timeout_ms) == 1 }
}

/// A TCP socket bound to `address`, not listening yet. `shared` lets every shard bind the same
/// address; without it the call fails when anybody else listens there. Accepted sockets inherit
/// `TCP_NODELAY`.
pub(crate) fn bind(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    // SAFETY: socket takes three integers and touches no memory of ours.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
    if shared {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT)?;
    }
    if address.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
    }
    match address {
        SocketAddr::V4(v4) => bind_to(&socket, &internet_4(v4)),
        SocketAddr::V6(v6) => bind_to(&socket, &internet_6(v6)),
    }?;
    Ok(socket)
}

/// A Unix socket at `path`; clients that come before its owner accepts wait. A path that nobody
/// listens at any more, as a killed process leaves it, is taken over.
pub(crate) fn bind_path(path: &Path) -> io::Result<OwnedFd> {
    let taken = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        bound => return bound.map(OwnedFd::from),
    };
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            remove_path(path);
            UnixListener::bind(path).map(OwnedFd::from)
        }
        _ => Err(taken),
    }
}

/// Removes the name of a Unix socket, if it is there.
pub(crate) fn remove_path(path: &Path) {
    if let Ok(name) = CString::new(path.as_os_str().as_bytes()) {
        // SAFETY: the name ends with a zero and outlives the call. An error means that somebody
        // else was faster.
        let _ = unsafe { libc::unlink(name.as_ptr()) };
    }
}

/// Starts to take connections.
pub(crate) fn listen(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `socket` lives.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) }).map(drop)
}

/// The address that a bound socket was given.
pub(crate) fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    TcpListener::from(socket.try_clone()?).local_addr()
}

/// Where a connected socket comes from; `None` when that is not an IP address.
pub(crate) fn peer_address(socket: BorrowedFd<'_>) -> io::Result<Option<IpAddr>> {
    let stream = TcpStream::from(socket.try_clone_to_owned()?);
    match stream.peer_addr() {
        Ok(address) => Ok(Some(address.ip())),
        // A Unix socket.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads what has arrived, without waiting. `Ok(0)`: the peer has closed its side.
pub(crate) fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: pointer and length are those of `into`, which is ours alone during the call.
        let n = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                into.as_mut_ptr().cast(),
                into.len(),
                libc::MSG_DONTWAIT,
            )
        };
        if let Ok(n) = usize::try_from(n) {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Ends both directions: every pending operation on the socket completes by itself.
pub(crate) fn shut_down(socket: BorrowedFd<'_>) {
    // SAFETY: the descriptor is open as long as it is borrowed. An error means that the peer was
    // faster.
    let _ = unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

fn set_option(socket: &OwnedFd, level: i32, name: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the size are those of `on`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const on).cast(),
            socket_len::<libc::c_int>(),
        )
    })
    .map(drop)
}

fn bind_to<T>(socket: &OwnedFd, address: &T) -> io::Result<()> {
    // SAFETY: `T` is the socket address structure of the socket's family, and the size is its own.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            socket_len::<T>(),
        )
    })
    .map(drop)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the size of a small structure"
)]
const fn socket_len<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

#[expect(clippy::cast_possible_truncation, reason = "AF_INET is 2")]
fn internet_4(address: std::net::SocketAddrV4) -> libc::sockaddr_in {
    // SAFETY: all zeroes is a valid sockaddr_in.
    let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
    raw.sin_family = libc::AF_INET as libc::sa_family_t;
    raw.sin_port = address.port().to_be();
    raw.sin_addr.s_addr = address.ip().to_bits().to_be();
    raw
}

#[expect(clippy::cast_possible_truncation, reason = "AF_INET6 is 10")]
fn internet_6(address: std::net::SocketAddrV6) -> libc::sockaddr_in6 {
    // SAFETY: all zeroes is a valid sockaddr_in6.
    let mut raw: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    raw.sin6_port = address.port().to_be();
    raw.sin6_addr.s6_addr = address.ip().octets();
    raw.sin6_flowinfo = address.flowinfo();
    raw.sin6_scope_id = address.scope_id();
    raw
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn both_families_are_bound_where_they_should() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = text.parse().unwrap();
            let socket = bind(address, true).unwrap();
            let bound = local_address(&socket).unwrap();
            assert_eq!(bound.ip(), address.ip());
            assert_ne!(bound.port(), 0);
            assert!(TcpStream::connect(bound).is_err(), "nobody listens yet");
            listen(&socket).unwrap();
            TcpStream::connect(bound).unwrap();
        }
    }

    #[test]
    fn a_taken_port_is_refused_unless_shared_by_both() {
        let first = bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
        listen(&first).unwrap();
        let address = local_address(&first).unwrap();
        assert_eq!(
            bind(address, false).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        bind(address, true).unwrap();
    }

    #[test]
    fn a_unix_socket_that_nobody_serves_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = bind_path(&path).unwrap();
        assert_eq!(
            bind_path(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(first);
        let second = bind_path(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        remove_path(&path);
        assert!(!path.exists());
        drop(second);
    }

    #[test]
    fn receive_never_waits_and_tells_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut buffer = [0; 8];
        let error = receive(server.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"abc").unwrap();
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"abc");
        shut_down(client.as_fd());
        assert_eq!(receive(server.as_fd(), &mut buffer).unwrap(), 0);
    }
}
