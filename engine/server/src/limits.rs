//! The `[limits]` table of the configuration file: what clients may do.

use std::fmt;
use std::ops::RangeInclusive;

use engine_shard::{ClientLimits, NAME_BYTES_MAX};
use serde::Deserialize;
use storage_log::RECORD_BYTES_MAX;

/// The largest `packet-bytes`: the largest remaining length of MQTT, and the header that says it.
const PACKET_BYTES_MAX: u32 = 268_435_455 + 5;

/// Bytes of a record besides its packet, at most: queues and names, state, header.
const RECORD_BYTES: usize = 768 << 10;

const _: () = assert!(PACKET_BYTES_MAX as usize + RECORD_BYTES <= RECORD_BYTES_MAX);

/// What the file says; what is absent has its default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitSettings {
    packet_bytes: Option<u32>,
    client_id_bytes: Option<u16>,
    topic_bytes: Option<u16>,
    topic_levels: Option<u16>,
    subscriptions: Option<u32>,
    inflight: Option<u16>,
    receive_maximum: Option<u16>,
    sessions: Option<u32>,
    retained: Option<u32>,
    delayed: Option<u32>,
    exclusive: Option<u32>,
    session_expiry_s: Option<u32>,
    park_after_s: Option<u32>,
    connect_timeout_s: Option<u16>,
    connects_per_s: Option<u32>,
    publishes_per_s: Option<u32>,
    publish_bytes_per_s: Option<u64>,
}

/// A limit out of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitError {
    key: &'static str,
    value: u64,
    least: u64,
    most: u64,
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            least,
            most,
        } = self;
        write!(
            f,
            "limits.{key} is {value} but must be from {least} to {most}"
        )
    }
}

fn within<T: Copy + Into<u64> + PartialOrd>(
    key: &'static str,
    given: Option<T>,
    usual: T,
    range: &RangeInclusive<T>,
) -> Result<T, LimitError> {
    let value = given.unwrap_or(usual);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(LimitError {
        key,
        value: value.into(),
        least: (*range.start()).into(),
        most: (*range.end()).into(),
    })
}

impl LimitSettings {
    /// Fills in the defaults and checks the ranges.
    ///
    /// # Errors
    /// The first key whose value is out of its range.
    pub(crate) fn finish(&self) -> Result<ClientLimits, LimitError> {
        let usual = ClientLimits::default();
        let (some, all) = (1..=u16::MAX, 1..=u32::MAX);
        Ok(ClientLimits {
            packet_bytes: within(
                "packet-bytes",
                self.packet_bytes,
                usual.packet_bytes,
                &(1024..=PACKET_BYTES_MAX),
            )?,
            // MQTT 3.1 lets a client have 23 [MQTT-3.1.3-5].
            client_id_bytes: within(
                "client-id-bytes",
                self.client_id_bytes,
                usual.client_id_bytes,
                &(23..=u16::MAX),
            )?,
            topic_bytes: within(
                "topic-bytes",
                self.topic_bytes,
                usual.topic_bytes,
                &(1..=NAME_BYTES_MAX),
            )?,
            topic_levels: within(
                "topic-levels",
                self.topic_levels,
                usual.topic_levels,
                &(1..=128),
            )?,
            subscriptions: within(
                "subscriptions",
                self.subscriptions,
                usual.subscriptions,
                &all,
            )?,
            inflight: within("inflight", self.inflight, usual.inflight, &(1..=1024))?,
            receive_maximum: within(
                "receive-maximum",
                self.receive_maximum,
                usual.receive_maximum,
                &some,
            )?,
            sessions: within("sessions", self.sessions, usual.sessions, &all)?,
            retained: self.retained.unwrap_or(usual.retained),
            delayed: self.delayed.unwrap_or(usual.delayed),
            exclusive: self.exclusive.unwrap_or(usual.exclusive),
            session_expiry_s: within(
                "session-expiry-s",
                self.session_expiry_s,
                usual.session_expiry_s,
                &all,
            )?,
            park_after_s: within(
                "park-after-s",
                self.park_after_s,
                usual.park_after_s,
                &(0..=86_400),
            )?,
            connect_timeout_s: within(
                "connect-timeout-s",
                self.connect_timeout_s,
                usual.connect_timeout_s,
                &(1..=3600),
            )?,
            connects_per_s: self.connects_per_s.unwrap_or(usual.connects_per_s),
            publishes_per_s: self.publishes_per_s.unwrap_or(usual.publishes_per_s),
            publish_bytes_per_s: self
                .publish_bytes_per_s
                .unwrap_or(usual.publish_bytes_per_s),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(text: &str) -> Result<ClientLimits, String> {
        let settings: LimitSettings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.finish().map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_all_have_their_defaults() {
        assert_eq!(finish(""), Ok(ClientLimits::default()));
    }

    #[test]
    fn every_key_has_its_limit() {
        let text = "packet-bytes = 2048\nclient-id-bytes = 30\ntopic-bytes = 40\n\
                    topic-levels = 5\nsubscriptions = 6\ninflight = 7\nreceive-maximum = 8\n\
                    sessions = 9\nretained = 10\nsession-expiry-s = 11\nconnect-timeout-s = 12\n\
                    connects-per-s = 13\npublishes-per-s = 14\npublish-bytes-per-s = 15\n\
                    delayed = 16\nexclusive = 17\npark-after-s = 18\n";
        let expected = ClientLimits {
            packet_bytes: 2048,
            client_id_bytes: 30,
            topic_bytes: 40,
            topic_levels: 5,
            subscriptions: 6,
            inflight: 7,
            receive_maximum: 8,
            sessions: 9,
            retained: 10,
            exclusive: 17,
            session_expiry_s: 11,
            park_after_s: 18,
            connect_timeout_s: 12,
            connects_per_s: 13,
            publishes_per_s: 14,
            publish_bytes_per_s: 15,
            delayed: 16,
        };
        assert_eq!(finish(text), Ok(expected));
    }

    #[test]
    fn what_is_out_of_its_range_is_named() {
        for (text, expected) in [
            (
                "packet-bytes = 1023",
                "limits.packet-bytes is 1023 but must be from 1024 to 268435460",
            ),
            (
                "packet-bytes = 268435461",
                "limits.packet-bytes is 268435461 but must be from 1024 to 268435460",
            ),
            ("client-id-bytes = 22", "limits.client-id-bytes is 22"),
            ("topic-bytes = 0", "limits.topic-bytes is 0"),
            ("topic-levels = 129", "limits.topic-levels is 129"),
            ("inflight = 0", "limits.inflight is 0"),
            ("sessions = 0", "limits.sessions is 0"),
            (
                "connect-timeout-s = 3601",
                "limits.connect-timeout-s is 3601",
            ),
            ("park-after-s = 86401", "limits.park-after-s is 86401"),
            ("filters = 1", "unknown field `filters`"),
        ] {
            let error = finish(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn packets_may_be_as_large_as_mqtt_has_them() {
        for bytes in [4 << 20, 256 << 20, 268_435_460] {
            let limits = finish(&format!("packet-bytes = {bytes}")).unwrap();
            assert_eq!(limits.packet_bytes, bytes);
        }
    }
}
