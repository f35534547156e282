//! The runtime around the machines.
#![expect(dead_code, reason = "being built")]

mod config;
mod ring;
mod slots;
mod socket;
mod url;

pub use config::{Config, ConfigError, Durability, INTERVAL_MS_MAX, SHARDS_MAX, Settings};
pub use url::{ListenUrl, PORT_DEFAULT, UrlError};
