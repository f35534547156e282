//! The clients of a run, one by one: what `scenario` means for each of them.
//!
//! Publishers sit with their subscribers on one worker where that is possible, and the members of a
//! shared group always do.

use std::ops::Range;

use crate::scenario::Scenario;
use crate::settings::{Settings, Stage};

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
    Publisher { publisher: u32 },
    /// Hears a range of streams through some filters.
    Subscriber {
        streams: Range<u32>,
        filters: Vec<String>,
        /// The shared group that hears them; `None`: this subscriber alone.
        group: Option<u32>,
        /// Messages per second that it reads at most.
        read_rate: Option<u64>,
    },
}

/// The clients of a stage, in the order in which they connect: subscribers first.
pub(crate) fn clients(settings: &Settings) -> Vec<ClientPlan> {
    let scenario = &settings.scenario;
    let mut plan: Vec<(RolePlan, u32)> = (0..scenario.idle).map(|n| (RolePlan::Idle, n)).collect();
    if let Some(load) = &settings.load {
        let prefix = &load.topic_prefix;
        plan.extend((0..scenario.subscribers).map(|n| subscriber(scenario, prefix, n)));
        plan.extend((0..scenario.publishers).map(|publisher| {
            let group = scenario.worker_group(publisher, settings.target.threads);
            (RolePlan::Publisher { publisher }, group)
        }));
    }
    let threads = u32::try_from(settings.target.threads).unwrap_or(1);
    plan.into_iter()
        .zip(0..)
        .filter(|((role, _), _)| settings.stage.includes(role))
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

fn subscriber(scenario: &Scenario, prefix: &str, number: u32) -> (RolePlan, u32) {
    let group = scenario.group(number);
    let role = RolePlan::Subscriber {
        streams: scenario.heard(number),
        filters: scenario.filters(prefix, number),
        group,
        read_rate: scenario.read_rate(number),
    };
    (role, group.unwrap_or(number))
}

impl Stage {
    /// Whether clients of this role take part.
    fn includes(self, role: &RolePlan) -> bool {
        match self {
            Self::Whole => true,
            Self::Park | Self::CatchUp { .. } => !matches!(role, RolePlan::Publisher { .. }),
            Self::Fill | Self::Clear => matches!(role, RolePlan::Publisher { .. }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &str) -> (Settings, Vec<ClientPlan>) {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        let cli = crate::parse(words).unwrap();
        let settings = Settings::parse(&cli.command).unwrap().unwrap();
        let clients = clients(&settings);
        (settings, clients)
    }

    fn matches(filter: &str, topic: &str) -> bool {
        let (head, last) = filter.rsplit_once('/').unwrap();
        match last {
            "+" => topic
                .strip_prefix(head)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| !rest.contains('/')),
            "#" => topic
                .strip_prefix(head)
                .is_some_and(|rest| rest.starts_with('/')),
            _ => filter == topic,
        }
    }

    /// Every subscriber's filters match exactly the topics of the streams it is said to hear.
    #[track_caller]
    fn check(arguments: &str, client_count: usize) {
        let (settings, clients) = plan(arguments);
        let scenario = &settings.scenario;
        assert_eq!(clients.len(), client_count);
        let stream_count = u32::try_from(scenario.stream_count()).unwrap();
        let mut deliveries = 0;
        let mut groups_seen = std::collections::HashSet::new();
        for client in &clients {
            assert!(client.worker < settings.target.threads);
            let RolePlan::Subscriber {
                streams,
                filters,
                group,
                ..
            } = &client.role
            else {
                continue;
            };
            let counts = group.is_none_or(|group| groups_seen.insert(group));
            for stream in 0..stream_count {
                let topic = scenario.topic("corelane-bench", stream);
                let share = group.map(|group| format!("$share/group{group}/"));
                let hits = filters
                    .iter()
                    .map(|filter| match &share {
                        Some(share) => filter.strip_prefix(share.as_str()).unwrap(),
                        None => filter,
                    })
                    .filter(|filter| matches(filter, &topic))
                    .count();
                assert_eq!(hits, usize::from(streams.contains(&stream)), "{topic}");
                deliveries += u64::from(counts) * hits as u64;
            }
        }
        assert_eq!(deliveries, u64::from(stream_count) * scenario.fan_out());
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
    fn filters_of_the_presets_match_the_streams_that_are_expected() {
        check("shared --publishers 50 --subscribers 6", 56);
        check(
            "emqx-ref --part fan-in --publishers 40 --subscribers 10 --groups 4",
            50,
        );
        check(
            "emqx-ref --part fan-out --publishers 4 --subscribers 20",
            24,
        );
        check("tbmq --publishers 3 --subscribers 4", 7);
        check("tbmq --part p2p --publishers 5 --subscribers 5", 10);
        check("rmqtt --publishers 2 --subscribers 11", 13);
        check("nanomq --publishers 4 --subscribers 5", 9);
        check("slow-sub --publishers 9 --canaries 3", 13);
        check(
            "retained --publishers 2 --retained 40 --matching 10 --subscribers 8",
            10,
        );
        check("offline --publishers 2 --sessions 5", 7);
        check("durable-fan --subscribers 5", 6);
        check("sub-rate --topics 20", 2);
        check(
            "plan --hears own --filters hash --publishers 3 --subscribers 3",
            6,
        );
    }

    #[test]
    fn pairs_share_a_worker() {
        let (settings, clients) = plan("p2p --pairs 10 --threads 3");
        let worker_of = |wanted: u32| {
            let found = clients.iter().filter(|client| match &client.role {
                RolePlan::Publisher { publisher } => *publisher == wanted,
                RolePlan::Subscriber { streams, .. } => streams.contains(&wanted),
                RolePlan::Idle => false,
            });
            found.map(|client| client.worker).collect::<Vec<_>>()
        };
        assert_eq!(settings.scenario.topics, 1);
        for stream in 0..10 {
            let workers = worker_of(stream);
            assert_eq!(workers.len(), 2);
            assert_eq!(workers[0], workers[1], "pair {stream}");
        }
    }

    #[test]
    fn members_of_a_group_share_a_worker() {
        let (_, clients) = plan("shared --publishers 9 --subscribers 8 --groups 2 --threads 3");
        let mut worker_of_group = std::collections::HashMap::new();
        for client in &clients {
            if let RolePlan::Subscriber { group, .. } = client.role {
                let worker = *worker_of_group.entry(group).or_insert(client.worker);
                assert_eq!(worker, client.worker);
            }
        }
        assert_eq!(worker_of_group.len(), 2);
    }

    #[test]
    fn idle_clients_are_spread_over_the_workers() {
        let (_, clients) = plan("conn --clients 10 --threads 3");
        for worker in 0..3 {
            let count = clients.iter().filter(|client| client.worker == worker);
            assert!(count.count() >= 3);
        }
    }
}
