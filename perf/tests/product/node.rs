//! The product as a process: started on a free port with an empty folder, killed when dropped.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A running node.
pub(crate) struct Node {
    process: Child,
    data: PathBuf,
    pub(crate) port: u16,
}

impl Node {
    /// Starts a node with one shard and waits until it is ready.
    pub(crate) fn start() -> Self {
        Self::start_at("mqtt", |_| Vec::new())
    }

    /// The same with a listener of this scheme alone, and arguments that may name files in the
    /// node's own folder.
    pub(crate) fn start_at(scheme: &str, more: impl FnOnce(&Path) -> Vec<String>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{}-{number}", std::process::id());
        let data = target_folder().join("nodes").join(name);
        fs::create_dir_all(&data).unwrap();
        let mut process = Command::new(binary())
            .args(["serve", "--shards", "1", "--listen"])
            .arg(format!("{scheme}://127.0.0.1:0"))
            .arg("--data")
            .arg(data.join("data"))
            .args(more(&data))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().unwrap();
        let ready = BufReader::new(stdout)
            .lines()
            .map(Result::unwrap)
            .find(|line| line.starts_with("ready"))
            .expect("the node says that it is ready");
        let port = ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix(scheme)?.strip_prefix("://127.0.0.1:"))
            .and_then(|place| place.split('/').next())
            .and_then(|port| port.parse().ok())
            .unwrap_or_else(|| panic!("no port in `{ready}`"));
        Self {
            process,
            data,
            port,
        }
    }

    /// A file of its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        fs::remove_dir_all(&self.data).ok();
    }
}

/// `CORELANE_BIN`, or the product built with the profile of this test.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os("CORELANE_BIN").map_or_else(built, PathBuf::from))
}

fn built() -> PathBuf {
    let folder = target_folder();
    let is_release = cfg!(not(debug_assertions));
    let profile = if is_release { "release" } else { "dev" };
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "corelane",
            "--profile",
            profile,
        ])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"),
        ])
        .arg("--target-dir")
        .arg(&folder)
        .status()
        .unwrap();
    assert!(status.success(), "cargo build --package corelane: {status}");
    folder
        .join(if is_release { "release" } else { "debug" })
        .join("corelane")
}

/// The target folder: `target/profile/deps/test` is this test.
fn target_folder() -> PathBuf {
    env::current_exe()
        .unwrap()
        .ancestors()
        .nth(3)
        .unwrap()
        .to_path_buf()
}
