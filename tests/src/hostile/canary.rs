//! A client that lives on while others do harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use engine_mqtt::{QoS, Version};

use crate::client::{Client, Dial};
use crate::node::Node;

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
/// Messages that come back before anybody disturbs.
const CALM: u32 = 300;

/// Its messages come back to it one at a time, at every QoS; any other answer is a panic.
pub(super) struct Canary {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
    calm: Vec<Duration>,
}

fn sing(client: &mut Client, number: u32) -> Duration {
    let qos = LEVELS[number as usize % LEVELS.len()];
    let payload = number.to_string();
    let begin = Instant::now();
    client.publish("canary", &payload, qos);
    client.expect("canary", &payload, qos);
    begin.elapsed()
}

/// The 99th percentile.
fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

impl Canary {
    pub(super) fn start(node: &Node) -> Self {
        let mut client = Dial::clean(Version::V5, "canary").connect(node);
        client.subscribe("canary", QoS::ExactlyOnce);
        let calm = (0..CALM).map(|number| sing(&mut client, number)).collect();
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = spawn(move || {
            let mut times = Vec::new();
            for number in 0.. {
                times.push(sing(&mut client, number));
                if seen.load(Ordering::Relaxed) {
                    break;
                }
            }
            client.disconnect();
            times
        });
        Self { over, thread, calm }
    }

    /// It has seen no error. Prints how long its messages took.
    pub(super) fn stop(mut self, what: &str) {
        self.over.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().expect("the canary sees no error");
        println!(
            "{what}: {} messages of the canary, p99 {:?}; undisturbed {:?}",
            times.len(),
            p99(&mut times),
            p99(&mut self.calm)
        );
    }
}
