//! The hot packets, by hand: PUBLISH and the four acknowledgements, in both directions.
//!
//! Everything else goes through `control`, which uses the engine's codec. These are written by
//! hand because a load generator must cost less per message than the broker it loads: a scan of a
//! PUBLISH here touches the fixed header, two lengths and the stamp, and validates nothing more (no
//! UTF-8 check of the topic, no properties). It never reads past the input: what does not add up is
//! `Malformed`.

use std::fmt;

use crate::cli::MqttVersion;

/// The most bytes a remaining length takes [MQTT-1.5.5].
const VARINT_LEN_MAX: usize = 4;
/// A publication topic can't be longer: its length is two bytes.
const TOPIC_LEN_MAX: usize = 65_535;

/// One packet of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Publish(PublishFrame<'a>),
    Ack(AckFrame),
    /// Any other packet, whole, for the engine's codec.
    Control(&'a [u8]),
}

/// A PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublishFrame<'a> {
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: &'a [u8],
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckFrame {
    pub(crate) kind: AckKind,
    pub(crate) packet_id: u16,
    /// Whether an MQTT 5 reason code says that the peer refused.
    pub(crate) is_refusal: bool,
}

/// Which acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the protocol's names")]
pub(crate) enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    /// Appends the acknowledgement with success: four bytes in every version.
    pub(crate) fn write(self, packet_id: u16, out: &mut Vec<u8>) {
        let first = match self {
            Self::PubAck => 0x40,
            Self::PubRec => 0x50,
            Self::PubRel => 0x62,
            Self::PubComp => 0x70,
        };
        let [high, low] = packet_id.to_be_bytes();
        out.extend_from_slice(&[first, 2, high, low]);
    }
}

/// The input is not MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed packet: {}", self.0)
    }
}

/// Cuts an input into packets.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    rest: &'a [u8],
    version: MqttVersion,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(input: &'a [u8], version: MqttVersion) -> Self {
        Self {
            rest: input,
            version,
        }
    }

    /// What is left: less than a packet, once `next` has returned `None`.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Changes the version, once CONNECT has told it.
    pub(crate) fn set_version(&mut self, version: MqttVersion) {
        self.version = version;
    }

    /// The next whole packet; `None` when the rest is only part of one.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'a>>, Malformed> {
        let Some((&first, after)) = self.rest.split_first() else {
            return Ok(None);
        };
        let Some((length, header_len)) = varint(after)? else {
            return Ok(None);
        };
        let Some((body, rest)) = after
            .get(header_len..)
            .and_then(|b| b.split_at_checked(length))
        else {
            return Ok(None);
        };
        let frame = match first >> 4 {
            3 => Frame::Publish(publish(first, body, self.version)?),
            4 => Frame::Ack(ack(AckKind::PubAck, body)?),
            5 => Frame::Ack(ack(AckKind::PubRec, body)?),
            6 => Frame::Ack(ack(AckKind::PubRel, body)?),
            7 => Frame::Ack(ack(AckKind::PubComp, body)?),
            _ => {
                let whole = self.rest.get(..1 + header_len + length);
                Frame::Control(whole.unwrap_or_default())
            }
        };
        self.rest = rest;
        Ok(Some(frame))
    }
}

/// Decodes a variable byte integer: value and encoded length, or `None` when bytes are missing.
fn varint(input: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0_usize;
    for (position, &byte) in input.iter().take(VARINT_LEN_MAX).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Ok(Some((value, position + 1)));
        }
    }
    if input.len() < VARINT_LEN_MAX {
        return Ok(None);
    }
    Err(Malformed("a length of more than four bytes"))
}

fn take_u16(body: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (bytes, rest) = body
        .split_first_chunk()
        .ok_or(Malformed("a packet too short"))?;
    Ok((u16::from_be_bytes(*bytes), rest))
}

fn publish(first: u8, body: &[u8], version: MqttVersion) -> Result<PublishFrame<'_>, Malformed> {
    let qos = (first >> 1) & 3;
    let (topic_len, rest) = take_u16(body)?;
    let (topic, mut rest) = rest
        .split_at_checked(usize::from(topic_len))
        .ok_or(Malformed("a topic longer than its packet"))?;
    let mut packet_id = 0;
    if qos > 0 {
        (packet_id, rest) = take_u16(rest)?;
    }
    if version == MqttVersion::V5 {
        let (length, header_len) = varint(rest)?.ok_or(Malformed("no property length"))?;
        rest = rest
            .get(header_len + length..)
            .ok_or(Malformed("properties longer than their packet"))?;
    }
    if qos == 3 {
        return Err(Malformed("QoS 3"));
    }
    Ok(PublishFrame {
        qos,
        retain: first & 1 == 1,
        topic,
        packet_id,
        payload: rest,
    })
}

fn ack(kind: AckKind, body: &[u8]) -> Result<AckFrame, Malformed> {
    let (packet_id, rest) = take_u16(body)?;
    let is_refusal = rest.first().is_some_and(|reason| *reason >= 0x80);
    Ok(AckFrame {
        kind,
        packet_id,
        is_refusal,
    })
}

/// Everything of a stream's PUBLISH but its packet id and payload.
#[derive(Clone, Debug)]
pub(crate) struct PublishTemplate {
    head: Vec<u8>,
    /// Where the packet id goes.
    id_at: Option<usize>,
}

impl PublishTemplate {
    /// A template for payloads of `payload_len` bytes.
    ///
    /// Panics when the topic is longer than 65,535 bytes or the packet than 256 MiB: both are
    /// bounded by the command line.
    pub(crate) fn new(
        topic: &[u8],
        qos: u8,
        retain: bool,
        payload_len: usize,
        version: MqttVersion,
    ) -> Self {
        let mut head = Vec::with_capacity(topic.len() + 10);
        let id_at = publish_head(
            PublishFrame {
                qos,
                retain,
                topic,
                packet_id: 1,
                payload: &[],
            },
            payload_len,
            version,
            &mut head,
        );
        Self { head, id_at }
    }

    /// Appends a PUBLISH whose payload is `stamp` and then `filler`.
    pub(crate) fn write(&self, packet_id: u16, stamp: &[u8], filler: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.head);
        if let Some(id_at) = self.id_at
            && let Some(place) = out.get_mut(start + id_at..start + id_at + 2)
        {
            place.copy_from_slice(&packet_id.to_be_bytes());
        }
        out.extend_from_slice(stamp);
        out.extend_from_slice(filler);
    }
}

/// Appends a PUBLISH.
pub(crate) fn write_publish(publish: PublishFrame<'_>, version: MqttVersion, out: &mut Vec<u8>) {
    publish_head(publish, publish.payload.len(), version, out);
    out.extend_from_slice(publish.payload);
}

/// Appends a PUBLISH up to its payload; tells where in `out` the packet id went.
fn publish_head(
    publish: PublishFrame<'_>,
    payload_len: usize,
    version: MqttVersion,
    out: &mut Vec<u8>,
) -> Option<usize> {
    assert!(
        publish.topic.len() <= TOPIC_LEN_MAX,
        "a topic of {} bytes",
        publish.topic.len()
    );
    let id_len = if publish.qos > 0 { 2 } else { 0 };
    let properties_len = usize::from(version == MqttVersion::V5);
    let length = 2 + publish.topic.len() + id_len + properties_len + payload_len;
    out.push(0x30 | (publish.qos << 1) | u8::from(publish.retain));
    write_varint(length, out);
    let topic_len = u16::try_from(publish.topic.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&topic_len.to_be_bytes());
    out.extend_from_slice(publish.topic);
    let id_at = (publish.qos > 0).then_some(out.len());
    if id_at.is_some() {
        out.extend_from_slice(&publish.packet_id.to_be_bytes());
    }
    if version == MqttVersion::V5 {
        out.push(0);
    }
    id_at
}

fn write_varint(mut value: usize, out: &mut Vec<u8>) {
    assert!(value < 1 << 28, "a packet of {value} bytes");
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(input: &[u8], version: MqttVersion) -> Vec<Frame<'_>> {
        let mut scanner = Scanner::new(input, version);
        let mut found = Vec::new();
        while let Some(frame) = scanner.next().unwrap() {
            found.push(frame);
        }
        assert!(scanner.rest().is_empty());
        found
    }

    #[test]
    fn what_a_template_writes_is_scanned_back() {
        for version in [MqttVersion::V311, MqttVersion::V5] {
            for qos in 0..=2 {
                for filler_len in [0, 1, 100, 20_000] {
                    let filler = vec![7; filler_len];
                    let template =
                        PublishTemplate::new(b"a/b", qos, false, 16 + filler_len, version);
                    let mut out = Vec::new();
                    template.write(0x1234, &[9; 16], &filler, &mut out);
                    template.write(0x1235, &[8; 16], &filler, &mut out);
                    let found = frames(&out, version);
                    let Frame::Publish(second) = found[1] else {
                        panic!("{found:?}")
                    };
                    assert_eq!(
                        (found.len(), second.qos, second.topic),
                        (2, qos, &b"a/b"[..])
                    );
                    assert_eq!(second.packet_id, if qos > 0 { 0x1235 } else { 0 });
                    assert_eq!(second.payload.len(), 16 + filler_len);
                    assert!(second.payload.starts_with(&[8; 16]));
                }
            }
        }
    }

    #[test]
    fn a_written_publish_is_scanned_back() {
        let publish = PublishFrame {
            qos: 1,
            retain: true,
            topic: b"t",
            packet_id: 5,
            payload: b"xyz",
        };
        let mut out = Vec::new();
        write_publish(publish, MqttVersion::V5, &mut out);
        assert_eq!(frames(&out, MqttVersion::V5), [Frame::Publish(publish)]);
    }

    #[test]
    fn every_ack_is_scanned_back() {
        for kind in [
            AckKind::PubAck,
            AckKind::PubRec,
            AckKind::PubRel,
            AckKind::PubComp,
        ] {
            let mut out = Vec::new();
            kind.write(777, &mut out);
            let ack = AckFrame {
                kind,
                packet_id: 777,
                is_refusal: false,
            };
            assert_eq!(frames(&out, MqttVersion::V5), [Frame::Ack(ack)]);
        }
        let refused = frames(&[0x40, 3, 0, 9, 0x97], MqttVersion::V5);
        let expected = AckFrame {
            kind: AckKind::PubAck,
            packet_id: 9,
            is_refusal: true,
        };
        assert_eq!(refused, [Frame::Ack(expected)]);
    }

    #[test]
    fn every_cut_of_the_input_waits_for_more() {
        let template = PublishTemplate::new(b"topic", 2, false, 200, MqttVersion::V5);
        let mut whole = Vec::new();
        template.write(3, &[1; 16], &[0; 184], &mut whole);
        whole.extend_from_slice(&[0xd0, 0]);
        for cut in 0..whole.len() - 2 {
            let mut scanner = Scanner::new(&whole[..cut], MqttVersion::V5);
            assert_eq!(scanner.next(), Ok(None), "cut at {cut}");
            assert_eq!(scanner.rest().len(), cut);
        }
        assert_eq!(
            frames(&whole, MqttVersion::V5)[1],
            Frame::Control(&[0xd0, 0])
        );
    }

    #[test]
    fn nonsense_is_malformed() {
        for input in [
            &[0x30, 0xff, 0xff, 0xff, 0xff, 1][..],
            &[0x30, 1, 0],
            &[0x30, 3, 0, 9, b'x'],
            &[0x36, 5, 0, 1, b'x', 0, 1],
            &[0x40, 1, 0],
        ] {
            let mut scanner = Scanner::new(input, MqttVersion::V311);
            assert!(scanner.next().is_err(), "{input:?}");
        }
        let mut scanner = Scanner::new(&[0x30, 4, 0, 1, b'x', 9], MqttVersion::V5);
        assert!(scanner.next().is_err());
    }
}
