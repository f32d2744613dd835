//! Every golden case (`tests/golden/GOLDEN.md`) on every back end, each a test of its own:
//! `<device>/<op>/<case>`. A part of the name filters: `cargo test --test golden host/instance_norm`.
//!
//! What is ignored has its reason in front of its name, and is counted at the end.

mod common;
// Its directory's name is taken by the data.
#[path = "common/golden/mod.rs"]
mod golden;

use common::device;
use golden::index::{Case, Golden, directory};
use golden::{Run, folders, self_test};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use wgnorm::Context;

/// A device and what happened on it.
struct Tested {
    name: &'static str,
    context: Context,
    passed: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
    /// The largest share of its tolerance that a value needed, and its case.
    tightest: Mutex<(f64, String)>,
}

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let golden: &'static Golden = match Golden::load(&directory()) {
        Ok(golden) => Box::leak(Box::new(golden)),
        Err(error) => return without_vectors(&error),
    };
    let devices: &'static [Tested] =
        device::all().into_iter().map(tested).collect::<Vec<_>>().leak();
    let mut trials: Vec<Trial> = self_test::ALL
        .into_iter()
        .map(|(name, test)| Trial::test(name, move || Ok(self_test::run(golden, name, test)?)))
        .collect();
    if golden.own {
        let folders = folders::ALL.into_iter();
        trials.extend(folders.map(|(name, test)| Trial::test(name, move || Ok(test()?))));
    }
    for device in devices {
        trials.extend(golden.cases.iter().map(|case| trial(golden, case, device)));
    }
    let ignored = ignored(&args, &trials);
    let conclusion = libtest_mimic::run(&args, trials);
    if !args.list {
        summary(&golden.cases, devices, &ignored);
    }
    conclusion.exit_code()
}

/// The published package has no vectors; anywhere else their absence is a failure.
fn without_vectors(error: &str) -> ExitCode {
    eprintln!("golden: NOT RUN, no golden vectors: {error}");
    eprintln!(
        "golden: they are in the repository, tests/golden; WGNORM_GOLDEN_DIR names another place"
    );
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml.orig").exists();
    let asked = std::env::var_os("WGNORM_GOLDEN_DIR").is_some();
    if published && !asked { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tested(device: device::Device) -> Tested {
    Tested {
        name: device.name,
        context: device.context,
        passed: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        micros: AtomicU64::new(0),
        tightest: Mutex::default(),
    }
}

fn trial(golden: &'static Golden, case: &'static Case, on: &'static Tested) -> Trial {
    let name = format!("{}/{}/{}", on.name, case.op, case.id);
    let run = Run { golden, case, context: &on.context };
    let runner = match golden::supported(golden, case, run.on_gpu()) {
        Ok(runner) => runner,
        Err(reason) => {
            let kind = reason.clone();
            // Asked to run all the same, it says why it cannot.
            let trial = Trial::test(name, move || Err(Failed::from(reason)));
            return trial.with_ignored_flag(true).with_kind(kind);
        }
    };
    Trial::test(name, move || {
        let start = Instant::now();
        // Counted as failed unless it comes back: a panic does not.
        on.failed.fetch_add(1, Relaxed);
        let result = pollster::block_on(runner(&run));
        on.micros.fetch_add(start.elapsed().as_micros() as u64, Relaxed);
        let share = result?;
        on.failed.fetch_sub(1, Relaxed);
        on.passed.fetch_add(1, Relaxed);
        let mut tightest = on.tightest.lock().unwrap_or_else(PoisonError::into_inner);
        if share > tightest.0 {
            *tightest = (share, case.id.clone());
        }
        Ok(())
    })
}

/// How many tests each reason keeps from running, per device.
fn ignored(args: &Arguments, trials: &[Trial]) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for trial in trials.iter().filter(|t| !args.is_filtered_out(t) && args.is_ignored(t)) {
        let device = trial.name().split('/').next().unwrap_or_default();
        *counts.entry((device.to_owned(), trial.kind().to_owned())).or_default() += 1;
    }
    counts
}

/// One line per fact, each starting with `golden:`, for whoever reads a log.
fn summary(cases: &[Case], devices: &[Tested], ignored: &BTreeMap<(String, String), u64>) {
    for device in devices {
        let reasons: Vec<_> = ignored.iter().filter(|((on, _), _)| on == device.name).collect();
        let adapter = match device.context.to_string() {
            same if same == device.name => String::new(),
            adapter => format!(" ({adapter})"),
        };
        println!(
            "golden: {}{adapter} {} passed, {} failed, {} ignored; {:.1} s of work",
            device.name,
            device.passed.load(Relaxed),
            device.failed.load(Relaxed),
            reasons.iter().map(|(_, count)| **count).sum::<u64>(),
            device.micros.load(Relaxed) as f64 * 1e-6,
        );
        for ((_, reason), count) in reasons {
            println!("golden: {} ignored {count}: {reason}", device.name);
        }
        let (share, case) = &*device.tightest.lock().unwrap_or_else(PoisonError::into_inner);
        if !case.is_empty() {
            println!("golden: {} tightest {share:.2} of its tolerance: {case}", device.name);
        }
    }
    for (case, what) in golden::DEVIATIONS {
        println!("golden: deviation {case}: {what}");
    }
    for case in cases.iter().filter(|case| golden::deviates(case)) {
        if !golden::DEVIATIONS.iter().any(|(known, _)| *known == case.id) {
            println!("golden: deviation {}: as one of the above", case.id);
        }
    }
    for exception in golden::compare::EXCEPTIONS {
        println!("golden: exception {} {}: {}", exception.case, exception.name, exception.reason);
    }
}
