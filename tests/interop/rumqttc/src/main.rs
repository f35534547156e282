//! One interop scenario with rumqttc: `interop-rumqttc PORT SCENARIO VERSION` (4 or 5).
//!
//! Exits with 0 when every expectation held, else with a panic. Nothing sleeps: every wait is for
//! an event, with a deadline.

mod client;
mod scenarios;

use client::Door;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, scenario, version] = words.as_slice() else {
        panic!("usage: interop-rumqttc PORT SCENARIO VERSION");
    };
    let door = Door {
        port: port.parse().expect("a port"),
        version: version.parse().expect("a version"),
    };
    scenarios::run(&door, scenario);
}
