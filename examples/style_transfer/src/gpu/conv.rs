//! Convolutions on the GPU: weights packed for `conv.wgsl`, a tile chosen for each shape, dispatches cut into windows.

use std::collections::HashMap;

use wgpu::{
    BindGroup, Buffer, BufferUsages, ComputePass, ComputePipeline, Device, Queue, ShaderStages,
};

use super::device::{Owned, upload};
use crate::error::GpuError;
use crate::net::{Finish, Geometry, Size, Stage};

/// Multiplications of one dispatch: a few milliseconds on a small GPU, seconds on a software one. Drivers reset a GPU
/// that does not answer for seconds, and a desktop freezes long before.
const WINDOW_WORK: u64 = 1 << 32;
/// WebGPU's limit of workgroups in each dimension of a grid.
const MAX_GRID: u64 = 65_535;

/// How a workgroup covers the output; the override constants of `conv.wgsl`, where they are explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tile {
    lanes_o: u32,
    lanes_p: u32,
    blocks: u32,
    step: u32,
}

impl Tile {
    /// 64 lanes of 8 x 8 outputs each: as many channels as there are, up to 64, and pixels for the rest. (On a software
    /// GPU this was the fastest of the tiles with 64 to 256 lanes of 4 x 4, 8 x 4 and 8 x 8.)
    fn of(geometry: &Geometry) -> Tile {
        match geometry.out_channels {
            // 4 x 512: the last stage has three channels, and lanes without a channel would multiply for nothing.
            ..=4 => Tile { lanes_o: 1, lanes_p: 64, blocks: 1, step: 4 },
            // 8 x 512, 16 x 256, 32 x 128, 64 x 64; the steps that 8 to 10 KiB of workgroup memory hold.
            5..=8 => Tile { lanes_o: 1, lanes_p: 64, blocks: 2, step: 4 },
            9..=16 => Tile { lanes_o: 2, lanes_p: 32, blocks: 2, step: 8 },
            17..=32 => Tile { lanes_o: 4, lanes_p: 16, blocks: 2, step: 16 },
            _ => Tile { lanes_o: 8, lanes_p: 8, blocks: 2, step: 16 },
        }
    }

    fn lanes(self) -> u32 {
        self.lanes_o * self.lanes_p
    }

    fn channels(self) -> usize {
        (4 * self.lanes_o * self.blocks) as usize
    }

    fn pixels(self) -> u32 {
        8 * self.lanes_p
    }

    /// Vectors of four in workgroup memory: weights, patches.
    fn shared(self) -> (u32, u32) {
        (self.step * self.lanes_o * self.blocks, 2 * self.step * self.lanes_p)
    }

    /// wgpu does not check these after overrides are applied (its issue 8946), so we do.
    fn check(self, limits: &wgpu::Limits) -> Result<(), GpuError> {
        let (weights, patches) = self.shared();
        let checks = [
            (
                "maxComputeInvocationsPerWorkgroup",
                self.lanes(),
                limits.max_compute_invocations_per_workgroup,
            ),
            ("maxComputeWorkgroupSizeX", self.lanes(), limits.max_compute_workgroup_size_x),
            (
                "maxComputeWorkgroupStorageSize",
                16 * (weights + patches),
                limits.max_compute_workgroup_storage_size,
            ),
        ];
        for (limit_name, needed, limit) in checks {
            if needed > limit {
                return Err(GpuError::Kernel {
                    limit_name,
                    needed: needed.into(),
                    limit: limit.into(),
                });
            }
        }
        Ok(())
    }

    fn constants(self, geometry: &Geometry, finish: Finish) -> [(&'static str, f64); 12] {
        let (weights, patches) = self.shared();
        [
            ("KERNEL", geometry.kernel as f64),
            ("STRIDE", geometry.stride as f64),
            ("UPSAMPLE", geometry.upsample as f64),
            ("RELU", f64::from(finish.has_plain_relu())),
            ("STATISTICS", f64::from(finish.has_norm())),
            ("LANES_O", self.lanes_o.into()),
            ("LANES_P", self.lanes_p.into()),
            ("BLOCKS", self.blocks.into()),
            ("STEP", self.step.into()),
            ("LANES", self.lanes().into()),
            ("WEIGHTS", weights.into()),
            ("PATCHES", patches.into()),
        ]
    }
}

/// The uniform block of `conv.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Shape {
    in_height: u32,
    in_width: u32,
    out_width: u32,
    out_pixels: u32,
    depth: u32,
    steps: u32,
    out_channels: u32,
    first_pixel: u32,
    parts: u32,
    first_part: u32,
}

/// What a pipeline is specialized for: tile, kernel, stride, upsampling, and whether ReLU or a norm follows.
type Key = (Tile, usize, usize, usize, [bool; 2]);

/// The shader module and the pipelines made of it, each however many layers use it.
pub(super) struct Kernels {
    device: Device,
    queue: Queue,
    module: wgpu::ShaderModule,
    bindings: wgpu::BindGroupLayout,
    layout: wgpu::PipelineLayout,
    pipelines: HashMap<Key, ComputePipeline>,
}

impl Kernels {
    pub fn new(device: &Device, queue: &Queue) -> Kernels {
        let module = device.create_shader_module(wgpu::include_wgsl!("../shaders/conv.wgsl"));
        let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let types = [
            wgpu::BufferBindingType::Uniform,
            storage(true),
            storage(true),
            storage(true),
            storage(false),
            storage(false),
        ];
        let entries = types.iter().zip(0..).map(|(&ty, binding)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        });
        let bindings = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("conv"),
            entries: &entries.collect::<Vec<_>>(),
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("conv"),
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        Kernels {
            device: device.clone(),
            queue: queue.clone(),
            module,
            bindings,
            layout,
            pipelines: HashMap::new(),
        }
    }

    fn pipeline(&mut self, tile: Tile, geometry: &Geometry, finish: Finish) -> ComputePipeline {
        let Geometry { kernel, stride, upsample, .. } = *geometry;
        let follows = [finish.has_plain_relu(), finish.has_norm()];
        let key = (tile, kernel, stride, upsample, follows);
        let make = || {
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some("conv"),
                layout: Some(&self.layout),
                module: &self.module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &tile.constants(geometry, finish),
                    // Every slot is written before it is read; some back ends zero with a single lane.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        };
        self.pipelines.entry(key).or_insert_with(make).clone()
    }
}

/// A convolution with its weights on the device.
pub(super) struct Conv {
    device: Device,
    queue: Queue,
    pipeline: ComputePipeline,
    bindings: wgpu::BindGroupLayout,
    geometry: Geometry,
    tile: Tile,
    weight: Owned,
    bias: Owned,
}

impl Conv {
    /// The convolution of `stage`, with its ReLU if nothing comes between. Call within [`super::device::guarded`].
    pub fn new(kernels: &mut Kernels, stage: &Stage) -> Result<Conv, GpuError> {
        let Stage { geometry, weight, bias, .. } = stage;
        let tile = Tile::of(geometry);
        tile.check(&kernels.device.limits())?;
        let pipeline = kernels.pipeline(tile, geometry, stage.finish);
        let (device, queue) = (kernels.device.clone(), kernels.queue.clone());
        let buffer = |values: &[f32]| {
            Owned(upload(&device, &queue, BufferUsages::STORAGE, bytemuck::cast_slice(values)))
        };
        let channels = geometry.out_channels.next_multiple_of(tile.channels());
        let mut padded_bias = bias.clone();
        padded_bias.resize(channels, 0.0);
        let weight = buffer(&pack(weight, geometry, channels, tile.step as usize));
        let bias = buffer(&padded_bias);
        let bindings = kernels.bindings.clone();
        Ok(Conv { device, queue, pipeline, bindings, geometry: *geometry, tile, weight, bias })
    }

    /// Moments that are written of each channel for an input of `size`: one for each tile of pixels.
    pub fn parts(&self, size: Size) -> usize {
        self.geometry.output(size).area().div_ceil(self.tile.pixels() as usize)
    }

    /// Bytes of these moments.
    pub fn moments(&self, size: Size) -> u64 {
        16 * (self.geometry.out_channels * self.parts(size)) as u64
    }

    /// The convolution for an input of `size` that lies in `x`, its output going to `y`, and the moments for a norm to
    /// `moments`. Call within [`super::device::guarded`].
    pub fn prepare(&self, size: Size, x: &Buffer, y: &Buffer, moments: &Buffer) -> Vec<Window> {
        self.prepare_windows(size, [x, y, moments], WINDOW_WORK)
    }

    /// Cut into windows of about `work` multiplications, at least a tile wide.
    fn prepare_windows(&self, size: Size, buffers: [&Buffer; 3], work: u64) -> Vec<Window> {
        let output = self.geometry.output(size);
        let pixels = self.tile.pixels();
        let tile_work = self.geometry.work(Size::new(1, pixels as usize));
        let tiles = (work / tile_work).clamp(1, MAX_GRID);
        let window = |first_pixel: u32| {
            let left = output.area() as u64 - u64::from(first_pixel);
            let columns = left.div_ceil(pixels.into()).min(tiles);
            let shape = Shape {
                in_height: size.height as u32,
                in_width: size.width as u32,
                out_width: output.width as u32,
                out_pixels: output.area() as u32,
                depth: self.geometry.depth() as u32,
                steps: self.geometry.depth().div_ceil(self.tile.step as usize) as u32,
                out_channels: self.geometry.out_channels as u32,
                first_pixel,
                parts: self.parts(size) as u32,
                first_part: first_pixel / pixels,
            };
            let rows = self.geometry.out_channels.div_ceil(self.tile.channels());
            Window {
                pipeline: self.pipeline.clone(),
                bind_group: self.bind(shape, buffers),
                groups: [columns as u32, rows as u32],
                work: columns * tile_work,
            }
        };
        (0..output.area() as u32)
            .step_by((tiles * u64::from(pixels)) as usize)
            .map(window)
            .collect()
    }

    fn bind(&self, shape: Shape, [x, y, moments]: [&Buffer; 3]) -> BindGroup {
        let uniform =
            upload(&self.device, &self.queue, BufferUsages::UNIFORM, bytemuck::bytes_of(&shape));
        let buffers = [&uniform, x, &self.weight, &self.bias, y, moments];
        let entries = buffers.iter().zip(0..).map(|(buffer, binding)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        });
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("conv"),
            layout: &self.bindings,
            entries: &entries.collect::<Vec<_>>(),
        })
    }
}

/// One dispatch: as much of a convolution's output as a device should do at a time.
pub(super) struct Window {
    pipeline: ComputePipeline,
    bind_group: BindGroup,
    groups: [u32; 2],
    /// Multiplications.
    pub work: u64,
}

impl Window {
    pub fn record(&self, pass: &mut ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.groups[0], self.groups[1], 1);
    }
}

/// `[out][k]` as `[k][out]`, so that neighbouring lanes read neighbouring weights; zeros up to `channels` and to whole
/// steps of k, so that the kernel needs no bounds.
fn pack(weight: &[f32], geometry: &Geometry, channels: usize, step: usize) -> Vec<f32> {
    let depth = geometry.depth();
    let mut packed = vec![0.0; depth.next_multiple_of(step) * channels];
    for (out, row) in weight.chunks_exact(depth).enumerate() {
        for (k, &value) in row.iter().enumerate() {
            packed[k * channels + out] = value;
        }
    }
    packed
}

#[cfg(test)]
mod tests;
