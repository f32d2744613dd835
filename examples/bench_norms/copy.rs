//! The host's copies: memcpy, and stores that go past the caches.

use rayon::prelude::*;

/// A way to copy a slice into one as long.
pub type Copy = fn(&mut [u8], &[u8]);
pub const WAYS: [Copy; 2] = [<[u8]>::copy_from_slice, past_caches];

/// A piece per thread, on the threads of rayon's pool.
pub fn copy(way: Copy, to: &mut [u8], from: &[u8]) {
    let threads = rayon::current_num_threads();
    if threads == 1 {
        return way(to, from);
    }
    let piece = from.len().div_ceil(threads).next_multiple_of(64);
    to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(to, from)| way(to, from));
}

#[cfg(target_arch = "x86_64")]
fn past_caches(to: &mut [u8], from: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    assert_eq!(to.len(), from.len());
    let head = to.as_ptr().align_offset(64).min(to.len());
    let (to_head, to) = to.split_at_mut(head);
    let (from_head, from) = from.split_at(head);
    to_head.copy_from_slice(from_head);
    let (to_lines, to_rest) = to.as_chunks_mut::<64>();
    let (from_lines, from_rest) = from.as_chunks::<64>();
    for (to, from) in to_lines.iter_mut().zip(from_lines) {
        for i in (0..64).step_by(16) {
            // SAFETY: 16 bytes of 64 on both sides, and `to` is aligned to 64.
            unsafe {
                let value = _mm_loadu_si128(from.as_ptr().add(i).cast::<__m128i>());
                _mm_stream_si128(to.as_mut_ptr().add(i).cast::<__m128i>(), value);
            }
        }
    }
    to_rest.copy_from_slice(from_rest);
    // SAFETY: always there on x86-64.
    unsafe { _mm_sfence() }
}

#[cfg(not(target_arch = "x86_64"))]
fn past_caches(to: &mut [u8], from: &[u8]) {
    to.copy_from_slice(from);
}
