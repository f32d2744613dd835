//! Tensors as large as they come: above 4 GiB on the host, near a device's largest buffer and many times its largest
//! binding, one group of 2^28 elements. `WGNORM_HUGE=1` for those (20 GB of memory, minutes); else the same code at a
//! hundredth of the size, on devices with as much lower limits.

mod common;

use common::tolerance;
use rayon::prelude::*;
use std::ops::Range;
use wgnorm::{
    Affine, BatchNorm2d, Context, Element, Grads, InstanceNorm1d, InstanceNorm2d, Mode, NormLayer,
    Tensor, f16,
};

fn huge() -> bool {
    std::env::var("WGNORM_HUGE").is_ok_and(|v| v == "1")
}

/// Near 3 with a spread of 0.6, another one at every place.
fn value(i: usize) -> f32 {
    let hash = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66;
    let unit = (hash.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as f32 / (1 << 24) as f32;
    3.0 + 2.0 * (unit - 0.5)
}

fn values<T: Send>(len: usize, of: fn(f32) -> T) -> Vec<T> {
    (0..len).into_par_iter().map(|i| of(value(i))).collect()
}

/// Sums over the pieces of a group.
fn sum(pieces: &[Range<usize>], of: impl Fn(usize) -> f64 + Sync) -> f64 {
    let piece = |piece: &Range<usize>| {
        let blocks = piece.clone().into_par_iter().by_uniform_blocks(1 << 20);
        blocks.fold(|| 0.0, |sum, i| sum + of(i)).sum::<f64>()
    };
    pieces.iter().map(piece).sum()
}

/// Of every element the group it is in: `samples × channels` planes, a group of each or of each channel.
fn groups(samples: usize, channels: usize, plane: usize, batch: bool) -> Vec<Vec<Range<usize>>> {
    let plane = |n: usize, c: usize| {
        let first = (n * channels + c) * plane;
        first..first + plane
    };
    if batch {
        (0..channels).map(|c| (0..samples).map(|n| plane(n, c)).collect()).collect()
    } else {
        (0..samples * channels).map(|at| vec![plane(at / channels, at % channels)]).collect()
    }
}

/// The largest difference, relative to max(1, |value|), from what the definition gives in f64.
fn off<T: Element + Into<f64>>(
    groups: &[Vec<Range<usize>>],
    x: &[T],
    got: &[T],
    dy: Option<&[T]>,
) -> f64 {
    let mut worst: f64 = 0.0;
    for pieces in groups {
        let count = pieces.iter().map(Range::len).sum::<usize>() as f64;
        let at = |i: usize| -> f64 { x[i].into() };
        let slope = |i: usize| -> f64 { dy.map_or(0.0, |dy| dy[i].into()) };
        let mean = sum(pieces, at) / count;
        let inv = (sum(pieces, |i| (at(i) - mean).powi(2)) / count + 1e-5).sqrt().recip();
        let xhat = |i: usize| (at(i) - mean) * inv;
        let [g, g_xhat] = match dy {
            Some(_) => [sum(pieces, slope), sum(pieces, |i| slope(i) * xhat(i))].map(|v| v / count),
            None => [0.0; 2],
        };
        for piece in pieces {
            let off = piece.clone().into_par_iter().map(|i| {
                let want = match dy {
                    Some(_) => inv * (slope(i) - g - xhat(i) * g_xhat),
                    None => xhat(i),
                };
                let got: f64 = got[i].into();
                (got - want).abs() / want.abs().max(1.0)
            });
            worst = off.reduce(|| 0.0, f64::max).max(worst);
        }
    }
    worst
}

/// Side of the pictures whose batch is 5.4 GB.
fn side() -> usize {
    if huge() { 15_000 } else { 1500 }
}

/// InstanceNorm and BatchNorm, forward and backward, of f32; dy is x, from the next element on.
#[test]
fn host_tensors_above_4_gib() {
    let context = Context::host();
    let (shape, plane) = ([2, 3, side(), side()], side() * side());
    let all: Vec<f32> = values(6 * plane + 1, |v| v);
    let (data, slopes) = (&all[..6 * plane], &all[1..]);
    let x = Tensor::from_slice(shape, data).unwrap();
    let dy = Tensor::from_slice(shape, slopes).unwrap();
    let instance = InstanceNorm2d::config(3).init(&context).unwrap();
    let batch = BatchNorm2d::config(3).with_affine(Affine::None).init(&context).unwrap();
    let layers: [(&dyn NormLayer, bool); 2] = [(&instance, false), (&batch, true)];
    for (layer, is_batch) in layers {
        let groups = groups(2, 3, plane, is_batch);
        let (y, saved) = layer.forward_saved(&context, &x, Mode::Train).unwrap();
        let y_off = off(&groups, data, y.as_slice().unwrap(), None);
        drop(y);
        let Grads { dx, .. } = layer.backward(&context, &saved, &dy).unwrap();
        let dx_off = off(&groups, data, dx.as_slice().unwrap(), Some(slopes));
        eprintln!("{shape:?}, batch {is_batch}: y off by {y_off:.1e}, dx by {dx_off:.1e}");
        assert!(y_off < tolerance::Y && dx_off < tolerance::DX, "{y_off} {dx_off}");
        drop(dx);
        context.trim();
    }
    let [mean, var] = [batch.running_mean(), batch.running_var()]
        .map(|values| values.unwrap().to_vec_blocking().unwrap());
    // A tenth of the batch's, and nine tenths of 0 and 1.
    assert!(mean.iter().all(|v| (v - 0.3).abs() < 1e-4), "{mean:?}");
    assert!(var.iter().all(|v| (v - 0.9 - 0.1 / 3.0).abs() < 1e-3), "{var:?}");
}

/// One long group of f64, and more than 2^31 elements of f16.
#[test]
fn host_other_types_above_4_gib() {
    let context = Context::host();
    let scale = if huge() { 1 } else { 100 };
    let double: Vec<f64> = values(560_000_000 / scale, f64::from);
    let norm = InstanceNorm1d::config(1).init(&context).unwrap();
    let x = Tensor::from_slice_of([1, 1, double.len()], &double).unwrap();
    let y = norm.forward(&context, &x, Mode::Eval).unwrap();
    let y_off = off(&groups(1, 1, double.len(), false), &double, y.as_slice_of().unwrap(), None);
    assert!(y_off < 1e-12, "{y_off}");
    drop((x, y));
    drop(double);
    context.trim();
    let plane = 1_100_000_000 / scale;
    let half: Vec<f16> = values(2 * plane, f16::from_f32);
    let norm = InstanceNorm1d::config(2).init(&context).unwrap();
    let x = Tensor::from_slice_of([1, 2, plane], &half).unwrap();
    let y = norm.forward(&context, &x, Mode::Eval).unwrap();
    let y_off = off(&groups(1, 2, plane, false), &half, y.as_slice_of().unwrap(), None);
    // Half a unit in the last place of values below 2.
    assert!(y_off < 0.6 / 1024.0, "{y_off}");
}

#[cfg(feature = "gpu")]
mod gpu {
    use super::*;
    use common::device;
    use std::time::Instant;
    use wgnorm::plan::{Keep, Offsets, Plan};

    /// The adapter's own limits, or a hundredth of them.
    fn context() -> Option<Context> {
        let (device, queue) = device::foreign(|limits| {
            if !huge() {
                limits.max_buffer_size = (limits.max_buffer_size >> 7).min(1 << 24);
                limits.max_storage_buffer_binding_size = 1 << 20;
            }
        })?;
        Some(Context::from_device(&device, &queue).unwrap())
    }

    /// y and dx of as many elements, in so many groups; how long a dispatch takes.
    fn check(context: &Context, [channels, plane]: [usize; 2], backward: bool) {
        let all: Vec<f32> = values(channels * plane + 1, |v| v);
        let (data, slopes) = (&all[..channels * plane], &all[1..]);
        let groups = groups(1, channels, plane, false);
        let norm = InstanceNorm1d::config(channels).init(context).unwrap();
        let place = |data: &[f32]| {
            Tensor::from_slice([1, channels, plane], data).unwrap().to_context(context).unwrap()
        };
        let read = |tensor: Tensor<'static>| tensor.to_vec_blocking().unwrap();
        let wait = || context.device().unwrap().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let x = place(data);
        wait();
        let started = Instant::now();
        let (y, saved) = norm.forward_saved(context, &x, Mode::Eval).unwrap();
        wait();
        let took = started.elapsed();
        let y_off = off(&groups, data, &read(y), None);
        let problem = norm.problem(x.desc(), Mode::Eval).unwrap();
        let caps = context.caps().unwrap();
        let plan = Plan::forward(&problem, &caps, &Offsets::default(), Keep::Moments).unwrap();
        eprintln!(
            "{context}: {channels} x {plane}: {took:.1?} in {} dispatches, y off by {y_off:.1e}",
            plan.stages.len()
        );
        assert!(y_off < tolerance::Y, "{y_off}");
        if backward {
            let grads = norm.backward(context, &saved, &place(slopes)).unwrap();
            let dx_off = off(&groups, data, &read(grads.dx), Some(slopes));
            assert!(dx_off < tolerance::DX, "{dx_off}");
        }
        context.trim();
    }

    #[test]
    fn gpu_one_group_of_2_28_elements() {
        let Some(context) = context() else { return };
        check(&context, [1, if huge() { 1 << 28 } else { 1 << 21 }], true);
    }

    /// As large as buffers come, but for an odd rest; and one element more is an error before any work.
    #[test]
    fn gpu_tensors_of_the_largest_buffer() {
        let Some(context) = context() else { return };
        let limits = context.device().unwrap().limits();
        let [buffer, binding] = [limits.max_buffer_size, limits.max_storage_buffer_binding_size]
            .map(|n| n as usize / 4);
        // Where buffers of more than the memory are promised, the largest that bindings make worth it.
        let elements = buffer.min(32 * binding);
        check(&context, [3, elements / 3], false);
        let created = context.objects_created();
        let over = Tensor::zeros(&context, [buffer + 1]).unwrap_err();
        assert!(over.to_string().contains("max_buffer_size"), "{over}");
        assert_eq!(context.objects_created(), created);
    }
}
