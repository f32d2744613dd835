//! The kernel against the textbook on any adapter, and its text without one.

use super::*;
use crate::gpu::device::guarded;
use crate::testing::{CONVOLUTIONS, Case, assert_close, textbook};
use wgnorm::{Context, ContextOptions, Preference, Tensor};

/// Any adapter, software included; `None`, loudly, where there is none.
fn gpu() -> Option<Context> {
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

/// Runs windows of at most `work` multiplications.
fn convolve(context: &Context, case: &Case, work: u64) -> (Vec<f32>, usize) {
    let (device, queue) = (context.device().unwrap(), context.queue().unwrap());
    let output = case.geometry.output(case.size);
    let shape = [case.geometry.out_channels, output.height, output.width];
    let x = Tensor::from_slice([case.x.len()], &case.x).unwrap().to_context(context).unwrap();
    let y = Tensor::zeros(context, shape).unwrap();
    let recorded = guarded(device, || {
        let mut kernels = Kernels::new(device, queue);
        let conv = Conv::new(&mut kernels, &case.geometry, &case.weight, &case.bias).unwrap();
        let (x, y) = (x.buffer().unwrap(), y.buffer().unwrap());
        assert_eq!((x.1, y.1), (0, 0), "whole buffers are bound");
        let windows = conv.prepare_windows(case.size, x.0, y.0, work);
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        windows.iter().for_each(|window| window.record(&mut pass));
        drop(pass);
        queue.submit([encoder.finish()]);
        windows.len()
    });
    let windows = pollster::block_on(recorded).unwrap();
    (y.to_vec_blocking().unwrap(), windows)
}

#[test]
fn convolutions_agree_with_the_textbook() {
    let Some(context) = gpu() else { return };
    for (geometry, size) in CONVOLUTIONS {
        let case = Case::new(geometry, size);
        let (y, _) = convolve(&context, &case, WINDOW_WORK);
        assert_close(&y, &textbook(&case), &format!("{geometry:?} on {size}"));
    }
}

#[test]
fn a_convolution_in_many_windows_is_the_same() {
    let Some(context) = gpu() else { return };
    let geometry = Geometry { in_channels: 5, out_channels: 70, kernel: 3, stride: 1, upsample: 2 };
    let case = Case::new(geometry, Size::new(13, 17));
    // 884 pixels in tiles of 64: 14 windows of one tile each.
    let (y, windows) = convolve(&context, &case, 1);
    assert_eq!(windows, 14);
    assert_close(&y, &textbook(&case), "in windows");
}

#[test]
fn every_tile_is_within_the_limits_that_each_webgpu_device_has() {
    for out_channels in [1, 3, 5, 8, 12, 16, 24, 32, 64, 128, 1000] {
        let geometry = Geometry { in_channels: 8, out_channels, kernel: 3, stride: 1, upsample: 1 };
        let tile = Tile::of(&geometry);
        tile.check(&wgpu::Limits::default()).unwrap();
        assert_eq!(tile.step % tile.lanes_o, 0, "lanes share the rows of a step evenly");
    }
}

#[test]
fn a_device_below_the_limits_is_refused_with_both_numbers() {
    let geometry = Geometry { in_channels: 8, out_channels: 64, kernel: 3, stride: 1, upsample: 1 };
    let limits = wgpu::Limits { max_compute_workgroup_storage_size: 4096, ..Default::default() };
    let message = Tile::of(&geometry).check(&limits).unwrap_err().to_string();
    assert!(
        message.contains("maxComputeWorkgroupStorageSize 8192") && message.contains("4096"),
        "{message}"
    );
}

/// Every variant that this network uses: parsed, validated, specialized, and translated to what each platform compiles.
#[test]
fn the_shader_is_valid_on_every_platform() {
    use naga::back::{glsl, hlsl, msl, pipeline_constants::process_overrides, spv};
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    let source = include_str!("../../shaders/conv.wgsl");
    let parsed = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    // No capabilities: what WebGPU promises everywhere.
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
    let info =
        validator.validate(&parsed).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    for (geometry, _) in CONVOLUTIONS {
        let constants = Tile::of(&geometry).constants(&geometry);
        let constants =
            constants.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        let entry = Some((naga::ShaderStage::Compute, "main"));
        let (module, info) =
            process_overrides(&parsed, &info, entry, &constants).expect("the overrides exist");

        spv::write_vec(&module, &info, &spv::Options::default(), None).expect("SPIR-V");
        msl::write_string(
            &module,
            &info,
            &msl::Options::default(),
            &msl::PipelineOptions::default(),
        )
        .expect("MSL");
        let mut text = String::new();
        let options = hlsl::Options::default();
        let pipeline = hlsl::PipelineOptions::default();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .expect("HLSL");
        let version = glsl::Version::Embedded { version: 310, is_webgl: false };
        let options = glsl::Options { version, ..Default::default() };
        let pipeline = glsl::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: "main".to_owned(),
            multiview: None,
        };
        let mut text = String::new();
        glsl::Writer::new(
            &mut text,
            &module,
            &info,
            &options,
            &pipeline,
            naga::proc::BoundsCheckPolicies::default(),
        )
        .expect("GLSL")
        .write()
        .expect("GLSL");
    }
}
