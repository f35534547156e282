//! Writes the primitive types of MQTT (section 1.5). The same code counts and writes: a body is
//! written twice, once into a [`Count`] for its remaining length, once into the caller's vector.

use crate::error::EncodeError;
use crate::model::REMAINING_LENGTH_MAX;

/// Where encoded bytes go.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// `value` must not exceed [`REMAINING_LENGTH_MAX`].
    fn var_int(&mut self, value: u32) {
        debug_assert!(
            value <= REMAINING_LENGTH_MAX,
            "variable byte integer {value}"
        );
        let [low, middle, high, top] =
            [0, 7, 14, 21].map(|shift| (value >> shift).to_le_bytes()[0] & 0x7F);
        match var_int_len(value) {
            1 => self.put(&[low]),
            2 => self.put(&[low | 0x80, middle]),
            3 => self.put(&[low | 0x80, middle | 0x80, high]),
            _ => self.put(&[low | 0x80, middle | 0x80, high | 0x80, top]),
        }
    }

    /// A length that must fit a variable byte integer.
    fn length(&mut self, len: usize) -> Result<(), EncodeError> {
        self.var_int(remaining_length(len)?);
        Ok(())
    }

    /// Text: as binary data, and without U+0000 [MQTT-1.5.4-2].
    fn text(&mut self, text: &str, field: &'static str) -> Result<(), EncodeError> {
        if text.as_bytes().contains(&0) {
            return Err(EncodeError::TextHasNull { field });
        }
        self.binary(text.as_bytes(), field)
    }

    /// Binary data: two bytes of length, then the bytes.
    fn binary(&mut self, bytes: &[u8], field: &'static str) -> Result<(), EncodeError> {
        let Ok(len) = u16::try_from(bytes.len()) else {
            return Err(EncodeError::FieldTooLong {
                field,
                len: bytes.len(),
            });
        };
        self.u16(len);
        self.put(bytes);
        Ok(())
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts bytes instead of keeping them.
#[derive(Debug, Default)]
pub(crate) struct Count(pub(crate) usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Bytes that a variable byte integer takes, 1 to 4.
pub(crate) const fn var_int_len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// A length as a remaining length, if it fits.
pub(crate) fn remaining_length(len: usize) -> Result<u32, EncodeError> {
    match u32::try_from(len) {
        Ok(value) if value <= REMAINING_LENGTH_MAX => Ok(value),
        _ => Err(EncodeError::PacketTooLarge { len }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::var_int;

    #[test]
    fn variable_byte_integers_read_back_minimal() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            2_097_151,
            2_097_152,
            REMAINING_LENGTH_MAX,
        ] {
            let mut out = Vec::new();
            out.var_int(value);
            let found = var_int(&out).unwrap().unwrap();
            assert_eq!(
                (found.value, found.len, found.minimal),
                (value, out.len(), true)
            );
            assert_eq!(var_int_len(value), out.len());
        }
    }

    #[test]
    fn lengths_have_bounds() {
        assert_eq!(remaining_length(268_435_455), Ok(REMAINING_LENGTH_MAX));
        let error = remaining_length(268_435_456).unwrap_err();
        assert_eq!(error, EncodeError::PacketTooLarge { len: 268_435_456 });
        let long = vec![0; 65_536];
        let error = Vec::new().binary(&long, "payload").unwrap_err();
        assert_eq!(
            error,
            EncodeError::FieldTooLong {
                field: "payload",
                len: 65_536
            }
        );
    }
}
