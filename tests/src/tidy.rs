//! The source tree keeps its own rules; a broken one names the file and the line.
//!
//! [`packages`] reads `cargo metadata`, [`sources`] the Rust files, [`documents`] the rest,
//! [`statements`] the table of what MQTT demands.

mod documents;
mod packages;
mod sources;
mod statements;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::node::workspace;

/// A file of the repository.
struct Source {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The lines before the file's tests, each with its number. A file of tests has none.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let all_tests = self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs");
        let lines: Vec<&str> = if all_tests {
            Vec::new()
        } else {
            self.text.lines().collect()
        };
        let end = lines
            .windows(2)
            .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{'))
            .unwrap_or(lines.len());
        lines
            .into_iter()
            .take(end)
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    /// The product's lines that are code: no comments, no documentation.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.product_lines()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// Every text file that git knows, in its order.
fn sources() -> Vec<Source> {
    let output = Command::new("git")
        .args(["ls-files", "--cached"])
        .current_dir(workspace())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", output.status);
    let list = String::from_utf8(output.stdout).expect("paths are UTF-8");
    list.lines()
        .filter_map(|path| {
            // Binary files (golden logs) and files deleted a moment ago are no sources.
            let text = fs::read_to_string(workspace().join(path)).ok()?;
            Some(Source {
                path: path.to_owned(),
                text,
            })
        })
        .collect()
}

fn rust_sources() -> impl Iterator<Item = Source> {
    sources()
        .into_iter()
        .filter(|source| source.path.ends_with(".rs"))
}

/// The crate a path belongs to: `engine/shard/src/lib.rs` is in `engine/shard`.
fn crate_folder(path: &str) -> &str {
    let end = path.find("/src/").or_else(|| path.find("/examples/"));
    end.map_or("", |end| &path[..end])
}

fn exists(path: &str) -> bool {
    Path::new(workspace()).join(path).exists()
}

/// Fails with all problems at once.
#[track_caller]
fn report(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}
