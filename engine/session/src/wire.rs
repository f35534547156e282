//! Little-endian pieces of the values that sessions keep in the state store.

use std::fmt;

use crate::address::{Address, LogId, LogOffset};

/// Why a stored value cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ValueError {
    /// The value ends before its fields do.
    Short {
        /// Which value.
        what: &'static str,
        /// Bytes that are there.
        got: usize,
    },
    /// Bytes follow the value's fields.
    Trailing {
        /// Which value.
        what: &'static str,
        /// Bytes too many.
        extra: usize,
    },
    /// A version that this build does not know.
    Version {
        /// Which value.
        what: &'static str,
        /// The version found.
        got: u8,
        /// The highest one that this build reads; it reads all from 1 on.
        newest: u8,
    },
    /// A field has a value that this build does not know.
    Unknown {
        /// Which field.
        what: &'static str,
        /// The value found.
        got: u64,
    },
    /// A text is not UTF-8.
    Text {
        /// Which text.
        what: &'static str,
    },
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { what, got } => write!(f, "{what} is cut short at {got} bytes"),
            Self::Trailing { what, extra } => write!(f, "{what} has {extra} bytes too many"),
            Self::Version { what, got, newest } => write!(
                f,
                "{what} has version {got}, this build reads versions up to {newest}"
            ),
            Self::Unknown { what, got } => write!(f, "{what} has the unknown value {got}"),
            Self::Text { what } => write!(f, "{what} is not UTF-8"),
        }
    }
}

impl std::error::Error for ValueError {}

/// Reads fields one after the other.
#[derive(Debug)]
pub struct Fields<'a> {
    what: &'static str,
    total: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// A reader of `bytes`; `what` names the value in errors.
    #[must_use]
    pub const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            what,
            total: bytes.len(),
            rest: bytes,
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(ValueError::Short {
                what: self.what,
                got: self.total,
            })?;
        self.rest = rest;
        Ok(*head)
    }

    /// The value's version, 1 to `newest`.
    ///
    /// # Errors
    /// [`ValueError::Short`], [`ValueError::Version`].
    pub fn version(&mut self, newest: u8) -> Result<u8, ValueError> {
        let what = self.what;
        let got = self.u8()?;
        if (1..=newest).contains(&got) {
            return Ok(got);
        }
        Err(ValueError::Version { what, got, newest })
    }

    /// # Errors
    /// [`ValueError::Short`] at the end of the value; so for all the readers here.
    pub fn u8(&mut self) -> Result<u8, ValueError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// # Errors
    /// [`ValueError::Short`].
    pub fn u16(&mut self) -> Result<u16, ValueError> {
        self.array().map(u16::from_le_bytes)
    }

    /// # Errors
    /// [`ValueError::Short`].
    pub fn u32(&mut self) -> Result<u32, ValueError> {
        self.array().map(u32::from_le_bytes)
    }

    /// # Errors
    /// [`ValueError::Short`].
    pub fn u64(&mut self) -> Result<u64, ValueError> {
        self.array().map(u64::from_le_bytes)
    }

    /// An address: log id `u32`, offset `u64`.
    ///
    /// # Errors
    /// [`ValueError::Short`].
    pub fn address(&mut self) -> Result<Address, ValueError> {
        Ok(Address {
            log: LogId(self.u32()?),
            offset: LogOffset(self.u64()?),
        })
    }

    /// A count `u16` and as many offsets, one per log.
    ///
    /// # Errors
    /// [`ValueError::Short`].
    pub fn offsets(&mut self) -> Result<Vec<LogOffset>, ValueError> {
        let count = self.u16()?;
        (0..count).map(|_| self.u64().map(LogOffset)).collect()
    }

    /// A count `u8` and as many subscription identifiers.
    ///
    /// # Errors
    /// [`ValueError::Short`].
    pub fn ids<C: FromIterator<u32>>(&mut self) -> Result<C, ValueError> {
        let count = self.u8()?;
        (0..count).map(|_| self.u32()).collect()
    }

    /// A length `u32` and as many bytes.
    ///
    /// # Errors
    /// [`ValueError::Short`].
    pub fn bytes(&mut self) -> Result<&'a [u8], ValueError> {
        let len = self.u32()? as usize;
        let (head, rest) = self.rest.split_at_checked(len).ok_or(ValueError::Short {
            what: self.what,
            got: self.total,
        })?;
        self.rest = rest;
        Ok(head)
    }

    /// A length `u32` and as many bytes of UTF-8.
    ///
    /// # Errors
    /// [`ValueError::Short`], [`ValueError::Text`].
    pub fn text(&mut self) -> Result<&'a str, ValueError> {
        let what = self.what;
        std::str::from_utf8(self.bytes()?).map_err(|_| ValueError::Text { what })
    }

    /// # Errors
    /// [`ValueError::Trailing`] when bytes remain.
    pub const fn end(self) -> Result<(), ValueError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(ValueError::Trailing {
            what: self.what,
            extra: self.rest.len(),
        })
    }
}

/// Appends an address.
pub fn put_address(out: &mut Vec<u8>, address: Address) {
    out.extend_from_slice(&address.log.0.to_le_bytes());
    out.extend_from_slice(&address.offset.0.to_le_bytes());
}

/// Appends offsets, one per log, at most 65,535.
///
/// # Panics
/// With more offsets than that: a node has at most 64 logs.
#[expect(clippy::expect_used, reason = "Invariant: at most 64 logs")]
pub fn put_offsets(out: &mut Vec<u8>, offsets: &[LogOffset]) {
    let count = u16::try_from(offsets.len()).expect("at most 64 logs");
    out.extend_from_slice(&count.to_le_bytes());
    for offset in offsets {
        out.extend_from_slice(&offset.0.to_le_bytes());
    }
}

/// Appends subscription identifiers; more than 255 are cut, the client gets the first ones.
pub fn put_ids(out: &mut Vec<u8>, ids: &[u32]) {
    let count = u8::try_from(ids.len()).unwrap_or(u8::MAX);
    out.push(count);
    for id in ids.iter().take(usize::from(count)) {
        out.extend_from_slice(&id.to_le_bytes());
    }
}

/// Appends a length and bytes.
///
/// # Panics
/// With 4 GiB or more: no value is that long.
#[expect(
    clippy::expect_used,
    reason = "Invariant: values are bounded by the packet size"
)]
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}
