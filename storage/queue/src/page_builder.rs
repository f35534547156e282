//! Collects blocks until a page is full, and packs them. The byte table is in
//! `docs/formats-queue.md`; `page.rs` reads what is written here.

use crate::bits::{BitWriter, width};
use crate::fields::{checksum, index, low_u32, number};
#[cfg(debug_assertions)]
use crate::limits::BLOCK_ENTRIES_MAX;
use crate::page::{
    DICTIONARY_MAX, HEADER_BYTES, Item, Layout, SHIFT_MAX, SUM_AT, Start, page_salt,
};

/// A page that is being filled.
#[derive(Debug, Default)]
pub(crate) struct PageBuilder {
    heads: Vec<Head>,
    items: Vec<Item>,
    /// The different tags, unless they are too many.
    tags: Vec<u32>,
    bounds: Bounds,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    start: Start,
    count: usize,
    /// Bits of the longest distance between two entries, in bytes; 0 for one entry.
    gap_width: u32,
}

/// The bounds of all fields of a page.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// All log offsets and sizes, or-ed.
    used_bits: u64,
    at: (u64, u64),
    offset: (u64, u64),
    size: (u32, u32),
    tag_max: u32,
    gap_width: (u32, u32),
    queue_gap_max: u64,
    count_max: usize,
    /// Distances between entries, and the bits of all of them, in bytes.
    gaps: usize,
    gap_bits: usize,
    is_dictionary: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            used_bits: 0,
            at: (u64::MAX, 0),
            offset: (u64::MAX, 0),
            size: (u32::MAX, 0),
            tag_max: 0,
            gap_width: (u32::MAX, 0),
            queue_gap_max: 0,
            count_max: 1,
            gaps: 0,
            gap_bits: 0,
            is_dictionary: true,
        }
    }
}

const fn width_u64(max: u64) -> u32 {
    u64::BITS - max.leading_zeros()
}

impl Bounds {
    fn take(&mut self, head: &Head, items: &[Item], queue_gap: u64) {
        let Start {
            at, queue_offset, ..
        } = head.start;
        self.at = (self.at.0.min(at), self.at.1.max(at));
        self.offset = (
            self.offset.0.min(queue_offset),
            self.offset.1.max(queue_offset),
        );
        self.queue_gap_max = self.queue_gap_max.max(queue_gap);
        self.count_max = self.count_max.max(head.count);
        for item in items {
            self.used_bits |= item.at | u64::from(item.size);
            self.size = (self.size.0.min(item.size), self.size.1.max(item.size));
            self.tag_max = self.tag_max.max(item.tag);
        }
        if head.count > 1 {
            let (least, most) = self.gap_width;
            self.gap_width = (least.min(head.gap_width), most.max(head.gap_width));
            self.gaps += head.count - 1;
            self.gap_bits += (head.count - 1) * index(u64::from(head.gap_width));
        }
    }

    fn layout(&self, tags: usize) -> Layout {
        let shift = self.used_bits.trailing_zeros().min(SHIFT_MAX);
        // A distance is a multiple of 2^shift above 0, so its width is more than the shift.
        let (least, most) = self.gap_width;
        let gap_width_min = if self.gaps == 0 { 0 } else { least - shift };
        let gap_width_span = most.saturating_sub(least);
        let tag_width = if self.is_dictionary {
            width(low_u32(number(tags.saturating_sub(1))))
        } else {
            width(self.tag_max)
        };
        Layout {
            shift,
            at_min: self.at.0 >> shift,
            offset_min: self.offset.0,
            size_min: self.size.0 >> shift,
            gap_width_min,
            queue_width: width_u64(self.queue_gap_max),
            offset_width: width_u64(self.offset.1 - self.offset.0),
            count_width: width_u64(number(self.count_max - 1)),
            at_width: width_u64((self.at.1 - self.at.0) >> shift),
            gap_width_width: if self.gaps == 0 {
                0
            } else {
                width(gap_width_span)
            },
            size_width: width((self.size.1 - self.size.0) >> shift),
            tag_width,
        }
    }

    /// Whether so many blocks, entries and tags fit a page.
    fn fits(&self, blocks: usize, entries: usize, tags: usize) -> bool {
        let layout = self.layout(tags);
        let entry_bits = index(u64::from(layout.size_width + layout.tag_width));
        let gap_bits = self.gap_bits - self.gaps * index(u64::from(layout.shift));
        let tag_bytes = if self.is_dictionary { 4 * tags } else { 0 };
        let bits = blocks * layout.head_bits() + entries * entry_bits + gap_bits;
        bits <= 8 * (SUM_AT - HEADER_BYTES - tag_bytes)
    }
}

impl PageBuilder {
    /// Adds a block of at least one and at most `BLOCK_ENTRIES_MAX` items, whose offsets grow
    /// by less than 2^32 from item to item. False when there is no room; an empty page has room.
    pub(crate) fn push(&mut self, start: Start, items: &[Item]) -> bool {
        #[cfg(debug_assertions)]
        assert!((1..=BLOCK_ENTRIES_MAX).contains(&items.len()));
        let previous = self
            .heads
            .last()
            .map_or(start.queue, |head| head.start.queue);
        let mut gap_max = 0;
        let mut at = start.at;
        for item in items {
            gap_max = gap_max.max(item.at - at);
            at = item.at;
        }
        let head = Head {
            start,
            count: items.len(),
            gap_width: width_u64(gap_max),
        };
        let tags = self.tags.len();
        let mut bounds = self.bounds;
        bounds.take(&head, items, start.queue.0 - previous.0);
        bounds.is_dictionary = bounds.is_dictionary && self.learn(items);
        let (blocks, entries) = (self.heads.len() + 1, self.items.len() + items.len());
        if !bounds.fits(blocks, entries, self.tags.len()) {
            self.tags.truncate(tags);
            return false;
        }
        self.bounds = bounds;
        self.heads.push(head);
        self.items.extend_from_slice(items);
        true
    }

    /// Adds the tags to the dictionary; false: they are too many.
    fn learn(&mut self, items: &[Item]) -> bool {
        for item in items {
            if !self.tags.contains(&item.tag) {
                if self.tags.len() == DICTIONARY_MAX {
                    return false;
                }
                self.tags.push(item.tag);
            }
        }
        true
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Appends the page to `out` and begins an empty one. `None` when it is empty.
    pub(crate) fn finish(&mut self, salt: u32, page: u32, out: &mut Vec<u8>) -> Option<Start> {
        let start = self.heads.first()?.start;
        let from = out.len();
        if !self.bounds.is_dictionary {
            self.tags.clear();
        }
        let layout = self.bounds.layout(self.tags.len());
        self.put_header(start, &layout, out);
        self.put_blocks(start, &layout, out);
        self.heads.clear();
        self.items.clear();
        self.tags.clear();
        self.bounds = Bounds::default();
        out.resize(from + SUM_AT, 0);
        let sum = checksum(page_salt(salt, page), out.get(from..).unwrap_or_default());
        out.extend_from_slice(&sum.to_le_bytes());
        Some(start)
    }

    fn put_header(&self, start: Start, layout: &Layout, out: &mut Vec<u8>) {
        let count = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
        out.extend_from_slice(&count(self.heads.len()));
        out.extend_from_slice(&count(self.items.len()));
        out.extend_from_slice(&start.queue.0.to_le_bytes());
        out.extend_from_slice(&layout.at_min.to_le_bytes());
        out.extend_from_slice(&layout.offset_min.to_le_bytes());
        out.extend_from_slice(&layout.size_min.to_le_bytes());
        let bytes = [
            layout.shift,
            low_u32(number(self.tags.len())),
            layout.gap_width_min,
            layout.queue_width,
            layout.offset_width,
            layout.count_width,
            layout.at_width,
            layout.gap_width_width,
            layout.size_width,
            layout.tag_width,
            0,
            0,
        ];
        out.extend(bytes.map(|byte| u8::try_from(byte).unwrap_or(u8::MAX)));
        for tag in &self.tags {
            out.extend_from_slice(&tag.to_le_bytes());
        }
    }

    fn put_blocks(&self, start: Start, layout: &Layout, out: &mut Vec<u8>) {
        let mut bits = BitWriter::new(out);
        let mut queue = start.queue.0;
        for head in &self.heads {
            let (at, offset) = (head.start.at, head.start.queue_offset);
            bits.put_long(head.start.queue.0 - queue, layout.queue_width);
            bits.put_long(offset - layout.offset_min, layout.offset_width);
            bits.put_long(number(head.count - 1), layout.count_width);
            bits.put_long((at >> layout.shift) - layout.at_min, layout.at_width);
            let gap_width = gap_width(head, layout);
            bits.put(gap_width - layout.gap_width_min, layout.gap_width_width);
            queue = head.start.queue.0;
        }
        let mut items = self.items.iter().as_slice();
        for head in &self.heads {
            let (block, rest) = items.split_at(head.count.min(items.len()));
            items = rest;
            let gap_width = gap_width(head, layout);
            let mut at = head.start.at;
            for item in block.iter().skip(1) {
                bits.put(low_u32((item.at - at) >> layout.shift), gap_width);
                at = item.at;
            }
            for item in block {
                bits.put(
                    (item.size >> layout.shift) - layout.size_min,
                    layout.size_width,
                );
                bits.put(self.tag(item.tag), layout.tag_width);
            }
        }
        bits.finish();
    }

    /// How a tag is stored.
    fn tag(&self, tag: u32) -> u32 {
        let place = self.tags.iter().position(|known| *known == tag);
        place.map_or(tag, |place| low_u32(number(place)))
    }
}

/// Bits of a distance between entries of a block.
const fn gap_width(head: &Head, layout: &Layout) -> u32 {
    if head.count > 1 {
        head.gap_width - layout.shift
    } else {
        layout.gap_width_min
    }
}
