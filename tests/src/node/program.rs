//! Finds (and where needed builds) the product's binary, and a place for scratch data.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `corelane` binary under test.
///
/// `CORELANE_BIN` names it; `tests/run` sets that after building it once. Without it, the binary
/// is built here with the profile of the test itself, so that a plain `cargo test` never tests an
/// old one.
pub(crate) fn corelane() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os("CORELANE_BIN").map_or_else(built, PathBuf::from))
}

fn built() -> PathBuf {
    let profile = profile_folder();
    let target = profile
        .parent()
        .expect("the profile's folder is in the target folder");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "corelane",
            "--profile",
            name,
        ])
        .arg("--manifest-path")
        .arg(workspace().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build --package corelane: {status}");
    profile.join("corelane")
}

/// A folder for the data of test nodes: in the target folder, which is on a real file system
/// (direct I/O is refused by ramfs, and a tmpfs would not show what a disk does).
pub(crate) fn scratch_root() -> PathBuf {
    let target = profile_folder()
        .parent()
        .expect("a target folder")
        .to_path_buf();
    let root = target.join("nodes");
    fs::create_dir_all(&root).expect("a scratch folder in the target folder");
    root
}

/// The root of the checkout.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is a folder of the workspace")
}

/// `target/<profile>`: the test binary is in its `deps`.
fn profile_folder() -> PathBuf {
    let test = env::current_exe().expect("the path of the running test");
    test.ancestors()
        .nth(2)
        .expect("target/profile/deps/test")
        .to_path_buf()
}
