//! What a session subscribed to.

use std::num::NonZeroU32;
use std::sync::Arc;

use engine_mqtt::QoS;
use engine_topic::{FilterId, is_shared, matches};
use smallvec::SmallVec;

use crate::address::{Address, LogOffset};
use crate::wire::{Fields, ValueError, put_offsets};

/// Subscription identifiers of one delivery, in the order of the filters.
pub type Ids = SmallVec<[u32; 2]>;

/// One subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// The topic filter.
    pub filter: Arc<str>,
    /// The filter's id in this boot's routing table; `None` while the session is offline.
    pub filter_id: Option<FilterId>,
    /// The granted QoS.
    pub qos: QoS,
    /// Publications of the same session are not delivered.
    pub no_local: bool,
    /// The RETAIN flag is passed on as published.
    pub retain_as_published: bool,
    /// No other session may have such a subscription to this filter.
    pub exclusive: bool,
    /// The subscription identifier.
    pub id: Option<NonZeroU32>,
    /// By log: the subscription begins here.
    pub cuts: Arc<[LogOffset]>,
    /// It begins before it was made.
    pub replay: Option<Box<Replay>>,
}

/// What a subscription knows that begins in the past. Its deliveries tell their addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replay {
    /// By log: from here on the filter's queue has everything. Below, records are found by their
    /// topics.
    pub queued: Arc<[LogOffset]>,
}

impl Subscription {
    /// Whether a record at this address is behind the subscription's cut.
    #[must_use]
    pub fn covers(&self, at: Address) -> bool {
        let cut = self
            .cuts
            .get(at.log.0 as usize)
            .copied()
            .unwrap_or(LogOffset::ZERO);
        at.offset >= cut
    }

    /// The stored value: version 1 to 4 | qos | flags (1 no local, 2 retain as published) | id
    /// `u32` (0: none) | cuts; in versions 2 and 4, which those have that begin in the past: since
    /// when the filter's queue has everything, as the cuts. Exclusive ones have versions 3 and 4.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let flags = u8::from(self.no_local) | (u8::from(self.retain_as_published) << 1);
        let version = 1 + u8::from(self.replay.is_some()) + 2 * u8::from(self.exclusive);
        let mut out = vec![version, self.qos as u8, flags];
        out.extend_from_slice(&self.id.map_or(0, NonZeroU32::get).to_le_bytes());
        put_offsets(&mut out, &self.cuts);
        if let Some(replay) = &self.replay {
            put_offsets(&mut out, &replay.queued);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`ValueError`] when the value is not one.
    pub fn decode(filter: &str, value: &[u8]) -> Result<Self, ValueError> {
        let mut fields = Fields::new("subscription", value);
        let version = fields.version(4)?;
        let qos = qos(fields.u8()?)?;
        let flags = fields.u8()?;
        let id = fields.u32()?;
        let cuts = fields.offsets()?;
        let queued = (version % 2 == 0).then(|| fields.offsets()).transpose()?;
        fields.end()?;
        Ok(Self {
            filter: Arc::from(filter),
            filter_id: None,
            qos,
            no_local: flags & 1 != 0,
            retain_as_published: flags & 2 != 0,
            exclusive: version > 2,
            id: NonZeroU32::new(id),
            cuts: cuts.into(),
            replay: queued.map(|queued| {
                let queued = queued.into();
                Box::new(Replay { queued })
            }),
        })
    }

    /// By log: below this offset, what it wants is found by topics and not by queues.
    #[must_use]
    pub fn sifts_below(&self, log: usize) -> LogOffset {
        let replay = self.replay.as_ref().filter(|_| is_wildcard(&self.filter));
        let queued = replay.and_then(|replay| replay.queued.get(log));
        queued.copied().unwrap_or(LogOffset::ZERO)
    }
}

pub(crate) fn qos(value: u8) -> Result<QoS, ValueError> {
    match value {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        got => Err(ValueError::Unknown {
            what: "QoS",
            got: u64::from(got),
        }),
    }
}

/// How a session wants one publication: the union of all its subscriptions that match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The highest granted QoS.
    pub qos: QoS,
    /// Whether any of them asked for the RETAIN flag as published.
    pub retain_as_published: bool,
    /// Their identifiers.
    pub ids: Ids,
}

impl Grant {
    /// Adds one matching subscription to what was found so far.
    pub fn add(found: &mut Option<Self>, subscription: &Subscription) {
        let grant = found.get_or_insert_with(|| Self {
            qos: QoS::AtMostOnce,
            retain_as_published: false,
            ids: Ids::new(),
        });
        grant.qos = grant.qos.max(subscription.qos);
        grant.retain_as_published |= subscription.retain_as_published;
        grant.ids.extend(subscription.id.map(NonZeroU32::get));
    }
}

/// All subscriptions of a session, in the order of their filters. Most sessions have one or two, so
/// the first needs no allocation.
#[derive(Default, Debug)]
pub struct Subscriptions {
    exact: Sorted,
    wildcard: Sorted,
    /// By their whole text; hardly any session has one.
    shared: Option<Box<Sorted>>,
}

type Sorted = SmallVec<[Arc<Subscription>; 1]>;

/// Where the subscription to a filter is, or would be.
fn place(all: &Sorted, filter: &str) -> Result<usize, usize> {
    all.binary_search_by(|one| (*one.filter).cmp(filter))
}

/// Whether a filter has wildcards.
#[must_use]
pub fn is_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

impl Subscriptions {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self {
            exact: SmallVec::new(),
            wildcard: SmallVec::new(),
            shared: None,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len() + self.shared().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn of(&self, filter: &str) -> Option<&Sorted> {
        if is_shared(filter) {
            self.shared.as_deref()
        } else if is_wildcard(filter) {
            Some(&self.wildcard)
        } else {
            Some(&self.exact)
        }
    }

    fn of_mut(&mut self, filter: &str) -> &mut Sorted {
        if is_shared(filter) {
            self.shared.get_or_insert_default()
        } else if is_wildcard(filter) {
            &mut self.wildcard
        } else {
            &mut self.exact
        }
    }

    /// The subscription to exactly this filter.
    #[must_use]
    pub fn find(&self, filter: &str) -> Option<&Arc<Subscription>> {
        let all = self.of(filter)?;
        all.get(place(all, filter).ok()?)
    }

    /// Adds or replaces a subscription; returns the one replaced.
    pub fn insert(&mut self, subscription: Arc<Subscription>) -> Option<Arc<Subscription>> {
        let all = self.of_mut(&subscription.filter);
        match place(all, &subscription.filter) {
            Ok(at) => all
                .get_mut(at)
                .map(|one| std::mem::replace(one, subscription)),
            Err(at) => {
                all.insert(at, subscription);
                None
            }
        }
    }

    /// Removes the subscription to exactly this filter.
    pub fn remove(&mut self, filter: &str) -> Option<Arc<Subscription>> {
        let all = self.of_mut(filter);
        let removed = place(all, filter).ok().map(|at| all.remove(at));
        if all.is_empty() {
            all.shrink_to_fit();
        }
        self.shared.take_if(|all| all.is_empty());
        removed
    }

    /// All but shared ones, exact ones first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.exact.iter().chain(&self.wildcard)
    }

    /// The shared ones, by their whole text. Their records come by the group, not by matching.
    pub fn shared(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.shared.iter().flat_map(|all| all.iter())
    }

    /// How this session wants a publication; `None`: not at all. One record is matched once against
    /// all filters [MQTT-3.3.4-2].
    #[must_use]
    pub fn grant(&self, session: u64, topic: &str, at: Address, publisher: u64) -> Option<Grant> {
        let mut found = None;
        let exact = place(&self.exact, topic).ok();
        let exact = exact.and_then(|at| self.exact.get(at)).into_iter();
        let wildcard = self.wildcard.iter().filter(|s| matches(&s.filter, topic));
        for subscription in exact.chain(wildcard) {
            let own = subscription.no_local && publisher == session;
            if subscription.covers(at) && !own {
                Grant::add(&mut found, subscription);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::address::LogId;

    fn subscription(filter: &str, qos: QoS, id: u32, cut: u64) -> Arc<Subscription> {
        Arc::new(Subscription {
            filter: filter.into(),
            filter_id: None,
            qos,
            no_local: id == 9,
            retain_as_published: id == 8,
            exclusive: false,
            id: NonZeroU32::new(id),
            cuts: vec![LogOffset(cut)].into(),
            replay: None,
        })
    }

    fn at(offset: u64) -> Address {
        Address {
            log: LogId(0),
            offset: LogOffset(offset),
        }
    }

    proptest! {
        /// Against two maps.
        #[test]
        fn behaves_as_a_map_with_exact_filters_first(
            steps in vec((any::<bool>(), 0_u8..6, any::<bool>(), 1_u32..5), 0..40),
        ) {
            let mut all = Subscriptions::new();
            let mut model = BTreeMap::new();
            for (inserts, name, wild, id) in steps {
                let filter = format!("{name}{}", if wild { "/+" } else { "" });
                let key = (wild, filter.clone());
                if inserts {
                    let new = subscription(&filter, QoS::AtLeastOnce, id, 0);
                    prop_assert_eq!(all.insert(Arc::clone(&new)), model.insert(key, new));
                } else {
                    prop_assert_eq!(all.remove(&filter), model.remove(&key));
                }
                prop_assert_eq!(all.find(&filter), model.get(&(wild, filter.clone())));
                prop_assert!(all.iter().eq(model.values()));
                prop_assert_eq!(all.len(), model.len());
            }
        }
    }

    #[test]
    fn overlapping_filters_give_one_grant() {
        let mut all = Subscriptions::default();
        all.insert(subscription("a/b", QoS::AtMostOnce, 1, 0));
        all.insert(subscription("a/+", QoS::ExactlyOnce, 2, 0));
        all.insert(subscription("#", QoS::AtLeastOnce, 3, 50));
        all.insert(subscription("c", QoS::ExactlyOnce, 4, 0));
        let grant = all.grant(7, "a/b", at(10), 1).expect("it matches");
        assert_eq!(grant.qos, QoS::ExactlyOnce);
        assert_eq!(grant.ids.as_slice(), &[1, 2], "`#` begins later");
        assert!(all.grant(7, "x", at(10), 1).is_none());
        assert!(all.grant(7, "x", at(50), 1).is_some());
    }

    #[test]
    fn no_local_hides_own_publications() {
        let mut all = Subscriptions::default();
        all.insert(subscription("a", QoS::AtLeastOnce, 9, 0));
        assert!(all.grant(7, "a", at(1), 7).is_none());
        assert!(all.grant(7, "a", at(1), 8).is_some());
    }

    #[test]
    fn a_subscription_round_trips() {
        for id in [0, 8, 9] {
            let one = subscription("a/#", QoS::AtLeastOnce, id, 77);
            assert_eq!(
                Subscription::decode("a/#", &one.encode()).as_ref(),
                Ok(&*one)
            );
        }
        assert!(Subscription::decode("a", &[5]).is_err(), "a later version");
        for filter in ["a/#", "a"] {
            let mut one = Subscription::clone(&subscription(filter, QoS::AtLeastOnce, 0, 7));
            let queued = vec![LogOffset(70), LogOffset(80)].into();
            one.replay = Some(Box::new(Replay { queued }));
            let read = Subscription::decode(filter, &one.encode());
            assert_eq!(read.as_ref(), Ok(&one));
            let below = if is_wildcard(filter) { 80 } else { 0 };
            assert_eq!(one.sifts_below(1), LogOffset(below), "{filter}");
            assert_eq!(one.sifts_below(2), LogOffset::ZERO);
            one.exclusive = true;
            assert_eq!(one.encode().first(), Some(&4));
            let read = Subscription::decode(filter, &one.encode());
            assert_eq!(read.as_ref(), Ok(&one));
            one.replay = None;
            assert_eq!(one.encode().first(), Some(&3), "earlier nodes refuse it");
            let read = Subscription::decode(filter, &one.encode());
            assert_eq!(read.as_ref(), Ok(&one));
        }
    }
}
