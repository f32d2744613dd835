//! wgnorm inside an application that has its own device, buffers, shaders and encoder.
//!
//! The application draws a picture with a compute pass of its own, wgnorm normalizes it, and a
//! second pass of the application's turns the result into colours. All of it is one command buffer,
//! recorded by the application and submitted by it, once.
//!
//! `cargo run --example inside_your_app` (any adapter will do, software ones included)

use wgnorm::{Activation, Affine, Context, Extras, InstanceNorm2d, Mode, NormLayer, Tensor};

const SIDE: u32 = 256;
const CHANNELS: u32 = 3;
const VALUES: u32 = CHANNELS * SIDE * SIDE;

/// The application's shaders: a dim picture around 100 with little contrast, and its colours.
const SHADERS: &str = "
@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> picture: array<f32>;
@group(0) @binding(2) var<storage, read_write> colours: array<u32>;
const SIDE = 256u;

@compute @workgroup_size(16, 16)
fn draw(@builtin(global_invocation_id) id: vec3<u32>) {
  let p = vec2<f32>(id.xy) / f32(SIDE);
  picture[(id.z * SIDE + id.y) * SIDE + id.x] = 100.0 + 0.2 * sin(40.0 * distance(p, vec2(0.5)) + f32(id.z));
}

@compute @workgroup_size(16, 16)
fn colour(@builtin(global_invocation_id) id: vec3<u32>) {
  var rgba = 0xff000000u;
  for (var channel = 0u; channel < 3u; channel++) {
    let v = source[(channel * SIDE + id.y) * SIDE + id.x];
    rgba |= u32(clamp(v, 0.0, 1.0) * 255.0) << (8u * channel);
  }
  colours[id.y * SIDE + id.x] = rgba;
}
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The application's own GPU.
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("application"),
        source: wgpu::ShaderSource::Wgsl(SHADERS.into()),
    });
    let pipeline = |entry_point| {
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry_point),
            layout: None,
            module: &module,
            entry_point: Some(entry_point),
            compilation_options: Default::default(),
            cache: None,
        })
    };
    let (draw, colour) = (pipeline("draw"), pipeline("colour"));

    // The application's own buffers. The picture starts behind a header of 1 KiB.
    let header = 1024;
    let buffer = |size: u32, usage| {
        let size = u64::from(size);
        let usage = usage | wgpu::BufferUsages::STORAGE;
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let picture = buffer(header + 4 * VALUES, wgpu::BufferUsages::empty());
    let contrast = buffer(4 * VALUES, wgpu::BufferUsages::empty());
    let colours = buffer(4 * SIDE * SIDE, wgpu::BufferUsages::COPY_SRC);
    let group = |pipeline: &wgpu::ComputePipeline, resources: &[(u32, &wgpu::Buffer, u64)]| {
        let entries: Vec<_> = resources
            .iter()
            .map(|&(binding, buffer, offset)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset,
                    size: None,
                }),
            })
            .collect();
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    };
    let draw_group = group(&draw, &[(1, &picture, header.into())]);
    let colour_group = group(&colour, &[(0, &contrast, 0), (2, &colours, 0)]);

    // wgnorm on that device: a layer, and the application's buffers as tensors.
    let context = Context::from_device(&device, &queue)?;
    let mut norm =
        InstanceNorm2d::config(CHANNELS as usize).with_affine(Affine::Both).init(&context)?;
    norm.set_weight(&Tensor::from_slice([3], &[0.3, 0.25, 0.2])?)?;
    norm.set_bias(&Tensor::from_slice([3], &[0.5, 0.4, 0.6])?)?;
    let shape = [1, CHANNELS as usize, SIDE as usize, SIDE as usize];
    let x = Tensor::from_buffer(&context, picture.clone(), header.into(), shape)?;
    let y = Tensor::from_buffer(&context, contrast.clone(), 0, shape)?;

    // One encoder, three steps; the layer submits, polls and maps nothing.
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&draw);
        pass.set_bind_group(0, &draw_group, &[]);
        pass.dispatch_workgroups(SIDE / 16, SIDE / 16, CHANNELS);
    }
    let relu = Extras::new().with_activation(Activation::Relu);
    norm.record(&context, &mut encoder, &x, &y, &relu, Mode::Eval)?;
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&colour);
        pass.set_bind_group(0, &colour_group, &[]);
        pass.dispatch_workgroups(SIDE / 16, SIDE / 16, 1);
    }
    queue.submit([encoder.finish()]);

    // The application reads its colours back (here with wgnorm's help) and looks at them.
    let words = Tensor::from_buffer(&context, colours, 0, [(SIDE * SIDE) as usize])?;
    let pixels: Vec<u32> = words.to_vec_blocking()?.iter().map(|v| v.to_bits()).collect();
    for (channel, name) in ["red", "green", "blue"].iter().enumerate() {
        let values = pixels.iter().map(|p| f64::from((p >> (8 * channel)) & 255) / 255.0);
        let mean = values.clone().sum::<f64>() / pixels.len() as f64;
        let spread = values.map(|v| (v - mean).powi(2)).sum::<f64>() / pixels.len() as f64;
        println!("{name:5} mean {mean:.3}, standard deviation {:.3}", spread.sqrt());
        // The layer was told bias (mean) and weight (deviation); clamping costs a little.
        let (bias, weight) = ([0.5, 0.4, 0.6][channel], [0.3, 0.25, 0.2][channel]);
        if (mean - bias).abs() > 0.02 || (spread.sqrt() - weight).abs() > 0.02 {
            return Err(format!("{name} should have mean {bias} and deviation {weight}").into());
        }
    }
    println!("normalized between two passes of the application on {context}");
    Ok(())
}
