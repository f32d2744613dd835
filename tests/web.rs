//! The crate in a browser: golden cases of every layer on WebGPU and on the host path compiled to wasm, and a device
//! that is lost. `.ci/run --only web` has the whole command; natively there is nothing to test here.
#![cfg(target_arch = "wasm32")]

mod common {
    #![allow(
        dead_code,
        unused_imports,
        unused_macros,
        reason = "each test binary uses its own part"
    )]
    pub mod activations;
    pub mod data;
    pub mod layer;
    pub mod oracle;
    pub mod random;
    pub mod tolerance;
}
// Its directory's name is taken by the data.
#[allow(dead_code, reason = "self tests and the network are left to native runs")]
#[path = "common/golden/mod.rs"]
mod golden;

use golden::Run;
use golden::index::Golden;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use wasm_bindgen_test::{console_log, wasm_bindgen_test, wasm_bindgen_test_configure};
use wgnorm::plan::{Access, Kernel};
use wgnorm::{
    Backend, BatchNorm1d, Context, ContextOptions, Error, Extras, InstanceNorm2d, LoadOptions,
    Mode, NormLayer, Preference, RunError, Tensor,
};

wasm_bindgen_test_configure!(run_in_browser);

/// A page reads no files.
fn embedded(name: &str) -> Result<&'static [u8], String> {
    macro_rules! files {
        ($($name:literal)*) => {
            match name {
                $($name => Ok(include_bytes!(concat!("golden/", $name))),)*
                _ => Err(format!("{name} is not embedded")),
            }
        };
    }
    files!(
        "index.json"
        "adaptive_instance_norm.safetensors"
        "batch_norm.safetensors"
        "batch_norm_large.safetensors"
        "channels_last.safetensors"
        "dtypes.safetensors"
        "fused_batch_norm_relu.safetensors"
        "group_norm.safetensors"
        "instance_norm.safetensors"
        "instance_norm_adversarial.safetensors"
        "instance_norm_backward.safetensors"
        "instance_norm_large.safetensors"
        "instance_norm_sizes.safetensors"
        "layer_norm.safetensors"
        "lucid_instance_norm.safetensors"
        "mxnet_instance_norm.safetensors"
        "network_io.safetensors"
        "network_state_dict.safetensors"
        "oneflow.safetensors"
        "rms_norm.safetensors"
        "seed_examples.safetensors"
        "state_dict_instancenorm2d.safetensors"
        "state_dict_io.safetensors"
    )
}

thread_local! {
    static GPU: OnceCell<Context> = const { OnceCell::new() };
}

/// The browser's WebGPU, in software here. Its pipelines are compiled once for all tests.
async fn gpu() -> Context {
    if let Some(context) = GPU.with(|gpu| gpu.get().cloned()) {
        return context;
    }
    let context = fresh_gpu().await;
    GPU.with(|gpu| gpu.get_or_init(|| context).clone())
}

async fn fresh_gpu() -> Context {
    let options = ContextOptions { preference: Preference::Gpu, ..Default::default() };
    Context::open_with(&options).await.expect("the browser runs with WebGPU on")
}

/// Cases of some ops, every `nth` of those of one op, element type and memory order, with gradients or without; all that
/// fail are told.
async fn run(context: &Context, ops: &[&str], nth: usize) {
    let golden = Golden::read(embedded).expect("the vectors");
    let on_gpu = context.backend() == Backend::Gpu;
    let mut kinds = BTreeMap::<_, Vec<_>>::new();
    for case in golden.cases.iter().filter(|case| ops.contains(&&*case.op)) {
        if let Ok(runner) = golden::supported(&golden, case, on_gpu) {
            let backward = case.inputs.keys().any(|name| name.starts_with("dy"));
            let kind = (&*case.op, backward, case.dtype_name(), case.layout.as_deref());
            kinds.entry(kind).or_default().push((case, runner));
        }
    }
    let (mut run, mut wrong, mut tightest) = ([0; 2], Vec::new(), 0f64);
    for (kind, cases) in kinds {
        for (case, runner) in cases.into_iter().step_by(nth) {
            run[usize::from(kind.1)] += 1;
            match runner(&Run { golden: &golden, case, context }).await {
                Ok(share) => tightest = tightest.max(share),
                Err(error) => wrong.push(format!("{}: {error}", case.id)),
            }
        }
    }
    let [forward, backward] = run;
    console_log!(
        "golden: {context} {ops:?}: {} cases, {backward} of them with gradients, {} failed; tightest {tightest:.2}",
        forward + backward,
        wrong.len(),
    );
    // A case with gradients checks the forward pass, too.
    assert!(backward > 0, "no gradients of {ops:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Both back ends; compiling a pipeline takes a software WebGPU half a second, so it gets a part of the cases.
macro_rules! golden_cases {
    ($($host:ident $gpu:ident [$($op:literal)*] $nth:literal)*) => {$(
        #[wasm_bindgen_test]
        async fn $host() {
            run(&Context::host(), &[$($op),*], 1).await;
        }
        #[wasm_bindgen_test]
        async fn $gpu() {
            run(&gpu().await, &[$($op),*], $nth).await;
        }
    )*};
}

golden_cases! {
    host_instance_norm gpu_instance_norm ["instance_norm"] 20
    host_other_instance_norms gpu_other_instance_norms ["lucid_instance_norm" "mxnet_instance_norm"] 12
    host_batch_norm gpu_batch_norm ["batch_norm"] 10
    host_fused_batch_norm gpu_fused_batch_norm ["fused_batch_norm_relu"] 10
    host_group_norm gpu_group_norm ["group_norm"] 10
    host_layer_norm gpu_layer_norm ["layer_norm"] 10
    host_rms_norm gpu_rms_norm ["rms_norm"] 10
    host_adain gpu_adain ["adain_params" "adain_style" "conditional_instance_norm"] 4
}

/// Every activation, value and gradient, at the extremes of f32.
async fn activations(context: &Context) {
    for expected in common::activations::all() {
        let result = common::activations::of_layer_norm(context, &expected).await;
        assert_eq!(result, Ok(()), "{context}");
    }
}

#[wasm_bindgen_test]
async fn host_activations() {
    activations(&Context::host()).await;
}

#[wasm_bindgen_test]
async fn gpu_activations() {
    activations(&gpu().await).await;
}

#[wasm_bindgen_test]
async fn gpu_that_is_lost_is_an_error_and_a_new_one_goes_on() {
    let data: Vec<f32> = (0..2 * 3 * 5 * 7).map(|i| (i * i % 17) as f32).collect();
    let call = async |context: &Context, layer: &InstanceNorm2d| -> Result<Vec<f32>, Error> {
        let x = Tensor::from_slice([2, 3, 5, 7], &data)?.to_context(context)?;
        layer.forward(context, &x, Mode::Eval)?.to_vec().await
    };
    let config = InstanceNorm2d::config(3);
    let context = fresh_gpu().await;
    let layer = config.clone().init(&context).expect("a layer");
    let before = call(&context, &layer).await.expect("the device is there");
    context.device().expect("on a GPU").destroy();
    let lost = call(&context, &layer).await;
    assert!(matches!(lost, Err(Error::Run(RunError::DeviceLost { .. }))), "{lost:?}");
    let again = call(&context, &layer).await;
    assert!(matches!(again, Err(Error::Run(RunError::DeviceLost { .. }))), "{again:?}");
    let context = fresh_gpu().await;
    let layer = config.init(&context).expect("a layer");
    assert_eq!(call(&context, &layer).await.expect("the new device is there"), before);
}

/// Makes the browser refuse the next object whose label starts so: its descriptor is changed first.
fn refuse(method: &str, label: &str, change: &str) {
    spoil("GPUDevice", method, label, &format!("const d = a[0]; a[0] = {{ ...d, {change} }}"));
}

#[wasm_bindgen_test]
async fn gpu_errors_reach_those_they_concern_and_nobody_else() {
    let data: Vec<f32> = (0..2 * 3 * 5 * 7).map(|i| (i * i % 17) as f32).collect();
    let host = Context::host();
    let layer = InstanceNorm2d::config(3).init(&host).expect("a layer");
    let x = Tensor::from_slice([2, 3, 5, 7], &data).expect("a tensor");
    let right = layer.forward(&host, &x, Mode::Eval).expect("on the host");
    let right = right.to_vec().await.expect("on the host");
    for (method, label, change) in [
        ("createBuffer", "wgnorm tensor", "usage: 0"),
        ("createBuffer", "wgnorm task", "usage: 0"),
        ("createBuffer", "wgnorm readback", "usage: 0"),
        ("createShaderModule", "wgnorm", "code: 'no'"),
        ("createComputePipeline", "wgnorm", "compute: { ...d.compute, entryPoint: 'none' }"),
        ("createBindGroup", "wgnorm", "entries: []"),
    ] {
        let context = fresh_gpu().await;
        let layer = InstanceNorm2d::config(3).init(&context).expect("a layer");
        let before = x.to_context(&context).expect("an upload");
        refuse(method, label, change);
        let spoiled = layer.forward(&context, &before, Mode::Eval).expect("an answer comes later");
        let spoiled_in_turn = layer.forward(&context, &spoiled, Mode::Eval).expect("the same");
        if label != "wgnorm readback" {
            assert!(is_refused(&spoiled_in_turn.to_vec().await), "{method} {label}");
            let known = layer.forward(&context, &spoiled, Mode::Eval);
            assert!(
                matches!(known, Err(Error::Run(RunError::Rejected { .. }))),
                "{method} {label}"
            );
        }
        assert!(is_refused(&spoiled.to_vec().await), "{method} {label}");
        assert_eq!(before.to_vec().await.expect("it was made before"), data);
        drop((spoiled, spoiled_in_turn));
        for _ in 0..3 {
            let y = layer.forward(&context, &before, Mode::Eval).expect("a call");
            let y = y.to_vec().await.unwrap_or_else(|e| panic!("{method} {label}: {e}"));
            let off = y.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-5, "{method} {label}: {off}");
        }
    }
}

/// Makes the next call of a method on `class` fail whose first argument has a label that starts so: arguments `a` are
/// changed first.
fn spoil(class: &str, method: &str, label: &str, change: &str) {
    let patch = format!(
        "const proto = {class}.prototype, call = proto.{method};
        proto.{method} = function (...a) {{
            if (String(a[0].label).startsWith('{label}')) {{ proto.{method} = call; {change}; }}
            return call.apply(this, a);
        }};"
    );
    js_sys::eval(&format!("(() => {{ {patch} }})()")).expect("the patch");
}

fn is_refused<T>(read: &Result<T, Error>) -> bool {
    matches!(read, Err(Error::Run(RunError::Rejected { .. })))
}

#[wasm_bindgen_test]
async fn gpu_memory_that_was_not_written_is_told() {
    for pooled in [false, true] {
        let context = fresh_gpu().await;
        let upload = |values: &[f32; 2]| {
            Tensor::from_slice([2], values).expect("a tensor").to_context(&context).expect("a call")
        };
        if pooled {
            assert_eq!(upload(&[1.0, 2.0]).to_vec().await, Ok(vec![1.0, 2.0]));
        }
        spoil("GPUQueue", "writeBuffer", "wgnorm tensor", "a[1] = 1 << 28");
        let written = upload(&[7.0, 9.0]);
        assert!(is_refused(&written.to_vec().await), "pooled: {pooled}");
        drop(written);
        if pooled {
            assert_eq!(upload(&[1.0, 2.0]).to_vec().await, Ok(vec![1.0, 2.0]));
        }
        spoil("GPUCommandEncoder", "clearBuffer", "wgnorm tensor", "a[1] = 2");
        let zeros = Tensor::zeros(&context, [2]).expect("a call");
        assert!(is_refused(&zeros.to_vec().await), "pooled: {pooled}");
        assert_eq!(Tensor::zeros(&context, [2]).expect("a call").to_vec().await, Ok(vec![0.0; 2]));
    }
}

/// Calls in between, by whomever, with nothing awaited.
#[wasm_bindgen_test]
async fn gpu_errors_of_others_are_theirs() {
    let context = fresh_gpu().await;
    let layer = || InstanceNorm2d::config(1).init(&context).expect("a layer");
    let (bad, good) = (layer(), layer());
    let on_device = |values: &[f32; 2]| {
        let tensor = Tensor::from_slice([1, 1, 1, 2], values).expect("a tensor");
        tensor.to_context(&context).expect("an upload")
    };
    let (x, mut y) = (on_device(&[1.0, 3.0]), on_device(&[0.0, 0.0]));
    let mut into = |layer: &InstanceNorm2d| {
        layer.forward_into(&context, &x, &Extras::new(), Mode::Eval, &mut y)
    };
    refuse("createBindGroup", "wgnorm", "entries: []");
    into(&bad).expect("an answer comes later");
    into(&good).expect("written over");
    let beside = good.forward(&context, &x, Mode::Eval).expect("a call");
    let device = context.device().expect("on a GPU");
    let _refused = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("the application's"),
        source: wgpu::ShaderSource::Wgsl("no".into()),
    });
    for read in [y.to_vec().await, beside.to_vec().await] {
        let read = read.expect("nothing of it has failed");
        assert!((read[0] + 1.0).abs() < 1e-4 && (read[1] - 1.0).abs() < 1e-4, "{read:?}");
    }
    assert_eq!(x.to_vec().await, Ok(vec![1.0, 3.0]));
}

#[wasm_bindgen_test]
async fn gpu_statistics_that_were_not_updated_are_told_once() {
    let context = fresh_gpu().await;
    let mut layer = BatchNorm1d::config(1).init(&context).expect("a layer");
    let x = Tensor::from_slice([2, 1, 1], &[1.0, 3.0]).expect("a tensor");
    let x = x.to_context(&context).expect("an upload");
    let mean = |layer: &BatchNorm1d| layer.running_mean().expect("statistics");
    refuse("createBindGroup", "wgnorm", "entries: []");
    layer.forward(&context, &x, Mode::Train).expect("an answer comes later");
    assert!(is_refused(&mean(&layer).to_vec().await));
    // What they were before is not lost.
    assert_eq!(mean(&layer).to_vec().await, Ok(vec![0.0]));
    layer.forward(&context, &x, Mode::Train).expect("a call");
    let moved = mean(&layer).to_vec().await.expect("statistics");
    assert!((moved[0] - 0.2).abs() < 1e-5, "{moved:?}");

    // What was to be there and is not, is missed until it is.
    let state = layer.state_dict().await.expect("a state");
    spoil("GPUQueue", "writeBuffer", "wgnorm state", "a[1] = 1 << 28");
    layer.load_state_dict(&state, &LoadOptions::strict()).expect("an answer comes later");
    let y = layer.forward(&context, &x, Mode::Eval).expect("an answer comes later");
    assert!(is_refused(&y.to_vec().await));
    assert!(is_refused(&layer.forward(&context, &x, Mode::Eval)));
    assert!(is_refused(&layer.state_dict().await));
    layer.reset_running_stats().expect("a call");
    assert_eq!(mean(&layer).to_vec().await, Ok(vec![0.0]));
}

#[wasm_bindgen_test]
async fn gpu_errors_that_are_told_late_are_waited_for() {
    let context = fresh_gpu().await;
    let layer = InstanceNorm2d::config(1).init(&context).expect("a layer");
    let on_device = |values: &[f32; 2]| {
        let tensor = Tensor::from_slice([1, 1, 1, 2], values).expect("a tensor");
        tensor.to_context(&context).expect("an upload")
    };
    let (x, mut y) = (on_device(&[1.0, 3.0]), on_device(&[0.0, 0.0]));
    let late = "const proto = GPUDevice.prototype, pop = proto.popErrorScope;
        proto.popErrorScope = function () {
            const answer = pop.call(this);
            return new Promise((told) => setTimeout(() => told(answer), 200));
        };
        return () => { proto.popErrorScope = pop; };";
    let restore = js_sys::eval(&format!("(() => {{ {late} }})()"));
    refuse("createBindGroup", "wgnorm", "entries: []");
    layer
        .forward_into(&context, &x, &Extras::new(), Mode::Eval, &mut y)
        .expect("an answer comes later");
    let read = y.to_vec().await;
    js_sys::Function::from(restore.expect("the patch"))
        .call0(&js_sys::global())
        .expect("the old one");
    assert!(is_refused(&read), "{read:?}");
    // The same operands, but not the call that was kept for them.
    layer.forward_into(&context, &x, &Extras::new(), Mode::Eval, &mut y).expect("a call");
    let y = y.to_vec().await.expect("nothing is wrong any more");
    assert!((y[0] + 1.0).abs() < 1e-4 && (y[1] - 1.0).abs() < 1e-4, "{y:?}");
}

#[wasm_bindgen_test]
async fn gpu_of_the_application_that_is_lost_is_an_error() {
    let ours = fresh_gpu().await;
    let (device, queue) = (ours.device().expect("on a GPU"), ours.queue().expect("on a GPU"));
    let context = Context::from_device(device, queue).expect("a context");
    let x = Tensor::from_slice([1, 1, 2], &[1.0, 2.0]).expect("a tensor");
    let x = x.to_context(&context).expect("an upload");
    device.destroy();
    for _ in 0..2 {
        let lost = x.to_vec().await;
        assert!(matches!(lost, Err(Error::Run(RunError::DeviceLost { .. }))), "{lost:?}");
    }
}

#[wasm_bindgen_test]
async fn gpu_in_software_is_not_taken_unasked() {
    let context = Context::open().await;
    assert_eq!(context.backend(), Backend::Host, "{context}");
    let reason = context.fallback_reason().map(ToString::to_string).unwrap_or_default();
    assert!(reason.contains("software"), "{reason}");
}

/// What the browser's own compiler (Tint in Chromium) says against a shader.
async fn complaints(device: &wgpu::Device, source: &str) -> Vec<String> {
    // A module that is refused is an error on the device, too.
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let source = wgpu::ShaderSource::Wgsl(source.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let refused = scope.pop().await.map(|error| error.to_string());
    let messages = module.get_compilation_info().await.messages.into_iter();
    let errors = messages.filter(|m| m.message_type == wgpu::CompilationMessageType::Error);
    errors.map(|error| error.message).chain(refused).collect()
}

/// What it says against a pipeline with all that the shader's constants switch on.
async fn refusal(device: &wgpu::Device, source: &str) -> Option<String> {
    let switches =
        source.lines().filter_map(|line| line.strip_prefix("override ")?.split_once(": bool"));
    let constants: Vec<_> = switches.map(|(name, _)| (name, 1.0)).collect();
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let source = wgpu::ShaderSource::Wgsl(source.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    let _pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &constants,
            ..Default::default()
        },
        cache: None,
    });
    scope.pop().await.map(|error| error.to_string())
}

#[wasm_bindgen_test]
async fn gpu_compiler_accepts_every_shader() {
    let context = gpu().await;
    let device = context.device().expect("on a GPU");
    let mut wrong = Vec::new();
    let mut sources: Vec<_> = Kernel::ALL
        .into_iter()
        .flat_map(|kernel| Access::ALL.map(|access| kernel.source(access)))
        .collect();
    sources.push(include_str!("../examples/style_transfer/src/shaders/conv.wgsl").to_owned());
    sources.push(include_str!("../examples/style_transfer/src/shaders/pool.wgsl").to_owned());
    for source in &sources {
        wrong.extend(complaints(device, source).await);
    }
    // Compiling takes a software device long, so element types take turns.
    for (kernel, access) in Kernel::ALL.into_iter().zip(Access::ALL.into_iter().cycle()) {
        wrong.extend(refusal(device, &kernel.source(access)).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What naga does not check: all lanes of a workgroup come to a barrier.
    let divided = "@compute @workgroup_size(4)
        fn main(@builtin(local_invocation_index) lane: u32) {
            if lane == 0u { workgroupBarrier(); }
        }";
    let told = complaints(device, divided).await;
    assert!(told.iter().any(|told| told.contains("uniform")), "{told:?}");
}
