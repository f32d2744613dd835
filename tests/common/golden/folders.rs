//! That this program runs any folder in the format of `GOLDEN.md`: other sizes, names and numbers of cases, and says
//! what it does not know. Each test runs the program again, on another folder.

use super::index::own_directory;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

pub type FolderTest = fn() -> Result<(), String>;

pub const ALL: [(&str, FolderTest); 4] = [
    ("folders/other_sizes_and_names", other_sizes_and_names),
    ("folders/a_part_of_the_cases", a_part_of_the_cases),
    ("folders/what_is_unknown_fails", what_is_unknown_fails),
    ("folders/a_wrong_network_fails", a_wrong_network_fails),
];

/// What the program says of a folder on the host, and whether all is well there.
fn run(folder: &Path) -> Result<(bool, String), String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    // GPUs take the same cases on the same way; they have had theirs.
    let mut command = Command::new(program);
    command.env("WGNORM_GOLDEN_DIR", folder).env_remove("WGNORM_REQUIRE_GPU");
    let output = command.args(["--skip", "gpu"]).output().map_err(|e| e.to_string())?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Runs a folder that is right; these must be in what is said.
fn passes(folder: &Path, wanted: &[&str]) -> Result<(), String> {
    let (success, said) = run(folder)?;
    match wanted.iter().find(|part| !said.contains(**part)) {
        None if success => Ok(()),
        missing => Err(format!("{missing:?} is missing, or it failed:\n{said}")),
    }
}

/// Runs a folder that is not.
fn fails(folder: &Path, wanted: &[&str]) -> Result<(), String> {
    let (success, said) = run(folder)?;
    match wanted.iter().find(|part| !said.contains(**part)) {
        None if !success => Ok(()),
        missing => Err(format!("{missing:?} is missing, or it passed:\n{said}")),
    }
}

/// From PyTorch: a network of 10 channels, 7 in its middle, on maps of 4x3, with two training steps.
fn other_sizes_and_names() -> Result<(), String> {
    let wanted = [
        "golden: host 3 passed, 0 failed, 0 ignored",
        "self/perturbed_value_is_seen SKIPPED: no case of a style's gradient",
        "self/wrong_error_is_seen SKIPPED: no case of refused channels",
    ];
    passes(&own_directory().join("other"), &wanted)
}

/// A copy of a folder with another index, which `edit` makes, and no more files than that names.
fn copied(
    from: &Path,
    edit: impl Fn(&mut Vec<Value>) -> Result<(), String>,
) -> Result<tempfile::TempDir, String> {
    let told = |error: std::io::Error| error.to_string();
    let folder = tempfile::tempdir().map_err(told)?;
    let index = std::fs::read(from.join("index.json")).map_err(told)?;
    let mut index: Value = serde_json::from_slice(&index).map_err(|e| e.to_string())?;
    let cases = index["cases"].as_array_mut().ok_or("no cases")?;
    edit(cases)?;
    let named = cases.iter().flat_map(|case| [&case["file"], &case["state_dict"]]);
    for name in named.filter_map(Value::as_str).collect::<BTreeSet<_>>() {
        std::fs::copy(from.join(name), folder.path().join(name)).map_err(told)?;
    }
    std::fs::write(folder.path().join("index.json"), index.to_string()).map_err(told)?;
    Ok(folder)
}

/// The first case of each op, under another name: fewer cases and files, none of the known names.
fn a_part_of_the_cases() -> Result<(), String> {
    let folder = copied(&own_directory(), |cases| {
        let mut ops = BTreeSet::new();
        cases.retain(|case| ops.insert(case["op"].to_string()) && case["op"] != "network");
        for case in cases {
            case["id"] = format!("other_{}", case["id"].as_str().ok_or("no id")?).into();
        }
        Ok(())
    })?;
    let wanted = [
        "golden: host 11 passed, 0 failed, 0 ignored",
        "self/perturbed_network_is_seen SKIPPED: no case of a network's training step",
    ];
    passes(folder.path(), &wanted)
}

/// Each in a case of its own.
fn what_is_unknown_fails() -> Result<(), String> {
    let edits: [(&str, Value, &str); 7] = [
        ("op", "spectral_norm".into(), "op spectral_norm is unknown"),
        ("layout", "nchw_vect_c".into(), "layout nchw_vect_c is unknown"),
        ("tier", "legend".into(), "tier legend is unknown"),
        ("param_dtype", "int4".into(), "parameter type int4 is unknown"),
        ("dtype", "complex64".into(), "complex64"),
        ("mode", "sleep".into(), "unknown mode sleep"),
        ("params", serde_json::json!({"gain": 3}), "unknown field `gain`"),
    ];
    for (field, value, wanted) in edits {
        let folder = copied(&own_directory().join("other"), |cases| {
            cases.retain(|case| case["id"] == "in_7");
            let case = cases.first_mut().ok_or("no such case")?;
            case[field] = value.clone();
            if field == "dtype" {
                case["inputs"]["x"]["dtype"] = value.clone();
            }
            Ok(())
        })?;
        fails(folder.path(), &["host 0 passed, 1 failed, 0 ignored", wanted])?;
    }
    Ok(())
}

/// Settings that the recording was not made with, a layer that the graph has not, and no phases.
fn a_wrong_network_fails() -> Result<(), String> {
    let edits: [(&str, &str, &str); 6] = [
        ("5, 10, eps=1e-05", "2, 10, eps=1e-05", "is recorded"),
        ("momentum=0.3", "momentum=0.4", "after.norm1.running"),
        ("eps=0.001", "eps=0.1", "is recorded"),
        ("GroupNorm", "LayerNorm", "known is one of"),
        (
            "stride=(1, 1), padding=(2, 2)",
            "stride=(2, 2), padding=(2, 2)",
            "does not keep the size",
        ),
        ("\"eval0\"", "\"test0\"", "unknown phase test0"),
    ];
    for (from, to, wanted) in edits {
        let folder = copied(&own_directory().join("other"), |cases| {
            cases.retain(|case| case["op"] == "network");
            let text = serde_json::to_string(cases).map_err(|e| e.to_string())?;
            if !text.contains(from) {
                return Err(format!("{from:?} is not in the index"));
            }
            *cases =
                serde_json::from_str(&text.replacen(from, to, 1)).map_err(|e| e.to_string())?;
            Ok(())
        })?;
        fails(folder.path(), &["host 0 passed, 1 failed, 0 ignored", wanted])?;
    }
    Ok(())
}
