//! The crate in Node, whose global scope is neither a window nor a worker's; wasm-bindgen's test runner takes Node unless
//! a file says otherwise. `examples/web.sh test` runs it; natively there is nothing to test here.
#![cfg(target_arch = "wasm32")]

use wasm_bindgen_test::wasm_bindgen_test;
use wgnorm::{
    Backend, Context, ContextOptions, InstanceNorm1d, Mode, NormLayer, Preference, Tensor,
};

/// wgpu 1986: looking for WebGPU where there is no window ended the program. The host is taken, with a reason.
#[wasm_bindgen_test]
async fn opening_without_a_window_takes_the_host() {
    let context = Context::open().await;
    assert_eq!(context.backend(), Backend::Host);
    let reason = context.fallback_reason().expect("a reason").to_string();
    assert!(!reason.is_empty());
    let norm = InstanceNorm1d::config(1).init(&context).unwrap();
    let x = Tensor::from_slice([1, 1, 2], &[1.0, 3.0]).unwrap();
    let y = norm.forward(&context, &x, Mode::Eval).unwrap().to_vec().await.unwrap();
    // Of variance 1 and eps 1e-5.
    assert!((y[0] + 0.999_995).abs() < 1e-6 && (y[1] - 0.999_995).abs() < 1e-6, "{y:?}");

    let options = ContextOptions { preference: Preference::Gpu, ..Default::default() };
    assert_eq!(Context::open_with(&options).await.unwrap_err().to_string(), reason);
}
