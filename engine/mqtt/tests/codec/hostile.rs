//! Bytes that nobody sends in good faith: no panic, and what decodes is sound. The bodies are those
//! of the fuzz targets.

use engine_mqtt::Version;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::fuzz_body::decode_stream;
use crate::model::{directions, samples};

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
