//! Channels last: elements side by side of different statistics, parameters or keys, the same again and
//! again along an axis of pixels.

use super::parallel::BLOCK;
use super::walk::{Axis, Indices, Walk};

/// Elements of a row, made of so many pixels: what a row costs is then little, and tables of several
/// operands stay in a core's first cache.
const ROW: usize = 1 << 9;
/// Rows are multiples of so many elements, the lanes of the widest registers, as far as pixels allow.
const WHOLE: usize = 16;
/// Elements of a block, so that what has to be done once per column is little beside it.
const COLUMNS_BLOCK: usize = 1 << 16;
/// Elements side by side that belong together, from which on they are runs by themselves.
const TOGETHER: usize = 1 << 6;
/// Elements of a pixel up to which such are columns: more are small planes of a sample, and the pixels
/// samples.
const WIDEST: usize = 1 << 12;

/// One element of each column, and the pixels, along which nothing but the data differs.
pub(super) struct Columns {
    pub each: Walk,
    pixels: Axis,
}

impl Walk {
    /// Elements of a block.
    pub fn block(&self) -> usize {
        if self.columns().is_some() { COLUMNS_BLOCK } else { BLOCK }
    }

    /// All elements as columns, those of one sample after the other; `None` if they are none.
    pub fn columns(&self) -> Option<impl Iterator<Item = Columns>> {
        // An axis of which one pixel was cut out still has its stride. That pixel is a column like all others, so that
        // its bits do not depend on where the cuts are.
        let only_data = |axis: &Axis| {
            axis.stride.data > 0
                && axis.stride == Indices { data: axis.stride.data, ..Indices::default() }
        };
        let pixels = (0..3).rev().find(|&d| only_data(&self.axes[d]))?;
        let inner = &self.axes[pixels + 1..];
        let mut len = 1;
        for axis in inner.iter().rev().filter(|axis| axis.extent > 1) {
            if axis.stride.data != len {
                return None;
            }
            len *= axis.extent;
        }
        let stride = self.axes[pixels].stride.data;
        let are_columns = if only_data(&self.axes[3]) {
            self.axes[3].extent < TOGETHER && len <= WIDEST && stride == len
        } else {
            stride >= len
        };
        (len > 1 && are_columns).then(|| self.columns_along(Some(pixels)))
    }

    /// Every innermost row as columns of one element each.
    pub fn pixels(&self) -> impl Iterator<Item = Columns> + use<> {
        self.columns_along(None)
    }

    /// The same with a key for each column, in the order of memory.
    pub fn by_column(&self) -> Walk {
        let mut walk = self.clone();
        let mut keys = 1;
        for axis in walk.axes.iter_mut().rev() {
            axis.stride.key = 0;
            if axis.stride != (Indices { data: axis.stride.data, ..Indices::default() }) {
                axis.stride.key = keys;
                keys *= axis.extent;
            }
        }
        Walk { base: Indices { key: 0, ..walk.base }, ..walk }
    }

    /// Columns at every position of the outer axes.
    fn columns_along(&self, pixels: Option<usize>) -> impl Iterator<Item = Columns> + use<> {
        let inner = pixels.map_or(3, |pixels| pixels + 1);
        let pixels = pixels.map_or(Axis::NONE, |pixels| self.axes[pixels]);
        let (mut outer, mut each) = (self.clone(), self.clone());
        outer.axes[inner..].fill(Axis::NONE);
        each.axes[..inner].fill(Axis::NONE);
        if pixels.extent > 1 {
            outer.axes[inner - 1] = Axis::NONE;
        }
        let starts: Vec<Indices> = outer.runs(1).map(|run| run.at).collect();
        let of = move |base| Columns { each: Walk { base, ..each.clone() }, pixels };
        starts.into_iter().map(of)
    }
}

impl Columns {
    /// How many.
    pub fn width(&self) -> usize {
        self.each.len()
    }

    /// Elements of each.
    pub fn count(&self) -> usize {
        self.pixels.extent
    }

    /// About so many elements of each, or all.
    pub fn samples(&self, count: usize) -> Columns {
        let Axis { extent, mut stride } = self.pixels;
        let step = (extent / count).max(1);
        stride.data *= step;
        let pixels = Axis { extent: extent.min(count), stride };
        Columns { each: self.each.clone(), pixels }
    }

    /// The operands of each.
    pub fn operands(&self) -> impl Iterator<Item = Indices> {
        self.each.runs(1).map(|run| run.at)
    }

    /// Pixels of a row: 1 if they do not lie side by side.
    pub fn repeats(&self) -> usize {
        let width = self.width();
        if !self.is_contiguous() || width >= ROW {
            return 1;
        }
        let even = WHOLE >> width.trailing_zeros().min(WHOLE.trailing_zeros());
        let even = if even * width <= 4 * ROW { even } else { 1 };
        ROW.div_ceil(width).next_multiple_of(even).min(self.count())
    }

    /// Elements of a row.
    pub fn row(&self) -> usize {
        self.repeats() * self.width()
    }

    /// A table of all columns as one along a row, wherever that begins.
    pub fn repeat<V: Copy>(&self, table: &mut Vec<V>) {
        let (width, len) = (table.len(), self.row() + WHOLE);
        while table.len() < len {
            table.extend_from_within(..width.min(len - table.len()));
        }
    }

    /// Sums along a row, or their like, as those of the columns.
    pub fn fold(&self, mut row: Vec<f64>) -> Vec<f64> {
        let width = self.width();
        for start in (width..row.len()).step_by(width) {
            let (to, from) = row.split_at_mut(start);
            to[..width].iter_mut().zip(from).for_each(|(to, from)| *to += *from);
        }
        row.truncate(width);
        row
    }

    /// All elements as rows, the last of which may be shorter, and so may be the first: of `head`
    /// elements, if there are more than those, and those are less than [`WHOLE`]. Their statistics and
    /// keys are numbered by column.
    pub fn rows(&self, head: usize) -> impl Iterator<Item = Walk> {
        let (width, row) = (self.width(), self.row());
        let Axis { extent, stride } = self.pixels;
        let contiguous = self.is_contiguous() || extent == 1;
        let of = |stat, data| Indices { data, stat, key: stat, ..Indices::default() };
        let start = self.each.base.data;
        let rows = move |at: usize, count: usize, len: usize, stride: usize| {
            let down = Axis { extent: count, stride: of(0, stride) };
            let along = Axis { extent: len, stride: of(1, 1) };
            let base = of(at % width, start + at);
            (count * len > 0).then_some(Walk { axes: [Axis::NONE, Axis::NONE, down, along], base })
        };
        let all = if contiguous {
            let all = extent * width;
            let head = if head < all.min(WHOLE) { head % row } else { 0 };
            let (count, left) = ((all - head) / row, (all - head) % row);
            [rows(0, 1, head, 0), rows(head, count, row, row), rows(all - left, 1, left, 0)]
        } else {
            [rows(0, extent, width, stride.data), None, None]
        };
        all.into_iter().flatten()
    }

    fn is_contiguous(&self) -> bool {
        self.pixels.stride.data == self.width()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_every_element_once_and_tables_reach_their_ends() {
        for (width, count) in [(1, 700), (3, 1000), (25, 100), (64, 40), (513, 3), (700, 2)] {
            let of = |data, each| Indices { data, stat: each, key: each, ..Indices::default() };
            let axis = |extent, data, each| Axis { extent, stride: of(data, each) };
            let each = [Axis::NONE, Axis::NONE, Axis::NONE, axis(width, 1, 1)];
            let base = of(1000, 7);
            let pixels = axis(count, width, 0);
            let columns = Columns { each: Walk { axes: each, base }, pixels };
            let mut table: Vec<usize> = (0..width).collect();
            columns.repeat(&mut table);
            for head in 0..2 * WHOLE {
                let mut seen = 0;
                for run in
                    columns.rows(head).flat_map(|rows| rows.runs(usize::MAX).collect::<Vec<_>>())
                {
                    assert_eq!(run.at.data, base.data + seen, "{width}×{count}, {head}");
                    let of_run = &table[run.at.stat..][..run.len];
                    assert!((seen..).zip(of_run).all(|(at, &column)| at % width == column));
                    seen += run.len;
                }
                assert_eq!(seen, width * count);
            }
        }
    }
}
