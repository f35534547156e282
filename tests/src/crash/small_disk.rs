//! A small ext4 file system in a file, mounted by its loop device: needs root, as CI has.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::node::scratch_root;

/// A mounted file system; unmounted when it is dropped, which is behind the node that uses it.
pub(super) struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Makes and mounts one of so many bytes, in blocks of so many.
    pub(super) fn new(bytes: u64, block_bytes: u64) -> Self {
        let disk = Self {
            folder: TempDir::new_in(scratch_root()).expect("a scratch folder"),
        };
        let image = disk.folder.path().join("image");
        let file = fs::File::create(&image).expect("an image file");
        file.set_len(bytes).expect("a sparse image");
        fs::create_dir(disk.path()).expect("a mount point");
        let (image, path) = (text(&image), disk.path());
        // No blocks are kept for root, no inode tables are written behind the test's back.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        let block_bytes = block_bytes.to_string();
        let shape = ["-q", "-F", "-m", "0", "-b", &block_bytes, "-E", options];
        run("mkfs.ext4", &[&shape[..], &[&image]].concat());
        run("mount", &["-o", "loop", &image, &text(&path)]);
        disk
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Takes so many bytes, in a file that [`SmallDisk::free`] removes.
    pub(super) fn take(&self, bytes: u64) {
        let ballast = text(&self.path().join("ballast"));
        run("fallocate", &["--length", &bytes.to_string(), &ballast]);
    }

    /// Takes every byte that is left, in another such file.
    pub(super) fn take_rest(&self) {
        let path = self.path().join("rest");
        let options = fs::File::options().create(true).append(true).open(path);
        let mut rest = options.expect("a file for the rest");
        for bytes in [1 << 20, 4096, 512] {
            let zeroes = vec![0; bytes];
            while rest.write_all(&zeroes).is_ok() {}
        }
        // What cannot be written is not missed.
        drop(rest.sync_all());
    }

    /// Gives back what [`SmallDisk::take`] and [`SmallDisk::take_rest`] took.
    pub(super) fn free(&self) {
        for name in ["ballast", "rest"] {
            fs::remove_file(self.path().join(name)).expect("a file that takes room");
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A mount that failed is the panic under way.
        let path = text(&self.path());
        drop(Command::new("umount").arg(path).status());
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path of text").to_owned()
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {errors}");
}
