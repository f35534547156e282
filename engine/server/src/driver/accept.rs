//! Taking connections in: who may come to the door, and when the kernel is asked again.

use std::io;
use std::os::fd::OwnedFd;

use tracing::warn;

use super::{ACCEPT_RETRY_MS, DOOR_CONNECTIONS_MAX, Driver};
use crate::machine::{Machine, Now};
use crate::mesh::Handover;
use crate::net::Phase;
use crate::transport::{Layers, Stack, Tls};

impl<M: Machine> Driver<M> {
    pub(super) fn accepted(&mut self, now: Now, listener: u32, result: io::Result<OwnedFd>) {
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
                self.come_to_door(now, listener, socket);
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

    fn come_to_door(&mut self, now: Now, listener: u32, socket: OwnedFd) {
        let descriptors = self.shared.descriptors();
        let Some(socket) = descriptors.admit(socket) else {
            let sockets_max = descriptors.sockets_max();
            self.refusals
                .add(now.monotonic_ms(), self.shard, sockets_max);
            return;
        };
        let Ok(layers) = self.layers(listener) else {
            self.door.refused += 1;
            return;
        };
        let handover = Handover {
            socket,
            bytes: Vec::new(),
            layers,
        };
        if let Some(key) = self.net.add(handover, Phase::Door) {
            self.door.count += 1;
            self.door
                .deadlines
                .push_back((now.monotonic_ms() + self.machine.connect_timeout_ms(), key));
            self.net.watch(key);
        }
    }

    /// What a connection at this listener has around its MQTT.
    fn layers(&mut self, listener: u32) -> Result<Layers, String> {
        let doorways = self.shared.doorways();
        let doorway = doorways.doorway(listener);
        if !doorway.has_tls {
            return Ok(Stack::for_doorway(doorway, None));
        }
        if let Some(fresh) = doorways.take(self.shard) {
            self.tls = Some(fresh);
        }
        let tls = self.tls.as_ref().ok_or("no certificate")?;
        Ok(Stack::for_doorway(doorway, Some(Tls::new(tls)?)))
    }
}
