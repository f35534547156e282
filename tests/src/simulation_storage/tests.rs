//! What the simulation can do, and the seeds that have found something.

use super::{Options, run_seed};

#[test]
fn a_few_seeds_pass() {
    for seed in 0..20 {
        if let Err(failure) = run_seed(seed, Options::default()) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_run_twice_gives_the_same_trace() {
    let run = |seed| run_seed(seed, Options::default()).map(|summary| summary.trace_hash);
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

/// The simulation can fail: without syncs, what was durable is lost, and it says so.
#[test]
fn a_disk_that_ignores_syncs_is_caught() {
    let options = Options {
        ignores_syncs: true,
        ..Options::default()
    };
    let caught = (0..20).filter(|seed| run_seed(*seed, options).is_err());
    assert!(caught.count() >= 15, "syncs are not needed");
}
