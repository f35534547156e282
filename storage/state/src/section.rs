//! A batch of changes as it stands in a log record. The record's checksum covers it.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 1 | table | which table, 1 to 255 |
//! | 2 | key length | little endian |
//! | 4 | value length | little endian; `0xFFFF_FFFF` deletes the key, and no value follows |
//! | key length | key | |
//! | value length | value | |
//!
//! A change whose key has more than 65,535 bytes begins with a zero, then come its table and 4
//! bytes of key length; the rest is the same.
//!
//! This repeats until the section ends. Later changes of a key win.

use std::fmt;

/// The longest key: a name of MQTT's largest length, and what goes before it.
pub const KEY_BYTES_MAX: usize = 0x1_FFFF;

/// The longest value.
pub const VALUE_BYTES_MAX: usize = 0xFFFF_FFFE;

/// Bytes in front of the key.
pub const CHANGE_HEADER_BYTES: usize = 7;

/// The same in front of a long one.
const LONG_HEADER_BYTES: usize = 10;

/// The first byte of a change with a long key.
const LONG: u8 = 0;

const DELETE: u32 = 0xFFFF_FFFF;

/// One change of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// The table, not 0.
    pub table: u8,
    /// The key, at most [`KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// The new value, at most [`VALUE_BYTES_MAX`] bytes; `None` deletes the key.
    pub value: Option<&'a [u8]>,
}

/// Why bytes are no section, or a change does not fit into one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SectionError {
    /// The section ends inside a change.
    Truncated {
        /// Byte offset in the section where the change starts.
        at: usize,
        /// Bytes the change needs from there.
        expected: usize,
        /// Bytes that are there.
        got: usize,
    },
    /// A key is too long to be encoded.
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A value is too long to be encoded.
    ValueTooLong {
        /// Its length in bytes.
        len: usize,
    },
}

impl fmt::Display for SectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { at, expected, got } => write!(
                f,
                "the state change at byte {at} of its section needs {expected} bytes, \
                 {got} are left"
            ),
            Self::KeyTooLong { len } => {
                write!(
                    f,
                    "a state key of {len} bytes is longer than {KEY_BYTES_MAX}"
                )
            }
            Self::ValueTooLong { len } => {
                write!(
                    f,
                    "a state value of {len} bytes is longer than {VALUE_BYTES_MAX}"
                )
            }
        }
    }
}

impl std::error::Error for SectionError {}

/// Appends one change to a section.
///
/// # Errors
/// When key or value is too long; `out` is as it was.
///
/// # Panics
/// If the table is 0.
pub fn encode(change: &Change<'_>, out: &mut Vec<u8>) -> Result<(), SectionError> {
    assert!(change.table != LONG, "no table has the number 0");
    let key = change.key;
    let too_long = SectionError::KeyTooLong { len: key.len() };
    if key.len() > KEY_BYTES_MAX {
        return Err(too_long);
    }
    let long_key_len = u32::try_from(key.len()).map_err(|_| too_long)?;
    let value_len = match change.value {
        None => DELETE,
        Some(value) => match u32::try_from(value.len()) {
            Ok(len) if len != DELETE => len,
            _ => return Err(SectionError::ValueTooLong { len: value.len() }),
        },
    };
    if let Ok(key_len) = u16::try_from(key.len()) {
        out.push(change.table);
        out.extend_from_slice(&key_len.to_le_bytes());
    } else {
        out.extend_from_slice(&[LONG, change.table]);
        out.extend_from_slice(&long_key_len.to_le_bytes());
    }
    out.extend_from_slice(&value_len.to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(change.value.unwrap_or_default());
    Ok(())
}

/// The changes of a section, in order. After an error the iterator ends.
#[must_use]
pub const fn decode(section: &[u8]) -> Changes<'_> {
    Changes { section, at: 0 }
}

/// Iterates over the changes of a section; made by [`decode`].
#[derive(Clone, Debug)]
pub struct Changes<'a> {
    section: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Changes<'a> {
    type Item = Result<Change<'a>, SectionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self
            .section
            .get(self.at..)
            .filter(|rest| !rest.is_empty())?;
        match split_change(rest) {
            Ok((change, len)) => {
                self.at += len;
                Some(Ok(change))
            }
            Err(expected) => {
                let error = SectionError::Truncated {
                    at: self.at,
                    expected,
                    got: rest.len(),
                };
                self.at = self.section.len();
                Some(Err(error))
            }
        }
    }
}

/// The change at the start of `rest` and its length, or the bytes that would be needed.
fn split_change(rest: &[u8]) -> Result<(Change<'_>, usize), usize> {
    let Some((header, body)) = rest.split_first_chunk::<CHANGE_HEADER_BYTES>() else {
        return Err(CHANGE_HEADER_BYTES);
    };
    let [table, k0, k1, v0, v1, v2, v3] = *header;
    if table == LONG {
        return split_long_change(rest);
    }
    let key_len = usize::from(u16::from_le_bytes([k0, k1]));
    let value_len = u32::from_le_bytes([v0, v1, v2, v3]);
    split_body(table, key_len, value_len, CHANGE_HEADER_BYTES, body)
}

/// As [`split_change`], of one with a long key.
fn split_long_change(rest: &[u8]) -> Result<(Change<'_>, usize), usize> {
    let Some((header, body)) = rest.split_first_chunk::<LONG_HEADER_BYTES>() else {
        return Err(LONG_HEADER_BYTES);
    };
    let [_, table, k0, k1, k2, k3, v0, v1, v2, v3] = *header;
    let key_len = u32::from_le_bytes([k0, k1, k2, k3]);
    let key_len = usize::try_from(key_len).unwrap_or(usize::MAX);
    let value_len = u32::from_le_bytes([v0, v1, v2, v3]);
    split_body(table, key_len, value_len, LONG_HEADER_BYTES, body)
}

/// The change with this header at the start of `body`.
fn split_body(
    table: u8,
    key_len: usize,
    value_len: u32,
    header_bytes: usize,
    body: &[u8],
) -> Result<(Change<'_>, usize), usize> {
    let deletes = value_len == DELETE;
    // On a 32-bit machine a length may not fit; then the bytes can't be there either.
    let value_len = if deletes {
        0
    } else {
        usize::try_from(value_len).unwrap_or(usize::MAX)
    };
    let len = header_bytes
        .saturating_add(key_len)
        .saturating_add(value_len);
    let (Some(key), Some(value)) = (
        body.get(..key_len),
        body.get(key_len..key_len.saturating_add(value_len)),
    ) else {
        return Err(len);
    };
    let value = if deletes { None } else { Some(value) };
    Ok((Change { table, key, value }, len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (u8, Vec<u8>, Option<Vec<u8>>);

    fn change(owned: &Owned) -> Change<'_> {
        Change {
            table: owned.0,
            key: &owned.1,
            value: owned.2.as_deref(),
        }
    }

    fn changes() -> impl Strategy<Value = Vec<Owned>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        prop::collection::vec((1..=u8::MAX, bytes(), prop::option::of(bytes())), 0..12)
    }

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        encode(
            &Change {
                table: 5,
                key: b"k1",
                value: Some(b"val"),
            },
            &mut out,
        )
        .unwrap();
        encode(
            &Change {
                table: 255,
                key: b"",
                value: None,
            },
            &mut out,
        )
        .unwrap();
        let golden = [
            5, 2, 0, 3, 0, 0, 0, b'k', b'1', b'v', b'a', b'l', 255, 0, 0, 255, 255, 255, 255,
        ];
        assert_eq!(out, golden);
        let read: Vec<_> = decode(&golden).map(Result::unwrap).collect();
        let change = |table, key, value| Change { table, key, value };
        let written = [
            change(5, b"k1".as_slice(), Some(b"val".as_slice())),
            change(255, b"", None),
        ];
        assert_eq!(read, written);
    }

    #[test]
    fn long_keys_are_refused() {
        let key = vec![0; KEY_BYTES_MAX + 1];
        let mut out = vec![1];
        let error = encode(
            &Change {
                table: 1,
                key: &key,
                value: None,
            },
            &mut out,
        );
        assert_eq!(error, Err(SectionError::KeyTooLong { len: 0x2_0000 }));
        assert_eq!(out, [1]);
        encode(
            &Change {
                table: 1,
                key: &key[1..],
                value: None,
            },
            &mut out,
        )
        .unwrap();
        let decoded = decode(&out[1..]).next().unwrap().unwrap();
        assert_eq!(decoded.key.len(), KEY_BYTES_MAX);
    }

    /// Keys of up to 65,535 bytes are written as they always were.
    #[test]
    fn a_long_key_has_a_form_of_its_own() {
        let bytes = vec![b'k'; 65_536];
        let mut out = Vec::new();
        for key in [&bytes[1..], &bytes[..], b"behind"] {
            let (table, value) = (7, Some(&b"v"[..]));
            encode(&Change { table, key, value }, &mut out).unwrap();
        }
        let long = CHANGE_HEADER_BYTES + 65_535 + 1;
        assert_eq!(out[..7], [7, 0xff, 0xff, 1, 0, 0, 0]);
        assert_eq!(out[long..long + 10], [0, 7, 0, 0, 1, 0, 1, 0, 0, 0]);
        let keys = decode(&out).map(|change| change.unwrap().key.len());
        assert_eq!(keys.collect::<Vec<_>>(), [65_535, 65_536, 6]);
        for end in [long + 5, long + 9, long + 100, long + 10 + 65_536] {
            let last = decode(&out[..end]).last().unwrap();
            assert!(matches!(last, Err(SectionError::Truncated { at, .. }) if at == long));
        }
    }

    proptest! {
        #[test]
        fn round_trip(owned in changes()) {
            let mut out = Vec::new();
            for one in &owned {
                encode(&change(one), &mut out).unwrap();
            }
            let decoded: Result<Vec<_>, _> = decode(&out).collect();
            let expected: Vec<_> = owned.iter().map(change).collect();
            prop_assert_eq!(decoded.unwrap(), expected);
        }

        #[test]
        fn cut_sections_are_named_errors(owned in changes(), cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            let mut ends = vec![0];
            for one in &owned {
                encode(&change(one), &mut out).unwrap();
                ends.push(out.len());
            }
            let cut = cut.index(out.len() + 1);
            let decoded: Vec<_> = decode(&out[..cut]).collect();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            prop_assert_eq!(decoded.iter().filter(|one| one.is_ok()).count(), whole);
            if ends.contains(&cut) {
                prop_assert_eq!(decoded.len(), whole);
            } else {
                let at = ends[whole];
                let error = decoded.last().unwrap().unwrap_err();
                let SectionError::Truncated { at: named, expected, got } = error else {
                    return Err(TestCaseError::fail("another error"));
                };
                prop_assert_eq!((named, got), (at, cut - at));
                prop_assert!(expected > got);
            }
        }

        #[test]
        fn hostile_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let decoded: Vec<_> = decode(&bytes).collect();
            prop_assert!(decoded.iter().rev().skip(1).all(Result::is_ok));
        }
    }

    #[test]
    fn mutated_sections() {
        let long = vec![7; 300];
        let all = [
            (1, b"a".to_vec(), Some(b"value".to_vec())),
            (2, b"key".to_vec(), None),
            (3, long.clone(), Some(long)),
        ];
        let section = |owned: &[Owned]| {
            let mut out = Vec::new();
            let changes = owned.iter().map(change);
            changes.for_each(|change| encode(&change, &mut out).unwrap());
            out
        };
        let samples = [section(&all), section(&all[..2]), section(&all[2..])];
        crate::mutate::fuzz(&samples, |bytes| decode(bytes).all(|change| change.is_ok()));
    }
}
