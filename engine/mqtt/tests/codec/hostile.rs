//! Bytes that nobody sends in good faith: no panic, and what decodes is sound. The bodies are those
//! of the fuzz targets.

use engine_mqtt::{Decoded, Direction, Limits, Version, decode, peek_client_id};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::fuzz_body::decode_stream;
use crate::model::{directions, samples};
use crate::mutate::fuzz;

fn version_byte(version: Version) -> u8 {
    version.level() % 3
}

proptest! {
    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..64), direction in directions()) {
        decode_stream(&bytes, direction);
    }

    #[test]
    fn random_bodies(
        version in any::<u8>(),
        first in any::<u8>(),
        body in vec(any::<u8>(), 0..100),
        direction in directions(),
    ) {
        let len = u8::try_from(body.len()).unwrap();
        let mut bytes = vec![version, first, len];
        bytes.extend_from_slice(&body);
        decode_stream(&bytes, direction);
    }

    #[test]
    fn damaged_packets(
        sample in samples(),
        damage in vec((any::<Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = vec![version_byte(sample.version)];
        bytes.extend_from_slice(&sample.bytes());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_stream(&bytes, sample.direction);
    }
}

/// Packets of all kinds, behind a byte that names the version.
fn packets(direction: Direction) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let any = (0..400).map(|_| samples().new_tree(&mut runner).unwrap().current());
    any.filter(|sample| sample.direction == direction)
        .map(|sample| [vec![version_byte(sample.version)], sample.bytes()].concat())
        .collect()
}

#[test]
fn mutated_packets() {
    for direction in [Direction::FromClient, Direction::FromServer] {
        fuzz(&packets(direction), |bytes| {
            decode_stream(bytes, direction);
            let Some((first, packet)) = bytes.split_first() else {
                return false;
            };
            let version = match first % 3 {
                0 => Version::V31,
                1 => Version::V311,
                _ => Version::V5,
            };
            peek_client_id(packet, &Limits::default()).ok();
            let decoded = decode(packet, version, &Limits::default(), direction);
            matches!(decoded, Ok(Decoded::Packet { .. }))
        });
    }
}
