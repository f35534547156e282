//! The command line: what a run is asked to do.
//!
//! Parsed once; `Settings::try_from` turns it into values that can't contradict each other.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

/// Load generator for MQTT brokers.
#[derive(Clone, Debug, Parser)]
#[command(name = "corelane-bench", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The scenarios.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Open connections, hold them, close them.
    Conn(ConnArgs),
    /// Pairs: each publisher has a subscriber of its own.
    P2p(P2pArgs),
    /// Many publishers to few subscribers; every subscriber hears its own group of publishers.
    Fanin(FaninArgs),
    /// Few publishers to many subscribers; every subscriber hears every publisher.
    Fanout(FanoutArgs),
    /// As many clients as memory holds, in several processes: connect, subscribe, get one message
    /// each; some are cut and come back.
    Crowd(CrowdArgs),
    /// The process that some of the clients of `crowd` live in.
    #[command(hide = true)]
    CrowdPart(CrowdPartArgs),
    /// A minimal MQTT server that swallows (or relays) messages, to measure the generator itself.
    Sink(SinkArgs),
    /// The queue index and the log, without a broker, against what they replace.
    Storage(StorageArgs),
}

/// Options of `storage`.
#[derive(Clone, Debug, Args)]
pub struct StorageArgs {
    /// Entries to write.
    #[arg(long, default_value_t = 20_000_000, value_parser = value_parser!(u64).range(1..1 << 32))]
    pub entries: u64,
    /// Queues that they belong to.
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u64).range(2..1 << 32))]
    pub queues: u64,
    /// Entries that are written together.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u64).range(1..1 << 20))]
    pub batch: u64,
    /// Spread over the queues as zipf with theta 0.99 rather than evenly.
    #[arg(long)]
    pub zipf: bool,
    /// Where the scratch files go: a directory on the disk to be measured.
    #[arg(long, default_value = ".")]
    pub directory: PathBuf,
    /// Do not measure RocksDB and fjall, although they are built in (feature `peers`).
    #[arg(long)]
    pub no_peers: bool,
    /// Write the result as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// No progress lines on stderr.
    #[arg(long)]
    pub quiet: bool,
    /// Measure one store in this process, and print its figures as JSON.
    #[arg(long, value_enum, hide = true)]
    pub part: Option<Part>,
    /// Keys with topics, as RocketMQ has them, rather than numbers.
    #[arg(long, hide = true)]
    pub topic_keys: bool,
}

/// What `storage` measures in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The index of storage-queue.
    Corelane,
    /// RocksDB with RocketMQ's schema.
    Rocksdb,
    /// fjall with the same schema.
    Fjall,
    /// The commit log of storage-log.
    Log,
}

impl Part {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Corelane => "corelane",
            Self::Rocksdb => "rocksdb",
            Self::Fjall => "fjall",
            Self::Log => "log",
        }
    }
}

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
    /// Keep-alive that CONNECT announces, seconds; 0 turns it off.
    #[arg(long, default_value_t = 300)]
    pub keepalive: u16,
    /// Durable sessions (clean session off; MQTT 5: expiry of one hour) instead of clean ones.
    #[arg(long)]
    pub durable: bool,
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
    /// Process id of the broker: its CPU time and memory are then measured.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Write the result as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
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

/// `conn`.
#[derive(Clone, Debug, Args)]
pub struct ConnArgs {
    /// Where and how to connect.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Connections.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..))]
    pub clients: u32,
    /// How long to hold all connections open, seconds.
    #[arg(long, default_value_t = 2.0, value_parser = parse_seconds)]
    pub hold: f64,
}

/// `p2p`.
#[derive(Clone, Debug, Args)]
pub struct P2pArgs {
    /// Where and how to connect.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What to send.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Pairs of one publisher and one subscriber.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..))]
    pub pairs: u32,
}

/// `fanin`.
#[derive(Clone, Debug, Args)]
pub struct FaninArgs {
    /// Where and how to connect.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What to send.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publishers.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Subscribers; 0 only publishes.
    #[arg(long, default_value_t = 1)]
    pub subscribers: u32,
}

/// `fanout`.
#[derive(Clone, Debug, Args)]
pub struct FanoutArgs {
    /// Where and how to connect.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What to send.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publishers.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    pub publishers: u32,
    /// Subscribers.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..))]
    pub subscribers: u32,
    /// Subscribe with one wildcard filter instead of one exact filter per topic.
    #[arg(long)]
    pub wildcard: bool,
}

/// `crowd`.
#[derive(Clone, Debug, Args)]
pub struct CrowdArgs {
    /// Address of the broker: an IP address.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port of the broker.
    #[arg(long, default_value_t = 1883)]
    pub port: u16,
    /// Process id of the broker, whose CPU time and memory are measured.
    #[arg(long)]
    pub server_pid: u32,
    /// Clients.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(1..=2_500_000))]
    pub clients: u32,
    /// Of these, how many are cut and come back; a tenth unless given.
    #[arg(long)]
    pub cut: Option<u32>,
    /// Clients of one process, which has one source address: 127.0.0.2 and the next ones.
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=14_000))]
    pub per_process: u32,
    /// Connections at most between connect and SUBACK, of one process; four connect at a time.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..))]
    pub connecting: u32,
    /// Messages at most on their way.
    #[arg(long, default_value_t = 4_000, value_parser = value_parser!(u16).range(1..))]
    pub outstanding: u16,
    /// How long all connections are held before the first message, seconds.
    #[arg(long, default_value_t = 5.0, value_parser = parse_seconds)]
    pub hold: f64,
    /// How long nothing may happen before the run is given up, seconds.
    #[arg(long, default_value_t = 60.0, value_parser = parse_seconds)]
    pub patience: f64,
    /// Durable sessions instead of clean ones; they stay on the broker.
    #[arg(long)]
    pub durable: bool,
    /// Client ids are this, a dash and a number; topics this, a slash and the number.
    #[arg(long, default_value = "crowd")]
    pub client_prefix: String,
    /// Write the result as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// No progress lines on stderr.
    #[arg(long)]
    pub quiet: bool,
}

/// `crowd-part`: see [`CrowdArgs`].
#[derive(Clone, Debug, Args)]
pub struct CrowdPartArgs {
    /// Address of the broker.
    #[arg(long)]
    pub host: IpAddr,
    /// Port of the broker.
    #[arg(long)]
    pub port: u16,
    /// Number of the first client.
    #[arg(long)]
    pub first: u32,
    /// Clients.
    #[arg(long)]
    pub clients: u32,
    /// Connects from 127.0.0.2 and so many behind it.
    #[arg(long)]
    pub source: u8,
    /// Connections at most between connect and SUBACK.
    #[arg(long)]
    pub connecting: u32,
    /// Durable sessions instead of clean ones.
    #[arg(long)]
    pub durable: bool,
    /// Client ids are this, a dash and a number; topics this, a slash and the number.
    #[arg(long)]
    pub client_prefix: String,
}

/// `sink`.
#[derive(Clone, Debug, Args)]
pub struct SinkArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 lets the kernel choose (the `ready` line tells).
    #[arg(long, default_value_t = 1883)]
    pub port: u16,
    /// Forward messages to subscribers instead of swallowing them.
    #[arg(long)]
    pub relay: bool,
}

/// The protocol versions the generator speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MqttVersion {
    /// MQTT 3.1.1.
    #[value(name = "3.1.1", alias = "4")]
    V311,
    /// MQTT 5.0.
    #[value(name = "5", alias = "5.0")]
    V5,
}

/// The longest time an option may ask for, seconds.
const SECONDS_MAX: f64 = 86_400.0;

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if (0.0..=SECONDS_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("{text} is not within 0 to {SECONDS_MAX} seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[track_caller]
    fn check_refused(arguments: &str, expected: &str) {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        let error = Cli::try_parse_from(words).unwrap_err().to_string();
        assert!(error.contains(expected), "`{expected}` is not in: {error}");
    }

    #[test]
    fn the_declaration_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_arguments_are_named() {
        check_refused("p2p --qos 3", "--qos");
        check_refused("p2p --size 15", "--size");
        check_refused("p2p --duration=-1", "--duration");
        check_refused("p2p --duration soon", "not a number of seconds");
        check_refused("p2p --pairs 0", "--pairs");
        check_refused("conn --mqtt-version 6", "3.1.1");
        check_refused("conn --password x", "--username");
        check_refused("sink --host nowhere", "--host");
    }
}
