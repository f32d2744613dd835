//! Tensors of any element type and memory order from logical f64 values, and back.

use wgnorm::{Context, DType, Element, Error, MemoryOrder, Shape, ShapeError, Tensor, bf16, f16};

/// Where the elements of logical (N, C, S) lie: an array (n, before, c, after), whose positions are
/// those of `before` and then those of `after`. Channels first has nothing before, channels last
/// nothing after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    pub n: usize,
    pub before: usize,
    pub c: usize,
    pub after: usize,
}

impl Layout {
    pub fn first([n, c, s]: [usize; 3]) -> Layout {
        Layout { n, before: 1, c, after: s }
    }

    pub fn last([n, c, s]: [usize; 3]) -> Layout {
        Layout { n, before: s, c, after: 1 }
    }

    pub fn of([n, c, s]: [usize; 3], order: MemoryOrder) -> Layout {
        match order {
            MemoryOrder::ChannelsFirst => Layout::first([n, c, s]),
            MemoryOrder::ChannelsLast => Layout::last([n, c, s]),
        }
    }

    /// N, C, S.
    pub fn logical(&self) -> [usize; 3] {
        [self.n, self.c, self.before * self.after]
    }

    /// Of each logical element in turn, its place in memory.
    fn places(self) -> impl Iterator<Item = usize> {
        let Layout { n, before, c, after } = self;
        let s = before * after;
        (0..n * c * s).map(move |i| {
            let (n, channel, at) = (i / (c * s), i / s % c, i % s);
            ((n * before + at / after) * c + channel) * after + at % after
        })
    }

    pub fn to_memory<T: Copy + Default>(self, logical: &[T]) -> Vec<T> {
        let mut memory = vec![T::default(); logical.len()];
        for (place, &v) in self.places().zip(logical) {
            memory[place] = v;
        }
        memory
    }

    pub fn to_logical<T: Copy>(self, memory: &[T]) -> Vec<T> {
        self.places().map(|place| memory[place]).collect()
    }
}

/// As a tensor of this type holds it: rounded to nearest, ties to even.
pub fn rounded(dtype: DType, values: &[f64]) -> Vec<f64> {
    values.iter().map(|&v| round(dtype, v)).collect()
}

pub fn round(dtype: DType, v: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(v as f32),
        DType::F16 => {
            // What is beyond the largest number counts as the next one would.
            let of =
                |bits: u16| if bits == 0x7C00 { 65536.0 } else { f16::from_bits(bits).to_f64() };
            f16::from_bits(nearest(v, f16::from_f64(v).to_bits(), 0x7C00, of)).to_f64()
        }
        DType::BF16 => {
            let of = |bits: u16| match bits {
                0x7F80 => 2f64.powi(128),
                bits => bf16::from_bits(bits).to_f64(),
            };
            bf16::from_bits(nearest(v, bf16::from_f64(v).to_bits(), 0x7F80, of)).to_f64()
        }
        DType::F64 => v,
        other => panic!("{other} is not known"),
    }
}

/// The bits of the 16-bit number nearest to `v`, of two the even one, among a guess and its
/// neighbours: half's own conversion from f64 may miss a tie by one.
fn nearest(v: f64, guess: u16, infinity: u16, of: impl Fn(u16) -> f64) -> u16 {
    let (sign, guess) = (guess & 0x8000, guess & 0x7FFF);
    if v.is_nan() || v.is_infinite() {
        return sign | guess;
    }
    let candidates = guess.saturating_sub(1)..=(guess + 1).min(infinity);
    let key = |&bits: &u16| ((v.abs() - of(bits)).abs(), bits & 1);
    let order = |a: &u16, b: &u16| key(a).partial_cmp(&key(b)).expect("no NaN");
    sign | candidates.min_by(order).expect("one at least")
}

/// On the host, from values in memory order.
pub fn host(
    shape: impl Into<Shape>,
    dtype: DType,
    order: MemoryOrder,
    memory: &[f64],
) -> Result<Tensor<'static>, ShapeError> {
    fn of<T: Element>(
        shape: Shape,
        memory: &[f64],
        narrow: impl Fn(f64) -> T,
    ) -> Result<Tensor<'static>, ShapeError> {
        Tensor::from_vec_of(shape, memory.iter().map(|&v| narrow(v)).collect())
    }
    let shape = shape.into();
    let tensor = match dtype {
        DType::F32 => of(shape, memory, |v| v as f32),
        DType::F16 => of(shape, memory, f16::from_f64),
        DType::BF16 => of(shape, memory, bf16::from_f64),
        DType::F64 => of(shape, memory, |v| v),
        other => panic!("{other} is not known"),
    };
    Ok(tensor?.with_order(order))
}

/// Where `context` works.
pub fn place(
    context: &Context,
    shape: impl Into<Shape>,
    dtype: DType,
    order: MemoryOrder,
    memory: &[f64],
) -> Result<Tensor<'static>, Error> {
    host(shape, dtype, order, memory)?.to_context(context)
}

/// The values, widened.
#[cfg(not(target_arch = "wasm32"))]
pub fn read(tensor: &Tensor<'_>) -> Result<Vec<f64>, Error> {
    tensor.to_vec_of_blocking::<f64>()
}

/// [`read`], but in a browser by awaiting.
pub async fn fetch(tensor: &Tensor<'_>) -> Result<Vec<f64>, Error> {
    #[cfg(not(target_arch = "wasm32"))]
    return read(tensor);
    #[cfg(target_arch = "wasm32")]
    tensor.to_vec_of::<f64>().await
}
