//! Bytes to MQTT packets and back, for MQTT 3.1, 3.1.1 and 5.0.

mod decode;
mod encode;
mod error;
mod lists;
mod model;
mod packet;
mod properties;
mod properties_builder;
mod property;
mod read;
mod reason;
mod write;

pub use decode::{Decoded, Peek, decode, peek_client_id};
pub use encode::fan_out::{
    PublishLayout, PublishParts, encode_publish_header, encode_publish_parts,
};
pub use error::{DecodeError, EncodeError};
pub use lists::{Filters, ReasonCodes, Subscriptions};
pub use model::{
    Direction, Limits, PACKET_BYTES_MAX, PacketId, PacketType, QoS, REMAINING_LENGTH_MAX, Version,
};
pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Publish, RetainHandling, SubAck, Subscribe,
    Subscription, SubscriptionOptions, UnsubAck, Unsubscribe, Will,
};
pub use properties::{Properties, PropertyValue};
pub use properties_builder::PropertiesBuilder;
pub use property::{PropertyId, PropertyPlace};
pub use reason::ReasonCode;
