//! Reads the user's files again while the node runs.

use std::sync::Arc;

use tracing::{error, info};

use crate::shared::Shared;
use crate::transport::TlsFiles;

/// Reads certificates and key again, from any thread. Connections go on with what they have.
#[derive(Clone)]
pub struct ReloadHandle {
    shared: Arc<Shared>,
    tls: Option<TlsFiles>,
}

impl std::fmt::Debug for ReloadHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadHandle")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl ReloadHandle {
    pub(crate) const fn new(shared: Arc<Shared>, tls: Option<TlsFiles>) -> Self {
        Self { shared, tls }
    }

    /// Reads the files. What cannot be used is written to the log, and the old stays.
    pub fn reload(&self) {
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
