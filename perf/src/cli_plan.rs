//! The command line of the scenarios that connect clients: where to, what to send, who hears whom.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};

use crate::cli::{Durable, MqttVersion, parse_seconds, parse_share};
use crate::scenario::Filters;

/// Options of every scenario that has clients.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// Address of the broker (an IP address or a name).
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the broker.
    #[arg(long, default_value_t = 1883)]
    pub port: u16,
    /// MQTT version.
    #[arg(long, value_enum, default_value_t = MqttVersion::V311)]
    pub mqtt_version: MqttVersion,
    /// Connect with TLS (1.2 or 1.3), each client with a handshake of its own.
    #[arg(long, requires = "ca")]
    pub tls: bool,
    /// Certificates in PEM that the broker's must lead to, for --tls.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// MQTT over WebSocket, with --tls over a secure one.
    #[arg(long)]
    pub websocket: bool,
    /// Path of the WebSocket.
    #[arg(long, default_value = "/mqtt")]
    pub websocket_path: String,
    /// Keep-alive that CONNECT announces, seconds; 0 turns it off.
    #[arg(long, default_value_t = 300)]
    pub keepalive: u16,
    /// Whose sessions are durable (clean session off; MQTT 5: expiry of one hour): `--durable`
    /// alone means all. They stay on the broker.
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all",
        default_value = "none"
    )]
    pub durable: Durable,
    /// Client ids are this, a dash and a number; the same prefix finds durable sessions again.
    #[arg(long, default_value = "bench")]
    pub client_prefix: String,
    /// User name.
    #[arg(long)]
    pub username: Option<String>,
    /// Password.
    #[arg(long, requires = "username")]
    pub password: Option<String>,
    /// Source addresses to connect from: 127.0.0.2 and the next ones. 0 leaves it to the kernel.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u8).range(0..=250))]
    pub sources: u8,
    /// Connections at most that wait for their CONNACK at a time. More than a broker's listen
    /// backlog (100 in mosquitto) makes the kernel drop SYNs, which costs a second each.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..))]
    pub connecting: u32,
    /// Connections started per second; 0: as fast as --connecting allows.
    #[arg(long, default_value_t = 0)]
    pub connect_rate: u64,
    /// Worker threads.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Filters at most in one SUBSCRIBE; the next one leaves when the SUBACK has come.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(1..=5_000))]
    pub per_subscribe: u32,
    /// Process id of the broker: its CPU time and memory are then measured.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Write the result as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write the result as a page with plots to this file; `html` makes one of several results.
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// What the result is called in JSON and HTML, such as the broker's name and version.
    #[arg(long)]
    pub label: Option<String>,
    /// No progress lines on stderr.
    #[arg(long)]
    pub quiet: bool,
}

/// Options of every scenario that sends messages.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Quality of service to publish with.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Quality of service to subscribe with; the publishing one unless given.
    #[arg(long, value_parser = value_parser!(u8).range(0..=2))]
    pub sub_qos: Option<u8>,
    /// Payload size, bytes.
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u32).range(16..=1_048_576))]
    pub size: u32,
    /// Messages published per second, all publishers together; 0: as fast as --window allows.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Search the rate at which the broker (--server-pid) uses this share of one core, such as 75%
    /// or 0.75, from --rate on, and measure there.
    #[arg(long, value_parser = parse_share)]
    pub ramp_to: Option<f64>,
    /// Messages that a publisher sends at most: the run ends early with the last; 0 is no limit.
    #[arg(long, default_value_t = 0)]
    pub count: u64,
    /// Messages at most in flight per publisher: unacknowledged (QoS 1, 2) and, with --rate 0, not
    /// yet delivered. 20 with --rate 0 and 1024 otherwise unless given.
    #[arg(long, value_parser = value_parser!(u16).range(1..))]
    pub window: Option<u16>,
    /// PUBLISH packets at most per send.
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u16).range(1..=4096))]
    pub max_per_send: u16,
    /// Topics per publisher, used in turn.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=65_536))]
    pub topics: u32,
    /// First level of all topics.
    #[arg(long, default_value = "corelane-bench")]
    pub topic_prefix: String,
    /// Measured time, seconds.
    #[arg(long, default_value_t = 10.0, value_parser = parse_seconds)]
    pub duration: f64,
    /// Time at full load before the measured time, seconds.
    #[arg(long, default_value_t = 1.0, value_parser = parse_seconds)]
    pub warm_up: f64,
    /// After the load: how long held-up messages may still leave, and how long nothing may come
    /// before missing messages are given up, seconds.
    #[arg(long, default_value_t = 2.0, value_parser = parse_seconds)]
    pub drain: f64,
    /// Exit with status 3 when a message was lost, duplicated, out of order or foreign, or a
    /// client was disconnected.
    #[arg(long)]
    pub strict: bool,
}

/// `plan` and its presets.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// Where and how to connect.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What to send.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Which of the published shapes.
    #[arg(long, hide = true, value_parser = clap::builder::PossibleValuesParser::new([""; 0]))]
    pub part: Option<String>,
    /// Publishers.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Subscribers; 0 only publishes.
    #[arg(long, default_value_t = 10)]
    pub subscribers: u32,
    /// Which messages a subscriber hears.
    #[arg(long, value_enum, default_value_t = HearsArg::Own)]
    pub hears: HearsArg,
    /// How it subscribes to them.
    #[arg(long, value_enum, default_value_t = Filters::Exact)]
    pub filters: Filters,
    /// Shared groups, with `--hears share`: publishers and subscribers are dealt out to them.
    #[arg(long, default_value_t = 1)]
    pub groups: u32,
    /// All publishers use the same topics rather than topics of their own.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        action = clap::ArgAction::Set
    )]
    pub common_topics: bool,
}

/// Which messages a subscriber hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HearsArg {
    /// Those of the publisher of its number.
    Own,
    /// Those of a block of publishers that are its own.
    Block,
    /// All.
    All,
    /// Its share of those of its group.
    Share,
    /// Those to its topic, from any publisher, which picks topics at random.
    Topic,
}

/// `slow-sub`.
#[derive(Clone, Debug, Args)]
pub struct SlowSubArgs {
    /// Where and how to connect.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What to send.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publishers, those of the canaries included.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Publishers whose subscriber reads as fast as it can; the others' one subscriber does not.
    #[arg(long, default_value_t = 100)]
    pub canaries: u32,
    /// Messages per second that the slow subscriber reads.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u64).range(1..))]
    pub read_rate: u64,
}

/// `retained`.
#[derive(Clone, Debug, Args)]
pub struct RetainedArgs {
    /// Where and how to connect.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What to send.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publishers that set the retained messages.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Retained messages.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(1..))]
    pub retained: u32,
    /// Clients that subscribe.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..))]
    pub subscribers: u32,
    /// Retained messages that a subscriber's one wildcard filter matches.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    pub matching: u32,
    /// Leave the retained messages on the broker.
    #[arg(long)]
    pub keep: bool,
}

/// `offline`.
#[derive(Clone, Debug, Args)]
pub struct OfflineArgs {
    /// Where and how to connect.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What to send.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publishers that send meanwhile.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Durable sessions that are away.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..))]
    pub sessions: u32,
    /// Messages for each of them.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    pub messages: u32,
    /// A shell command that restarts the broker, run before the sessions come back.
    #[arg(long)]
    pub restart: Option<String>,
}
