//! Rules for the Rust files that no lint knows.

use super::{Source, crate_folder, packages, report, rust_sources};

/// Lines of a file without its tests.
const LINES_MAX: usize = 800;
/// Columns of a line. rustfmt leaves strings and comments alone.
const COLUMNS_MAX: usize = 100;

/// Runs `check` over the code lines of the files that `wanted` selects; reports what it names.
#[track_caller]
fn check_code(wanted: impl Fn(&Source) -> bool, check: impl Fn(&str) -> Option<String>) {
    let mut problems = Vec::new();
    let mut files = 0;
    for source in rust_sources().filter(wanted) {
        files += 1;
        for (number, line) in source.code_lines() {
            if let Some(problem) = check(line) {
                problems.push(format!("{}:{number}: {problem}", source.path));
            }
        }
    }
    assert!(files > 0, "the rule looks at no file");
    report(&problems);
}

fn names_any(line: &str, words: &[&str]) -> Option<String> {
    words
        .iter()
        .find(|word| line.contains(**word))
        .map(|word| (*word).to_owned())
}

#[test]
fn pure_crates_do_no_io_and_read_no_clock() {
    let folders = packages::PURE.map(|name| name.replace('-', "/"));
    check_code(
        |source| {
            let is_product = !source.path.contains("/examples/");
            is_product
                && folders
                    .iter()
                    .any(|folder| crate_folder(&source.path) == folder)
        },
        |line| {
            names_any(
                line,
                &[
                    "glommio",
                    "tokio",
                    "io_uring",
                    "flume",
                    "libc",
                    "std::fs",
                    "std::net",
                    "std::io",
                    "std::thread",
                    "std::process",
                    "std::env",
                    "std::sync::mpsc",
                    "Instant",
                    "SystemTime",
                    "Mutex",
                    "RwLock",
                    "println!",
                ],
            )
        },
    );
}

#[test]
fn only_storage_io_opens_files() {
    // The command line and the load generator read and write files that a user names; they are
    // no part of a node's data.
    let free = ["storage/io", "bin", "perf"];
    check_code(
        |source| {
            let is_product =
                !source.path.contains("/examples/") && !source.path.ends_with("_tests.rs");
            is_product && !free.contains(&crate_folder(&source.path))
        },
        |line| {
            names_any(
                line,
                &[
                    "std::fs",
                    "File::open",
                    "File::create",
                    "OpenOptions",
                    "DmaFile",
                ],
            )
        },
    );
}

#[test]
fn glommio_is_named_in_two_crates_only() {
    check_code(
        |source| !["engine/server", "storage/io"].contains(&crate_folder(&source.path)),
        |line| names_any(line, &["glommio"]),
    );
}

#[test]
fn storage_knows_nothing_of_mqtt() {
    check_code(
        |source| source.path.starts_with("storage/"),
        |line| names_any(line, &["engine_", "mqtt", "Mqtt"]),
    );
}

#[test]
fn files_hold_one_idea() {
    let problems: Vec<String> = rust_sources()
        .map(|source| (source.product_lines().count(), source.path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines without tests, at most {LINES_MAX}"))
        .collect();
    report(&problems);
}

#[test]
fn lines_are_narrow_and_ascii() {
    let mut problems = Vec::new();
    for source in rust_sources() {
        for (index, line) in source.text.lines().enumerate() {
            let place = format!("{}:{}", source.path, index + 1);
            if !line.is_ascii() {
                problems.push(format!("{place}: not ASCII"));
            }
            if line.chars().count() > COLUMNS_MAX {
                problems.push(format!("{place}: more than {COLUMNS_MAX} columns"));
            }
        }
    }
    report(&problems);
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_to_do() {
    // Spelled in two parts, so that this file passes its own test.
    let banned = [
        ["#[", "ignore"],
        ["TO", "DO"],
        ["FIX", "ME"],
        ["todo", "!("],
        ["thread::", "sleep"],
    ];
    let mut problems = Vec::new();
    for source in rust_sources() {
        for (index, line) in source.text.lines().enumerate() {
            // The load generator's conductor waits for the clock: that is what it is for.
            let waits = source.path == "perf/src/runner.rs" && line.contains(&banned[4].concat());
            for word in banned.iter().filter(|_| !waits) {
                if line.contains(&word.concat()) {
                    problems.push(format!("{}:{}: {}", source.path, index + 1, word.concat()));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn every_module_says_what_it_is_for() {
    let problems: Vec<String> = rust_sources()
        .filter(|source| !source.text.starts_with("//!") && !source.path.ends_with("/tests.rs"))
        .map(|source| format!("{}: does not start with a module comment", source.path))
        .collect();
    report(&problems);
}

#[test]
fn unsafe_code_stays_in_named_modules() {
    let problems: Vec<String> = rust_sources()
        .filter(|source| {
            source
                .code_lines()
                .any(|(_, line)| line.contains("unsafe {"))
        })
        .filter(|source| !["engine/server", "storage/io"].contains(&crate_folder(&source.path)))
        // One instruction that neither reads nor faults.
        .filter(|source| source.path != "storage/queue/src/prefetch.rs")
        // Counts what tests take from the heap.
        .filter(|source| source.path != "tests/fuzz/mutate.rs")
        .map(|source| {
            format!(
                "{}: unsafe outside engine/server and storage/io",
                source.path
            )
        })
        .collect();
    report(&problems);
}
