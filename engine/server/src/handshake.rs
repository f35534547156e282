//! AUTH packets at the door: a step of an authentication before CONNACK.

use engine_mqtt::{
    Auth, Decoded, Direction, Limits, Packet, PropertiesBuilder, ReasonCode, Version, decode,
};

use crate::scram::METHOD;

/// The largest packet that a client may send before it is authenticated, beside CONNECT.
const AUTH_BYTES_MAX: u32 = 4096;

/// What a client has sent behind its CONNECT.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// Less than a packet.
    NeedMore,
    /// The next step, in so many bytes.
    Step(Vec<u8>, usize),
    /// DISCONNECT.
    Leave,
    /// Something else, which may not come now [MQTT-3.1.2-30].
    Wrong,
}

/// Reads the next packet of a client that is being authenticated.
pub(crate) fn read(bytes: &[u8]) -> Reply {
    let limits = Limits {
        packet_bytes_max: AUTH_BYTES_MAX,
    };
    let packet = match decode(bytes, Version::V5, &limits, Direction::FromClient) {
        Ok(Decoded::NeedMore { .. }) => return Reply::NeedMore,
        Ok(Decoded::Packet { packet, len }) => (packet, len),
        Err(_) => return Reply::Wrong,
    };
    match packet {
        (Packet::Auth(auth), len)
            if auth.reason == ReasonCode::ContinueAuthentication
                && auth.properties.authentication_method() == Some(METHOD) =>
        {
            let data = auth.properties.authentication_data();
            Reply::Step(data.unwrap_or_default().to_vec(), len)
        }
        (Packet::Disconnect(_), _) => Reply::Leave,
        _ => Reply::Wrong,
    }
}

/// The AUTH packet that brings the server's step.
pub(crate) fn challenge(data: &[u8]) -> Vec<u8> {
    let mut properties = PropertiesBuilder::new();
    properties.authentication_method(METHOD);
    properties.authentication_data(data);
    let mut bytes = Vec::new();
    // Invariant: two properties, once each, far below the limit of 64 KiB.
    if let Ok(properties) = properties.properties() {
        let auth = Auth {
            reason: ReasonCode::ContinueAuthentication,
            properties,
        };
        if Packet::Auth(auth).encode(Version::V5, &mut bytes).is_err() {
            bytes.clear();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_step_or_disconnect_may_come() {
        let step = challenge(b"data");
        assert_eq!(read(&step), Reply::Step(b"data".to_vec(), step.len()));
        for cut in 1..step.len() {
            assert_eq!(read(&step[..cut]), Reply::NeedMore);
        }
        assert_eq!(read(&[0xE0, 0]), Reply::Leave);
        for wrong in [&[0xC0, 0][..], &[0xF0, 0], &[0xF0, 0xFF, 0xFF, 0x7F]] {
            assert_eq!(read(wrong), Reply::Wrong);
        }
        let mut other = step;
        other[5] ^= 1;
        assert_eq!(read(&other), Reply::Wrong);
    }
}
