//! Why a run could not be made. A run that was made and found faults is a report, not an error.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum BenchError {
    /// Options contradict each other or ask for more than there is.
    Options(String),
    /// The broker's address does not resolve.
    Host {
        /// As given.
        host: String,
        /// From the resolver.
        source: io::Error,
    },
    /// The operating system refused something.
    System {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Not every client could connect and subscribe.
    Setup {
        /// Clients that got there.
        ready: u64,
        /// Clients asked for.
        wanted: u64,
        /// The first failure.
        reason: String,
    },
    /// A result could not be read.
    Input {
        /// Where from.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The result could not be written.
    Output {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A store that was measured failed, or gave something else than was put into it.
    Measured(String),
    /// A worker thread panicked: a fault of the generator.
    WorkerPanicked,
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(text) | Self::Measured(text) => write!(f, "{text}"),
            Self::Host { host, source } => write!(f, "cannot resolve host `{host}`: {source}"),
            Self::System { doing, source } => write!(f, "{doing}: {source}"),
            Self::Setup {
                ready,
                wanted,
                reason,
            } => {
                write!(f, "only {ready} of {wanted} clients got ready: {reason}")
            }
            Self::Input { path, source } => {
                write!(f, "cannot read a result from {}: {source}", path.display())
            }
            Self::Output { path, source } => {
                write!(f, "cannot write the result to {}: {source}", path.display())
            }
            Self::WorkerPanicked => write!(f, "a worker thread panicked"),
        }
    }
}

impl std::error::Error for BenchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Host { source, .. }
            | Self::System { source, .. }
            | Self::Input { source, .. }
            | Self::Output { source, .. } => Some(source),
            Self::Options(_) | Self::Measured(_) | Self::Setup { .. } | Self::WorkerPanicked => {
                None
            }
        }
    }
}
