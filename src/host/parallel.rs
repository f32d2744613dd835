//! Loops over chunks, on threads where the `rayon` feature is on and the work is worth it.

/// Elements of a block: 64 KiB of f32, which a second pass reads from the core's own cache.
pub(super) const BLOCK: usize = 1 << 14;

/// Elements below which waking threads costs more than the work: about 20 µs of it.
#[cfg(all(feature = "rayon", not(target_arch = "wasm32")))]
const WORTH_THREADS: usize = 1 << 15;

/// Calls `f(index, chunk)` for every chunk of `len` elements of `y`.
pub(super) fn for_each_chunk(y: &mut [f32], len: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    #[cfg(all(feature = "rayon", not(target_arch = "wasm32")))]
    if y.len() >= WORTH_THREADS && y.len() > len {
        use rayon::prelude::*;
        let chunks = y.par_chunks_mut(len).enumerate().with_min_len(batch(len));
        return chunks.for_each(|(i, chunk)| f(i, chunk));
    }
    y.chunks_mut(len).enumerate().for_each(|(i, chunk)| f(i, chunk));
}

/// As [`for_each_chunk`], collecting the results in order.
pub(super) fn map_chunks<T: Send>(
    y: &mut [f32],
    len: usize,
    f: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    #[cfg(all(feature = "rayon", not(target_arch = "wasm32")))]
    if y.len() >= WORTH_THREADS && y.len() > len {
        use rayon::prelude::*;
        let chunks = y.par_chunks_mut(len).enumerate().with_min_len(batch(len));
        return chunks.map(|(i, chunk)| f(i, chunk)).collect();
    }
    y.chunks_mut(len).enumerate().map(|(i, chunk)| f(i, chunk)).collect()
}

/// `f` of every block of `x`, in order.
pub(super) fn map_blocks<T: Send>(x: &[f32], f: impl Fn(&[f32]) -> T + Send + Sync) -> Vec<T> {
    #[cfg(all(feature = "rayon", not(target_arch = "wasm32")))]
    if x.len() >= WORTH_THREADS {
        use rayon::prelude::*;
        return x.par_chunks(BLOCK).map(f).collect();
    }
    x.chunks(BLOCK).map(f).collect()
}

/// Chunks that one task takes: tiny groups are not worth a task each.
#[cfg(all(feature = "rayon", not(target_arch = "wasm32")))]
fn batch(len: usize) -> usize {
    (BLOCK / len).max(1)
}
