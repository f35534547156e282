//! Rewriting: what clients publish and subscribe to becomes something else, by rules of the
//! operator (docs/topics.md).
//!
//! A rule's `from` is a filter as in [`crate::rules`], and each of its wildcards is a part with a
//! number. A subscription is rewritten by a rule that covers all of it; then a part may have
//! wildcards itself. Of all rules that match, the last one counts, and its result is not rewritten
//! again.

use std::fmt;

use std::sync::Arc;

use engine_mqtt::{Connect, ReasonCode};
use engine_session::Now;
use engine_topic::{Filter, TopicName, is_shared};
use smallvec::SmallVec;

use crate::auto_subscribe::AutoSubscription;
use crate::delayed::{join, split};
use crate::port::ConnectionId;
use crate::rules::{Action, Level, Pattern, Who};
use crate::shard::Shard;
use crate::template::{Template, TemplateError};

/// What the wildcards of a pattern stand for; `None`: a `#` for nothing at all.
pub(crate) type Parts<'a> = SmallVec<[Option<&'a str>; 8]>;

/// Why a rule is none.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RewriteError {
    /// `from` is no filter, or that of a shared subscription.
    From(String),
    /// `to` names a part that `from`, with so many wildcards, does not have.
    Part {
        /// The number in `to`.
        number: usize,
        /// How many `from` has.
        parts: usize,
    },
    /// What becomes of `to` is no topic name.
    Name(String),
    /// What becomes of `to` is no filter, or that of a shared subscription.
    Filter(String),
}

impl fmt::Display for RewriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(text) => write!(
                f,
                "from is \"{text}\" but must be a topic filter, and none of a shared subscription"
            ),
            Self::Part { number, parts } => write!(
                f,
                "to names part ${number}, and from has {parts} wildcards: parts begin with $1"
            ),
            Self::Name(text) => write!(
                f,
                "to is \"{text}\" but must give a topic name; wildcards need action = \"subscribe\""
            ),
            Self::Filter(text) => write!(
                f,
                "to is \"{text}\" but must give a topic filter, and none of a shared subscription"
            ),
        }
    }
}

impl std::error::Error for RewriteError {}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// `None`: publications and subscriptions.
    action: Option<Action>,
    from: Pattern,
    to: Template,
}

impl Rewrite {
    /// Reads a rule for publications, for subscriptions or for both (`None`).
    ///
    /// # Errors
    /// [`RewriteError`] says which of the texts cannot be used, and why.
    pub fn new(action: Option<Action>, from: &str, to: &str) -> Result<Self, RewriteError> {
        let pattern = Pattern::parse(from).ok_or_else(|| RewriteError::From(from.to_owned()))?;
        let parts = pattern.parts();
        let template = Template::parse(to, parts)
            .map_err(|TemplateError { number }| RewriteError::Part { number, parts })?;
        let sample = Who {
            user: Some("user"),
            client: "client",
            address: None,
        };
        let sample_parts: Parts<'_> = std::iter::repeat_n(Some("part"), parts).collect();
        let text = template.fill(&sample, &sample_parts).unwrap_or_default();
        let is_filter = Filter::parse(&text).is_ok_and(|filter| filter.share.is_none());
        if !is_filter {
            return Err(RewriteError::Filter(to.to_owned()));
        }
        if action != Some(Action::Subscribe) && TopicName::parse(&text).is_err() {
            return Err(RewriteError::Name(to.to_owned()));
        }
        Ok(Self {
            action,
            from: pattern,
            to: template,
        })
    }
}

/// A name that has no place in a topic: the rule can't be obeyed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unnamed;

/// What an operator's lists make of topics.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct TopicRules {
    /// Rules that rewrite.
    pub rewrites: Option<Arc<Rewrites>>,
    /// Subscriptions that every client has.
    pub auto_subscriptions: Option<Arc<[AutoSubscription]>>,
}

/// All rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrites {
    /// The last one first.
    rules: Vec<Rewrite>,
}

impl Rewrites {
    /// These rules, in the operator's order.
    #[must_use]
    pub fn new(mut rules: Vec<Rewrite>) -> Self {
        rules.reverse();
        Self { rules }
    }

    /// What becomes of a topic name, or of a filter without its share; `None`: it stays.
    fn apply(&self, who: &Who<'_>, action: Action, text: &str) -> Result<Option<String>, Unnamed> {
        let mut parts = Parts::new();
        for rule in &self.rules {
            if rule.action.is_some_and(|own| own != action) {
                continue;
            }
            parts.clear();
            if rule.from.captures(text, who, &mut parts) {
                return rule.to.fill(who, &parts).map(Some).ok_or(Unnamed);
            }
        }
        Ok(None)
    }
}

impl Pattern {
    /// How many wildcards it has.
    fn parts(&self) -> usize {
        let is_wild = |level: &&Level| matches!(level, Level::One | Level::Rest);
        self.0.iter().filter(is_wild).count()
    }

    /// Whether it matches everything that `filter` matches, by MQTT's own rule for `$` at the
    /// beginning [MQTT-4.7.2-1]; then `parts` has what its wildcards stand for.
    fn captures<'a>(&self, filter: &'a str, who: &Who<'_>, parts: &mut Parts<'a>) -> bool {
        let is_open = matches!(self.0.first(), Some(Level::One | Level::Rest));
        if is_open && filter.starts_with('$') {
            return false;
        }
        let mut rest = Some(filter);
        for level in &self.0 {
            if *level == Level::Rest {
                parts.push(rest);
                return true;
            }
            let Some(text) = rest else {
                return false;
            };
            let (first, behind) = match text.split_once('/') {
                Some((first, behind)) => (first, Some(behind)),
                None => (text, None),
            };
            let fits = match level {
                Level::Pieces(pieces) => first != "+" && who.is_named(pieces, first),
                Level::One | Level::Rest => true,
            };
            // What matches many levels is not covered by what matches one.
            if first == "#" || !fits {
                return false;
            }
            if *level == Level::One {
                parts.push(Some(first));
            }
            rest = behind;
        }
        rest.is_none()
    }
}

impl Shard {
    /// Other rules and subscriptions that every client has, from now on: for what is published and
    /// subscribed, and for who connects. What was subscribed to stays.
    pub fn set_topics(&mut self, now: Now, topics: TopicRules) {
        self.begin_call(now);
        self.config.rewrites = topics.rewrites;
        self.config.auto_subscriptions = topics.auto_subscriptions;
    }

    /// The topic that a publication goes to instead.
    ///
    /// # Errors
    /// [`ReasonCode::TopicNameInvalid`]: a rule applies, and gives no topic name.
    pub(crate) fn rewritten_topic(
        &mut self,
        connection: ConnectionId,
        topic: &str,
    ) -> Result<Option<String>, ReasonCode> {
        if self.config.rewrites.is_none() {
            return Ok(None);
        }
        let rewritten = self.rewritten(connection, Action::Publish, topic);
        let checked = match rewritten {
            Ok(Some(text)) if !self.is_topic_name(&text) => Err(Unnamed),
            other => other,
        };
        self.count_rewritten(&checked);
        checked.map_err(|_| ReasonCode::TopicNameInvalid)
    }

    /// The filter that a subscription is to instead, with its share.
    ///
    /// # Errors
    /// [`ReasonCode::TopicFilterInvalid`]: a rule applies, and gives no filter.
    pub(crate) fn rewritten_filter(
        &mut self,
        connection: ConnectionId,
        filter: &str,
    ) -> Result<Option<String>, ReasonCode> {
        if self.config.rewrites.is_none() {
            return Ok(None);
        }
        let Ok(parsed) = Filter::parse(filter) else {
            return Ok(None);
        };
        let share = filter.strip_suffix(parsed.text).unwrap_or_default();
        let rewritten = self.rewritten(connection, Action::Subscribe, parsed.text);
        let checked = match rewritten {
            Ok(Some(text)) => {
                let whole = format!("{share}{text}");
                let is_filter = Filter::parse(&whole).is_ok() && !is_shared(&text);
                let fits = is_filter && self.is_short(&whole);
                fits.then_some(Some(whole)).ok_or(Unnamed)
            }
            other => other,
        };
        self.count_rewritten(&checked);
        checked.map_err(|_| ReasonCode::TopicFilterInvalid)
    }

    /// The topic of a will in CONNECT; empty when a rule applies and gives none. A client that
    /// leaves it to the node to choose its id has no name yet.
    pub(crate) fn rewritten_will(
        &mut self,
        connection: ConnectionId,
        connect: &Connect<'_>,
    ) -> Option<String> {
        let rewrites = self.config.rewrites.as_deref()?;
        let will = connect.will.as_ref()?;
        if TopicName::parse(will.topic).is_err() {
            return None;
        }
        let (delay_s, topic) = split(will.topic).ok()?;
        let who = Who {
            user: self.user_of(connection, connect),
            client: connect.client_id,
            address: None,
        };
        let rewritten = rewrites.apply(&who, Action::Publish, topic);
        self.count_rewritten(&rewritten);
        let rewritten = rewritten.unwrap_or_else(|_| Some(String::new()))?;
        Some(join(delay_s, rewritten))
    }

    fn rewritten(
        &self,
        connection: ConnectionId,
        action: Action,
        text: &str,
    ) -> Result<Option<String>, Unnamed> {
        let Some(rewrites) = self.config.rewrites.as_deref() else {
            return Ok(None);
        };
        self.who(connection)
            .map_or(Ok(None), |who| rewrites.apply(&who, action, text))
    }

    fn count_rewritten(&mut self, rewritten: &Result<Option<String>, Unnamed>) {
        let changes = rewritten.as_ref().is_ok_and(Option::is_some);
        self.counters.rewritten += u64::from(changes);
        self.counters.rewrites_refused += u64::from(rewritten.is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Who<'_> = Who {
        user: Some("ann"),
        client: "c1",
        address: None,
    };

    fn rules(all: &[(Option<Action>, &str, &str)]) -> Rewrites {
        let rule =
            |(action, from, to): &(Option<Action>, &str, &str)| Rewrite::new(*action, from, to);
        Rewrites::new(all.iter().map(|one| rule(one).unwrap()).collect())
    }

    /// What one rule makes of a text; the text itself when it does not apply.
    #[track_caller]
    fn check(from: &str, to: &str, text: &str, expected: &str) {
        let rules = rules(&[(Some(Action::Subscribe), from, to)]);
        let got = rules.apply(&WHO, Action::Subscribe, text).unwrap();
        let got = got.unwrap_or_else(|| text.to_owned());
        assert_eq!(got, expected, "{from} -> {to}: {text}");
    }

    #[test]
    fn parts_go_where_they_are_named() {
        check("a/+/c/+", "x/$2/$1", "a/b/c/d", "x/d/b");
        check("a/+/c/+", "x/$2/$1", "a/b/c", "a/b/c");
        check("a/+/c/+", "x/$2/$1", "a/b/c/d/e", "a/b/c/d/e");
        check("a/+", "n-$1-$1/y", "a/b", "n-b-b/y");
        check("a/+", "x/$1", "a/", "x/");
        check("a/b", "x/y", "a/b", "x/y");
        check("a/b", "x/y", "a/c", "a/c");
        check("+/#", "$2/$1", "a/b/c", "b/c/a");
    }

    #[test]
    fn the_rest_is_one_part_and_may_be_nothing() {
        check("a/#", "x/$1", "a/b/c", "x/b/c");
        check("a/#", "x/$1", "a/", "x/");
        check("a/#", "x/$1", "a", "x");
        check("a/#", "x/$1/y", "a", "x/y");
        check("a/#", "$1/y", "a", "y");
        check("a/#", "x-$1", "a", "x-");
        check("#", "x/$1", "a/b", "x/a/b");
    }

    #[test]
    fn a_rule_applies_to_filters_that_it_covers() {
        check("a/+/#", "x/$1/$2", "a/+/#", "x/+/#");
        check("a/+/#", "x/$1/$2", "a/b/+/c", "x/b/+/c");
        check("a/+/#", "x/$1/$2", "a/#", "a/#");
        check("a/#", "x/$1", "a/#", "x/#");
        check("a/#", "x/$1", "#", "#");
        check("a/#", "x/$1", "+/b", "+/b");
        check("a/+", "x/$1", "a/+", "x/+");
        check("a/b", "x/y", "a/+", "a/+");
    }

    /// [MQTT-4.7.2-1]
    #[test]
    fn a_wildcard_at_the_beginning_leaves_hidden_topics_alone() {
        check("#", "x/$1", "$SYS/a", "$SYS/a");
        check("+/a", "x/$1", "$SYS/a", "$SYS/a");
        check("$SYS/#", "x/$1", "$SYS/a", "x/a");
    }

    #[test]
    fn names_stand_for_the_client_and_its_user() {
        check("d/%c/#", "t/%u/%c/$1", "d/c1/a", "t/ann/c1/a");
        check("d/%c/#", "t/%u/%c/$1", "d/c2/a", "d/c2/a");
        check("+", "%u-%c-$1", "a", "ann-c1-a");
        check("a", "100%/$x/%d", "a", "100%/$x/%d");
        let own = rules(&[(None, "#", "t/%c/$1")]);
        for client in ["", "+", "#", "a/b", "a+"] {
            let who = Who { client, ..WHO };
            let got = own.apply(&who, Action::Publish, "a");
            assert_eq!(got, Err(Unnamed), "{client}");
        }
        let nobody = Who { user: None, ..WHO };
        let by_user = rules(&[(None, "#", "t/%u/$1")]);
        assert_eq!(
            by_user.apply(&nobody, Action::Publish, "a"),
            Err(Unnamed),
            "no user"
        );
        let tricky = Who { client: "+", ..WHO };
        let from = rules(&[(None, "d/%c", "x")]);
        assert_eq!(from.apply(&tricky, Action::Subscribe, "d/+"), Ok(None));
    }

    #[test]
    fn the_last_rule_that_matches_counts_and_once() {
        let own = rules(&[
            (None, "a/#", "first/$1"),
            (Some(Action::Publish), "a/b", "second"),
            (Some(Action::Subscribe), "a/b", "third"),
            (None, "second", "never"),
        ]);
        let apply = |action, text| own.apply(&WHO, action, text).unwrap();
        assert_eq!(apply(Action::Publish, "a/b").as_deref(), Some("second"));
        assert_eq!(apply(Action::Subscribe, "a/b").as_deref(), Some("third"));
        assert_eq!(apply(Action::Publish, "a/c").as_deref(), Some("first/c"));
        assert_eq!(apply(Action::Publish, "b"), None);
    }

    /// All filters of up to three levels against all of up to three: a rule takes a topic when it
    /// matches, and a filter when every topic of that one matches; its parts are the text's own.
    #[test]
    fn a_rule_takes_what_it_covers_and_loses_none_of_it() {
        let levels = ["", "a", "b", "$c", "+", "#"];
        let longer = |text: &String| levels.map(|level| format!("{text}/{level}"));
        let one = levels.map(str::to_owned).to_vec();
        let two: Vec<_> = one.iter().flat_map(longer).collect();
        let three: Vec<_> = two.iter().flat_map(longer).collect();
        let is_filter = |text: &String| Filter::parse(text).is_ok();
        let all: Vec<_> = [one, two, three]
            .concat()
            .into_iter()
            .filter(is_filter)
            .collect();
        let is_name = |text: &&String| TopicName::parse(text).is_ok();
        let names = all.iter().filter(is_name).map(String::as_str);
        // Nothing is no name, but what is left below `/` as if it were one.
        let names: Vec<_> = names.chain([""]).collect();
        for from in &all {
            let mut number = 0;
            let mut own = |level| match level {
                "+" | "#" => {
                    number += 1;
                    format!("${number}")
                }
                other => other.to_owned(),
            };
            let to: Vec<_> = from.split('/').map(&mut own).collect();
            let rule = Rewrite {
                action: None,
                from: Pattern::parse(from).unwrap(),
                to: Template::parse(&to.join("/"), number).unwrap(),
            };
            let own = Rewrites::new(vec![rule]);
            for text in &all {
                let taken = own.apply(&WHO, Action::Subscribe, text).unwrap();
                let in_text = |name: &&&str| engine_topic::matches(text, name);
                let in_rule = |name: &&str| engine_topic::matches(from, name);
                let mut of_text = names.iter().filter(in_text);
                // These match the same topics, and no part of the one is a `+` of the other.
                let covers = of_text.all(in_rule) && (from.as_str(), text.as_str()) != ("+/#", "#");
                assert_eq!(taken.is_some(), covers, "{from} {text}");
                assert!(taken.is_none_or(|taken| taken == *text), "{from} {text}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let subscribe = Some(Action::Subscribe);
        let check = |action, from: &str, to: &str, expected: RewriteError| {
            assert_eq!(Rewrite::new(action, from, to), Err(expected));
        };
        for from in ["", "a+", "a/#/b", "$share/g/a", "$queue/a"] {
            check(None, from, "x", RewriteError::From(from.to_owned()));
        }
        let part = |number, parts| RewriteError::Part { number, parts };
        check(None, "a/+/#", "$3", part(3, 2));
        check(None, "a", "x/$1", part(1, 0));
        check(None, "a/+", "x/$0", part(0, 1));
        let huge = "$99999999999999999999999";
        check(None, "a/+", huge, part(usize::MAX, 1));
        for to in ["x/+", "#"] {
            check(None, "a", to, RewriteError::Name(to.to_owned()));
            let publish = Some(Action::Publish);
            check(publish, "a", to, RewriteError::Name(to.to_owned()));
            assert!(Rewrite::new(subscribe, "a", to).is_ok());
        }
        for to in ["", "x/#/y", "x+", "$share/g/a", "$queue/a"] {
            check(subscribe, "a", to, RewriteError::Filter(to.to_owned()));
        }
    }
}
