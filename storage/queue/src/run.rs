//! A run that is open: its fences and filter in memory, its pages on disk.

use storage_io::{AlignedBuf, Disk, DiskFile, ErrorKind};
use storage_log::{LogOffset, QueueId};

use crate::cache::PageCache;
use crate::fields::{index, low_u32, number};
use crate::filter::Filter;
use crate::limits::{OPEN_READ_BYTES, PAGE_BYTES};
use crate::manifest::Listed;
use crate::page::{Block, Blocks, Start, verify};
use crate::run_file::{Footer, RunId, Written, decode_fences, decode_header, page_offset};
use crate::{Entry, IndexError, PageRead};

/// The owner of a token of this crate, in its high byte.
pub(crate) const TOKEN_OWNER: u64 = 2 << 56;

/// Marks the tokens of a flush.
pub(crate) const TOKEN_FLUSH: u64 = 1 << 55;

const GENERATION_MASK: u64 = (1 << 23) - 1;

/// An immutable run.
#[derive(Debug)]
pub(crate) struct Run<F> {
    pub(crate) id: RunId,
    pub(crate) file: F,
    pub(crate) entries: u64,
    pub(crate) queues: u64,
    fences: Vec<Start>,
    filter: Filter,
}

/// Where a look-up begins in its queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seek {
    /// At the first entry at or above this log offset.
    At(LogOffset),
    /// At the first entry at or above this queue offset.
    Offset(u64),
}

/// What a look-up wants and what it has found so far.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) queue: QueueId,
    pub(crate) seek: Seek,
    pub(crate) upto: LogOffset,
    pub(crate) max: usize,
    pub(crate) entries: Vec<Entry>,
    /// Every entry below has been looked at; never below the beginning of a seek by log offset.
    pub(crate) position: LogOffset,
}

impl Search {
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= self.max
    }

    fn wants(&self, entry: &Entry) -> bool {
        let begun = match self.seek {
            Seek::At(at) => entry.at >= at,
            Seek::Offset(offset) => entry.queue_offset >= offset,
        };
        begun && entry.at < self.upto && !self.is_full()
    }

    /// Whether the look-up could begin in or behind something that starts here.
    fn begins_behind(&self, start: &Start) -> bool {
        match self.seek {
            Seek::At(at) => (start.queue, start.at) <= (self.queue, at.0),
            Seek::Offset(offset) => (start.queue, start.queue_offset) <= (self.queue, offset),
        }
    }

    /// Takes what a page has of the queue.
    fn take(&mut self, page: &[u8]) -> Option<()> {
        let mut entries = Vec::new();
        let mut blocks = Blocks::new(page)?;
        for block in blocks.by_ref() {
            if block.start.queue > self.queue {
                return Some(());
            }
            if block.start.queue < self.queue {
                continue;
            }
            entries.clear();
            block.entries(&mut entries)?;
            for entry in &entries {
                if self.wants(entry) {
                    self.entries.push(*entry);
                }
            }
        }
        blocks.is_sound().then_some(())
    }
}

impl<F: DiskFile> Run<F> {
    /// The run that was just written to `file`.
    pub(crate) fn written(file: F, written: Written) -> Self {
        Self {
            id: written.footer.id,
            file,
            entries: written.footer.entries,
            queues: written.footer.queues,
            fences: written.fences,
            filter: written.filter,
        }
    }

    /// Opens a run that the manifest lists, and checks the sum and the shape of every page.
    pub(crate) fn open<D: Disk<File = F>>(
        disk: &D,
        listed: &Listed,
        visit: &mut dyn FnMut(&Block<'_>),
    ) -> Result<Self, IndexError> {
        let name = listed.id.file_name();
        let missing = |got| {
            let file = name.clone();
            IndexError::Missing {
                file,
                expected: listed.file_len,
                got,
            }
        };
        let file = match disk.open(&name) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Err(missing(0)),
            Err(error) => return Err(error.into()),
        };
        let len = file.len()?;
        if len != listed.file_len || len < number(2 * PAGE_BYTES) {
            return Err(missing(len));
        }
        let footer = Self::open_footer(&file, listed, &name)?;
        let fences = Self::open_fences(&file, &footer, &name)?;
        let filter = Filter::new(footer.queues.min(footer.entries));
        let (id, entries, queues) = (footer.id, footer.entries, footer.queues);
        let mut run = Self {
            id,
            file,
            entries,
            queues,
            fences,
            filter,
        };
        run.verify_pages(visit)?;
        Ok(run)
    }

    /// Checks all pages, and fills the filter.
    fn verify_pages(&mut self, visit: &mut dyn FnMut(&Block<'_>)) -> Result<(), IndexError> {
        let mut next = 0;
        while next < self.pages() {
            let (bytes, pages) = self.read_pages(next, PAGES_PER_READ)?;
            for (page, bytes) in (next..).zip(bytes.chunks(PAGE_BYTES)) {
                let mut start = None;
                let filter = &mut self.filter;
                let visit = &mut |block: &Block<'_>| {
                    start.get_or_insert(block.start);
                    filter.insert_late(block.start.queue);
                    visit(block);
                };
                verify(bytes, self.id.salt(), page, visit)
                    .map_err(|reason| self.id.damaged_page(page, reason))?;
                if start.as_ref() != self.fences.get(index(u64::from(page))) {
                    let reason = "the page begins elsewhere than its fence says";
                    return Err(self.id.damaged_page(page, reason));
                }
            }
            next += pages;
        }
        self.filter.settle();
        Ok(())
    }

    /// How many pages of entries there are.
    pub(crate) fn pages(&self) -> u32 {
        low_u32(number(self.fences.len()))
    }

    /// Reads pages from `page` on, at most `pages_max`; tells how many. Blocks.
    pub(crate) fn read_pages(
        &self,
        page: u32,
        pages_max: u32,
    ) -> Result<(AlignedBuf, u32), IndexError> {
        let pages = self.pages().saturating_sub(page).min(pages_max);
        let len = number(PAGE_BYTES) * u64::from(pages);
        let bytes = read(&self.file, page_offset(page), len, &self.id.file_name())?;
        Ok((bytes, pages))
    }

    fn open_footer(file: &F, listed: &Listed, name: &str) -> Result<Footer, IndexError> {
        let header = decode_header(&read(file, 0, number(PAGE_BYTES), name)?, name)?;
        let footer_at = listed.file_len - number(PAGE_BYTES);
        let block = read(file, footer_at, number(PAGE_BYTES), name)?;
        let (footer, sum) = Footer::decode(&block, name, footer_at)?;
        let damaged = |reason| {
            let file = name.to_owned();
            Err(IndexError::Damaged {
                file,
                offset: footer_at,
                reason,
            })
        };
        if sum != listed.footer_sum || footer.file_len() != listed.file_len {
            return damaged("the footer is not the one that the manifest lists");
        }
        if header != listed.id || footer.id != listed.id {
            return damaged("the file is another run than its name says");
        }
        Ok(footer)
    }

    fn open_fences(file: &F, footer: &Footer, name: &str) -> Result<Vec<Start>, IndexError> {
        if footer.fence_pages == 0 {
            return Ok(Vec::new());
        }
        let len = number(PAGE_BYTES) * u64::from(footer.fence_pages);
        let bytes = read(file, footer.fences_at(), len, name)?;
        decode_fences(&bytes, footer).map_err(|page| IndexError::Damaged {
            file: name.to_owned(),
            offset: footer.fences_at() + number(PAGE_BYTES) * u64::from(page),
            reason: "the page of fences fails its checksum or is too short",
        })
    }

    /// Adds what the run has to a look-up. `Some`: a page is missing, and the search has advanced
    /// as far as it can without it.
    pub(crate) fn search(
        &self,
        search: &mut Search,
        cache: &mut PageCache,
    ) -> Result<Option<PageRead<F>>, IndexError> {
        if self.filter.may_hold(search.queue) {
            let first = self
                .fences
                .partition_point(|start| search.begins_behind(start));
            let mut page = first.saturating_sub(1);
            while let Some(fence) = self.fences.get(page) {
                if fence.queue > search.queue || search.is_full() {
                    break;
                }
                if fence.queue == search.queue {
                    // All pages before have been looked at.
                    search.position = search.position.max(LogOffset(fence.at)).min(search.upto);
                }
                let number = u32::try_from(page).unwrap_or(u32::MAX);
                let Some(bytes) = cache.page(self.id.generation, number) else {
                    return Ok(Some(self.page_read(number)));
                };
                search
                    .take(bytes)
                    .ok_or_else(|| self.id.damaged_page(number, "it is not sound in memory"))?;
                page += 1;
            }
        }
        if !search.is_full() {
            search.position = search.position.max(self.id.high).min(search.upto);
        }
        Ok(None)
    }

    /// Checks a page that was read.
    pub(crate) fn check(&self, page: u32, bytes: &[u8]) -> Result<(), IndexError> {
        let (mut entries, mut possible) = (Vec::new(), true);
        let verified = verify(bytes, self.id.salt(), page, &mut |block| {
            entries.clear();
            possible &= block.entries(&mut entries).is_some();
        });
        let verified = verified.and_then(|()| {
            let reason = "a block of the page has impossible entries";
            possible.then_some(()).ok_or(reason)
        });
        verified.map_err(|reason| self.id.damaged_page(page, reason))
    }

    /// Whether a queue may have entries here; some that have none may, too.
    pub(crate) fn may_hold(&self, queue: QueueId) -> bool {
        self.filter.may_hold(queue)
    }

    /// Whether a token of a page is one of this run's; then the page.
    pub(crate) fn page_of(&self, token: u64) -> Option<u32> {
        let page = u32::try_from(token & u64::from(u32::MAX)).ok()?;
        (token == self.token(page)).then_some(page)
    }

    fn token(&self, page: u32) -> u64 {
        TOKEN_OWNER | ((self.id.generation & GENERATION_MASK) << 32) | u64::from(page)
    }

    fn page_read(&self, page: u32) -> PageRead<F> {
        PageRead {
            token: self.token(page),
            file: self.file.clone(),
            offset: page_offset(page),
            len: PAGE_BYTES,
        }
    }
}

const PAGES_PER_READ: u32 = 256;
const _: () = assert!(OPEN_READ_BYTES == 256 * PAGE_BYTES);

/// Reads a range that the file is known to have.
fn read<F: DiskFile>(
    file: &F,
    offset: u64,
    len: u64,
    name: &str,
) -> Result<AlignedBuf, IndexError> {
    file.read_at(offset, index(len)).map_err(|error| {
        if matches!(error.kind, ErrorKind::Short { .. }) {
            let (file, reason) = (name.to_owned(), "the file ends inside the block");
            return IndexError::Damaged {
                file,
                offset,
                reason,
            };
        }
        IndexError::Disk(error)
    })
}
