//! Reads the primitive types of MQTT (section 1.5) out of one packet's bytes, borrowing them.

use crate::error::DecodeError;
use crate::model::{PacketId, PacketType};

/// The unread rest of one packet, or of a part of it with a length of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    packet: PacketType,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(packet: PacketType, bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            packet,
        }
    }

    pub(crate) const fn packet(&self) -> PacketType {
        self.packet
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may follow.
    pub(crate) const fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes {
                packet: self.packet,
                count,
            }),
        }
    }

    pub(crate) const fn take(
        &mut self,
        count: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(DecodeError::Truncated {
                packet: self.packet,
                field,
            });
        };
        self.rest = rest;
        Ok(taken)
    }

    const fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::Truncated {
                packet: self.packet,
                field,
            });
        };
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn var_int(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        match var_int(self.rest)? {
            None => Err(DecodeError::Truncated {
                packet: self.packet,
                field,
            }),
            Some(found) if !found.minimal => Err(DecodeError::VarIntNotMinimal),
            Some(found) => {
                self.take(found.len, field)?;
                Ok(found.value)
            }
        }
    }

    /// Binary data: two bytes of length, then as many bytes.
    pub(crate) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u16(field)?;
        self.take(usize::from(len), field)
    }

    /// A UTF-8 encoded string: well-formed [MQTT-1.5.4-1] and without U+0000 [MQTT-1.5.4-2].
    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.binary(field)?;
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Err(DecodeError::TextNotUtf8 {
                packet: self.packet,
                field,
            });
        };
        if bytes.contains(&0) {
            return Err(DecodeError::TextHasNull {
                packet: self.packet,
                field,
            });
        }
        Ok(text)
    }

    /// A packet identifier, not zero [MQTT-2.2.1-3].
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        let number = self.u16("packet identifier")?;
        PacketId::new(number).ok_or(DecodeError::PacketIdZero {
            packet: self.packet,
        })
    }
}

/// A variable byte integer and the bytes that it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VarInt {
    pub(crate) value: u32,
    pub(crate) len: usize,
    /// Whether it took as few bytes as its value needs [MQTT-1.5.5-1].
    pub(crate) minimal: bool,
}

/// Reads a variable byte integer; `None` when the bytes end inside of it.
#[inline]
pub(crate) fn var_int(bytes: &[u8]) -> Result<Option<VarInt>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let minimal = index == 0 || byte != 0;
            return Ok(Some(VarInt {
                value,
                len: index + 1,
                minimal,
            }));
        }
    }
    if bytes.len() >= 4 {
        Err(DecodeError::VarIntTooLong)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], value: u32, len: usize, minimal: bool) {
        assert_eq!(
            var_int(bytes),
            Ok(Some(VarInt {
                value,
                len,
                minimal
            }))
        );
    }

    #[test]
    fn variable_byte_integers_of_the_specification() {
        check(&[0x00], 0, 1, true);
        check(&[0x7F], 127, 1, true);
        check(&[0x80, 0x01], 128, 2, true);
        check(&[0xFF, 0x7F], 16_383, 2, true);
        check(&[0x80, 0x80, 0x01], 16_384, 3, true);
        check(&[0xFF, 0xFF, 0x7F], 2_097_151, 3, true);
        check(&[0x80, 0x80, 0x80, 0x01], 2_097_152, 4, true);
        check(&[0xFF, 0xFF, 0xFF, 0x7F, 0xFF], 268_435_455, 4, true);
        check(&[0x80, 0x00], 0, 2, false);
        check(&[0xFF, 0x80, 0x00], 127, 3, false);
    }

    #[test]
    fn partial_and_overlong_variable_byte_integers() {
        assert_eq!(var_int(&[]), Ok(None));
        assert_eq!(var_int(&[0x80]), Ok(None));
        assert_eq!(var_int(&[0x80, 0x80, 0x80]), Ok(None));
        assert_eq!(
            var_int(&[0x80, 0x80, 0x80, 0x80]),
            Err(DecodeError::VarIntTooLong)
        );
        assert_eq!(
            var_int(&[0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
            Err(DecodeError::VarIntTooLong)
        );
    }
}
