//! What a run does, checked: built from the command line, cannot contradict itself.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{Command, LoadArgs, MqttVersion, TargetArgs};
use crate::error::BenchError;
use crate::payload::STREAM_COUNT_MAX;
use crate::schedule::{SCHEDULED_COUNT_MAX, Schedule};

/// The window per publisher without a rate: what the project's floor was measured with.
const CLOSED_WINDOW: u16 = 20;
/// The window per publisher at a given rate: wide enough not to disturb the schedule.
const OPEN_WINDOW: u16 = 1024;

/// A checked run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) scenario: Scenario,
    pub(crate) address: SocketAddr,
    pub(crate) target: Target,
    /// `None`: connections only.
    pub(crate) load: Option<Load>,
    pub(crate) hold_ns: u64,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Conn {
        clients: u32,
    },
    P2p {
        pairs: u32,
    },
    Fanin {
        publishers: u32,
        subscribers: u32,
    },
    Fanout {
        publishers: u32,
        subscribers: u32,
        wildcard: bool,
    },
}

/// How clients connect.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) version: MqttVersion,
    pub(crate) keepalive_s: u16,
    pub(crate) durable: bool,
    pub(crate) client_prefix: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) sources: u8,
    pub(crate) connecting_max: u32,
    pub(crate) connect_rate: Option<NonZeroU64>,
    pub(crate) threads: usize,
    pub(crate) server_pid: Option<u32>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) quiet: bool,
}

/// What publishers send.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) publish_qos: u8,
    pub(crate) subscribe_qos: u8,
    pub(crate) size: usize,
    pub(crate) rate: Option<NonZeroU64>,
    pub(crate) window: u16,
    pub(crate) max_per_send: u16,
    pub(crate) topics: u32,
    pub(crate) topic_prefix: String,
    pub(crate) duration_ns: u64,
    pub(crate) warm_up_ns: u64,
    pub(crate) drain_ns: u64,
    pub(crate) strict: bool,
}

impl Settings {
    /// Checks a scenario's arguments; `None` for `sink`, which runs no clients.
    ///
    /// # Errors
    /// `Options` for values that don't fit together, `Host` for an address that doesn't resolve.
    pub(crate) fn parse(command: &Command) -> Result<Option<Self>, BenchError> {
        let (scenario, target, load, hold) = match command {
            Command::Sink(_) | Command::Storage(_) | Command::Crowd(_) | Command::CrowdPart(_) => {
                return Ok(None);
            }
            Command::Conn(a) => (
                Scenario::Conn { clients: a.clients },
                &a.target,
                None,
                a.hold,
            ),
            Command::P2p(a) => (
                Scenario::P2p { pairs: a.pairs },
                &a.target,
                Some(&a.load),
                0.0,
            ),
            Command::Fanin(a) => {
                let (publishers, subscribers) = (a.publishers, a.subscribers);
                (
                    Scenario::Fanin {
                        publishers,
                        subscribers,
                    },
                    &a.target,
                    Some(&a.load),
                    0.0,
                )
            }
            Command::Fanout(a) => {
                let (publishers, subscribers) = (a.publishers, a.subscribers);
                let scenario = Scenario::Fanout {
                    publishers,
                    subscribers,
                    wildcard: a.wildcard,
                };
                (scenario, &a.target, Some(&a.load), 0.0)
            }
        };
        scenario.check()?;
        let load = load.map(|load| Load::parse(load, scenario)).transpose()?;
        let address = resolve(target)?;
        let target = Target::parse(target, address)?;
        Ok(Some(Self {
            scenario,
            address,
            target,
            load,
            hold_ns: nanoseconds(hold),
        }))
    }
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Conn { .. } => "conn",
            Self::P2p { .. } => "p2p",
            Self::Fanin { .. } => "fanin",
            Self::Fanout { .. } => "fanout",
        }
    }

    pub(crate) fn publisher_count(self) -> u32 {
        match self {
            Self::Conn { .. } => 0,
            Self::P2p { pairs } => pairs,
            Self::Fanin { publishers, .. } | Self::Fanout { publishers, .. } => publishers,
        }
    }

    pub(crate) fn subscriber_count(self) -> u32 {
        match self {
            Self::Conn { .. } => 0,
            Self::P2p { pairs } => pairs,
            Self::Fanin { subscribers, .. } | Self::Fanout { subscribers, .. } => subscribers,
        }
    }

    pub(crate) fn client_count(self) -> u64 {
        match self {
            Self::Conn { clients } => u64::from(clients),
            Self::P2p { .. } | Self::Fanin { .. } | Self::Fanout { .. } => {
                u64::from(self.publisher_count()) + u64::from(self.subscriber_count())
            }
        }
    }

    /// How many subscribers hear each message.
    pub(crate) fn fan_out(self) -> u64 {
        match self {
            Self::Conn { .. } => 0,
            Self::P2p { .. } => 1,
            Self::Fanin { subscribers, .. } => u64::from(subscribers.min(1)),
            Self::Fanout { subscribers, .. } => u64::from(subscribers),
        }
    }

    fn check(self) -> Result<(), BenchError> {
        if let Self::Fanin {
            publishers,
            subscribers,
        } = self
            && subscribers > publishers
        {
            return refuse(format!(
                "--subscribers {subscribers} is more than --publishers {publishers}: in fanin \
                 every subscriber has publishers of its own"
            ));
        }
        Ok(())
    }
}

impl Target {
    fn parse(args: &TargetArgs, address: SocketAddr) -> Result<Self, BenchError> {
        if args.sources > 0 && !(address.is_ipv4() && address.ip().is_loopback()) {
            return refuse(format!(
                "--sources {} needs a broker on 127.0.0.0/8, and {address} is not",
                args.sources
            ));
        }
        if args.client_prefix.len() > 1_000 {
            return refuse("--client-prefix is longer than 1000 bytes".to_owned());
        }
        Ok(Self {
            version: args.mqtt_version,
            keepalive_s: args.keepalive,
            durable: args.durable,
            client_prefix: args.client_prefix.clone(),
            username: args.username.clone(),
            password: args.password.clone(),
            sources: args.sources,
            connecting_max: args.connecting,
            connect_rate: NonZeroU64::new(args.connect_rate),
            threads: usize::from(args.threads),
            server_pid: args.server_pid,
            json: args.json.clone(),
            quiet: args.quiet,
        })
    }
}

impl Load {
    fn parse(args: &LoadArgs, scenario: Scenario) -> Result<Self, BenchError> {
        let streams = u64::from(scenario.publisher_count()) * u64::from(args.topics);
        if streams > u64::from(STREAM_COUNT_MAX) {
            return refuse(format!(
                "{streams} topics in all (publishers times --topics) are more than the \
                 {STREAM_COUNT_MAX} the payload's stamp can number"
            ));
        }
        if args.topic_prefix.is_empty()
            || args.topic_prefix.len() > 1_000
            || args.topic_prefix.contains(['+', '#', '\0', '$'])
        {
            return refuse(format!(
                "--topic-prefix `{}` must be 1 to 1000 bytes without `+`, `#`, `$` and NUL",
                args.topic_prefix
            ));
        }
        let span_s = args.duration + args.warm_up;
        if args.rate as f64 * span_s >= SCHEDULED_COUNT_MAX as f64 {
            return refuse(format!(
                "--rate {} for {span_s} s is more than the {SCHEDULED_COUNT_MAX} messages a \
                 schedule can hold",
                args.rate
            ));
        }
        let rate = NonZeroU64::new(args.rate);
        let window = if rate.is_some() {
            OPEN_WINDOW
        } else {
            CLOSED_WINDOW
        };
        Ok(Self {
            publish_qos: args.qos,
            subscribe_qos: args.sub_qos.unwrap_or(args.qos),
            size: usize::try_from(args.size).unwrap_or(usize::MAX),
            rate,
            window: args.window.unwrap_or(window),
            max_per_send: args.max_per_send,
            topics: args.topics,
            topic_prefix: args.topic_prefix.clone(),
            duration_ns: nanoseconds(args.duration),
            warm_up_ns: nanoseconds(args.warm_up),
            drain_ns: nanoseconds(args.drain),
            strict: args.strict,
        })
    }

    /// The quality of service messages arrive with: the lower of the two.
    pub(crate) fn delivery_qos(&self) -> u8 {
        self.publish_qos.min(self.subscribe_qos)
    }

    /// How many messages the schedule holds; 0 without a rate.
    pub(crate) fn scheduled_count(&self) -> u64 {
        let span_ns = self.warm_up_ns + self.duration_ns;
        let schedule = |rate| Schedule::new(0, span_ns, rate, NonZeroU64::MIN);
        self.rate.map_or(0, |rate| schedule(rate).total_count())
    }
}

fn refuse<T>(text: String) -> Result<T, BenchError> {
    Err(BenchError::Options(text))
}

/// The broker's address; of a name with several, an IPv4 one first, since brokers on a loopback
/// address are most often there.
fn resolve(target: &TargetArgs) -> Result<SocketAddr, BenchError> {
    let host = target.host.as_str();
    let found: Vec<SocketAddr> = (host, target.port)
        .to_socket_addrs()
        .map_err(|source| BenchError::Host {
            host: host.to_owned(),
            source,
        })?
        .collect();
    let chosen = found
        .iter()
        .find(|address| address.is_ipv4())
        .or_else(|| found.first());
    chosen
        .copied()
        .ok_or_else(|| BenchError::Options(format!("host `{host}` has no address")))
}

/// Seconds that the command line has already bounded, as nanoseconds.
fn nanoseconds(seconds: f64) -> u64 {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn parse(arguments: &str) -> Result<Settings, BenchError> {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap();
        Settings::parse(&cli.command).map(Option::unwrap)
    }

    #[track_caller]
    fn check_refused(arguments: &str, expected: &str) {
        let error = parse(arguments).unwrap_err().to_string();
        assert!(error.contains(expected), "`{expected}` is not in: {error}");
    }

    #[test]
    fn the_window_follows_the_rate() {
        assert_eq!(parse("p2p").unwrap().load.unwrap().window, CLOSED_WINDOW);
        assert_eq!(
            parse("p2p --rate 10").unwrap().load.unwrap().window,
            OPEN_WINDOW
        );
        assert_eq!(
            parse("p2p --rate 10 --window 3")
                .unwrap()
                .load
                .unwrap()
                .window,
            3
        );
    }

    #[test]
    fn the_delivered_quality_is_the_lower_one() {
        let load = parse("p2p --qos 2 --sub-qos 1").unwrap().load.unwrap();
        assert_eq!((load.publish_qos, load.delivery_qos()), (2, 1));
        assert_eq!(
            parse("p2p --qos 2").unwrap().load.unwrap().delivery_qos(),
            2
        );
    }

    #[test]
    fn contradictions_are_named() {
        check_refused("fanin --publishers 2 --subscribers 3", "--subscribers 3");
        check_refused("p2p --pairs 4000000 --topics 50", "200000000 topics");
        check_refused("p2p --topic-prefix a/+", "--topic-prefix");
        check_refused(
            "p2p --rate 1000000000 --duration 80000",
            "--rate 1000000000",
        );
        check_refused("conn --host 192.0.2.1 --sources 2", "--sources 2");
    }

    #[test]
    fn a_rate_fixes_the_number_of_messages() {
        let load = parse("p2p --rate 100 --duration 2 --warm-up 1")
            .unwrap()
            .load
            .unwrap();
        assert_eq!(load.scheduled_count(), 300);
        assert_eq!(parse("p2p").unwrap().load.unwrap().scheduled_count(), 0);
    }

    #[test]
    fn times_are_nanoseconds() {
        let load = parse("p2p --duration 1.5 --warm-up 0")
            .unwrap()
            .load
            .unwrap();
        assert_eq!((load.duration_ns, load.warm_up_ns), (1_500_000_000, 0));
        assert_eq!(parse("conn --hold 0.25").unwrap().hold_ns, 250_000_000);
    }
}
