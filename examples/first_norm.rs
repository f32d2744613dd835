//! The first normalization: open whatever this machine has, normalize, look at the numbers.
//!
//! `cargo run --example first_norm`

use wgnorm::{Affine, Context, InstanceNorm2d, Mode, NormLayer, Tensor};

fn main() -> Result<(), wgnorm::Error> {
    let context = Context::open_blocking();
    println!("running on {context}");

    let norm = InstanceNorm2d::config(2).with_affine(Affine::Both).init(&context)?;
    let photo: Vec<f32> = (0..2 * 4 * 4).map(|i| 100.0 + i as f32).collect();
    let x = Tensor::from_slice([1, 2, 4, 4], &photo)?.to_context(&context)?;
    let y = norm.forward(&context, &x, Mode::Eval)?.to_vec_blocking()?;

    for channel in y.chunks(16) {
        println!("{channel:6.3?}");
    }
    Ok(())
}
