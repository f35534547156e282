//! The seeds of CI, and what makes a simulation worth its name: it repeats itself, and it fails
//! when the product is wrong.

use super::*;

/// Seeds of this test; `tests/run` runs many more in a step of its own.
const SEEDS: u64 = 50;

#[test]
fn every_seed_keeps_every_promise() {
    for seed in 0..SEEDS {
        if let Err(failure) = run_seed(seed, Options::default()) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_run_twice_gives_the_same_trace() {
    for seed in [1, 7, 23] {
        let options = Options {
            keeps_trace: true,
            ..Options::default()
        };
        let first = run_seed(seed, options);
        let second = run_seed(seed, options);
        assert_eq!(first, second, "seed {seed}");
        let other = run_seed(seed + 1, options);
        assert_ne!(first, other, "seed {seed} and the next one");
    }
}

#[test]
fn without_syncs_the_promises_break() {
    let options = Options {
        ignores_syncs: true,
        ..Options::default()
    };
    let broken = (0..20).find_map(|seed| run_seed(seed, options).err());
    let failure = broken.expect("a node that never syncs is found out within 20 seeds");
    assert!(failure.to_string().contains("--seed"), "{failure}");
}
