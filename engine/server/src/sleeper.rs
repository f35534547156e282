//! How a shard sleeps inside its executor: on its eventfd, and on the completions of its disk.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Poll, Waker};

use glommio::io::BufferedFile;

use crate::socket::{self, EventFd};

/// A flag that one task of an executor waits for and others set.
#[derive(Default)]
pub(crate) struct Signal {
    set: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiting task, or the next that waits.
    pub(crate) fn notify(&self) {
        self.set.set(true);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until it is notified, and clears it.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// See the module. A read of the eventfd is never cancelled: it stays with a task of its own while
/// the shard is awake for another reason.
#[derive(Clone)]
pub(crate) struct Sleeper {
    woken: Rc<Signal>,
    read: Rc<Signal>,
    reading: Rc<Cell<bool>>,
}

impl Sleeper {
    /// Inside an executor; `event` is what wakes the shard. The future reads it and must run in a
    /// task of its own.
    pub(crate) fn new(event: &EventFd) -> io::Result<(Self, impl Future<Output = ()> + 'static)> {
        let file: BufferedFile = socket::adopt(event.as_fd().try_clone_to_owned()?);
        let sleeper = Self {
            woken: Rc::default(),
            read: Rc::default(),
            reading: Rc::default(),
        };
        let reader = sleeper.clone().read(file);
        Ok((sleeper, reader))
    }

    /// Notified, it wakes the shard.
    pub(crate) fn signal(&self) -> Rc<Signal> {
        Rc::clone(&self.woken)
    }

    /// Sleeps until the event or the signal.
    pub(crate) async fn sleep(&self) {
        if !self.reading.get() {
            self.read.notify();
        }
        self.woken.wait().await;
    }

    async fn read(self, file: BufferedFile) {
        loop {
            self.read.wait().await;
            self.reading.set(true);
            let result = file.read_at(0, 8).await;
            self.reading.set(false);
            // A failure wakes the shard too: it looks at its inputs and sleeps again.
            drop(result);
            self.woken.notify();
        }
    }
}
