//! Reports about volumes of which one group has more elements than f32 counts.

use crate::common::{device, tolerance};
use rayon::prelude::*;
use wgnorm::{DType, Element, GroupNorm, Mode, NormLayer, Tensor, f16};

/// What `WGNORM_HUGE` means is said in tests/huge.rs.
fn huge() -> bool {
    std::env::var("WGNORM_HUGE").is_ok_and(|v| v == "1")
}

/// tinygrad 11782, and the volumes of brainchop-cli 54: GroupNorm of a group per channel over 24×256³ (402 million
/// elements); unless `WGNORM_HUGE=1`, one channel of one slice more than 256³, so that a group has more elements than f32
/// counts, and a sum of f32 in a row is wrong in its first digits.
#[test]
fn group_norm_of_brain_volumes() {
    let [channels, depth] = if huge() { [24, 256] } else { [1, 257] };
    let value = |i: usize| {
        let hash = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66;
        let unit = (hash.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as f32 / (1 << 24) as f32;
        3.0 + 2.0 * (unit - 0.5)
    };
    let x: Vec<f32> = (0..channels * depth * 65_536).into_par_iter().map(value).collect();
    let group = &x[..depth * 65_536];
    let plain = group.iter().sum::<f32>() / group.len() as f32;
    assert!((plain - 3.0).abs() > 0.1, "a plain sum of f32 is not wrong here: {plain}");
    brain_volume(&x, [1, channels, depth, 256, 256], DType::F32);
    let half: Vec<f16> = x.into_par_iter().map(f16::from_f32).collect();
    brain_volume(&half, [1, channels, depth, 256, 256], DType::F16);
}

fn brain_volume<T: Element + Into<f64>>(x: &[T], shape: [usize; 5], dtype: DType) {
    let (channels, len) = (shape[1], shape[2] * 65_536);
    let wide = |v: &T| -> f64 { (*v).into() };
    let blocks = |group: &[T], of: &(dyn Fn(f64) -> f64 + Sync)| -> f64 {
        let sums =
            group.par_chunks(1 << 16).map(|block| block.iter().map(|v| of(wide(v))).sum::<f64>());
        sums.sum::<f64>() / group.len() as f64
    };
    for device in device::all() {
        let context = &device.context;
        let norm = GroupNorm::config(channels, channels).init(context).unwrap();
        let tensor = Tensor::from_slice_of(shape, x).unwrap();
        let tensor = tensor.to_context(context).unwrap();
        let y = norm.forward(context, &tensor, Mode::Eval).unwrap();
        drop(tensor);
        let y = y.to_vec_of_blocking::<T>().unwrap();
        for (c, (x, y)) in x.chunks(len).zip(y.chunks(len)).enumerate() {
            let mean = blocks(x, &|v| v);
            let inv = (blocks(x, &|v| (v - mean).powi(2)) + 1e-5).sqrt().recip();
            let off = x.par_iter().zip(y).map(|(x, y)| {
                let want = (wide(x) - mean) * inv;
                let allowed = tolerance::half_ulp(dtype, want) + tolerance::Y * want.abs().max(1.0);
                (wide(y) - want).abs() / allowed
            });
            let off = off
                .reduce(|| 0.0, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
            assert!(off <= 1.0, "{} {dtype} channel {c}: {off} times what is allowed", device.name);
        }
        context.trim();
    }
}
