//! What a run does, checked: built from the command line, cannot contradict itself.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{Command, Durable, LoadArgs, MqttVersion, TargetArgs};
use crate::error::BenchError;
use crate::layers::LayerSettings;
use crate::payload::STREAM_COUNT_MAX;
use crate::scenario::{Flow, Scenario};
use crate::schedule::{SCHEDULED_COUNT_MAX, Schedule};
use crate::shape::{Shape, shape};

/// The window per publisher without a rate: what the project's floor was measured with.
const CLOSED_WINDOW: u16 = 20;
/// The window per publisher at a given rate: wide enough not to disturb the schedule.
const OPEN_WINDOW: u16 = 1024;

/// The highest rate that a ramp tries: a schedule of a day can hold it.
const RATE_MAX: u64 = 100_000_000;

/// A checked run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) scenario: Scenario,
    pub(crate) stage: Stage,
    pub(crate) address: SocketAddr,
    pub(crate) target: Target,
    /// `None`: connections only.
    pub(crate) load: Option<Load>,
    pub(crate) hold_ns: u64,
}

/// Which part of a run is made now. Scenarios of the flow `Load` and `Hold` have only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// All of it, everybody connected.
    Whole,
    /// Subscribers subscribe and leave.
    Park,
    /// Publishers publish, nobody listens.
    Fill,
    /// Subscribers come, or come back, and get what was published: so many deliveries.
    CatchUp { expected: u64, resumes: bool },
    /// Publishers remove what they have left retained.
    Clear,
}

/// How clients connect.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) version: MqttVersion,
    /// What lies between MQTT and the socket.
    pub(crate) layers: LayerSettings,
    pub(crate) keepalive_s: u16,
    pub(crate) durable: Durable,
    pub(crate) client_prefix: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) sources: u8,
    pub(crate) connecting_max: u32,
    pub(crate) connect_rate: Option<NonZeroU64>,
    pub(crate) threads: usize,
    /// Filters at most in one SUBSCRIBE.
    pub(crate) per_subscribe: usize,
    pub(crate) server_pid: Option<u32>,
    pub(crate) label: Option<String>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
    pub(crate) quiet: bool,
}

/// What publishers send.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) publish_qos: u8,
    pub(crate) subscribe_qos: u8,
    pub(crate) size: usize,
    pub(crate) rate: Option<NonZeroU64>,
    /// The share of the broker's core to look for.
    pub(crate) ramp_to: Option<f64>,
    /// Messages that a publisher sends at most.
    pub(crate) count: Option<NonZeroU64>,
    /// Whether messages are published to be retained.
    pub(crate) retain: bool,
    pub(crate) window: u16,
    pub(crate) max_per_send: u16,
    pub(crate) topic_prefix: String,
    pub(crate) duration_ns: u64,
    pub(crate) warm_up_ns: u64,
    pub(crate) drain_ns: u64,
    pub(crate) strict: bool,
}

impl Settings {
    /// Checks a scenario's arguments; `None` for what runs no clients here, as `sink`.
    ///
    /// # Errors
    /// `Options` for values that don't fit together, `Host` for an address that doesn't resolve.
    pub(crate) fn parse(command: &Command) -> Result<Option<Self>, BenchError> {
        let Some(shape) = shape(command) else {
            return Ok(None);
        };
        let Shape {
            scenario,
            target,
            load,
            hold,
        } = shape;
        scenario.check()?;
        let load = load.map(|load| Load::parse(load, &scenario)).transpose()?;
        let address = resolve(target)?;
        let target = Target::parse(target, address)?;
        let is_durable = target.durable != Durable::None;
        let ramps = load.as_ref().is_some_and(|load| load.ramp_to.is_some());
        if ramps && (scenario.flow != Flow::Load || target.server_pid.is_none()) {
            return refuse("--ramp-to needs --server-pid and a scenario of one step".to_owned());
        }
        if matches!(scenario.flow, Flow::Offline { .. }) && !is_durable {
            return refuse("offline needs durable sessions: not --durable=none".to_owned());
        }
        Ok(Some(Self {
            scenario,
            address,
            target,
            load,
            hold_ns: nanoseconds(hold),
            stage: Stage::Whole,
        }))
    }

    /// The same run, at one of its stages.
    pub(crate) fn at(&self, stage: Stage) -> Self {
        Self {
            stage,
            ..self.clone()
        }
    }

    /// Clients of this stage.
    pub(crate) fn client_count(&self) -> u64 {
        let scenario = &self.scenario;
        match self.stage {
            Stage::Whole => scenario.client_count(),
            Stage::Park | Stage::CatchUp { .. } => u64::from(scenario.subscribers),
            Stage::Fill | Stage::Clear => u64::from(scenario.publishers),
        }
    }

    /// Hearers of each message who are there while it is published.
    pub(crate) fn fan_out(&self) -> u64 {
        match self.stage {
            Stage::Whole => self.scenario.fan_out(),
            Stage::Park | Stage::Fill | Stage::CatchUp { .. } | Stage::Clear => 0,
        }
    }

    /// Messages per second of all publishers; `None` as fast as possible.
    pub(crate) fn rate(&self) -> Option<u64> {
        Some(self.load.as_ref()?.rate?.get())
    }

    /// The same run at another rate.
    pub(crate) fn at_rate(&self, rate: u64) -> Self {
        let mut settings = self.clone();
        if let Some(load) = &mut settings.load {
            load.rate = NonZeroU64::new(rate.clamp(1, RATE_MAX));
        }
        settings
    }

    /// A short run at another rate.
    pub(crate) fn with_rate(&self, rate: u64, duration_ns: u64, warm_up_ns: u64) -> Self {
        let mut settings = self.at_rate(rate);
        if let Some(load) = &mut settings.load {
            load.duration_ns = load.duration_ns.min(duration_ns);
            load.warm_up_ns = load.warm_up_ns.min(warm_up_ns);
        }
        settings
    }

    /// What the report cuts the run into.
    pub(crate) fn interval_ns(&self) -> u64 {
        let duration_ns = self.load.as_ref().map_or(0, |load| load.duration_ns);
        crate::timeline::interval_ns(duration_ns)
    }

    /// How many messages will be sent in all; `None` when only the time ends the run.
    pub(crate) fn planned_count(&self) -> Option<u64> {
        let load = self.load.as_ref()?;
        let limit = load
            .count
            .map(|count| count.get() * u64::from(self.scenario.publishers));
        match load.rate {
            Some(_) => Some(load.scheduled_count().min(limit.unwrap_or(u64::MAX))),
            None => limit,
        }
    }

    /// Whether a client in this role asks for a session that outlives the connection.
    pub(crate) fn is_durable(&self, is_subscriber: bool) -> bool {
        match self.target.durable {
            Durable::None => false,
            Durable::Subscribers => is_subscriber,
            Durable::All => true,
        }
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
        let ca = args.ca.as_deref().filter(|_| args.tls);
        let path = args.websocket.then_some(args.websocket_path.as_str());
        Ok(Self {
            layers: LayerSettings::new(&args.host, ca, path)?,
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
            per_subscribe: usize::try_from(args.per_subscribe).unwrap_or(1),
            server_pid: args.server_pid,
            label: args.label.clone(),
            json: args.json.clone(),
            html: args.html.clone(),
            quiet: args.quiet,
        })
    }
}

impl Load {
    fn parse(args: &LoadArgs, scenario: &Scenario) -> Result<Self, BenchError> {
        let streams = scenario.stream_count();
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
        let window = if rate.is_some() || args.ramp_to.is_some() {
            OPEN_WINDOW
        } else {
            CLOSED_WINDOW
        };
        Ok(Self {
            publish_qos: args.qos,
            subscribe_qos: args.sub_qos.unwrap_or(args.qos),
            size: usize::try_from(args.size).unwrap_or(usize::MAX),
            rate,
            ramp_to: args.ramp_to,
            count: count(args, scenario),
            retain: matches!(scenario.flow, Flow::Retained { .. }),
            window: args.window.unwrap_or(window),
            max_per_send: args.max_per_send,
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

/// How many messages each publisher sends at most.
fn count(args: &LoadArgs, scenario: &Scenario) -> Option<NonZeroU64> {
    match scenario.flow {
        // One to each topic.
        Flow::Retained { .. } => NonZeroU64::new(u64::from(scenario.topics)),
        Flow::Offline { messages, .. } => {
            let all = u64::from(scenario.subscribers) * u64::from(messages);
            NonZeroU64::new(all.div_ceil(u64::from(scenario.publishers)))
        }
        Flow::Hold | Flow::Load => NonZeroU64::new(args.count),
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

    fn parse(arguments: &str) -> Result<Settings, BenchError> {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        let cli = crate::parse(words).unwrap();
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
        check_refused("p2p --ramp-to 75%", "--server-pid");
        check_refused("p2p --tls --ca /none/such.pem", "/none/such.pem");
        check_refused("offline --durable=none", "durable");
        check_refused("retained --retained 100 --matching 7", "--matching 7");
        check_refused("shared --groups 60", "--groups 60");
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
