//! Times the layers against a plain copy of the same bytes, on the same device and in the same run.
//!
//! ```text
//! cargo run --release --example bench_norms -- [--json] [--backend gpu|host] [--adapter NAME]
//!     [--filter TEXT] [--threads N] [--seconds S] [--batched N] [--plot FILE.svg] [--autotune FILE.json]
//! ```
//!
//! One line per operation and shape whose name contains TEXT. Without `--backend` it is the GPU if there
//! is one in hardware or `--adapter` names one, else the host. Inputs and outputs rotate over about
//! 192 MB of distinct tensors, so that none is in a cache because the call before left it there. Before
//! a case is timed its answer is checked: the host's against plain arithmetic in f64, a GPU's against
//! the host's.
//!
//! On a GPU forward calls are recorded into one compute pass, `--batched` many, and timed by the
//! device's timestamps where it has them; backward calls from submission to completion. With
//! `--autotune` the context measures what plans a call could have; what it found goes to the file, is
//! taken from there next time, and is compared with the planner's own plans on stderr.

mod answer;
mod calls;
mod cases;
mod clock;
mod copy;
mod gpu;
mod host;
mod plot;

use answer::Answer;
use calls::{Calls, Data};
use cases::{Case, cases};
use serde::Serialize;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wgnorm::Context;
use wgnorm::plan::{TunedCall, Tuning, Tunings};

type Failure = Box<dyn std::error::Error>;

/// Repetitions of a case whatever they take.
const REPS_MIN: usize = 5;

/// Something that cases run on.
trait Device {
    fn name(&self) -> String;
    /// What a case has to give, from elsewhere.
    fn expected(&self, case: &Case, data: &Data) -> Result<Answer, Failure>;
    fn prepare<'a>(&'a self, case: &Case, data: &Data) -> Result<Box<dyn Ready + 'a>, Failure>;
    fn context(&self) -> &Context;
}

/// A case with its tensors in place, and as many for the copy. Times are in milliseconds; `i` chooses
/// the tensors.
trait Ready {
    fn calls(&self) -> &Calls;
    fn norm(&mut self, i: usize) -> Result<f64, Failure>;
    /// How many ways to copy there are.
    fn copies(&self) -> usize;
    fn copy(&mut self, way: usize, i: usize) -> Result<f64, Failure>;
    /// Bytes that the plan of a call moves, where there is one.
    fn traffic(&self) -> Result<Option<u64>, Failure>;
}

/// One result, as it is printed.
#[derive(Serialize)]
struct Line {
    peer: &'static str,
    version: &'static str,
    device: String,
    op: &'static str,
    shape: &'static [usize],
    dtype: &'static str,
    layout: &'static str,
    ms_median: f64,
    ms_min: f64,
    /// The first call, pipelines compiled and memory taken.
    ms_first: f64,
    /// Bytes of the floor (x and y; backward x, dy and dx) per second.
    gbps: f64,
    /// Bytes read and written by the fastest copy per second.
    copy_gbps: f64,
    /// Of the median.
    fraction_of_copy: f64,
    /// Bytes that the plan moves over those of the floor.
    traffic_ratio: Option<f64>,
    scope: &'static str,
    rotated: usize,
    reps: usize,
}

#[derive(Default)]
struct Options {
    json: bool,
    backend: Option<wgnorm::Backend>,
    adapter: String,
    filter: String,
    threads: usize,
    /// For each case.
    budget: Duration,
    batched: usize,
    plot: Option<PathBuf>,
    autotune: Option<PathBuf>,
}

fn main() -> Result<(), Failure> {
    let options = parse()?;
    let device = open(&options)?;
    if let Some(file) = &options.autotune {
        if file.exists() {
            device.context().set_tunings(&serde_json::from_reader(File::open(file)?)?)?;
        }
        device.context().set_autotune(true);
    }
    let mut lines = Vec::new();
    for case in cases().into_iter().filter(|case| case.name().contains(&options.filter)) {
        let line = run(&*device, &case, options.budget)?;
        if options.json {
            println!("{}", serde_json::to_string(&line)?);
        } else {
            let Line { ms_median, gbps, copy_gbps, fraction_of_copy, .. } = line;
            let (name, percent) = (case.name(), 100.0 * fraction_of_copy);
            println!(
                "{name:42} {ms_median:8.3} ms {gbps:7.1} GB/s, copy {copy_gbps:7.1}: {percent:3.0} %"
            );
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(format!("no case has {:?} in its name", options.filter).into());
    }
    if let (Some(file), Some(tunings)) = (options.autotune, device.context().tunings())
        && !tunings.calls.is_empty()
    {
        serde_json::to_writer_pretty(File::create(file)?, &tunings)?;
        tell(&tunings);
    }
    options.plot.map_or(Ok(()), |file| plot::draw(&file, &lines))
}

/// How far the planner's own plans are from the fastest.
fn tell(tunings: &Tunings) {
    let of_fastest = |call: &TunedCall| call.planned_ns as f64 / call.tuned_ns as f64;
    let mut ratios: Vec<f64> = tunings.calls.iter().map(of_fastest).collect();
    let better = tunings.calls.iter().filter(|call| call.tuning != Tuning::Planned);
    eprintln!(
        "{}: {} of {} calls tuned; the planner's plans take {:.2} of the fastest ones' time in the \
         median, {:.2} at most",
        tunings.device,
        better.count(),
        ratios.len(),
        median(&mut ratios),
        ratios.last().unwrap_or(&1.0),
    );
}

fn open(options: &Options) -> Result<Box<dyn Device>, Failure> {
    use wgnorm::Backend;
    let adapter = match options.backend {
        Some(Backend::Host) => None,
        Some(Backend::Gpu) => Some(gpu::adapter(&options.adapter)?),
        None if options.adapter.is_empty() => {
            gpu::adapter("").ok().filter(|adapter| !gpu::is_software(adapter))
        }
        None => Some(gpu::adapter(&options.adapter)?),
    };
    Ok(match adapter {
        Some(adapter) => Box::new(gpu::Gpu::open(&adapter, options.batched)?),
        None => Box::new(host::Host::new(options.threads)?),
    })
}

/// Checks a case, then times it and the copies in turns.
fn run(device: &dyn Device, case: &Case, budget: Duration) -> Result<Line, Failure> {
    let data = Data::of(case);
    let mut ready = device.prepare(case, &data)?;
    let rotated = ready.calls().len();
    let first = Instant::now();
    ready.norm(0)?;
    let ms_first = first.elapsed().as_secs_f64() * 1e3;
    for i in 1..rotated {
        ready.norm(i)?;
    }
    answer::check(case, &ready.calls().answer()?, &device.expected(case, &data)?)?;
    let mut norm = Vec::new();
    let mut copies = vec![Vec::new(); ready.copies()];
    for way in 0..copies.len() {
        for i in 0..rotated {
            ready.copy(way, i)?;
        }
    }
    // A copy works on tensors far from those just touched.
    let apart = rotated / (copies.len() + 1);
    let started = Instant::now();
    while norm.len() < REPS_MIN || started.elapsed() < budget {
        let turn = norm.len();
        norm.push(ready.norm(turn)?);
        for (way, times) in copies.iter_mut().enumerate() {
            times.push(ready.copy(way, turn + (way + 1) * apart)?);
        }
    }
    let ms_median = median(&mut norm);
    let copy_ms = copies.iter_mut().map(|times| median(times)).fold(f64::INFINITY, f64::min);
    let gbps = case.floor_bytes() as f64 / ms_median / 1e6;
    let copy_gbps = 2.0 * case.bytes() as f64 / copy_ms / 1e6;
    Ok(Line {
        peer: "wgnorm",
        version: env!("CARGO_PKG_VERSION"),
        device: device.name(),
        op: case.op.name(),
        shape: case.shape,
        dtype: case.dtype_name(),
        layout: case.layout_name(),
        ms_median,
        ms_min: norm[0],
        ms_first,
        gbps,
        copy_gbps,
        fraction_of_copy: gbps / copy_gbps,
        traffic_ratio: ready.traffic()?.map(|bytes| bytes as f64 / case.floor_bytes() as f64),
        scope: "device-only",
        rotated,
        reps: norm.len(),
    })
}

/// Sorts them.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn parse() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    use wgnorm::Backend;
    let mut options = Options {
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        budget: Duration::from_millis(500),
        batched: 1,
        ..Options::default()
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => options.json = true,
            Long("backend") => {
                options.backend = Some(match parser.value()?.string()?.as_str() {
                    "gpu" => Backend::Gpu,
                    "host" => Backend::Host,
                    other => return Err(format!("no such back end: {other}").into()),
                });
            }
            Long("adapter") => options.adapter = parser.value()?.string()?,
            Long("filter") => options.filter = parser.value()?.string()?,
            Long("threads") => options.threads = parser.value()?.parse()?,
            Long("seconds") => {
                options.budget = Duration::from_secs_f64(parser.value()?.parse()?);
            }
            Long("batched") => options.batched = parser.value()?.parse::<usize>()?.max(1),
            Long("autotune") => options.autotune = Some(parser.value()?.into()),
            Long("plot") => options.plot = Some(parser.value()?.into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}
