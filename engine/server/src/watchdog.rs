//! Wakes executors that have parked before their first task has run.
//!
//! glommio 0.9 can park with runnable tasks when its thread loses the core at the wrong moment, and
//! would sleep until the next unrelated event. A thread looks at every shard's turn counter and
//! wakes the task of those that have not had a turn. The wake comes from outside, so it always
//! un-parks the executor, even when that task is runnable already because the executor parked again
//! before it ran. Once a shard turns it never parks in glommio again, and is left alone.

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::shared::Shared;

/// How often it looks.
pub(crate) const INTERVAL: Duration = Duration::from_millis(20);

/// What the watchdog knows of one executor.
pub(crate) struct Watched {
    /// Brings the waker of a task in it, once it runs.
    waker: flume::Receiver<Waker>,
    /// The waker. Never dropped here: its task belongs to another thread.
    known: Option<&'static Waker>,
}

impl Watched {
    /// An executor whose task sends its waker to the other end of `waker`.
    pub(crate) const fn new(waker: flume::Receiver<Waker>) -> Self {
        Self { waker, known: None }
    }

    fn look(&mut self, turns: u64) {
        if let Ok(waker) = self.waker.try_recv() {
            self.known = Some(Box::leak(Box::new(waker)));
        }
        if turns == 0
            && let Some(waker) = self.known
        {
            waker.wake_by_ref();
        }
    }
}

/// Starts the watchdog. It ends when the other end of `stop` is dropped.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    mut watched: Vec<Watched>,
    stop: flume::Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name("watchdog".to_owned()).spawn(move || {
        while matches!(
            stop.recv_timeout(INTERVAL),
            Err(flume::RecvTimeoutError::Timeout)
        ) {
            for (shard, watched) in watched.iter_mut().enumerate() {
                watched.look(shared.turns(shard));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_a_shard_without_a_turn_is_woken_and_every_time() {
        let count = Arc::new(Count(AtomicU64::new(0)));
        let (sender, waker) = flume::bounded(1);
        let mut watched = Watched::new(waker);
        watched.look(0);
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "nobody is known");
        sender.send(Waker::from(Arc::clone(&count))).unwrap();
        for (turns, wakes) in [(0, 1), (0, 2), (1, 2), (1, 2), (5, 2)] {
            watched.look(turns);
            assert_eq!(count.0.load(Ordering::Relaxed), wakes);
        }
    }

    #[test]
    fn it_ends_when_the_node_does() {
        let (stop, stopped) = flume::bounded(0);
        let thread = spawn(Shared::new(1), Vec::new(), stopped).unwrap();
        drop(stop);
        thread.join().unwrap();
    }
}
