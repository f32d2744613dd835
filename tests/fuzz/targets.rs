//! Whatever an application hands over: the right answer or an error value, never a panic, a hang, or memory beyond
//! what was handed over. Each target is a test: it replays its corpus (`__fuzz__/…/corpus`), then makes cases at random for
//! a second, or for as long as `BOLERO_RANDOM_TEST_TIME_MS` says:
//!
//! ```sh
//! cargo test -p wgnorm-fuzz
//! ```
//!
//! With libFuzzer, guided by coverage, for as long as one likes; what it finds goes to `__fuzz__/…/crashes`, from where the
//! tests replay it, and what is new to `__fuzz__/…/corpus`:
//!
//! ```sh
//! cargo install cargo-bolero --no-default-features
//! cargo bolero test calls -p wgnorm-fuzz --no-default-features -l 96 -T 30m -s NONE
//! ```

mod bounds;
mod calls;
mod common;
#[cfg(feature = "gpu")]
mod gpu;
mod input;
#[path = "../plans/invariants.rs"]
mod invariants;
mod misuse;
mod planner;
mod state;

use bounds::within;
use std::panic::AssertUnwindSafe;
use wgnorm::{
    BatchNorm2d, Context, Error, InstanceNorm1d, LazyBatchNorm2d, Mode, NormLayer, RunError, Tensor,
};

#[test]
fn calls() {
    let context = AssertUnwindSafe(Context::host());
    bolero::check!().for_each(|bytes: &[u8]| {
        within(64 << 20, || calls::run(&context, bytes));
        context.trim();
    });
}

/// Compiling shaders takes longer than all else: a driver in software needs half a minute before this gets going.
#[cfg(feature = "gpu")]
#[test]
fn gpu() {
    let Some(gpu) = gpu::open() else { return };
    let contexts = AssertUnwindSafe([gpu, Context::host()]);
    bolero::check!()
        .for_each(|bytes: &[u8]| within(64 << 20, || gpu::run(contexts.each_ref(), bytes)));
}

#[test]
fn misuse() {
    let context = AssertUnwindSafe(Context::host());
    bolero::check!().for_each(|bytes: &[u8]| {
        within(128 << 20, || misuse::run(&context, bytes));
        context.trim();
    });
}

/// The GPU refuses what the host does, in the same words.
#[cfg(feature = "gpu")]
#[test]
fn gpu_misuse() {
    let Some(gpu) = gpu::open() else { return };
    let contexts = AssertUnwindSafe([gpu, Context::host()]);
    let case = |bytes: &[u8]| within(256 << 20, || gpu::misuse(contexts.each_ref(), bytes));
    // What libFuzzer found on the host reaches farther than chance, in more than a minute: each is a shader or more.
    if std::env::var_os("WGNORM_ALL_CASES").is_some() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/__fuzz__/misuse/corpus");
        for file in std::fs::read_dir(folder).expect("a corpus") {
            case(&std::fs::read(file.expect("a file").path()).expect("its bytes"));
        }
    }
    bolero::check!().for_each(case);
}

#[test]
fn planner() {
    bolero::check!()
        .with_max_len(64)
        .for_each(|bytes: &[u8]| within(64 << 20, || planner::run(bytes)));
}

#[test]
fn state() {
    bolero::check!().for_each(|bytes: &[u8]| within(32 << 20, || state::run(bytes)));
}

/// Found here. Elsewhere it would depend on the machine.
#[test]
fn memory_that_is_not_to_be_had() {
    let refused = |error: Error| matches!(error, Error::Run(RunError::OutOfMemory { .. }));
    let context = Context::host();
    let norm = InstanceNorm1d::config(4).init(&context).unwrap();
    let x = Tensor::from_vec([1 << 28, 4, 0], Vec::new()).unwrap();
    assert_eq!(norm.forward(&context, &x, Mode::Train).unwrap().shape(), x.shape());
    assert!(refused(norm.statistics(&context, &x, None).unwrap_err()));
    assert!(refused(norm.forward_saved(&context, &x, Mode::Train).err().unwrap()));
    let features = u32::MAX as usize;
    assert!(refused(BatchNorm2d::config(features).init(&context).unwrap_err()));
    let x = Tensor::from_vec([0, features, 1, 1], Vec::new()).unwrap();
    let lazy = LazyBatchNorm2d::new(BatchNorm2d::config(0), &context).unwrap();
    assert!(refused(lazy.forward(&context, &x, Mode::Train).unwrap_err()));
}
