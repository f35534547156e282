//! Payloads that name their message and prove that they arrived whole.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | `clm1` |
//! | 4 | 8 | message number, little endian |
//! | 12 | 4 | CRC-32 of all other bytes |
//! | 16 | n | bytes that follow from the number and the place |

/// A message's number, unique in one history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub u64);

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message {}", self.0)
    }
}

const MAGIC: &[u8; 4] = b"clm1";
const HEADER_LEN: usize = 16;

/// The payload of a message, `len` bytes long but at least 16.
#[must_use]
pub fn payload(message: MessageId, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len.max(HEADER_LEN));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&message.0.to_le_bytes());
    let fill_len = len.saturating_sub(HEADER_LEN);
    let fill: Vec<u8> = (0..fill_len as u64)
        .map(|place| fill_byte(message, place))
        .collect();
    bytes.extend_from_slice(&checksum(&bytes, &fill).to_le_bytes());
    bytes.extend_from_slice(&fill);
    bytes
}

/// The number of the message that this payload was made for; `None` when it is not whole.
#[must_use]
pub fn message_id(payload: &[u8]) -> Option<MessageId> {
    let (header, fill) = payload.split_at_checked(HEADER_LEN)?;
    let (named, sum) = header.split_at_checked(12)?;
    let number = named.strip_prefix(MAGIC)?;
    let sum = u32::from_le_bytes(sum.try_into().ok()?);
    let message = MessageId(u64::from_le_bytes(number.try_into().ok()?));
    (sum == checksum(named, fill)).then_some(message)
}

fn fill_byte(message: MessageId, place: u64) -> u8 {
    let [byte, ..] = (message.0.wrapping_mul(0x9E37_79B9) ^ place).to_le_bytes();
    byte
}

fn checksum(named: &[u8], fill: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(named);
    hasher.update(fill);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_names_its_message_at_every_length() {
        for len in [0, 15, 16, 17, 300] {
            let bytes = payload(MessageId(7), len);
            assert_eq!(bytes.len(), len.max(HEADER_LEN));
            assert_eq!(message_id(&bytes), Some(MessageId(7)));
        }
    }

    #[test]
    fn damaged_or_cut_payload_names_nothing() {
        let bytes = payload(MessageId(0x0102_0304), 40);
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            assert_eq!(message_id(&damaged), None, "byte {place}");
        }
        assert_eq!(message_id(&bytes[..39]), None);
        assert_eq!(message_id(&bytes[..10]), None);
    }
}
