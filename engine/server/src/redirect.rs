//! Where the configuration sends clients: the table `[redirect]`.

use std::fmt;

use engine_shard::Redirect;
use serde::Deserialize;

/// Bytes of the server reference.
const SERVERS_BYTES_MAX: usize = 1024;

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RedirectSettings {
    servers: String,
    #[serde(default)]
    mode: Mode,
}

/// For how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// 0x9C.
    #[default]
    UseAnother,
    /// 0x9D.
    Moved,
}

/// A server reference that is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedirectError(String);

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "servers in [redirect] is \"{}\" but must be hosts with their ports, apart by a space, \
             1 to {SERVERS_BYTES_MAX} bytes",
            self.0
        )
    }
}

impl RedirectSettings {
    pub(crate) fn finish(self) -> Result<Redirect, RedirectError> {
        redirect(self.servers, self.mode == Mode::Moved)
    }
}

/// Sends clients to these servers.
pub(crate) fn redirect(servers: String, has_moved: bool) -> Result<Redirect, RedirectError> {
    let is_long = servers.len() > SERVERS_BYTES_MAX;
    let has_gap = servers.split(' ').any(str::is_empty);
    if is_long || has_gap || servers.contains(char::is_control) {
        return Err(RedirectError(servers));
    }
    Ok(Redirect {
        has_moved,
        servers: servers.into(),
    })
}
