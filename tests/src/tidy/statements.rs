//! The table of MQTT's normative statements: each is proved by a test or says why it is not.
//!
//! A line is an id, a gist of our own, and one of: `test:` with the tests that prove it, by file
//! and function; `peer:` it binds clients, and nothing of the server shows it; `none:` why it
//! cannot occur here; `open:` what is missing.

use std::collections::BTreeSet;
use std::fs;

use super::report;
use crate::node::workspace;

/// File, and how many statements the standard lists in its appendix B.
const TABLES: [(&str, usize); 2] = [
    ("tests/src/statements/v3.tsv", 141),
    ("tests/src/statements/v5.tsv", 251),
];

/// Statements that wait for something to be built or tested, at most. It only goes down.
const OPEN_MAX: usize = 0;

struct Statement {
    place: String,
    id: String,
    proof: String,
}

fn statements() -> Vec<Statement> {
    let mut all = Vec::new();
    for (path, count) in TABLES {
        let before = all.len();
        let text = fs::read_to_string(workspace().join(path)).expect(path);
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("{path}:{number}");
            let fields: Vec<&str> = line.split('\t').collect();
            let [id, gist, proof] = fields[..] else {
                panic!("{place}: {} fields instead of 3", fields.len())
            };
            assert!(!gist.is_empty(), "{place}: no gist");
            all.push(Statement {
                place,
                id: id.to_owned(),
                proof: proof.to_owned(),
            });
        }
        assert_eq!(all.len() - before, count, "{path}: statements");
        let ids: BTreeSet<&str> = all[before..].iter().map(|one| &*one.id).collect();
        assert_eq!(ids.len(), count, "{path}: an id occurs twice");
    }
    all
}

/// What is wrong with a reference to a test, `file::function`.
fn problem(reference: &str) -> Option<&'static str> {
    let Some((file, function)) = reference.split_once("::") else {
        return Some("is no file::function");
    };
    let Ok(text) = fs::read_to_string(workspace().join(file)) else {
        return Some("names a file that is not there");
    };
    let Some(place) = text.find(&format!("fn {function}(")) else {
        return Some("names a function that is not there");
    };
    let above = text[..place].rsplit("\n\n").next().unwrap_or_default();
    // Property tests stand in a macro that makes them tests.
    let is_test = above.contains("#[test]") || text.contains("proptest! {");
    (!is_test).then_some("is no test")
}

#[test]
fn every_statement_has_a_test_or_a_reason() {
    let mut problems = Vec::new();
    for Statement { place, id, proof } in statements() {
        if !id.starts_with("MQTT-") {
            problems.push(format!("{place}: {id} is no id"));
        }
        match proof.split_once(": ") {
            Some(("test", references)) => {
                for reference in references.split(' ') {
                    if let Some(what) = problem(reference) {
                        problems.push(format!("{place}: {reference} {what}"));
                    }
                }
            }
            Some(("peer" | "none" | "open", reason)) if reason.len() > 3 => {}
            _ => problems.push(format!("{place}: {proof}: neither a test nor a reason")),
        }
    }
    report(&problems);
}

#[test]
fn open_statements_become_fewer() {
    let open = statements()
        .iter()
        .filter(|one| one.proof.starts_with("open: "))
        .count();
    assert_eq!(open, OPEN_MAX, "write down the new number");
}

/// What `tests/statements` plants, to see the tests of a statement fail.
#[test]
fn broken_versions_fit_the_tree() {
    let path = "tests/src/statements/broken.tsv";
    let text = fs::read_to_string(workspace().join(path)).expect(path);
    let known: BTreeSet<String> = TABLES
        .iter()
        .zip(["v3", "v5"])
        .flat_map(|((table, _), version)| {
            let text = fs::read_to_string(workspace().join(table)).expect(table);
            let ids = text.lines().filter_map(|line| line.split('\t').next());
            ids.map(|id| format!("{version}:{id}")).collect::<Vec<_>>()
        })
        .collect();
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [ids, file, old, new] = fields[..] else {
            problems.push(format!("{path}:{number}: {} fields", fields.len()));
            continue;
        };
        for id in ids.split(' ').filter(|id| !known.contains(*id)) {
            problems.push(format!("{path}:{number}: {id} is no statement"));
        }
        let code = fs::read_to_string(workspace().join(file)).unwrap_or_default();
        let places = code.matches(old).count();
        if places != 1 || old == new {
            problems.push(format!("{path}:{number}: {places} places in {file}"));
        }
    }
    report(&problems);
}
