//! The command line: what a run is asked to do.
//!
//! Parsed once; `Settings::try_from` turns it into values that can't contradict each other.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

pub use crate::cli_plan::{
    HearsArg, LoadArgs, OfflineArgs, PlanArgs, RetainedArgs, SlowSubArgs, TargetArgs,
};

/// Load generator for MQTT brokers.
#[derive(Clone, Debug, Parser)]
#[command(name = "corelane-bench", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
    /// Print the scenario as a file for `run` instead of running it.
    #[arg(long, global = true)]
    pub print_toml: bool,
    /// That file.
    #[arg(skip)]
    pub toml: Option<String>,
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
    /// Any number of publishers and subscribers, and who hears whom: what those below are made of.
    Plan(PlanArgs),
    /// Many publishers to the members of a shared subscription.
    Shared(PlanArgs),
    /// EMQX's reference shapes: pairs, large payloads, shared fan-in, fan-out.
    EmqxRef(PlanArgs),
    /// BifroMQ's published shapes, with and without persistent sessions.
    Bifro(PlanArgs),
    /// TBMQ's published shapes: a fan-out to one wildcard, persistent pairs.
    Tbmq(PlanArgs),
    /// RabbitMQ's latency test: pairs with one message underway each.
    Rabbit(PlanArgs),
    /// RMQTT's: few publishers flood subscribers picked at random.
    Rmqtt(PlanArgs),
    /// NanoMQ's: everybody hears three topics.
    Nanomq(PlanArgs),
    /// A fixed rate to one of many durable subscribers at a time: costs what the messages cost.
    DurableFan(PlanArgs),
    /// How fast a broker takes many filters of one client; then a message to each of them.
    SubRate(PlanArgs),
    /// One subscriber that reads slowly, and pairs beside it that must not notice.
    SlowSub(SlowSubArgs),
    /// Retained messages, then clients that subscribe and must get all that match.
    Retained(RetainedArgs),
    /// Durable sessions that are away, messages for them, perhaps a restart; then they come back.
    Offline(OfflineArgs),
    /// As many clients as memory holds, in several processes: connect, subscribe, get one message
    /// each; some are cut and come back.
    Crowd(CrowdArgs),
    /// The process that some of the clients of `crowd` live in.
    #[command(hide = true)]
    CrowdPart(CrowdPartArgs),
    /// What a load does to a client beside it: a lone pair by itself, then beside a scenario.
    Canary(CanaryArgs),
    /// What a scenario file says: `--print-toml` of any scenario makes one.
    Run(RunArgs),
    /// One page with plots of one or several results that `--json` has written.
    Html(HtmlArgs),
    /// Tables and small result files from the runs of `perf/compare`.
    Tables(TablesArgs),
    /// A minimal MQTT server that swallows (or relays) messages, to measure the generator itself.
    Sink(SinkArgs),
    /// The queue index and the log, without a broker, against what they replace.
    Storage(StorageArgs),
    /// The commit log alone: durable appends, replay, shared readers.
    Log(StorageArgs),
    /// The state store alone: rows of sessions, retained messages and queues.
    State(StateArgs),
}

/// Options of `state`.
#[derive(Clone, Debug, Args)]
pub struct StateArgs {
    /// Sessions with two subscriptions each.
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u64).range(1..1 << 32))]
    pub sessions: u64,
    /// Retained messages of 100 bytes.
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u64).range(..1 << 32))]
    pub retained: u64,
    /// Names of queues.
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u64).range(..1 << 32))]
    pub queues: u64,
    /// Where the scratch files go: a directory on the disk to be measured.
    #[arg(long, default_value = ".")]
    pub directory: PathBuf,
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
    /// At the end all go, this many messages come for each, and all come back; needs `--durable`.
    #[arg(long, default_value_t = 0)]
    pub away: u32,
    /// How long they are away before the messages come, seconds; the broker's memory is measured
    /// then.
    #[arg(long, default_value_t = 0.0, value_parser = parse_seconds)]
    pub away_hold: f64,
    /// Run by sh before they come back; when it prints the broker's new process id, that is
    /// measured from then on.
    #[arg(long)]
    pub restart: Option<String>,
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

/// `canary`.
#[derive(Clone, Debug, Args)]
pub struct CanaryArgs {
    /// Address of the broker: an IP address.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port of the broker.
    #[arg(long, default_value_t = 1883)]
    pub port: u16,
    /// Messages of the pair per second.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u64).range(1..))]
    pub rate: u64,
    /// How long the pair is measured, seconds: by itself, and again beside the load.
    #[arg(long, default_value_t = 10.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Write the result as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// The load: a scenario of this program with its flags, of which none is added. It begins with
    /// the pair's measurement and is ended behind it.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub load: Vec<String>,
}

/// `html`.
#[derive(Clone, Debug, Args)]
pub struct HtmlArgs {
    /// Results, as `--json` writes them.
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
    /// The page to write.
    #[arg(long)]
    pub out: PathBuf,
}

/// `tables`.
#[derive(Clone, Debug, Args)]
pub struct TablesArgs {
    /// The folder that `perf/compare` has left.
    pub runs: PathBuf,
    /// A folder for one small JSON file per load.
    #[arg(long)]
    pub results: Option<PathBuf>,
    /// A document whose lines between the two marks become the tables.
    #[arg(long)]
    pub readme: Option<PathBuf>,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The file.
    pub file: PathBuf,
    /// Flags of its scenario, which win over the file.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub flags: Vec<String>,
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

/// Whose sessions outlive their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durable {
    /// Nobody's.
    None,
    /// Those of subscribers.
    Subscribers,
    /// Everybody's.
    All,
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

pub(crate) fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if (0.0..=SECONDS_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("{text} is not within 0 to {SECONDS_MAX} seconds"))
    }
}

/// The most cores that a ramp may ask for.
const CORES_MAX: f64 = 64.0;

/// A share of a core: 75% or 0.75.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number, 0.01),
        None => (text, 1.0),
    };
    let share: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is no share of a core"))?;
    let share = share * unit;
    if share > 0.0 && share <= CORES_MAX {
        Ok(share)
    } else {
        Err(format!("{text} is not within 0 to {CORES_MAX} cores"))
    }
}

#[cfg(test)]
mod tests {
    #[track_caller]
    fn check_refused(arguments: &str, expected: &str) {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        let error = crate::parse(words).unwrap_err().to_string();
        assert!(error.contains(expected), "`{expected}` is not in: {error}");
    }

    #[test]
    fn bad_arguments_are_named() {
        check_refused("p2p --qos 3", "--qos");
        check_refused("p2p --size 15", "--size");
        check_refused("p2p --duration=-1", "--duration");
        check_refused("p2p --duration soon", "not a number of seconds");
        check_refused("p2p --ramp-to 0%", "0 to 64 cores");
        check_refused("p2p --tls", "--ca");
        check_refused("p2p --pairs 0", "--pairs");
        check_refused("conn --mqtt-version 6", "3.1.1");
        check_refused("conn --password x", "--username");
        check_refused("sink --host nowhere", "--host");
    }
}
