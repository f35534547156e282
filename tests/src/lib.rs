//! The product's test suite: everything that needs more than one crate.
//!
//! It is one test binary (`cargo test -p corelane-tests`), because every further one links the
//! whole product again. The modules:
//!
//! | module | what it shows |
//! |---|---|
//! | `conformance` | MQTT 3.1.1 and 5.0 statements, over a raw socket against the real process |
//! | `interop` | foreign clients: mosquitto, paho, gmqtt, MQTT.js, rumqttc |
//! | `admin` | clients sent away, or elsewhere |
//! | `authentication` | SCRAM-SHA-256 over AUTH, at the door and again |
//! | `auto_subscribe` | what every client is subscribed to |
//! | `crash` | the real process killed, stopped, short of disk or descriptors, on damaged files |
//! | `hostile` | clients that mean harm get their answer, and harm nobody else |
//! | `large` | packets of up to 256 MiB, messages in thousands of queues |
//! | `regressions` | faults that users of other brokers have reported |
//! | `rewrite` | topics and filters that become others |
//! | `rules` | who may publish and subscribe to what |
//! | `shards` | every pair of shards carries messages, connections spread evenly |
//! | `startup` | what the process says when it cannot start, and how it stops |
//! | `simulation` | the whole node on a simulated disk, under seeds |
//! | `simulation_storage` | one shard's storage alone, on a disk that fails and lies, under seeds |
//! | `history` | the checker that `crash` and `simulation` hold what clients saw against |
//! | `tidy` | the source tree keeps its own rules |
//!
//! With `CORELANE_TEST_BROKER=mosquitto` the modules that drive a process run against Debian's
//! mosquitto instead: that tells a mistake of a test from a mistake of the product.

#![cfg_attr(
    test,
    expect(
        clippy::wildcard_enum_match_arm,
        reason = "a test that gets any other answer fails and shows it"
    )
)]

#[cfg(test)]
mod admin;
#[cfg(test)]
mod authentication;
#[cfg(test)]
mod auto_subscribe;
#[cfg(test)]
mod client;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
pub mod history;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod large;
#[cfg(test)]
mod node;
#[cfg(test)]
mod p2p;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod rehoming;
#[cfg(test)]
mod rewrite;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod shards;
pub mod simulation;
pub mod simulation_storage;
#[cfg(test)]
mod startup;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod transports;
#[cfg(test)]
mod users;
