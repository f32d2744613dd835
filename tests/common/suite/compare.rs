//! What a layer computed against what the oracle does.

use super::RATE;
use super::call::{Outcome, run};
use super::case::{Case, Family};
use super::numbers::{Data, mix};
use crate::common::oracle::{self, Gradients};
use crate::common::tolerance::{self, Bound};
use wgnorm::{Context, DType, Mode};

/// A case with its own numbers against the oracle.
pub fn check(context: &Context, case: &Case) -> Result<(), String> {
    let case = &case.clone().fitted();
    let data = Data::new(case);
    let outcome = run(context, case, &data).map_err(|error| format!("{case:?}: {error}"))?;
    compare(case, &data, &outcome).map_err(|error| format!("{context} {case:?}: {error}"))
}

pub fn compare(case: &Case, data: &Data, got: &Outcome) -> Result<(), String> {
    let given = data.given(case);
    let norm = data.oracle(case, &given);
    let (forward, backward) = (norm.forward(&data.x), norm.backward(&data.x, &data.dy));
    // Means of f64 have no residual beside them: far from 0 they are off by a rounding of themselves, which is up to
    // ten times as much of a spread of a tenth, in each of some terms. The oracle's are, too.
    let far =
        if case.dtype == DType::F64 { 80.0 * case.offset.abs() * 2f64.powi(-53) } else { 0.0 };
    let bound = |relative, stored| {
        let near = Bound::new(relative, case.dtype, stored);
        Bound { relative: near.relative + far, ..near }
    };
    let told = |name| move |error| format!("{name}{error}");
    let y = bound(tolerance::Y, case.dtype);
    y.compare(&got.y, &forward.y, &forward.scale).map_err(told("y"))?;
    y.compare(&got.unsaved, &forward.y, &forward.scale).map_err(told("y, unsaved"))?;
    let dx = bound(tolerance::DX, case.dtype);
    dx.compare(&got.dx, &backward.dx, &backward.dx_scale).map_err(told("dx"))?;
    let daddend = case.addend.then_some((&backward.daddend, &backward.daddend));
    optional(&got.daddend, daddend, y).map_err(told("daddend"))?;

    let gradient = if case.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let param = bound(tolerance::DPARAM, gradient);
    let [weight, bias] = parameters(case, data, &backward);
    optional(&got.dweight, weight.as_ref().map(|(v, scale)| (v, scale)), param)
        .map_err(told("dweight"))?;
    optional(&got.dbias, bias.as_ref().map(|(v, scale)| (v, scale)), param)
        .map_err(told("dbias"))?;
    let style = style(case, data, &backward);
    let dstyle = bound(tolerance::DPARAM, case.dtype);
    optional(&got.dstyle, style.as_ref().map(|(v, scale)| (v, scale)), dstyle)
        .map_err(told("dstyle"))?;

    if got.running.is_some() != case.family.tracks() {
        return Err(format!("running statistics are {:?}", got.running));
    }
    if let Some([mean, var]) = &got.running {
        let (want_mean, want_var) = match case.mode {
            Mode::Train => norm.running(&data.x, RATE, true, &data.mean, &data.var),
            Mode::Eval => (data.mean.clone(), data.var.clone()),
        };
        let running = bound(tolerance::RUNNING, case.param_dtype);
        running.compare(mean, &want_mean, &want_mean).map_err(told("running_mean"))?;
        running.compare(var, &want_var, &want_var).map_err(told("running_var"))?;
    }
    Ok(())
}

/// Values and the sizes that their rounding is relative to.
type Sized = (Vec<f64>, Vec<f64>);

fn optional(
    got: &Option<Vec<f64>>,
    want: Option<(&Vec<f64>, &Vec<f64>)>,
    bound: Bound,
) -> Result<(), String> {
    match (got, want) {
        (Some(got), Some((want, scale))) => bound.compare(got, want, scale),
        (None, None) => Ok(()),
        _ => Err(format!(" is {got:?}")),
    }
}

/// The gradients of weight and bias, as far as the call gives them; of a bank those of its styles.
fn parameters(case: &Case, data: &Data, of: &Gradients) -> [Option<Sized>; 2] {
    let [_, c, _] = case.shape;
    let weight = (of.dweight.clone(), of.dweight_scale.clone());
    let bias = (of.dbias.clone(), of.dbias_scale.clone());
    match case.family {
        Family::AdaInStyle => [None, None],
        Family::Bank(styles) => {
            let transposed: Vec<f64> = (0..styles)
                .flat_map(|k| data.blend.iter().skip(k).step_by(styles).copied())
                .collect();
            let sizes: Vec<f64> = transposed.iter().map(|v| v.abs()).collect();
            [weight, bias]
                .map(|(table, size)| Some((mix(&transposed, &table, c), mix(&sizes, &size, c))))
        }
        _ => {
            let affine = case.affine;
            [affine.has_weight().then_some(weight), affine.has_bias().then_some(bias)]
        }
    }
}

/// The gradient of the style.
fn style(case: &Case, data: &Data, of: &Gradients) -> Option<Sized> {
    let ([n, c, _], m) = (case.shape, case.style_len());
    if case.family != Family::AdaInStyle {
        return None;
    }
    let tables = [&of.dweight[..], &of.dbias[..]];
    let dstyle = oracle::style_gradient(&data.style, [n, c, m], case.eps, false, tables);
    // |(style − μ)/σ| is below 5 in this data.
    let size = |i: usize| (of.dbias_scale[i / m] + 5.0 * of.dweight_scale[i / m]) / m as f64;
    let sizes = (0..dstyle.len()).map(size).collect();
    Some((dstyle, sizes))
}
