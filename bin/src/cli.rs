//! The command line. Flags have the same names as the keys of the configuration file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use engine_server::{
    COMMIT_WAIT_US_MAX, ClientCertificate, Durability, ListenUrl, SHARDS_MAX, Settings,
    ShareStrategy,
};

/// As clap wants to have it.
const SHARDS: i64 = SHARDS_MAX as i64;

/// A durable MQTT engine: one commit log per core.
#[derive(Debug, Parser)]
#[command(name = "corelane", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// Without one, `serve`.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node
    Serve(Box<Serve>),
    /// Change the password file of --password-file; SIGHUP tells a node to read it again
    User {
        /// What to do
        #[command(subcommand)]
        change: UserChange,
    },
    /// Read the data directory of a node that does not run; changes nothing
    Inspect {
        /// What to show
        what: What,
        /// The data directory
        directory: PathBuf,
    },
    /// Mend the data directory of a node that does not run
    Repair {
        /// Drop the queue index of every shard and make it again from the logs
        #[arg(long, required = true)]
        rebuild_index: bool,
        /// The node's configuration file: what it says of logs and limits counts here, too
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The data directory [default: the one that the configuration file names]
        #[arg(required_unless_present = "config")]
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserChange {
    /// Add a user, or give one another password: the first line of standard input
    Add {
        /// The password file; it is made when it is not there
        file: PathBuf,
        /// The user's name
        name: String,
    },
    /// Remove a user
    Remove {
        /// The password file
        file: PathBuf,
        /// The user's name
        name: String,
    },
    /// List the names
    List {
        /// The password file
        file: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum What {
    /// The records of every commit log, and any damage with its file and offset
    Log,
    /// The queues of every shard: names, offsets, and the files that hold them
    Queues,
    /// The sessions of every shard
    Sessions,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Serve {
    /// TOML file with the same names; flags override it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Check the configuration and end
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Data directory [default: corelane-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to accept clients: `mqtt://[::1]:1883`, mqtts://, ws://, wss:// or unix:///PATH, with
    /// `?proxy-protocol` behind a load balancer; may be repeated
    /// [default: mqtt://127.0.0.1:1883]
    #[arg(long, value_name = "URL")]
    listen: Vec<ListenUrl>,
    /// Shards [default: one per core]
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=SHARDS))]
    shards: Option<u8>,
    /// When an acknowledgement may be sent: commit, interval:MS or none [default: commit]
    #[arg(long, value_name = "MODE")]
    durability: Option<Durability>,
    /// Microseconds that a commit may wait for more records when that saves commits; 0: never
    /// [default: 500]
    #[arg(long, value_name = "US", value_parser = value_parser!(u64).range(..=COMMIT_WAIT_US_MAX))]
    commit_wait_us: Option<u64>,
    /// Serve Prometheus metrics here
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
    /// Serve clients that do not authenticate, also on addresses beyond loopback
    #[arg(long)]
    allow_anonymous: bool,
    /// Give every client what is published to FIRST/p2p/ITS-ID, without a subscription
    #[arg(long)]
    p2p: bool,
    /// How shared subscriptions choose a member: round-robin, least-in-flight, sticky (by
    /// publisher) or hash-topic [default: round-robin]
    #[arg(long, value_name = "NAME")]
    share_strategy: Option<ShareStrategy>,
    /// Who may connect, with what passwords; `corelane user` writes it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Who may publish and subscribe to what
    #[arg(long, value_name = "FILE")]
    acl_file: Option<PathBuf>,
    /// The node's certificate and those that signed it, PEM, for mqtts:// and wss://
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Who may sign clients' certificates, PEM; clients are asked for one
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate: required or optional [default: required]
    #[arg(long, value_name = "WHETHER")]
    tls_client_certificate: Option<ClientCertificate>,
    /// Hours for which messages are kept, 0: no bound [default: 72]
    #[arg(long, value_name = "HOURS")]
    retention_hours: Option<u32>,
    /// Bytes of logs that the node keeps, 0: no bound [default: 0]
    #[arg(long, value_name = "BYTES")]
    retention_bytes: Option<u64>,
    /// Bytes of a log's segment files, at most [default: 268435456]
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// Disk use from which the oldest messages go [default: 75]
    #[arg(long, value_name = "PERCENT")]
    disk_clean_percent: Option<u8>,
    /// Disk use from which as many go as can [default: 85]
    #[arg(long, value_name = "PERCENT")]
    disk_force_percent: Option<u8>,
    /// Disk use from which publications are refused, 101: never [default: 90]
    #[arg(long, value_name = "PERCENT")]
    disk_refuse_percent: Option<u8>,
}

impl Serve {
    /// What the flags say; what was not given is silent.
    pub(crate) fn settings(self) -> Settings {
        Settings {
            data: self.data,
            listen: (!self.listen.is_empty()).then_some(self.listen),
            shards: self.shards,
            durability: self.durability,
            commit_wait_us: self.commit_wait_us,
            metrics: self.metrics,
            allow_anonymous: self.allow_anonymous.then_some(true),
            share_strategy: self.share_strategy,
            password_file: self.password_file,
            acl_file: self.acl_file,
            tls_certificate: self.tls_certificate,
            tls_key: self.tls_key,
            tls_client_ca: self.tls_client_ca,
            tls_client_certificate: self.tls_client_certificate,
            retention_hours: self.retention_hours,
            retention_bytes: self.retention_bytes,
            segment_bytes: self.segment_bytes,
            disk_clean_percent: self.disk_clean_percent,
            disk_force_percent: self.disk_force_percent,
            disk_refuse_percent: self.disk_refuse_percent,
            limits: None,
            redirect: None,
            rewrite: None,
            auto_subscribe: None,
            p2p: self.p2p.then_some(true),
            node_name: None,
            sys_interval: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_subcommand_takes_the_flags_of_serve() {
        let bare = Cli::try_parse_from(["corelane", "--shards", "3"]).unwrap();
        assert!(bare.command.is_none());
        assert_eq!(bare.serve.settings().shards, Some(3));
        let named = Cli::try_parse_from([
            "corelane",
            "serve",
            "--listen",
            "mqtt://127.0.0.1:1",
            "--listen",
            "mqtt://[::1]:2",
            "--durability",
            "interval:5",
            "--allow-anonymous",
        ]);
        let Some(Command::Serve(serve)) = named.unwrap().command else {
            panic!("not serve")
        };
        let settings = serve.settings();
        assert_eq!(settings.listen.unwrap().len(), 2);
        assert_eq!(settings.durability, Some(Durability::Interval(5)));
        assert_eq!(settings.allow_anonymous, Some(true));
        assert_eq!(settings.data, None);
    }

    #[test]
    fn a_repair_finds_its_directory() {
        let given = |arguments: &[&str]| {
            let all = ["corelane", "repair", "--rebuild-index"].into_iter();
            let cli = Cli::try_parse_from(all.chain(arguments.iter().copied())).ok()?;
            let Some(Command::Repair {
                config, directory, ..
            }) = cli.command
            else {
                panic!("not repair")
            };
            Some((config, directory))
        };
        let (file, folder) = (|| Some("f".into()), || Some("d".into()));
        assert_eq!(given(&["d"]), Some((None, folder())));
        assert_eq!(given(&["--config", "f"]), Some((file(), None)));
        assert_eq!(given(&["d", "--config", "f"]), Some((file(), folder())));
        assert_eq!(given(&[]), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            ["corelane", "--shards", "65"],
            ["corelane", "--listen", "tcp://a:1"],
            ["corelane", "inspect", "nothing"],
            ["corelane", "repair", "directory"],
            ["corelane", "--durability", "maybe"],
            ["corelane", "--commit-wait-us", "10001"],
            ["corelane", "--share-strategy", "random"],
        ] {
            assert!(Cli::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }
}
