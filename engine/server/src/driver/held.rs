//! Connections that wait with a publication in front: until the store has room, or until their
//! client's rate allows it. Their sockets are not read meanwhile, so their publishers are held back
//! by TCP; all others go on.

use std::cmp::Reverse;

use super::Driver;
use crate::machine::{Machine, Now};
use crate::net::Phase;
use crate::slots::Key;

impl<M: Machine> Driver<M> {
    /// Gives the machine the bytes that it has not taken, as long as there is room; returns whether
    /// there were any.
    pub(super) fn resume_held(&mut self, now: Now) -> bool {
        let mut worked = false;
        for _ in 0..self.held.len() {
            if !self.machine.takes_publications() {
                break;
            }
            let Some(key) = self.held.pop_front() else {
                break;
            };
            worked = true;
            self.resume(now, key);
        }
        worked
    }

    /// The same for those whose time has come.
    pub(super) fn resume_paused(&mut self, now: Now) -> bool {
        let mut worked = false;
        while let Some(Reverse((at_ms, key))) = self.paused.peek().copied()
            && at_ms <= now.monotonic_ms()
        {
            self.paused.pop();
            worked = true;
            self.resume(now, key);
        }
        worked
    }

    fn resume(&mut self, now: Now, key: Key) {
        if self.net.phase(key) == Some(Phase::Home) {
            // Also without any: the machine may have kept some itself.
            let bytes = self.net.take_partial(key);
            self.offer(now, key, bytes);
            self.read_on(key);
        }
    }
}
