//! The parts of a run file around its pages: name, header, fences, footer; and the writer that
//! puts a whole file together. The byte table is in `docs/formats-queue.md`.

use storage_io::AlignedBuf;
use storage_log::{LogId, LogOffset};

use crate::IndexError;
use crate::fields::{Fields, checksum, index, low_u32, mix, number};
use crate::filter::Filter;
use crate::limits::{BLOCK_ENTRIES_MAX, PAGE_BYTES};
use crate::page::{Item, Start, page_salt};
use crate::page_builder::PageBuilder;

/// The version of run files that this build writes.
pub(crate) const FORMAT_VERSION: u16 = 2;

const HEADER_MAGIC: [u8; 8] = *b"CLQ-RUN\n";
const FOOTER_MAGIC: [u8; 8] = *b"CLQ-END\n";
const SUM_AT: usize = PAGE_BYTES - 4;
const FENCE_BYTES: usize = 24;

/// Fences in one page of them.
const FENCES_PER_PAGE: usize = SUM_AT / FENCE_BYTES;

/// What a run is: its range of the log, and which of the files with that range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RunId {
    pub(crate) log: LogId,
    pub(crate) low: LogOffset,
    pub(crate) high: LogOffset,
    pub(crate) generation: u64,
}

impl RunId {
    /// `cq-<low>-<high>-<generation>.run`, in hexadecimal digits.
    pub(crate) fn file_name(&self) -> String {
        format!(
            "cq-{:016x}-{:016x}-{:08x}.run",
            self.low.0, self.high.0, self.generation
        )
    }

    /// The error that names a page of this run.
    pub(crate) fn damaged_page(&self, page: u32, reason: &'static str) -> IndexError {
        IndexError::Damaged {
            file: self.file_name(),
            offset: page_offset(page),
            reason,
        }
    }

    /// The salt of the checksums of the file's pages.
    pub(crate) const fn salt(&self) -> u32 {
        let range = mix(self.low.0) ^ mix(self.high.0).rotate_left(1);
        low_u32(mix(range ^ mix(self.generation) ^ (self.log.0 as u64)))
    }
}

/// Where a page begins in its file; the header is in front of the first.
pub(crate) fn page_offset(page: u32) -> u64 {
    number(PAGE_BYTES) * (1 + u64::from(page))
}

/// The generation in a name of a run file; `None` for other names.
pub(crate) fn generation_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("cq-")?.strip_suffix(".run")?;
    u64::from_str_radix(rest.rsplit('-').next()?, 16).ok()
}

/// Entries of a page, at most, by the field that counts them.
const PAGE_ENTRIES_MAX: u64 = 0xffff;

/// What the footer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Footer {
    pub(crate) id: RunId,
    pub(crate) pages: u32,
    pub(crate) fence_pages: u32,
    pub(crate) entries: u64,
    pub(crate) queues: u64,
}

impl Footer {
    pub(crate) fn file_len(&self) -> u64 {
        number(PAGE_BYTES) * (2 + u64::from(self.pages) + u64::from(self.fence_pages))
    }

    /// Where the fences begin, in bytes.
    pub(crate) fn fences_at(&self) -> u64 {
        number(PAGE_BYTES) * (1 + u64::from(self.pages))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> u32 {
        let from = out.len();
        put_id(FOOTER_MAGIC, &self.id, out);
        out.extend_from_slice(&self.pages.to_le_bytes());
        out.extend_from_slice(&self.fence_pages.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.queues.to_le_bytes());
        out.extend_from_slice(&self.file_len().to_le_bytes());
        put_sum(from, 0, out)
    }

    /// Reads a footer block; also gives its checksum.
    pub(crate) fn decode(block: &[u8], file: &str, offset: u64) -> Result<(Self, u32), IndexError> {
        let damaged = |reason| IndexError::Damaged {
            file: file.to_owned(),
            offset,
            reason,
        };
        let sum = check_sum(block, 0).ok_or_else(|| damaged("the footer fails its checksum"))?;
        let mut fields = Fields(block);
        let id = take_id(FOOTER_MAGIC, &mut fields, file, offset)?;
        let mut rest = || {
            let (pages, fence_pages) = (fields.u32()?, fields.u32()?);
            let (entries, queues) = (fields.u64()?, fields.u64()?);
            let footer = Self {
                id,
                pages,
                fence_pages,
                entries,
                queues,
            };
            let is_sound = fields.u64()? == footer.file_len()
                && footer.entries <= u64::from(pages) * PAGE_ENTRIES_MAX
                && footer.queues <= footer.entries;
            is_sound.then_some(footer)
        };
        let footer = rest().ok_or_else(|| damaged("the footer contradicts itself"))?;
        Ok((footer, sum))
    }
}

/// Appends the header block.
fn put_header(id: &RunId, out: &mut Vec<u8>) {
    let from = out.len();
    put_id(HEADER_MAGIC, id, out);
    put_sum(from, 0, out);
}

/// Reads the header block.
pub(crate) fn decode_header(block: &[u8], file: &str) -> Result<RunId, IndexError> {
    let reason = "the header fails its checksum";
    check_sum(block, 0).ok_or_else(|| IndexError::Damaged {
        file: file.to_owned(),
        offset: 0,
        reason,
    })?;
    take_id(HEADER_MAGIC, &mut Fields(block), file, 0)
}

fn put_id(magic: [u8; 8], id: &RunId, out: &mut Vec<u8>) {
    out.extend_from_slice(&magic);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&id.log.0.to_le_bytes());
    out.extend_from_slice(&id.low.0.to_le_bytes());
    out.extend_from_slice(&id.high.0.to_le_bytes());
    out.extend_from_slice(&id.generation.to_le_bytes());
}

fn take_id(
    magic: [u8; 8],
    fields: &mut Fields<'_>,
    file: &str,
    offset: u64,
) -> Result<RunId, IndexError> {
    let damaged = |reason| IndexError::Damaged {
        file: file.to_owned(),
        offset,
        reason,
    };
    if fields.array() != Some(magic) {
        return Err(damaged("the block does not begin with its magic number"));
    }
    let mut take = || {
        let (version, _) = (fields.u16()?, fields.u16()?);
        let log = LogId(fields.u32()?);
        let (low, high) = (LogOffset(fields.u64()?), LogOffset(fields.u64()?));
        Some((
            version,
            RunId {
                log,
                low,
                high,
                generation: fields.u64()?,
            },
        ))
    };
    let (found, id) = take().ok_or_else(|| damaged("the block is too short"))?;
    if found != FORMAT_VERSION {
        let file = file.to_owned();
        return Err(IndexError::Format {
            file,
            found,
            expected: FORMAT_VERSION,
        });
    }
    Ok(id)
}

/// Fills the block that begins at `from` with zeroes and closes it with its sum.
fn put_sum(from: usize, salt: u32, out: &mut Vec<u8>) -> u32 {
    out.resize(from + SUM_AT, 0);
    let sum = checksum(salt, out.get(from..).unwrap_or_default());
    out.extend_from_slice(&sum.to_le_bytes());
    sum
}

/// The sum of a block, when it is right.
fn check_sum(block: &[u8], salt: u32) -> Option<u32> {
    let (summed, sum) = block.split_at_checked(SUM_AT)?;
    let sum = Fields(sum).u32()?;
    (sum == checksum(salt, summed)).then_some(sum)
}

fn put_fences(fences: &[Start], salt: u32, first_page: u32, out: &mut Vec<u8>) {
    for (page, chunk) in (first_page..).zip(fences.chunks(FENCES_PER_PAGE)) {
        let from = out.len();
        for fence in chunk {
            out.extend_from_slice(&fence.queue.0.to_le_bytes());
            out.extend_from_slice(&fence.queue_offset.to_le_bytes());
            out.extend_from_slice(&fence.at.to_le_bytes());
        }
        put_sum(from, page_salt(salt, page), out);
    }
}

/// Reads the fences, `footer.fence_pages` pages; on error tells which page is damaged.
pub(crate) fn decode_fences(bytes: &[u8], footer: &Footer) -> Result<Vec<Start>, u32> {
    let mut fences = Vec::new();
    let mut left = index(u64::from(footer.pages));
    for (page, block) in (0..footer.fence_pages).zip(bytes.chunks(PAGE_BYTES)) {
        let salt = page_salt(footer.id.salt(), footer.pages.saturating_add(page));
        check_sum(block, salt).ok_or(page)?;
        let mut fields = Fields(block);
        for _ in 0..left.min(FENCES_PER_PAGE) {
            let mut take = || {
                let queue = storage_log::QueueId(fields.u64()?);
                Some(Start {
                    queue,
                    queue_offset: fields.u64()?,
                    at: fields.u64()?,
                })
            };
            fences.push(take().ok_or(page)?);
            left -= 1;
        }
    }
    if left == 0 {
        Ok(fences)
    } else {
        Err(footer.fence_pages)
    }
}

/// Puts a run file together from blocks in order of queue and queue offset.
#[derive(Debug)]
pub(crate) struct RunWriter {
    id: RunId,
    page: PageBuilder,
    fences: Vec<Start>,
    filter: Filter,
    entries: u64,
    queues: u64,
    last_queue: Option<u64>,
    /// Whole pages that nobody has taken yet.
    out: Vec<u8>,
}

/// What is known of a run when it is written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) footer: Footer,
    pub(crate) footer_sum: u32,
    pub(crate) fences: Vec<Start>,
    pub(crate) filter: Filter,
}

impl RunWriter {
    pub(crate) const fn id(&self) -> RunId {
        self.id
    }

    /// Begins a run with at most about `queues` queues.
    pub(crate) fn new(id: RunId, queues: u64) -> Self {
        let mut out = Vec::new();
        put_header(&id, &mut out);
        Self {
            id,
            page: PageBuilder::default(),
            fences: Vec::new(),
            filter: Filter::new(queues),
            entries: 0,
            queues: 0,
            last_queue: None,
            out,
        }
    }

    /// Adds a block; splits it when that fills a page better.
    pub(crate) fn push(&mut self, start: Start, items: &[Item]) {
        debug_assert!(items.len() <= BLOCK_ENTRIES_MAX);
        if self.last_queue.replace(start.queue.0) != Some(start.queue.0) {
            self.queues += 1;
            self.filter.insert_late(start.queue);
        }
        self.entries += number(items.len());
        let (mut start, mut items) = (start, items);
        let mut count = items.len();
        while !items.is_empty() {
            let (head, tail) = items.split_at(count.min(items.len()));
            if self.page.push(start, head) {
                let Some(next) = tail.first() else { return };
                let queue_offset = start.queue_offset + number(head.len());
                start = Start {
                    queue: start.queue,
                    queue_offset,
                    at: next.at,
                };
                items = tail;
                count = tail.len();
            } else if count >= 32 {
                count /= 2;
            } else {
                self.finish_page();
                count = items.len();
            }
        }
    }

    /// Bytes that can be taken.
    pub(crate) fn buffered(&self) -> usize {
        self.out.len()
    }

    /// Takes the next bytes of the file.
    pub(crate) fn take(&mut self) -> AlignedBuf {
        let buf = AlignedBuf::padded(&self.out);
        self.out.clear();
        buf
    }

    /// Ends the file: what is left is to be taken after this, once.
    pub(crate) fn finish(mut self) -> (AlignedBuf, Written) {
        self.finish_page();
        self.filter.settle();
        let fence_pages = self.fences.len().div_ceil(FENCES_PER_PAGE);
        let footer = Footer {
            id: self.id,
            pages: low_u32(number(self.fences.len())),
            fence_pages: low_u32(number(fence_pages)),
            entries: self.entries,
            queues: self.queues,
        };
        put_fences(&self.fences, self.id.salt(), footer.pages, &mut self.out);
        let footer_sum = footer.encode(&mut self.out);
        let written = Written {
            footer,
            footer_sum,
            fences: self.fences,
            filter: self.filter,
        };
        (AlignedBuf::padded(&self.out), written)
    }

    fn finish_page(&mut self) {
        let page = low_u32(number(self.fences.len()));
        if !self.page.is_empty() {
            self.fences
                .extend(self.page.finish(self.id.salt(), page, &mut self.out));
        }
    }
}
