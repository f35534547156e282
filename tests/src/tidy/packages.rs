//! Which package may use which, from `cargo metadata`.

use std::process::Command;

use serde_json::Value;

use super::report;
use crate::node::workspace;

/// What each package of the product may use of the others: layers, from left to right.
const MAY_USE: [(&str, &[&str]); 13] = [
    ("corelane", &["engine-server"]),
    (
        "engine-server",
        &[
            "engine-shard",
            "engine-session",
            "engine-topic",
            "engine-mqtt",
            "storage-io",
            "storage-log",
            "storage-queue",
            "storage-state",
        ],
    ),
    (
        "engine-shard",
        &["engine-session", "engine-topic", "engine-mqtt"],
    ),
    ("engine-session", &["engine-topic", "engine-mqtt"]),
    ("engine-topic", &["engine-mqtt"]),
    ("engine-mqtt", &[]),
    ("storage-queue", &["storage-log", "storage-io"]),
    ("storage-state", &["storage-log", "storage-io"]),
    ("storage-log", &["storage-io"]),
    ("storage-io", &[]),
    (
        "corelane-bench",
        &[
            "engine-mqtt",
            "storage-io",
            "storage-log",
            "storage-queue",
            "storage-state",
        ],
    ),
    ("corelane-tests", EVERYTHING),
    ("corelane-fuzz", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "engine-server",
    "engine-shard",
    "engine-session",
    "engine-topic",
    "engine-mqtt",
    "storage-io",
    "storage-log",
    "storage-queue",
    "storage-state",
];

/// The crates that do no I/O, and all they may use from outside: values and arithmetic.
pub(super) const PURE: [&str; 4] = [
    "engine-mqtt",
    "engine-topic",
    "engine-session",
    "engine-shard",
];
const PURE_MAY_USE: [&str; 7] = [
    "bytes",
    "crc32fast",
    "foldhash",
    "rkyv",
    "smallvec",
    "tracing",
    "xxhash-rust",
];

struct Dependency {
    from: String,
    to: String,
    /// Only tests use it.
    development: bool,
    requirement: String,
    local: bool,
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// The names of the workspace's packages.
pub(super) fn package_names() -> Vec<String> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| text(package, "name"))
        .collect()
}

fn dependencies() -> Vec<Dependency> {
    let metadata = metadata();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            found.push(Dependency {
                from: text(package, "name"),
                to: text(dependency, "name"),
                development: dependency["kind"] == "dev",
                requirement: text(dependency, "req"),
                local: dependency["path"].is_string(),
            });
        }
    }
    assert!(
        found.len() > 20,
        "cargo metadata shows the workspace's dependencies"
    );
    found
}

#[test]
fn packages_use_only_what_is_to_their_right() {
    let mut problems = Vec::new();
    for name in package_names() {
        if !MAY_USE.iter().any(|(package, _)| *package == name) {
            problems.push(format!("{name}: a package that the layout does not know"));
        }
    }
    for dependency in dependencies().iter().filter(|dependency| dependency.local) {
        let (from, to) = (&dependency.from, &dependency.to);
        // A crate's tests may use what the crate itself may use, and nothing more.
        let allowed = MAY_USE
            .iter()
            .any(|(name, may)| name == from && may.contains(&to.as_str()));
        if !allowed {
            problems.push(format!(
                "{from} uses {to}: against the direction of the layers"
            ));
        }
    }
    report(&problems);
}

#[test]
fn storage_never_uses_the_engine() {
    let problems: Vec<String> = dependencies()
        .iter()
        .filter(|dependency| {
            dependency.from.starts_with("storage-") && dependency.to.starts_with("engine-")
        })
        .map(|dependency| format!("{} uses {}", dependency.from, dependency.to))
        .collect();
    report(&problems);
}

#[test]
fn pure_crates_use_only_values_and_arithmetic() {
    let problems: Vec<String> = dependencies()
        .iter()
        .filter(|dependency| PURE.contains(&dependency.from.as_str()))
        .filter(|dependency| !dependency.local && !dependency.development)
        .filter(|dependency| !PURE_MAY_USE.contains(&dependency.to.as_str()))
        .map(|dependency| format!("{} uses {}", dependency.from, dependency.to))
        .collect();
    report(&problems);
}

#[test]
fn glommio_is_used_by_two_crates_only() {
    let mut users: Vec<String> = dependencies()
        .into_iter()
        .filter(|dependency| dependency.to == "glommio" && !dependency.development)
        .map(|dependency| dependency.from)
        .collect();
    users.sort();
    let outside: Vec<String> = users
        .into_iter()
        .filter(|user| user != "engine-server" && user != "storage-io")
        .map(|user| format!("{user} uses glommio"))
        .collect();
    report(&outside);
}

#[test]
fn versions_are_stated_in_one_place() {
    let root = std::fs::read_to_string(workspace().join("Cargo.toml")).expect("the root manifest");
    let problems: Vec<String> = dependencies()
        .iter()
        .filter(|dependency| !dependency.local && dependency.from != "corelane-fuzz")
        .filter(|dependency| !root.contains(&format!("\n{} = ", dependency.to)))
        .map(|dependency| {
            let Dependency {
                from,
                to,
                requirement,
                ..
            } = dependency;
            format!("{from} uses {to} {requirement}: not in [workspace.dependencies]")
        })
        .collect();
    report(&problems);
}
