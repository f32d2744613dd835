//! For tests of both executors: a convolution written as the textbook has it, in f64, sharing nothing with either; and
//! networks that need no file.

use wgnorm::{Context, ContextOptions, Preference};

use crate::adain::{AdaInNet, DECODER, ENCODER};
use crate::net::{Finish, Geometry, Line, Size, Stage};

const fn geometry(
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    upsample: usize,
) -> Geometry {
    Geometry { in_channels: channels.0, out_channels: channels.1, kernel, stride, upsample }
}

/// Odd sizes, the smallest that can be reflected, channel counts beside every tile, every shape the network has.
pub(crate) const CONVOLUTIONS: [(Geometry, Size); 14] = [
    (geometry((3, 8), 9, 1, 1), Size { height: 5, width: 5 }),
    (geometry((3, 5), 9, 1, 1), Size { height: 17, width: 23 }),
    (geometry((8, 12), 3, 2, 1), Size { height: 13, width: 9 }),
    (geometry((5, 3), 3, 2, 1), Size { height: 2, width: 3 }),
    (geometry((12, 12), 3, 1, 1), Size { height: 7, width: 11 }),
    (geometry((8, 8), 3, 1, 1), Size { height: 2, width: 2 }),
    (geometry((12, 5), 3, 1, 2), Size { height: 1, width: 6 }),
    (geometry((8, 16), 3, 1, 2), Size { height: 9, width: 7 }),
    (geometry((5, 3), 9, 1, 1), Size { height: 20, width: 31 }),
    (geometry((20, 70), 3, 1, 1), Size { height: 12, width: 11 }),
    (geometry((3, 130), 3, 1, 1), Size { height: 10, width: 13 }),
    (geometry((1, 1), 3, 2, 2), Size { height: 6, width: 5 }),
    (geometry((3, 3), 1, 1, 1), Size { height: 1, width: 1 }),
    (geometry((3, 3), 1, 1, 1), Size { height: 11, width: 13 }),
];

pub(crate) struct Case {
    pub geometry: Geometry,
    pub size: Size,
    pub x: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Case {
    /// The same values on every run (xorshift), -1..1.
    pub fn new(geometry: Geometry, size: Size) -> Case {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut values = |n: usize| {
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..n).map(|_| next()).collect::<Vec<_>>()
        };
        let x = values(geometry.in_channels * size.area());
        let weight = values(geometry.out_channels * geometry.depth());
        let bias = values(geometry.out_channels);
        Case { geometry, size, x, weight, bias }
    }
}

impl Case {
    /// As a stage of a network.
    pub fn stage(&self, finish: Finish) -> Stage {
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        Stage { name: "test", geometry: self.geometry, weight, bias, norm: None, finish }
    }
}

/// AdaIn with weights of no meaning, small enough that activations keep their order of magnitude.
pub(crate) fn adain_net(width: usize) -> AdaInNet {
    let stage = |line: &Line| {
        let case = Case::new(line.geometry(width), Size::new(1, 1));
        let scale = (6.0 / case.geometry.depth() as f32).sqrt();
        let weight = case.weight.iter().map(|value| value * scale).collect();
        Stage { name: line.conv, weight, ..case.stage(line.finish) }
    };
    let (encoder, decoder) = (ENCODER.iter().map(stage), DECODER.iter().map(stage));
    AdaInNet { width, encoder: encoder.collect(), decoder: decoder.collect() }
}

/// Upsamples, pads and convolves in three separate steps.
pub(crate) fn textbook(case: &Case) -> Vec<f64> {
    let Geometry { in_channels, out_channels, kernel, stride, upsample } = case.geometry;
    let (rows, columns) =
        ((case.size.height * upsample) as i64, (case.size.width * upsample) as i64);
    let mirrored = |p: i64, n: i64| {
        if p < 0 {
            -p
        } else if p >= n {
            2 * n - 2 - p
        } else {
            p
        }
    };
    let at = |channel: usize, row: i64, column: i64| {
        let (row, column) = (
            mirrored(row, rows) as usize / upsample,
            mirrored(column, columns) as usize / upsample,
        );
        f64::from(case.x[(channel * case.size.height + row) * case.size.width + column])
    };
    let padding = (kernel / 2) as i64;
    let mut y = Vec::new();
    for out in 0..out_channels {
        for row in (0..rows).step_by(stride) {
            for column in (0..columns).step_by(stride) {
                let mut sum = f64::from(case.bias[out]);
                for channel in 0..in_channels {
                    for i in 0..kernel {
                        for j in 0..kernel {
                            let weight = case.weight
                                [((out * in_channels + channel) * kernel + i) * kernel + j];
                            let (row, column) =
                                (row + i as i64 - padding, column + j as i64 - padding);
                            sum += f64::from(weight) * at(channel, row, column);
                        }
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// Sums of up to a few thousand products of values below one: f32 in any order stays well within 1e-3.
pub(crate) fn assert_close(y: &[f32], expected: &[f64], what: &str) {
    assert_eq!(y.len(), expected.len(), "{what}");
    for (index, (&y, &expected)) in y.iter().zip(expected).enumerate() {
        let error = (f64::from(y) - expected).abs();
        assert!(error < 1e-3, "{what}: element {index} is {y}, expected {expected}");
    }
}

/// Any adapter, software included; `None`, loudly, where there is none.
pub(crate) fn gpu() -> Option<Context> {
    let options =
        ContextOptions { preference: Preference::Gpu, allow_software: true, ..Default::default() };
    match Context::open_with_blocking(&options) {
        Ok(context) => Some(context),
        Err(error) => {
            let required = std::env::var_os("WGNORM_REQUIRE_GPU").is_some_and(|v| v == "1");
            assert!(!required, "WGNORM_REQUIRE_GPU is set, but {error}");
            println!("SKIPPED: no adapter: {error}");
            None
        }
    }
}

/// A compute shader with these constants is parsed, validated, specialized, and translated to what each platform
/// compiles.
pub(crate) fn assert_translates(source: &str, constants: &[(&str, f64)]) {
    use naga::back::{glsl, hlsl, msl, pipeline_constants::process_overrides, spv};
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    let parsed = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    // No capabilities: what WebGPU promises everywhere.
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
    let info =
        validator.validate(&parsed).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    let constants = constants.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (module, info) =
        process_overrides(&parsed, &info, entry, &constants).expect("the overrides exist");

    spv::write_vec(&module, &info, &spv::Options::default(), None).expect("SPIR-V");
    let pipeline = msl::PipelineOptions::default();
    msl::write_string(&module, &info, &msl::Options::default(), &pipeline).expect("MSL");
    let (options, pipeline) = (hlsl::Options::default(), hlsl::PipelineOptions::default());
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None).expect("HLSL");
    let version = glsl::Version::Embedded { version: 310, is_webgl: false };
    let options = glsl::Options { version, ..Default::default() };
    let pipeline = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".to_owned(),
        multiview: None,
    };
    let bounds = naga::proc::BoundsCheckPolicies::default();
    let mut text = String::new();
    glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, bounds)
        .expect("GLSL")
        .write()
        .expect("GLSL");
}

#[test]
#[should_panic(expected = "element 3")]
fn a_perturbed_output_is_noticed() {
    let case = Case::new(CONVOLUTIONS[0].0, CONVOLUTIONS[0].1);
    let expected = textbook(&case);
    let mut y: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
    y[3] += 0.01;
    assert_close(&y, &expected, "perturbed");
}
