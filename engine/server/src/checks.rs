//! Looks before the leap: what would make the runtime panic or crawl is found here and named.

use std::path::Path;

use io_uring::IoUring;
use tracing::warn;

use crate::error::StartError;
use crate::system::{self, FileSystem, Limit};

/// What the runtime insists on being able to lock, bytes.
const LOCKED_MEMORY_MIN: u64 = 512 * 1024;

/// The first kernel with `IORING_SETUP_DEFER_TASKRUN`.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Kernel, io_uring and limits.
pub(crate) fn machine() -> Result<(), StartError> {
    let release = system::kernel_release().map_err(|e| StartError::System(e.to_string()))?;
    if !is_new_enough(&release) {
        return Err(StartError::Kernel { release });
    }
    let probe: Result<IoUring, _> = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8);
    if let Err(error) = probe {
        return Err(StartError::IoUring(error.to_string()));
    }
    let limit =
        system::raise(Limit::LockedMemory).map_err(|e| StartError::System(e.to_string()))?;
    if limit < LOCKED_MEMORY_MIN {
        return Err(StartError::LockedMemory {
            limit,
            needed: LOCKED_MEMORY_MIN,
        });
    }
    match system::raise(Limit::OpenFiles) {
        Ok(files) if files < 4096 => {
            warn!(
                files,
                "few descriptors are allowed: every client needs one (`ulimit -n`)"
            );
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "the limit of descriptors cannot be raised"),
    }
    Ok(())
}

/// The file system of the data directory, which exists.
pub(crate) fn data_directory(path: &Path) -> Result<(), StartError> {
    match system::file_system(path) {
        Ok(FileSystem::Ramfs) => Err(StartError::DirectIo(path.to_path_buf())),
        Ok(FileSystem::Tmpfs) => {
            warn!(path = %path.display(), "the data directory is in memory (tmpfs): nothing \
                  survives a restart of the machine");
            Ok(())
        }
        Ok(FileSystem::Other) => Ok(()),
        Err(error) => Err(StartError::Data(format!("{}: {error}", path.display()))),
    }
}

/// Whether a release such as `6.18.44-generic` is at least the oldest that works.
fn is_new_enough(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= KERNEL_MIN,
        // An unknown form of release: the probe of io_uring decides.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_from_new_ones() {
        for release in [
            "6.1",
            "6.1.0-13-amd64",
            "6.18.44-fc-v657",
            "10.0.0",
            "strange",
        ] {
            assert!(is_new_enough(release), "{release}");
        }
        for release in [
            "6.0.19",
            "5.15.0-91-generic",
            "2.6.40",
            "4.18.0-477.el8.x86_64",
        ] {
            assert!(!is_new_enough(release), "{release}");
        }
    }

    #[test]
    fn this_machine_passes() {
        machine().unwrap();
        data_directory(Path::new("/")).unwrap();
        data_directory(Path::new("/dev/shm")).unwrap();
        assert!(matches!(
            data_directory(Path::new("/no/such")),
            Err(StartError::Data(_))
        ));
    }
}
