//! That the inputs are what the golden set means, and that the comparison can fail. The cases for that are taken from
//! the folder under test. A kind of which it has no case is printed as skipped; in the repository's own folder it fails.

use super::behaviour::{self, Refusal};
use super::compare::{EXCEPTIONS, Wanted};
use super::index::{Case, Expected, Golden};
use super::instance_norm::{OVERFLOW_ON_GPU, overflows_on_gpu};
use super::values::{Outputs, Pass, compare};
use super::{DEVIATIONS, Run, deviates, network, runner};
use crate::common::random;
use std::collections::BTreeSet;
use wgnorm::{Context, ShapeError};

/// What is wrong, or what there was no case for.
pub type SelfTest = fn(&Golden) -> Result<Vec<String>, String>;

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

/// Runs one, and tells what it skipped.
pub fn run(golden: &Golden, name: &str, test: SelfTest) -> Result<(), String> {
    let skipped = test(golden)?;
    for what in &skipped {
        println!("golden: {name} SKIPPED: no case of {what}");
    }
    if golden.own && !skipped.is_empty() {
        return Err(format!("the repository's vectors have no case of {}", skipped.join(", ")));
    }
    Ok(())
}

fn formula_check(golden: &Golden) -> Result<Vec<String>, String> {
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
    Ok(Vec::new())
}

/// Of every element type and memory order that has both.
fn formulas_equal_stored_tensors(golden: &Golden) -> Result<Vec<String>, String> {
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
    let wanted = ["bfloat16", "float16", "float32", "float64"].map(|dtype| (dtype, false));
    let wanted = wanted.into_iter().chain([("float32", true)]);
    let missing = wanted.filter(|&(dtype, nhwc)| !kinds.contains(&(dtype.to_owned(), nhwc)));
    let told = |(dtype, nhwc)| format!("a stored tensor with its formula: {dtype}, nhwc {nhwc}");
    Ok(missing.map(told).collect())
}

/// A table that names no case would excuse nothing and say it does. Other folders have other names, so
/// there the cases themselves say which they are; in the repository's own folder both must agree.
fn tables_name_cases(golden: &Golden) -> Result<Vec<String>, String> {
    if !golden.own {
        return Ok(Vec::new());
    }
    EXCEPTIONS.iter().try_for_each(|exception| golden.case(exception.case).map(|_| ()))?;
    let told = |is: &dyn Fn(&Case) -> bool| {
        let cases = golden.cases.iter().filter(|case| is(case));
        cases.map(|case| case.id.as_str()).collect::<BTreeSet<_>>()
    };
    let deviations = DEVIATIONS.into_iter().map(|(id, _)| id).collect();
    let overflows = OVERFLOW_ON_GPU.into_iter().collect();
    for (told, table) in
        [(told(&deviates), deviations), (told(&|case| overflows_on_gpu(golden, case)), overflows)]
    {
        if told != table {
            let off: Vec<_> = told.symmetric_difference(&table).collect();
            return Err(format!("either told or in the table, not both: {off:?}"));
        }
    }
    Ok(Vec::new())
}

fn every_case_has_a_runner(golden: &Golden) -> Result<Vec<String>, String> {
    if let Some(case) = golden.cases.iter().find(|case| runner(&case.op).is_none()) {
        return Err(format!("{} is of op {}, which is unknown", case.id, case.op));
    }
    if let Some((id, what)) = golden.cases.iter().find_map(|c| Some((&c.id, c.unknown()?))) {
        return Err(format!("{id}: {what}"));
    }
    if golden.cases.is_empty() { Err("no cases".into()) } else { Ok(Vec::new()) }
}

/// An expected tensor of a kind that is compared in its own way.
type IsKind = fn(&Case, &str, &Expected) -> bool;

/// With a stored truth, without, sampled, special values, 16-bit, f64, of every op and memory order.
const KINDS: [(&str, IsKind); 13] = [
    ("y without a stored truth", |c, n, e| n == "y" && plain(c) && e.truth_f64.is_none()),
    ("y with a stored truth", |c, n, e| n == "y" && plain(c) && e.truth_f64.is_some()),
    ("y that is wrong in the recorded system", |_, n, e| n == "y" && e.prefer.is_some()),
    ("a running statistic", |_, n, _| n.starts_with("running_mean_out")),
    ("a sampled y", |_, n, e| n == "y" && e.sample_index.is_some()),
    ("a sampled gradient", |_, n, e| n == "dx" && e.sample_index.is_some()),
    ("y of an input with NaN", |c, n, _| n == "y" && c.id.contains("nan")),
    ("y in float16", |c, n, _| n == "y" && c.dtype_name() == "float16"),
    ("a gradient in bfloat16", |c, n, _| n == "dx" && c.dtype_name() == "bfloat16"),
    ("a parameter's gradient in float64", |c, n, _| n == "dgamma" && c.dtype_name() == "float64"),
    ("an addend's gradient in channels last", |c, n, _| n == "daddend" && c.is_nhwc()),
    ("the gradient of a bank of styles", |_, n, _| n == "dgamma_table"),
    ("a style's gradient", |_, n, _| n == "dstyle"),
];

/// Stored as a whole, in f32.
fn plain(case: &Case) -> bool {
    let whole = case.expected.values().all(|expected| expected.sample_index.is_none());
    whole && case.dtype_name() == "float32" && !case.is_nhwc()
}

/// Perturbs a value of every one of [`KINDS`], in the first case that has it.
fn perturbed_value_is_seen(golden: &Golden) -> Result<Vec<String>, String> {
    let context = &Context::host();
    let mut missing = Vec::new();
    for (kind, is_kind) in KINDS {
        let cases = golden.cases.iter().filter(|case| case.tier == "core");
        let mut named = cases.flat_map(|case| {
            let names = case.expected.iter().filter(|(name, e)| is_kind(case, name, e));
            names.map(move |(name, _)| (case, name.as_str()))
        });
        let Some((case, name)) = named.next() else {
            missing.push(kind.to_owned());
            continue;
        };
        let (id, run) = (&case.id, Run { golden, case, context });
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
                if wrong == want || wrong.is_nan() && want.is_nan() {
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
    missing.extend(stats_are_seen(golden)?);
    Ok(missing)
}

/// A large output whose sampled elements are right and whose others are not.
fn stats_are_seen(golden: &Golden) -> Result<Option<String>, String> {
    let sampled = |case: &&Case| case.expected.get("y").is_some_and(|y| y.stats.is_some());
    let Some(case) = golden.cases.iter().find(sampled) else {
        return Ok(Some("a sampled y with its sums".to_owned()));
    };
    let run = Run { golden, case, context: &Context::host() };
    let wanted = Wanted::load(&run, "y")?;
    let mut got = vec![0.0; run.expected("y")?.shape.iter().flatten().product()];
    for (&at, &want) in wanted.sampled.iter().flatten().zip(&wanted.values) {
        got[at] = want;
    }
    match wanted.check(&got) {
        Ok(_) => Err("an output right only where it is sampled passes".into()),
        Err(_) => Ok(None),
    }
}

/// Outputs as recorded pass; with one of them off, missing, or counted wrong they do not, whatever
/// its name.
fn perturbed_output_of_any_name_is_seen(golden: &Golden) -> Result<Vec<String>, String> {
    let context = &Context::host();
    let mut seen = BTreeSet::new();
    for case in golden.cases.iter().filter(|case| case.tier == "core") {
        let run = Run { golden, case, context };
        // One case of each name and step will do.
        if case.expected.keys().all(|name| seen.contains(name)) || deviates(case) {
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
    let names = ["y", "dx", "dgamma", "dbeta", "daddend", "dstyle", "dgamma_table", "dbeta_table"];
    let unseen = names.into_iter().filter(|name| !seen.iter().any(|seen| *seen == name));
    Ok(unseen.map(|name| format!("an output {name} that is stored as a whole")).collect())
}

/// Another variant, other numbers, or no error at all.
fn wrong_error_is_seen(golden: &Golden) -> Result<Vec<String>, String> {
    let refused = |part: &str| {
        let says = |case: &&Case| {
            let message = case.expect.as_ref().and_then(|expect| expect.message.as_deref());
            let of_2d =
                case.op == "instance_norm" && case.shape.as_ref().is_some_and(|s| s.len() == 4);
            of_2d && message.is_some_and(|message| message.contains(part))
        };
        golden.cases.iter().find(says)
    };
    let (Some(other_channels), Some(one_value)) =
        (refused("to match num_features"), refused("more than 1 spatial element"))
    else {
        return Ok(vec!["refused channels, and of a refused single value".to_owned()]);
    };
    let features = other_channels.params.get("num_features").and_then(|n| n.as_u64());
    let expected = features.ok_or("no num_features")? as usize;
    let found = other_channels.shape()?[1];
    let layer = "InstanceNorm2d";
    let refusal = Refusal { layer, ranks: "", axis: 1, channels: expected, own: Vec::new() };
    let of = |case: &Case| refusal.of(case)?.ok_or(format!("{} is not refused", case.id));
    let channels = |got| ShapeError::Channels { layer, axis: 1, expected, got }.into();
    behaviour::same_refusal(Err(of(other_channels)?), &channels(found))?;
    for (got, wrong) in [
        (Err(of(one_value)?), channels(found)),
        (Err(of(other_channels)?), channels(found + 1)),
        (Ok(()), channels(found)),
    ] {
        if behaviour::same_refusal(got.clone(), &wrong).is_ok() {
            return Err(format!("{got:?} passes for {wrong:?}"));
        }
    }
    Ok(Vec::new())
}
