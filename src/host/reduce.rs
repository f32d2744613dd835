//! One number per key from all elements with that key: of groups, or of parameters.

use super::parallel;
use super::walk::Walk;

/// Elements side by side that a block takes before it takes rows: 1 KiB of f32, so that memory is
/// read in lines and pages whatever the axes.
const PIECE: usize = 1 << 8;
/// The same of columns, of which each has costs of its own.
const COLUMNS_PIECE: usize = 1 << 10;

/// What parts of a reduction give. The default is that of no elements.
pub(super) trait Merge: Clone + Default + Send {
    fn merge(self, other: Self) -> Self;
}

/// The results of every key of `walk`, in order: `block` gives those of a box, whose keys are
/// numbered from 0, and they are merged in the order of memory.
pub(super) fn reduce<A: Merge>(walk: &Walk, block: impl Fn(&Walk) -> Vec<A> + Sync) -> Vec<A> {
    let boxes = boxes(walk);
    let parts = parallel::map(boxes.iter().collect(), walk.len(), |part| block(&numbered(part)));
    let mut results = vec![A::default(); walk.keys()];
    for (part, values) in boxes.iter().zip(parts) {
        if is_numbered(part) {
            merge(&mut results[part.base.key - walk.base.key..], values);
            continue;
        }
        for (key, value) in keys(part).zip(values) {
            let result = &mut results[key - walk.base.key];
            *result = std::mem::take(result).merge(value);
        }
    }
    results
}

/// Merges further results into those of the same keys.
pub(super) fn merge<A: Merge>(into: &mut [A], from: Vec<A>) {
    for (result, value) in into.iter_mut().zip(from) {
        *result = std::mem::take(result).merge(value);
    }
}

/// Boxes of at most [`Walk::block`] elements.
fn boxes(walk: &Walk) -> Vec<Walk> {
    let shape = shape(walk);
    let mut boxes = vec![walk.clone()];
    for (d, len) in shape.into_iter().enumerate() {
        if len < walk.axes[d].extent {
            boxes = boxes.iter().flat_map(|part| part.cuts(d, len)).collect();
        }
    }
    boxes
}

/// How far a box reaches along each axis: first so far that it reads pieces of memory, then over as
/// many elements of its keys, then over as many keys as fit.
fn shape(walk: &Walk) -> [usize; 4] {
    let (block, are_columns) = (walk.block(), walk.columns().is_some());
    let piece = if are_columns { COLUMNS_PIECE } else { PIECE };
    let mut shape = [1; 4];
    let grow = |shape: &mut [usize; 4], d: usize, limit: usize| {
        let others = shape.iter().product::<usize>() / shape[d];
        shape[d] = walk.axes[d].extent.min((limit / others).max(shape[d]));
    };
    for d in (0..4).rev() {
        grow(&mut shape, d, if walk.axes[d].is_reduced() { block } else { piece });
        if shape[d] < walk.axes[d].extent {
            break;
        }
    }
    for reduced in [true, false] {
        for d in (0..4).rev().filter(|&d| walk.axes[d].is_reduced() == reduced) {
            // A piece of columns is not made longer.
            if reduced || !are_columns || shape[d] == 1 {
                grow(&mut shape, d, block);
            }
        }
    }
    shape
}

/// The same box, its keys numbered from 0 without gaps.
fn numbered(walk: &Walk) -> Walk {
    let mut walk = walk.clone();
    walk.base.key = 0;
    let mut keys = 1;
    for axis in walk.axes.iter_mut().rev().filter(|axis| !axis.is_reduced()) {
        axis.stride.key = keys;
        keys *= axis.extent;
    }
    walk
}

/// Whether a box has its keys in the order of [`numbered`], without gaps, whatever the first one is.
fn is_numbered(walk: &Walk) -> bool {
    let axes = walk.axes.iter().zip(numbered(walk).axes);
    axes.into_iter().all(|(a, b)| a.extent == 1 || a.stride.key == b.stride.key)
}

/// The keys of a box as they are numbered in all, in the order of [`numbered`].
fn keys(walk: &Walk) -> impl Iterator<Item = usize> {
    let mut walk = walk.clone();
    for axis in walk.axes.iter_mut().filter(|axis| axis.is_reduced()) {
        axis.extent = 1;
    }
    let [a, b, c, d] = walk.axes;
    let along = |axis: super::walk::Axis| (0..axis.extent).map(move |i| i * axis.stride.key);
    let base = walk.base.key;
    along(a).flat_map(move |a| {
        along(b).flat_map(move |b| {
            along(c).flat_map(move |c| along(d).map(move |d| base + a + b + c + d))
        })
    })
}
