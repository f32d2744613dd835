//! That the inputs are what the golden set means, and that the comparison can fail.

use super::compare::{EXCEPTIONS, Wanted};
use super::index::Golden;
use super::instance_norm::{OVERFLOW_ON_GPU, Params};
use super::instance_norm_behaviour as behaviour;
use super::{Run, deviations};
use crate::common::random;
use serde::Deserialize;
use wgnorm::{Context, Mode, ShapeError};

pub type SelfTest = fn(&Golden) -> Result<(), String>;

pub const ALL: [(&str, SelfTest); 5] = [
    ("self/formula_check", formula_check),
    ("self/formulas_equal_stored_tensors", formulas_equal_stored_tensors),
    ("self/tables_name_cases", tables_name_cases),
    ("self/perturbed_value_is_seen", perturbed_value_is_seen),
    ("self/wrong_error_is_seen", wrong_error_is_seen),
];

fn formula_check(golden: &Golden) -> Result<(), String> {
    let check = &golden.formula_check;
    for (name, want, got) in [
        ("uniform", &check.uniform, random::uniform(check.uniform.len(), check.seed, 1.0, 0.0)),
        ("gauss4", &check.gauss4, random::gauss4(check.gauss4.len(), check.seed, 1.0, 0.0)),
    ] {
        let want: Vec<f32> = want.iter().map(|&v| v as f32).collect();
        if want.is_empty() || got != want {
            return Err(format!("{name} starts with {got:?}, expected {want:?}"));
        }
    }
    Ok(())
}

/// In float32; the other types come with their support.
fn formulas_equal_stored_tensors(golden: &Golden) -> Result<(), String> {
    let mut compared = 0;
    for case in &golden.cases {
        for (name, input) in &case.inputs {
            let (Some(tensor), Some(formula)) = (&input.tensor, &input.formula) else { continue };
            // Channels-last tensors are stored in another order than formulas count in.
            let reordered = case.layout.as_deref() == Some("nhwc") && formula.rank() > 2;
            let float32 = formula.dtype == "float32" && input.dtype.as_deref() == Some("float32");
            if !float32 || reordered {
                continue;
            }
            let stored = golden.f32s(case.file()?, tensor)?;
            let same = stored
                .iter()
                .map(|v| v.to_bits())
                .eq(formula.values()?.iter().map(|v| v.to_bits()));
            if !same {
                return Err(format!("{}: {name} is not its formula", case.id));
            }
            compared += 1;
        }
    }
    if compared == 0 { Err("nothing to compare".into()) } else { Ok(()) }
}

/// A table that names no case would excuse nothing and say it does.
fn tables_name_cases(golden: &Golden) -> Result<(), String> {
    let exceptions = EXCEPTIONS.iter().map(|exception| exception.case);
    let mut names = deviations().map(|(id, _)| id).chain(OVERFLOW_ON_GPU).chain(exceptions);
    names.try_for_each(|id| golden.case(id).map(|_| ()))
}

/// Of every kind of expected tensor: with a stored truth, without, sampled, special values.
fn perturbed_value_is_seen(golden: &Golden) -> Result<(), String> {
    let context = &Context::host();
    for (id, name) in [
        ("in2d_aff_track_train", "y"),
        ("in2d_aff_track_train", "running_mean_out"),
        ("in2d_eps_1", "y"),
        ("in2d_offset_10000_std_1", "y"),
        ("in2d_large_1x3x224x224_off0", "y"),
        ("in2d_nan1", "y"),
    ] {
        let run = Run { golden, case: golden.case(id)?, context };
        let mut wanted = Wanted::load(&run, name)?;
        let mut got: Vec<f32> = vec![0.0; run.expected(name)?.shape.iter().flatten().product()];
        for (i, &want) in wanted.values.iter().enumerate() {
            got[wanted.sampled.as_ref().map_or(i, |index| index[i])] = want as f32;
        }
        // Only the sampled elements are known of a large output, not what its sums are of.
        wanted.forget_stats();
        wanted.check(&got).map_err(|error| format!("{id}: truth itself is off: {error}"))?;
        for i in [0, wanted.values.len() / 2, wanted.values.len() - 1] {
            let want = wanted.values[i];
            // A finite value becomes wrong by three bounds, then infinite, then NaN; NaN finite.
            for wrong in [want + 3.0 * wanted.bound(want), f64::INFINITY, f64::NAN, 1e9] {
                if wrong.is_nan() && want.is_nan() {
                    continue;
                }
                wanted.values[i] = wrong;
                if wanted.check(&got).is_ok() {
                    return Err(format!("{id}: {name}[{i}] = {wrong} instead of {want} passes"));
                }
            }
            wanted.values[i] = want;
        }
        if wanted.check(&got[1..]).is_ok() {
            return Err(format!("{id}: a missing value passes"));
        }
    }
    stats_are_seen(golden)
}

/// A large output whose sampled elements are right and whose others are not.
fn stats_are_seen(golden: &Golden) -> Result<(), String> {
    let (id, context) = ("in2d_large_1x3x224x224_off0", &Context::host());
    let run = Run { golden, case: golden.case(id)?, context };
    let wanted = Wanted::load(&run, "y")?;
    let mut got = vec![0.0; run.expected("y")?.shape.iter().flatten().product()];
    for (&at, &want) in wanted.sampled.iter().flatten().zip(&wanted.values) {
        got[at] = want as f32;
    }
    match wanted.check(&got) {
        Ok(_) => Err("an output right only where it is sampled passes".into()),
        Err(_) => Ok(()),
    }
}

/// Another variant, other numbers, or no error at all.
fn wrong_error_is_seen(golden: &Golden) -> Result<(), String> {
    let context = &Context::host();
    let refused = |id: &str| {
        let run = Run { golden, case: golden.case(id)?, context };
        let params = Params::deserialize(&run.case.params).map_err(|e| e.to_string())?;
        let right = behaviour::refusal::<2>(run.case, &params)?.ok_or("not refused")?;
        let got = behaviour::call::<2>(&run, &params, Mode::Train).map(|_| ());
        behaviour::same_refusal(got.clone(), &right)?;
        Ok::<_, String>(got)
    };
    let channels =
        |got| ShapeError::Channels { layer: "InstanceNorm2d", axis: 1, expected: 3, got }.into();
    for (got, wrong) in [
        (refused("check_hw1_train")?, channels(7)),
        (refused("check_channels_affine")?, channels(8)),
        (Ok(()), channels(7)),
    ] {
        if behaviour::same_refusal(got.clone(), &wrong).is_ok() {
            return Err(format!("{got:?} passes for {wrong:?}"));
        }
    }
    Ok(())
}
