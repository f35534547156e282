//! The runtime around the machines.
#![expect(dead_code, reason = "being built")]

mod config;
mod driver;
mod layer;
mod machine;
mod mesh;
mod net;
mod ring;
mod shared;
mod slots;
mod socket;
mod url;

pub use config::{Config, ConfigError, Durability, INTERVAL_MS_MAX, SHARDS_MAX, Settings};
pub use url::{ListenUrl, PORT_DEFAULT, UrlError};
