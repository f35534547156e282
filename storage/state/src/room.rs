//! Waiting for room: when the device is full, the thread that writes the database stands still and
//! tries again, until there is room or the store is dropped. Nothing fails meanwhile, the overlay
//! grows to its bound, and the caller holds publishers back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::park_timeout;
use std::time::Duration;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Shared by the store, its writing thread and the file under the database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    /// The thread that writes may stand still; nobody else may.
    may_wait: AtomicBool,
    waits: AtomicBool,
    over: AtomicBool,
}

impl Room {
    /// From now on, whoever writes waits for room.
    pub(crate) fn allow_waiting(&self) {
        self.0.may_wait.store(true, Ordering::Release);
    }

    /// The store is dropped: nobody waits any more.
    pub(crate) fn end(&self) {
        self.0.over.store(true, Ordering::Release);
    }

    /// Whether the thread that writes stands still.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.0.waits.load(Ordering::Acquire)
    }

    /// There was no room. Waits a little; false: do not try again.
    pub(crate) fn wait(&self) -> bool {
        let may_wait = self.0.may_wait.load(Ordering::Acquire);
        if may_wait && !self.is_over() {
            self.0.waits.store(true, Ordering::Release);
            park_timeout(PAUSE);
        }
        may_wait && !self.is_over()
    }

    /// There was room, or another error.
    pub(crate) fn wait_no_more(&self) {
        self.0.waits.store(false, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }
}
