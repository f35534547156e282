//! One client's session.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::address::{Address, LogOffset};
use crate::progress::{Behind, Place, Progress};
use crate::rare_set::RareSet;
use crate::subscription::Subscriptions;
use crate::window::{Delivery, Phase, Window};
use crate::wire::{Fields, ValueError, put_bytes};

/// The value of "never" for session expiry intervals, in seconds.
pub const NEVER: u32 = u32::MAX;

/// What the state store keeps of a session under its client id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// The session's id, never used twice on a node.
    pub id: u64,
    /// Session expiry interval, seconds; [`NEVER`] for sessions without an end.
    pub expiry_s: u32,
    /// When its connection ended, milliseconds since the Unix epoch; 0 while it is connected.
    pub ended_ms: u64,
    /// The client id.
    pub client_id: String,
}

impl SessionRecord {
    /// The stored value: version 1 | id `u64` | expiry `u32` | ended `u64` | client id with a
    /// length
    /// `u32`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.expiry_s.to_le_bytes());
        out.extend_from_slice(&self.ended_ms.to_le_bytes());
        put_bytes(&mut out, self.client_id.as_bytes());
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`ValueError`] when the value is not one.
    pub fn decode(value: &[u8]) -> Result<Self, ValueError> {
        let mut fields = Fields::new("session", value);
        fields.version(1)?;
        let record = Self {
            id: fields.u64()?,
            expiry_s: fields.u32()?,
            ended_ms: fields.u64()?,
            client_id: fields.text()?.to_owned(),
        };
        fields.end()?;
        Ok(record)
    }
}

/// Addresses by group. Hardly any session has one: empty, it is one word and owns nothing.
#[derive(Clone, Default, Debug)]
#[expect(
    clippy::box_collection,
    reason = "one word instead of three: it is hardly ever there"
)]
pub struct SharedDone(Option<Box<BTreeSet<(u64, Address)>>>);

impl SharedDone {
    /// Adds one.
    pub fn insert(&mut self, group: u64, at: Address) {
        self.0.get_or_insert_default().insert((group, at));
    }

    /// Removes one; says whether it was there.
    pub fn remove(&mut self, group: u64, at: Address) -> bool {
        let removed = self.0.as_mut().is_some_and(|all| all.remove(&(group, at)));
        self.0.take_if(|all| all.is_empty());
        removed
    }

    /// All of them, with their groups.
    pub fn iter(&self) -> impl Iterator<Item = &(u64, Address)> {
        self.0.iter().flat_map(|all| all.iter())
    }

    /// Whether this one is there.
    #[must_use]
    pub fn contains(&self, group: u64, at: Address) -> bool {
        self.0
            .as_ref()
            .is_some_and(|all| all.contains(&(group, at)))
    }
}

/// A session: everything that outlives a connection.
#[derive(Debug)]
pub struct Session {
    /// Its id, never used twice on a node.
    pub id: u64,
    /// The client's id.
    pub client_id: Arc<str>,
    /// Session expiry interval in seconds; 0: it ends with its connection.
    pub expiry_s: u32,
    /// What it subscribed to.
    pub subscriptions: Subscriptions,
    /// What is in flight to the client.
    pub window: Window,
    /// Packet ids of inbound QoS 2 publications between PUBLISH and PUBREL.
    pub inbound: RareSet<u16>,
    /// Addresses of QoS 2 deliveries that are complete and above the stored place.
    pub completed: RareSet<Address>,
    /// QoS 2 deliveries for shared groups, by group, that are complete and of which the group does
    /// not know for good.
    pub shared_done: SharedDone,
    /// Set while it is not at its shard's positions in every log.
    pub behind: Option<Box<Behind>>,
    /// What the state store has as its place; `None`: nothing yet.
    pub stored: Option<Arc<Progress>>,
    /// Bytes of logs that retention has taken before this session looked at them, since the start.
    pub cut_bytes: u64,
    /// Its place may have changed since it was stored.
    pub dirty: bool,
    /// One of its subscriptions begins before it was made: deliveries tell their addresses.
    pub replays: bool,
}

impl Session {
    /// A new session without subscriptions.
    #[must_use]
    pub fn new(id: u64, client_id: Arc<str>, expiry_s: u32, window: Window) -> Self {
        Self {
            id,
            client_id,
            expiry_s,
            subscriptions: Subscriptions::new(),
            window,
            inbound: RareSet::default(),
            completed: RareSet::default(),
            shared_done: SharedDone::default(),
            behind: None,
            stored: None,
            cut_bytes: 0,
            dirty: false,
            replays: false,
        }
    }

    /// Whether it outlives its connection.
    #[must_use]
    pub const fn is_durable(&self) -> bool {
        self.expiry_s > 0
    }

    /// Whether it has to do with shared groups: it is a member, or has deliveries of one.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.subscriptions.shared().next().is_some()
            || self.shared_done.iter().next().is_some()
            || self.window.iter().any(|delivery| delivery.group.is_some())
    }

    /// Whether a record was delivered already, or is being: it must not be opened again.
    #[must_use]
    pub fn has(&self, at: Address) -> bool {
        self.completed.contains(&at) || self.window.contains(at, false)
    }

    /// The place to store so that the shard may store `stored_positions`: `positions` are the ones
    /// of now, which are at or above.
    #[must_use]
    pub fn progress(
        &self,
        boot: u32,
        positions: &[LogOffset],
        stored_positions: &[LogOffset],
    ) -> Progress {
        let place = self
            .behind
            .as_ref()
            .map_or(Place::Shared { boot }, |behind| {
                Place::Own(behind.cursors(positions))
            });
        let below = |at: Address| match &place {
            Place::Shared { .. } => is_below(at, stored_positions),
            Place::Own(_) => true,
        };
        let pending = self
            .window
            .iter()
            .filter(|d| d.qos == engine_mqtt::QoS::AtLeastOnce && d.group.is_none());
        let unacked = pending
            .filter(|d| d.retained || below(d.address))
            .map(|delivery| Delivery {
                // When this is read again, there is nothing left to wait for.
                phase: Phase::Publish,
                ..delivery.clone()
            })
            .collect();
        Progress { place, unacked }
    }

    /// Completed deliveries that are below a place: once that place is stored and durable, they may
    /// be forgotten.
    #[must_use]
    pub fn completed_below(&self, place: &Place, shared: &[LogOffset]) -> Vec<Address> {
        let offsets = match place {
            Place::Shared { .. } => shared,
            Place::Own(cursors) => cursors,
        };
        self.completed
            .iter()
            .copied()
            .filter(|at| is_below(*at, offsets))
            .collect()
    }
}

fn is_below(at: Address, offsets: &[LogOffset]) -> bool {
    offsets
        .get(at.log.0 as usize)
        .is_some_and(|offset| at.offset < *offset)
}

#[cfg(test)]
mod tests {
    use engine_mqtt::QoS;

    use super::*;
    use crate::address::LogId;
    use crate::subscription::Ids;
    use crate::window::Opening;

    fn at(offset: u64) -> Address {
        Address {
            log: LogId(0),
            offset: LogOffset(offset),
        }
    }

    fn open(session: &mut Session, offset: u64) {
        session.window.open(Opening {
            address: at(offset),
            qos: QoS::AtLeastOnce,
            phase: Phase::Publish,
            retain: false,
            retained: false,
            ids: Ids::new(),
            group: None,
            member: 0,
        });
    }

    #[test]
    fn a_live_session_stores_only_what_its_shards_position_passed() {
        let mut session = Session::new(1, "c".into(), NEVER, Window::new(8));
        open(&mut session, 10);
        open(&mut session, 20);
        let progress = session.progress(3, &[LogOffset(30)], &[LogOffset(15)]);
        assert_eq!(progress.place, Place::Shared { boot: 3 });
        assert_eq!(progress.unacked.len(), 1);
        session.behind = Some(Box::new(Behind::at(&[LogOffset(25)])));
        let progress = session.progress(3, &[LogOffset(30)], &[LogOffset(15)]);
        assert_eq!(progress.place, Place::Own(vec![LogOffset(25)]));
        assert_eq!(progress.unacked.len(), 2);
    }

    #[test]
    fn completed_deliveries_stay_until_the_stored_place_passed_them() {
        let mut session = Session::new(1, "c".into(), NEVER, Window::new(8));
        session.completed.insert(at(5));
        session.completed.insert(at(15));
        let shared = Place::Shared { boot: 1 };
        assert_eq!(session.completed_below(&shared, &[LogOffset(10)]), [at(5)]);
        let own = Place::Own(vec![LogOffset(16)]);
        assert_eq!(
            session.completed_below(&own, &[LogOffset(10)]),
            [at(5), at(15)]
        );
        assert!(session.has(at(15)) && !session.has(at(16)));
    }

    #[test]
    fn a_session_record_round_trips() {
        let record = SessionRecord {
            id: 1,
            expiry_s: 2,
            ended_ms: 3,
            client_id: "c".to_owned(),
        };
        assert_eq!(SessionRecord::decode(&record.encode()), Ok(record.clone()));
    }
}
