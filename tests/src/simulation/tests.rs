//! The seeds of CI, and what makes a simulation worth its name: it repeats itself, and it fails
//! when the product is wrong.

use super::*;

/// Seeds that CI runs.
const SEEDS: u64 = 500;
/// Threads that share them.
const THREADS: u64 = 2;

#[test]
fn every_seed_keeps_every_promise() {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|first| scope.spawn(move || run_some(first)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        failures.is_empty(),
        "{} seeds failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn run_some(first: u64) -> Vec<String> {
    let mut failures = Vec::new();
    for seed in (first..SEEDS).step_by(usize::try_from(THREADS).unwrap()) {
        if let Err(failure) = run_seed(seed, Options::default()) {
            failures.push(failure.to_string());
        }
        if seed % 50 == 0 {
            println!("simulated up to seed {seed}, {} failed", failures.len());
        }
    }
    failures
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
