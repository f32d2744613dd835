//! The copy that everything is measured against: the better of memcpy and of stores past the caches.

use rayon::prelude::*;

/// Bytes from which on memory is copied past the caches.
pub fn best(threads: usize, from: &[u8], to: &mut [u8], stream: bool) {
    let piece = from.len().div_ceil(threads).next_multiple_of(64);
    let copy = if stream { past_caches } else { <[u8]>::copy_from_slice as fn(&mut [u8], &[u8]) };
    if threads == 1 {
        return copy_piece(copy, to, from);
    }
    to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(to, from)| copy(to, from));
}

fn copy_piece(copy: fn(&mut [u8], &[u8]), to: &mut [u8], from: &[u8]) {
    copy(to, from);
}

#[cfg(target_arch = "x86_64")]
fn past_caches(to: &mut [u8], from: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    let head = to.as_ptr().align_offset(64).min(to.len());
    to[..head].copy_from_slice(&from[..head]);
    let (to, from) = (&mut to[head..], &from[head..]);
    let lines = to.len() / 64;
    for line in 0..lines {
        let (to, from) = (&mut to[line * 64..][..64], &from[line * 64..][..64]);
        for i in 0..4 {
            // SAFETY: 64 bytes on both sides, and `to` is aligned to 64.
            unsafe {
                let value = _mm_loadu_si128(from.as_ptr().cast::<__m128i>().add(i));
                _mm_stream_si128(to.as_mut_ptr().cast::<__m128i>().add(i), value);
            }
        }
    }
    to[lines * 64..].copy_from_slice(&from[lines * 64..]);
    // SAFETY: always there on x86-64.
    unsafe { _mm_sfence() }
}

#[cfg(not(target_arch = "x86_64"))]
fn past_caches(to: &mut [u8], from: &[u8]) {
    to.copy_from_slice(from);
}
