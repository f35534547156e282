//! A wall clock that somebody sets.

use engine_mqtt::QoS;

use super::net::{CLEAN, DURABLE, Net};

/// Milliseconds by which the wall clock is set back.
const STEP_MS: u64 = 3_600_000;

/// What a client that comes anew finds retained.
fn retained(net: &mut Net) -> Vec<String> {
    let asker = net.id_on("asker", 0);
    net.connect(&asker, &CLEAN);
    net.subscribe(&asker, &[("r", QoS::AtLeastOnce)]);
    net.settle();
    let got = net.client(&asker).got.iter();
    got.map(|one| one.payload.clone()).collect()
}

#[test]
fn a_clock_set_back_does_not_bring_back_what_was_retained() {
    for crashes in [false, true] {
        for shard in 0..3 {
            let mut net = Net::new(3);
            let (first, second) = (net.id_on("a", 0), net.id_on("b", shard));
            net.connect(&first, &DURABLE);
            net.retain(&first, "r", "old", 1);
            net.settle();
            net.now.wall_ms -= STEP_MS;
            if crashes {
                net.crash();
            } else {
                net.pass(10);
            }
            net.connect(&second, &DURABLE);
            net.retain(&second, "r", "new", 2);
            net.settle();
            assert_eq!(
                retained(&mut net),
                ["new"],
                "shard {shard}, crashes {crashes}"
            );
        }
    }
}
