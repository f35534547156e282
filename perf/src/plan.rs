//! Who connects, publishes and subscribes to what: a scenario spelled out client by client.
//!
//! A stream is one (publisher, topic) pair. Streams are numbered so that every subscriber hears
//! one contiguous range of them, which lets it keep one tracker per stream in a plain vector:
//! publisher `p` owns the streams `p * topics .. (p + 1) * topics`; a subscriber hears those of its
//! own publisher (p2p), of its block of publishers (fanin) or all (fanout).
//! Publishers sit with their subscribers on one worker where that is possible.

use std::ops::Range;

use crate::settings::{Load, Scenario, Settings};

/// One client of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientPlan {
    /// Number of the client in the whole run.
    pub(crate) number: u32,
    /// The worker thread that runs it.
    pub(crate) worker: usize,
    pub(crate) role: RolePlan,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RolePlan {
    /// Only stays connected.
    Idle,
    /// Publishes its streams in turn.
    Publisher { publisher: u32, streams: Range<u32> },
    /// Hears a range of streams through some filters.
    Subscriber {
        streams: Range<u32>,
        filters: Vec<String>,
    },
}

/// All clients of a run, in the order in which they connect: subscribers first.
pub(crate) fn clients(settings: &Settings) -> Vec<ClientPlan> {
    let mut plan = Vec::new();
    match (settings.scenario, &settings.load) {
        (Scenario::Conn { clients }, _) => {
            plan.extend((0..clients).map(|_| (RolePlan::Idle, 0)));
            spread(&mut plan);
        }
        (scenario, Some(load)) => {
            subscribers(scenario, load, &mut plan);
            publishers(scenario, load, settings.target.threads, &mut plan);
        }
        (_, None) => {}
    }
    let threads = u32::try_from(settings.target.threads).unwrap_or(1);
    plan.into_iter()
        .zip(0..)
        .map(|((role, group), number)| {
            let worker = usize::try_from(group % threads).unwrap_or(0);
            ClientPlan {
                number,
                worker,
                role,
            }
        })
        .collect()
}

/// The topic of a stream.
pub(crate) fn topic(scenario: Scenario, load: &Load, stream: u32) -> String {
    let prefix = &load.topic_prefix;
    match scenario {
        Scenario::Conn { .. } | Scenario::P2p { .. } => format!("{prefix}/p2p/{stream}"),
        Scenario::Fanout { .. } => format!("{prefix}/fanout/{stream}"),
        Scenario::Fanin {
            publishers,
            subscribers,
        } => {
            let group = group_of(stream / load.topics, publishers, subscribers);
            format!("{prefix}/fanin/{group}/{stream}")
        }
    }
}

fn spread(plan: &mut [(RolePlan, u32)]) {
    for (client, group) in plan.iter_mut().zip(0..) {
        client.1 = group;
    }
}

fn subscribers(scenario: Scenario, load: &Load, plan: &mut Vec<(RolePlan, u32)>) {
    for subscriber in 0..scenario.subscriber_count() {
        let publishers = heard(scenario, subscriber);
        let streams = publishers.start * load.topics..publishers.end * load.topics;
        let filters = match scenario {
            Scenario::Fanin { .. } => vec![format!("{}/fanin/{subscriber}/+", load.topic_prefix)],
            Scenario::Fanout { wildcard: true, .. } => {
                vec![format!("{}/fanout/+", load.topic_prefix)]
            }
            Scenario::Conn { .. } | Scenario::P2p { .. } | Scenario::Fanout { .. } => streams
                .clone()
                .map(|stream| topic(scenario, load, stream))
                .collect(),
        };
        plan.push((RolePlan::Subscriber { streams, filters }, subscriber));
    }
}

fn publishers(scenario: Scenario, load: &Load, threads: usize, plan: &mut Vec<(RolePlan, u32)>) {
    for publisher in 0..scenario.publisher_count() {
        let streams = publisher * load.topics..(publisher + 1) * load.topics;
        let group = match scenario {
            // With fewer subscribers than threads, the publishers are what can be spread.
            Scenario::Fanin {
                publishers,
                subscribers,
            } if u64::from(subscribers) >= threads as u64 => {
                group_of(publisher, publishers, subscribers)
            }
            Scenario::Conn { .. }
            | Scenario::P2p { .. }
            | Scenario::Fanin { .. }
            | Scenario::Fanout { .. } => publisher,
        };
        plan.push((RolePlan::Publisher { publisher, streams }, group));
    }
}

/// The publishers that a subscriber hears.
fn heard(scenario: Scenario, subscriber: u32) -> Range<u32> {
    match scenario {
        Scenario::Conn { .. } => 0..0,
        Scenario::P2p { .. } => subscriber..subscriber + 1,
        Scenario::Fanout { publishers, .. } => 0..publishers,
        Scenario::Fanin {
            publishers,
            subscribers,
        } => {
            let bound = |group: u32| {
                let position = u64::from(group) * u64::from(publishers) / u64::from(subscribers);
                u32::try_from(position).unwrap_or(publishers)
            };
            bound(subscriber)..bound(subscriber + 1)
        }
    }
}

/// The subscriber whose block a fan-in publisher is in; 0 when there is none.
fn group_of(publisher: u32, publishers: u32, subscribers: u32) -> u32 {
    // The largest g with g * publishers / subscribers <= publisher.
    let position = (u64::from(publisher) + 1) * u64::from(subscribers);
    u32::try_from(position.saturating_sub(1) / u64::from(publishers.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn plan(arguments: &str) -> (Settings, Vec<ClientPlan>) {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap();
        let settings = Settings::parse(&cli.command).unwrap().unwrap();
        let clients = clients(&settings);
        (settings, clients)
    }

    fn matches(filter: &str, topic: &str) -> bool {
        filter.strip_suffix('+').map_or(filter == topic, |head| {
            topic
                .strip_prefix(head)
                .is_some_and(|rest| !rest.contains('/'))
        })
    }

    /// Every subscriber's filters match exactly the topics of the streams it is said to hear.
    #[track_caller]
    fn check(arguments: &str, client_count: usize) {
        let (settings, clients) = plan(arguments);
        assert_eq!(clients.len(), client_count);
        let load = settings.load.as_ref().unwrap();
        let stream_count = settings.scenario.publisher_count() * load.topics;
        let mut deliveries = 0;
        for client in &clients {
            assert!(client.worker < settings.target.threads);
            if let RolePlan::Subscriber { streams, filters } = &client.role {
                for stream in 0..stream_count {
                    let topic = topic(settings.scenario, load, stream);
                    let hits = filters
                        .iter()
                        .filter(|filter| matches(filter, &topic))
                        .count();
                    assert_eq!(hits, usize::from(streams.contains(&stream)), "{topic}");
                    deliveries += hits as u64;
                }
            }
        }
        assert_eq!(
            deliveries,
            u64::from(stream_count) * settings.scenario.fan_out()
        );
    }

    #[test]
    fn filters_match_the_streams_that_are_expected() {
        check("p2p --pairs 7 --topics 3", 14);
        check("fanin --publishers 50 --subscribers 1", 51);
        check(
            "fanin --publishers 10 --subscribers 3 --topics 2 --threads 4",
            13,
        );
        check("fanin --publishers 10 --subscribers 0", 10);
        check("fanout --publishers 2 --subscribers 9 --topics 2", 11);
        check("fanout --publishers 5 --subscribers 4 --wildcard", 9);
    }

    #[test]
    fn pairs_share_a_worker() {
        let (_, clients) = plan("p2p --pairs 10 --threads 3");
        let worker_of = |wanted: u32| {
            let found = clients.iter().filter(|client| match &client.role {
                RolePlan::Publisher { streams, .. } | RolePlan::Subscriber { streams, .. } => {
                    streams.contains(&wanted)
                }
                RolePlan::Idle => false,
            });
            found.map(|client| client.worker).collect::<Vec<_>>()
        };
        for stream in 0..10 {
            let workers = worker_of(stream);
            assert_eq!(workers.len(), 2);
            assert_eq!(workers[0], workers[1], "pair {stream}");
        }
    }

    #[test]
    fn idle_clients_are_spread_over_the_workers() {
        let (_, clients) = plan("conn --clients 10 --threads 3");
        for worker in 0..3 {
            assert!(
                clients
                    .iter()
                    .filter(|client| client.worker == worker)
                    .count()
                    >= 3
            );
        }
    }
}
