//! How much room a file system has, and taking some of it for a file at once, or giving it back.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each block says why"
)]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

/// The room of a file system, in bytes, as this process may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it, used or free.
    pub total_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

impl Space {
    /// Hundredths that are in use, rounded down, 0 to 100.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let used = self.total_bytes.saturating_sub(self.free_bytes);
        let percent = u128::from(used) * 100 / u128::from(self.total_bytes.max(1));
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}

/// The room of the file system that holds an open file or directory.
pub(crate) fn space_at(file: &File) -> io::Result<Space> {
    // SAFETY: all zeroes is a valid statvfs.
    let mut found: libc::statvfs = unsafe { mem::zeroed() };
    // SAFETY: the descriptor is open and `found` is ours alone during the call.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut found) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    Ok(Space {
        total_bytes: (used + found.f_bavail).saturating_mul(found.f_frsize),
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

/// Gives a file so many bytes of the device, without writing them.
pub(crate) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the call takes integers only, and the descriptor is open.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives a range of a file back to the device; it reads as zeroes then.
pub(crate) fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the call takes integers only, and the descriptor is open.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
