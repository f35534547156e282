//! Run files with right sums and wrong contents.

use storage_io::sim::SimDisk;
use storage_io::{AlignedBuf, Disk, DiskFile};

use crate::fields::{checksum, number};
use crate::limits::PAGE_BYTES;
use crate::manifest::Listed;
use crate::mutate::fuzz;
use crate::page::{Item, Start, page_salt};
use crate::run::Run;
use crate::run_file::{RunId, RunWriter};
use crate::{Entry, IndexError, LogId, LogOffset, QueueId};

const ID: RunId = RunId {
    log: LogId(3),
    low: LogOffset(0),
    high: LogOffset(1 << 20),
    generation: 1,
};

/// Bytes of the blocks that say something: of the header, a page, a page of fences, the footer.
const USED: [usize; 4] = [40, 120, 48, 72];

const SUM_AT: usize = PAGE_BYTES - 4;

/// The used parts of a file with one page.
fn compact(queues: &[(u64, u32)]) -> Vec<u8> {
    let mut writer = RunWriter::new(ID, number(queues.len()));
    for (queue, size) in queues {
        let item = |at| Item {
            at,
            size: *size,
            tag: 5,
        };
        let items: Vec<_> = (1..9).map(|n| item(4096 + n * 8)).collect();
        let start = Start {
            queue: QueueId(*queue),
            queue_offset: 7,
            at: items[0].at,
        };
        writer.push(start, &items);
    }
    let (file, written) = writer.finish();
    assert_eq!(number(file.len()), written.footer.file_len());
    let blocks = file.chunks(PAGE_BYTES).zip(USED);
    blocks
        .flat_map(|(block, used)| {
            assert!(block[used..SUM_AT].iter().all(|byte| *byte == 0));
            block[..used].to_vec()
        })
        .collect()
}

/// The file again, with right sums, and how a manifest lists it.
fn expand(mut compact: &[u8]) -> (Vec<u8>, Listed) {
    let (mut file, mut footer_sum) = (Vec::new(), 0);
    let page = |page| page_salt(ID.salt(), page);
    for (used, salt) in USED.into_iter().zip([0, page(0), page(1), 0]) {
        let (part, rest) = compact.split_at(used.min(compact.len()));
        compact = rest;
        let mut block = part.to_vec();
        block.resize(SUM_AT, 0);
        footer_sum = checksum(salt, &block);
        block.extend_from_slice(&footer_sum.to_le_bytes());
        file.extend(block);
    }
    let listed = Listed {
        id: ID,
        file_len: number(file.len()),
        footer_sum,
    };
    (file, listed)
}

/// Opens the file; its entries.
fn open(compact: &[u8]) -> Result<Vec<Entry>, IndexError> {
    let (file, listed) = expand(compact);
    let disk = SimDisk::new(1);
    let created = disk.create(&ID.file_name())?;
    created.write_at(0, &AlignedBuf::padded(&file))?;
    let mut entries = Vec::new();
    Run::open(&disk, &listed, &mut |block| {
        block.entries(&mut entries);
    })?;
    Ok(entries)
}

#[test]
fn mutated_runs() {
    let samples = [
        compact(&[(1, 64)]),
        compact(&[(1, 64), (2, 4096), (900, 72)]),
    ];
    fuzz(&samples, |bytes| {
        open(bytes).is_ok_and(|entries| entries.len() < PAGE_BYTES * 8)
    });
}

/// Memory for what a file may hold is taken by what its footer says.
#[test]
fn a_footer_cannot_claim_more_than_its_pages_hold() {
    let sample = compact(&[(1, 64), (2, 4096), (900, 72)]);
    assert_eq!(open(&sample).unwrap().len(), 24);
    let footer = sample.len() - USED[3];
    for (entries, queues) in [(1_u64 << 50, 1_u64 << 50), (0x1_0000, 3), (2, 3)] {
        let mut other = sample.clone();
        other[footer + 48..footer + 56].copy_from_slice(&entries.to_le_bytes());
        other[footer + 56..footer + 64].copy_from_slice(&queues.to_le_bytes());
        let error = open(&other).unwrap_err().to_string();
        assert!(error.contains("the footer contradicts itself"), "{error}");
    }
}
