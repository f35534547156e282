//! Taking connections in: who may come to the door, and when the kernel is asked for more.
//!
//! As long as a whole backlog would find room, one operation per listener brings all that come.
//! With less room they are taken one by one, and with none newcomers stay in the backlog, where
//! they cost nothing, until somebody has left: at the latest the silent ones, when their time is
//! over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tracing::warn;

use super::{DOOR_CONNECTIONS_MAX, Driver};
use crate::machine::{Machine, Now};
use crate::mesh::Handover;
use crate::net::Phase;
use crate::socket::BACKLOG;
use crate::transport::{Layers, Stack, Tls};

/// Pause after the kernel refused a connection (no descriptor, no memory), in milliseconds.
const REFUSED_RETRY_MS: u64 = 200;

/// Between two looks for room at a full door, in milliseconds.
const FULL_RETRY_MS: u64 = 20;

/// Accepted connections that found no room, as another shard was faster; more are closed.
const WAITING_MAX: usize = 64;

impl<M: Machine> Driver<M> {
    /// Lets in who waits, and asks the kernel for more when there is room.
    pub(super) fn accept(&mut self, now: Now) {
        while self.door_room() > 0 {
            let Some((listener, socket)) = self.waiting.pop_front() else {
                break;
            };
            self.come_to_door(now, listener, socket);
        }
        if self.door_room() == 0 || !self.waiting.is_empty() {
            let sockets_max = self.shared.descriptors().sockets_max();
            self.full_door
                .found(now.monotonic_ms(), self.shard, self.door.count, sockets_max);
            self.accept_again_at = Some(now.monotonic_ms() + FULL_RETRY_MS);
            return;
        }
        self.full_door.is_full = false;
        let all_fit = self.backlogs_fit();
        for number in self.unarmed.drain(..) {
            let listener = self.listeners.get(number as usize);
            let Some(listener) = listener.filter(|_| self.stop_drain_until.is_none()) else {
                continue;
            };
            if all_fit {
                self.net.first_ring().accept(number, listener.as_fd());
                self.armed_for_all.push(number);
            } else {
                self.net.first_ring().accept_one(number, listener.as_fd());
            }
        }
    }

    /// Whether somebody waits for [`Driver::accept`].
    pub(super) fn wants_accept(&self) -> bool {
        !self.unarmed.is_empty() || !self.waiting.is_empty()
    }

    /// How many more connections may stand at the door.
    fn door_room(&self) -> usize {
        let descriptors = self.shared.descriptors().sockets_free();
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        DOOR_CONNECTIONS_MAX
            .saturating_sub(self.door.count)
            .min(descriptors)
    }

    /// Whether all that may come at once finds room, on the other shards as well.
    fn backlogs_fit(&self) -> bool {
        let backlogs = self.listeners.len() * BACKLOG.unsigned_abs() as usize;
        let free = self.shared.descriptors().sockets_free();
        let everywhere = backlogs * self.shared.shard_count();
        self.door_room() > backlogs && usize::try_from(free).is_ok_and(|free| free > everywhere)
    }

    pub(super) fn accepted(
        &mut self,
        now: Now,
        listener: u32,
        result: io::Result<OwnedFd>,
        armed: bool,
    ) {
        let stopping = self.stop_drain_until.is_some();
        if !armed {
            self.unarmed.push(listener);
            self.armed_for_all.retain(|number| *number != listener);
        }
        match result {
            Ok(_) if stopping => {}
            Ok(socket) => {
                self.accepted += 1;
                if self.door_room() == 0 {
                    self.keep_waiting(listener, socket);
                } else {
                    self.come_to_door(now, listener, socket);
                }
                if !self.armed_for_all.is_empty() && !self.backlogs_fit() {
                    for number in self.armed_for_all.drain(..) {
                        self.net.first_ring().cancel_accept(number);
                    }
                }
            }
            Err(error) if !stopping && error.raw_os_error() != Some(libc::ECANCELED) => {
                if self.accept_failures == 0 {
                    warn!(shard = self.shard, %error, "a connection was refused by the kernel");
                }
                self.accept_failures += 1;
                self.accept_again_at = Some(now.monotonic_ms() + REFUSED_RETRY_MS);
            }
            Err(_) => {}
        }
    }

    fn keep_waiting(&mut self, listener: u32, socket: OwnedFd) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((listener, socket));
        } else {
            self.door.refused += 1;
        }
    }

    fn come_to_door(&mut self, now: Now, listener: u32, socket: OwnedFd) {
        let socket = match self.shared.descriptors().admit(socket) {
            Ok(socket) => socket,
            Err(socket) => return self.keep_waiting(listener, socket),
        };
        let Ok(layers) = self.layers(listener) else {
            self.door.refused += 1;
            return;
        };
        let handover = Handover {
            socket,
            bytes: Vec::new(),
            layers,
            admission: None,
            address: None,
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
