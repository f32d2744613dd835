//! AdaIn against PyTorch's outputs, on the host and on the GPU.
//!
//! `WGNORM_STYLE_DIR` names the folder with the networks and references (`adain`, `own`, `images`, as the README
//! describes). `WGNORM_REQUIRE_GPU=1` makes a missing adapter a failure.

mod common;

use std::f64::consts::PI;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Errors, MAX_ERROR, compare_window, devices, half_f16_step, passed, summarize};
use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::SafeTensors;
use style_transfer::{AdaInNet, Picture, Planes, Size, Stylizer};
use wgnorm::Context;

/// A content, a style, how much of it, and what PyTorch makes of them.
#[derive(Clone)]
struct Case {
    name: String,
    net: Arc<AdaInNet>,
    content: Picture,
    style: Picture,
    alpha: f32,
    reference: Arc<Vec<u8>>,
}

fn main() -> Result<(), Failed> {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    match std::env::var_os("WGNORM_STYLE_DIR") {
        Some(folder) => {
            let cases = cases(Path::new(&folder))?;
            let first = cases[0].clone();
            let noticed = move || perturbed_and_other_outputs_are_noticed(&first);
            trials.push(Trial::test("self_test__perturbed_and_other_outputs_are_noticed", noticed));
            for (device, context) in devices(&mut trials) {
                for case in &cases {
                    let (case, context) = (case.clone(), context.clone());
                    let name = format!("{device}/{}", case.name);
                    trials.push(Trial::test(name, move || {
                        passed(device, compare(&run(&context, &case)?, &case.reference)?);
                        Ok(())
                    }));
                }
            }
        }
        None => {
            println!("SKIPPED: WGNORM_STYLE_DIR is not set: AdaIn is not compared with PyTorch");
            let reason = "all/adain (ignored: WGNORM_STYLE_DIR is not set)";
            trials.push(Trial::test(reason, || Ok(())).with_ignored_flag(true));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    summarize();
    conclusion.exit()
}

/// Every reference of the folder, `DECODER__CONTENT__STYLE.safetensors`.
fn cases(folder: &Path) -> Result<Vec<Case>, Failed> {
    let read = |path: PathBuf| std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()));
    let adain = folder.join("adain");
    let encoder = read(adain.join("encoder16x_relu4_1.safetensors"))?;
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(adain.join("reference"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "safetensors") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let [decoder, content, style] = name.split("__").collect::<Vec<_>>()[..] else {
            return Err(format!("{name} is not called decoder__content__style").into());
        };
        let reference = read(path.clone())?;
        let (_, header) = SafeTensors::read_metadata(&reference)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let told = |key: &str| metadata.get(key).ok_or(format!("{name}: no {key} in the metadata"));
        if told("style_resized_to")? != "256x256 Lanczos" {
            return Err(format!("{name}: the style has another size").into());
        }
        let decoder = read(adain.join(decoder).with_extension("safetensors"))?;
        let picture = |below: &str, stem: &str| {
            Picture::open(&folder.join(below).join(stem).with_extension("png"))
        };
        cases.push(Case {
            net: Arc::new(AdaInNet::from_safetensors(&encoder, &decoder)?),
            content: picture("images", content)?,
            style: pillow_lanczos(&picture("own", style)?, 256),
            alpha: told("alpha")?.parse()?,
            reference: Arc::new(reference.clone()),
            name,
        });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    if cases.is_empty() {
        return Err(format!("no references in {}", adain.display()).into());
    }
    Ok(cases)
}

/// A square picture resized as the references' styles were, by Pillow: first along the rows, then along the columns,
/// in fixed point and with eight bits in between.
fn pillow_lanczos(picture: &Picture, side: usize) -> Picture {
    let Planes { size, data } = picture.to_planes();
    let resized = data.chunks(size.area()).flat_map(|plane| {
        let rows = resized_and_transposed(plane, size.width, side);
        resized_and_transposed(&rows, size.height, side)
    });
    let size = Size::new(side, side);
    Picture::from_planes(&Planes { size, data: resized.collect() }, size)
}

/// Each row of `from` elements resized to `to`; rows come out as columns.
fn resized_and_transposed(plane: &[f32], from: usize, to: usize) -> Vec<f32> {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
    let lanczos = |x: f64| if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 };
    let scale = from as f64 / to as f64;
    let column = |x: usize| {
        let centre = (x as f64 + 0.5) * scale;
        let first = (centre - 3.0 * scale + 0.5).max(0.0) as usize;
        let last = ((centre + 3.0 * scale + 0.5) as usize).min(from);
        let weights = (first..last).map(|i| lanczos((i as f64 + 0.5 - centre) / scale));
        let weights: Vec<f64> = weights.collect();
        let fixed = 4_194_304.0 / weights.iter().sum::<f64>(); // 22 bits
        let pixel = |row: &[f32]| {
            let products = row[first..].iter().zip(&weights);
            let sum: i64 = products.map(|(&v, w)| v as i64 * (w * fixed).round() as i64).sum();
            ((sum + 2_097_152) >> 22).clamp(0, 255) as f32
        };
        plane.chunks(from).map(pixel).collect::<Vec<_>>()
    };
    (0..to).flat_map(column).collect()
}

fn run(context: &Context, case: &Case) -> Result<Planes, Failed> {
    let mut last = None;
    let output = pollster::block_on(async {
        let mut stylizer = Stylizer::adain(context, &case.net, &case.style, case.alpha).await?;
        stylizer.run(&case.content.to_planes(), |progress| last = Some(progress)).await
    })?;
    match last {
        Some(last) if (last.done, last.total, last.stage) == (20, 20, "conv11") => Ok(output),
        other => Err(format!("progress ended at {other:?}").into()),
    }
}

/// Compares with every tensor of pixels in the reference, where white is 1.
fn compare(output: &Planes, reference: &[u8]) -> Result<Errors, Failed> {
    let file = SafeTensors::deserialize(reference)?;
    let Size { height, width } = output.size;
    let windows = [("crop_topleft", (0, 0)), ("crop_centre", (height / 2 - 32, width / 2 - 32))];
    let mut worst = Errors::default();
    for (name, corner) in windows {
        let errors = compare_window(output, &file.tensor(name)?, 255.0, corner, |_| 0.0)?;
        worst = worst.max(errors.check(name)?);
    }
    let whole = compare_window(output, &file.tensor("output_f16")?, 255.0, (0, 0), half_f16_step)?;
    if whole.max > MAX_ERROR {
        return Err(
            format!("output_f16: {whole} beyond half an f16 step, allowed {MAX_ERROR}").into()
        );
    }
    Ok(worst)
}

/// The harness itself: one pixel off, another alpha and another style must be red.
fn perturbed_and_other_outputs_are_noticed(case: &Case) -> Result<(), Failed> {
    let output = run(&Context::host(), case)?;
    for index in [0, output.data.len() / 2, output.data.len() - 1] {
        for change in [4.0 * MAX_ERROR as f32, f32::NAN] {
            let mut perturbed = output.clone();
            perturbed.data[index] += change;
            if compare(&perturbed, &case.reference).is_ok() {
                return Err(format!("value {index} off by {change} passed").into());
            }
        }
    }
    let less = Case { alpha: case.alpha - 0.01, ..case.clone() };
    let other = Case { style: case.content.clone(), ..case.clone() };
    for wrong in [less, other] {
        if compare(&run(&Context::host(), &wrong)?, &case.reference).is_ok() {
            return Err("another alpha or style passed".into());
        }
    }
    Ok(())
}
