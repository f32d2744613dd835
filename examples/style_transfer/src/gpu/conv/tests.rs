//! The kernel against the textbook on any adapter, and its text without one.

use super::*;
use crate::gpu::device::guarded;
use crate::testing::{CONVOLUTIONS, Case, assert_close, assert_translates, gpu, textbook};
use wgnorm::{Context, Tensor};

/// Runs windows of at most `work` multiplications.
fn convolve(context: &Context, case: &Case, finish: Finish, work: u64) -> (Vec<f32>, usize) {
    let (y, _, windows) = convolve_with_moments(context, case, finish, work);
    (y, windows)
}

/// The output, the moments of each channel's parts, and the number of windows.
fn convolve_with_moments(
    context: &Context,
    case: &Case,
    finish: Finish,
    work: u64,
) -> (Vec<f32>, Vec<f32>, usize) {
    let (device, queue) = (context.device().unwrap(), context.queue().unwrap());
    let output = case.geometry.output(case.size);
    let shape = [case.geometry.out_channels, output.height, output.width];
    let x = Tensor::from_slice([case.x.len()], &case.x).unwrap().to_context(context).unwrap();
    let y = Tensor::zeros(context, shape).unwrap();
    let kernels = guarded(device, || {
        let mut kernels = Kernels::new(device, queue);
        Conv::new(&mut kernels, &case.stage(finish)).unwrap()
    });
    let conv = pollster::block_on(kernels).unwrap();
    let parts = [case.geometry.out_channels, conv.parts(case.size), 4];
    let moments = Tensor::zeros(context, parts).unwrap();
    let recorded = guarded(device, || {
        let (x, y) = (x.buffer().unwrap(), y.buffer().unwrap());
        assert_eq!((x.1, y.1), (0, 0), "whole buffers are bound");
        let buffers = [x.0, y.0, moments.buffer().unwrap().0];
        let windows = conv.prepare_windows(case.size, buffers, work);
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        windows.iter().for_each(|window| window.record(&mut pass));
        drop(pass);
        queue.submit([encoder.finish()]);
        windows.len()
    });
    let windows = pollster::block_on(recorded).unwrap();
    (y.to_vec_blocking().unwrap(), moments.to_vec_blocking().unwrap(), windows)
}

/// The parts' moments, merged, are those of the output, in one window and in many.
#[test]
fn moments_are_those_of_the_output() {
    let Some(context) = gpu() else { return };
    for ((geometry, size), work) in
        CONVOLUTIONS.into_iter().zip([WINDOW_WORK, 1].into_iter().cycle())
    {
        let case = Case::new(geometry, size);
        let (y, moments, _) = convolve_with_moments(&context, &case, Finish::NormRelu, work);
        let area = y.len() / geometry.out_channels;
        let of_channels = moments.chunks(moments.len() / geometry.out_channels);
        for (values, parts) in y.chunks(area).zip(of_channels) {
            let (mut n, mut mean, mut m2) = (0.0, 0.0, 0.0);
            for part in parts.as_chunks().0 {
                let [count, of_part, rest, squares]: [f64; 4] = part.map(f64::from);
                assert_eq!(rest, 0.0);
                let delta = of_part - mean;
                mean += delta * count / (n + count);
                m2 += squares + delta * delta * n * count / (n + count);
                n += count;
            }
            let wide = || values.iter().map(|&v| f64::from(v));
            let expected = wide().sum::<f64>() / area as f64;
            let squares: f64 = wide().map(|v| (v - expected).powi(2)).sum();
            assert_eq!(n, area as f64);
            assert!((mean - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{mean} {expected}");
            assert!((m2 - squares).abs() < 1e-4 * squares + 1e-9, "{m2} {squares}");
        }
    }
}

#[test]
fn convolutions_agree_with_the_textbook() {
    let Some(context) = gpu() else { return };
    for (geometry, size) in CONVOLUTIONS {
        let case = Case::new(geometry, size);
        let (y, _) = convolve(&context, &case, Finish::Nothing, WINDOW_WORK);
        assert_close(&y, &textbook(&case), &format!("{geometry:?} on {size}"));
    }
}

#[test]
fn relu_follows_where_it_is_asked_for() {
    let Some(context) = gpu() else { return };
    let case = Case::new(CONVOLUTIONS[4].0, CONVOLUTIONS[4].1);
    let expected: Vec<f64> = textbook(&case).iter().map(|value| value.max(0.0)).collect();
    assert!(expected.contains(&0.0));
    for finish in [Finish::Relu, Finish::ReluPool] {
        let (y, _) = convolve(&context, &case, finish, WINDOW_WORK);
        assert_close(&y, &expected, "ReLU");
    }
}

#[test]
fn a_convolution_in_many_windows_is_the_same() {
    let Some(context) = gpu() else { return };
    let geometry = Geometry { in_channels: 5, out_channels: 70, kernel: 3, stride: 1, upsample: 2 };
    let case = Case::new(geometry, Size::new(13, 17));
    // 884 pixels in tiles of 64: 14 windows of one tile each.
    let (y, windows) = convolve(&context, &case, Finish::Nothing, 1);
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

/// Every variant that the networks use.
#[test]
fn the_shader_is_valid_on_every_platform() {
    for (geometry, _) in CONVOLUTIONS {
        for finish in [Finish::Nothing, Finish::Relu, Finish::NormRelu] {
            let constants = Tile::of(&geometry).constants(&geometry, finish);
            assert_translates(include_str!("../../shaders/conv.wgsl"), &constants);
        }
    }
}
