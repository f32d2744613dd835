//! What a call costs besides its work: planning, recording, finding what is kept ready.
//!
//! `cargo bench --bench overheads`. On a GPU nothing is submitted, so any adapter will do; recording is
//! measured beside wgpu's own calls for as many dispatches.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};
use wgnorm::plan::{Caps, Keep, Offsets, Plan, Wants};
use wgnorm::{
    Affine, BatchNorm2d, Context, ContextOptions, Error, Extras, InstanceNorm2d, Mode, NormLayer,
    Preference, Problem, Tensor, TensorDesc,
};

/// Groups that fit a workgroup, and groups that are split over several.
const SHAPES: [(&str, [usize; 4]); 2] =
    [("resident", [8, 64, 16, 16]), ("split", [1, 4, 512, 512])];

fn instance_norm(context: &Context, channels: usize) -> Result<InstanceNorm2d, Error> {
    InstanceNorm2d::config(channels).with_affine(Affine::Both).init(context)
}

fn problem(layer: &impl NormLayer, shape: [usize; 4]) -> Result<Problem, Error> {
    Ok(layer.problem(&TensorDesc::new(shape)?, Mode::Train)?)
}

fn forward_plan(problem: &Problem) -> Plan {
    Plan::forward(problem, &Caps::WEBGPU, &Offsets::default(), Keep::Nothing).expect("it fits")
}

fn plan(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    let wants = Wants { weight: true, bias: true, ..Wants::default() };
    for (name, shape) in SHAPES {
        let layer = instance_norm(&Context::host(), shape[1]).expect("valid settings");
        let problem = problem(&layer, shape).expect("it fits the layer");
        group.bench_function(format!("forward {name}"), |b| {
            b.iter(|| forward_plan(black_box(&problem)));
        });
        group.bench_function(format!("backward {name}"), |b| {
            b.iter(|| {
                Plan::backward(black_box(&problem), &Caps::WEBGPU, &Offsets::default(), wants)
            });
        });
    }
}

/// Tensors so small that their work is nothing.
fn host(c: &mut Criterion) {
    let context = Context::host();
    let mut run = |name: &str, layer: &dyn NormLayer, mode| -> Result<(), Error> {
        let x = Tensor::from_slice([1, 2, 2, 2], &[1.0, 2.0, 4.0, 8.0, 1.0, 3.0, 9.0, 27.0])?;
        let mut y = layer.forward(&context, &x, mode)?;
        let extras = Extras::new();
        c.bench_function(name, |b| {
            b.iter(|| layer.forward_into(&context, black_box(&x), &extras, mode, &mut y));
        });
        Ok(())
    };
    let layers = || -> Result<_, Error> {
        Ok((instance_norm(&context, 2)?, BatchNorm2d::config(2).init(&context)?))
    };
    let (instance, batch) = layers().expect("valid settings");
    run("host/instance norm", &instance, Mode::Train).expect("a valid call");
    run("host/batch norm, training", &batch, Mode::Train).expect("a valid call");
    run("host/batch norm, evaluating", &batch, Mode::Eval).expect("a valid call");
}

fn gpu(c: &mut Criterion) {
    let options = ContextOptions { preference: Preference::Gpu, ..Default::default() };
    match Context::open_with_blocking(&options) {
        Ok(context) => {
            for (name, shape) in SHAPES {
                record(c, &context, name, shape).expect("a valid call");
            }
        }
        Err(reason) => eprintln!("skipped: no adapter ({reason})"),
    }
}

fn record(
    c: &mut Criterion,
    context: &Context,
    name: &str,
    shape: [usize; 4],
) -> Result<(), Error> {
    let device = context.device().expect("a GPU's context");
    let layer = instance_norm(context, shape[1])?;
    let (x, y) = (Tensor::zeros(context, shape)?, Tensor::zeros(context, shape)?);
    let extras = Extras::new();
    let call = |pass: &mut wgpu::ComputePass<'_>| {
        layer.record(context, pass, &x, &y, &extras, Mode::Train).expect("a valid call");
    };
    let mut group = c.benchmark_group(format!("record {name}"));
    group.bench_function("wgnorm, known operands", |b| {
        b.iter_custom(|times| recording(device, times, call));
    });
    // The bind groups are made anew; pipelines and uniforms are found.
    group.bench_function("wgnorm, new operands", |b| {
        b.iter_custom(|times| {
            recording(device, times, |pass| {
                layer.trim();
                call(pass);
            })
        });
    });
    let dispatches = forward_plan(&problem(&layer, shape)?).stages.len();
    let (pipeline, bind_group) = trivial(device);
    group.bench_function(format!("wgpu alone, dispatches: {dispatches}"), |b| {
        b.iter_custom(|times| {
            recording(device, times, |pass| {
                for _ in 0..dispatches {
                    pass.set_pipeline(&pipeline);
                    pass.set_bind_group(0, &bind_group, &[]);
                    pass.dispatch_workgroups(1, 1, 1);
                }
            })
        });
    });
    Ok(())
}

/// The time to record something so many times into a pass, which is then thrown away.
fn recording(
    device: &wgpu::Device,
    times: u64,
    mut record: impl FnMut(&mut wgpu::ComputePass<'_>),
) -> Duration {
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    let start = Instant::now();
    for _ in 0..times {
        record(&mut pass);
    }
    start.elapsed()
}

/// A pipeline that does next to nothing, with a buffer to bind.
fn trivial(device: &wgpu::Device) -> (wgpu::ComputePipeline, wgpu::BindGroup) {
    let source = "
        @group(0) @binding(0) var<storage, read_write> data: array<u32>;
        @compute @workgroup_size(1) fn main() { data[0] = 1u; }";
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(source.into()),
        }),
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    (pipeline, bind_group)
}

criterion_group!(benches, plan, host, gpu);
criterion_main!(benches);
