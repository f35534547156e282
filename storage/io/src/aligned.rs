//! Memory for direct I/O: owned, aligned to 4096 bytes, zeroed, and free to move between threads.
//!
//! One of two modules with unsafe code: the view of whole pages as plain bytes.
#![expect(unsafe_code, reason = "pages of bytes are viewed as one byte slice")]

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes to which every offset, length and buffer of direct I/O is aligned. Devices report 512 at
/// times, but a 4096-byte physical block behind it would be read, changed and written back.
pub const ALIGN: usize = 4096;

#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; ALIGN]);

const _: () = assert!(size_of::<Page>() == ALIGN && align_of::<Page>() == ALIGN);

/// An owned buffer that is aligned to [`ALIGN`] and whose length is a multiple of it.
#[derive(Clone)]
pub struct AlignedBuf {
    pages: Vec<Page>,
}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    ///
    /// # Panics
    /// If `len` is no multiple of [`ALIGN`].
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        assert!(
            len.is_multiple_of(ALIGN),
            "{len} bytes are no multiple of {ALIGN}"
        );
        let pages = Box::new_zeroed_slice(len / ALIGN);
        // SAFETY: a page is an array of bytes, for which all zeroes is a valid value.
        let pages = unsafe { pages.assume_init() };
        Self {
            pages: pages.into_vec(),
        }
    }

    /// A copy of `bytes`, filled up with zeroes to the next multiple of [`ALIGN`].
    #[must_use]
    pub fn padded(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len().next_multiple_of(ALIGN));
        buf.split_at_mut(bytes.len()).0.copy_from_slice(bytes);
        buf
    }
}

impl AlignedBuf {
    /// Makes the buffer `len` bytes long; what is added is zero.
    ///
    /// # Panics
    /// If `len` is no multiple of [`ALIGN`].
    pub fn resize(&mut self, len: usize) {
        if len > self.len() {
            let mut grown = Self::zeroed(len);
            grown.split_at_mut(self.len()).0.copy_from_slice(self);
            *self = grown;
        } else {
            assert!(
                len.is_multiple_of(ALIGN),
                "{len} bytes are no multiple of {ALIGN}"
            );
            self.pages.truncate(len / ALIGN);
            if self.pages.capacity() > 2 * self.pages.len() + 1 {
                self.pages.shrink_to_fit();
            }
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let len = self.pages.len() * ALIGN;
        // SAFETY: the pages are `len` initialised, contiguous bytes without padding (asserted
        // above), and borrowed for as long as the slice lives.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast::<u8>(), len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.pages.len() * ALIGN;
        // SAFETY: as for `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast::<u8>(), len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len())
    }
}

/// The highest multiple of [`ALIGN`] that is not above `offset`.
#[must_use]
pub const fn align_down(offset: u64) -> u64 {
    offset - offset % ALIGN as u64
}

/// The lowest multiple of [`ALIGN`] that is not below `offset`.
///
/// # Panics
/// If that is above `u64::MAX`, which no file reaches.
#[must_use]
pub const fn align_up(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_is_aligned_and_zero() {
        for pages in [0, 1, 3, 64] {
            let buf = AlignedBuf::zeroed(pages * ALIGN);
            assert_eq!(buf.len(), pages * ALIGN);
            assert!(buf.as_ptr().addr().is_multiple_of(ALIGN));
            assert!(buf.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn padded_keeps_the_bytes() {
        let buf = AlignedBuf::padded(&[7; 5000]);
        assert_eq!(buf.len(), 2 * ALIGN);
        assert!(buf[..5000].iter().all(|byte| *byte == 7));
        assert!(buf[5000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn resize_keeps_what_stays_and_zeroes_what_comes() {
        let mut buf = AlignedBuf::padded(&[7; 4 * ALIGN]);
        buf.resize(ALIGN);
        assert_eq!(buf[..], [7; ALIGN]);
        buf.resize(3 * ALIGN);
        assert_eq!(
            (buf.len(), &buf[..ALIGN], buf[ALIGN]),
            (3 * ALIGN, &[7; ALIGN][..], 0)
        );
        assert!(buf.as_ptr().addr().is_multiple_of(ALIGN));
    }

    #[test]
    fn align_rounds_both_ways() {
        assert_eq!(
            (align_down(4095), align_down(4096), align_down(8191)),
            (0, 4096, 4096)
        );
        assert_eq!((align_up(0), align_up(1), align_up(4096)), (0, 4096, 4096));
    }
}
