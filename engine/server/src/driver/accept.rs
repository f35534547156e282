//! Taking connections in: who may come to the door, and when the kernel is asked again.

use std::io;
use std::os::fd::OwnedFd;

use tracing::warn;

use super::{ACCEPT_RETRY_MS, DOOR_CONNECTIONS_MAX, Driver};
use crate::machine::{Machine, Now};
use crate::net::Phase;

impl<M: Machine> Driver<M> {
    pub(super) fn accepted(&mut self, now: Now, result: io::Result<OwnedFd>) {
        let stopping = self.stop_drain_until.is_some();
        if !self.unarmed.is_empty() && !stopping && self.accept_again_at.is_none() {
            self.accept_again_at = Some(now.monotonic_ms() + ACCEPT_RETRY_MS);
        }
        match result {
            Ok(socket) => {
                self.accepted += 1;
                if stopping || self.door.count >= DOOR_CONNECTIONS_MAX {
                    self.door.refused += 1;
                    return;
                }
                self.come_to_door(now, socket);
            }
            Err(error) if !stopping => {
                if self.accept_failures == 0 {
                    warn!(shard = self.shard, %error, "a connection was refused by the kernel");
                }
                self.accept_failures += 1;
            }
            Err(_) => {}
        }
    }

    fn come_to_door(&mut self, now: Now, socket: OwnedFd) {
        let descriptors = self.shared.descriptors();
        let Some(socket) = descriptors.admit(socket) else {
            let sockets_max = descriptors.sockets_max();
            self.refusals
                .add(now.monotonic_ms(), self.shard, sockets_max);
            return;
        };
        if let Some(key) = self.net.add(socket, Phase::Door, Vec::new()) {
            self.door.count += 1;
            self.door
                .deadlines
                .push_back((now.monotonic_ms() + self.machine.connect_timeout_ms(), key));
            self.net.watch(key);
        }
    }
}
