//! A subscriber that reads no faster than it is told to: a budget of messages that grows with time.

use crate::worker::Worker;

/// New bytes that a slow reader takes at a time beyond one packet.
const BYTES_AT_A_TIME: usize = 2_048;
const SECOND_NS: u64 = 1_000_000_000;

/// One slow reader of a worker.
#[derive(Debug)]
pub(crate) struct SlowReader {
    token: usize,
    per_second: u64,
    received: u64,
    is_paused: bool,
}

impl SlowReader {
    pub(crate) fn new(token: usize, per_second: u64) -> Self {
        Self {
            token,
            per_second,
            received: 0,
            is_paused: false,
        }
    }

    /// Whether it may read, so long after the load has started.
    fn may_read(&self, elapsed_ns: u64) -> bool {
        let budget = u128::from(elapsed_ns) * u128::from(self.per_second) / u128::from(SECOND_NS);
        u128::from(self.received) <= budget
    }
}

impl Worker<'_> {
    /// How many bytes a connection may read now; `None`: none, and it is paused until it may.
    pub(crate) fn read_room(&mut self, token: usize, now_ns: u64) -> Option<usize> {
        if self.slow.is_empty() {
            return Some(usize::MAX);
        }
        let start_ns = self.state.start_ns();
        let Some(slow) = self.slow.iter_mut().find(|slow| slow.token == token) else {
            return Some(usize::MAX);
        };
        if start_ns == u64::MAX || slow.may_read(now_ns.saturating_sub(start_ns)) {
            let size = self.settings.load.as_ref().map_or(0, |load| load.size);
            return Some(BYTES_AT_A_TIME + size);
        }
        if let Some(Some(connection)) = self.connections.get(token) {
            // A socket that fails here reports its error when it is read.
            slow.is_paused = connection.set_paused(&self.poller, true).is_ok();
        }
        None
    }

    /// Takes note of what a connection has read.
    pub(crate) fn note_read(&mut self, token: usize, messages: u64) {
        if let Some(slow) = self.slow.iter_mut().find(|slow| slow.token == token) {
            slow.received += messages;
        }
    }

    /// Lets those read again whose time has come.
    pub(crate) fn resume_slow(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.state.start_ns());
        for slow in &mut self.slow {
            if slow.is_paused
                && slow.may_read(elapsed_ns)
                && let Some(Some(connection)) = self.connections.get(slow.token)
            {
                slow.is_paused = connection.set_paused(&self.poller, false).is_err();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_grows_with_time() {
        let mut slow = SlowReader::new(0, 1_000);
        assert!(slow.may_read(0));
        slow.received = 1;
        assert!(!slow.may_read(0));
        assert!(slow.may_read(1_000_000));
        slow.received = 1_001;
        assert!(!slow.may_read(SECOND_NS));
        assert!(slow.may_read(SECOND_NS + 1_000_000));
    }
}
