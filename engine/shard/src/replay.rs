//! Replay: a SUBSCRIBE that begins in the past (docs/replay.md).
//!
//! The session's cursors go back to where the new subscriptions begin, and the cuts of its other
//! subscriptions go up to where it stood: what these have had does not come again. The changes are
//! stored in an order of which every prefix is right: the place with all that is not acknowledged,
//! the higher cuts, the new subscriptions, the new place.
//!
//! The queue of a filter with wildcards begins with the filter's first subscription. Below that,
//! the store looks for topics that match.

use std::sync::Arc;

use engine_mqtt::{Properties, QoS, ReasonCode};
use engine_session::{Address, Behind, LogId, LogOffset, Replay, Subscription};
use engine_topic::is_shared;

use crate::client::ClientKey;
use crate::interest::Member;
use crate::port::{ReadAnswer, ReadRequest, Store};
use crate::reads::Purpose;
use crate::shard::Shard;
use crate::state;
use crate::subscribe::Wanted;

/// The user property of a SUBSCRIBE that asks for a replay.
pub const REPLAY_PROPERTY: &str = "corelane-replay";

/// The user property of its deliveries: the address, `LOG:OFFSET`.
pub const OFFSET_PROPERTY: &str = "corelane-offset";

/// Looks for a time that are under way in this shard, at most; each may read a segment.
const SEEKS_MAX: usize = 64;

/// Where a replay begins.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Start {
    /// With the oldest message that is there.
    Earliest,
    /// With the first one from this time on, milliseconds since the Unix epoch.
    Time(u64),
    /// By log; logs that are not named are not replayed.
    Offsets(Vec<(u32, LogOffset)>),
}

impl Start {
    fn parse(text: &str) -> Option<Self> {
        if text == "earliest" {
            return Some(Self::Earliest);
        }
        if let Some(time) = text.strip_prefix("time:") {
            return time.parse().ok().map(Self::Time);
        }
        let offsets = text.strip_prefix("offset:")?.split(',').map(|pair| {
            let (log, offset) = pair.split_once(':')?;
            Some((log.parse().ok()?, LogOffset(offset.parse().ok()?)))
        });
        offsets.collect::<Option<_>>().map(Self::Offsets)
    }
}

/// What a SUBSCRIBE wants again.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    start: Start,
    /// By log, as far as it is known: where to begin.
    from: Vec<Option<LogOffset>>,
}

impl Wish {
    /// What the properties of a SUBSCRIBE ask for.
    ///
    /// # Errors
    /// [`ReasonCode::ImplementationSpecificError`] when it is not understood.
    pub(crate) fn read(
        properties: &Properties<'_>,
        logs: usize,
    ) -> Result<Option<Self>, ReasonCode> {
        let mut all = properties.user_properties();
        let Some((_, text)) = all.find(|(name, _)| *name == REPLAY_PROPERTY) else {
            return Ok(None);
        };
        let wish = Start::parse(text).map(|start| {
            let from = Vec::new();
            Self { start, from }
        });
        let known = wish.filter(|wish| wish.is_within(logs));
        known
            .map(Some)
            .ok_or(ReasonCode::ImplementationSpecificError)
    }

    /// Whether a filter can be replayed: its deliveries come from a log.
    pub(crate) fn admits(filter: &str, qos: QoS) -> bool {
        qos > QoS::AtMostOnce && !is_shared(filter)
    }

    /// Whether all logs that it names are there.
    fn is_within(&self, logs: usize) -> bool {
        match &self.start {
            Start::Earliest | Start::Time(_) => true,
            Start::Offsets(offsets) => offsets.iter().all(|(log, _)| (*log as usize) < logs),
        }
    }

    /// How many logs are to be asked where it begins.
    pub(crate) const fn seeks(&self, logs: usize) -> usize {
        match &self.start {
            Start::Earliest => 0,
            Start::Time(_) => logs,
            Start::Offsets(offsets) => offsets.len(),
        }
    }

    /// A log has answered.
    pub(crate) fn found(&mut self, log: usize, at: LogOffset) {
        if self.from.len() <= log {
            self.from.resize(log + 1, None);
        }
        if let Some(place) = self.from.get_mut(log) {
            *place = Some(at);
        }
    }

    /// By log: where it begins, at most at these cuts.
    pub(crate) fn begin(&self, cuts: &[LogOffset]) -> Arc<[LogOffset]> {
        let from = |log: usize, cut: LogOffset| match &self.start {
            Start::Earliest => LogOffset::ZERO,
            Start::Time(_) | Start::Offsets(_) => {
                self.from.get(log).copied().flatten().unwrap_or(cut)
            }
        };
        let cuts = cuts.iter().copied().enumerate();
        cuts.map(|(log, cut)| from(log, cut).min(cut)).collect()
    }
}

/// A user property as it stands in a packet, behind `properties`.
pub(crate) fn with_address(properties: &[u8], at: Address) -> Vec<u8> {
    let value = format!("{}:{}", at.log.0, at.offset.0);
    let mut all = properties.to_vec();
    all.push(engine_mqtt::PropertyId::UserProperty.number());
    for text in [OFFSET_PROPERTY, &value] {
        // Both are far below 64 KiB.
        all.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
        all.extend_from_slice(text.as_bytes());
    }
    all
}

impl Shard {
    /// Whether so many more logs can be asked for a time.
    pub(crate) fn can_seek(&self, logs: usize) -> bool {
        logs == 0 || self.reads.seeks + logs <= SEEKS_MAX.max(self.positions.len())
    }

    /// Asks every log where the wish of a SUBSCRIBE begins.
    pub(crate) fn seek<S: Store>(&mut self, request: u64, wish: &Wish, store: &mut S) {
        let logs = u32::try_from(self.positions.len()).unwrap_or(u32::MAX);
        let seeks: Vec<(u32, u64, LogOffset)> = match &wish.start {
            Start::Earliest => Vec::new(),
            Start::Time(wall_ms) => {
                let stamp = wall_ms.saturating_mul(1 << 16);
                let each = (0..logs).map(|log| (log, stamp, LogOffset::ZERO));
                each.collect()
            }
            Start::Offsets(offsets) => offsets.iter().map(|(log, at)| (*log, 0, *at)).collect(),
        };
        for (log, stamp, from) in seeks {
            let log = LogId(log);
            let purpose = Purpose::Seek(request, log);
            self.read(log, ReadRequest::Seek { stamp, from }, purpose, store);
        }
    }

    /// A log has answered where a time begins.
    pub(crate) fn sought<S: Store>(
        &mut self,
        request: u64,
        log: LogId,
        answer: &ReadAnswer,
        store: &mut S,
    ) {
        self.barriers.sought(request, log.0 as usize, answer.next);
        self.check_barriers(store);
    }

    /// Before subscriptions are added that begin at `begin`: the place where the session stands is
    /// stored, and its other subscriptions begin there.
    pub(crate) fn begin_replay(
        &mut self,
        key: ClientKey,
        begin: &[LogOffset],
        filters: &[Result<Wanted, ReasonCode>],
    ) {
        let logs = self.positions.len();
        let session = &mut self.clients[key.index].session;
        let behind = session.behind.get_or_insert_with(|| {
            Box::new(Behind {
                cursors: vec![None; logs],
                joined: Some(Arc::clone(&self.zero)),
                next_log: 0,
                reading: None,
            })
        });
        let place = behind.cursors(&self.positions);
        // Its answer would be taken for one from the new place on.
        behind.reading = None;
        session.replays = true;
        self.store_present_place(key.index);
        self.forget_completed(key.index, begin, &place);
        let is_new = |one: &Subscription| {
            let mut wanted = filters.iter().flatten();
            wanted.any(|wanted| wanted.filter == one.filter)
        };
        let all = self.clients[key.index].session.subscriptions.iter();
        let others: Vec<_> = all.filter(|one| !is_new(one)).cloned().collect();
        for one in others {
            self.raise_cuts(key.index, &one, begin, &place);
        }
    }

    /// What is complete and comes again is a new delivery.
    fn forget_completed(&mut self, index: u32, begin: &[LogOffset], place: &[LogOffset]) {
        let session = &mut self.clients[index].session;
        let again = |at: &Address| {
            let log = at.log.0 as usize;
            let begin = begin.get(log).copied().unwrap_or_default();
            let place = place.get(log).copied().unwrap_or_default();
            at.offset >= begin && at.offset < place
        };
        let gone: Vec<_> = session.completed.iter().copied().filter(again).collect();
        for at in gone {
            session.completed.remove(&at);
            self.changes.push(state::no_completed(session.id, at));
        }
    }

    /// Where the cursors go back, a subscription begins where the session stood.
    fn raise_cuts(
        &mut self,
        index: u32,
        one: &Arc<Subscription>,
        begin: &[LogOffset],
        place: &[LogOffset],
    ) {
        let raised = |(log, cut): (usize, &LogOffset)| {
            let stood = place.get(log).copied().unwrap_or_default();
            let goes_back = begin.get(log).is_some_and(|begin| *begin < stood);
            if goes_back { stood.max(*cut) } else { *cut }
        };
        // A short list stands for zeros.
        let known = one.cuts.iter().chain(std::iter::repeat(&LogOffset::ZERO));
        let cuts: Arc<[LogOffset]> = known.take(place.len()).enumerate().map(raised).collect();
        let subscription = Arc::new(Subscription {
            cuts,
            ..Subscription::clone(one)
        });
        let session = &mut self.clients[index].session;
        session.subscriptions.insert(Arc::clone(&subscription));
        let durable = session.is_durable();
        let change = durable.then(|| state::subscription(session.id, &subscription));
        self.changes.extend(change);
        if let Some(id) = subscription.filter_id {
            let client = index;
            self.interest.join(
                id,
                Member {
                    client,
                    subscription,
                },
            );
        }
    }

    /// The subscriptions are there: the cursors go back.
    pub(crate) fn go_back(&mut self, key: ClientKey, begin: &[LogOffset], cuts: &[LogOffset]) {
        let positions = self.positions.clone();
        let session = &mut self.clients[key.index].session;
        let Some(behind) = &mut session.behind else {
            return;
        };
        for ((cursor, begin), position) in behind.cursors.iter_mut().zip(begin).zip(&positions) {
            let stood = cursor.unwrap_or(*position);
            if *begin < stood {
                *cursor = Some(*begin);
            }
        }
        if let Some(joined) = &behind.joined {
            let pairs = joined.iter().chain(std::iter::repeat(&LogOffset::ZERO));
            let joined = cuts.iter().zip(pairs).map(|(cut, joined)| *cut.max(joined));
            behind.joined = Some(joined.collect());
        }
        if behind.is_done() {
            session.behind = None;
        }
        self.counters.replays += 1;
        self.store_present_place(key.index);
        self.mark_dirty(key.index);
        self.queue_pump(key.index);
    }

    /// What a new subscription keeps of one that it replaces, when it begins at `begin`.
    pub(crate) fn replay_of(
        old: Option<&Arc<Subscription>>,
        cuts: &Arc<[LogOffset]>,
    ) -> Option<Box<Replay>> {
        let before = old.map(|old| {
            let replay = old.replay.as_ref();
            replay.map_or_else(
                || Arc::clone(&old.cuts),
                |replay| Arc::clone(&replay.queued),
            )
        });
        let queued = before.unwrap_or_else(|| Arc::clone(cuts));
        Some(Box::new(Replay { queued }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Option<Wish> {
        let start = Start::parse(text)?;
        let from = Vec::new();
        Some(Wish { start, from })
    }

    fn begin(wish: &Wish) -> Vec<u64> {
        let cuts = [100, 200, 300].map(LogOffset);
        wish.begin(&cuts).iter().map(|at| at.0).collect()
    }

    #[test]
    fn a_start_is_the_earliest_a_time_or_offsets() {
        assert_eq!(begin(&wish("earliest").unwrap()), [0, 0, 0]);
        let mut offsets = wish("offset:2:7,0:900").unwrap();
        assert!(offsets.is_within(3) && !offsets.is_within(2));
        offsets.found(2, LogOffset(8));
        offsets.found(0, LogOffset(1_000));
        assert_eq!(begin(&offsets), [100, 200, 8], "not behind the cut");
        let mut time = wish("time:1700000000000").unwrap();
        assert_eq!((time.seeks(3), offsets.seeks(3)), (3, 2));
        time.found(1, LogOffset(150));
        time.found(2, LogOffset(u64::MAX));
        assert_eq!(begin(&time), [100, 150, 300]);
    }

    #[test]
    fn other_starts_are_refused() {
        for text in [
            "",
            "latest",
            "time:",
            "time:-1",
            "offset:",
            "offset:1",
            "offset:1:2,",
            "offset:1:x",
        ] {
            assert!(wish(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_address_is_a_user_property() {
        let log = LogId(3);
        let offset = LogOffset(4096);
        let bytes = with_address(&[1, 0], Address { log, offset });
        assert_eq!(&bytes[..5], &[1, 0, 0x26, 0, 15]);
        assert!(bytes.ends_with(b"corelane-offset\0\x063:4096"));
    }
}
