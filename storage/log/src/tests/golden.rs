//! Version 1 on disk, byte for byte. These bytes never change; a new version gets its own.

use storage_io::Disk;

use super::rig::{LOG, Rig, Sample, recover, samples, small_options};
use crate::frame::{FrameHeader, Link};
use crate::segment::SegmentHeader;
use crate::{LogId, LogOffset, QueueId, RecordKind};

fn two_frames() -> Rig {
    let mut rig = Rig::new(1, small_options());
    let first = Sample {
        kind: RecordKind::Message,
        flags: 0x0102,
        stamp: 0x1112_1314_1516_1718,
        publisher: 0x2122_2324_2526_2728,
        packet_id: 0x3132,
        epoch: 0x4142_4344,
        tag: 0x5152_5354,
        queues: vec![(QueueId(0x61), 0x62), (QueueId(0x63), 0x64)],
        state: b"state".to_vec(),
        body: b"the body".to_vec(),
    };
    let second = Sample {
        kind: RecordKind::State,
        queues: Vec::new(),
        state: Vec::new(),
        body: Vec::new(),
        ..first.clone()
    };
    for sample in [first, second] {
        let put = sample.append(&mut rig.log);
        rig.appended.push((put.offset, put.end, sample));
        rig.settle().unwrap();
    }
    rig
}

fn hex(bytes: &[u8]) -> String {
    let line = |row: &[u8]| {
        row.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn version_1_is_what_it_was() {
    let rig = two_frames();
    let names = rig.disk.list().unwrap();
    assert_eq!(names, ["segment-0000000000000000", "start"]);
    let bytes = rig.disk.contents(&names[0]).unwrap();
    let expected = include_str!("golden_v1.hex");
    let end = usize::try_from(rig.log.appended().0).unwrap();
    let found = format!("{}\n\n{}\n", hex(&bytes[..64]), hex(&bytes[4096..end]));
    assert_eq!(found, expected);
    assert!(
        bytes[64..4096]
            .iter()
            .chain(&bytes[end..])
            .all(|byte| *byte == 0)
    );
    assert_eq!(LOG.0, 3);
}

/// What the two frames leave at zero: the end that a recovery has found, and padding.
#[test]
fn the_rest_of_version_1_is_what_it_was() {
    let header = SegmentHeader {
        log_id: LogId(0x0102_0304),
        base: LogOffset(0x1112_1314_1516_1718),
        size: 0x2122_2324,
        nonce: 0x3132_3334_3536_3738,
        recovered: Some(LogOffset(0x4142_4344_4546_4748)),
    };
    let golden = "\
        434f52454c4f4700010000000403020118171615141312112423222100000000\n\
        38373635343332314847464544434241000000000000000000000000fccb2f33";
    let bytes = header.encode();
    assert_eq!(hex(&bytes[..64]), golden);
    assert!(bytes[64..].iter().all(|byte| *byte == 0));
    assert_eq!(SegmentHeader::decode(&bytes), Ok(header));

    let frame = FrameHeader {
        offset: LogOffset(0x0102_0304_0506_0708),
        log_id: LogId(0x1112_1314),
        epoch: 0x2122_2324,
        len: 0x3132_3338,
        records: 0x4142_4344,
        durable_upto: LogOffset(0x5152_5354_5556_5758),
        previous: Link {
            offset: LogOffset(0x6162_6364_6566_6768),
            crc: 0x7172_7374,
        },
        records_crc: 0x8182_8384,
        padded: true,
    };
    let golden = "\
        36aa0b72434c4652080706050403020114131211242322213833323144434241\n\
        5857565554535251686766656463626174737271848382810100000000000000";
    let (bytes, crc) = frame.encode(99);
    assert_eq!(hex(&bytes), golden);
    let decoded = FrameHeader::decode(&bytes, 99, frame.log_id, frame.offset);
    assert_eq!(decoded, Ok((frame, crc)));
}

#[test]
fn version_1_is_readable() {
    let rig = two_frames();
    let (_, _, records) = recover(&rig.disk, small_options(), LogOffset(0)).unwrap();
    assert_eq!(samples(&records), rig.appended);
}

#[test]
fn the_documents_have_the_same_tables() {
    let document = include_str!("../../../../docs/formats.md");
    let sources = [
        include_str!("../root.rs"),
        include_str!("../segment.rs"),
        include_str!("../frame.rs"),
        include_str!("../record.rs"),
    ];
    let rows = sources.iter().flat_map(|source| source.lines());
    let rows: Vec<_> = rows.filter_map(|line| line.strip_prefix("//! |")).collect();
    assert!(rows.len() > 40, "{} rows", rows.len());
    for row in rows {
        assert!(document.contains(row), "docs/formats.md lacks: {row}");
    }
}
