//! Telling the processor what will be read soon, so that many waits for memory become one.
//!
//! One of the modules with unsafe code: the instruction is only reached through an intrinsic.
#![expect(
    unsafe_code,
    reason = "the prefetch intrinsic is unsafe on stable Rust"
)]

/// Asks for the cache line in which `place` begins. Where the processor has no such instruction,
/// it does nothing.
#[inline]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is a hint that neither reads nor faults, whatever the address;
        // SSE, which has it, is part of every x86-64 processor.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
