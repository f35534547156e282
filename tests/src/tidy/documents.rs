//! Manifests, documents and scripts.

use std::fs;

use super::{exists, packages, report, rust_sources, sources};
use crate::node::workspace;

/// Lines of ARCHITECTURE.md: what one reads before the first change.
const ARCHITECTURE_LINES_MAX: usize = 300;

fn document(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_documents_are_there() {
    let wanted = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE",
        "tests/run",
        ".ci/run",
    ];
    let missing: Vec<String> = wanted
        .iter()
        .filter(|path| !exists(path))
        .map(ToString::to_string)
        .collect();
    report(&missing);
}

#[test]
fn every_package_takes_the_workspace_lints() {
    let problems: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.path.ends_with("Cargo.toml") && source.path.contains('/'))
        .filter(|source| !source.path.starts_with("tests/fuzz/"))
        .filter(|source| !source.path.starts_with("tests/interop/"))
        .filter(|source| !source.text.contains("[lints]\nworkspace = true"))
        .map(|source| format!("{}: no [lints] workspace = true", source.path))
        .collect();
    report(&problems);
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    // Put together here, so that this file passes its own test.
    let machine = ["work", "farm", "root", "home"].map(|folder| format!("/{folder}/"));
    let mut problems = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| !source.path.ends_with(".lock"))
    {
        for (index, line) in source.text.lines().enumerate() {
            for path in &machine {
                let start = line.find(path.as_str());
                let before = start.and_then(|at| line[..at].chars().next_back());
                // `tests/work/x` is no absolute path.
                if start.is_some() && !before.is_some_and(|c| c.is_alphanumeric() || c == '.') {
                    problems.push(format!("{}:{}: {path}", source.path, index + 1));
                }
            }
        }
    }
    report(&problems);
}

/// The lines of a document's ```sh blocks that are commands.
fn commands(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside && !line.trim().is_empty() && !line.starts_with('#') {
            found.push(line.trim().to_owned());
        }
    }
    found
}

#[test]
fn the_readme_names_commands_that_exist() {
    let commands = commands(&document("README.md"));
    assert!(
        commands
            .iter()
            .any(|command| command == "cargo run --release"),
        "{commands:?}"
    );
    assert!(
        commands.iter().any(|command| command == "tests/run"),
        "{commands:?}"
    );
    let names = packages::package_names();
    let mut problems = Vec::new();
    for command in &commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let program = words.first().expect("a command has a word");
        if program.contains('/') && !program.starts_with('/') && !exists(program) {
            problems.push(format!("{command}: no such file"));
        }
        if let [.., _] = words.as_slice()
            && let Some(at) = words
                .iter()
                .position(|word| *word == "-p" || *word == "--package")
            && *program == "cargo"
            && !names
                .iter()
                .any(|name| Some(&name.as_str()) == words.get(at + 1))
        {
            problems.push(format!("{command}: no such package"));
        }
    }
    report(&problems);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut problems = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.path.ends_with(".md"))
    {
        let folder = source
            .path
            .rfind('/')
            .map_or("", |end| &source.path[..=end]);
        for link in source.text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            if !outside && !exists(&format!("{folder}{target}")) {
                problems.push(format!("{}: {target} does not exist", source.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_architecture_is_short_and_its_tests_exist() {
    let text = document("ARCHITECTURE.md");
    let lines = text.lines().count();
    assert!(
        lines <= ARCHITECTURE_LINES_MAX,
        "{lines} lines, at most {ARCHITECTURE_LINES_MAX}"
    );
    let functions: String = rust_sources()
        .map(|source| source.text)
        .collect::<Vec<_>>()
        .join("\n");
    let invariants = text
        .split("\n## Invariants")
        .nth(1)
        .expect("a section on invariants");
    let invariants = invariants.split("\n## ").next().unwrap_or_default();
    let mut problems = Vec::new();
    let mut named = 0;
    for line in invariants.split("Test: ").skip(1) {
        let names = line.split('.').next().unwrap_or_default();
        for name in names.split('`').skip(1).step_by(2) {
            named += 1;
            let function = name.rsplit("::").next().unwrap_or(name);
            if !functions.contains(&format!("fn {function}(")) {
                problems.push(format!("ARCHITECTURE.md: no test {name}"));
            }
        }
    }
    assert!(
        named >= 10,
        "each of the ten invariants names its test, found {named}"
    );
    report(&problems);
}

#[test]
fn the_changelog_has_its_form() {
    let text = document("CHANGELOG.md");
    assert!(text.starts_with("# Changelog\n"), "the title");
    let releases: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert!(!releases.is_empty(), "no release");
    let mut problems = Vec::new();
    for release in releases {
        let dated = release.split_once(" - ").is_some_and(|(version, date)| {
            version.split('.').count() == 3
                && version.split('.').all(|part| part.parse::<u32>().is_ok())
                && date.len() == 10
                && date.split('-').all(|part| part.parse::<u32>().is_ok())
        });
        if release != "Unreleased" && !dated {
            problems.push(format!(
                "## {release}: expected 'Unreleased' or 'X.Y.Z - YYYY-MM-DD'"
            ));
        }
    }
    report(&problems);
}
