//! Who may publish and subscribe to what: rules in order, of which the first that applies decides.
//!
//! A rule's topics are filters in which `%u` stands for the user's name and `%c` for the client id.
//! What they stand for is compared with one level, and never is a wildcard itself; a client without
//! a user name has nothing at `%u`. In a rule `#` and `+` match names that begin with `$`, too.
//!
//! A publication is one topic: a rule applies that matches it. A subscription is many: a rule that
//! allows applies when it covers all of them, a rule that denies when they have one in common. So
//! no subscription brings a message from a topic for which the rules' first word is a denial.

// Addresses as values: nothing in `core` can reach a network.
use core::net::IpAddr;

use engine_mqtt::{Connect, ReasonCode};
use engine_session::Now;
use engine_topic::Filter;

use crate::announce::reserved;
use crate::delayed::split;
use crate::port::ConnectionId;
use crate::shard::Shard;

/// What a client wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Publish to a topic.
    Publish,
    /// Subscribe to a filter.
    Subscribe,
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: u128,
    bits: u32,
}

impl Network {
    /// Reads `ADDRESS` or `ADDRESS/BITS`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then(|| Self {
            address: number(address),
            bits: 128 - most + bits,
        })
    }

    fn has(&self, address: IpAddr) -> bool {
        let differing = (self.address ^ number(address)).leading_zeros();
        differing >= self.bits
    }
}

/// Of IPv4 addresses that of their form in IPv6.
fn number(address: IpAddr) -> u128 {
    let mapped = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    mapped.to_bits()
}

/// A piece of a level of a rule's topics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    Text(Box<str>),
    User,
    Client,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// `+`.
    One,
    /// `#`, at the end.
    Rest,
    Pieces(Vec<Piece>),
}

/// A filter with places for names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(pub(crate) Vec<Level>);

impl Pattern {
    /// Reads it; `None` when it is no filter, or that of a shared subscription.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let filter = Filter::parse(text).ok()?;
        filter.share.is_none().then(|| {
            let levels = text.split('/').map(|level| match level {
                "+" => Level::One,
                "#" => Level::Rest,
                other => Level::Pieces(pieces(other)),
            });
            Self(levels.collect())
        })
    }

    /// Whether it matches everything that `filter` matches.
    fn covers(&self, filter: &str, who: &Who<'_>) -> bool {
        self.fits(filter, who, true)
    }

    /// Whether something is matched by both.
    fn meets(&self, filter: &str, who: &Who<'_>) -> bool {
        self.fits(filter, who, false)
    }

    fn fits(&self, filter: &str, who: &Who<'_>, all: bool) -> bool {
        let mut own = self.0.iter();
        let mut others = filter.split('/');
        loop {
            let fits = match (own.next(), others.next()) {
                (Some(Level::Rest), _) | (None, None) => return true,
                (_, Some("#")) => return !all,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(Level::One), Some(_)) => true,
                (Some(Level::Pieces(_)), Some("+")) => !all,
                (Some(Level::Pieces(pieces)), Some(level)) => who.is_named(pieces, level),
            };
            if !fits {
                return false;
            }
        }
    }
}

fn pieces(level: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = level;
    let at = |text: &str| ["%u", "%c"].iter().filter_map(|sign| text.find(sign)).min();
    while let Some(place) = at(text) {
        let (before, rest) = text.split_at(place);
        let (sign, behind) = rest.split_at(2);
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        pieces.push(if sign == "%u" {
            Piece::User
        } else {
            Piece::Client
        });
        text = behind;
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
    pieces
}

/// Whom a rule is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its user name, if it has one.
    pub user: Option<&'a str>,
    /// Its client id.
    pub client: &'a str,
    /// Where it connects from, if that is an address.
    pub address: Option<IpAddr>,
}

impl Who<'_> {
    /// Whether a level of a topic is these pieces.
    pub(crate) fn is_named(&self, pieces: &[Piece], level: &str) -> bool {
        let mut rest = level;
        for piece in pieces {
            let text = match piece {
                Piece::Text(text) => Some(text.as_ref()),
                Piece::User => self.user,
                Piece::Client => Some(self.client),
            };
            let text = text.filter(|text| !text.is_empty());
            let Some(behind) = text.and_then(|text| rest.strip_prefix(text)) else {
                return false;
            };
            rest = behind;
        }
        rest.is_empty()
    }
}

/// One rule; what is absent applies to all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Allowed, or denied.
    pub allows: bool,
    /// Of this user.
    pub user: Option<String>,
    /// Of this client id.
    pub client: Option<String>,
    /// From one of these addresses.
    pub address: Option<Network>,
    /// To do this.
    pub action: Option<Action>,
    /// To one of these; empty: to all.
    pub topics: Vec<Pattern>,
}

impl Rule {
    fn applies(&self, who: &Who<'_>, action: Action, filter: &str) -> bool {
        let by = |topic: &Pattern| {
            if self.allows {
                topic.covers(filter, who)
            } else {
                topic.meets(filter, who)
            }
        };
        self.action.is_none_or(|own| own == action)
            && self.user.as_deref().is_none_or(|own| who.user == Some(own))
            && self.client.as_deref().is_none_or(|own| who.client == own)
            && self
                .address
                .is_none_or(|own| who.address.is_some_and(|it| own.has(it)))
            && (self.topics.is_empty() || self.topics.iter().any(by))
    }
}

/// All rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// In order.
    pub rules: Vec<Rule>,
    /// When none applies.
    pub otherwise_allows: bool,
}

impl Rules {
    /// Whether this may be done. `filter` is a topic name, or a filter without its share.
    #[must_use]
    pub fn allow(&self, who: &Who<'_>, action: Action, filter: &str) -> bool {
        let mut rules = self.rules.iter();
        let rule = rules.find(|rule| rule.applies(who, action, filter));
        rule.map_or(self.otherwise_allows, |rule| rule.allows)
    }
}

/// Who is behind a connection: the user, if CONNECT names one, and the address where rules ask.
#[derive(Clone, Default, Debug)]
pub(crate) struct Identity {
    pub(crate) user: Option<Box<str>>,
    address: Option<IpAddr>,
}

impl Shard {
    /// Other rules, from now on; what was subscribed to stays. Only where there were some.
    pub fn set_rules(&mut self, now: Now, rules: std::sync::Arc<Rules>) {
        self.begin_call(now);
        if self.config.rules.is_some() {
            self.config.rules = Some(rules);
        }
    }

    /// Where a connection comes from; comes before its first bytes.
    pub fn comes_from(&mut self, connection: ConnectionId, address: IpAddr) {
        let link = self.connections.get_mut(&connection);
        if let Some(link) = link.filter(|_| self.config.rules.is_some()) {
            let identity = link.identity.get_or_insert_default();
            identity.address = Some(address.to_canonical());
        }
    }

    /// Learns who connects, and whether its will may be published.
    pub(crate) fn identify(
        &mut self,
        connection: ConnectionId,
        connect: &Connect<'_>,
    ) -> Option<ReasonCode> {
        let will = connect.will.as_ref();
        let topic = will.map_or("", |will| {
            split(will.topic).map_or(will.topic, |(_, topic)| topic)
        });
        if let Some(reason) = reserved(topic) {
            return Some(reason);
        }
        let user: Option<Box<str>> = self.user_of(connection, connect).map(Into::into);
        if user.is_none() && self.config.rules.is_none() {
            return None;
        }
        let link = self.connections.get_mut(&connection)?;
        let identity = link.identity.get_or_insert_default();
        identity.user = user;
        let who = Who {
            user: identity.user.as_deref(),
            client: connect.client_id,
            address: identity.address,
        };
        let rules = self.config.rules.as_deref()?;
        let is_denied = will.is_some() && !rules.allow(&who, Action::Publish, topic);
        self.counters.denied += u64::from(is_denied);
        is_denied.then_some(ReasonCode::NotAuthorized)
    }

    /// Whether a session's client may do this. Costs nothing where there are no rules.
    pub(crate) fn may(&mut self, connection: ConnectionId, action: Action, filter: &str) -> bool {
        let Some(rules) = self.config.rules.as_deref() else {
            return true;
        };
        let Some(who) = self.who(connection) else {
            return false;
        };
        let may = rules.allow(&who, action, filter);
        self.counters.denied += u64::from(!may);
        may
    }

    /// Who is behind a connection with a session.
    pub(crate) fn who(&self, connection: ConnectionId) -> Option<Who<'_>> {
        let link = self.connections.get(&connection)?;
        let client = link.client.and_then(|index| self.clients.get(index));
        let identity = link.identity.as_deref();
        Some(Who {
            user: identity.and_then(|own| own.user.as_deref()),
            client: client.map_or("", |client| client.session.client_id.as_ref()),
            address: identity.and_then(|own| own.address),
        })
    }

    /// Who connects: the user that was proved, or the one that CONNECT names.
    pub(crate) fn user_of<'a>(
        &'a self,
        connection: ConnectionId,
        connect: &Connect<'a>,
    ) -> Option<&'a str> {
        let link = self.connections.get(&connection)?;
        let proved = link.authentication.as_deref();
        let proved = proved.map(|own| own.admission.user.as_ref());
        proved.or(connect.user_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Who<'_> = Who {
        user: Some("ann"),
        client: "c1",
        address: Some(IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 7))),
    };

    fn rule(allows: bool, topic: &str) -> Rule {
        Rule {
            allows,
            user: None,
            client: None,
            address: None,
            action: None,
            topics: vec![Pattern::parse(topic).unwrap()],
        }
    }

    #[track_caller]
    fn check(pattern: &str, filter: &str, covers: bool, meets: bool) {
        let pattern = Pattern::parse(pattern).unwrap();
        let got = (pattern.covers(filter, &WHO), pattern.meets(filter, &WHO));
        assert_eq!(got, (covers, meets), "{pattern:?} {filter}");
    }

    #[test]
    fn filters_cover_and_meet_filters() {
        check("a/b", "a/b", true, true);
        check("a/b", "a/c", false, false);
        check("a/b", "a/+", false, true);
        check("a/b", "#", false, true);
        check("a/b", "a/b/#", false, true);
        check("a/b", "a", false, false);
        check("a/+", "a/+", true, true);
        check("a/+", "a/#", false, true);
        check("a/+", "+/b", false, true);
        check("a/#", "a", true, true);
        check("a/#", "a/+/c/#", true, true);
        check("a/#", "+/b", false, true);
        check("#", "$SYS/x", true, true);
        check("+/#", "#", false, true);
    }

    #[test]
    fn names_stand_for_one_level_and_are_no_wildcards() {
        check("d/%c/%u-x", "d/c1/ann-x", true, true);
        check("d/%c/%u-x", "d/c1/bob-x", false, false);
        check("%u%c", "annc1", true, true);
        check("%u%c", "annc12", false, false);
        let tricky = |client| Who { client, ..WHO };
        let own = Pattern::parse("d/%c").unwrap();
        assert!(!own.covers("d/+", &tricky("+")) && !own.covers("d/#", &tricky("#")));
        assert!(!own.covers("d/a/b", &tricky("a/b")));
        let nobody = Who { user: None, ..WHO };
        let own = Pattern::parse("d/%u").unwrap();
        assert!(!own.covers("d/", &nobody) && !own.meets("d/ann", &nobody));
        for bad in ["", "a/#/b", "a+", "$share/g/a", "$queue/a"] {
            assert_eq!(Pattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let rules = |rules, otherwise_allows| Rules {
            rules,
            otherwise_allows,
        };
        let ask = |rules: &Rules, filter| rules.allow(&WHO, Action::Subscribe, filter);
        let some = rules(vec![rule(true, "a/b"), rule(false, "a/#")], true);
        assert!(ask(&some, "a/b") && ask(&some, "b"));
        // They would bring what is denied.
        assert!(!ask(&some, "a/+") && !ask(&some, "#") && !ask(&some, "+/c"));
        let only = rules(vec![rule(true, "a/#")], false);
        assert!(ask(&only, "a/+") && !ask(&only, "#") && !ask(&only, "b"));
    }

    #[test]
    fn a_rule_applies_to_whom_it_names() {
        let applies = |change: fn(&mut Rule)| {
            let mut one = rule(true, "#");
            change(&mut one);
            one.applies(&WHO, Action::Publish, "a")
        };
        assert!(applies(|one| one.user = Some("ann".to_owned())));
        assert!(!applies(|one| one.user = Some("an".to_owned())));
        assert!(applies(|one| one.client = Some("c1".to_owned())));
        assert!(!applies(|one| one.client = Some("c".to_owned())));
        assert!(applies(|one| one.action = Some(Action::Publish)));
        assert!(!applies(|one| one.action = Some(Action::Subscribe)));
        assert!(applies(|one| one.address = Network::parse("192.0.2.0/24")));
        assert!(!applies(|one| one.address = Network::parse("192.0.2.6")));
        assert!(applies(|one| one.topics.clear()));
        assert!(Network::parse("::/0").unwrap().has(WHO.address.unwrap()));
        assert!(!Network::parse("::1").unwrap().has(WHO.address.unwrap()));
        for bad in [
            "",
            "x",
            "192.0.2.0/33",
            "::/129",
            "192.0.2.0/",
            "192.0.2.0/-1",
        ] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
