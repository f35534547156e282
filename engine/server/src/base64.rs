//! Base64 with padding (RFC 4648, section 4).

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text of these bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let sextet = (bits >> (18 - 6 * digit)) & 63;
            let letter = DIGITS.get(sextet as usize).copied().unwrap_or(b'=');
            let is_padding = digit > three.len();
            text.push(if is_padding { '=' } else { char::from(letter) });
        }
    }
    text
}

/// The bytes of this text; `None` when it is no such text.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for digit in four {
            let value = DIGITS.iter().position(|d| d == digit).unwrap_or(0);
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        let padding = four.iter().filter(|digit| **digit == b'=').count();
        let [_, three @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(three.get(..3usize.checked_sub(padding)?)?);
    }
    // There is one text for each bytes.
    (encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_that_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        for bad in ["Z", "Zg", "Zg=", "Zh==", "Z===", "Zm9v====", "Zm9_"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }
}
