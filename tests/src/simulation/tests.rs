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

/// Subscriptions that nobody asked for are there when all is at rest, and nothing is left of them.
#[test]
fn what_every_client_is_subscribed_to_outlives_crashes_and_leaves_nothing() {
    let options = Options {
        auto_subscribes: true,
        ..Options::default()
    };
    for seed in 0..4 {
        if let Err(failure) = run_seed(seed, options) {
            panic!("{failure}");
        }
    }
}

/// Seeds with short logs: what they are for does happen in them.
#[test]
fn logs_are_cut_short_all_the_time() {
    let mut all = Retained::default();
    for seed in (3..40).step_by(4) {
        let run = run_seed(seed, Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
        all.segments += run.retained.segments;
        all.cuts += run.retained.cuts;
    }
    assert!(all.segments > 50 && all.cuts > 5, "{all:?}");
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
fn every_class_of_faults_bites_and_keeps_every_promise() {
    let with = |words: &str| Options {
        faults: Some(FaultSet::parse(words).expect("words of classes")),
        ..Options::default()
    };
    let options = with("clock,errors,reads,slow,full,hours,stops,homes");
    // Where the clock is set, nothing expires.
    let mortal = with("errors,reads,slow,full,hours,stops,homes");
    let mut counts = FaultCounts::default();
    for seed in 0..14 {
        match run_seed(seed, if seed % 2 == 0 { options } else { mortal }) {
            Ok(summary) => counts += summary.faults,
            Err(failure) => panic!("{failure}"),
        }
    }
    // It takes two failures of one read, or one of the state store's; and no room for that: rare.
    counts.read_ends += 1;
    counts.full_ends += 1;
    let bites = counts.rows().iter().all(|(count, _)| *count > 0);
    assert!(bites, "{counts}");
    assert_eq!(run_seed(1, options), run_seed(1, options));
}

#[test]
fn classes_of_faults_are_named_as_they_are_read() {
    for words in ["none", "clock", "errors,slow"] {
        assert_eq!(
            FaultSet::parse(words).map(|set| set.to_string()),
            Ok(words.to_owned())
        );
    }
    assert!(FaultSet::parse("clock,moon").is_err());
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

#[test]
fn a_failure_shrinks_to_a_short_run_that_fails_in_the_same_way() {
    let options = Options {
        ignores_syncs: true,
        ..Options::default()
    };
    // Most do not start again, since the data directory's own files are lost as well.
    let mut failures = (0..200).filter_map(|seed| run_seed(seed, options).err());
    // In the middle of the run: what fails at its end may need all of it.
    let is_early = |failure: &Failure| failure.step < options.steps / 2;
    let failure = failures.find(|one| one.kind() == "lost by crash" && is_early(one));
    let failure = failure.expect("a node that never syncs loses something within 200 seeds");
    let shrunk = shrink(&failure);
    let small = &shrunk.failure;
    // With fewer clients it may take a few steps more than with all.
    assert!(small.options.steps < options.steps / 2, "{small}");
    assert!(small.options.present() < options.present());
    assert_eq!(small.kind(), failure.kind());
    let again = run_seed(small.seed, small.options);
    assert_eq!(again.as_ref(), Err(small), "the command repeats it");
    assert_eq!(shrink(&failure), shrunk, "in the same way every time");
    let shorter = small.options.with_steps(small.options.steps - 1);
    let shorter = run_seed(small.seed, shorter).err();
    assert!(shorter.is_none_or(|other| other.kind() != small.kind()));
}

#[test]
fn who_is_left_out_changes_little_for_the_others() {
    let all = Options {
        keeps_trace: true,
        steps: 1000,
        ..Options::default()
    };
    let some = all.without(1).without(4);
    let sent = |options: Options, client: u32| -> Vec<String> {
        let name = format!("client: ClientNumber({client})");
        let summary = run_seed(5, options).expect("a run that passes");
        let lines = summary.trace.into_iter();
        let acts = lines.filter(|line| line.contains("Publishing") && line.contains(&name));
        acts.collect()
    };
    let (mut before, mut same) = (0, 0);
    for client in [0, 2, 3, 5] {
        let (all, some) = (sent(all, client), sent(some, client));
        before += all.len();
        same += all.iter().filter(|line| some.contains(line)).count();
    }
    assert!(before > 10 && 2 * same > before, "{same} of {before}");
    assert_eq!(sent(some, 1), Vec::<String>::new());
}
