//! A shard's core as the runtime drives it: connections by key, peers by number.

use engine_mqtt::{Limits, Peek, peek_client_id};
use engine_shard::{ConnectionId, Kind, MeshBatch, ShardId, home_shard};
use storage_io::{DirectDisk, GlommioQueue};

use crate::machine::{Failure, Machine, Meter, Now, Routing, Transmit};
use crate::node::{CoreError, ShardCore};
use crate::slots::Key;

/// See the module.
pub(crate) struct ShardMachine {
    core: ShardCore<DirectDisk, GlommioQueue>,
    shard: ShardId,
    shards: u8,
    packet_bytes_max: u32,
}

impl ShardMachine {
    pub(crate) const fn new(
        core: ShardCore<DirectDisk, GlommioQueue>,
        shard: u8,
        shards: u8,
        packet_bytes_max: u32,
    ) -> Self {
        Self {
            core,
            shard: ShardId(shard),
            shards,
            packet_bytes_max,
        }
    }
}

const fn engine_now(now: Now) -> engine_shard::Now {
    engine_shard::Now {
        monotonic_ms: now.monotonic_ms,
        wall_ms: now.wall_ms,
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is the argument of map_err"
)]
fn failure(error: CoreError) -> Failure {
    Failure(error.to_string())
}

fn peer(number: usize) -> ShardId {
    // Invariant: at most 64 shards.
    ShardId(u8::try_from(number).unwrap_or(u8::MAX))
}

impl Machine for ShardMachine {
    type Batch = MeshBatch;

    fn route(&self, input: &[u8]) -> Routing {
        let limits = Limits {
            packet_bytes_max: self.packet_bytes_max,
        };
        match peek_client_id(input, &limits) {
            Ok(Peek::NeedMore { .. }) => Routing::NeedMore,
            Ok(Peek::Connect { client_id, .. }) if !client_id.is_empty() => {
                Routing::Home(home_shard(client_id, self.shards).index())
            }
            // Without a name it stays here; what is no CONNECT is refused here.
            Ok(Peek::Connect { .. }) | Err(_) => Routing::Home(self.shard.index()),
        }
    }

    fn connected(&mut self, now: Now, connection: Key) {
        self.core
            .connected(engine_now(now), ConnectionId(connection.0));
    }

    fn received(&mut self, now: Now, connection: Key, bytes: &[u8]) -> usize {
        self.core
            .received(engine_now(now), ConnectionId(connection.0), bytes)
    }

    fn disconnected(&mut self, now: Now, connection: Key) {
        self.core
            .disconnected(engine_now(now), ConnectionId(connection.0));
    }

    fn mesh(&mut self, now: Now, from: usize, batch: MeshBatch) {
        self.core.mesh(engine_now(now), peer(from), batch);
    }

    fn disk(&mut self, now: Now) -> Result<bool, Failure> {
        self.core.disk(engine_now(now)).map_err(failure)
    }

    fn tick(&mut self, now: Now) {
        self.core.tick(engine_now(now));
    }

    fn next_timeout(&self) -> u64 {
        self.core.next_timeout()
    }

    fn end_turn(&mut self, now: Now) -> Result<(), Failure> {
        self.core.end_turn(engine_now(now)).map_err(failure)
    }

    fn reads_sockets(&self) -> bool {
        self.core.reads_sockets()
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.core.poll_transmit()?;
        let connection = Key(transmit.connection.0);
        Some(Transmit {
            connection,
            bytes: transmit.bytes,
            close: transmit.close,
        })
    }

    fn transmitted(&mut self, connection: Key, backlog: usize, spent: Vec<u8>) {
        self.core
            .transmitted(ConnectionId(connection.0), backlog, spent);
    }

    fn poll_mesh(&mut self, to: usize) -> Option<MeshBatch> {
        self.core.poll_mesh(peer(to))
    }

    fn stop(&mut self, now: Now) {
        self.core.stop(engine_now(now));
    }

    fn stopped(&self) -> bool {
        self.core.stopped()
    }

    fn meters(&self, visit: &mut dyn FnMut(Meter, u64)) {
        self.core
            .shard()
            .counters()
            .each(|name, help, kind, value| {
                let only_grows = kind == Kind::Counter;
                visit(
                    Meter {
                        name,
                        help,
                        only_grows,
                    },
                    value,
                );
            });
        let store = self.core.store().counters();
        let mut show = |name, help, only_grows, value| {
            visit(
                Meter {
                    name,
                    help,
                    only_grows,
                },
                value,
            );
        };
        show(
            "log_records",
            "Records appended to the commit log.",
            true,
            store.records_appended,
        );
        show(
            "log_bytes",
            "Bytes appended to the commit log.",
            true,
            store.bytes_appended,
        );
        show(
            "log_unreadable",
            "Records that could not be read back.",
            true,
            store.unreadable,
        );
        show(
            "disk_reads",
            "Reads of the disk for readers behind.",
            true,
            store.chunk_reads,
        );
        show("reads", "Reads of the log under way.", false, store.reads);
        show("queues", "Queues of this shard's log.", false, store.queues);
        let (log, index, state) = self.core.store().parts();
        let lag = log.appended().0.saturating_sub(log.durable().0);
        show(
            "log_undurable_bytes",
            "Bytes appended and not yet durable.",
            false,
            lag,
        );
        let index = index.counters();
        show(
            "index_entries_in_memory",
            "Entries in memtables.",
            false,
            index.entries_in_memory,
        );
        show("index_runs", "Files of the index.", false, index.runs);
        let state = state.counters();
        show(
            "state_overlay_bytes",
            "Changes of state not yet stored.",
            false,
            state.overlay_bytes,
        );
        show(
            "state_batches",
            "Transactions of the state store.",
            true,
            state.batches_committed,
        );
    }
}
