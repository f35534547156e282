//! A publication as every shard sees it: a reference to an immutable, shared block.
//!
//! The body is what the commit log stores for it, little endian:
//!
//! ```text
//! offset size
//! 0      1    version, 1
//! 1      1    reserved, 0
//! 2      2    topic length T
//! 4      4    properties length P
//! 8      8    publication time, milliseconds since the Unix epoch
//! 16     4    message expiry interval in seconds; 0xFFFF_FFFF: none
//! 20     T    topic, UTF-8
//! 20+T   P    forwardable MQTT 5 properties in wire form, without the message expiry interval
//! 20+T+P ..   payload
//! ```
//!
//! The record around it (`storage/log`) carries QoS, retain flag, publisher, stamp and checksum.

use std::fmt;

use bytes::Bytes;
use engine_mqtt::QoS;

use crate::address::Address;
use crate::wire::ValueError;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 20;
/// Bodies of so many bytes are never read together with others.
const ALONE_BYTES: usize = 1 << 20;
/// The stored value of "does not expire".
pub const NO_EXPIRY: u32 = u32::MAX;

/// A publication. Cloning it shares the body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where it is stored. At QoS 0 it is not stored: the log's appended offset when it was routed.
    pub address: Address,
    /// Hybrid logical clock value.
    pub stamp: u64,
    /// The publisher's session id.
    pub publisher: u64,
    /// The QoS it was published with.
    pub qos: QoS,
    /// Whether it replaces its topic's retained message.
    pub retain: bool,
    /// The body, laid out as the module says.
    pub body: Bytes,
}

/// A body's parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body<'a> {
    /// When it was published, milliseconds since the Unix epoch.
    pub published_ms: u64,
    /// Message expiry interval in seconds, or [`NO_EXPIRY`].
    pub expiry_s: u32,
    /// The topic.
    pub topic: &'a str,
    /// Forwardable properties in wire form.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// A block that holds the payload and hardly anything else, if there is one: whoever sends the
    /// payload may refer to it.
    pub block: Option<&'a Bytes>,
}

/// Why stored bytes are not a message body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BodyError {
    /// The body ends before its parts do.
    Short {
        /// Bytes that the parts need.
        expected: usize,
        /// Bytes that are there.
        got: usize,
    },
    /// A version that this build does not know.
    Version {
        /// The version found.
        got: u8,
    },
    /// The topic is not UTF-8.
    Topic,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { expected, got } => {
                write!(f, "message body has {got} bytes, its parts need {expected}")
            }
            Self::Version { got } => {
                write!(
                    f,
                    "message body has version {got}, this build reads {VERSION}"
                )
            }
            Self::Topic => write!(f, "message body has a topic that is not UTF-8"),
        }
    }
}

impl std::error::Error for BodyError {}

impl From<BodyError> for ValueError {
    fn from(error: BodyError) -> Self {
        let what = "message body";
        match error {
            BodyError::Short { got, .. } => Self::Short { what, got },
            BodyError::Version { got } => Self::Version {
                what,
                got,
                newest: VERSION,
            },
            BodyError::Topic => Self::Text { what },
        }
    }
}

impl<'a> Body<'a> {
    /// Appends the encoded body to `out`.
    ///
    /// # Panics
    /// When the topic is longer than 65,535 bytes or the properties than 4 GiB: the codec admits
    /// neither.
    #[expect(clippy::expect_used, reason = "Invariant: MQTT bounds both lengths")]
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        out.push(VERSION);
        out.push(0);
        let topic_len = u16::try_from(self.topic.len()).expect("topic of at most 65,535 bytes");
        let properties_len = u32::try_from(self.properties.len()).expect("properties below 4 GiB");
        out.extend_from_slice(&topic_len.to_le_bytes());
        out.extend_from_slice(&properties_len.to_le_bytes());
        out.extend_from_slice(&self.published_ms.to_le_bytes());
        out.extend_from_slice(&self.expiry_s.to_le_bytes());
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(self.properties);
        out.extend_from_slice(self.payload);
    }

    /// Bytes that it takes when it is encoded.
    #[must_use]
    pub const fn len(&self) -> usize {
        HEADER_LEN + self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// Whether it takes none, which no body does.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Reads a body in place.
    ///
    /// # Errors
    /// [`BodyError`] when the bytes are not a body.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BodyError> {
        let short = |expected| BodyError::Short {
            expected,
            got: bytes.len(),
        };
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or_else(|| short(HEADER_LEN))?;
        let [
            version,
            _,
            t0,
            t1,
            p0,
            p1,
            p2,
            p3,
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            m6,
            m7,
            e0,
            e1,
            e2,
            e3,
        ] = *header;
        if version != VERSION {
            return Err(BodyError::Version { got: version });
        }
        let topic_len = usize::from(u16::from_le_bytes([t0, t1]));
        let properties_len = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
        let needed = HEADER_LEN + topic_len + properties_len;
        let (topic, rest) = rest
            .split_at_checked(topic_len)
            .ok_or_else(|| short(needed))?;
        let (properties, payload) = rest
            .split_at_checked(properties_len)
            .ok_or_else(|| short(needed))?;
        Ok(Self {
            published_ms: u64::from_le_bytes([m0, m1, m2, m3, m4, m5, m6, m7]),
            expiry_s: u32::from_le_bytes([e0, e1, e2, e3]),
            topic: std::str::from_utf8(topic).map_err(|_| BodyError::Topic)?,
            properties,
            payload,
            block: None,
        })
    }

    /// When the message expires, milliseconds since the Unix epoch; `None`: never.
    #[must_use]
    pub fn expires_ms(&self) -> Option<u64> {
        let expires = self.expiry_s != NO_EXPIRY;
        expires.then(|| {
            self.published_ms
                .saturating_add(u64::from(self.expiry_s) * 1000)
        })
    }

    /// The interval that remains, in seconds, for a message that expires; `None`: it has expired.
    #[must_use]
    pub fn remaining_expiry_s(&self, wall_ms: u64) -> Option<u32> {
        if self.expiry_s == NO_EXPIRY {
            return Some(NO_EXPIRY);
        }
        let waited_s = wall_ms.saturating_sub(self.published_ms) / 1000;
        let waited_s = u32::try_from(waited_s).unwrap_or(u32::MAX);
        self.expiry_s.checked_sub(waited_s).filter(|left| *left > 0)
    }
}

impl Message {
    /// The body's parts.
    ///
    /// # Errors
    /// [`BodyError`] when the stored bytes are not a body.
    pub fn parts(&self) -> Result<Body<'_>, BodyError> {
        let block = (self.body.len() >= ALONE_BYTES).then_some(&self.body);
        Ok(Body {
            block,
            ..Body::decode(&self.body)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Body<'static> {
        Body {
            published_ms: 1_000_000,
            expiry_s: 10,
            topic: "a/b",
            properties: &[1, 1],
            payload: b"payload",
            block: None,
        }
    }

    #[test]
    fn a_body_round_trips() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        assert_eq!(Body::decode(&bytes), Ok(sample()));
        assert_eq!(&bytes[..4], &[1, 0, 3, 0], "golden start");
    }

    #[test]
    fn short_and_foreign_bodies_are_named() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        for cut in 0..25 {
            assert!(
                matches!(Body::decode(&bytes[..cut]), Err(BodyError::Short { .. })),
                "{cut} bytes are too few"
            );
        }
        bytes[0] = 9;
        assert_eq!(Body::decode(&bytes), Err(BodyError::Version { got: 9 }));
    }

    #[test]
    fn expiry_counts_down_to_nothing() {
        assert_eq!(sample().remaining_expiry_s(1_000_000), Some(10));
        assert_eq!(sample().remaining_expiry_s(1_009_000), Some(1));
        assert_eq!(sample().remaining_expiry_s(1_010_000), None);
        assert_eq!(sample().expires_ms(), Some(1_010_000));
        let lasting = Body {
            expiry_s: NO_EXPIRY,
            ..sample()
        };
        assert_eq!(lasting.expires_ms(), None);
    }
}
