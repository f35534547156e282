//! The real submit-and-poll queue: glommio's direct I/O, on the executor that made the queue.
//!
//! Each operation is a local task; its completion goes into a list, and a callback wakes the
//! shard. glommio works on descriptors of its own, opened once per file. Its buffers can't leave
//! the executor, so bytes are copied between them and [`AlignedBuf`].
//!
//! The first file that an executor opens decides whether glommio polls the device; an empty one
//! makes it poll a device that can't, and all reads fail. So [`GlommioQueue::open`] opens a file
//! with written and synced blocks before any other.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use glommio::io::{Directory, DmaFile, OpenOptions};
use glommio::{GlommioError, executor, spawn_local};

use crate::direct::Inner;
use crate::{
    AlignedBuf, Completion, DirectDisk, DirectFile, Disk, DiskError, DiskFile, DiskQueue, Done,
    ErrorKind, Op, Operation,
};

const PROBE_NAME: &str = "probe";

/// Bytes of the probe file.
const PROBE_BYTES: usize = 64 << 10;

/// Operations on real files. It belongs to one executor's thread.
pub struct GlommioQueue {
    shared: Rc<Shared>,
}

struct Shared {
    done: RefCell<VecDeque<Completion>>,
    files: RefCell<BTreeMap<usize, OpenFile>>,
    on_completion: Rc<dyn Fn()>,
    /// Kept open: it settles how glommio treats the device.
    _probe: DmaFile,
}

struct OpenFile {
    inner: Weak<Inner>,
    dma: Rc<DmaFile>,
}

impl fmt::Debug for GlommioQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GlommioQueue({} completions)",
            self.shared.done.borrow().len()
        )
    }
}

impl GlommioQueue {
    /// A queue for the files of `disk` and its sub-directories, on the current executor. Call it
    /// before anything else opens a file through glommio. `on_completion` is called after every
    /// completion, from a task of the executor.
    ///
    /// # Errors
    /// When the probe file can't be written or opened.
    pub async fn open(disk: &DirectDisk, on_completion: Rc<dyn Fn()>) -> Result<Self, DiskError> {
        // One probe per executor: two of them may start at the same time.
        let name = format!("{PROBE_NAME}-{}", executor().id());
        let probe = match disk.create(&name) {
            Err(error) if error.kind == ErrorKind::Exists => disk.open(&name)?,
            other => other?,
        };
        probe.write_at(0, &AlignedBuf::zeroed(PROBE_BYTES))?;
        probe.sync()?;
        let dma = open_dma(probe.inner()).await?;
        let shared = Shared {
            done: RefCell::default(),
            files: RefCell::default(),
            on_completion,
            _probe: dma,
        };
        Ok(Self {
            shared: Rc::new(shared),
        })
    }
}

impl DiskQueue<DirectFile> for GlommioQueue {
    fn submit(&mut self, token: u64, op: Op<DirectFile>) {
        let shared = Rc::clone(&self.shared);
        spawn_local(async move {
            let result = shared.run(op).await;
            shared
                .done
                .borrow_mut()
                .push_back(Completion { token, result });
            (shared.on_completion)();
        })
        .detach();
    }

    fn poll(&mut self) -> Option<Completion> {
        self.shared.done.borrow_mut().pop_front()
    }
}

impl Shared {
    async fn run(&self, op: Op<DirectFile>) -> Result<Done, DiskError> {
        match op {
            Op::Write {
                file,
                offset,
                buf,
                sync,
            } => {
                let dma = self.dma(&file).await?;
                write(&dma, &file, offset, &buf).await?;
                if sync {
                    self.sync(&dma, &file).await?;
                }
                Ok(Done::Written { buf })
            }
            Op::Read { file, offset, len } => {
                let dma = self.dma(&file).await?;
                read(&dma, &file, offset, len).await.map(Done::Read)
            }
            Op::Sync { file } => {
                let dma = self.dma(&file).await?;
                self.sync(&dma, &file).await.map(|()| Done::Synced)
            }
            Op::SyncDir { file } => sync_directory(&file).await.map(|()| Done::Synced),
        }
    }

    async fn sync(&self, dma: &DmaFile, file: &DirectFile) -> Result<(), DiskError> {
        dma.fdatasync()
            .await
            .map_err(|error| failed(file.name(), Operation::Sync, 0, &error))
    }

    /// glommio's descriptor of the file, opened when it is needed first.
    async fn dma(&self, file: &DirectFile) -> Result<Rc<DmaFile>, DiskError> {
        let key = Arc::as_ptr(file.inner()).addr();
        if let Some(open) = self.files.borrow().get(&key)
            && open.inner.strong_count() > 0
        {
            return Ok(Rc::clone(&open.dma));
        }
        let dma = Rc::new(open_dma(file.inner()).await?);
        let mut files = self.files.borrow_mut();
        files.retain(|_, open| open.inner.strong_count() > 0);
        let inner = Arc::downgrade(file.inner());
        files.insert(
            key,
            OpenFile {
                inner,
                dma: Rc::clone(&dma),
            },
        );
        Ok(dma)
    }
}

/// Opens the same file again, whatever its name is by now.
async fn open_dma(inner: &Arc<Inner>) -> Result<DmaFile, DiskError> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", inner.file.as_raw_fd()));
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let opened = options.dma_open(&path).await;
    opened.map_err(|error| failed(&inner.name, Operation::Open, 0, &error))
}

async fn write(
    dma: &DmaFile,
    file: &DirectFile,
    offset: u64,
    bytes: &AlignedBuf,
) -> Result<(), DiskError> {
    let mut buffer = dma.alloc_dma_buffer(bytes.len());
    buffer.as_bytes_mut().copy_from_slice(bytes);
    let written = dma.write_at(buffer, offset).await;
    let written = written.map_err(|error| failed(file.name(), Operation::Write, offset, &error))?;
    if written < bytes.len() {
        let kind = ErrorKind::Short {
            got: written,
            expected: bytes.len(),
        };
        return Err(DiskError::new(file.name(), Operation::Write, offset, kind));
    }
    Ok(())
}

async fn read(
    dma: &DmaFile,
    file: &DirectFile,
    offset: u64,
    len: usize,
) -> Result<AlignedBuf, DiskError> {
    let found = dma.read_at_aligned(offset, len).await;
    let found = found.map_err(|error| failed(file.name(), Operation::Read, offset, &error))?;
    if found.len() < len {
        let kind = ErrorKind::Short {
            got: found.len(),
            expected: len,
        };
        return Err(DiskError::new(file.name(), Operation::Read, offset, kind));
    }
    let mut buf = AlignedBuf::zeroed(len);
    buf.copy_from_slice(found.split_at(len).0);
    Ok(buf)
}

async fn sync_directory(file: &DirectFile) -> Result<(), DiskError> {
    let path = &file.inner().path;
    let name = path.to_string_lossy();
    let error = |error| failed(&name, Operation::SyncDirectory, 0, &error);
    let directory = Directory::open(&**path).await.map_err(error)?;
    directory.sync().await.map_err(error)?;
    directory.close().await.map_err(error)
}

fn failed(name: &str, operation: Operation, offset: u64, error: &GlommioError<()>) -> DiskError {
    let system = error.raw_os_error().map(io::Error::from_raw_os_error);
    let system = system.unwrap_or_else(|| io::Error::other(error.to_string()));
    DiskError::system(name, operation, offset, &system)
}

#[cfg(test)]
mod tests;
