//! redb's storage on a file of `storage-io`, so that a simulated disk can be under it.

use std::io;
use std::sync::{Arc, OnceLock};

use redb::StorageBackend;
use storage_io::{ByteFile, DiskError, ErrorKind};

use crate::room::Room;

/// The first failure of the device under a database. redb reports failures in words of its own
/// and later ones as consequences; this is the one that names file, operation and offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstFailure(Arc<OnceLock<DiskError>>);

impl FirstFailure {
    pub(crate) fn error(&self) -> Option<DiskError> {
        self.0.get().cloned()
    }

    fn note(&self, error: DiskError) -> io::Error {
        self.0.get_or_init(|| error.clone());
        error.into()
    }
}

/// A byte file as redb wants it.
#[derive(Debug)]
pub(crate) struct Backend {
    file: Arc<dyn ByteFile>,
    failure: FirstFailure,
    room: Room,
}

impl Backend {
    pub(crate) fn new(file: Arc<dyn ByteFile>, failure: FirstFailure, room: Room) -> Self {
        Self {
            file,
            failure,
            room,
        }
    }

    /// Does what may need room of the device, when there is some. A write that found none has done
    /// nothing that a later one does not do again.
    fn with_room(&self, attempt: impl Fn() -> Result<(), DiskError>) -> Result<(), io::Error> {
        loop {
            match attempt() {
                Err(error) if error.is_shortage() && self.room.wait() => {}
                other => {
                    self.room.wait_no_more();
                    return self.result(other);
                }
            }
        }
    }

    fn result<T>(&self, result: Result<T, DiskError>) -> Result<T, io::Error> {
        result.map_err(|error| self.failure.note(error))
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.result(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let Err(error) = self.file.read_at(offset, out) else {
            return Ok(());
        };
        let end = offset.saturating_add(out.len() as u64);
        let is_beyond = matches!(error.kind, ErrorKind::Short { .. }) && self.file.len()? < end;
        if is_beyond {
            // A file that is too short is damaged contents, not a failing device.
            return Err(error.into());
        }
        Err(self.failure.note(error))
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.with_room(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.result(self.file.sync())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.with_room(|| self.file.write_at(offset, data))
    }
}
