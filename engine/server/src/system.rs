//! What the operating system allows this process: cores, limits, kernel, file systems.
//!
//! Called at start-up only. The third module with unsafe code, beside `ring` and `socket`.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each block says why"
)]

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A limit of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    /// Locked memory, bytes.
    LockedMemory,
    /// Open descriptors.
    OpenFiles,
}

/// A file system that matters to direct I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileSystem {
    /// Refuses direct I/O.
    Ramfs,
    /// Takes direct I/O but keeps everything in memory.
    Tmpfs,
    /// Any other.
    Other,
}

const RAMFS: u64 = 0x8584_58F6;
const TMPFS: u64 = 0x0102_1994;

/// The cores that this process may run on, in ascending order.
pub(crate) fn cores() -> io::Result<Vec<usize>> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the size is that of `set`, which is ours alone during the call.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    let bits = 8 * size_of_val(&set);
    // SAFETY: every number is below the number of bits in the set.
    Ok((0..bits)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect())
}

/// Raises a limit as far as this process may, and tells where it is.
pub(crate) fn raise(limit: Limit) -> io::Result<u64> {
    let resource = match limit {
        Limit::LockedMemory => libc::RLIMIT_MEMLOCK,
        Limit::OpenFiles => libc::RLIMIT_NOFILE,
    };
    let mut value = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `value` is ours alone during the call.
    check(unsafe { libc::getrlimit(resource, &raw mut value) })?;
    let before = value.rlim_cur;
    value.rlim_cur = value.rlim_max;
    // SAFETY: `value` outlives the call, which only reads it.
    let raised = check(unsafe { libc::setrlimit(resource, &raw const value) });
    Ok(if raised.is_ok() {
        value.rlim_max
    } else {
        before
    })
}

/// Descriptors that this process has open.
pub(crate) fn open_descriptors() -> io::Result<u64> {
    // SAFETY: the path ends with a zero and outlives the call.
    let folder = unsafe { libc::opendir(c"/proc/self/fd".as_ptr()) };
    if folder.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut count = 0;
    // SAFETY: `folder` is open, and ours alone.
    while !unsafe { libc::readdir(folder) }.is_null() {
        count += 1;
    }
    // SAFETY: as above; it is not used after this.
    check(unsafe { libc::closedir(folder) })?;
    // Without ".", ".." and the folder itself.
    Ok(count - 3)
}

/// The kernel's release, for example `6.18.44-generic`.
pub(crate) fn kernel_release() -> io::Result<String> {
    // SAFETY: all zeroes is a valid utsname of empty strings.
    let mut name: libc::utsname = unsafe { mem::zeroed() };
    // SAFETY: `name` is ours alone during the call.
    check(unsafe { libc::uname(&raw mut name) })?;
    let bytes: Vec<u8> = name
        .release
        .iter()
        .map(|&c| c.cast_unsigned())
        .take_while(|&c| c != 0)
        .collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The file system that holds an existing path.
pub(crate) fn file_system(path: &Path) -> io::Result<FileSystem> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeroes is a valid statfs.
    let mut found: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the path ends with a zero and outlives the call; `found` is ours alone.
    check(unsafe { libc::statfs(path.as_ptr(), &raw mut found) })?;
    #[expect(clippy::cast_sign_loss, reason = "a magic number of 32 bits")]
    let magic = found.f_type as u64 & 0xFFFF_FFFF;
    Ok(match magic {
        RAMFS => FileSystem::Ramfs,
        TMPFS => FileSystem::Tmpfs,
        _ => FileSystem::Other,
    })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_cores_limits_and_a_kernel() {
        assert!(!cores().unwrap().is_empty());
        let raised = raise(Limit::OpenFiles).unwrap();
        assert!(raised > 0);
        assert_eq!(
            raise(Limit::OpenFiles).unwrap(),
            raised,
            "nothing is left to raise"
        );
        assert!(kernel_release().unwrap().contains('.'));
        let before = open_descriptors().unwrap();
        let sockets: Vec<_> = (0..100)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        // Other tests of this process may open and close some meanwhile.
        let after = open_descriptors().unwrap();
        assert!(
            after.abs_diff(before + sockets.len() as u64) < 50,
            "{before} {after}"
        );
    }

    #[test]
    fn file_systems_are_told_apart() {
        assert_eq!(
            file_system(Path::new("/dev/shm")).unwrap(),
            FileSystem::Tmpfs
        );
        assert_eq!(file_system(Path::new("/proc")).unwrap(), FileSystem::Other);
        assert!(file_system(Path::new("/does/not/exist")).is_err());
    }
}
