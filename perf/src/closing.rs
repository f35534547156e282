//! How a worker's connections end: lost under way, or closed with a good-bye.
#![expect(
    clippy::indexing_slicing,
    reason = "indices are assigned by this worker and never freed"
)]

use std::sync::atomic::Ordering;

use crate::connection::{Role, Stage};
use crate::control_packet;
use crate::error::BenchError;
use crate::worker::{SLEEP_MAX, Worker};

/// How long servers may take to close after DISCONNECT.
const CLOSE_NS_MAX: u64 = 2_000_000_000;

impl Worker<'_> {
    /// Says good-bye on every connection and waits for the server to close them.
    pub(crate) fn close_all(&mut self) -> Result<(), BenchError> {
        let now_ns = self.state.clock.now_ns();
        for token in 0..self.connections.len() {
            self.out.clear();
            control_packet::write_disconnect(&mut self.out);
            let Some(connection) = &mut self.connections[token] else {
                continue;
            };
            if connection.stage != Stage::Ready {
                self.lose(token, "never got ready");
                continue;
            }
            connection.stage = Stage::Closing;
            if let Err(error) = connection.send(&self.poller, &self.out, now_ns) {
                self.lose(token, &format!("sending: {error}"));
            }
        }
        let end_ns = now_ns + CLOSE_NS_MAX;
        while self.connections.iter().any(Option::is_some) && self.state.clock.now_ns() < end_ns {
            self.turn(SLEEP_MAX)?;
        }
        for connection in self.connections.drain(..).flatten() {
            connection.reset();
        }
        Ok(())
    }

    /// Takes note of a connection that is gone, with the reason if it was not meant to go.
    pub(crate) fn lose(&mut self, token: usize, reason: &str) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::take) else {
            return;
        };
        if connection.stage == Stage::Closing {
            return;
        }
        let number = self.clients[token].number;
        self.state
            .note_fault(|| format!("client {number}: {reason}"));
        if connection.stage == Stage::Ready {
            self.counters.disconnected.fetch_add(1, Ordering::Relaxed);
        } else {
            self.connecting = self.connecting.saturating_sub(1);
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
        }
        if let Role::Publisher(index) = connection.role {
            self.in_flight -= self.publishers[index].in_flight_count().min(self.in_flight);
        }
        connection.reset();
    }
}
