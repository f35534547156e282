//! The will: what is published for a client that goes without a word.

use engine_mqtt::QoS;

use crate::subscription::qos;
use crate::wire::{Fields, ValueError, put_bytes};

/// A will, as it is kept in the state store under the client id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Will {
    /// The session that set it.
    pub session: u64,
    /// Seconds between the end of the connection and the publication.
    pub delay_s: u32,
    /// The QoS to publish with.
    pub qos: QoS,
    /// The RETAIN flag to publish with.
    pub retain: bool,
    /// Message expiry interval in seconds, [`crate::NO_EXPIRY`] for none.
    pub expiry_s: u32,
    /// The topic.
    pub topic: String,
    /// Forwardable properties in wire form.
    pub properties: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Will {
    /// The stored value: version 1 | session `u64` | delay `u32` | qos | retain | expiry `u32` |
    /// topic | properties | payload, the last three with a length `u32` each.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.session.to_le_bytes());
        out.extend_from_slice(&self.delay_s.to_le_bytes());
        out.extend_from_slice(&[self.qos as u8, u8::from(self.retain)]);
        out.extend_from_slice(&self.expiry_s.to_le_bytes());
        put_bytes(&mut out, self.topic.as_bytes());
        put_bytes(&mut out, &self.properties);
        put_bytes(&mut out, &self.payload);
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`ValueError`] when the value is not one.
    pub fn decode(value: &[u8]) -> Result<Self, ValueError> {
        let mut fields = Fields::new("will", value);
        fields.version(1)?;
        let will = Self {
            session: fields.u64()?,
            delay_s: fields.u32()?,
            qos: qos(fields.u8()?)?,
            retain: fields.u8()? != 0,
            expiry_s: fields.u32()?,
            topic: fields.text()?.to_owned(),
            properties: fields.bytes()?.to_vec(),
            payload: fields.bytes()?.to_vec(),
        };
        fields.end()?;
        Ok(will)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_will_round_trips() {
        let will = Will {
            session: 4,
            delay_s: 5,
            qos: QoS::ExactlyOnce,
            retain: true,
            expiry_s: 6,
            topic: "t".to_owned(),
            properties: vec![1, 2],
            payload: vec![3],
        };
        assert_eq!(Will::decode(&will.encode()), Ok(will.clone()));
        assert!(Will::decode(&will.encode()[..9]).is_err());
    }
}
