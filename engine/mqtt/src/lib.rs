//! Bytes to MQTT packets and back, for MQTT 3.1, 3.1.1 and 5.0.

mod model;

pub use model::{
    Direction, Limits, PACKET_BYTES_MAX, PacketId, PacketType, QoS, REMAINING_LENGTH_MAX, Version,
};
