//! How many descriptors clients may take, so that logs, indexes and state stores can always open
//! their files.
//!
//! The limit of the process is divided at the start: what the threads and the stores have open, a
//! reserve for files to come, and the rest for clients. A log that grows takes from the clients'
//! share, so the reserve is there again as soon as some have left. Counted, not guessed from
//! descriptor numbers: those of files that were opened late lie anywhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

/// What a shard's thread opens besides files: five rings, two eventfds, and some to spare.
const PER_SHARD: u64 = 12;

/// What the process opens later: the metrics page and a scrape of it, look-ups of host names.
const PER_NODE: u64 = 8;

/// Files that a shard may open at once while it moves on: a segment under two names, a run that
/// is written and one that is joined; twice that.
const RESERVE_PER_SHARD: u64 = 8;

/// One of so many descriptors is kept for segments and runs to come.
const RESERVE_SHARE: u64 = 16;

/// Milliseconds between two lines in the log about a full door.
const WARN_MS: u64 = 10_000;

/// The division of the limit; shared by all shards.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// What the process may have.
    limit: u64,
    /// For client sockets and the files of stores.
    divided: u64,
    /// Client sockets that are open.
    sockets: AtomicU64,
    /// Files that the stores of each shard have open.
    files: Box<[AtomicU64]>,
}

/// What is open when the shards' threads are about to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    /// Descriptors of the process, those of the stores included.
    pub(crate) all: u64,
    /// Of these, files of the stores of all shards.
    pub(crate) files: u64,
    /// Addresses that every shard listens on.
    pub(crate) listeners: u64,
}

/// A client's socket that is counted as long as it is open.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    // Closed before it is counted as closed.
    socket: OwnedFd,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted(Arc<Descriptors>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Descriptors {
    /// Divides `limit`, the descriptors that the process may have.
    ///
    /// # Errors
    /// The limit that would be enough for one client, when this one is not.
    pub(crate) fn divide(limit: u64, shards: usize, opened: Opened) -> Result<Arc<Self>, u64> {
        let count = shards as u64;
        let runtime = opened.all - opened.files.min(opened.all)
            + PER_NODE
            + count * (PER_SHARD + opened.listeners);
        let reserve = count * RESERVE_PER_SHARD + limit / RESERVE_SHARE;
        let kept = runtime + reserve;
        if limit <= kept + opened.files {
            // Some more, as the reserve grows with the limit.
            let needed = kept + opened.files + 1;
            return Err(needed + needed / (RESERVE_SHARE - 1));
        }
        let files = (0..shards).map(|_| AtomicU64::new(0)).collect();
        let descriptors = Self {
            limit,
            divided: limit - kept,
            sockets: AtomicU64::new(0),
            files,
        };
        if let Some(first) = descriptors.files.first() {
            // Until the shards tell it themselves.
            first.store(opened.files, Ordering::Relaxed);
        }
        Ok(Arc::new(descriptors))
    }

    /// Without a limit.
    #[cfg(test)]
    pub(crate) fn unlimited(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: 1024,
            divided: u64::MAX,
            sockets: AtomicU64::new(0),
            files: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// What the process may have.
    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Counts a socket.
    ///
    /// # Errors
    /// The socket, when it would take what the stores need.
    pub(crate) fn admit(self: &Arc<Self>, socket: OwnedFd) -> Result<ClientSocket, OwnedFd> {
        let before = self.sockets.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(self));
        if before >= self.sockets_max() {
            return Err(socket);
        }
        Ok(ClientSocket {
            socket,
            _counted: counted,
        })
    }

    /// Client sockets that may come now.
    pub(crate) fn sockets_free(&self) -> u64 {
        let open = self.sockets.load(Ordering::Relaxed);
        self.sockets_max().saturating_sub(open)
    }

    /// A shard's stores have so many files open.
    pub(crate) fn tell_files(&self, shard: usize, count: u64) {
        if let Some(files) = self.files.get(shard) {
            files.store(count, Ordering::Relaxed);
        }
    }

    /// Client sockets that may be open now.
    pub(crate) fn sockets_max(&self) -> u64 {
        let files: u64 = self.files.iter().map(|n| n.load(Ordering::Relaxed)).sum();
        self.divided.saturating_sub(files)
    }
}

/// How often newcomers had to wait for room, and when that was last written down.
#[derive(Debug, Default)]
pub(crate) struct FullDoor {
    pub(crate) count: u64,
    pub(crate) is_full: bool,
    quiet_until_ms: u64,
}

impl FullDoor {
    /// There is no room at this time; a line in the log now and then.
    pub(crate) fn found(&mut self, now_ms: u64, shard: usize, count: usize, sockets_max: u64) {
        self.count += u64::from(!self.is_full);
        self.is_full = true;
        if now_ms >= self.quiet_until_ms {
            warn!(
                shard,
                connections_without_connect = count,
                sockets_max,
                "newcomers wait: the door is full, or the limit of descriptors is reached \
                 (`ulimit -n`)"
            );
            self.quiet_until_ms = now_ms + WARN_MS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    const OPENED: Opened = Opened {
        all: 14,
        files: 4,
        listeners: 1,
    };

    #[test]
    fn sockets_that_close_make_room_and_files_take_it() {
        // 10 open, 8 for the node, 13 for the shard, a reserve of 8 and 6: 45 are kept.
        let descriptors = Descriptors::divide(100, 1, OPENED).unwrap();
        assert_eq!(descriptors.sockets_max(), 51);
        let mut open: Vec<_> = (0..51)
            .map(|_| descriptors.admit(socket()).unwrap())
            .collect();
        assert!(descriptors.admit(socket()).is_err());
        open.truncate(50);
        open.push(descriptors.admit(socket()).unwrap());
        descriptors.tell_files(0, 6);
        assert_eq!(descriptors.sockets_max(), 49);
        open.truncate(49);
        assert!(descriptors.admit(socket()).is_err());
        open.truncate(48);
        assert!(descriptors.admit(socket()).is_ok());
    }

    #[test]
    fn a_limit_without_room_for_a_client_names_one_that_has_it() {
        let needed = Descriptors::divide(40, 1, OPENED).unwrap_err();
        let enough = Descriptors::divide(needed, 1, OPENED).unwrap();
        assert!(enough.sockets_max() >= 1);
    }
}
