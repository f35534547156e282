//! A shared group as its owner holds it: the members, what each of them has in flight, and which
//! of them gets the next record.
//!
//! The group is a session without a client: its subscription, cursors, window and completed
//! deliveries are those of [`engine_session::Session`]. What is in the session's window is given to
//! a member, or was given back and waits for one.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;

use engine_session::Address;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::port::ShardId;

/// What the client id of a group's session begins with: no client's id can.
const GROUP_PREFIX: char = '\0';

/// Members of one group, at most.
pub(crate) const MEMBERS_MAX: usize = 4_096;

/// How a group chooses the member of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strategy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest records in flight.
    LeastInFlight,
    /// All of a publisher's records to one, as long as the members stay the same.
    Sticky,
    /// All of a topic's records to one, as long as the members stay the same.
    HashTopic,
}

/// The names that users know, in the order of [`Strategy`].
const NAMES: [(Strategy, &str); 4] = [
    (Strategy::RoundRobin, "round-robin"),
    (Strategy::LeastInFlight, "least-in-flight"),
    (Strategy::Sticky, "sticky"),
    (Strategy::HashTopic, "hash-topic"),
];

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(strategy, _)| strategy == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

/// No strategy has this name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownStrategy(pub String);

impl fmt::Display for UnknownStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not round-robin, least-in-flight, sticky or hash-topic",
            self.0
        )
    }
}

impl std::error::Error for UnknownStrategy {}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        let found = NAMES.iter().find(|(_, name)| *name == text);
        found
            .map(|(strategy, _)| *strategy)
            .ok_or_else(|| UnknownStrategy(text.to_owned()))
    }
}

/// A member, online or not.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct GroupMember {
    pub(crate) is_online: bool,
    /// Records that it may have in flight.
    pub(crate) limit: usize,
    pub(crate) in_flight: usize,
}

impl GroupMember {
    const fn has_room(&self) -> bool {
        self.is_online && self.in_flight < self.limit
    }
}

/// A SUBSCRIBE that waits for the group to be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joining {
    pub(crate) shard: ShardId,
    pub(crate) request: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Group {
    /// The whole text of its members' subscriptions.
    pub(crate) text: Arc<str>,
    /// The topic filter in it.
    pub(crate) filter: Arc<str>,
    strategy: Strategy,
    members: BTreeMap<u64, GroupMember>,
    /// Who got the last record.
    last: u64,
    /// Its subscription is durable, and every shard routes by it.
    pub(crate) is_ready: bool,
    pub(crate) joining: Vec<Joining>,
    /// Packet ids of records that were given back, in the order of the logs.
    pub(crate) returned: BTreeMap<Address, u16>,
    /// The read of some of them.
    pub(crate) fetching: Option<(u64, Vec<Address>)>,
    /// The first of them waits for a member, until one can take more than now.
    pub(crate) is_stuck: bool,
}

/// The client id of a group's session.
pub(crate) fn group_client_id(text: &str) -> String {
    format!("{GROUP_PREFIX}{text}")
}

/// The text of the group that a session with this client id is, if it is one.
pub(crate) fn group_text(client_id: &str) -> Option<&str> {
    client_id.strip_prefix(GROUP_PREFIX)
}

impl Group {
    pub(crate) fn new(text: &str, filter: &str, strategy: Strategy) -> Self {
        Self {
            text: text.into(),
            filter: filter.into(),
            strategy,
            members: BTreeMap::new(),
            last: 0,
            is_ready: false,
            joining: Vec::new(),
            returned: BTreeMap::new(),
            fetching: None,
            is_stuck: false,
        }
    }

    /// Adds a member, who has so many records in flight; false: there are too many.
    pub(crate) fn join(&mut self, session: u64, in_flight: usize) -> bool {
        if self.members.contains_key(&session) {
            return true;
        }
        if self.members.len() >= MEMBERS_MAX {
            return false;
        }
        let member = GroupMember {
            in_flight,
            ..GroupMember::default()
        };
        self.members.insert(session, member);
        true
    }

    pub(crate) fn leave(&mut self, session: u64) {
        self.is_stuck = false;
        self.members.remove(&session);
    }

    pub(crate) fn is_deserted(&self) -> bool {
        self.members.is_empty()
    }

    /// A member, to be changed.
    pub(crate) fn member(&mut self, session: u64) -> Option<&mut GroupMember> {
        self.is_stuck = false;
        self.members.get_mut(&session)
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn is_online(&self) -> bool {
        self.members.values().any(|member| member.is_online)
    }

    /// Records that its online members may take now.
    pub(crate) fn credit(&self) -> usize {
        let online = self.members.values().filter(|member| member.is_online);
        online
            .map(|one| one.limit.saturating_sub(one.in_flight))
            .sum()
    }

    pub(crate) fn has_credit(&self) -> bool {
        self.members.values().any(GroupMember::has_room)
    }

    /// Who gets a record of this publisher and topic; `None`: nobody can take it now.
    pub(crate) fn pick(&self, publisher: u64, topic: &str) -> Option<u64> {
        match self.strategy {
            Strategy::RoundRobin => self.next_in_turn(|one| one.has_room()),
            Strategy::LeastInFlight => {
                let free = self.members.values().filter(|one| one.has_room());
                let least = free.map(|one| one.in_flight).min()?;
                self.next_in_turn(|one| one.has_room() && one.in_flight == least)
            }
            Strategy::Sticky => {
                self.highest(|member| xxh3_64_with_seed(&publisher.to_le_bytes(), member))
            }
            Strategy::HashTopic => {
                self.highest(|member| xxh3_64_with_seed(topic.as_bytes(), member))
            }
        }
    }

    /// The record goes to this member.
    pub(crate) fn give(&mut self, session: u64) {
        self.last = session;
        if let Some(member) = self.members.get_mut(&session) {
            member.in_flight += 1;
        }
    }

    /// A QoS 0 publication, which is not counted, goes to this member.
    pub(crate) const fn pass(&mut self, session: u64) {
        self.last = session;
    }

    /// A record is done, or has come back.
    pub(crate) fn take(&mut self, session: u64) {
        self.is_stuck = false;
        if let Some(member) = self.members.get_mut(&session) {
            member.in_flight = member.in_flight.saturating_sub(1);
        }
    }

    fn next_in_turn(&self, fits: impl Fn(&GroupMember) -> bool) -> Option<u64> {
        let behind = self
            .members
            .range((Bound::Excluded(self.last), Bound::Unbounded));
        let before = self.members.range(..=self.last);
        behind
            .chain(before)
            .find(|(_, member)| fits(member))
            .map(|(session, _)| *session)
    }

    /// Rendezvous: of all online members the one with the highest weight, so that only the records
    /// of a member that goes or comes move. It is waited for.
    fn highest(&self, weight: impl Fn(u64) -> u64) -> Option<u64> {
        let online = self.members.iter().filter(|(_, member)| member.is_online);
        let (session, member) = online.max_by_key(|(session, _)| (weight(**session), **session))?;
        member.has_room().then_some(*session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(strategy: Strategy, members: u64) -> Group {
        let mut group = Group::new("$share/g/t", "t", strategy);
        for session in 1..=members {
            assert!(group.join(session, 0));
            let member = group.member(session).expect("it has joined");
            (member.is_online, member.limit) = (true, 8);
        }
        group
    }

    #[test]
    fn equal_members_get_equal_shares() {
        for strategy in [Strategy::RoundRobin, Strategy::LeastInFlight] {
            let mut group = group(strategy, 7);
            let mut counts = BTreeMap::<u64, u32>::new();
            for n in 0..1_000_u64 {
                let session = group.pick(n, "t").expect("there is room");
                group.give(session);
                *counts.entry(session).or_default() += 1;
                group.take(session);
            }
            let most = counts.values().max().expect("seven members");
            let least = counts.values().min().expect("seven members");
            assert_eq!(counts.len(), 7);
            assert!(most * 10 <= least * 11, "{strategy:?}: {counts:?}");
        }
    }

    #[test]
    fn a_full_member_is_passed_over() {
        let mut group = group(Strategy::RoundRobin, 2);
        for _ in 0..16 {
            let session = group.pick(1, "t").expect("there is room");
            group.give(session);
        }
        assert_eq!((group.pick(1, "t"), group.credit()), (None, 0));
        group.take(2);
        assert_eq!((group.pick(1, "t"), group.credit()), (Some(2), 1));
    }

    #[test]
    fn the_least_busy_member_is_next() {
        let mut group = group(Strategy::LeastInFlight, 3);
        for session in [1, 1, 2, 3, 3] {
            group.give(session);
        }
        assert_eq!(group.pick(9, "t"), Some(2));
    }

    #[test]
    fn keys_stay_with_their_member_and_are_waited_for() {
        for strategy in [Strategy::Sticky, Strategy::HashTopic] {
            let mut group = group(strategy, 5);
            let pick = |group: &Group, key: u64| group.pick(key, &format!("t/{key}"));
            let before: Vec<_> = (0..200).map(|key| pick(&group, key)).collect();
            assert_eq!(
                before,
                (0..200).map(|key| pick(&group, key)).collect::<Vec<_>>()
            );
            let used: std::collections::BTreeSet<_> = before.iter().collect();
            assert_eq!(used.len(), 5, "every member has a part");
            group.leave(3);
            for (key, was) in (0..200).zip(&before) {
                let is = pick(&group, key);
                assert!(is == *was || *was == Some(3), "{key} moved for nothing");
            }
            let first = pick(&group, 0).expect("there is room");
            group.member(first).expect("a member").in_flight = 8;
            assert_eq!(pick(&group, 0), None, "its member is full");
        }
    }

    #[test]
    fn offline_members_get_nothing() {
        for strategy in [
            Strategy::RoundRobin,
            Strategy::LeastInFlight,
            Strategy::Sticky,
            Strategy::HashTopic,
        ] {
            let mut group = group(strategy, 2);
            group.member(1).expect("a member").is_online = false;
            assert!((0..50).all(|key| group.pick(key, "t") == Some(2)));
            group.member(2).expect("a member").is_online = false;
            assert_eq!(group.pick(1, "t"), None);
            assert!(!group.is_online() && !group.has_credit());
        }
    }

    #[test]
    fn strategies_have_names() {
        for (strategy, name) in NAMES {
            assert_eq!(name.parse(), Ok(strategy));
            assert_eq!(strategy.to_string(), name);
        }
        let unknown = "random".parse::<Strategy>();
        assert_eq!(unknown, Err(UnknownStrategy("random".to_owned())));
    }

    #[test]
    fn a_group_is_told_from_a_client() {
        assert_eq!(
            group_text(&group_client_id("$share/g/t")),
            Some("$share/g/t")
        );
        assert_eq!(group_text("client"), None);
    }
}
