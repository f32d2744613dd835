//! Whole networks against PyTorch's outputs: every network on every picture, on the host and on the GPU.
//!
//! The embedded styles are tested anywhere, on the picture in `tests/data`. `WGNORM_STYLE_DIR` names a folder with more
//! (`nets`, `own`, `images`, `reference`, as the README describes). `WGNORM_REQUIRE_GPU=1` makes a missing adapter
//! a failure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::{Dtype, SafeTensors};
use style_transfer::{Picture, Planes, STYLES, Size, Stylizer, TransformerNet};
use wgnorm::{Context, ContextOptions, Preference};

/// Of 255. PyTorch's own f32 differs from its f64 by up to 0.019; a right f32 implementation stays within these.
const MAX_ERROR: f64 = 0.1;
const MEAN_ERROR: f64 = 0.005;

/// For the last line of each device: how many outputs passed, and their largest errors.
static WORST: Mutex<BTreeMap<&str, (usize, Errors)>> = Mutex::new(BTreeMap::new());

/// One network, one picture, and what PyTorch makes of them.
#[derive(Clone)]
struct Case {
    name: String,
    net: Net,
    image: PathBuf,
    reference: PathBuf,
}

#[derive(Clone)]
enum Net {
    Embedded(usize),
    File(PathBuf),
}

fn main() {
    let arguments = Arguments::from_args();
    let mut cases = embedded_cases();
    let mut trials = vec![
        Trial::test("self_test__perturbed_output_is_noticed", perturbed_output_is_noticed),
        Trial::test("self_test__reference_of_another_style_is_noticed", other_style_is_noticed),
    ];
    match std::env::var_os("WGNORM_STYLE_DIR") {
        Some(folder) => cases.extend(folder_cases(Path::new(&folder))),
        None => {
            println!("SKIPPED: WGNORM_STYLE_DIR is not set: only the embedded styles are tested");
            let reason = "all/networks (ignored: WGNORM_STYLE_DIR is not set)";
            trials.push(Trial::test(reason, || Ok(())).with_ignored_flag(true));
        }
    }
    add(&mut trials, "host", &Context::host(), &cases);
    let options = ContextOptions {
        preference: Preference::Gpu,
        allow_software: true,
        ..ContextOptions::default()
    };
    match Context::open_with_blocking(&options) {
        Ok(context) => {
            println!("gpu is {context}");
            let swiftshader = context.to_string().contains("SwiftShader");
            if swiftshader {
                println!(
                    "SKIPPED on SwiftShader, which is slow: only the embedded styles and width 8, on 128x128 and less"
                );
                cases.retain(|case| {
                    let small = case.image.to_string_lossy().contains("flower");
                    let own = STYLES.iter().any(|style| case.name.starts_with(style.name));
                    small && (own || case.name.contains("nc8"))
                });
            }
            add(&mut trials, "gpu", &context, &cases);
        }
        Err(error) if std::env::var_os("WGNORM_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            trials.push(Trial::test("gpu/adapter", move || Err(error.into())));
        }
        Err(error) => {
            println!("SKIPPED: no GPU ({error}): networks are tested on the host only");
            let reason = "gpu/networks (ignored: no adapter)";
            trials.push(Trial::test(reason, || Ok(())).with_ignored_flag(true));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (device, (outputs, worst)) in
        WORST.lock().expect("no test panics while it holds this").iter()
    {
        println!("{device}: {outputs} outputs, worst {worst} of 255");
    }
    conclusion.exit();
}

fn add(trials: &mut Vec<Trial>, device: &'static str, context: &Context, cases: &[Case]) {
    for case in cases {
        let (case, context) = (Arc::new(case.clone()), context.clone());
        let name = format!("{device}/{}", case.name);
        trials.push(Trial::test(name, move || {
            let output = run(&context, &case)?;
            let errors = compare(&output, &case.reference)?;
            let mut worst = WORST.lock().expect("no test panics while it holds this");
            let (outputs, worst) = worst.entry(device).or_default();
            *outputs += 1;
            *worst = Errors { max: worst.max.max(errors.max), mean: worst.mean.max(errors.mean) };
            Ok(())
        }));
    }
    let context = context.clone();
    trials.push(Trial::test(format!("{device}/one_stylizer_for_many_pictures"), move || {
        reused(&context)
    }));
}

/// A stylizer that has painted other sizes in between paints the first picture as before, bit for bit.
fn reused(context: &Context) -> Result<(), Failed> {
    let picture = Picture::open(&data("flower_128x128.png"))?;
    let net = STYLES[1].net()?;
    pollster::block_on(async {
        let mut stylizer = Stylizer::new(context, &net).await?;
        let first = stylizer.stylize(&picture.resized(48), |_| {}).await?;
        let again = stylizer.stylize(&picture.resized(48), |_| {}).await?;
        let other = stylizer.stylize(&picture.resized(37), |_| {}).await?;
        let back = stylizer.stylize(&picture.resized(48), |_| {}).await?;
        if again != first || back != first {
            return Err("the same picture was painted differently".into());
        }
        if other.size() != Size::new(37, 37) {
            return Err(format!("37x37 came back as {}", other.size()).into());
        }
        Ok(())
    })
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)
}

fn embedded_cases() -> Vec<Case> {
    let case = |(index, style): (usize, &style_transfer::Style)| Case {
        name: format!("{}__flower_128x128", style.name),
        net: Net::Embedded(index),
        image: data("flower_128x128.png"),
        reference: data(&format!("{}__flower_128x128.safetensors", style.name)),
    };
    STYLES.iter().enumerate().map(case).collect()
}

/// Every network of the folder on every picture; a missing reference is a failing test, not a missing one.
fn folder_cases(folder: &Path) -> Vec<Case> {
    let files = |below: &str, ending: &str| {
        let entries = std::fs::read_dir(folder.join(below)).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == ending));
        paths.sort();
        assert!(
            !paths.is_empty(),
            "WGNORM_STYLE_DIR: no .{ending} files in {}",
            folder.join(below).display()
        );
        paths
    };
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut cases = Vec::new();
    for net in files("nets", "safetensors").into_iter().chain(files("own", "safetensors")) {
        for image in files("images", "png") {
            let name = format!("{}__{}", stem(&net), stem(&image));
            let embedded = STYLES.iter().position(|style| style.name == stem(&net));
            if embedded.is_some() && stem(&image) == "flower_128x128" {
                continue; // among the embedded cases
            }
            let reference = folder.join("reference").join(format!("{name}.safetensors"));
            cases.push(Case { name, net: Net::File(net.clone()), image, reference });
        }
    }
    cases
}

fn run(context: &Context, case: &Case) -> Result<Planes, Failed> {
    let net = match &case.net {
        Net::Embedded(index) => STYLES[*index].net()?,
        Net::File(path) => TransformerNet::from_safetensors(&std::fs::read(path)?)?,
    };
    let picture = Picture::open(&case.image)?;
    let mut stages = 0;
    let output = pollster::block_on(async {
        let mut stylizer = Stylizer::new(context, &net).await?;
        stylizer.run(&picture.to_planes()?, |progress| stages = progress.done).await
    })?;
    if stages != net.stages().len() {
        return Err(format!("progress ended at stage {stages} of {}", net.stages().len()).into());
    }
    Ok(output)
}

/// The largest and the mean error of a comparison.
#[derive(Clone, Copy, Default)]
struct Errors {
    max: f64,
    mean: f64,
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "max {:.5}, mean {:.6}", self.max, self.mean)
    }
}

/// Compares with every tensor of pixels in the reference file.
fn compare(output: &Planes, reference: &Path) -> Result<Errors, Failed> {
    let bytes = std::fs::read(reference).map_err(|e| format!("{}: {e}", reference.display()))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let centre = metadata.get("crop_centre_top_left").ok_or("no crop position in the metadata")?;
    let (top, left) = centre.split_once(',').ok_or("a crop position is `top,left`")?;
    let Size { height, width } = output.size;

    let mut windows = vec![
        ("crop_centre", top.parse()?, left.parse()?),
        ("crop_topleft", 0, 0),
        ("crop_bottomright", height - 32, width - 32),
    ];
    if file.tensor("output").is_ok() {
        windows.push(("output", 0, 0));
    }
    let mut worst = Errors { max: 0.0, mean: 0.0 };
    for (name, top, left) in windows {
        let errors = compare_window(output, &file.tensor(name)?, (top, left), |_| 0.0)?;
        if errors.max > MAX_ERROR || errors.mean > MEAN_ERROR {
            return Err(format!("{name}: {errors}, allowed {MAX_ERROR} and {MEAN_ERROR}").into());
        }
        worst = Errors { max: worst.max.max(errors.max), mean: worst.mean.max(errors.mean) };
    }
    // An f16 has 11 bits: rounding to it moves a value by at most half a step.
    let half_step =
        |value: f64| value.abs().max(2f64.powi(-14)).log2().floor().exp2() / 1024.0 / 2.0;
    let whole = compare_window(output, &file.tensor("output_f16")?, (0, 0), half_step)?;
    if whole.max > MAX_ERROR {
        return Err(
            format!("output_f16: {whole} beyond half an f16 step, allowed {MAX_ERROR}").into()
        );
    }
    Ok(worst)
}

/// Errors beyond `slack(expected)` of the window of `output` at `(top, left)`.
fn compare_window(
    output: &Planes,
    expected: &safetensors::tensor::TensorView<'_>,
    (top, left): (usize, usize),
    slack: impl Fn(f64) -> f64,
) -> Result<Errors, Failed> {
    let &[1, 3, rows, columns] = expected.shape() else {
        return Err(format!("a reference of shape {:?}", expected.shape()).into());
    };
    let Size { height, width } = output.size;
    if top + rows > height
        || left + columns > width
        || (top == 0 && left == 0 && rows > 64 && rows != height)
    {
        return Err(
            format!("the output is {}, the reference {rows} x {columns}", output.size).into()
        );
    }
    let value = |index: usize| match expected.dtype() {
        Dtype::F32 => {
            let bytes = &expected.data()[4 * index..][..4];
            f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        }
        _ => {
            let bytes = &expected.data()[2 * index..][..2];
            half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f64()
        }
    };
    let (mut max, mut sum) = (0f64, 0.0);
    for index in 0..3 * rows * columns {
        let (plane, row, column) =
            (index / (rows * columns), index / columns % rows, index % columns);
        let found = output.data[(plane * height + top + row) * width + left + column];
        let error = (f64::from(found) - value(index)).abs();
        if error.is_nan() {
            return Err(format!("value {index} is {found}, expected {}", value(index)).into());
        }
        max = max.max(error - slack(value(index)));
        sum += error;
    }
    Ok(Errors { max, mean: sum / (3 * rows * columns) as f64 })
}

/// The harness itself: one pixel off by twice what is allowed must be red, in any of the compared places.
fn perturbed_output_is_noticed() -> Result<(), Failed> {
    let case = &embedded_cases()[0];
    let output = run(&Context::host(), case)?;
    compare(&output, &case.reference)?;
    for index in [0, output.data.len() / 2, output.data.len() - 1] {
        for change in [2.0 * MAX_ERROR as f32, f32::NAN] {
            let mut perturbed = output.clone();
            perturbed.data[index] += change;
            if compare(&perturbed, &case.reference).is_ok() {
                return Err(format!("value {index} off by {change} passed").into());
            }
        }
    }
    let shifted =
        Planes { data: output.data.iter().map(|v| v + 0.02).collect(), size: output.size };
    match compare(&shifted, &case.reference) {
        Ok(_) => Err("a mean error of 0.02 passed".into()),
        Err(_) => Ok(()),
    }
}

fn other_style_is_noticed() -> Result<(), Failed> {
    let cases = embedded_cases();
    let output = run(&Context::host(), &cases[0])?;
    match compare(&output, &cases[1].reference) {
        Ok(_) => Err("the reference of another style passed".into()),
        Err(_) => Ok(()),
    }
}
