//! A network that learns with its norms alone. What lies between them is random and stays so; gradient
//! descent moves nothing but the weights and biases of three instance norms, 262 numbers, and a
//! photograph takes on the colours of stained glass. The idea: arXiv:2003.00152.
//!
//! `cargo run --release --example train_affine [FOLDER]` trains on the host and on the GPU it finds,
//! compares the two, and writes photo, before, after, target and loss as PNG into FOLDER.

use image::{Rgb, RgbImage, imageops};
use std::{env, f32::consts::PI, fs, iter::zip, path::Path, time::Instant};
use wgnorm::{Activation, Affine, Backend, Context, ContextOptions, Extras, Init, InstanceNorm2d};
use wgnorm::{Mode, NormLayer, Tensor};

const SIDE: usize = 96;
const PIXELS: usize = SIDE * SIDE;
const CHANNELS: usize = 64;
const STEPS: usize = 200;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let folder = env::args_os().nth(1).map_or(env::temp_dir().join("train_affine"), Into::into);
    fs::create_dir_all(&folder)?;
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/style_transfer");
    let photo = load(&demo.join("assets/astronaut.png"))?;
    let target = load(&demo.join("paintings/glass.jpg"))?;

    let (pictures, losses) = train(&Context::host(), &photo, &target)?;
    let (before, after) = (&pictures[0], &pictures[STEPS - 1]);
    let software_too = ContextOptions { allow_software: true, ..Default::default() };
    let context = Context::open_with_blocking(&software_too)?;
    if context.backend() == Backend::Gpu {
        let (pictures, _) = train(&context, &photo, &target)?;
        let differences = zip(after, &pictures[STEPS - 1]).map(|(a, b)| 255.0 * (a - b).abs());
        let worst = differences.max_by(f32::total_cmp).unwrap_or(f32::NAN);
        println!("the two pictures differ by at most {worst:.3} of 255");
        if worst.is_nan() || worst > 2.0 {
            return Err("host and GPU learned different pictures".into());
        }
    } else {
        println!("nothing to compare with: {context}");
    }
    let named = [("photo", &photo), ("before", before), ("after", after), ("target", &target)];
    for (name, planes) in named {
        to_image(planes).save(folder.join(name).with_extension("png"))?;
    }
    curve(&losses).save(folder.join("loss.png"))?;
    println!("photo, before, after, target and loss are in {}", folder.display());
    Ok(())
}

/// The network's picture and loss at each step.
fn train(context: &Context, photo: &[f32], target: &[f32]) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
    let began = Instant::now();
    // The same numbers on every run and back end.
    let mut random = fastrand::Rng::with_seed(3);
    let features = look_around(photo, &mut random);
    let between = [Projection::new(CHANNELS, 8, &mut random), Projection::new(3, 48, &mut random)];
    // Biases that differ let the ReLUs bend at different values; the last norm begins as gray.
    let bends = |seed| (CHANNELS, Init::Ones, Init::Uniform { low: -1.0, high: 1.0, seed });
    let gray = (3, Init::Constant(0.2), Init::Constant(0.5));
    let mut norms = Vec::new();
    for (channels, weight, bias) in [bends(1), bends(2), gray] {
        let config = InstanceNorm2d::config(channels).with_affine(Affine::Both);
        let norm = config.with_weight_init(weight).with_bias_init(bias).init(context)?;
        let parameters = [Adam::new(norm.weight())?, Adam::new(norm.bias())?];
        norms.push((norm, parameters));
    }
    let tensor = |planes: &[f32]| {
        Tensor::from_slice([1, planes.len() / PIXELS, SIDE, SIDE], planes)?.to_context(context)
    };
    let (relu, none) = (Extras::new().with_activation(Activation::Relu), Extras::new());
    let (mut pictures, mut losses) = (Vec::new(), Vec::new());
    for step in 1..=STEPS {
        let (mut values, mut saved) = (features.clone(), Vec::new());
        for (i, (norm, _)) in norms.iter().enumerate() {
            let x = tensor(&values)?;
            let extras = [&relu, &relu, &none][i];
            let (y, forward) = norm.forward_saved_with(context, &x, extras, Mode::Train)?;
            saved.push(forward);
            values = y.to_vec_blocking()?;
            if let Some(projection) = between.get(i) {
                values = projection.apply(&values);
            }
        }
        // The mean of the squared errors, and its gradient.
        let n = target.len() as f32;
        let errors = || zip(&values, target).map(|(y, target)| y - target);
        losses.push(errors().map(|error| error * error).sum::<f32>() / n);
        let mut dy: Vec<f32> = errors().map(|error| 2.0 * error / n).collect();
        pictures.push(values);
        // Fast at first, then ever slower.
        let rate = 0.02 * (1.0 + (PI * step as f32 / STEPS as f32).cos());
        for (i, (norm, [weight, bias])) in norms.iter_mut().enumerate().rev() {
            let grads = norm.backward(context, &saved[i], &tensor(&dy)?)?;
            norm.set_weight(&weight.step(grads.dweight, rate, step as i32)?)?;
            norm.set_bias(&bias.step(grads.dbias, rate, step as i32)?)?;
            if i > 0 {
                dy = between[i - 1].transposed().apply(&grads.dx.to_vec_blocking()?);
            }
        }
    }
    let (first, last) = (losses[0], losses[STEPS - 1]);
    println!("{context}: loss {first:.4} -> {last:.4} in {:.1} s", began.elapsed().as_secs_f32());
    Ok((pictures, losses))
}

/// A parameter and the running averages of its gradient: Kingma, Ba 2014, arXiv:1412.6980.
struct Adam {
    values: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Adam {
    fn new(parameter: Option<&Tensor<'_>>) -> Result<Adam> {
        let values = parameter.expect("the norms have both").to_vec_blocking()?;
        Ok(Adam { mean: vec![0.0; values.len()], square: vec![0.0; values.len()], values })
    }

    /// The parameter, one step later.
    fn step(&mut self, gradient: Option<Tensor<'_>>, rate: f32, step: i32) -> Result<Tensor<'_>> {
        let gradient = gradient.expect("both learn").to_vec_blocking()?;
        for (i, g) in gradient.iter().enumerate() {
            self.mean[i] += 0.1 * (g - self.mean[i]);
            self.square[i] += 0.01 * (g * g - self.square[i]);
            let mean = self.mean[i] / (1.0 - 0.9f32.powi(step));
            let square = self.square[i] / (1.0 - 0.99f32.powi(step));
            self.values[i] -= rate * mean / (square.sqrt() + 1e-6);
        }
        Ok(Tensor::from_slice([self.values.len()], &self.values)?)
    }
}

/// Of each output channel, which inputs are added up, with which factors.
struct Projection(Vec<Vec<(usize, f32)>>);

impl Projection {
    fn new(outputs: usize, taps: usize, random: &mut fastrand::Rng) -> Projection {
        let mut tap = || (random.usize(..CHANNELS), random.f32() - 0.5);
        Projection((0..outputs).map(|_| (0..taps).map(|_| tap()).collect()).collect())
    }

    fn transposed(&self) -> Projection {
        let mut inputs = vec![Vec::new(); CHANNELS];
        for (output, taps) in self.0.iter().enumerate() {
            taps.iter().for_each(|&(input, factor)| inputs[input].push((output, factor)));
        }
        Projection(inputs)
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; self.0.len() * PIXELS];
        for (plane, taps) in zip(y.chunks_mut(PIXELS), &self.0) {
            for &(input, factor) in taps {
                zip(&mut *plane, &x[input * PIXELS..]).for_each(|(y, x)| *y += factor * x);
            }
        }
        y
    }
}

/// Channels that each add up six colours of pixels 0, 1, 2 or 4 away, with random factors.
fn look_around(photo: &[f32], random: &mut fastrand::Rng) -> Vec<f32> {
    let mut channels = vec![0.0; CHANNELS * PIXELS];
    let inside = |at: usize, by: isize| at.saturating_add_signed(by).min(SIDE - 1);
    for (channel, plane) in channels.chunks_mut(PIXELS).enumerate() {
        for _ in 0..6 {
            let (colour, factor) = (random.usize(..3), random.f32() - 0.5);
            let [down, right] = [(); 2].map(|()| [0, 1, 2, 4][channel % 4] * random.isize(-1..=1));
            for (pixel, value) in plane.iter_mut().enumerate() {
                let (row, column) = (inside(pixel / SIDE, down), inside(pixel % SIDE, right));
                *value += factor * photo[colour * PIXELS + row * SIDE + column];
            }
        }
    }
    channels
}

/// Red, green and blue of a picture, 0 to 1.
fn load(path: &Path) -> Result<Vec<f32>> {
    let side = SIDE as u32;
    let picture = image::open(path)?.resize_exact(side, side, imageops::Triangle).into_rgb8();
    let colour = |colour: usize| picture.pixels().map(move |p| f32::from(p[colour]) / 255.0);
    Ok((0..3).flat_map(colour).collect())
}

fn to_image(planes: &[f32]) -> RgbImage {
    RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        let at = y as usize * SIDE + x as usize;
        Rgb([0, 1, 2].map(|colour| (255.0 * planes[colour * PIXELS + at]).round() as u8))
    })
}

/// The losses from left to right as dark bars; the first one is as high as the picture.
fn curve(losses: &[f32]) -> RgbImage {
    RgbImage::from_fn(2 * losses.len() as u32, 256, |x, y| {
        let high = 256.0 * losses[x as usize / 2] / losses[0];
        if (256 - y) as f32 <= high { Rgb([40, 90, 160]) } else { Rgb([230; 3]) }
    })
}
