//! Reads the user's files again while the node runs.

use std::path::PathBuf;
use std::sync::Arc;

use engine_shard::TopicRules;
use tracing::{error, info};

use crate::acl;
use crate::config::Config;
use crate::shared::Shared;
use crate::transport::TlsFiles;
use crate::users::Users;

/// Reads certificates, key, users and rules again, from any thread. Connections go on with the
/// certificates and users that they have.
#[derive(Clone)]
pub struct ReloadHandle {
    shared: Arc<Shared>,
    tls: Option<TlsFiles>,
    password_file: Option<PathBuf>,
    acl_file: Option<PathBuf>,
}

impl std::fmt::Debug for ReloadHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadHandle")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl ReloadHandle {
    pub(crate) const fn new(
        shared: Arc<Shared>,
        tls: Option<TlsFiles>,
        password_file: Option<PathBuf>,
        acl_file: Option<PathBuf>,
    ) -> Self {
        Self {
            shared,
            tls,
            password_file,
            acl_file,
        }
    }

    /// Reads the files. What cannot be used is written to the log, and the old stays.
    pub fn reload(&self) {
        self.reload_users();
        self.reload_rules();
        self.reload_tls();
    }

    /// Takes what a configuration that was read again says of topics: `[[rewrite]]`,
    /// `[[auto-subscribe]]` and `p2p`. Each shard goes by it from its next turn on.
    pub fn reload_topics(&self, config: &Config) {
        let topics = TopicRules {
            rewrites: config.rewrites.clone(),
            auto_subscriptions: config.auto_subscriptions.clone(),
        };
        self.shared.orders().set_topics(&topics);
        info!("rewrite and auto-subscribe were read again");
    }

    fn reload_users(&self) {
        let (Some(path), Some(auth)) = (&self.password_file, self.shared.auth()) else {
            return;
        };
        match Users::read(path) {
            Ok(users) => {
                info!(users = users.names().count(), "the users were read again");
                auth.change(users);
            }
            Err(problem) => error!("{}: the old users stay: {problem}", path.display()),
        }
    }

    fn reload_rules(&self) {
        let Some(path) = &self.acl_file else {
            return;
        };
        match acl::read(path) {
            Ok(rules) => {
                let count = rules.rules.len();
                self.shared.orders().set_rules(&Arc::new(rules));
                info!(rules = count, "the rules were read again");
            }
            Err(problem) => error!("{}: the old rules stay: {problem}", path.display()),
        }
    }

    fn reload_tls(&self) {
        let Some(files) = &self.tls else {
            return;
        };
        match files.load() {
            Ok(tls) => {
                self.shared.doorways().offer(&tls);
                let certificate = files.certificate.display();
                info!(%certificate, "new connections get the certificate that was read again");
            }
            Err(problem) => error!("the old certificate stays: {problem}"),
        }
    }
}
