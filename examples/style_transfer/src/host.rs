//! The network on the host: convolutions as matrix products, normalizations through wgnorm's host context.

use gemm::Parallelism;
#[cfg(not(target_arch = "wasm32"))]
use rayon::prelude::*;
use wgnorm::{Activation, Context, Extras, Mode, NormLayer, Tensor};

use crate::error::Error;
use crate::executor::size_of;
use crate::net::{Finish, Geometry, Size, Stage, opens_block};
use crate::norms::{Norm, norm_of};

/// Values of a thread's part of the patch matrix (2 MiB): fewer cost more of packing the weights anew, more leave a
/// thread without work at the end. A quarter of it took 4 % longer for 256×256, twice as many 6 %.
const PATCH_VALUES: usize = 1 << 19;

/// A list of stages with their norms made on wgnorm's host context.
pub(crate) struct HostNet {
    context: Context,
    stages: Vec<Stage>,
    norms: Vec<Option<Norm>>,
}

impl HostNet {
    pub fn new(context: &Context, stages: &[Stage]) -> Result<HostNet, Error> {
        let norms = stages.iter().map(|stage| norm_of(stage, context)).collect::<Result<_, _>>()?;
        Ok(HostNet { context: context.clone(), stages: stages.to_vec(), norms })
    }

    /// How many stages there are.
    pub fn stages(&self) -> usize {
        self.stages.len()
    }

    /// The stages, and their norms.
    pub fn norms(&mut self) -> (&[Stage], &mut [Option<Norm>]) {
        (&self.stages, &mut self.norms)
    }

    /// Whether there is memory for a picture of this size.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check(&self, size: Size) -> Result<(), Error> {
        check(&self.stages, size)
    }

    /// What the stages make of `input`, of shape `(1, C, H, W)`.
    pub fn run(
        &self,
        input: Tensor<'_>,
        mut finished: impl FnMut(usize, &'static str),
    ) -> Result<Tensor<'static>, Error> {
        let mut size = size_of(&input);
        #[cfg(not(target_arch = "wasm32"))]
        self.check(size)?;
        let mut x = input;
        let mut block_input = None;
        for (index, (stage, norm)) in self.stages.iter().zip(&self.norms).enumerate() {
            let values = x.as_slice().expect("the host context keeps tensors on the host");
            let mut values = convolve(values, size, &stage.geometry, &stage.weight, &stage.bias);
            size = stage.geometry.output(size);
            if stage.finish.has_plain_relu() {
                // `max` would turn NaN into 0, and a spoiled picture into a black one.
                values
                    .iter_mut()
                    .for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value });
            }
            if stage.finish == Finish::ReluPool {
                values = pool(&values, size);
                size = Size::new(size.height / 2, size.width / 2);
            }
            let shape = [1, stage.geometry.out_channels, size.height, size.width];
            let convolved = Tensor::from_vec(shape, values)?;
            let y = match norm {
                None => convolved,
                Some(norm) => {
                    let extras = match stage.finish {
                        Finish::NormAddBlockInput => Extras::new()
                            .with_addend(block_input.as_ref().expect("a block was opened")),
                        _ => Extras::new().with_activation(Activation::Relu),
                    };
                    norm.forward_with(&self.context, &convolved, &extras, Mode::Eval)?
                }
            };
            if stage.finish == Finish::NormAddBlockInput {
                block_input = None;
            }
            if opens_block(&self.stages, index) {
                block_input = Some(x);
            }
            x = y;
            finished(index + 1, stage.name);
        }
        Ok(x.into_owned())
    }
}

/// Whether there is memory for a picture of this size. Where the system promises more than it has, nobody can tell.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn check(stages: &[Stage], size: Size) -> Result<(), Error> {
    // Threads take memory of their own when they start and first ask for some.
    rayon::broadcast(|_| drop(std::hint::black_box(Vec::<u8>::with_capacity(1))));
    let needed = bytes(stages, size);
    if is_there(needed) {
        return Ok(());
    }
    let longer = size.height.max(size.width) as f64;
    let mut suggestion = longer;
    let at = |longer: f64| bytes(stages, size.with_longer_side(longer as u32));
    while suggestion > 1.0 && !is_there(at(suggestion)) {
        suggestion *= 0.75;
    }
    Err(Error::Memory { size, needed, suggestion: suggestion as usize })
}

/// Bytes that are there at once: what a stage reads, convolves, and writes, and its block's input; beside these the
/// picture, its planes and those of the painting, the painting and its file; and each thread's part of the patch matrix,
/// which the product copies in another order; and an eighth for what is lost between them.
#[cfg(not(target_arch = "wasm32"))]
fn bytes(stages: &[Stage], mut size: Size) -> u64 {
    let mut largest = 0;
    let beside = (3 + 12 + 12 + 3 + 6) * size.area() as u64;
    let threads = 2 * 4 * PATCH_VALUES as u64 * rayon::current_num_threads() as u64;
    for Stage { geometry, finish, .. } in stages {
        size = geometry.output(size);
        largest = largest.max(size.area() as u64 * geometry.out_channels as u64 * 4);
        if *finish == Finish::ReluPool {
            size = Size::new(size.height / 2, size.width / 2);
        }
    }
    let sum = 4 * largest + beside + threads;
    sum + sum / 8
}

/// Whether so many bytes can be had at once.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn is_there(bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok())
}

/// Takes the largest of each 2x2 elements of the planes of `size`, or NaN if one of the four is. A last odd row or column is
/// left out.
fn pool(x: &[f32], size: Size) -> Vec<f32> {
    let (rows, columns) = (size.height / 2, size.width / 2);
    let mut y = Vec::with_capacity(x.len() / size.area() * rows * columns);
    for plane in x.chunks_exact(size.area()) {
        for pair in plane.chunks_exact(2 * size.width) {
            let (top, bottom) = pair.split_at(size.width);
            let largest = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
            let squares = top.chunks_exact(2).zip(bottom.chunks_exact(2));
            y.extend(squares.map(|(top, bottom)| {
                largest(largest(top[0], top[1]), largest(bottom[0], bottom[1]))
            }));
        }
    }
    y
}

/// Mirrors positions beside the edge of `n` elements; the edge itself is not repeated.
fn reflect(position: isize, n: usize) -> usize {
    let p = position.unsigned_abs();
    p.min((2 * (n - 1)).wrapping_sub(p))
}

/// The convolution of `x` (`in_channels` planes of `size`), padding and upsampling included, with weights in PyTorch's
/// order `(out, in, kernel, kernel)`.
///
/// The patch matrix (a row per input channel and kernel element, a column per output pixel) is made some columns at
/// a time and multiplied by the weights, each thread for itself: what it makes it finds in its own cache.
fn convolve(x: &[f32], size: Size, geometry: &Geometry, weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let output = geometry.output(size);
    let (pixels, depth) = (output.area(), geometry.depth());
    assert_eq!((weight.len(), bias.len()), (bias.len() * depth, geometry.out_channels));
    // Multiples of 64 columns keep the matrix product's inner loop on whole vectors.
    let columns = (PATCH_VALUES / depth).next_multiple_of(64).min(pixels);
    let patches = Patches::new(x, size, geometry);
    let mut y = vec![0.0; pixels * geometry.out_channels];
    let planes = Planes { start: y.as_mut_ptr(), pixels };
    let strip = |matrix: &mut Vec<f32>, strip: usize| {
        let first = strip * columns;
        let count = columns.min(pixels - first);
        let matrix = &mut matrix[..depth * count];
        for (row, values) in matrix.chunks_exact_mut(count).enumerate() {
            patches.fill(row, first, values);
        }
        // SAFETY: strips are apart, and inside the planes, which live as long as `y`.
        unsafe { planes.write_product(first, count, weight, bias, matrix) };
    };
    let (strips, matrix) = (0..pixels.div_ceil(columns), || vec![0.0; depth * columns]);
    #[cfg(not(target_arch = "wasm32"))]
    strips.into_par_iter().for_each_init(matrix, strip);
    // A page's module has one thread.
    #[cfg(target_arch = "wasm32")]
    strips.fold(matrix(), |mut matrix, index| {
        strip(&mut matrix, index);
        matrix
    });
    y
}

/// Output planes one behind the other, of which threads write different pixels.
struct Planes {
    start: *mut f32,
    /// Of each plane.
    pixels: usize,
}

// SAFETY: it is only written through, and `write_product` says where.
unsafe impl Sync for Planes {}

impl Planes {
    /// Writes `bias + weight · matrix` to `count` pixels of every plane, from `first` on: a row of `weight` for each
    /// plane, a column of `matrix` for each pixel.
    ///
    /// # Safety
    /// The planes, one for each `bias`, have these pixels, and nothing else uses them meanwhile.
    unsafe fn write_product(
        &self,
        first: usize,
        count: usize,
        weight: &[f32],
        bias: &[f32],
        matrix: &[f32],
    ) {
        let (planes, depth) = (bias.len(), matrix.len() / count);
        assert!(first + count <= self.pixels);
        assert_eq!((weight.len(), matrix.len()), (planes * depth, depth * count));
        let (y_row, weight_row, matrix_row) =
            (self.pixels as isize, depth as isize, count as isize);
        // SAFETY: `count` pixels from `first` on are in each plane, and the caller's alone. The product reads
        // planes x depth weights and depth x count values of the matrix, which the assertion counted.
        unsafe {
            let y = self.start.add(first);
            for (plane, &bias) in bias.iter().enumerate() {
                std::slice::from_raw_parts_mut(y.add(plane * self.pixels), count).fill(bias);
            }
            gemm::gemm(
                planes,
                count,
                depth,
                y,
                1,
                y_row,
                true,
                weight.as_ptr(),
                1,
                weight_row,
                matrix.as_ptr(),
                1,
                matrix_row,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// The patch matrix, of which any part of any row can be made.
struct Patches<'a> {
    x: &'a [f32],
    size: Size,
    geometry: Geometry,
    output: Size,
    /// `columns[kernel column][output column]` is the input column.
    columns: Vec<Vec<usize>>,
}

impl<'a> Patches<'a> {
    fn new(x: &'a [f32], size: Size, geometry: &Geometry) -> Patches<'a> {
        let (output, geometry) = (geometry.output(size), *geometry);
        let column = |tap: usize, column: usize| {
            Self::source(column * geometry.stride + tap, size.width, &geometry)
        };
        let row = |tap: usize| (0..output.width).map(|x| column(tap, x)).collect();
        let columns = (0..geometry.kernel).map(row).collect();
        Patches { x, size, geometry, output, columns }
    }

    /// Where the padded, upsampled position lies in an input of `n` elements.
    fn source(padded: usize, n: usize, geometry: &Geometry) -> usize {
        let position = padded as isize - (geometry.kernel / 2) as isize;
        reflect(position, n * geometry.upsample) / geometry.upsample
    }

    /// Row `row` of the matrix, from column (output pixel) `first` on.
    fn fill(&self, row: usize, first: usize, mut values: &mut [f32]) {
        let kernel = self.geometry.kernel;
        let (channel, tap_y, tap_x) =
            (row / (kernel * kernel), row / kernel % kernel, row % kernel);
        let plane = &self.x[channel * self.size.area()..][..self.size.area()];
        let (mut y, mut x) = (first / self.output.width, first % self.output.width);
        while !values.is_empty() {
            let (part, rest) = values.split_at_mut((self.output.width - x).min(values.len()));
            let source =
                Self::source(y * self.geometry.stride + tap_y, self.size.height, &self.geometry);
            let source = &plane[source * self.size.width..][..self.size.width];
            self.fill_row(tap_x, x, source, part);
            (values, y, x) = (rest, y + 1, 0);
        }
    }

    /// A piece of one output row, from column `first` on.
    fn fill_row(&self, tap: usize, first: usize, source: &[f32], values: &mut [f32]) {
        let columns = &self.columns[tap][first..first + values.len()];
        let pick = |values: &mut [f32], columns: &[usize]| {
            for (value, &column) in values.iter_mut().zip(columns) {
                *value = source[column];
            }
        };
        if self.geometry.stride != 1 || self.geometry.upsample != 1 {
            return pick(values, columns);
        }
        // Between the mirrored edges neighbours stay neighbours: copied, not picked.
        let padding = self.geometry.kernel / 2;
        let from = padding.saturating_sub(tap).clamp(first, first + values.len()) - first;
        let to =
            (self.size.width + padding - tap).clamp(first + from, first + values.len()) - first;
        pick(&mut values[..from], &columns[..from]);
        if from < to {
            values[from..to].copy_from_slice(&source[columns[from]..][..to - from]);
        }
        pick(&mut values[to..], &columns[to..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CONVOLUTIONS, Case, assert_close, textbook};

    #[test]
    fn convolutions_agree_with_the_textbook() {
        for (geometry, size) in CONVOLUTIONS {
            let case = Case::new(geometry, size);
            let y = convolve(&case.x, size, &geometry, &case.weight, &case.bias);
            assert_close(&y, &textbook(&case), &format!("{geometry:?} on {size}"));
        }
    }

    #[test]
    fn a_matrix_made_in_several_strips_is_the_same() {
        // depth 2592: 64 columns at a time, so that strips begin in the middle of rows.
        let geometry =
            Geometry { in_channels: 32, out_channels: 3, kernel: 9, stride: 1, upsample: 1 };
        let case = Case::new(geometry, Size::new(37, 41));
        let y = convolve(&case.x, case.size, &geometry, &case.weight, &case.bias);
        assert_close(&y, &textbook(&case), "strips");
    }

    #[test]
    fn pooling_takes_the_largest_and_leaves_out_the_odd() {
        let x: Vec<f32> = [1, 5, 9, 2, 3, 9, 9, 9, 9].map(|v| v as f32).into();
        let two_planes = [x.clone(), x.iter().map(|v| -v).collect()].concat();
        assert_eq!(pool(&two_planes, Size::new(3, 3)), [5.0, -1.0]);
        assert_eq!(pool(&[1.0, 2.0, 3.0, 4.0, -1.0, 7.0, 0.0, 0.0], Size::new(2, 4)), [7.0, 4.0]);
    }

    #[test]
    fn pooling_keeps_nan() {
        for place in 0..4 {
            let mut x = [f32::INFINITY, -1.0, 0.0, 2.0];
            x[place] = f32::NAN;
            assert!(pool(&x, Size::new(2, 2))[0].is_nan(), "{place}");
        }
    }

    #[test]
    fn reflection_mirrors_without_repeating_the_edge() {
        let mirrored: Vec<_> = (-4..9).map(|p| reflect(p, 5)).collect();
        assert_eq!(mirrored, [4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1, 0]);
    }
}
