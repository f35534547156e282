//! Bytes that nobody wrote: recovery, reads and inspection answer, and never panic.

use std::hint::black_box;

use bytes::Bytes;
use proptest::prelude::*;
use storage_io::Disk;
use storage_io::sim::{Rng, SimDisk};

use super::rig::{Rig, recover, small_options};
use crate::bytes_io::{checksum, salt};
use crate::frame::{FrameHeader, Link};
use crate::mutate::fuzz;
use crate::record::{Place, claimed_len, parse, verify};
use crate::segment::SegmentHeader;
use crate::{Finding, LogId, LogOffset, NewRecord, QueueId, RecordKind, inspect};

fn place(offset: u64) -> Place {
    Place {
        log_id: LogId(1),
        offset: LogOffset(offset),
        nonce: 99,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let at = LogOffset(64);
        prop_assert!(FrameHeader::decode(&bytes, 1, LogId(1), at).is_err());
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        // Bytes may happen to look like a record; its CRC is another matter.
        drop(parse(&Bytes::from(bytes), place(64)));
    }

    #[test]
    fn a_record_comes_back(
        body in prop::collection::vec(any::<u8>(), 0..300),
        state in prop::collection::vec(any::<u8>(), 0..50),
        queues in prop::collection::vec((any::<u64>(), any::<u64>()), 0..10),
        stamp: u64,
        publisher: u64,
        flags: u16,
        packet_id: u16,
        tag: u32,
        epoch: u32,
    ) {
        let queues: Vec<_> = queues.into_iter().map(|(id, at)| (QueueId(id), at)).collect();
        let record = NewRecord {
            kind: RecordKind::Message,
            flags, stamp, publisher, packet_id, epoch, tag,
            queues: &queues,
            state: &state,
            body: &[&body],
        };
        let mut bytes = vec![0xaa; record.encoded_len()];
        record.encode(&mut bytes, 99, LogOffset(640));
        prop_assert!(verify(&bytes, place(640)).is_ok());
        prop_assert!(verify(&bytes, place(648)).is_err(), "misdirected");
        let moved = Place { nonce: 98, ..place(640) };
        prop_assert!(verify(&bytes, moved).is_err(), "recycled");
        let read = parse(&Bytes::from(bytes), place(640)).unwrap();
        prop_assert_eq!((read.stamp, read.publisher, read.flags), (stamp, publisher, flags));
        prop_assert_eq!((read.packet_id, read.tag, read.epoch), (packet_id, tag, epoch));
        prop_assert_eq!(read.queues.iter().collect::<Vec<_>>(), queues);
        prop_assert_eq!((&read.state[..], &read.body[..]), (&state[..], &body[..]));
    }
}

/// Overwrites a random range of the first segment with garbage, zeroes, or bytes from elsewhere in
/// the file. Returns where the range ends.
fn vandalise(disk: &SimDisk, rng: &mut Rng) -> u64 {
    let names = disk.list().unwrap();
    let kind = rng.below(3);
    let len = 1 + rng.index(5000);
    let size = disk.contents(&names[0]).unwrap().len() / 2;
    let (from, to) = (rng.index(size - len), rng.index(size - len));
    let mut garbage = vec![0; len];
    rng.fill(&mut garbage);
    disk.rot(&names[0], &mut |bytes| match kind {
        0 => bytes[to..to + len].copy_from_slice(&garbage),
        1 => bytes[to..to + len].fill(0),
        _ => bytes.copy_within(from..from + len, to),
    });
    (to + len) as u64
}

#[test]
fn vandalised_logs_never_panic_and_never_lie() {
    let (mut refused, mut fine, mut cut, mut damage) = (0, 0, 0, 0);
    for seed in 0..200 {
        let mut rig = Rig::new(seed, small_options());
        rig.fill(25, 1500);
        let marker = rig.log.durable().0;
        rig.log.request_marker();
        rig.settle().unwrap();
        let end = vandalise(&rig.disk, &mut Rng::new(seed));
        damage += inspect(rig.disk.clone())
            .unwrap()
            .filter(|finding| matches!(finding, Finding::Damage(_)))
            .count();
        match recover(&rig.disk, small_options(), LogOffset(0)) {
            Ok((_, report, records)) => {
                let found = super::rig::samples(&records);
                assert!(rig.appended.starts_with(&found), "seed {seed}: {report}");
                fine += u32::from(found.len() == 25);
                // Only what destroys the marker and all before it back to the cut goes unseen.
                assert!(found.len() == 25 || end > marker, "seed {seed}: {report}");
                cut += u32::from(found.len() < 25);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(
        refused > 50 && fine > 20 && damage > 50,
        "{refused} {fine} {cut} {damage}"
    );
    assert!(cut < 40, "{cut} of 200");
}

#[test]
fn an_inspection_goes_on_behind_damage() {
    let mut rig = Rig::new(1, small_options());
    rig.fill(20, 1000);
    let at = rig.appended[7].0;
    let name = rig.disk.list().unwrap().remove(0);
    assert!(
        rig.disk
            .flip_bit(&name, usize::try_from(at.0).unwrap() + 50, 1)
    );
    let findings: Vec<_> = inspect(rig.disk.clone()).unwrap().collect();
    let records = findings
        .iter()
        .filter(|found| matches!(found, Finding::Record(_)))
        .count();
    assert_eq!(records, 19);
    let damage: Vec<_> = findings
        .iter()
        .filter_map(|found| {
            let Finding::Damage(error) = found else {
                return None;
            };
            Some(error.to_string())
        })
        .collect();
    let position = at.0 - 64;
    assert_eq!(damage.len(), 1);
    assert!(
        damage[0].starts_with(&format!(
            "{name} is damaged at byte {position}: CRC of a record"
        )),
        "{damage:?}"
    );
}

/// The same with a sum that is right, at `at` over what lies in `summed`.
fn sealed(bytes: &[u8], at: usize, summed: std::ops::Range<usize>, salt: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let sum = bytes.get(summed).map(|summed| checksum(salt, summed));
    if let (Some(sum), Some(place)) = (sum, bytes.get_mut(at..at + 4)) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

#[test]
fn mutated_segment_headers() {
    let header = |recovered| SegmentHeader {
        log_id: LogId(1),
        base: LogOffset(1 << 30),
        size: 16 << 20,
        nonce: 99,
        recovered,
    };
    let samples = [None, Some(LogOffset(4711))].map(|end| header(end).encode()[..72].to_vec());
    fuzz(&samples, |bytes| {
        black_box(SegmentHeader::decode(bytes)).ok();
        SegmentHeader::decode(&sealed(bytes, 60, 0..60, 0)).is_ok()
    });
}

#[test]
fn mutated_frame_headers() {
    let header = |len, padded| FrameHeader {
        offset: LogOffset(640),
        log_id: LogId(1),
        epoch: 2,
        len,
        records: 3,
        durable_upto: LogOffset(500),
        previous: Link {
            offset: LogOffset(400),
            crc: 7,
        },
        records_crc: 8,
        padded,
    };
    let samples = [header(64, false), header(4096, true)].map(|one| one.encode(99).0.to_vec());
    fuzz(&samples, |bytes| {
        let decode = |bytes: &[u8]| FrameHeader::decode(bytes, 99, LogId(1), LogOffset(640));
        black_box(decode(bytes)).ok();
        decode(&sealed(bytes, 0, 4..bytes.len().min(64), salt(99, 640))).is_ok()
    });
}

#[test]
fn mutated_records() {
    let encoded = |queues: &[(QueueId, u64)], state: &[u8], body: &[u8]| {
        let record = NewRecord {
            kind: RecordKind::Message,
            flags: 1,
            stamp: 2,
            publisher: 3,
            packet_id: 4,
            epoch: 5,
            tag: 6,
            queues,
            state,
            body: &[body],
        };
        let mut bytes = vec![0; record.encoded_len()];
        record.encode(&mut bytes, 99, LogOffset(640));
        bytes
    };
    let two = [(QueueId(7), 8), (QueueId(9), 10)];
    let samples = [
        encoded(&[], b"", b""),
        encoded(&two, b"state", b"the body"),
        encoded(&two[..1], b"", &[7; 700]),
    ];
    fuzz(&samples, |bytes| {
        black_box(verify(bytes, place(640))).ok();
        let Ok(len) = claimed_len(bytes, 1 << 20) else {
            return false;
        };
        let end = len.clamp(4, bytes.len().max(4));
        let bytes = sealed(bytes, 0, 4..end, salt(99, 640));
        let Ok(record) = parse(&Bytes::from(bytes), place(640)) else {
            return false;
        };
        record.queues.iter().count() == record.queues.len()
    });
}
