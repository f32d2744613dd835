//! How inputs map to views: the rows of the table in [`super`].

use crate::desc::{MemoryOrder, TensorDesc};
use crate::{Shape, ShapeError, View};

/// An input with channels as it lies in memory: `(n, before, c, after)`. Channels first has nothing
/// before the channels, channels last nothing after them.
///
/// Where an input is empty, `after` is 0 and the number of its statistics is kept if 32 bits hold
/// it, so that an empty shard's can be merged.
#[derive(Clone, Copy)]
pub(super) struct Map {
    n: u32,
    before: u32,
    c: u32,
    after: u32,
}

impl Map {
    /// `axis` holds the channels; axis 0 is the batch unless it holds them (unbatched).
    ///
    /// # Errors
    /// [`ShapeError::Channels`] if `expected` is another number of channels.
    pub fn new(
        layer: &'static str,
        x: &TensorDesc,
        axis: usize,
        expected: usize,
    ) -> Result<Self, ShapeError> {
        let got = x.shape[axis];
        if got != expected {
            return Err(ShapeError::Channels { layer, axis, expected, got });
        }
        Ok(Self::of(x, axis))
    }

    /// As [`new`](Self::new), of any number of channels.
    pub fn of(x: &TensorDesc, axis: usize) -> Self {
        let samples = if axis == 0 { 1 } else { x.shape[0] };
        if x.shape.elements() == 0 {
            // The other sizes may be anything.
            let c = u32::try_from(x.shape[axis]).unwrap_or(0);
            let n = u32::try_from(samples).ok().filter(|n| n.checked_mul(c).is_some());
            return Map { n: n.unwrap_or(0), before: 1, c, after: 0 };
        }
        let (before, after) = match x.order {
            MemoryOrder::ChannelsFirst => {
                (product(&x.shape[axis.min(1)..axis]), product(&x.shape[axis + 1..]))
            }
            MemoryOrder::ChannelsLast if axis <= 1 => (product(&x.shape[axis + 1..]), 1),
            // Axis 1 is the one moved to the end.
            MemoryOrder::ChannelsLast => {
                (product(&x.shape[2..axis]), product(&x.shape[axis + 1..]) * x.shape[1] as u32)
            }
        };
        // A TensorDesc holds at most u32::MAX elements, so all of this fits.
        Map { n: samples as u32, before, c: x.shape[axis] as u32, after }
    }

    /// A statistic per sample and channel.
    pub fn instance(self) -> View {
        let Map { n, before: a, c, after: b } = self;
        let param = [0, 1, 0, 0];
        let stat = [c, 1, 0, 0];
        if a == 1 {
            View { extent: [n, c, 1, b], data: [c * b, b, 0, 1], param, stat, mask: [b, 0, 0, 1] }
        } else if b == 1 {
            View { extent: [n, c, 1, a], data: [a * c, 1, 0, c], param, stat, mask: [a, 0, 0, 1] }
        } else {
            let (data, mask) = ([a * c * b, b, c * b, 1], [a * b, 0, b, 1]);
            View { extent: [n, c, a, b], data, param, stat, mask }
        }
    }

    /// A statistic per channel.
    pub fn batch(self) -> View {
        let Map { n, before: a, c, after: b } = self;
        let [param, stat] = [[0, 1, 0, 0]; 2];
        if b == 1 {
            let (data, mask) = ([0, 1, 0, c], [0, 0, 0, 1]);
            View { extent: [1, c, 1, n * a], data, param, stat, mask }
        } else {
            let (data, mask) = ([0, b, c * b, 1], [0, 0, b, 1]);
            View { extent: [1, c, n, b], data, param, stat, mask }
        }
    }

    /// A statistic per sample and group of channels; `groups` divides them.
    pub fn group(self, groups: u32) -> View {
        let Map { n, before: a, c, after: b } = self;
        let q = c / groups;
        let stat = [groups, 1, 0, 0];
        if a == 1 {
            let (data, mask) = ([c * b, q * b, b, 1], [b, 0, 0, 1]);
            View { extent: [n, groups, q, b], data, param: [0, q, 1, 0], stat, mask }
        } else {
            let (data, mask) = ([a * c, q, c, 1], [a, 0, 1, 0]);
            View { extent: [n, groups, a, q], data, param: [0, q, 0, 1], stat, mask }
        }
    }
}

/// A statistic per row of the trailing axes of x, which must have these sizes, none of them 0.
///
/// # Errors
/// [`ShapeError::Normalized`] for other sizes; [`ShapeError::Order`] for a channels-last batch that is
/// normalized as a whole: its parameters have more strides than a view.
pub(super) fn trailing(
    layer: &'static str,
    x: &TensorDesc,
    normalized: &Shape,
) -> Result<View, ShapeError> {
    if !x.shape.ends_with(normalized) {
        let (expected, got) = (normalized.clone(), x.shape.clone());
        return Err(ShapeError::Normalized { layer, expected, got });
    }
    let rank = x.shape.len();
    let inner = rank - normalized.len();
    let d = product(normalized);
    let mask = [0; 4];
    let empty = x.shape.elements() == 0;
    if x.order == MemoryOrder::ChannelsFirst || rank <= 2 || empty {
        let rows = if empty { 0 } else { product(&x.shape[..inner]) };
        let (extent, stat) = ([1, rows, 1, d], [0, 1, 0, 0]);
        return Ok(View { extent, data: [0, d, 0, 1], param: [0, 0, 0, 1], stat, mask });
    }
    let [n, c] = [x.shape[0] as u32, x.shape[1] as u32];
    if inner >= 2 {
        // Space alone: a statistic for each channel of each outer position.
        let outer = n * product(&x.shape[2..inner]);
        let (extent, data) = ([outer, c, 1, d], [d * c, 1, 0, c]);
        return Ok(View { extent, data, param: [0, 0, 0, 1], stat: [c, 1, 0, 0], mask });
    }
    if inner == 0 && n > 1 {
        let expected = MemoryOrder::ChannelsFirst;
        return Err(ShapeError::Order { layer, operand: "x", expected, got: x.order });
    }
    let s = product(&x.shape[2..]);
    let (extent, data) = ([1, n, s, c], [0, c * s, c, 1]);
    Ok(View { extent, data, param: [0, 0, 1, s], stat: [n, 1, 0, 0], mask })
}

/// Of sizes that a TensorDesc holds, not 0: at most u32::MAX.
fn product(sizes: &[usize]) -> u32 {
    sizes.iter().product::<usize>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Of every element, by its place in memory: group, parameter, mask position.
    type Elements = Vec<(Vec<usize>, usize, usize)>;

    fn dot(index: [u32; 4], strides: [u32; 4]) -> usize {
        index.iter().zip(strides).map(|(i, stride)| (i * stride) as usize).sum()
    }

    /// What the view says; groups are told apart by their statistic's index.
    fn walked(view: &View) -> Elements {
        let mut elements: Vec<Option<(usize, usize, usize)>> = vec![None; view.elements() as usize];
        let [a, b, c, d] = view.extent;
        for index in 0..a * b * c * d {
            let index = [index / (b * c * d), index / (c * d) % b, index / d % c, index % d];
            let slot = &mut elements[dot(index, view.data)];
            assert!(slot.is_none(), "visited twice: {view:?}");
            let [stat, param, mask] = [view.stat, view.param, view.mask].map(|s| dot(index, s));
            *slot = Some((stat, param, mask));
        }
        let of = |e: Option<(usize, usize, usize)>| e.map(|(s, p, m)| (vec![s], p, m));
        elements.into_iter().map(|e| of(e).expect("visited")).collect()
    }

    /// What a layer means: `group`, `param` and `mask` of an element's logical index.
    fn meant(
        x: &TensorDesc,
        channel: usize,
        of: impl Fn(&[usize]) -> (Vec<usize>, usize, usize),
    ) -> Elements {
        let rank = x.shape.len();
        let mut order: Vec<usize> = (0..rank).collect();
        if x.order == MemoryOrder::ChannelsLast {
            order.remove(channel);
            order.push(channel);
        }
        (0..x.shape.iter().product())
            .map(|mut at| {
                let mut index = vec![0; rank];
                for &axis in order.iter().rev() {
                    index[axis] = at % x.shape[axis];
                    at /= x.shape[axis];
                }
                of(&index)
            })
            .collect()
    }

    /// Equal but for how groups are named.
    fn assert_same(view: &View, want: Elements, case: &str) {
        let got = walked(view);
        assert_eq!(got.len(), want.len(), "{case}");
        let (mut there, mut back) = (HashMap::new(), HashMap::new());
        for (got, want) in got.iter().zip(&want) {
            assert_eq!((got.1, got.2), (want.1, want.2), "{case}: {view:?}");
            assert_eq!(there.entry(&got.0).or_insert(&want.0), &&want.0, "{case}: {view:?}");
            assert_eq!(back.entry(&want.0).or_insert(&got.0), &&got.0, "{case}: {view:?}");
        }
        assert_eq!(view.statistics() as usize, there.len(), "{case}");
    }

    fn flat(index: &[usize], shape: &[usize]) -> usize {
        index.iter().zip(shape).fold(0, |flat, (i, size)| flat * size + i)
    }

    fn without(sizes: &[usize], axis: usize) -> Vec<usize> {
        sizes.iter().enumerate().filter(|&(i, _)| i != axis).map(|(_, &size)| size).collect()
    }

    const SHAPES: [&[usize]; 9] = [
        &[2, 6, 5],
        &[2, 6, 3, 4],
        &[2, 6, 2, 3, 2],
        &[1, 6, 1, 4],
        &[3, 6, 1],
        &[2, 6],
        &[3, 1, 4],
        &[1, 1, 1],
        &[2, 4, 1, 3],
    ];

    fn inputs() -> impl Iterator<Item = TensorDesc> {
        use MemoryOrder::{ChannelsFirst, ChannelsLast};
        SHAPES.into_iter().flat_map(|shape| {
            [ChannelsFirst, ChannelsLast]
                .map(|order| TensorDesc::new(shape).unwrap().with_order(order))
        })
    }

    #[test]
    fn rows_of_channels_are_what_layers_mean() {
        for x in inputs() {
            let case = format!("{x:?}");
            let map = Map::new("", &x, 1, x.shape[1]).unwrap();
            let mask = |i: &[usize]| flat(&without(i, 1), &without(&x.shape, 1));
            let want = meant(&x, 1, |i| (vec![i[0], i[1]], i[1], mask(i)));
            assert_same(&map.instance(), want, &case);
            let want = meant(&x, 1, |i| (vec![i[1]], i[1], mask(i)));
            assert_same(&map.batch(), want, &case);
            for groups in (1..=6).filter(|groups| x.shape[1].is_multiple_of(*groups)) {
                let q = x.shape[1] / groups;
                let want = meant(&x, 1, |i| (vec![i[0], i[1] / q], i[1], mask(i)));
                assert_same(&map.group(groups as u32), want, &case);
            }
            // Unbatched: the first axis holds the channels.
            let map = Map::new("", &x, 0, x.shape[0]).unwrap();
            let want =
                meant(&x, 0, |i| (vec![i[0]], i[0], flat(&without(i, 0), &without(&x.shape, 0))));
            assert_same(&map.instance(), want, &case);
        }
    }

    #[test]
    fn any_axis_may_hold_the_channels() {
        for x in inputs() {
            for axis in 1..x.shape.len() {
                let view = Map::new("", &x, axis, x.shape[axis]).unwrap().instance();
                let masked = x.order == MemoryOrder::ChannelsFirst || axis == 1;
                // Elsewhere a mask is refused.
                let view = if masked { view } else { View { mask: [0; 4], ..view } };
                let mask = |i: &[usize]| flat(&without(i, axis), &without(&x.shape, axis));
                let want = meant(&x, 1, |i| {
                    (vec![i[0], i[axis]], i[axis], if masked { mask(i) } else { 0 })
                });
                assert_same(&view, want, &format!("{x:?} axis {axis}"));
            }
        }
    }

    #[test]
    fn rows_of_trailing_axes_are_what_layers_mean() {
        for x in inputs() {
            for axes in 1..=x.shape.len() {
                let inner = x.shape.len() - axes;
                let normalized = Shape::from(&x.shape[inner..]);
                let view = match trailing("", &x, &normalized) {
                    Ok(view) => view,
                    Err(refused) => {
                        assert!(matches!(refused, ShapeError::Order { .. }));
                        let last = x.order == MemoryOrder::ChannelsLast;
                        assert!(last && inner == 0 && x.shape[0] > 1 && axes > 2, "{x:?}");
                        continue;
                    }
                };
                let want =
                    meant(&x, 1, |i| (i[..inner].to_vec(), flat(&i[inner..], &normalized), 0));
                assert_same(&view, want, &format!("{x:?} over {normalized}"));
            }
        }
    }

    #[test]
    fn empty_inputs_keep_their_statistics() {
        let empty = |shape: [usize; 4]| Map::of(&TensorDesc::new(shape).unwrap(), 1);
        let none = empty([0, 3, 4, 4]);
        assert_eq!((none.instance().statistics(), none.batch().statistics()), (0, 3));
        let flat = empty([2, 3, 0, 4]);
        assert_eq!((flat.instance().statistics(), flat.batch().statistics()), (6, 3));
        assert_eq!(flat.group(3).statistics(), 6);
        // The other sizes may be anything.
        let huge = empty([0, 3, usize::MAX, usize::MAX]);
        assert_eq!((huge.instance().elements(), huge.batch().elements()), (0, 0));
        assert_eq!(empty([usize::MAX, 3, 0, 1]).instance().elements(), 0);
        let x = TensorDesc::new([0, usize::MAX, 5]).unwrap();
        assert_eq!(trailing("", &x, &[5].into()).unwrap().extent, [1, 0, 1, 5]);
    }
}
