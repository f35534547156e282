//! Outstanding reads: of this shard's log for itself and for others, and of other shards' logs.

use std::collections::BTreeMap;

use engine_session::LogId;

use crate::client::ClientKey;
use crate::port::{MeshMessage, ReadAnswer, ReadRequest, ReadToken, ShardId, Store};
use crate::shard::Shard;

/// What a read is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// A session that catches up.
    CatchUp(ClientKey, LogId),
    /// A session's deliveries in flight, to be sent again.
    Resend(ClientKey, LogId),
    /// Records of a shared group that were given back.
    Regroup(ClientKey),
    /// Another shard asked; it knows the read by this token.
    Remote(ShardId, u64),
    /// Another shard's lane collapsed.
    Scan(ShardId),
    /// Where the replay of a SUBSCRIBE, a barrier's request, begins in this log.
    Seek(u64, LogId),
}

/// Who answers a read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// This shard's store.
    Store,
    /// Another shard's, which knows the read by this token.
    Peer(ShardId, u64),
}

/// The reads under way.
#[derive(Default, Debug)]
pub(crate) struct Reads {
    next: u64,
    open: BTreeMap<u64, Purpose>,
    /// Reads for sessions that catch up among them.
    pub(crate) catch_up: usize,
    /// Looks for a time among them.
    pub(crate) seeks: usize,
}

impl Reads {
    fn open(&mut self, purpose: Purpose) -> u64 {
        self.next += 1;
        self.open.insert(self.next, purpose);
        self.catch_up += usize::from(matches!(purpose, Purpose::CatchUp(..)));
        self.seeks += usize::from(matches!(purpose, Purpose::Seek(..)));
        self.next
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    fn purpose(&self, token: u64) -> Option<Purpose> {
        self.open.get(&token).copied()
    }

    fn close(&mut self, token: u64) -> Option<Purpose> {
        let purpose = self.open.remove(&token)?;
        self.catch_up -= usize::from(matches!(purpose, Purpose::CatchUp(..)));
        self.seeks -= usize::from(matches!(purpose, Purpose::Seek(..)));
        Some(purpose)
    }
}

impl Shard {
    /// Reads a log, by its shard.
    pub(crate) fn read<S: Store>(
        &mut self,
        log: LogId,
        request: ReadRequest,
        purpose: Purpose,
        store: &mut S,
    ) -> u64 {
        let token = self.reads.open(purpose);
        if log == self.own_log() {
            store.read(ReadToken(token), request);
        } else if let Some(lane) = self.lanes.get_mut(log.0 as usize) {
            lane.push(MeshMessage::Read { token, request });
        }
        token
    }

    /// Another shard wants this shard's log read.
    pub(crate) fn read_for<S: Store>(
        &mut self,
        purpose: Purpose,
        request: ReadRequest,
        store: &mut S,
    ) {
        let token = self.reads.open(purpose);
        store.read(ReadToken(token), request);
    }

    /// The answer to a read that the store was asked for.
    pub fn read_done<S: Store>(
        &mut self,
        now: engine_session::Now,
        token: ReadToken,
        answer: ReadAnswer,
        store: &mut S,
    ) {
        self.begin_call(now);
        self.read_answered(token.0, Source::Store, answer, store);
    }

    /// The answer to a read, or a part of it.
    pub(crate) fn read_answered<S: Store>(
        &mut self,
        token: u64,
        source: Source,
        answer: ReadAnswer,
        store: &mut S,
    ) {
        let purpose = if answer.more {
            self.reads.purpose(token)
        } else {
            self.reads.close(token)
        };
        match purpose {
            Some(Purpose::CatchUp(key, log)) => {
                let more = answer.more;
                if !self.caught_up(token, key, log, answer, store) && more {
                    self.cancel_read(token, source, store);
                }
            }
            Some(Purpose::Resend(key, log)) => self.resend_read(token, key, log, answer),
            Some(Purpose::Regroup(key)) => self.regrouped(token, key, answer),
            Some(Purpose::Remote(shard, remote)) => {
                let answer = MeshMessage::ReadAnswer {
                    token: remote,
                    source: token,
                    answer,
                };
                self.send_peer(shard, answer, store);
            }
            Some(Purpose::Scan(shard)) => self.scanned(shard, answer),
            Some(Purpose::Seek(request, log)) => self.sought(request, log, &answer, store),
            None => {}
        }
    }

    /// Nobody wants the rest of a read.
    fn cancel_read<S: Store>(&mut self, token: u64, source: Source, store: &mut S) {
        self.reads.close(token);
        self.counters.reads_cancelled += 1;
        match source {
            Source::Store => store.cancel(ReadToken(token)),
            Source::Peer(shard, source) => {
                self.send_peer(shard, MeshMessage::Cancel { source }, store);
            }
        }
    }

    /// Another shard does not want the rest of a read.
    pub(crate) fn read_cancelled<S: Store>(&mut self, from: ShardId, token: u64, store: &mut S) {
        let purpose = self.reads.purpose(token);
        if matches!(purpose, Some(Purpose::Remote(shard, _)) if shard == from) {
            self.reads.close(token);
            store.cancel(ReadToken(token));
        }
    }

    /// The own log has been scanned for a peer whose lane collapsed.
    fn scanned(&mut self, shard: ShardId, answer: ReadAnswer) {
        let ReadAnswer { messages, next, .. } = answer;
        let live = next >= self.committed;
        let Some(lane) = self.lanes.get_mut(shard.index()) else {
            return;
        };
        lane.push(MeshMessage::Scanned {
            messages,
            next,
            live,
        });
        if live {
            lane.resume(next);
        }
    }
}
