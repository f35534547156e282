//! A page of a run: 4 KiB of blocks, each a stretch of one queue. The byte table is in
//! `docs/formats-queue.md`.

use storage_log::{LogOffset, QueueId};

use crate::Entry;
use crate::bits::{BitReader, BitWriter, WIDTH_MAX, width};
use crate::fields::{Fields, checksum, index, low_u32, mix, number, put_varint};
use crate::limits::{BLOCK_ENTRIES_MAX, PAGE_BYTES};

const HEADER_BYTES: usize = 12;
const SUM_AT: usize = PAGE_BYTES - 4;

/// Bytes for blocks in a page.
pub(crate) const BLOCK_SPACE: usize = SUM_AT - HEADER_BYTES;

/// Bytes of a block at most: five numbers of ten bytes, three widths, and packed entries.
const BLOCK_BYTES_MAX: usize = 53 + BLOCK_ENTRIES_MAX * 12;
const _: () = assert!(BLOCK_BYTES_MAX <= BLOCK_SPACE);

/// One entry inside a block: all but the queue and the queue offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) at: u64,
    pub(crate) size: u32,
    pub(crate) tag: u32,
}

/// Where a page or a block begins; what a fence keeps of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Start {
    pub(crate) queue: QueueId,
    pub(crate) queue_offset: u64,
    pub(crate) at: u64,
}

/// Collects blocks until a page is full.
#[derive(Debug, Default)]
pub(crate) struct PageBuilder {
    blocks: Vec<u8>,
    count: u16,
    start: Option<Start>,
    last_queue: u64,
    scratch: Vec<u8>,
}

impl PageBuilder {
    /// Adds a block of at least one and at most [`BLOCK_ENTRIES_MAX`] items, whose offsets grow
    /// by less than 2^32 from item to item. False when there is no room; an empty page has room.
    pub(crate) fn push(&mut self, base: u64, start: Start, items: &[Item]) -> bool {
        debug_assert!((1..=BLOCK_ENTRIES_MAX).contains(&items.len()));
        let previous = if self.count == 0 {
            start.queue.0
        } else {
            self.last_queue
        };
        self.scratch.clear();
        put_varint(start.queue.0 - previous, &mut self.scratch);
        put_varint(start.queue_offset, &mut self.scratch);
        put_varint(number(items.len()), &mut self.scratch);
        put_varint(start.at - base, &mut self.scratch);
        encode_items(items, &mut self.scratch);
        if self.blocks.len() + self.scratch.len() > BLOCK_SPACE {
            return false;
        }
        self.blocks.extend_from_slice(&self.scratch);
        self.last_queue = start.queue.0;
        self.count += 1;
        self.start.get_or_insert(start);
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends the page to `out` and begins an empty one. `None` when it is empty.
    pub(crate) fn finish(&mut self, salt: u32, page: u32, out: &mut Vec<u8>) -> Option<Start> {
        let start = self.start.take()?;
        let from = out.len();
        let used = u16::try_from(self.blocks.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&used.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&start.queue.0.to_le_bytes());
        out.append(&mut self.blocks);
        self.count = 0;
        out.resize(from + SUM_AT, 0);
        let sum = checksum(page_salt(salt, page), out.get(from..).unwrap_or_default());
        out.extend_from_slice(&sum.to_le_bytes());
        Some(start)
    }
}

/// The salt of one page, so that a page of another place or another file does not pass.
pub(crate) fn page_salt(salt: u32, page: u32) -> u32 {
    low_u32(mix((u64::from(salt) << 32) | u64::from(page)))
}

fn encode_items(items: &[Item], out: &mut Vec<u8>) {
    let [first, rest @ ..] = items else { return };
    if rest.is_empty() {
        put_varint(u64::from(first.size), out);
        put_varint(u64::from(first.tag), out);
        return;
    }
    let deltas = || {
        let pairs = items
            .windows(2)
            .filter_map(|pair| Some((pair.first()?, pair.last()?)));
        pairs.map(|(earlier, later)| low_u32(later.at - earlier.at))
    };
    let size_min = items.iter().map(|item| item.size).min().unwrap_or(0);
    let tag_min = items.iter().map(|item| item.tag).min().unwrap_or(0);
    let widest = |values: &mut dyn Iterator<Item = u32>| width(values.max().unwrap_or(0));
    let widths = [
        widest(&mut deltas()),
        widest(&mut items.iter().map(|item| item.size - size_min)),
        widest(&mut items.iter().map(|item| item.tag - tag_min)),
    ];
    for width in widths {
        out.push(u8::try_from(width).unwrap_or(u8::MAX));
    }
    put_varint(u64::from(size_min), out);
    put_varint(u64::from(tag_min), out);
    let [delta_width, size_width, tag_width] = widths;
    let mut bits = BitWriter::new(out);
    for delta in deltas() {
        bits.put(delta, delta_width);
    }
    for item in items {
        bits.put(item.size - size_min, size_width);
    }
    for item in items {
        bits.put(item.tag - tag_min, tag_width);
    }
    bits.finish();
}

/// Checks the sum and the shape of a page, down to every entry.
pub(crate) fn verify(
    bytes: &[u8],
    salt: u32,
    page: u32,
    base: u64,
    visit: &mut dyn FnMut(&Block<'_>),
) -> Result<(), &'static str> {
    let (Some(summed), Some(mut sum)) = (bytes.get(..SUM_AT), bytes.get(SUM_AT..).map(Fields))
    else {
        return Err("the page is too short");
    };
    if sum.u32() != Some(checksum(page_salt(salt, page), summed)) {
        return Err("the page fails its checksum");
    }
    let mut blocks = Blocks::new(bytes, base).ok_or("the page has no sound header")?;
    let mut entries = Vec::new();
    for block in blocks.by_ref() {
        entries.clear();
        block
            .entries(&mut entries)
            .ok_or("a block of the page has impossible entries")?;
        visit(&block);
    }
    if blocks.is_sound() {
        Ok(())
    } else {
        Err("the page ends inside a block")
    }
}

/// The blocks of a page; ends early, and says so, when the bytes are not sound.
#[derive(Clone, Debug)]
pub(crate) struct Blocks<'a> {
    fields: Fields<'a>,
    left: u16,
    queue: u64,
    base: u64,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(page: &'a [u8], base: u64) -> Option<Self> {
        let mut fields = Fields(page);
        let used = fields.u16()?;
        let left = fields.u16()?;
        let queue = fields.u64()?;
        let blocks = fields
            .slice(usize::from(used))
            .filter(|used| used.len() <= BLOCK_SPACE)?;
        Some(Self {
            fields: Fields(blocks),
            left,
            queue,
            base,
        })
    }

    /// Whether every block was there, and nothing else.
    pub(crate) const fn is_sound(&self) -> bool {
        self.left == 0 && self.fields.0.is_empty()
    }

    fn block(&mut self) -> Option<Block<'a>> {
        let fields = &mut self.fields;
        self.queue = self.queue.checked_add(fields.varint()?)?;
        let queue_offset = fields.varint()?;
        let count = index(fields.varint()?);
        if !(1..=BLOCK_ENTRIES_MAX).contains(&count) {
            return None;
        }
        queue_offset.checked_add(number(count))?;
        let at = self.base.checked_add(fields.varint()?)?;
        let start = Start {
            queue: QueueId(self.queue),
            queue_offset,
            at,
        };
        let mut widths = [0_u32; 3];
        if count > 1 {
            widths = fields.array::<3>()?.map(u32::from);
        }
        let size_min = fields.varint_u32()?;
        let tag_min = fields.varint_u32()?;
        if widths.iter().any(|width| *width > WIDTH_MAX) {
            return None;
        }
        let [delta_width, size_width, tag_width] = widths.map(index_u32);
        let bits = (count - 1) * delta_width + count * (size_width + tag_width);
        let packed = fields.slice(bits.div_ceil(8))?;
        Some(Block {
            start,
            count,
            widths,
            size_min,
            tag_min,
            packed,
        })
    }
}

fn index_u32(value: u32) -> usize {
    index(u64::from(value))
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        if self.left == 0 {
            return None;
        }
        let block = self.block()?;
        self.left -= 1;
        Some(block)
    }
}

/// One block, not unpacked yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub(crate) start: Start,
    pub(crate) count: usize,
    widths: [u32; 3],
    size_min: u32,
    tag_min: u32,
    packed: &'a [u8],
}

impl Block<'_> {
    /// The queue offset behind the last entry.
    pub(crate) const fn end(&self) -> u64 {
        self.start.queue_offset + number(self.count)
    }

    /// Appends the entries to `out`. `None` when they are impossible, which [`verify`] rules out.
    pub(crate) fn entries(&self, out: &mut Vec<Entry>) -> Option<()> {
        let [delta_width, size_width, tag_width] = self.widths;
        let from = out.len();
        let mut bits = BitReader::new(self.packed);
        let mut at = self.start.at;
        for place in 0..self.count {
            if place > 0 {
                let delta = bits.take(delta_width).filter(|delta| *delta > 0)?;
                at = at.checked_add(u64::from(delta))?;
            }
            let queue_offset = self.start.queue_offset + number(place);
            let queue = self.start.queue;
            out.push(Entry {
                queue,
                queue_offset,
                at: LogOffset(at),
                size: 0,
                tag: 0,
            });
        }
        for entry in out.iter_mut().skip(from) {
            entry.size = self.size_min.checked_add(bits.take(size_width)?)?;
        }
        for entry in out.iter_mut().skip(from) {
            entry.tag = self.tag_min.checked_add(bits.take(tag_width)?)?;
        }
        Some(())
    }
}
