//! Builds the wire form of properties for a packet to encode.

use crate::error::EncodeError;
use crate::model::{QoS, REMAINING_LENGTH_MAX};
use crate::properties::{Properties, PropertyValue};
use crate::property::{PropertyId, PropertySet, ValueKind};
use crate::write::Sink;

/// Properties being put together. Each method adds one property at the end and returns the builder;
/// the first mistake is kept and reported by [`Self::properties`].
///
/// ```
/// use engine_mqtt::{ConnAck, Packet, PropertiesBuilder, ReasonCode, Version};
///
/// let mut builder = PropertiesBuilder::new();
/// builder.receive_maximum(100).assigned_client_id("c-1").user_property("zone", "a");
/// let properties = builder.properties().unwrap();
/// assert_eq!(properties.receive_maximum(), Some(100));
///
/// let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
/// let mut out = Vec::new();
/// Packet::ConnAck(connack).encode(Version::V5, &mut out).unwrap();
/// ```
#[derive(Debug, Clone, Default)]
pub struct PropertiesBuilder {
    raw: Vec<u8>,
    present: PropertySet,
    error: Option<EncodeError>,
}

impl PropertiesBuilder {
    /// No properties yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            raw: Vec::new(),
            present: PropertySet::EMPTY,
            error: None,
        }
    }

    /// Forgets all properties and mistakes, but keeps the memory.
    pub fn clear(&mut self) {
        self.raw.clear();
        self.present = PropertySet::EMPTY;
        self.error = None;
    }

    /// Adds any property.
    pub fn add(&mut self, id: PropertyId, value: PropertyValue<'_>) -> &mut Self {
        if self.error.is_none() {
            self.error = self.try_add(id, value).err();
        }
        self
    }

    /// Adds every property of a list in its order.
    pub fn extend(&mut self, properties: &Properties<'_>) -> &mut Self {
        for (id, value) in properties.iter() {
            self.add(id, value);
        }
        self
    }

    /// The properties so far.
    ///
    /// # Errors
    /// The first mistake: a property given twice, a number out of range, a text or binary value
    /// above 65,535 bytes, a text with U+0000, a value of the wrong type.
    pub const fn properties(&self) -> Result<Properties<'_>, EncodeError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(Properties::trusted(self.raw.as_slice(), self.present)),
        }
    }

    fn try_add(&mut self, id: PropertyId, value: PropertyValue<'_>) -> Result<(), EncodeError> {
        let repeatable = matches!(
            id,
            PropertyId::UserProperty | PropertyId::SubscriptionIdentifier
        );
        if self.present.contains(id) && !repeatable {
            return Err(EncodeError::PropertyRepeated { property: id });
        }
        let start = self.raw.len();
        let written = self.write(id, value);
        match written {
            Ok(()) => self.present.insert(id),
            Err(_) => self.raw.truncate(start),
        }
        written
    }

    fn write(&mut self, id: PropertyId, value: PropertyValue<'_>) -> Result<(), EncodeError> {
        let raw = &mut self.raw;
        raw.u8(id.number());
        let mismatch = EncodeError::PropertyType { property: id };
        match (id.kind(), value) {
            (ValueKind::Text, PropertyValue::Text(text)) => {
                if id == PropertyId::ResponseTopic && (text.is_empty() || text.contains(['+', '#']))
                {
                    return Err(EncodeError::TopicInvalid { field: id.name() });
                }
                raw.text(text, id.name())
            }
            (ValueKind::Binary, PropertyValue::Binary(bytes)) => raw.binary(bytes, id.name()),
            (ValueKind::Pair, PropertyValue::Pair(name, value)) => {
                raw.text(name, id.name())?;
                raw.text(value, id.name())
            }
            (kind, PropertyValue::Number(value)) => {
                let (low, high) = id.range();
                let out_of_range = EncodeError::PropertyValue {
                    property: id,
                    value,
                };
                if !(low..=high).contains(&value) {
                    return Err(out_of_range);
                }
                match kind {
                    ValueKind::Byte => raw.u8(u8::try_from(value).map_err(|_| out_of_range)?),
                    ValueKind::U16 => raw.u16(u16::try_from(value).map_err(|_| out_of_range)?),
                    ValueKind::U32 => raw.u32(value),
                    ValueKind::VarInt if value <= REMAINING_LENGTH_MAX => raw.var_int(value),
                    ValueKind::VarInt => return Err(out_of_range),
                    ValueKind::Text | ValueKind::Binary | ValueKind::Pair => return Err(mismatch),
                }
                Ok(())
            }
            _ => Err(mismatch),
        }
    }

    fn number(&mut self, id: PropertyId, value: u32) -> &mut Self {
        self.add(id, PropertyValue::Number(value))
    }

    fn flag(&mut self, id: PropertyId, value: bool) -> &mut Self {
        self.number(id, u32::from(value))
    }

    fn text(&mut self, id: PropertyId, value: &str) -> &mut Self {
        self.add(id, PropertyValue::Text(value))
    }
}

/// One method for each property; see the accessors of [`Properties`] for their meaning and unit.
impl PropertiesBuilder {
    /// Declares the payload to be UTF-8 text, or unspecified bytes.
    pub fn payload_format_indicator(&mut self, is_text: bool) -> &mut Self {
        self.flag(PropertyId::PayloadFormatIndicator, is_text)
    }

    /// Lifetime of the message in seconds.
    pub fn message_expiry(&mut self, seconds: u32) -> &mut Self {
        self.number(PropertyId::MessageExpiryInterval, seconds)
    }

    /// Description of the payload.
    pub fn content_type(&mut self, text: &str) -> &mut Self {
        self.text(PropertyId::ContentType, text)
    }

    /// Topic name for the answer to a request, without wildcards [MQTT-3.3.2-14].
    pub fn response_topic(&mut self, topic: &str) -> &mut Self {
        self.text(PropertyId::ResponseTopic, topic)
    }

    /// Tells the sender of a request which request an answer is for.
    pub fn correlation_data(&mut self, bytes: &[u8]) -> &mut Self {
        self.add(PropertyId::CorrelationData, PropertyValue::Binary(bytes))
    }

    /// A subscription identifier, 1 to 268,435,455. Only PUBLISH may carry several.
    pub fn subscription_id(&mut self, id: u32) -> &mut Self {
        self.number(PropertyId::SubscriptionIdentifier, id)
    }

    /// Seconds that the session outlives its connection.
    pub fn session_expiry(&mut self, seconds: u32) -> &mut Self {
        self.number(PropertyId::SessionExpiryInterval, seconds)
    }

    /// Client identifier that the server chose.
    pub fn assigned_client_id(&mut self, id: &str) -> &mut Self {
        self.text(PropertyId::AssignedClientIdentifier, id)
    }

    /// Keep alive in seconds that the server imposes.
    pub fn server_keep_alive(&mut self, seconds: u16) -> &mut Self {
        self.number(PropertyId::ServerKeepAlive, u32::from(seconds))
    }

    /// Name of the extended authentication method.
    pub fn authentication_method(&mut self, name: &str) -> &mut Self {
        self.text(PropertyId::AuthenticationMethod, name)
    }

    /// Data of the extended authentication method.
    pub fn authentication_data(&mut self, bytes: &[u8]) -> &mut Self {
        self.add(PropertyId::AuthenticationData, PropertyValue::Binary(bytes))
    }

    /// Whether reason strings and user properties are wanted on failures.
    pub fn request_problem_information(&mut self, wanted: bool) -> &mut Self {
        self.flag(PropertyId::RequestProblemInformation, wanted)
    }

    /// Seconds between the loss of the connection and the will.
    pub fn will_delay(&mut self, seconds: u32) -> &mut Self {
        self.number(PropertyId::WillDelayInterval, seconds)
    }

    /// Whether response information is wanted in CONNACK.
    pub fn request_response_information(&mut self, wanted: bool) -> &mut Self {
        self.flag(PropertyId::RequestResponseInformation, wanted)
    }

    /// Basis for the client's response topics.
    pub fn response_information(&mut self, text: &str) -> &mut Self {
        self.text(PropertyId::ResponseInformation, text)
    }

    /// Another server to use.
    pub fn server_reference(&mut self, text: &str) -> &mut Self {
        self.text(PropertyId::ServerReference, text)
    }

    /// Words for people to read.
    pub fn reason_string(&mut self, text: &str) -> &mut Self {
        self.text(PropertyId::ReasonString, text)
    }

    /// QoS 1 and 2 messages taken at once, 1 to 65,535.
    pub fn receive_maximum(&mut self, count: u16) -> &mut Self {
        self.number(PropertyId::ReceiveMaximum, u32::from(count))
    }

    /// Highest topic alias accepted.
    pub fn topic_alias_maximum(&mut self, count: u16) -> &mut Self {
        self.number(PropertyId::TopicAliasMaximum, u32::from(count))
    }

    /// Number that stands in for the topic name, 1 to 65,535.
    pub fn topic_alias(&mut self, alias: u16) -> &mut Self {
        self.number(PropertyId::TopicAlias, u32::from(alias))
    }

    /// Highest QoS that the server supports. QoS 2 is said by leaving the property out, so it adds
    /// nothing.
    pub fn maximum_qos(&mut self, qos: QoS) -> &mut Self {
        match qos {
            QoS::AtMostOnce | QoS::AtLeastOnce => {
                self.number(PropertyId::MaximumQoS, u32::from(qos.bits()))
            }
            QoS::ExactlyOnce => self,
        }
    }

    /// Whether the server supports retained messages.
    pub fn retain_available(&mut self, available: bool) -> &mut Self {
        self.flag(PropertyId::RetainAvailable, available)
    }

    /// A name and value for the application; may be given many times.
    pub fn user_property(&mut self, name: &str, value: &str) -> &mut Self {
        self.add(PropertyId::UserProperty, PropertyValue::Pair(name, value))
    }

    /// Largest packet accepted, in bytes, at least 1.
    pub fn maximum_packet_size(&mut self, bytes: u32) -> &mut Self {
        self.number(PropertyId::MaximumPacketSize, bytes)
    }

    /// Whether the server supports wildcards in filters.
    pub fn wildcard_subscription_available(&mut self, available: bool) -> &mut Self {
        self.flag(PropertyId::WildcardSubscriptionAvailable, available)
    }

    /// Whether the server supports subscription identifiers.
    pub fn subscription_id_available(&mut self, available: bool) -> &mut Self {
        self.flag(PropertyId::SubscriptionIdentifierAvailable, available)
    }

    /// Whether the server supports shared subscriptions.
    pub fn shared_subscription_available(&mut self, available: bool) -> &mut Self {
        self.flag(PropertyId::SharedSubscriptionAvailable, available)
    }
}
