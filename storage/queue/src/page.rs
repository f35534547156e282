//! A page of a run: 4 KiB of blocks, each a stretch of one queue. The byte table is in
//! `docs/formats-queue.md`.
//!
//! Everything is packed in bits, whose widths fit this page and are in its header: what the page
//! has in common is said once. `page_builder.rs` writes what is read here.

use storage_log::{LogOffset, QueueId};

use crate::Entry;
use crate::bits::{WIDTH_MAX, bits_at};
use crate::fields::{Fields, checksum, index, low_u32, mix, number};
use crate::limits::{BLOCK_ENTRIES_MAX, PAGE_BYTES};

/// Bytes in front of the dictionary of tags.
pub(crate) const HEADER_BYTES: usize = 44;
/// Where the checksum is.
pub(crate) const SUM_AT: usize = PAGE_BYTES - 4;
/// Tags of a dictionary at most; with more, each entry has its own.
pub(crate) const DICTIONARY_MAX: usize = 32;
/// Low bits at most that all log offsets and sizes of a page lack, so that they are not stored.
pub(crate) const SHIFT_MAX: u32 = 7;
/// Bits of the count of a block, less one.
pub(crate) const COUNT_WIDTH_MAX: u32 = BLOCK_ENTRIES_MAX.trailing_zeros();
const _: () = assert!(BLOCK_ENTRIES_MAX.is_power_of_two());

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

/// The salt of one page, so that a page of another place or another file does not pass.
pub(crate) fn page_salt(salt: u32, page: u32) -> u32 {
    low_u32(mix((u64::from(salt) << 32) | u64::from(page)))
}

/// Checks the sum and the shape of a page. That its entries are possible is for who unpacks them:
/// [`Block::entries`].
pub(crate) fn verify(
    bytes: &[u8],
    salt: u32,
    page: u32,
    visit: &mut dyn FnMut(&Block<'_>),
) -> Result<(), &'static str> {
    let (Some(summed), Some(mut sum)) = (bytes.get(..SUM_AT), bytes.get(SUM_AT..).map(Fields))
    else {
        return Err("the page is too short");
    };
    if sum.u32() != Some(checksum(page_salt(salt, page), summed)) {
        return Err("the page fails its checksum");
    }
    let mut blocks = Blocks::new(bytes).ok_or("the page has no sound header")?;
    for block in blocks.by_ref() {
        visit(&block);
    }
    if blocks.is_sound() {
        Ok(())
    } else {
        Err("the page ends inside a block or lacks entries")
    }
}

/// What a page says about all of its blocks: the least value of each field, and how many bits hold
/// the distance to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Low bits that no log offset and no size has.
    pub(crate) shift: u32,
    /// Least log offset of a first entry, without those bits.
    pub(crate) at_min: u64,
    /// Least queue offset of a first entry.
    pub(crate) offset_min: u64,
    /// Least size, without the low bits.
    pub(crate) size_min: u32,
    /// Least width of the distances in a block.
    pub(crate) gap_width_min: u32,
    pub(crate) queue_width: u32,
    pub(crate) offset_width: u32,
    pub(crate) count_width: u32,
    pub(crate) at_width: u32,
    /// Bits that hold the width of the distances in a block.
    pub(crate) gap_width_width: u32,
    pub(crate) size_width: u32,
    pub(crate) tag_width: u32,
}

impl Layout {
    /// Bits of the head of a block.
    pub(crate) const fn head_bits(&self) -> usize {
        index(
            (self.queue_width
                + self.offset_width
                + self.count_width
                + self.at_width
                + self.gap_width_width) as u64,
        )
    }

    fn is_possible(&self) -> bool {
        self.shift <= SHIFT_MAX
            && self.gap_width_min <= WIDTH_MAX
            && self.queue_width <= u64::BITS
            && self.offset_width <= u64::BITS
            && self.count_width <= COUNT_WIDTH_MAX
            && self.at_width <= u64::BITS
            && self.gap_width_width <= 6
            && self.size_width <= WIDTH_MAX
            && self.tag_width <= WIDTH_MAX
    }
}

/// The blocks of a page; ends early, and says so, when the bytes are not sound.
#[derive(Clone, Debug)]
pub(crate) struct Blocks<'a> {
    page: &'a [u8],
    layout: Layout,
    /// The dictionary of tags; empty: each entry has its tag.
    tags: &'a [u8],
    /// Blocks and entries that are to come.
    left: u16,
    entries_left: u16,
    queue: u64,
    /// The bit at which the next head begins, and the next block's entries.
    head: usize,
    body: usize,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(page: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(page);
        let (left, entries_left) = (fields.u16()?, fields.u16()?);
        let queue = fields.u64()?;
        let mut layout = Layout {
            at_min: fields.u64()?,
            offset_min: fields.u64()?,
            size_min: fields.u32()?,
            shift: u32::from(fields.u8()?),
            ..Layout::default()
        };
        let tags = usize::from(fields.u8()?);
        let widths = fields.array::<10>()?.map(u32::from);
        let [
            gap_min,
            queue_width,
            offset,
            count,
            at,
            gap_width,
            size,
            tag,
            ..,
        ] = widths;
        layout.gap_width_min = gap_min;
        layout.queue_width = queue_width;
        layout.offset_width = offset;
        layout.count_width = count;
        layout.at_width = at;
        layout.gap_width_width = gap_width;
        layout.size_width = size;
        layout.tag_width = tag;
        let tags = fields.slice(4 * tags)?;
        let head = 8 * (HEADER_BYTES + tags.len());
        let body = head + usize::from(left) * layout.head_bits();
        let is_sound = page.len() == PAGE_BYTES && layout.is_possible() && body <= 8 * SUM_AT;
        is_sound.then_some(Self {
            page,
            layout,
            tags,
            left,
            entries_left,
            queue,
            head,
            body,
        })
    }

    /// Whether every block was there, with all entries.
    pub(crate) const fn is_sound(&self) -> bool {
        self.left == 0 && self.entries_left == 0
    }

    fn block(&mut self) -> Option<Block<'a>> {
        let layout = &self.layout;
        let mut bit = self.head;
        let mut take = |width: u32| {
            let value = bits_at(self.page, bit, width);
            bit += index(u64::from(width));
            value
        };
        let queue = self.queue.checked_add(take(layout.queue_width))?;
        let queue_offset = layout.offset_min.checked_add(take(layout.offset_width))?;
        let count = index(take(layout.count_width)) + 1;
        let at = layout.at_min.checked_add(take(layout.at_width))?;
        let gap_width = layout.gap_width_min + low_u32(take(layout.gap_width_width));
        queue_offset.checked_add(number(count))?;
        let at = at.checked_mul(1 << layout.shift)?;
        let entry_bits = index(u64::from(layout.size_width + layout.tag_width));
        let bits = (count - 1) * index(u64::from(gap_width)) + count * entry_bits;
        let end = self.body + bits;
        if end > 8 * SUM_AT || gap_width > WIDTH_MAX {
            return None;
        }
        self.entries_left = self.entries_left.checked_sub(u16::try_from(count).ok()?)?;
        let block = Block {
            start: Start {
                queue: QueueId(queue),
                queue_offset,
                at,
            },
            count,
            gap_width,
            layout: *layout,
            tags: self.tags,
            page: self.page,
            bit: self.body,
        };
        self.queue = queue;
        self.head = bit;
        self.body = end;
        Some(block)
    }
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
    gap_width: u32,
    layout: Layout,
    tags: &'a [u8],
    page: &'a [u8],
    /// Where its entries begin.
    bit: usize,
}

impl Block<'_> {
    /// The queue offset behind the last entry.
    pub(crate) const fn end(&self) -> u64 {
        self.start.queue_offset + number(self.count)
    }

    /// Appends the entries to `out`. `None` when they are impossible: no writer made this page.
    pub(crate) fn entries(&self, out: &mut Vec<Entry>) -> Option<()> {
        let Layout {
            shift,
            size_min,
            size_width,
            tag_width,
            ..
        } = self.layout;
        let [gap, size, tag] = [self.gap_width, size_width, tag_width];
        let mut gap_bit = self.bit;
        let mut bit = self.bit + (self.count - 1) * index(u64::from(gap));
        let mut at = self.start.at;
        for queue_offset in self.start.queue_offset..self.end() {
            if queue_offset > self.start.queue_offset {
                let step = bits_at(self.page, gap_bit, gap);
                gap_bit += index(u64::from(gap));
                if step == 0 {
                    return None;
                }
                at = at.checked_add(step << shift)?;
            }
            let units = bits_at(self.page, bit, size) + u64::from(size_min);
            bit += index(u64::from(size));
            let value = bits_at(self.page, bit, tag);
            bit += index(u64::from(tag));
            out.push(Entry {
                queue: self.start.queue,
                queue_offset,
                at: LogOffset(at),
                size: u32::try_from(units << shift).ok()?,
                tag: self.tag(value)?,
            });
        }
        Some(())
    }

    fn tag(&self, value: u64) -> Option<u32> {
        if self.tags.is_empty() {
            return u32::try_from(value).ok();
        }
        let place = 4 * index(value);
        Fields(self.tags.get(place..)?).u32()
    }
}
