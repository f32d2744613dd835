//! PyTorch's activations and their gradients at the extremes of f32 (`tests/data/activations.py`), and how far a result may
//! be off.

use super::data;
use super::tolerance::half_ulp;
use safetensors::SafeTensors;
use std::str::FromStr;
use wgnorm::{Activation, Affine, Context, DType, Extras, LayerNorm, MemoryOrder, Mode, NormLayer};

static FILE: &[u8] = include_bytes!("../data/activations.safetensors");

/// What computes: its unit roundoff and what it makes of subnormal numbers differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arithmetic {
    /// The host's: activations are computed in f64, and a result is rounded once.
    F64,
    /// A GPU's, which may flush subnormal numbers to 0.
    F32,
}

/// An activation with an element to apply it to.
#[derive(Clone, Copy, Debug)]
pub struct Element {
    pub v: f32,
    pub dy: f32,
    /// act(v), where the file has it.
    pub y: Option<f32>,
    /// dy · act'(v).
    pub gradient: f32,
    /// act'(v) and act(v), whose sizes bound the rounding of a gradient.
    slope: f32,
    value: f32,
    /// `y` and `gradient` as PyTorch's own f32 kernels give them.
    pub torch: (Option<f32>, f32),
}

/// What PyTorch computes with one activation.
pub struct Expected {
    pub name: &'static str,
    pub activation: Activation,
    /// All places with dy = 1, then pairs of a place and another dy.
    pub elements: Vec<Element>,
}

/// Everything in the file.
pub fn all() -> Vec<Expected> {
    let file = SafeTensors::deserialize(FILE).expect("it is a safetensors file");
    let (_, header) = SafeTensors::read_metadata(FILE).expect("it has a header");
    let facts = header.metadata().as_ref().expect("it has metadata");
    let slope = |name: &str| Activation::LeakyRelu(f32::from_str(&facts[name]).expect("a slope"));
    let read = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data();
        data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let [v, at, dy] = ["v", "at", "dy"].map(read);
    let expected = |(name, activation): (&'static str, Activation)| {
        let of = |what: &str| read(&format!("{name}.{what}"));
        let [values, slopes, gradients] = ["value", "slope", "gradient"].map(of);
        let torch = ["value.f32", "slope.f32", "gradient.f32"].map(of);
        let place = |i: usize| Element {
            v: v[i],
            dy: 1.0,
            y: Some(values[i]),
            gradient: slopes[i],
            slope: slopes[i],
            value: values[i],
            torch: (Some(torch[0][i]), torch[1][i]),
        };
        let pair = |i: usize| {
            let same = |v: &f32| v.to_bits() == at[i].to_bits() || v.is_nan() && at[i].is_nan();
            let place = place(v.iter().position(same).expect("pairs are of places"));
            let torch = (None, torch[2][i]);
            Element { dy: dy[i], y: None, gradient: gradients[i], torch, ..place }
        };
        let elements = (0..v.len()).map(place).chain((0..at.len()).map(pair)).collect();
        Expected { name, activation, elements }
    };
    let leaky = ["leaky", "leaky_zero", "leaky_negative", "leaky_large"].map(|n| (n, slope(n)));
    let others = [
        ("relu", Activation::Relu),
        ("silu", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("gelu_tanh", Activation::GeluTanh),
        ("tanh", Activation::Tanh),
        ("sigmoid", Activation::Sigmoid),
    ];
    leaky.into_iter().chain(others).map(expected).collect()
}

impl Expected {
    /// Only the elements that this type holds.
    pub fn held_by(mut self, dtype: DType) -> Expected {
        let holds = |v: f32| v.is_nan() || data::round(dtype, v.into()) == f64::from(v);
        self.elements.retain(|e| holds(e.v) && holds(e.dy));
        self
    }

    /// The first result that is off, in words: `y` and `gradient` of the elements in turn, as `dtype` stores them.
    pub fn compare(
        &self,
        arithmetic: Arithmetic,
        dtype: DType,
        results: impl IntoIterator<Item = (f64, f64)>,
    ) -> Result<(), String> {
        let mut compared = 0;
        for (i, (e, (y, gradient))) in self.elements.iter().zip(results).enumerate() {
            let says = |what: &str, got: f64, want: f32| {
                let Element { v, dy, .. } = e;
                format!(
                    "{} [{i}]: {what} at {v:e} with dy {dy:e} is {got:e}, not {want:e}",
                    self.name
                )
            };
            if let Some(want) = e.y
                && !self.is_value(e, arithmetic, dtype, y, want)
            {
                return Err(says("y", y, want));
            }
            if !self.is_gradient(e, arithmetic, dtype, gradient) {
                return Err(says("the gradient", gradient, e.gradient));
            }
            compared += 1;
        }
        if compared == self.elements.len() { Ok(()) } else { Err(format!("{compared} results")) }
    }

    fn is_value(&self, e: &Element, on: Arithmetic, dtype: DType, got: f64, want: f32) -> bool {
        // 0 keeps its sign. (-0 is no place that sums end in: 0 and -0 are 0.)
        if e.v.to_bits() == 0 && got.is_sign_negative() != want.is_sign_negative() {
            return false;
        }
        let is = |want: f32| {
            let off = relative(on, want) * f64::from(want.abs()).min(f32::MAX.into());
            is_near(got, want, off + least(on), dtype, e.v.is_finite())
        };
        is(want) || (on == Arithmetic::F32 && e.v.is_subnormal() && is(self.at_zero(1.0).value))
    }

    fn is_gradient(&self, e: &Element, on: Arithmetic, dtype: DType, got: f64) -> bool {
        let is = |want: f32, dy: f32| {
            // A product's slope is a difference of two terms that are about this large.
            let is_product = matches!(
                self.activation,
                Activation::Silu | Activation::Gelu | Activation::GeluTanh
            );
            let size = if is_product { e.slope.abs().max(e.value.abs().min(1.0)) } else { e.slope };
            let size = f64::from(size.abs());
            let product = (size * f64::from(dy).abs()).min(f32::MAX.into());
            let off = relative(on, size as f32) * product;
            let flushed = least(on) * f64::from(dy).abs().clamp(1.0, f32::MAX.into());
            let near = is_near(got, want, off + flushed, dtype, e.v.is_finite() && dy.is_finite());
            // A slope below what PyTorch resolves, times infinity, is NaN there.
            let both = !want.is_finite() && !e.torch.1.is_finite();
            near || (both && want.is_nan() != e.torch.1.is_nan() && !got.is_finite())
        };
        let flushes = on == Arithmetic::F32;
        is(e.gradient, e.dy)
            || (flushes && e.v.is_subnormal() && is(self.at_zero(e.dy).gradient, e.dy))
            || (flushes && e.dy.is_subnormal() && is(0.0, 0.0))
    }

    /// The element at 0 with this dy.
    fn at_zero(&self, dy: f32) -> &Element {
        let same = |e: &&Element| e.v == 0.0 && (e.dy == dy || e.dy.is_nan() && dy.is_nan());
        self.elements.iter().find(same).expect("0 is among the places of pairs")
    }
}

/// How far a result of this size may be off, relative to itself. The tails of activations fall like exp(-x), so that x is
/// -ln of the size. WGSL's exp is off by 3 + 2|x| ULP at most, and is applied to x/2 and squared: 6 + 2x. A division is off
/// by 2.5, each of some products and sums, of which the longest chain has nine, by 1: 12 in all.
fn relative(on: Arithmetic, size: f32) -> f64 {
    let exponent = f64::from(-size.abs().clamp(f32::MIN_POSITIVE, 1.0).ln());
    match on {
        Arithmetic::F64 => 2f64.powi(-23),
        Arithmetic::F32 => (18.0 + 2.0 * exponent) * 2f64.powi(-23),
    }
}

/// What may be lost as a subnormal number; of f64's activations the file has f32's rounding.
fn least(on: Arithmetic) -> f64 {
    match on {
        Arithmetic::F64 => 2f64.powi(-149),
        Arithmetic::F32 => 2f64.powi(-126),
    }
}

/// Whether a result in `dtype` is within `off` of the number wanted. Finite operands may end on either side of the type's
/// largest number, where that is within `off`.
fn is_near(got: f64, want: f32, off: f64, dtype: DType, from_finite: bool) -> bool {
    let beyond = match dtype {
        DType::F16 => 65536.0,
        _ => 2f64.powi(128),
    };
    let stored = |v: f64| if v.abs() > beyond { f64::INFINITY.copysign(v) } else { v };
    let finite = |v: f64| match stored(v) {
        v if v.is_infinite() && from_finite => beyond.copysign(v),
        v => v,
    };
    // What f32 makes infinite, f64 still holds.
    let got = if dtype == DType::F64 { f64::from(got as f32) } else { got };
    let (near, wanted) = (finite(got), finite(want.into()));
    let off = off + half_ulp(dtype, wanted.min(beyond));
    (near.is_nan() && wanted.is_nan()) || near == wanted || (near - wanted).abs() <= off
}

/// Results of `LayerNorm` over one row of all elements: the addend is what the activation is applied to, since weight and
/// bias are 0.
pub async fn of_layer_norm(context: &Context, expected: &Expected) -> Result<(), String> {
    let n = expected.elements.len();
    let run = async || {
        let of = |values: Vec<f64>| {
            data::place(context, [1, n], DType::F32, MemoryOrder::ChannelsFirst, &values)
        };
        let each = |f: fn(&Element) -> f32| {
            expected.elements.iter().map(|e| f64::from(f(e))).collect::<Vec<_>>()
        };
        let zeros = data::host([n], DType::F32, MemoryOrder::ChannelsFirst, &vec![0.0; n])?;
        let mut layer = LayerNorm::config([n]).with_affine(Affine::Both).init(context)?;
        layer.set_weight(&zeros)?;
        layer.set_bias(&zeros)?;
        let x = of((0..n).map(|i| (i % 7) as f64).collect())?;
        let extras = Extras::new().with_addend(&of(each(|e| e.v))?);
        let extras = extras.with_activation(expected.activation);
        let (y, saved) = layer.forward_saved_with(context, &x, &extras, Mode::Train)?;
        let grads = layer.backward(context, &saved, &of(each(|e| e.dy))?)?;
        let daddend = grads.daddend.expect("there is an addend");
        Ok::<_, wgnorm::Error>((data::fetch(&y).await?, data::fetch(&daddend).await?))
    };
    let (y, daddend) = run().await.map_err(|error| error.to_string())?;
    expected.compare(arithmetic(context), DType::F32, y.into_iter().zip(daddend))
}

/// How activations are computed in a context.
pub fn arithmetic(context: &Context) -> Arithmetic {
    match context.backend() {
        wgnorm::Backend::Host => Arithmetic::F64,
        wgnorm::Backend::Gpu => Arithmetic::F32,
    }
}
