//! The formats, byte for byte, and pages of any shape.

use proptest::prelude::*;
use storage_io::sim::SimDisk;
use storage_io::{Disk, DiskFile};

use super::model::options;
use crate::limits::{BLOCK_ENTRIES_MAX, PAGE_BYTES};
use crate::page::{Blocks, Item, Start, verify};
use crate::page_builder::PageBuilder;
use crate::{Entry, Index, LogId, LogOffset, Lookup, QueueId};

/// Hexadecimal digits, with `(n)` for n zero bytes in a row, n > 3.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some(byte) = rest.first() {
        let zeroes = rest.iter().take_while(|byte| **byte == 0).count();
        if zeroes > 3 {
            text.push_str(&format!("({zeroes})"));
            rest = &rest[zeroes..];
        } else {
            text.push_str(&format!("{byte:02x}"));
            rest = &rest[1..];
        }
    }
    text
}

#[test]
fn golden_files() {
    let disk = SimDisk::new(1).sub("cq").unwrap();
    let mut index = Index::open(disk.clone(), LogId(3), options())
        .unwrap()
        .index;
    let entry = |queue, queue_offset, at, size, tag| {
        let (queue, at) = (QueueId(queue), LogOffset(at));
        Entry {
            queue,
            queue_offset,
            at,
            size,
            tag,
        }
    };
    let batch = [
        entry(5, 0, 4096, 304, 2),
        entry(9, 0, 4096, 304, 2),
        entry(5, 1, 4400, 96, 2),
        entry(5, 2, 4496, 512, 1),
    ];
    index.append(&batch).unwrap();
    index.freeze();
    index.flush_blocking(LogOffset(5008)).unwrap();
    let name = "cq-0000000000000000-0000000000001191-00000001.run";
    assert_eq!(disk.list().unwrap(), [name, "manifest"]);
    let file = disk.contents(name).unwrap();
    let blocks: Vec<_> = file.chunks(PAGE_BYTES).map(hex).collect();
    assert_eq!(blocks, GOLDEN_RUN);
    let slots = disk.contents("manifest").unwrap();
    let slots: Vec<_> = slots.chunks(65536).map(hex).collect();
    assert_eq!(slots, GOLDEN_MANIFEST);
    drop(index);

    // Version 1 of the manifest, with a run of today: it is read.
    let mut old =
        b"CLQ-MAN\n\x01\0\0\0\x03\0\0\0\x54\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x02".to_vec();
    old.extend_from_slice(&[0; 15]);
    old.extend_from_slice(b"\x91\x11\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0");
    old.extend_from_slice(b"\x9f\xc0\xb8\x29\0\0\0\0\x56\xc7\xba\x19");
    disk.rot("manifest", &mut |bytes| {
        bytes[65536..].fill(0);
        bytes[65536..65536 + old.len()].copy_from_slice(&old);
    });
    let opened = Index::open(disk, LogId(3), options()).unwrap();
    assert_eq!(opened.damage, []);
    assert_eq!(opened.index.indexed_upto(), LogOffset(0x1191));
    assert_eq!(opened.index.start(), LogOffset(0));
    let mut index = opened.index;
    for queue in [5, 9, 6] {
        let wanted = batch.into_iter().filter(|one| one.queue == QueueId(queue));
        assert_eq!(
            read_all(&mut index, QueueId(queue)),
            wanted.collect::<Vec<_>>()
        );
    }
}

/// All entries of a queue, from the run files.
fn read_all(index: &mut Index<SimDisk>, queue: QueueId) -> Vec<Entry> {
    let upto = index.indexed_upto();
    let (mut next, mut all) = (LogOffset(0), Vec::new());
    while next < upto {
        match index.read(queue, next, upto, 100).unwrap() {
            Lookup::Ready(found) => {
                next = found.next;
                all.extend(found.entries);
            }
            Lookup::Missing(read) => {
                let page = read.file.read_at(read.offset, read.len).unwrap();
                index.insert_page(read.token, page).unwrap();
            }
        }
    }
    all
}

const GOLDEN_RUN: [&str; 4] = [
    "434c512d52554e0a0200000003(11)9111(6)01(4059)0fe51213",
    "0200040005(8)01(14)060000000402050300020000050100000200000001000000904cd3007a03(4034)67fd71a9",
    "05(16)10(4074)6988623b",
    "434c512d454e440a0200000003(11)9111(6)01(7)010000000100000004(7)02(8)40(4026)9fc0b829",
];
const GOLDEN_MANIFEST: [&str; 2] = [
    "(65536)",
    "434c512d4d414e0a02000000030000005c0000000100000001(7)02(23)9111(6)01(8)40(6)9fc0b829(4)\
     3d00c457(65444)",
];

/// Distance of the queue, queue offset, and (distance, size, tag) of every entry.
type RawBlock = (u64, u64, Vec<(u32, u32, u32)>);

fn blocks() -> impl Strategy<Value = Vec<RawBlock>> {
    let narrow = (1_u32..5, 0_u32..3, 0_u32..3);
    let wide = (1_u32..=u32::MAX, any::<u32>(), any::<u32>());
    let items = prop_oneof![
        prop::collection::vec(narrow, 1..=BLOCK_ENTRIES_MAX),
        prop::collection::vec(wide, 1..=BLOCK_ENTRIES_MAX),
        prop::collection::vec((1_u32..1000, 64_u32..500, 0_u32..4), 1..4),
    ];
    prop::collection::vec((0_u64..1 << 40, 0_u64..1 << 50, items), 1..40)
}

proptest! {
    #[test]
    fn pages_round_trip(blocks in blocks(), base in 0_u64..1 << 60) {
        let mut builder = PageBuilder::default();
        let mut queue = 0;
        let mut wanted = Vec::new();
        let mut at = base;
        for (queue_delta, queue_offset, raw) in blocks {
            queue += queue_delta;
            let items: Vec<_> = raw
                .iter()
                .map(|(delta, size, tag)| {
                    at += u64::from(*delta);
                    Item { at, size: *size, tag: *tag }
                })
                .collect();
            let start = Start { queue: QueueId(queue), queue_offset, at: items[0].at };
            if !builder.push(start, &items) {
                prop_assert!(!builder.is_empty());
                break;
            }
            wanted.extend((queue_offset..).zip(items).map(|(queue_offset, item)| {
                let (queue, at) = (QueueId(queue), LogOffset(item.at));
                Entry { queue, queue_offset, at, size: item.size, tag: item.tag }
            }));
        }
        let mut page = Vec::new();
        prop_assert!(builder.finish(17, 3, &mut page).is_some());
        prop_assert_eq!(page.len(), PAGE_BYTES);
        let mut found = Vec::new();
        let verified = verify(&page, 17, 3, &mut |block| {
            block.entries(&mut found).unwrap();
        });
        prop_assert_eq!(verified, Ok(()));
        prop_assert_eq!(found, wanted);
        prop_assert!(verify(&page, 17, 4, &mut |_| {}).is_err(), "another page");
        prop_assert!(verify(&page, 18, 3, &mut |_| {}).is_err(), "another file");
    }

    #[test]
    fn hostile_pages_never_panic(
        mut page in prop::collection::vec(any::<u8>(), 0..PAGE_BYTES + 1),
        used in 0_u16..5000,
    ) {
        // As if the checksum were right.
        if let Some(start) = page.first_chunk_mut::<2>() {
            *start = used.to_le_bytes();
        }
        if let Some(mut blocks) = Blocks::new(&page) {
            let mut out = Vec::new();
            for block in blocks.by_ref() {
                block.entries(&mut out);
            }
            blocks.is_sound();
        }
    }
}
