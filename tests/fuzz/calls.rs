//! Any call: what the oracle says, or an error that says why not.

use crate::common::data;
use crate::common::oracle::{self, Moments};
use crate::common::suite::{self, ACTIVATIONS, Case, Data, Family, From, Masking};
use crate::common::tolerance::{self, Bound};
use crate::input::Input;
use wgnorm::{Activation, Affine, Backend, ConfigError, Context, DType, Error, MemoryOrder, Mode};

/// Elements of most tensors here, and of a few: enough for all of the host's ways.
const MOST: [usize; 2] = [1 << 11, 1 << 16];

/// Of x.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    /// As the suite has it, near the case's offset.
    Near,
    /// All the same.
    Constant(f64),
    /// Times a power of two.
    Scaled(i32),
    /// One element is no usual number.
    Spoilt(usize, f64),
}

pub fn run(context: &Context, bytes: &[u8]) {
    let input = &mut Input(bytes);
    let case = any_case(input);
    check(context, &case, input);
}

/// A call of this kind with any numbers.
pub fn check(context: &Context, case: &Case, input: &mut Input<'_>) {
    let pattern = any_pattern(input, context, case);
    if let Err(broken) = agrees(context, case, pattern) {
        panic!("{context} {case:?} {pattern:?}: {broken}");
    }
}

fn any_case(input: &mut Input<'_>) -> Case {
    const SAMPLES: [usize; 6] = [1, 2, 3, 0, 5, 17];
    const CHANNELS: [usize; 12] = [1, 2, 3, 4, 5, 6, 8, 12, 13, 32, 33, 139];
    const POSITIONS: [usize; 24] = [
        1, 2, 3, 4, 5, 0, 7, 8, 9, 13, 16, 17, 31, 32, 33, 49, 64, 97, 256, 257, 1000, 1025, 4099,
        20_001,
    ];
    let mut size = |usual: &[usize]| match input.byte() {
        byte @ 0..200 => usual[usize::from(byte) % usual.len()],
        _ => usize::from(input.byte()),
    };
    let [n, c, s] = [size(&SAMPLES), size(&CHANNELS).max(1), size(&POSITIONS)];
    let most = MOST[usize::from(input.byte() >= 250)];
    let s = s.min(most / (n * c).max(1)).max(s.min(1));
    let families = Family::all(c);
    let family = match families[usize::from(u16::from_le_bytes(input.bytes())) % families.len()] {
        Family::Bank(_) => Family::Bank(1 + input.below(4)),
        family => family,
    };
    let dtype = input.of(&[DType::F32, DType::F16, DType::BF16, DType::F64]);
    let wide = matches!(dtype, DType::F32 | DType::F64);
    Case {
        order: input.of(&[MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast]),
        dtype,
        param_dtype: if input.flag() { dtype } else { DType::F32 },
        mode: input.of(&[Mode::Train, Mode::Eval]),
        affine: input.of(&[Affine::Both, Affine::None, Affine::Weight, Affine::Bias]),
        activation: input.of(&ACTIVATIONS),
        addend: input.flag(),
        masking: input.of(&[Masking::None, Masking::None, Masking::Some, Masking::All]),
        from: input.of(&[
            From::Mode,
            From::Mode,
            From::Given { constant: true },
            From::Given { constant: false },
        ]),
        // What 16 bits hold beside a spread of 1.5.
        offset: input.of(&[0.5, 0.0, -30.0, 1000.0]) / if wide { 1.0 } else { 100.0 },
        eps: input.float(),
        seed: u16::from_le_bytes(input.bytes()).into(),
        ..Case::new(family, [n, c, s])
    }
    .fitted()
}

fn any_pattern(input: &mut Input<'_>, context: &Context, case: &Case) -> Pattern {
    // The host goes to f64 where f32 does not hold the squares; a GPU has none.
    let most = match case.dtype {
        _ if context.backend() == Backend::Gpu => 0,
        DType::F16 => 8,
        DType::F64 => 400,
        _ => 100,
    };
    match input.below(8) {
        0 => Pattern::Constant(input.float()),
        1 => Pattern::Scaled(i32::from(input.byte() as i8) * most / 128),
        2 => {
            let at = usize::from(u16::from_le_bytes(input.bytes()));
            Pattern::Spoilt(at, input.of(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]))
        }
        _ => Pattern::Near,
    }
}

fn agrees(context: &Context, case: &Case, pattern: Pattern) -> Result<(), String> {
    let [n, _, s] = case.shape;
    let rows = matches!(case.family, Family::Layer(_) | Family::Rms(_));
    // Rows of no elements are refused by the settings; a bank's weights are per sample.
    if rows && s == 0 || case.family.is_styled() && n == 0 {
        return Ok(());
    }
    let data = Data::new(case);
    let told = |error: Error| error.to_string();
    if !((case.eps as f32).is_finite() && case.eps >= 0.0) {
        return match suite::run(context, case, &data) {
            Err(Error::Config(ConfigError::Eps { .. })) => Ok(()),
            other => Err(format!("eps, but {other:?}")),
        };
    }
    if data.x.is_empty() {
        let got = suite::run(context, case, &data).map_err(told)?;
        let empty = got.y.is_empty() && got.dx.is_empty() && got.unsaved.is_empty();
        return if empty { Ok(()) } else { Err(format!("{got:?}")) };
    }
    match pattern {
        Pattern::Near => near(context, case, &data),
        Pattern::Constant(value) => constant(context, case, data, value),
        Pattern::Scaled(exponent) => scaled(context, case, data, exponent),
        Pattern::Spoilt(at, value) => spoilt(context, case, &data, at % data.x.len(), value),
    }
}

/// Whether the oracle's answer is one: not 0 / 0, and of a size that the types hold.
fn is_sound(case: &Case, data: &Data) -> bool {
    // Means of f64 have no residual beside them, so the spread must be more than their rounding, whatever eps is.
    if case.eps >= 1e10 || case.eps >= 1e-5 && case.dtype != DType::F64 {
        return case.eps < 1e10;
    }
    let spread = |moments: &[Moments]| moments.iter().all(|of| of.var > 1e-2);
    let of = case.norm();
    match (case.from, case.mode) {
        _ if case.family.is_styled() || case.masking == Masking::Some => false,
        (From::Given { .. }, _) => spread(&data.given(case)),
        (From::Mode, Mode::Eval) => true,
        (From::Mode, Mode::Train) => spread(&of.moments(&data.x)),
    }
}

fn near(context: &Context, case: &Case, data: &Data) -> Result<(), String> {
    let got = suite::run(context, case, data).map_err(|error| error.to_string())?;
    if is_sound(case, data) { suite::compare(case, data, &got) } else { Ok(()) }
}

/// A constant group gives the bias, to the bit.
fn constant(context: &Context, case: &Case, mut data: Data, value: f64) -> Result<(), String> {
    let value = data::round(case.dtype, value);
    data.x.iter_mut().filter(|v| !v.is_nan()).for_each(|v| *v = value);
    let got = suite::run(context, case, &data).map_err(|error| error.to_string())?;
    // Without a mean nothing is constant; tables made on the way are not known to the bit.
    let known = !matches!(case.family, Family::Rms(_) | Family::AdaInStyle | Family::Bank(_))
        && (case.from, case.mode, case.masking) == (From::Mode, Mode::Train, Masking::None)
        && value.is_finite()
        && !case.addend
        && !is_smooth(case.effective_activation());
    if !known {
        return Ok(());
    }
    let norm = case.norm();
    let bias = |param: usize| match case.affine.has_bias() {
        true => {
            data::round(case.dtype, oracle::activate(case.effective_activation(), data.bias[param]))
        }
        false => 0.0,
    };
    let want: Vec<f64> = norm.elements().map(|(_, n, c, s)| bias(norm.param(n, c, s))).collect();
    let same = got.y == want && got.unsaved == want;
    if same { Ok(()) } else { Err(format!("{:?}, not {want:?}", got.y)) }
}

/// Whether it rounds.
fn is_smooth(activation: Activation) -> bool {
    !matches!(activation, Activation::None | Activation::Relu)
}

/// Large and small numbers: y, whose scale stays.
fn scaled(context: &Context, case: &Case, mut data: Data, exponent: i32) -> Result<(), String> {
    let factor = 2f64.powi(exponent);
    data.x.iter_mut().for_each(|v| *v = data::round(case.dtype, *v * factor));
    let got = suite::run(context, case, &data).map_err(|error| error.to_string())?;
    let sound = case.eps >= 1e-5 && case.eps < 1e10;
    if !sound {
        return Ok(());
    }
    let given = data.given(case);
    let want = data.oracle(case, &given).forward(&data.x);
    let bound = Bound::new(tolerance::Y, case.dtype, case.dtype);
    bound.compare(&got.y, &want.y, &want.scale).map_err(|error| format!("y{error}"))?;
    bound.compare(&got.unsaved, &want.y, &want.scale).map_err(|error| format!("y, unsaved{error}"))
}

/// What is no number spoils its own group alone.
fn spoilt(
    context: &Context,
    case: &Case,
    data: &Data,
    at: usize,
    value: f64,
) -> Result<(), String> {
    let run = |data: &Data| suite::run(context, case, data).map_err(|error| error.to_string());
    let clean = run(data)?;
    let mut hit = data.clone();
    let counts = !hit.x[at].is_nan();
    hit.x[at] = value;
    let got = run(&hit)?;
    let norm = case.norm();
    let groups: Vec<usize> = norm.elements().map(|(_, n, c, _)| norm.group(n, c)).collect();
    for (name, got, clean) in [
        ("y", &got.y, &clean.y),
        ("y, unsaved", &got.unsaved, &clean.unsaved),
        ("dx", &got.dx, &clean.dx),
    ] {
        let kept = |i: usize| got[i].to_bits() == clean[i].to_bits();
        let others = |i: &usize| !counts || groups[*i] != groups[at];
        if let Some(i) = (0..got.len()).filter(others).find(|&i| !kept(i)) {
            return Err(format!("{name}[{i}] is {}, was {}", got[i], clean[i]));
        }
        if counts && value.is_nan() && name != "dx" && !got[at].is_nan() {
            return Err(format!("{name}[{at}] is {}", got[at]));
        }
    }
    Ok(())
}
