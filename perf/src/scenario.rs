//! Who talks to whom: the shape that every scenario is a case of.
//!
//! A stream is one (publisher, topic) pair. Streams are numbered so that every hearer (a
//! subscriber, or a shared group) hears one contiguous range of them, which lets it keep one
//! tracker per stream in a plain vector. Publisher `p` owns the streams
//! `p * topics .. (p + 1) * topics`, but where every subscriber has a topic that all publishers use
//! (`Hears::Topic`): there it owns `p, p + publishers, p + 2 * publishers, ...`.

use std::ops::Range;

use crate::error::BenchError;

/// The clients of a run, and what connects them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Clients that only stay connected.
    pub(crate) idle: u32,
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    /// Topics that a publisher uses in turn.
    pub(crate) topics: u32,
    /// Whether all publishers use the same topics rather than topics of their own.
    pub(crate) common_topics: bool,
    pub(crate) hears: Hears,
    pub(crate) filters: Filters,
    pub(crate) flow: Flow,
}

/// Which streams a subscriber hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hears {
    /// Subscriber i those of publisher i.
    Own,
    /// Each a block of publishers.
    Block,
    /// Everything.
    All,
    /// The members of a shared group together a block of publishers.
    Share { groups: u32 },
    /// Subscriber i the topic i of every publisher.
    Topic,
    /// Subscriber 0 all publishers but the last ones, which each have a subscriber of their own.
    Slow { canaries: u32, per_second: u64 },
    /// Each a slice of so many streams; slices are heard by several when there are few.
    Slice { streams: u32 },
}

/// How a subscriber asks for what it hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Filters {
    /// One exact filter per topic.
    Exact,
    /// One filter that ends in `+`.
    Plus,
    /// One filter that ends in `#`.
    Hash,
}

/// What is done in which order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Connect, hold, disconnect.
    Hold,
    /// Connect and subscribe, publish, drain.
    Load,
    /// Publish retained messages, then subscribe; remove them unless told to keep them.
    Retained { keep: bool },
    /// Subscribe, leave, publish so many for each, restart the broker with a command, come back.
    Offline {
        messages: u32,
        restart: Option<String>,
    },
}

impl Scenario {
    /// Clients of the whole run.
    pub(crate) fn client_count(&self) -> u64 {
        u64::from(self.idle) + u64::from(self.publishers) + u64::from(self.subscribers)
    }

    pub(crate) fn stream_count(&self) -> u64 {
        u64::from(self.publishers) * u64::from(self.topics)
    }

    /// How many hearers hear each message.
    pub(crate) fn fan_out(&self) -> u64 {
        match self.hears {
            Hears::All => u64::from(self.subscribers),
            Hears::Slice { streams } => {
                let slices = self.stream_count() / u64::from(streams.max(1));
                u64::from(self.subscribers) / slices.max(1)
            }
            Hears::Own | Hears::Block | Hears::Share { .. } | Hears::Topic | Hears::Slow { .. } => {
                u64::from(self.subscribers.min(1))
            }
        }
    }

    /// The stream of a publisher's topic number `turn`.
    pub(crate) fn stream(&self, publisher: u32, turn: u32) -> u32 {
        if self.hears == Hears::Topic {
            turn * self.publishers + publisher
        } else {
            publisher * self.topics + turn
        }
    }

    /// Whose stream it is, and which of its topics.
    pub(crate) fn publisher_of(&self, stream: u32) -> (u32, u32) {
        let (publishers, topics) = (self.publishers.max(1), self.topics.max(1));
        if self.hears == Hears::Topic {
            (stream % publishers, stream / publishers)
        } else {
            (stream / topics, stream % topics)
        }
    }

    /// The order in which a publisher uses its topics: its own where subscribers are picked at
    /// random, else as they are numbered.
    pub(crate) fn turns(&self, publisher: u32) -> impl Iterator<Item = u32> + use<> {
        let count = u64::from(self.topics.max(1));
        let (step, start) = if self.hears == Hears::Topic {
            (coprime_step(count), u64::from(publisher) * 7_919)
        } else {
            (1, 0)
        };
        (0..count).map(move |n| u32::try_from((start + n * step) % count).unwrap_or(0))
    }

    /// The streams that subscriber number `subscriber` hears, alone or with its group.
    pub(crate) fn heard(&self, subscriber: u32) -> Range<u32> {
        let of =
            |publishers: Range<u32>| publishers.start * self.topics..publishers.end * self.topics;
        match self.hears {
            Hears::Own => of(subscriber..subscriber + 1),
            Hears::All => of(0..self.publishers),
            Hears::Block => of(self.block(subscriber, self.subscribers)),
            Hears::Share { groups } => of(self.block(self.group_of_member(subscriber), groups)),
            Hears::Topic => subscriber * self.publishers..(subscriber + 1) * self.publishers,
            Hears::Slow { canaries, .. } => {
                let fed = self.publishers - canaries;
                match subscriber {
                    0 => of(0..fed),
                    canary => of(fed + canary - 1..fed + canary),
                }
            }
            Hears::Slice { streams } => {
                let slice = self.slice_of_subscriber(subscriber, streams);
                slice * streams..(slice + 1) * streams
            }
        }
    }

    /// The group a subscriber shares with others; `None` when it hears for itself.
    pub(crate) fn group(&self, subscriber: u32) -> Option<u32> {
        matches!(self.hears, Hears::Share { .. }).then(|| self.group_of_member(subscriber))
    }

    /// Messages per second that a subscriber reads at most; `None`: as fast as it can.
    pub(crate) fn read_rate(&self, subscriber: u32) -> Option<u64> {
        if let Hears::Slow { per_second, .. } = self.hears
            && subscriber == 0
        {
            return Some(per_second);
        }
        None
    }

    /// The topic of a stream.
    pub(crate) fn topic(&self, prefix: &str, stream: u32) -> String {
        let name = self.name;
        let (publisher, turn) = self.publisher_of(stream);
        let leaf = if self.common_topics { turn } else { stream };
        match self.level(publisher, stream) {
            Some(level) => format!("{prefix}/{name}/{level}/{leaf}"),
            None => format!("{prefix}/{name}/{leaf}"),
        }
    }

    /// What a subscriber asks for.
    pub(crate) fn filters(&self, prefix: &str, subscriber: u32) -> Vec<String> {
        let name = self.name;
        let streams = self.heard(subscriber);
        let (publisher, _) = self.publisher_of(streams.start);
        let level = self
            .level(publisher, streams.start)
            .map_or_else(String::new, |level| format!("/{level}"));
        let group = match self.group(subscriber) {
            Some(group) => format!("$share/group{group}/"),
            None => String::new(),
        };
        match self.filters {
            Filters::Plus => vec![format!("{group}{prefix}/{name}{level}/+")],
            Filters::Hash => vec![format!("{group}{prefix}/{name}{level}/#")],
            Filters::Exact => {
                let mut topics: Vec<String> = streams
                    .map(|stream| format!("{group}{}", self.topic(prefix, stream)))
                    .collect();
                if self.common_topics {
                    topics.sort_unstable();
                    topics.dedup();
                }
                topics
            }
        }
    }

    /// Which worker-sized group a publisher belongs to: its hearer's, so that both sit on one
    /// worker where that is possible.
    pub(crate) fn worker_group(&self, publisher: u32, threads: usize) -> u32 {
        let hearers = match self.hears {
            Hears::Block => self.subscribers,
            Hears::Share { groups } => groups,
            Hears::Own | Hears::All | Hears::Topic | Hears::Slow { .. } | Hears::Slice { .. } => {
                return publisher;
            }
        };
        // With fewer hearers than threads, the publishers are what can be spread.
        if u64::from(hearers) < threads as u64 {
            return publisher;
        }
        group_of(publisher, self.publishers, hearers)
    }

    /// The topic level that keeps one hearer's streams together, where there is one.
    fn level(&self, publisher: u32, stream: u32) -> Option<u32> {
        match self.hears {
            Hears::Own if self.filters == Filters::Exact => None,
            Hears::Own => Some(publisher),
            Hears::All | Hears::Topic => None,
            Hears::Block => Some(group_of(publisher, self.publishers, self.subscribers)),
            Hears::Share { groups } => Some(group_of(publisher, self.publishers, groups)),
            Hears::Slow { canaries, .. } => {
                Some((publisher + 1).saturating_sub(self.publishers - canaries))
            }
            Hears::Slice { streams } => Some(stream / streams.max(1)),
        }
    }

    /// The publishers of one of `count` blocks.
    fn block(&self, number: u32, count: u32) -> Range<u32> {
        let bound = |number: u32| {
            let position = u64::from(number) * u64::from(self.publishers) / u64::from(count.max(1));
            u32::try_from(position).unwrap_or(self.publishers)
        };
        bound(number)..bound(number + 1)
    }

    fn group_of_member(&self, subscriber: u32) -> u32 {
        if let Hears::Share { groups } = self.hears {
            group_of(subscriber, self.subscribers, groups)
        } else {
            subscriber
        }
    }

    fn slice_of_subscriber(&self, subscriber: u32, streams: u32) -> u32 {
        let slices = self.stream_count() / u64::from(streams.max(1));
        u32::try_from(u64::from(subscriber) % slices.max(1)).unwrap_or(0)
    }

    /// Refuses shapes that make no sense.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        let (publishers, subscribers) = (self.publishers, self.subscribers);
        let fits_all = matches!(self.hears, Hears::All | Hears::Topic);
        if self.common_topics && !fits_all {
            return refuse("--common-topics only goes with --hears all and topic".to_owned());
        }
        match self.hears {
            Hears::Block if subscribers > publishers => refuse(format!(
                "--subscribers {subscribers} is more than --publishers {publishers}: in {} every \
                 subscriber has publishers of its own",
                self.name
            )),
            Hears::Own if subscribers > 0 && subscribers != publishers => refuse(format!(
                "--subscribers {subscribers} and --publishers {publishers} must be the same: each \
                 publisher has one subscriber"
            )),
            Hears::Share { groups } if groups == 0 || groups > publishers.min(subscribers) => {
                refuse(format!(
                    "--groups {groups} must be between 1 and the smaller of --publishers \
                     {publishers} and --subscribers {subscribers}"
                ))
            }
            Hears::Slow { canaries, .. } if canaries >= publishers => refuse(format!(
                "--canaries {canaries} leave none of {publishers} publishers to the slow subscriber"
            )),
            Hears::Slice { streams }
                if streams == 0 || !self.stream_count().is_multiple_of(u64::from(streams)) =>
            {
                refuse(format!(
                    "--matching {streams} must divide the {} retained messages",
                    self.stream_count()
                ))
            }
            Hears::Own
            | Hears::Block
            | Hears::All
            | Hears::Share { .. }
            | Hears::Topic
            | Hears::Slow { .. }
            | Hears::Slice { .. } => Ok(()),
        }
    }
}

fn refuse(text: String) -> Result<(), BenchError> {
    Err(BenchError::Options(text))
}

/// The block that a number is in when `count` of them are cut into `groups` blocks.
fn group_of(number: u32, count: u32, groups: u32) -> u32 {
    // The largest g with g * count / groups <= number.
    let position = (u64::from(number) + 1) * u64::from(groups);
    u32::try_from(position.saturating_sub(1) / u64::from(count.max(1))).unwrap_or(0)
}

/// A step that visits all of `count` places, far from its neighbours.
fn coprime_step(count: u64) -> u64 {
    let is_coprime = |step: u64| {
        let (mut a, mut b) = (step, count);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let start = count * 618 / 1_000;
    (start.max(1)..).find(|step| is_coprime(*step)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_order_visits_every_topic_once() {
        for count in 1..200 {
            let scenario = Scenario {
                name: "rmqtt",
                idle: 0,
                publishers: 3,
                subscribers: count,
                topics: count,
                common_topics: true,
                hears: Hears::Topic,
                filters: Filters::Exact,
                flow: Flow::Load,
            };
            for publisher in 0..3 {
                let mut turns: Vec<u32> = scenario.turns(publisher).collect();
                turns.sort_unstable();
                assert_eq!(turns, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn blocks_and_their_members_agree() {
        for (count, groups) in [(10, 3), (7, 7), (1_000, 13), (5, 1)] {
            for number in 0..count {
                let group = group_of(number, count, groups);
                let start = group * count / groups;
                let end = (group + 1) * count / groups;
                assert!(
                    (start..end).contains(&number),
                    "{number} of {count}/{groups}"
                );
            }
        }
    }
}
