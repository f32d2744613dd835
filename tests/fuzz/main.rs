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
//! cargo bolero test -p wgnorm-fuzz --no-default-features -s NONE calls -T 30m
//! ```

mod bounds;
mod calls;
mod common;
mod input;
#[path = "../plans/invariants.rs"]
mod invariants;
mod misuse;
mod planner;
mod state;

use bounds::within;
use wgnorm::Context;

#[test]
fn calls() {
    let context = Context::host();
    bolero::check!().for_each(|bytes: &[u8]| {
        within(64 << 20, || calls::run(&context, bytes));
        context.trim();
    });
}

#[test]
fn misuse() {
    let context = Context::host();
    bolero::check!().for_each(|bytes: &[u8]| {
        within(128 << 20, || misuse::run(&context, bytes));
        context.trim();
    });
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
