//! Tasks, on threads where the `rayon` feature is on and the work is worth it.

/// Elements of a block: 64 KiB of f32, which a second pass reads from the core's own cache.
pub(super) const BLOCK: usize = 1 << 14;

/// Elements below which waking threads costs more than the work: about 20 µs of it.
#[cfg(all(feature = "rayon", not(target_arch = "wasm32")))]
const WORTH_THREADS: usize = 1 << 16;

/// `f` of every task, in order; `elements` is the work in all of them together.
pub(super) fn map<I: Send, O: Send>(
    tasks: Vec<I>,
    elements: usize,
    f: impl Fn(I) -> O + Sync,
) -> Vec<O> {
    #[cfg(all(feature = "rayon", not(target_arch = "wasm32")))]
    // A pool of one thread would only put the caller to sleep.
    if elements >= WORTH_THREADS && tasks.len() > 1 && rayon::current_num_threads() > 1 {
        use rayon::prelude::*;
        return tasks.into_par_iter().map(&f).collect();
    }
    let _ = elements;
    tasks.into_iter().map(f).collect()
}

/// The pieces of `values` that are so long, one behind the other.
pub(super) fn split<T>(
    mut values: &mut [T],
    lens: impl IntoIterator<Item = usize>,
) -> Vec<&mut [T]> {
    let piece = |len| values.split_off_mut(..len).expect("the pieces are the whole");
    lens.into_iter().map(piece).collect()
}
