//! The runtime around the pure machines: cores, rings, sockets, mesh, timers, start-up, side
//! threads.
//!
//! [`Node::start`] looks whether the machine can run a node at all (`checks`), opens and recovers
//! the data directory (`run`, [`node`]), binds the listeners and starts the threads (`threads`):
//! one glommio executor per shard (`executor`), a `watchdog`, a `metrics` page. In an executor one
//! task has the shard's turns (`driver`): it drains its io_uring (`ring`, `net`), the `mesh` and
//! the disk into the machine behind the `machine` trait, sends what comes out, and sleeps in the
//! ring (`executor`). A failure or a panic of any shard ends the node; recovery does the rest.
//!
//! Invariants:
//! - Shards share nothing but atomics, rings of messages and immutable blocks.
//! - An idle connection is one slab entry and one pending kernel operation.
//! - No shard waits for another; a full ring is tried again later.
//! - Nothing is cancelled per connection: sockets are shut down, their operations complete.
//! - glommio is named in `executor` only (and in storage-io's other disk queue); unsafe code is in
//!   `ring`, `socket` and `system` only.

mod acl;
mod admin;
mod auth;
mod auto_subscribe;
mod base64;
mod checks;
mod config;
mod descriptors;
mod driver;
mod error;
mod executor;
mod handshake;
pub mod inspect;
mod limits;
mod machine;
mod mesh;
mod metrics;
mod net;
pub mod node;
mod numbers;
mod orders;
mod prepare;
mod redirect;
mod reload;
pub mod repair;
mod rewrite;
mod ring;
mod rings;
mod run;
mod scram;
mod shard_machine;
mod shared;
mod slots;
mod socket;
mod system;
mod threads;
mod transport;
mod url;
mod users;
mod watchdog;

#[cfg(test)]
#[path = "../../../tests/fuzz/mutate.rs"]
mod mutate;

pub use acl::AclError;
pub use auto_subscribe::{AutoSubscriptionSettings, AutoSubscriptionsError};
pub use config::{
    COMMIT_WAIT_US, COMMIT_WAIT_US_MAX, Config, ConfigError, Durability, INTERVAL_MS_MAX,
    Retention, SHARDS_MAX, Settings,
};
pub use engine_shard::Strategy as ShareStrategy;
pub use error::{RunError, StartError};
pub use limits::{LimitError, LimitSettings};
pub use redirect::{RedirectError, RedirectSettings};
pub use reload::ReloadHandle;
pub use rewrite::{RewriteSettings, RewritesError};
pub use run::Node;
pub use threads::StopHandle;
pub use transport::{ClientCertificate, TlsError, TlsFiles};
pub use url::{ListenUrl, PORT_DEFAULT, UrlError};
pub use users::{Users, UsersError};
