//! The only door to the disk, and to randomness, for everything that stores.
//!
//! The storage crates are written against [`Disk`], [`DiskFile`] and [`ByteFile`] (blocking calls,
//! for start-up, offline tools and side threads) and [`DiskQueue`] (submit and poll, for a shard's
//! hot path). Two families implement them: the real ones, with direct I/O, and a simulated disk
//! that tears, loses, corrupts and fails under a seed.
//!
//! Invariants:
//! - All direct I/O is aligned to [`ALIGN`] bytes: offset, length and memory.
//! - A name is durable only after [`Disk::sync_dir`]; contents only after a sync that succeeded.
//! - A failed sync is never retried: what it covered may be gone although a retry would succeed.
//!
//! This crate knows nothing about logs, indexes or state: it moves blocks.

mod aligned;
mod direct;
mod disk;
mod error;
mod glommio_queue;
mod inline_queue;
mod queue;
mod read_only;
mod ring_queue;
pub mod sim;
mod small_file;
mod space;

pub use aligned::{ALIGN, AlignedBuf, align_down, align_up};
pub use direct::{DirectDisk, DirectFile, DirectoryLock};
pub use disk::{ByteFile, Disk, DiskFile};
pub use error::{DiskError, ErrorKind, Operation};
pub use glommio_queue::GlommioQueue;
pub use inline_queue::InlineQueue;
pub use queue::{Completion, DiskQueue, Done, Op};
pub use read_only::ReadOnlyDisk;
pub use ring_queue::RingQueue;
pub use small_file::{read_small_file, replace_small_file};
pub use space::Space;
