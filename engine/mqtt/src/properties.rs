//! The properties of one packet or will: a checked view of their wire form.
//!
//! On the wire (section 2.2.2) a list of properties is a variable byte integer with the length in
//! bytes, then, for each property:
//!
//! ```text
//! offset  size  what
//! 0       1     property identifier (all defined ones are below 128)
//! 1       n     value: 1, 2 or 4 bytes big endian; a variable byte integer; 2 bytes of length and
//!               as many bytes; or two strings, each with 2 bytes of length
//! ```
//!
//! [`Properties`] keeps the slice after the length and a bit for each property that is there. To
//! ask for an absent one costs one bit test; a present one is found by a scan. Nothing is
//! allocated.

use crate::error::{DecodeError, EncodeError};
use crate::model::{PacketType, QoS};
use crate::property::{FORWARDABLE, PropertyId, PropertyPlace, PropertySet, ValueKind};
use crate::read::Reader;
use crate::write::{Sink, var_int_len};

/// The properties of one packet or will, in the order they were sent. Empty before MQTT 5.
///
/// Two lists are equal when their wire bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a> {
    raw: &'a [u8],
    present: PropertySet,
}

/// The value of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyValue<'a> {
    /// A byte, a 2- or 4-byte integer, or a variable byte integer.
    Number(u32),
    /// A UTF-8 string.
    Text(&'a str),
    /// Binary data.
    Binary(&'a [u8]),
    /// A pair of UTF-8 strings: name and value.
    Pair(&'a str, &'a str),
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Self = Self {
        raw: &[],
        present: PropertySet::EMPTY,
    };

    /// Checks properties in wire form (without the leading length), as [`Self::raw`] gave them.
    ///
    /// # Errors
    /// Whatever is wrong with them as the properties of `place`.
    pub fn parse(raw: &'a [u8], place: PropertyPlace) -> Result<Self, DecodeError> {
        let packet = match place {
            PropertyPlace::Packet(packet) => packet,
            PropertyPlace::Will => PacketType::Connect,
        };
        let mut reader = Reader::new(packet, raw);
        let mut present = PropertySet::EMPTY;
        while !reader.is_empty() {
            let number = reader.var_int("property identifier")?;
            let Some(property) = PropertyId::from_number(number) else {
                return Err(DecodeError::PropertyUnknown { place, number });
            };
            if !place.allowed().contains(property) {
                return Err(DecodeError::PropertyNotAllowed { place, property });
            }
            if present.contains(property) && !property.may_repeat(place) {
                return Err(DecodeError::PropertyRepeated { place, property });
            }
            present.insert(property);
            check_value(property, read_value(&mut reader, property)?)?;
        }
        Ok(Self { raw, present })
    }

    /// Reads a property length and the properties.
    pub(crate) fn read(reader: &mut Reader<'a>, place: PropertyPlace) -> Result<Self, DecodeError> {
        let len = reader.var_int("property length")?;
        if len == 0 {
            return Ok(Self::EMPTY);
        }
        let raw = reader.take(usize::try_from(len).unwrap_or(usize::MAX), "properties")?;
        Self::parse(raw, place)
    }

    /// A view of wire bytes that are known to be good.
    pub(crate) const fn trusted(raw: &'a [u8], present: PropertySet) -> Self {
        Self { raw, present }
    }

    /// The wire form without the leading length.
    #[must_use]
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Whether a property is there.
    #[must_use]
    pub const fn contains(&self, id: PropertyId) -> bool {
        self.present.contains(id)
    }

    pub(crate) const fn present(&self) -> PropertySet {
        self.present
    }

    /// Every property in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = (PropertyId, PropertyValue<'a>)> + use<'a> {
        spans(self.raw).filter_map(|(id, span)| Some((id, span_value(id, span)?)))
    }

    /// Appends, in wire form and in order, what a server passes on unchanged with a message:
    /// payload format indicator, content type, response topic, correlation data and user
    /// properties. The message expiry interval is not among them, because it shrinks on the way
    /// [MQTT-3.3.2-6].
    pub fn forwardable_into(&self, out: &mut Vec<u8>) {
        if self.present.minus(FORWARDABLE).is_empty() {
            out.extend_from_slice(self.raw);
            return;
        }
        for (_, span) in spans(self.raw).filter(|(id, _)| FORWARDABLE.contains(*id)) {
            out.extend_from_slice(span);
        }
    }

    /// Bytes that [`Self::forwardable_into`] appends.
    #[must_use]
    pub fn forwardable_len(&self) -> usize {
        if self.present.minus(FORWARDABLE).is_empty() {
            return self.raw.len();
        }
        let forwardable = spans(self.raw).filter(|(id, _)| FORWARDABLE.contains(*id));
        forwardable.map(|(_, span)| span.len()).sum()
    }

    fn find(&self, id: PropertyId) -> Option<PropertyValue<'a>> {
        if !self.present.contains(id) {
            return None;
        }
        let (id, span) = spans(self.raw).find(|(found, _)| *found == id)?;
        span_value(id, span)
    }

    fn number(&self, id: PropertyId) -> Option<u32> {
        match self.find(id)? {
            PropertyValue::Number(number) => Some(number),
            PropertyValue::Text(_) | PropertyValue::Binary(_) | PropertyValue::Pair(..) => None,
        }
    }

    fn u16(&self, id: PropertyId) -> Option<u16> {
        self.number(id)
            .and_then(|number| u16::try_from(number).ok())
    }

    fn flag(&self, id: PropertyId) -> Option<bool> {
        self.number(id).map(|number| number != 0)
    }

    fn text(&self, id: PropertyId) -> Option<&'a str> {
        match self.find(id)? {
            PropertyValue::Text(text) => Some(text),
            PropertyValue::Number(_) | PropertyValue::Binary(_) | PropertyValue::Pair(..) => None,
        }
    }

    fn binary(&self, id: PropertyId) -> Option<&'a [u8]> {
        match self.find(id)? {
            PropertyValue::Binary(bytes) => Some(bytes),
            PropertyValue::Number(_) | PropertyValue::Text(_) | PropertyValue::Pair(..) => None,
        }
    }
}

/// Accessors of the 27 properties. All but the last two return `None` when the property is absent;
/// the default that the specification then assumes is named where there is one.
impl<'a> Properties<'a> {
    /// Whether the payload is declared to be UTF-8 text. Absent: unspecified bytes.
    #[must_use]
    pub fn payload_format_indicator(&self) -> Option<bool> {
        self.flag(PropertyId::PayloadFormatIndicator)
    }

    /// Lifetime of the message in seconds. Absent: it does not expire.
    #[must_use]
    pub fn message_expiry(&self) -> Option<u32> {
        self.number(PropertyId::MessageExpiryInterval)
    }

    /// Description of the payload, for example a MIME type.
    #[must_use]
    pub fn content_type(&self) -> Option<&'a str> {
        self.text(PropertyId::ContentType)
    }

    /// Topic name for the answer to a request. Without wildcards [MQTT-3.3.2-14].
    #[must_use]
    pub fn response_topic(&self) -> Option<&'a str> {
        self.text(PropertyId::ResponseTopic)
    }

    /// Tells the sender of a request which request an answer is for.
    #[must_use]
    pub fn correlation_data(&self) -> Option<&'a [u8]> {
        self.binary(PropertyId::CorrelationData)
    }

    /// Seconds that the session outlives its connection; `u32::MAX`: for ever. Absent: 0.
    #[must_use]
    pub fn session_expiry(&self) -> Option<u32> {
        self.number(PropertyId::SessionExpiryInterval)
    }

    /// Client identifier that the server chose.
    #[must_use]
    pub fn assigned_client_id(&self) -> Option<&'a str> {
        self.text(PropertyId::AssignedClientIdentifier)
    }

    /// Keep alive in seconds that the server imposes.
    #[must_use]
    pub fn server_keep_alive(&self) -> Option<u16> {
        self.u16(PropertyId::ServerKeepAlive)
    }

    /// Name of the extended authentication method.
    #[must_use]
    pub fn authentication_method(&self) -> Option<&'a str> {
        self.text(PropertyId::AuthenticationMethod)
    }

    /// Data of the extended authentication method.
    #[must_use]
    pub fn authentication_data(&self) -> Option<&'a [u8]> {
        self.binary(PropertyId::AuthenticationData)
    }

    /// Whether the client wants reason strings and user properties on failures. Absent: yes.
    #[must_use]
    pub fn request_problem_information(&self) -> Option<bool> {
        self.flag(PropertyId::RequestProblemInformation)
    }

    /// Seconds between the loss of the connection and the will. Absent: 0.
    #[must_use]
    pub fn will_delay(&self) -> Option<u32> {
        self.number(PropertyId::WillDelayInterval)
    }

    /// Whether the client wants response information in CONNACK. Absent: no.
    #[must_use]
    pub fn request_response_information(&self) -> Option<bool> {
        self.flag(PropertyId::RequestResponseInformation)
    }

    /// Basis for the client's response topics.
    #[must_use]
    pub fn response_information(&self) -> Option<&'a str> {
        self.text(PropertyId::ResponseInformation)
    }

    /// Another server to use.
    #[must_use]
    pub fn server_reference(&self) -> Option<&'a str> {
        self.text(PropertyId::ServerReference)
    }

    /// Words for people to read, not for programs.
    #[must_use]
    pub fn reason_string(&self) -> Option<&'a str> {
        self.text(PropertyId::ReasonString)
    }

    /// QoS 1 and 2 messages that the sender of this packet takes at once, 1 to 65,535. Absent:
    /// 65,535.
    #[must_use]
    pub fn receive_maximum(&self) -> Option<u16> {
        self.u16(PropertyId::ReceiveMaximum)
    }

    /// Highest topic alias that the sender of this packet accepts. Absent: 0, none.
    #[must_use]
    pub fn topic_alias_maximum(&self) -> Option<u16> {
        self.u16(PropertyId::TopicAliasMaximum)
    }

    /// Number that stands in for the topic name, 1 to 65,535 [MQTT-3.3.2-8].
    #[must_use]
    pub fn topic_alias(&self) -> Option<u16> {
        self.u16(PropertyId::TopicAlias)
    }

    /// Highest QoS that the server supports: 0 or 1. Absent: 2.
    #[must_use]
    pub fn maximum_qos(&self) -> Option<QoS> {
        let bits = u8::try_from(self.number(PropertyId::MaximumQoS)?).ok()?;
        QoS::from_bits(bits)
    }

    /// Whether the server supports retained messages. Absent: yes.
    #[must_use]
    pub fn retain_available(&self) -> Option<bool> {
        self.flag(PropertyId::RetainAvailable)
    }

    /// Largest packet in bytes that the sender of this packet accepts, at least 1. Absent: no limit
    /// but the protocol's.
    #[must_use]
    pub fn maximum_packet_size(&self) -> Option<u32> {
        self.number(PropertyId::MaximumPacketSize)
    }

    /// Whether the server supports wildcards in filters. Absent: yes.
    #[must_use]
    pub fn wildcard_subscription_available(&self) -> Option<bool> {
        self.flag(PropertyId::WildcardSubscriptionAvailable)
    }

    /// Whether the server supports subscription identifiers. Absent: yes.
    #[must_use]
    pub fn subscription_id_available(&self) -> Option<bool> {
        self.flag(PropertyId::SubscriptionIdentifierAvailable)
    }

    /// Whether the server supports shared subscriptions. Absent: yes.
    #[must_use]
    pub fn shared_subscription_available(&self) -> Option<bool> {
        self.flag(PropertyId::SharedSubscriptionAvailable)
    }

    /// Subscription identifiers, 1 to 268,435,455: at most one in SUBSCRIBE, one per matching
    /// subscription that has one in PUBLISH.
    pub fn subscription_ids(&self) -> impl Iterator<Item = u32> + use<'a> {
        let raw = if self.contains(PropertyId::SubscriptionIdentifier) {
            self.raw
        } else {
            &[]
        };
        spans(raw)
            .filter(|(id, _)| *id == PropertyId::SubscriptionIdentifier)
            .filter_map(|(id, span)| match span_value(id, span)? {
                PropertyValue::Number(number) => Some(number),
                PropertyValue::Text(_) | PropertyValue::Binary(_) | PropertyValue::Pair(..) => None,
            })
    }

    /// Names and values of the user properties, in the order sent [MQTT-3.3.2-18].
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let raw = if self.contains(PropertyId::UserProperty) {
            self.raw
        } else {
            &[]
        };
        spans(raw)
            .filter(|(id, _)| *id == PropertyId::UserProperty)
            .filter_map(|(id, span)| match span_value(id, span)? {
                PropertyValue::Pair(name, value) => Some((name, value)),
                PropertyValue::Number(_) | PropertyValue::Text(_) | PropertyValue::Binary(_) => {
                    None
                }
            })
    }
}

fn read_value<'a>(
    reader: &mut Reader<'a>,
    property: PropertyId,
) -> Result<PropertyValue<'a>, DecodeError> {
    let field = property.name();
    Ok(match property.kind() {
        ValueKind::Byte => PropertyValue::Number(u32::from(reader.u8(field)?)),
        ValueKind::U16 => PropertyValue::Number(u32::from(reader.u16(field)?)),
        ValueKind::U32 => PropertyValue::Number(reader.u32(field)?),
        ValueKind::VarInt => PropertyValue::Number(reader.var_int(field)?),
        ValueKind::Text => PropertyValue::Text(reader.text(field)?),
        ValueKind::Binary => PropertyValue::Binary(reader.binary(field)?),
        ValueKind::Pair => PropertyValue::Pair(reader.text(field)?, reader.text(field)?),
    })
}

fn check_value(property: PropertyId, value: PropertyValue<'_>) -> Result<(), DecodeError> {
    match value {
        PropertyValue::Number(0) if property == PropertyId::TopicAlias => {
            Err(DecodeError::TopicAliasZero)
        }
        PropertyValue::Number(value) => {
            let (low, high) = property.range();
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(DecodeError::PropertyValue { property, value })
            }
        }
        PropertyValue::Text(topic) if property == PropertyId::ResponseTopic => {
            if topic.is_empty() || topic.contains(['+', '#']) {
                return Err(DecodeError::ResponseTopicInvalid);
            }
            Ok(())
        }
        PropertyValue::Text(_) | PropertyValue::Binary(_) | PropertyValue::Pair(..) => Ok(()),
    }
}

/// The properties of checked wire bytes with the bytes of each, identifier included.
fn spans(raw: &[u8]) -> impl Iterator<Item = (PropertyId, &[u8])> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let (&number, value) = rest.split_first()?;
        let id = PropertyId::from_number(u32::from(number))?;
        let (span, tail) = rest.split_at_checked(1 + value_len(id.kind(), value)?)?;
        rest = tail;
        Some((id, span))
    })
}

/// Bytes of the value that `bytes` begin with.
fn value_len(kind: ValueKind, bytes: &[u8]) -> Option<usize> {
    match kind {
        ValueKind::Byte => Some(1),
        ValueKind::U16 => Some(2),
        ValueKind::U32 => Some(4),
        ValueKind::VarInt => Some(crate::read::var_int(bytes).ok()??.len),
        ValueKind::Text | ValueKind::Binary => string_len(bytes),
        ValueKind::Pair => {
            let name = string_len(bytes)?;
            let value = string_len(bytes.get(name..)?)?;
            Some(name + value)
        }
    }
}

fn string_len(bytes: &[u8]) -> Option<usize> {
    let len = bytes.first_chunk::<2>()?;
    Some(2 + usize::from(u16::from_be_bytes(*len)))
}

fn span_value(id: PropertyId, span: &[u8]) -> Option<PropertyValue<'_>> {
    // The packet type is for error messages; checked bytes raise none.
    read_value(&mut Reader::new(PacketType::Publish, span.get(1..)?), id).ok()
}

/// Writes the length and the properties.
pub(crate) fn write(properties: &Properties<'_>, out: &mut impl Sink) -> Result<(), EncodeError> {
    out.length(properties.raw.len())?;
    out.put(properties.raw);
    Ok(())
}

/// Bytes of a subscription identifier property.
pub(crate) const fn subscription_id_len(id: u32) -> usize {
    1 + var_int_len(id)
}
