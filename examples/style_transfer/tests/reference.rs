//! Whole networks against PyTorch's outputs: every network on every picture, on the host and on the GPU.
//!
//! The embedded styles are tested anywhere, on the picture in `tests/data`. `WGNORM_STYLE_DIR` names a folder with more
//! (`nets`, `own`, `images`, `reference`, as the README describes); `WGNORM_ALL_CASES=1` takes all of them.
//! `WGNORM_REQUIRE_GPU=1` makes a missing adapter a failure.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Errors, MAX_ERROR, compare_window, devices, half_f16_step, passed, summarize};
use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::SafeTensors;
use style_transfer::{Picture, Planes, STYLES, Size, Stylizer, TransformerNet};
use wgnorm::Context;

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
        Some(folder) => {
            cases.extend(folder_cases(Path::new(&folder)));
            if std::env::var_os("WGNORM_ALL_CASES").is_none() {
                println!(
                    "SKIPPED without WGNORM_ALL_CASES: mosaic and rain_princess, which are candy with other weights, \
                     on pictures beyond 131x131"
                );
                let again = |name: &str| {
                    ["mosaic__", "rain_princess__"].iter().any(|n| name.starts_with(n))
                };
                cases.retain(|case| !again(&case.name) || case.name.contains("flower"));
            }
        }
        None => {
            println!("SKIPPED: WGNORM_STYLE_DIR is not set: only the embedded styles are tested");
            let reason = "all/networks (ignored: WGNORM_STYLE_DIR is not set)";
            trials.push(Trial::test(reason, || Ok(())).with_ignored_flag(true));
        }
    }
    for (device, context) in devices(&mut trials) {
        if context.to_string().contains("SwiftShader") {
            println!(
                "SKIPPED on SwiftShader, which is slow: only the embedded styles and width 8, on 128x128 and less"
            );
            cases.retain(|case| {
                let small = case.image.to_string_lossy().contains("flower");
                let own = STYLES.iter().any(|style| case.name.starts_with(style.name));
                small && (own || case.name.contains("nc8"))
            });
        }
        add(&mut trials, device, &context, &cases);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    summarize();
    conclusion.exit();
}

fn add(trials: &mut Vec<Trial>, device: &'static str, context: &Context, cases: &[Case]) {
    for case in cases {
        let (case, context) = (Arc::new(case.clone()), context.clone());
        let name = format!("{device}/{}", case.name);
        trials.push(Trial::test(name, move || {
            passed(device, compare(&run(&context, &case)?, &case.reference)?);
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
        stylizer.run(&picture.to_planes(), |progress| stages = progress.done).await
    })?;
    if stages != net.stages().len() {
        return Err(format!("progress ended at stage {stages} of {}", net.stages().len()).into());
    }
    Ok(output)
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
    let mut worst = Errors::default();
    for (name, top, left) in windows {
        let errors = compare_window(output, &file.tensor(name)?, 1.0, (top, left), |_| 0.0)?;
        worst = worst.max(errors.check(name)?);
    }
    let whole = compare_window(output, &file.tensor("output_f16")?, 1.0, (0, 0), half_f16_step)?;
    if whole.max > MAX_ERROR {
        return Err(
            format!("output_f16: {whole} beyond half an f16 step, allowed {MAX_ERROR}").into()
        );
    }
    Ok(worst)
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
