//! What a driver counts around its machine.

use super::Driver;
use crate::machine::{Machine, Meter};

const GAUGES: [(&str, &str); 12] = [
    (
        "sockets",
        "Client sockets, those without a CONNECT included",
    ),
    (
        "door_connections",
        "Connections whose CONNECT is not complete",
    ),
    (
        "passwords_waiting",
        "Connections whose password is being checked",
    ),
    (
        "authenticating_again",
        "Connected clients that authenticate again",
    ),
    ("door_bytes", "Bytes read of CONNECTs that are not complete"),
    ("sockets_ready", "Sockets that wait to be read from"),
    (
        "sockets_held",
        "Sockets that wait in front of a publication for room in the store",
    ),
    ("sends_in_flight", "Sends that the kernel has not finished"),
    ("mesh_queued", "Parcels in the rings to other shards"),
    (
        "open_files",
        "Files that log, index and state store have open",
    ),
    (
        "sockets_max",
        "Client sockets of all shards at the door that the limit of descriptors allows",
    ),
    ("rings", "io_uring instances for client sockets"),
];

const COUNTERS: [(&str, &str); 21] = [
    ("turns", "Turns of the shard"),
    ("accepted", "Connections accepted"),
    (
        "accept_failures",
        "Connections that the kernel could not hand out",
    ),
    ("handed_over", "Connections handed to their home shard"),
    ("door_refused", "Connections refused before their session"),
    ("door_timeouts", "Connections without a CONNECT in time"),
    ("received_bytes", "Bytes read from client sockets"),
    ("passwords_good", "Passwords found good"),
    (
        "clients_unwelcome",
        "Clients refused for their password or for having none",
    ),
    ("tls_handshakes", "TLS handshakes that came to their end"),
    (
        "tls_failures",
        "Connections closed for their TLS handshake or records",
    ),
    ("websocket_upgrades", "Connections that became WebSockets"),
    (
        "websocket_failures",
        "Connections closed for their WebSocket handshake or frames",
    ),
    ("proxy_headers", "PROXY headers read"),
    (
        "proxy_failures",
        "Connections closed for their PROXY header",
    ),
    ("sent_bytes", "Bytes that client sockets have taken"),
    ("receives", "Reads from client sockets"),
    ("sends", "Sends to client sockets"),
    ("mesh_full", "Sends that found the ring to a shard full"),
    (
        "door_full",
        "Times that newcomers had to wait for room at the door, or for descriptors",
    ),
    (
        "direct_descriptor_failures",
        "Client sockets that no ring could take and that cost a descriptor",
    ),
];

impl<M: Machine> Driver<M> {
    /// Visits every counter and gauge of the machine and of the runtime around it.
    pub(crate) fn meters(&self, visit: &mut dyn FnMut(Meter, u64)) {
        self.machine.meters(visit);
        let net = self.net.counters();
        let layers = self.net.layer_counters();
        let gauges = [
            self.net.len(),
            self.door.count,
            self.checking.len(),
            self.again.len(),
            self.door.bytes,
            self.net.ready_count(),
            self.held.len(),
            self.net.sends_in_flight(),
            self.mesh.queued(),
            self.machine.open_files(),
            usize::try_from(self.shared.descriptors().sockets_max()).unwrap_or(usize::MAX),
            self.net.rings().len(),
        ];
        let counters = [
            self.shared.turns(self.shard),
            self.accepted,
            self.accept_failures,
            self.handed_over,
            self.door.refused,
            self.door.timeouts,
            net.received_bytes,
            self.passwords_good,
            self.clients_unwelcome,
            layers.tls_handshakes,
            layers.tls_failures,
            layers.websocket_upgrades,
            layers.websocket_failures,
            layers.proxy_headers,
            layers.proxy_failures,
            net.sent_bytes,
            net.receives,
            net.sends,
            self.mesh.full(),
            self.full_door.count,
            self.net.rings().failures(),
        ];
        for ((name, help), value) in GAUGES.into_iter().zip(gauges) {
            visit(
                Meter {
                    name,
                    help,
                    only_grows: false,
                },
                value as u64,
            );
        }
        for ((name, help), value) in COUNTERS.into_iter().zip(counters) {
            visit(
                Meter {
                    name,
                    help,
                    only_grows: true,
                },
                value,
            );
        }
    }
}
