//! What the user may choose: defaults, a TOML file, and command line flags over it.
//!
//! The same names everywhere: `--allow-anonymous` is `allow-anonymous` in the file. [`Settings`]
//! is one source with everything optional; [`Settings::over`] joins two; [`Config`] is the checked
//! result and cannot be invalid.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use engine_shard::{AutoSubscription, ClientLimits, Redirect, Rewrites, Rules, Strategy};
use serde::Deserialize;

use crate::acl::{self, AclError};
use crate::auto_subscribe::{self, AutoSubscriptionSettings, AutoSubscriptionsError};
use crate::limits::{LimitError, LimitSettings};
use crate::redirect::{RedirectError, RedirectSettings};
use crate::rewrite::{self, RewriteSettings, RewritesError};
use crate::transport::{ClientCertificate, ServerTls, TlsError, TlsFiles};
use crate::url::{ListenUrl, UrlError};
use crate::users::{Users, UsersError};

/// The most shards a node can have: shard sets are 64 bits wide.
pub const SHARDS_MAX: u8 = 64;

/// The longest interval between syncs, in milliseconds: one hour.
pub const INTERVAL_MS_MAX: u64 = 3_600_000;

/// How long a commit may wait for more records by default, in microseconds.
pub const COMMIT_WAIT_US: u64 = 500;

/// The most that it may be told to wait, in microseconds.
pub const COMMIT_WAIT_US_MAX: u64 = 10_000;

/// When an acknowledgement may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// After the record is synced (group commit). Nothing acknowledged is ever lost.
    #[default]
    Commit,
    /// The log is synced every so many milliseconds; a power cut may lose that much.
    Interval(u64),
    /// The log is written but never synced but at an orderly stop.
    None,
}

impl FromStr for Durability {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::Durability(text.to_owned());
        match text {
            "commit" => Ok(Self::Commit),
            "none" => Ok(Self::None),
            _ => {
                let digits = text.strip_prefix("interval:").ok_or_else(wrong)?;
                let interval_ms: u64 = digits.parse().map_err(|_| wrong())?;
                if (1..=INTERVAL_MS_MAX).contains(&interval_ms) {
                    Ok(Self::Interval(interval_ms))
                } else {
                    Err(wrong())
                }
            }
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit => write!(f, "commit"),
            Self::Interval(interval_ms) => write!(f, "interval:{interval_ms}"),
            Self::None => write!(f, "none"),
        }
    }
}

impl<'de> Deserialize<'de> for Durability {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The smallest value of `segment-bytes`: a packet of the largest size is at most a quarter.
pub(crate) const SEGMENT_BYTES_LEAST: u64 = 8 << 20;

/// The largest value of `segment-bytes`.
pub(crate) const SEGMENT_BYTES_MOST: u64 = 256 << 20;

/// The smallest value of `retention-bytes` but 0, for each shard: a few of the smallest segments.
pub(crate) const RETENTION_BYTES_LEAST: u64 = 4 * SEGMENT_BYTES_LEAST;

/// What the logs keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Hours for which records are kept. Default 72; 0: no bound.
    pub hours: u32,
    /// Bytes of commit logs that the node keeps, divided by its shards. Default 0: no bound.
    pub bytes: u64,
    /// Bytes of a log's segments, at most. Default 256 MiB. A log whose bytes are bounded has
    /// segments of an eighth of that at most, where that is more than 8 MiB.
    pub segment_bytes: u64,
    /// Hundredths of the disk in use from which the oldest segments go. Default 75.
    pub clean_percent: u8,
    /// The same, from which as many go as can. Default 85.
    pub force_percent: u8,
    /// The same, from which publications are refused. Default 90; 101: never.
    pub refuse_percent: u8,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            hours: 72,
            bytes: 0,
            segment_bytes: SEGMENT_BYTES_MOST,
            clean_percent: 75,
            force_percent: 85,
            refuse_percent: 90,
        }
    }
}

impl Retention {
    fn check(&self) -> Result<(), ConfigError> {
        let sizes = SEGMENT_BYTES_LEAST..=SEGMENT_BYTES_MOST;
        if !sizes.contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            return Err(ConfigError::SegmentBytes(self.segment_bytes));
        }
        if self.bytes > 0 && self.bytes < RETENTION_BYTES_LEAST {
            return Err(ConfigError::RetentionBytes(self.bytes));
        }
        let marks = [self.clean_percent, self.force_percent, self.refuse_percent];
        let [clean, force, refuse] = marks;
        if clean == 0 || clean > force || force > refuse || refuse > 101 {
            return Err(ConfigError::DiskPercent(marks));
        }
        Ok(())
    }
}

/// One source of settings; what is absent falls to the next source.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The data directory.
    pub data: Option<PathBuf>,
    /// Where to accept clients; replaces all of the next source's listeners.
    pub listen: Option<Vec<ListenUrl>>,
    /// How many shards, 1 to 64.
    pub shards: Option<u8>,
    /// When an acknowledgement may be sent: `commit`, `interval:MS` or `none`.
    pub durability: Option<Durability>,
    /// How long a commit may wait for more records when that saves commits, in microseconds.
    pub commit_wait_us: Option<u64>,
    /// `HOST:PORT` of the Prometheus page.
    pub metrics: Option<String>,
    /// Serve clients that do not authenticate on addresses beyond loopback.
    pub allow_anonymous: Option<bool>,
    /// How shared groups choose a member: `round-robin`, `least-in-flight`, `sticky` or
    /// `hash-topic`.
    #[serde(default, deserialize_with = "strategy")]
    pub share_strategy: Option<Strategy>,
    /// Who may connect, with what passwords: `corelane user` writes it.
    pub password_file: Option<PathBuf>,
    /// Who may publish and subscribe to what.
    pub acl_file: Option<PathBuf>,
    /// The node's certificate and those that signed it, PEM; for `mqtts://` and `wss://`.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Who may sign clients' certificates, PEM; clients are asked for one.
    pub tls_client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate: `required` or `optional`.
    pub tls_client_certificate: Option<ClientCertificate>,
    /// Hours for which records are kept; 0: no bound.
    pub retention_hours: Option<u32>,
    /// Bytes of commit logs that the node keeps; 0: no bound.
    pub retention_bytes: Option<u64>,
    /// Bytes of a log's segments, at most.
    pub segment_bytes: Option<u64>,
    /// Hundredths of the disk in use from which the oldest segments go.
    pub disk_clean_percent: Option<u8>,
    /// The same, from which as many go as can.
    pub disk_force_percent: Option<u8>,
    /// The same, from which publications are refused.
    pub disk_refuse_percent: Option<u8>,
    /// What clients may do; in the file only.
    pub limits: Option<LimitSettings>,
    /// Where clients are sent instead of being served; in the file only.
    pub redirect: Option<RedirectSettings>,
    /// What topics and filters become; in the file only.
    pub rewrite: Option<Vec<RewriteSettings>>,
    /// What every client is subscribed to; in the file only.
    pub auto_subscribe: Option<Vec<AutoSubscriptionSettings>>,
    /// Whether every client gets what is published to `FIRST/p2p/ITS-ID`.
    pub p2p: Option<bool>,
    /// The node's name in the topics of its events.
    pub node_name: Option<String>,
    /// Seconds between two announcements of the node's numbers; 0: none.
    pub sys_interval: Option<u32>,
}

/// Seconds between two announcements of the node's numbers.
const SYS_INTERVAL_S: u32 = 10;

fn node_name(name: Option<String>) -> Result<Option<Arc<str>>, ConfigError> {
    match name {
        Some(name)
            if name.is_empty() || name.len() > 64 || name.contains(['/', '+', '#', '\0']) =>
        {
            Err(ConfigError::NodeName(name))
        }
        name => Ok(name.map(Into::into)),
    }
}

fn strategy<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Strategy>, D::Error> {
    let name = String::deserialize(from)?;
    name.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Settings {
    /// Reads a TOML document.
    ///
    /// # Errors
    /// A syntax error, an unknown key or a bad value, with its line.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Toml(error.to_string()))
    }

    /// These settings, and where they are silent those of `base`.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            data: self.data.or(base.data),
            listen: self.listen.or(base.listen),
            shards: self.shards.or(base.shards),
            durability: self.durability.or(base.durability),
            commit_wait_us: self.commit_wait_us.or(base.commit_wait_us),
            metrics: self.metrics.or(base.metrics),
            allow_anonymous: self.allow_anonymous.or(base.allow_anonymous),
            share_strategy: self.share_strategy.or(base.share_strategy),
            password_file: self.password_file.or(base.password_file),
            acl_file: self.acl_file.or(base.acl_file),
            tls_certificate: self.tls_certificate.or(base.tls_certificate),
            tls_key: self.tls_key.or(base.tls_key),
            tls_client_ca: self.tls_client_ca.or(base.tls_client_ca),
            tls_client_certificate: self.tls_client_certificate.or(base.tls_client_certificate),
            retention_hours: self.retention_hours.or(base.retention_hours),
            retention_bytes: self.retention_bytes.or(base.retention_bytes),
            segment_bytes: self.segment_bytes.or(base.segment_bytes),
            disk_clean_percent: self.disk_clean_percent.or(base.disk_clean_percent),
            disk_force_percent: self.disk_force_percent.or(base.disk_force_percent),
            disk_refuse_percent: self.disk_refuse_percent.or(base.disk_refuse_percent),
            limits: self.limits.or(base.limits),
            redirect: self.redirect.or(base.redirect),
            rewrite: self.rewrite.or(base.rewrite),
            auto_subscribe: self.auto_subscribe.or(base.auto_subscribe),
            p2p: self.p2p.or(base.p2p),
            node_name: self.node_name.or(base.node_name),
            sys_interval: self.sys_interval.or(base.sys_interval),
        }
    }

    fn tls_files(&self) -> Result<Option<TlsFiles>, ConfigError> {
        let needs = |key, missing| Err(ConfigError::TlsNeeds { key, missing });
        match (&self.tls_certificate, &self.tls_key) {
            (Some(_), None) => needs("tls-certificate", "tls-key"),
            (None, Some(_)) => needs("tls-key", "tls-certificate"),
            (None, None) if self.tls_client_ca.is_some() => {
                needs("tls-client-ca", "tls-certificate")
            }
            _ if self.tls_client_certificate.is_some() && self.tls_client_ca.is_none() => {
                needs("tls-client-certificate", "tls-client-ca")
            }
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: self.tls_client_ca.clone(),
                client_certificate: self.tls_client_certificate.unwrap_or_default(),
            })),
        }
    }

    /// Fills in the defaults and checks everything.
    ///
    /// # Errors
    /// A value out of its range, an address that does not resolve, or a listener beyond loopback
    /// without `allow-anonymous`.
    pub fn finish(self) -> Result<Config, ConfigError> {
        let tls = self.tls_files()?;
        let defaults = Config::default();
        let kept = defaults.retention;
        let limits = self.limits.unwrap_or_default();
        let mut config = Config {
            data: self.data.unwrap_or(defaults.data),
            listen: self.listen.unwrap_or(defaults.listen),
            shards: self.shards,
            durability: self.durability.unwrap_or_default(),
            commit_wait_us: self.commit_wait_us.unwrap_or(defaults.commit_wait_us),
            metrics: self.metrics,
            allow_anonymous: self.allow_anonymous.unwrap_or(false),
            share_strategy: self.share_strategy.unwrap_or_default(),
            password_file: self.password_file,
            acl_file: self.acl_file,
            tls,
            retention: Retention {
                hours: self.retention_hours.unwrap_or(kept.hours),
                bytes: self.retention_bytes.unwrap_or(kept.bytes),
                segment_bytes: self.segment_bytes.unwrap_or(kept.segment_bytes),
                clean_percent: self.disk_clean_percent.unwrap_or(kept.clean_percent),
                force_percent: self.disk_force_percent.unwrap_or(kept.force_percent),
                refuse_percent: self.disk_refuse_percent.unwrap_or(kept.refuse_percent),
            },
            limits: defaults.limits,
            redirect: None,
            rewrites: rewrite::finish(self.rewrite).map_err(ConfigError::Rewrites)?,
            node_name: node_name(self.node_name)?,
            sys_interval_s: self.sys_interval.unwrap_or(SYS_INTERVAL_S),
            auto_subscriptions: auto_subscribe::finish(self.auto_subscribe, self.p2p)
                .map_err(ConfigError::AutoSubscriptions)?,
        };
        config.check()?;
        config.limits = limits.finish().map_err(ConfigError::Limit)?;
        config.redirect = self
            .redirect
            .map(RedirectSettings::finish)
            .transpose()
            .map_err(ConfigError::Redirect)?;
        Ok(config)
    }
}

/// A node's checked configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The data directory. Default `corelane-data` in the working directory.
    pub data: PathBuf,
    /// Where to accept clients, at least one. Default `mqtt://127.0.0.1:1883`.
    pub listen: Vec<ListenUrl>,
    /// How many shards, 1 to 64. `None`: one per core that this process may use.
    pub shards: Option<u8>,
    /// When an acknowledgement may be sent.
    pub durability: Durability,
    /// How long a commit may wait for more records when that saves commits, 0 to 10,000
    /// microseconds. Default 500; 0: never. Clients that wait for an acknowledgement before they
    /// send again do not cause a wait, but have their part in one.
    pub commit_wait_us: u64,
    /// `HOST:PORT` of the Prometheus page; none by default.
    pub metrics: Option<String>,
    /// Serve clients that do not authenticate on addresses beyond loopback. Default false.
    pub allow_anonymous: bool,
    /// How groups of shared subscriptions choose the member for a message. Default: one after the
    /// other.
    pub share_strategy: Strategy,
    /// Who may connect, with what passwords; none by default: everybody.
    pub password_file: Option<PathBuf>,
    /// Who may publish and subscribe to what; none by default: everybody to everything.
    pub acl_file: Option<PathBuf>,
    /// Certificates and key of the listeners with TLS; none by default.
    pub tls: Option<TlsFiles>,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// What clients may do.
    pub limits: ClientLimits,
    /// Where clients are sent instead of being served.
    pub redirect: Option<Redirect>,
    /// What topics and filters become; none by default: they stay.
    pub rewrites: Option<Arc<Rewrites>>,
    /// What every client is subscribed to; nothing by default.
    pub auto_subscriptions: Option<Arc<[AutoSubscription]>>,
    /// The node's name in the topics of its events: one level; `None`: `corelane`.
    pub node_name: Option<Arc<str>>,
    /// Seconds between two announcements of the node's numbers; 0: none.
    pub sys_interval_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("corelane-data"),
            listen: vec![ListenUrl::default()],
            shards: None,
            durability: Durability::Commit,
            commit_wait_us: COMMIT_WAIT_US,
            metrics: None,
            allow_anonymous: false,
            share_strategy: Strategy::RoundRobin,
            password_file: None,
            acl_file: None,
            tls: None,
            retention: Retention::default(),
            limits: ClientLimits::default(),
            redirect: None,
            rewrites: None,
            auto_subscriptions: None,
            node_name: None,
            sys_interval_s: SYS_INTERVAL_S,
        }
    }
}

impl Config {
    /// Reads the files that it names, as a start will.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        self.load_tls()?;
        self.load_rules()?;
        self.load_users().map(drop)
    }

    pub(crate) fn load_rules(&self) -> Result<Option<Rules>, ConfigError> {
        let Some(path) = &self.acl_file else {
            return Ok(None);
        };
        let read = acl::read(path).map(Some);
        read.map_err(|error| ConfigError::Rules(path.clone(), error))
    }

    pub(crate) fn load_users(&self) -> Result<Option<Users>, ConfigError> {
        let Some(path) = &self.password_file else {
            return Ok(None);
        };
        let read = Users::read(path).map(Some);
        read.map_err(|error| ConfigError::Users(path.clone(), error))
    }

    pub(crate) fn load_tls(&self) -> Result<Option<ServerTls>, ConfigError> {
        let loaded = self.tls.as_ref().map(TlsFiles::load);
        loaded.transpose().map_err(ConfigError::Tls)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Some(shards) = self.shards.filter(|n| !(1..=SHARDS_MAX).contains(n)) {
            return Err(ConfigError::Shards(shards));
        }
        if self.commit_wait_us > COMMIT_WAIT_US_MAX {
            return Err(ConfigError::CommitWait(self.commit_wait_us));
        }
        if self.listen.is_empty() {
            return Err(ConfigError::NoListener);
        }
        self.retention.check()?;
        for url in &self.listen {
            if url.has_tls() && self.tls.is_none() {
                return Err(ConfigError::NoCertificate(url.clone()));
            }
            let addresses = url
                .resolve()
                .map_err(|error| ConfigError::Resolve(url.to_string(), error.to_string()))?;
            let is_open = self.password_file.is_none() && !self.allow_anonymous;
            if is_open && addresses.iter().any(|a| !a.ip().is_loopback()) {
                return Err(ConfigError::NotLoopback(url.clone()));
            }
        }
        Ok(())
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The document is not TOML, or has an unknown key or a bad value.
    Toml(String),
    /// A listener's address is not one.
    Url(UrlError),
    /// The durability is none of the three.
    Durability(String),
    /// The shard count is out of range.
    Shards(u8),
    /// The wait of a commit is out of range.
    CommitWait(u64),
    /// The size of segments is out of range, or no multiple of 4096.
    SegmentBytes(u64),
    /// So few bytes can't be kept.
    RetentionBytes(u64),
    /// The three levels of the disk do not ascend within 1 to 101.
    DiskPercent([u8; 3]),
    /// A limit of clients is out of range.
    Limit(LimitError),
    /// Clients cannot be sent there.
    Redirect(RedirectError),
    /// Topics cannot be rewritten so.
    Rewrites(RewritesError),
    /// Clients cannot be subscribed to that.
    AutoSubscriptions(AutoSubscriptionsError),
    /// A node's name that is no level of a topic.
    NodeName(String),
    /// The list of listeners is empty.
    NoListener,
    /// An address and why its host could not be resolved.
    Resolve(String, String),
    /// Anybody could connect from outside without authentication.
    NotLoopback(ListenUrl),
    /// This listener speaks TLS, and there is no certificate.
    NoCertificate(ListenUrl),
    /// A key about TLS is there without the other that it needs.
    TlsNeeds {
        /// The key that is there.
        key: &'static str,
        /// The one that is missing.
        missing: &'static str,
    },
    /// The password file cannot be used.
    Users(PathBuf, UsersError),
    /// The file of rules cannot be used.
    Rules(PathBuf, AclError),
    /// The files of certificates and keys cannot be used.
    Tls(TlsError),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toml(text) => write!(f, "configuration file: {}", text.trim_end()),
            Self::Url(error) => error.fmt(f),
            Self::Redirect(error) => error.fmt(f),
            Self::Rewrites(error) => error.fmt(f),
            Self::AutoSubscriptions(error) => error.fmt(f),
            Self::NodeName(name) => write!(
                f,
                "node-name is \"{name}\" but must be 1 to 64 bytes without /, + and #"
            ),
            Self::Durability(text) => write!(
                f,
                "durability \"{text}\" must be commit, interval:MS (1 to {INTERVAL_MS_MAX} ms) \
                 or none"
            ),
            Self::Shards(shards) => {
                write!(f, "shards is {shards} but must be from 1 to {SHARDS_MAX}")
            }
            Self::CommitWait(wait_us) => write!(
                f,
                "commit-wait-us is {wait_us} but must be from 0 to {COMMIT_WAIT_US_MAX}"
            ),
            Self::SegmentBytes(bytes) => write!(
                f,
                "segment-bytes is {bytes} but must be a multiple of 4096 from \
                 {SEGMENT_BYTES_LEAST} to {SEGMENT_BYTES_MOST}"
            ),
            Self::RetentionBytes(bytes) => write!(
                f,
                "retention-bytes is {bytes} but must be 0 (no bound) or at least \
                 {RETENTION_BYTES_LEAST}"
            ),
            Self::DiskPercent([clean, force, refuse]) => write!(
                f,
                "disk-clean-percent {clean}, disk-force-percent {force} and disk-refuse-percent \
                 {refuse} must ascend from 1 to 101"
            ),
            Self::Limit(error) => error.fmt(f),
            Self::NoListener => write!(f, "listen is empty: name at least one mqtt://HOST:PORT"),
            Self::Resolve(address, error) => {
                write!(f, "{address}: the host cannot be resolved: {error}")
            }
            Self::NoCertificate(url) => write!(
                f,
                "{url} speaks TLS: name the certificate and its key with --tls-certificate FILE \
                 and --tls-key FILE"
            ),
            Self::TlsNeeds { key, missing } => write!(f, "{key} is of no use without {missing}"),
            Self::Tls(error) => error.fmt(f),
            Self::Rules(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Users(path, error) => write!(f, "{}: {error}", path.display()),
            Self::NotLoopback(url) => write!(
                f,
                "{url} is reachable from outside and clients are not authenticated: listen on \
                 127.0.0.1 or [::1], name users with --password-file, or pass --allow-anonymous to \
                 accept that"
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<UrlError> for ConfigError {
    fn from(error: UrlError) -> Self {
        Self::Url(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(
            Settings::from_toml("").unwrap().finish().unwrap(),
            Config::default()
        );
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            data = "/var/lib/corelane"
            listen = ["mqtt://127.0.0.1:1", "mqtt://[::1]:2"]
            shards = 3
            durability = "interval:250"
            commit-wait-us = 200
            metrics = "127.0.0.1:9100"
            allow-anonymous = true
            share-strategy = "hash-topic"
            password-file = "users"
            tls-certificate = "chain.pem"
            tls-key = "key.pem"
            tls-client-ca = "ca.pem"
            tls-client-certificate = "optional"
            retention-hours = 24
            retention-bytes = 1073741824
            segment-bytes = 16777216
            disk-clean-percent = 60
            disk-force-percent = 70
            disk-refuse-percent = 80
        "#;
        let config = Settings::from_toml(text).unwrap().finish().unwrap();
        assert_eq!(config.data, PathBuf::from("/var/lib/corelane"));
        assert_eq!(config.listen[1].to_string(), "mqtt://[::1]:2");
        assert_eq!(config.shards, Some(3));
        assert_eq!(config.durability, Durability::Interval(250));
        assert_eq!(config.commit_wait_us, 200);
        assert_eq!(config.metrics.as_deref(), Some("127.0.0.1:9100"));
        assert!(config.allow_anonymous);
        assert_eq!(config.share_strategy, Strategy::HashTopic);
        assert_eq!(config.password_file, Some(PathBuf::from("users")));
        let tls = config.tls.unwrap();
        assert_eq!(tls.certificate, PathBuf::from("chain.pem"));
        assert_eq!(tls.key, PathBuf::from("key.pem"));
        assert_eq!(tls.client_ca, Some(PathBuf::from("ca.pem")));
        assert_eq!(tls.client_certificate, ClientCertificate::Optional);
        let expected = Retention {
            hours: 24,
            bytes: 1 << 30,
            segment_bytes: 16 << 20,
            clean_percent: 60,
            force_percent: 70,
            refuse_percent: 80,
        };
        assert_eq!(config.retention, expected);
    }

    #[test]
    fn what_is_kept_is_checked() {
        let finish = |text: &str| Settings::from_toml(text).unwrap().finish().unwrap_err();
        for bytes in [0, 4096, (8 << 20) + 1, (256 << 20) + 4096] {
            let error = finish(&format!("segment-bytes = {bytes}"));
            assert_eq!(error, ConfigError::SegmentBytes(bytes));
        }
        let least = RETENTION_BYTES_LEAST;
        let error = finish(&format!("retention-bytes = {}", least - 1));
        assert_eq!(error, ConfigError::RetentionBytes(least - 1));
        for (text, marks) in [
            ("disk-clean-percent = 0", [0, 85, 90]),
            ("disk-clean-percent = 86", [86, 85, 90]),
            ("disk-refuse-percent = 84", [75, 85, 84]),
            ("disk-refuse-percent = 102", [75, 85, 102]),
        ] {
            assert_eq!(finish(text), ConfigError::DiskPercent(marks), "{text}");
        }
        let kept = Settings::from_toml("retention-bytes = 0\nretention-hours = 0").unwrap();
        assert_eq!(kept.finish().unwrap().retention.hours, 0);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_errors_with_their_place() {
        let error = Settings::from_toml("data = \"x\"\nshard = 2\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("shard") && error.contains('2'), "{error}");
        let error = Settings::from_toml("durability = \"always\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("interval:MS"), "{error}");
        assert!(Settings::from_toml("listen = [\"tcp://a\"]").is_err());
    }

    #[test]
    fn flags_override_the_file() {
        let flags = Settings {
            shards: Some(2),
            ..Settings::default()
        };
        let file = Settings::from_toml("shards = 4\ndata = \"d\"").unwrap();
        let config = flags.over(file).finish().unwrap();
        assert_eq!((config.shards, config.data), (Some(2), PathBuf::from("d")));
    }

    #[test]
    fn ranges_are_checked() {
        let with_shards = |n| {
            Settings {
                shards: Some(n),
                ..Settings::default()
            }
            .finish()
        };
        assert_eq!(with_shards(0), Err(ConfigError::Shards(0)));
        assert_eq!(with_shards(65), Err(ConfigError::Shards(65)));
        assert!(with_shards(64).is_ok());
        let error = Settings::from_toml("commit-wait-us = 10001").unwrap();
        assert_eq!(error.finish(), Err(ConfigError::CommitWait(10_001)));
        assert!(Settings::from_toml("share-strategy = \"random\"").is_err());
        for text in ["interval:0", "interval:3600001", "interval:", "sync"] {
            assert!(text.parse::<Durability>().is_err(), "{text}");
        }
        for text in ["commit", "interval:1", "none"] {
            assert_eq!(text.parse::<Durability>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn keys_about_tls_need_each_other() {
        #[track_caller]
        fn check(text: &str, problem: &str) {
            let error = Settings::from_toml(text).unwrap().finish().unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
        check("listen = [\"mqtts://[::1]:1\"]", "--tls-certificate FILE");
        check("listen = [\"wss://[::1]:1\"]", "--tls-key FILE");
        check("tls-certificate = \"a\"", "tls-key");
        check("tls-key = \"a\"", "tls-certificate");
        check("tls-client-ca = \"a\"", "tls-certificate");
        let pair = "tls-certificate = \"a\"\ntls-key = \"b\"\n";
        check(
            &format!("{pair}tls-client-certificate = \"required\""),
            "tls-client-ca",
        );
        assert!(Settings::from_toml("tls-client-certificate = \"maybe\"").is_err());
        let config = Settings::from_toml(pair).unwrap().finish().unwrap();
        let error = config.check_files().unwrap_err().to_string();
        assert!(error.starts_with("a: "), "{error}");
    }

    #[test]
    fn listeners_beyond_loopback_need_consent() {
        let outside = |allow| {
            Settings {
                listen: Some(vec!["mqtt://0.0.0.0:1883".parse().unwrap()]),
                allow_anonymous: Some(allow),
                ..Settings::default()
            }
            .finish()
        };
        let error = outside(false).unwrap_err();
        assert!(error.to_string().contains("--allow-anonymous"), "{error}");
        assert!(outside(true).is_ok());
        let empty = Settings {
            listen: Some(Vec::new()),
            ..Settings::default()
        };
        assert_eq!(empty.finish(), Err(ConfigError::NoListener));
    }

    #[test]
    fn mutated_files() {
        let samples = [
            "data = \"d\"\nlisten = [\"mqtt://127.0.0.1:1?proxy-protocol\", \"unix:///a\"]\n\
             shards = 3\ndurability = \"interval:250\"\ncommit-wait-us = 200\n\
             share-strategy = \"sticky\"\nretention-hours = 24\nsegment-bytes = 16777216\n",
            "disk-clean-percent = 60\nnode-name = \"n\"\nsys-interval = 5\np2p = true\n\
             [limits]\npacket-bytes = 65536\ntopic-levels = 9\n\
             [redirect]\nservers = \"a b:1\"\nmode = \"moved\"\n",
            "[[rewrite]]\nfrom = \"d/+/#\"\nto = \"fleet/%c/$1/$2\"\n\
             [[rewrite]]\naction = \"subscribe\"\nfrom = \"mine/#\"\nto = \"fleet/%c/$1\"\n\
             [[auto-subscribe]]\nfilter = \"to/%c/#\"\nqos = 1\nretain-handling = 1\n",
        ];
        crate::mutate::fuzz(&samples.map(|text| text.as_bytes().to_vec()), |bytes| {
            let text = std::str::from_utf8(bytes).unwrap_or("=");
            let settings = Settings::from_toml(text);
            settings.is_ok_and(|settings| settings.finish().is_ok())
        });
    }
}
