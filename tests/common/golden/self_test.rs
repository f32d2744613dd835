//! That the inputs are what the golden set means, and that the comparison can fail.

use super::behaviour::{self, Refusal};
use super::compare::{EXCEPTIONS, Wanted};
use super::index::Golden;
use super::instance_norm::OVERFLOW_ON_GPU;
use super::values::{Outputs, Pass, compare};
use super::{DEVIATIONS, Run, network, runner};
use crate::common::random;
use std::collections::BTreeSet;
use wgnorm::{Context, ShapeError};

pub type SelfTest = fn(&Golden) -> Result<(), String>;

pub const ALL: [(&str, SelfTest); 8] = [
    ("self/formula_check", formula_check),
    ("self/formulas_equal_stored_tensors", formulas_equal_stored_tensors),
    ("self/tables_name_cases", tables_name_cases),
    ("self/every_case_has_a_runner", every_case_has_a_runner),
    ("self/perturbed_value_is_seen", perturbed_value_is_seen),
    ("self/perturbed_output_of_any_name_is_seen", perturbed_output_of_any_name_is_seen),
    ("self/wrong_error_is_seen", wrong_error_is_seen),
    ("self/perturbed_network_is_seen", network::perturbed_values_are_seen),
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

/// Of every element type and memory order that has both.
fn formulas_equal_stored_tensors(golden: &Golden) -> Result<(), String> {
    let mut kinds = BTreeSet::new();
    for case in &golden.cases {
        for (name, input) in &case.inputs {
            let (Some(tensor), Some(_)) = (&input.tensor, &input.formula) else { continue };
            let stored = golden.values(case.file()?, tensor)?;
            let formula = input.by_formula(case.is_nhwc())?;
            if !stored.iter().map(|v| v.to_bits()).eq(formula.iter().map(|v| v.to_bits())) {
                return Err(format!("{}: {name} is not its formula", case.id));
            }
            kinds.insert((input.dtype()?.to_string(), case.is_nhwc()));
        }
    }
    let wanted = ["bfloat16", "float16", "float32", "float64"].map(|dtype| (dtype.into(), false));
    let wanted: BTreeSet<_> = wanted.into_iter().chain([("float32".into(), true)]).collect();
    if kinds == wanted { Ok(()) } else { Err(format!("compared {kinds:?}")) }
}

/// A table that names no case would excuse nothing and say it does.
fn tables_name_cases(golden: &Golden) -> Result<(), String> {
    let exceptions = EXCEPTIONS.iter().map(|exception| exception.case);
    let deviations = DEVIATIONS.into_iter().map(|(id, _)| id);
    let mut names = deviations.chain(OVERFLOW_ON_GPU).chain(exceptions);
    names.try_for_each(|id| golden.case(id).map(|_| ()))
}

fn every_case_has_a_runner(golden: &Golden) -> Result<(), String> {
    match golden.cases.iter().find(|case| runner(&case.op).is_none()) {
        Some(case) => Err(format!("{} is of op {}", case.id, case.op)),
        None if golden.cases.is_empty() => Err("no cases".into()),
        None => Ok(()),
    }
}

/// Of every kind of expected tensor: with a stored truth, without, sampled, special values, 16-bit,
/// f64.
fn perturbed_value_is_seen(golden: &Golden) -> Result<(), String> {
    let context = &Context::host();
    for (id, name) in [
        ("in2d_aff_track_train", "y"),
        ("in2d_aff_track_train", "running_mean_out"),
        ("in2d_eps_1", "y"),
        ("in2d_offset_10000_std_1", "y"),
        ("in2d_large_1x3x224x224_off0", "y"),
        ("in2d_large_1x3x224x224_off0", "dx"),
        ("in2d_nan1", "y"),
        ("in2d_float16_same", "y"),
        ("in2d_bfloat16_f32params", "dx"),
        ("gn_float64", "dgamma"),
        ("nhwc_fused_2x3x5x4_train", "daddend"),
        ("cin_2x3x5x4", "dgamma_table"),
        ("adain_style_3x4x9", "dstyle"),
    ] {
        let run = Run { golden, case: golden.case(id)?, context };
        let mut wanted = Wanted::load(&run, name)?;
        let mut got: Vec<f64> = vec![0.0; run.expected(name)?.shape.iter().flatten().product()];
        for (i, &want) in wanted.values.iter().enumerate() {
            got[wanted.sampled.as_ref().map_or(i, |index| index[i])] = want;
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
        got[at] = want;
    }
    match wanted.check(&got) {
        Ok(_) => Err("an output right only where it is sampled passes".into()),
        Err(_) => Ok(()),
    }
}

/// Outputs as recorded pass; with one of them off, missing, or counted wrong they do not, whatever
/// its name.
fn perturbed_output_of_any_name_is_seen(golden: &Golden) -> Result<(), String> {
    let context = &Context::host();
    let mut seen = BTreeSet::new();
    for case in golden.cases.iter().filter(|case| case.tier == "core") {
        let run = Run { golden, case, context };
        // One case of each name and step will do.
        if case.expected.keys().all(|name| seen.contains(name)) || super::deviates(&case.id) {
            continue;
        }
        let mut outputs = Outputs::default();
        for (name, expected) in &case.expected {
            match expected.value {
                Some(count) => drop(outputs.counts.insert(name.clone(), count)),
                None => {
                    let wanted = Wanted::load(&run, name)?;
                    if wanted.sampled.is_none() {
                        outputs.tensors.insert(name.clone(), wanted.values);
                    }
                }
            }
        }
        if compare(&run, &outputs, Pass::Saved).is_err() {
            // Of a large one only samples are known.
            continue;
        }
        let fails = |outputs: &Outputs| compare(&run, outputs, Pass::Saved).is_err();
        for name in case.expected.keys() {
            if let Some(values) = outputs.tensors.remove(name) {
                let missing = fails(&outputs);
                let mut off = values.clone();
                off[0] = if off[0].is_nan() { 0.0 } else { off[0] * 1.1 + 0.5 };
                outputs.tensors.insert(name.clone(), off);
                let wrong = fails(&outputs);
                outputs.tensors.insert(name.clone(), values);
                if !(missing && wrong) {
                    return Err(format!("{}: {name} may be wrong or missing", case.id));
                }
            }
            if let Some(count) = outputs.counts.insert(name.clone(), u64::MAX) {
                if !fails(&outputs) {
                    return Err(format!("{}: {name} may be any number", case.id));
                }
                outputs.counts.insert(name.clone(), count);
            } else {
                outputs.counts.remove(name);
            }
            seen.insert(name);
        }
    }
    for name in ["y", "dx", "dgamma", "dbeta", "daddend", "dstyle", "dgamma_table", "dbeta_table"] {
        if !seen.iter().any(|seen| *seen == name) {
            return Err(format!("{name} was in no case"));
        }
    }
    Ok(())
}

/// Another variant, other numbers, or no error at all.
fn wrong_error_is_seen(golden: &Golden) -> Result<(), String> {
    let layer = "InstanceNorm2d";
    let refusal = Refusal { layer, ranks: "", axis: 1, channels: 3, own: Vec::new() };
    let of = |id: &str| refusal.of(golden.case(id)?)?.ok_or(format!("{id} is not refused"));
    let channels = |got| ShapeError::Channels { layer, axis: 1, expected: 3, got }.into();
    behaviour::same_refusal(Err(of("check_channels_affine")?), &channels(7))?;
    for (got, wrong) in [
        (Err(of("check_hw1_train")?), channels(7)),
        (Err(of("check_channels_affine")?), channels(8)),
        (Ok(()), channels(7)),
    ] {
        if behaviour::same_refusal(got.clone(), &wrong).is_ok() {
            return Err(format!("{got:?} passes for {wrong:?}"));
        }
    }
    Ok(())
}
