//! Small files of the user's: certificates, keys, passwords. No part of a node's data.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a whole file of at most `bytes_max` bytes.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read_small_file(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {bytes_max} bytes"),
        ));
    }
    Ok(bytes)
}

/// Replaces a file as a whole; only its owner can read it. After a failure the old one is there.
///
/// # Errors
/// It cannot be written beside the old one, synced, or renamed.
pub fn replace_small_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(read_small_file(&path, 3).is_err());
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(read_small_file(&path, 3).unwrap(), b"abc");
        let error = read_small_file(&path, 2).unwrap_err();
        assert!(error.to_string().contains("2 bytes"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace_small_file(&path, b"long text").unwrap();
        replace_small_file(&path, b"short").unwrap();
        assert_eq!(read_small_file(&path, 9).unwrap(), b"short");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
