//! Why a node does not start, or has to end. Each says what to do.

use std::fmt;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::url::ListenUrl;

/// Why a node cannot start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is not valid.
    Config(ConfigError),
    /// io_uring cannot be used; the text is the kernel's answer.
    IoUring(String),
    /// The kernel is too old.
    Kernel {
        /// The kernel's release.
        release: String,
    },
    /// The process may lock too little memory.
    LockedMemory {
        /// What it may lock, bytes.
        limit: u64,
        /// What it must be able to lock, bytes.
        needed: u64,
    },
    /// The process may open too few files.
    Descriptors {
        /// Descriptors that it may have.
        limit: u64,
        /// Enough for one client.
        needed: u64,
    },
    /// The file system of the data directory takes no direct I/O.
    DirectIo(PathBuf),
    /// An address cannot be listened on.
    Listen {
        /// The listener.
        url: ListenUrl,
        /// The kernel's answer.
        error: String,
        /// Somebody else has the port.
        taken: bool,
    },
    /// The metrics page cannot be served at this address.
    Metrics {
        /// The address.
        address: String,
        /// The kernel's answer.
        error: String,
    },
    /// The data directory cannot be used; the text names the file and what to do.
    Data(String),
    /// A thread, a core or a descriptor was refused.
    System(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::IoUring(answer) => write!(
                f,
                "io_uring is not available ({answer}): allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile, and set the sysctl \
                 kernel.io_uring_disabled to 0"
            ),
            Self::Kernel { release } => {
                write!(
                    f,
                    "Linux {release} is too old: corelane needs Linux 6.1 or newer"
                )
            }
            Self::LockedMemory { limit, needed } => write!(
                f,
                "only {limit} bytes of memory may be locked but {needed} are needed: raise the \
                 limit with `ulimit -l`, LimitMEMLOCK= (systemd) or --ulimit memlock= (containers)"
            ),
            Self::Descriptors { limit, needed } => write!(
                f,
                "only {limit} descriptors are allowed and {needed} are needed for one client: \
                 raise the limit with `ulimit -n`, LimitNOFILE= (systemd) or --ulimit nofile= \
                 (containers)"
            ),
            Self::DirectIo(path) => write!(
                f,
                "the file system of {} does not support direct I/O (O_DIRECT): put the data \
                 directory on a disk, for example ext4 or xfs",
                path.display()
            ),
            Self::Listen {
                url,
                error,
                taken: false,
            } => {
                write!(f, "cannot listen on {url}: {error}")
            }
            Self::Listen {
                url,
                error,
                taken: true,
            } => write!(
                f,
                "cannot listen on {url}: {error}: another process has this port; stop it or \
                 choose another address with --listen"
            ),
            Self::Metrics { address, error } => write!(
                f,
                "cannot serve metrics on {address}: {error}; choose another --metrics HOST:PORT"
            ),
            Self::Data(text) | Self::System(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for StartError {}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// Why a running node had to end: what was acknowledged is safe, the next start recovers it.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// A shard cannot go on: a disk failure, or a panic.
    Shard {
        /// Which.
        shard: usize,
        /// What happened.
        problem: String,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Shard { shard, problem } = self;
        write!(f, "shard {shard} has failed: {problem}")
    }
}

impl std::error::Error for RunError {}
