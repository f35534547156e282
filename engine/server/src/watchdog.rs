//! Wakes executors that have parked although they have work to do.
//!
//! glommio 0.9 can park with runnable tasks when its thread loses the core at the wrong moment, and
//! would sleep until the next unrelated event. A thread looks at every shard's turn counter and
//! sends a nudge through the executor's channel to those that did not move. A shard that has
//! nothing to do just goes back to sleep.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::shared::Shared;

/// A shard that has not turned for this long is nudged.
pub(crate) const TURN_AGE_MAX: Duration = Duration::from_millis(20);

/// Starts the watchdog. It ends when the other end of `stop` is dropped.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    nudges: Vec<flume::Sender<()>>,
    stop: flume::Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name("watchdog".to_owned()).spawn(move || {
        let mut seen = vec![0; nudges.len()];
        while matches!(
            stop.recv_timeout(TURN_AGE_MAX),
            Err(flume::RecvTimeoutError::Timeout)
        ) {
            look(&shared, &nudges, &mut seen);
        }
    })
}

fn look(shared: &Shared, nudges: &[flume::Sender<()>], seen: &mut [u64]) {
    for (shard, (nudge, seen)) in nudges.iter().zip(seen).enumerate() {
        let turns = shared.turns(shard);
        if turns == *seen {
            // A nudge that was not taken yet is as good as another one.
            let _ = nudge.try_send(());
        }
        *seen = turns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shards_that_stand_still_are_nudged() {
        let shared = Shared::new(2);
        let (nudges, nudged): (Vec<_>, Vec<_>) = (0..2).map(|_| flume::bounded(1)).unzip();
        let mut seen = vec![0; 2];
        shared.count_turn(0);
        look(&shared, &nudges, &mut seen);
        assert_eq!(
            (nudged[0].drain().count(), nudged[1].drain().count()),
            (0, 1)
        );
        look(&shared, &nudges, &mut seen);
        look(&shared, &nudges, &mut seen);
        assert_eq!(
            (nudged[0].drain().count(), nudged[1].drain().count()),
            (1, 1)
        );
    }

    #[test]
    fn it_ends_when_the_node_does() {
        let (stop, stopped) = flume::bounded(0);
        let thread = spawn(Shared::new(1), Vec::new(), stopped).unwrap();
        drop(stop);
        thread.join().unwrap();
    }
}
