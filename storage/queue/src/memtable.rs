//! Entries that are not in a run yet, by queue.
//!
//! A queue with few entries is one cache line, its head, and a chain of others, each of which
//! names the one before; one with many is a list of large blocks, so that the place of an entry is
//! arithmetic, however long the queue is. Entries keep their distance to the first record of the
//! memtable, in 32 bits. Which head a queue has is known by the roster; a head knows its queue, so
//! what the roster says is checked here, and may be of another memtable.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "heads, chunks and places are numbers that this module gave out itself"
)]

use std::collections::BTreeMap;

use storage_log::{LogOffset, QueueId};

use crate::Entry;
use crate::arena::Arena;
use crate::fields::{index, low_u32, number};
use crate::limits::BLOCK_ENTRIES_MAX;
use crate::page::{Item, Start};
use crate::prefetch::prefetch;
use crate::walk::{STEP_QUEUES, Walk};

const OURS: &str = "a number that this module gave out";

const HEAD_ENTRIES: usize = 3;
const CHUNK_ENTRIES: usize = 5;

/// Entries of a queue above which it is kept in large blocks.
const SHORT_MAX: usize = HEAD_ENTRIES + 6 * CHUNK_ENTRIES;
const LONG_BLOCK_ENTRIES: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
struct Packed {
    /// Bytes from the first record of the memtable.
    delta: u32,
    size: u32,
    tag: u32,
}

#[repr(align(64))]
#[derive(Clone, Copy, Debug)]
struct Head {
    queue: QueueId,
    /// Queue offset of the first entry.
    first: u64,
    count: u32,
    /// The last chunk; of a long queue, which list of blocks.
    tail: u32,
    /// Where the queue may be in a memtable before this one.
    older: u32,
    entries: [Packed; HEAD_ENTRIES],
}
const _: () = assert!(size_of::<Head>() == 64);

#[repr(align(64))]
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// The chunk before; the first has none.
    previous: u32,
    entries: [Packed; CHUNK_ENTRIES],
}
const _: () = assert!(size_of::<Chunk>() == 64);

/// One memtable: it covers the log from where the one before ends.
#[derive(Debug, Default)]
pub(crate) struct Memtable {
    heads: Arena<Head>,
    chunks: Arena<Chunk>,
    long: Vec<Vec<Vec<Packed>>>,
    /// Where queue offsets jump: (head, place) to the queue offset from there on. Only after a
    /// log has lost records.
    jumps: BTreeMap<(u32, u32), u64>,
    /// Offset of the first record.
    base: Option<u64>,
    entries: usize,
    /// Least queue and greatest.
    range: Option<(u64, u64)>,
}

impl Memtable {
    pub(crate) const fn entries(&self) -> usize {
        self.entries
    }

    /// How many queues have entries here.
    pub(crate) const fn queues(&self) -> usize {
        self.heads.len()
    }

    /// Bytes of log from the first record to `at`; 0 when there is no record.
    pub(crate) fn reach(&self, at: LogOffset) -> u64 {
        self.base.map_or(0, |base| at.0.saturating_sub(base))
    }

    /// The head of a queue, when it is this one.
    pub(crate) fn find(&self, queue: QueueId, head: u32) -> Option<u32> {
        let found = self.heads.get(head)?;
        (found.queue == queue).then_some(head)
    }

    /// Where the queue of a head may be in a memtable before this one.
    pub(crate) fn older(&self, head: u32) -> u32 {
        self.head(head).older
    }

    /// Asks for the memory of a head, if it may be here.
    pub(crate) fn prefetch_head(&self, head: u32) {
        if let Some(head) = self.heads.get(head) {
            prefetch(head);
        }
    }

    /// Asks for the memory behind a head, which has come meanwhile.
    pub(crate) fn prefetch_tail(&self, head: u32) {
        let Some(head) = self.heads.get(head) else {
            return;
        };
        let count = index(u64::from(head.count));
        if (HEAD_ENTRIES + 1..=SHORT_MAX).contains(&count)
            && let Some(chunk) = self.chunks.get(head.tail)
        {
            prefetch(chunk);
        }
    }

    /// Appends an entry to the queue whose head may be `head`; tells the head. `None` when the
    /// queue has an entry of the same record or a later one already. The caller keeps
    /// [`Memtable::reach`] below 2^32.
    pub(crate) fn push(&mut self, entry: &Entry, head: u32) -> Option<u32> {
        let base = *self.base.get_or_insert(entry.at.0);
        debug_assert!(entry.at.0 - base <= u64::from(u32::MAX));
        let packed = Packed {
            delta: low_u32(entry.at.0 - base),
            size: entry.size,
            tag: entry.tag,
        };
        let head = self
            .find(entry.queue, head)
            .unwrap_or_else(|| self.new_head(entry, head));
        let place = self.head(head).count;
        if place > 0 && packed.delta <= self.packed(head, place - 1).delta {
            return None;
        }
        if self.queue_offset(head, place) != entry.queue_offset {
            self.jumps.insert((head, place), entry.queue_offset);
        }
        self.put(head, packed);
        self.entries += 1;
        Some(head)
    }

    /// The entries of a head's queue at or above `from` and below `upto`, at most `max` of them.
    pub(crate) fn read(
        &self,
        head: u32,
        from: LogOffset,
        upto: LogOffset,
        max: usize,
        out: &mut Vec<Entry>,
    ) {
        let entries = self.unpack(head);
        let first = entries.partition(|_, at| at < from.0);
        for place in first..entries.count() {
            let entry = entries.entry(place);
            if out.len() >= max || entry.at >= upto {
                break;
            }
            out.push(entry);
        }
    }

    /// The entries of a head's queue from a queue offset on, at most `max` of them.
    pub(crate) fn read_by_offset(&self, head: u32, from: u64, max: usize, out: &mut Vec<Entry>) {
        let entries = self.unpack(head);
        let first = entries.partition(|place, _| self.queue_offset(head, place) < from);
        for place in first..entries.count() {
            if out.len() >= max {
                break;
            }
            out.push(entries.entry(place));
        }
    }

    /// The queue offset of the first entry of a head's queue.
    pub(crate) fn first(&self, head: u32) -> u64 {
        self.queue_offset(head, 0)
    }

    /// A walk over all queues in order, by [`Memtable::block`] when [`Memtable::prepare`] is done.
    pub(crate) fn walk(&self) -> Walk {
        let (least, most) = self.range.unwrap_or((0, 0));
        Walk::new(least, most)
    }

    /// One small step towards the order of a walk; true when it is made.
    pub(crate) fn prepare(&self, walk: &mut Walk) -> bool {
        let queue_at = |place| self.head(low_u32(number(place))).queue;
        let queues = self.heads.len();
        // Few queues are both counted and dealt in one step.
        walk.deal(queues, queue_at) || (queues <= STEP_QUEUES && walk.deal(queues, queue_at))
    }

    /// The next block of the walk: the items go to `items`. `None` at the end.
    pub(crate) fn block(&self, walk: &mut Walk, items: &mut Vec<Item>) -> Option<Start> {
        items.clear();
        if walk.place == 0 {
            self.look_ahead(walk);
        }
        let head = walk.order.get(walk.queue)?.1;
        let entries = self.unpack(head);
        let queue_offset = self.queue_offset(head, walk.place);
        let base = self.base.unwrap_or(0);
        let start = Start {
            queue: self.head(head).queue,
            queue_offset,
            at: base + u64::from(entries.packed(walk.place).delta),
        };
        while walk.place < entries.count() && items.len() < BLOCK_ENTRIES_MAX {
            if self.queue_offset(head, walk.place) != queue_offset + number(items.len()) {
                break;
            }
            let packed = entries.packed(walk.place);
            items.push(Item {
                at: base + u64::from(packed.delta),
                size: packed.size,
                tag: packed.tag,
            });
            walk.place += 1;
        }
        if walk.place == entries.count() {
            walk.queue += 1;
            walk.place = 0;
        }
        Some(start)
    }

    /// Asks for the memory of the queues that come next.
    fn look_ahead(&self, walk: &mut Walk) {
        walk.sort_ahead(32);
        if let Some((_, head)) = walk.order.get(walk.queue + 24) {
            self.prefetch_head(*head);
        }
        if let Some((_, head)) = walk.order.get(walk.queue + 8) {
            self.prefetch_tail(*head);
        }
    }

    fn head(&self, head: u32) -> &Head {
        self.heads.get(head).expect(OURS)
    }

    fn chunk(&self, chunk: u32) -> &Chunk {
        self.chunks.get(chunk).expect(OURS)
    }

    fn new_head(&mut self, entry: &Entry, older: u32) -> u32 {
        let queue = entry.queue.0;
        let (least, most) = self.range.unwrap_or((queue, queue));
        self.range = Some((least.min(queue), most.max(queue)));
        self.heads.push(Head {
            queue: entry.queue,
            first: entry.queue_offset,
            count: 0,
            tail: 0,
            older,
            entries: [Packed::default(); HEAD_ENTRIES],
        })
    }

    fn put(&mut self, number_of_head: u32, packed: Packed) {
        let head = self.heads.get_mut(number_of_head).expect(OURS);
        let place = at_index(head.count);
        head.count += 1;
        if let Some(free) = head.entries.get_mut(place) {
            *free = packed;
            return;
        }
        if place < SHORT_MAX {
            let place = (place - HEAD_ENTRIES) % CHUNK_ENTRIES;
            if place == 0 {
                head.tail = self.chunks.push(Chunk {
                    previous: head.tail,
                    entries: [Packed::default(); CHUNK_ENTRIES],
                });
            }
            let chunk = self.chunks.get_mut(head.tail).expect(OURS);
            chunk.entries[place] = packed;
            return;
        }
        if place == SHORT_MAX {
            head.count -= 1;
            let short = self.short(number_of_head);
            let list = low_u32(number(self.long.len()));
            self.long.push(vec![short.to_vec()]);
            let head = self.heads.get_mut(number_of_head).expect(OURS);
            head.count += 1;
            head.tail = list;
        }
        let list = self.heads.get(number_of_head).expect(OURS).tail;
        let blocks = &mut self.long[at_index(list)];
        if place.is_multiple_of(LONG_BLOCK_ENTRIES) {
            blocks.push(Vec::with_capacity(LONG_BLOCK_ENTRIES));
        }
        blocks[place / LONG_BLOCK_ENTRIES].push(packed);
    }

    /// All entries of a short queue, and nothing behind them.
    fn short(&self, head: u32) -> [Packed; SHORT_MAX] {
        let head = self.head(head);
        let mut all = [Packed::default(); SHORT_MAX];
        all[..HEAD_ENTRIES].copy_from_slice(&head.entries);
        let mut chunk = head.tail;
        let chained = at_index(head.count).saturating_sub(HEAD_ENTRIES);
        for link in (0..chained.div_ceil(CHUNK_ENTRIES)).rev() {
            let found = self.chunk(chunk);
            let from = HEAD_ENTRIES + link * CHUNK_ENTRIES;
            all[from..from + CHUNK_ENTRIES].copy_from_slice(&found.entries);
            chunk = found.previous;
        }
        all
    }

    /// An entry by its place; quick for the last one.
    fn packed(&self, number_of_head: u32, place: u32) -> Packed {
        let head = self.head(number_of_head);
        let (place, count) = (at_index(place), at_index(head.count));
        if count > SHORT_MAX {
            let blocks = &self.long[at_index(head.tail)];
            return blocks[place / LONG_BLOCK_ENTRIES][place % LONG_BLOCK_ENTRIES];
        }
        if let Some(packed) = head.entries.get(place) {
            return *packed;
        }
        let link = |place: usize| (place - HEAD_ENTRIES) / CHUNK_ENTRIES;
        let mut chunk = self.chunk(head.tail);
        for _ in link(place)..link(count - 1) {
            chunk = self.chunk(chunk.previous);
        }
        chunk.entries[(place - HEAD_ENTRIES) % CHUNK_ENTRIES]
    }

    fn unpack(&self, head: u32) -> Unpacked<'_> {
        let is_short = at_index(self.head(head).count) <= SHORT_MAX;
        Unpacked {
            table: self,
            head,
            short: is_short.then(|| self.short(head)),
        }
    }

    fn queue_offset(&self, head: u32, place: u32) -> u64 {
        if !self.jumps.is_empty() {
            let jump = self.jumps.range((head, 0)..=(head, place)).next_back();
            if let Some(((_, from), offset)) = jump {
                return offset + u64::from(place - from);
            }
        }
        self.head(head).first + u64::from(place)
    }
}

/// The entries of one queue, at hand: a chain is followed once.
struct Unpacked<'a> {
    table: &'a Memtable,
    head: u32,
    short: Option<[Packed; SHORT_MAX]>,
}

impl Unpacked<'_> {
    fn count(&self) -> u32 {
        self.table.head(self.head).count
    }

    fn packed(&self, place: u32) -> Packed {
        match &self.short {
            Some(short) => short[at_index(place)],
            None => self.table.packed(self.head, place),
        }
    }

    fn at(&self, place: u32) -> u64 {
        self.table.base.unwrap_or(0) + u64::from(self.packed(place).delta)
    }

    fn entry(&self, place: u32) -> Entry {
        let packed = self.packed(place);
        Entry {
            queue: self.table.head(self.head).queue,
            queue_offset: self.table.queue_offset(self.head, place),
            at: LogOffset(self.at(place)),
            size: packed.size,
            tag: packed.tag,
        }
    }

    /// The first place for which `below`, told place and log offset, is false.
    fn partition(&self, below: impl Fn(u32, u64) -> bool) -> u32 {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if below(middle, self.at(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

fn at_index(value: u32) -> usize {
    index(u64::from(value))
}
