//! The runtime around the machines.
#![expect(dead_code, reason = "being built")]

mod checks;
mod config;
mod driver;
mod error;
mod executor;
mod layer;
mod machine;
mod mesh;
mod metrics;
mod net;
mod ring;
mod shared;
mod sleeper;
mod slots;
mod socket;
mod system;
mod threads;
mod url;
mod watchdog;

pub use config::{Config, ConfigError, Durability, INTERVAL_MS_MAX, SHARDS_MAX, Settings};
pub use error::{RunError, StartError};
pub use threads::StopHandle;
pub use url::{ListenUrl, PORT_DEFAULT, UrlError};
