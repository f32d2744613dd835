//! 2x2 max pooling on the GPU.

use wgpu::{BindGroup, Buffer, BufferUsages, ComputePass, ComputePipeline, Device, Queue};

use super::device::upload;
use crate::net::Size;

/// Lanes of a workgroup, as `pool.wgsl` has them.
const LANES: u32 = 64;
/// WebGPU's limit of workgroups in each dimension of a grid.
const MAX_GRID: u32 = 65_535;

/// The pipeline of `pool.wgsl`.
pub(super) struct Pool {
    device: Device,
    queue: Queue,
    pipeline: ComputePipeline,
}

impl Pool {
    /// Call within [`super::device::guarded`].
    pub fn new(device: &Device, queue: &Queue) -> Pool {
        let module = device.create_shader_module(wgpu::include_wgsl!("../shaders/pool.wgsl"));
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("pool"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Pool { device: device.clone(), queue: queue.clone(), pipeline }
    }

    /// The pooling of so many planes of `size` in `x`, its output going to `y`. Call within
    /// [`super::device::guarded`].
    pub fn prepare(&self, planes: usize, size: Size, x: &Buffer, y: &Buffer) -> Pooling {
        let (height, width) = (size.height as u32, size.width as u32);
        let shape = [height, width];
        let uniform =
            upload(&self.device, &self.queue, BufferUsages::UNIFORM, bytemuck::bytes_of(&shape));
        let buffers = [&uniform, x, y];
        let entries = buffers.iter().zip(0..).map(|(buffer, binding)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        });
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("pool"),
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &entries.collect::<Vec<_>>(),
        });
        // Where the output has more columns or rows than a grid, each lane takes several.
        let groups = [(width / 2).div_ceil(LANES), height / 2].map(|n| n.min(MAX_GRID));
        let groups = [groups[0], groups[1], planes as u32];
        Pooling { pipeline: self.pipeline.clone(), bind_group, groups }
    }
}

/// One dispatch.
pub(super) struct Pooling {
    pipeline: ComputePipeline,
    bind_group: BindGroup,
    groups: [u32; 3],
}

impl Pooling {
    pub fn record(&self, pass: &mut ComputePass<'_>) {
        let [x, y, z] = self.groups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::device::guarded;
    use crate::testing::{assert_translates, gpu};
    use wgnorm::Tensor;

    #[test]
    fn the_largest_of_each_square_and_no_odd_row_or_column() {
        let Some(context) = gpu() else { return };
        let (device, queue) = (context.device().unwrap(), context.queue().unwrap());
        // Wider than two workgroups, odd both ways, two planes; each value says where it lies.
        let (planes, size) = (2, Size::new(5, 263));
        let values: Vec<f32> = (0..planes * size.area()).map(|i| i as f32).collect();
        let x = Tensor::from_slice([values.len()], &values).unwrap().to_context(&context).unwrap();
        let y = Tensor::zeros(&context, [planes, 2, 131]).unwrap();
        let submitted = guarded(device, || {
            let pool = Pool::new(device, queue);
            let pooling = pool.prepare(planes, size, x.buffer().unwrap().0, y.buffer().unwrap().0);
            let mut encoder = device.create_command_encoder(&Default::default());
            pooling.record(&mut encoder.begin_compute_pass(&Default::default()));
            queue.submit([encoder.finish()]);
        });
        pollster::block_on(submitted).unwrap();
        let rows = (0..planes).flat_map(|plane| [1, 3].map(|row| (plane * 5 + row) * 263));
        let expected =
            rows.flat_map(|row| (0..131).map(move |column| (row + 2 * column + 1) as f32));
        assert_eq!(y.to_vec_blocking().unwrap(), expected.collect::<Vec<_>>());
    }

    /// Pictures may have sides of any length, grids may not.
    #[test]
    fn more_rows_than_a_grid_has_are_pooled() {
        let Some(context) = gpu() else { return };
        let (device, queue) = (context.device().unwrap(), context.queue().unwrap());
        let rows = MAX_GRID as usize + 2;
        let values: Vec<f32> = (0..2 * 2 * rows).map(|i| i as f32).collect();
        let x = Tensor::from_slice([values.len()], &values).unwrap().to_context(&context).unwrap();
        let y = Tensor::zeros(&context, [1, rows, 1]).unwrap();
        let submitted = guarded(device, || {
            let size = Size::new(2 * rows, 2);
            let (x, y) = (x.buffer().unwrap().0, y.buffer().unwrap().0);
            let pooling = Pool::new(device, queue).prepare(1, size, x, y);
            let mut encoder = device.create_command_encoder(&Default::default());
            pooling.record(&mut encoder.begin_compute_pass(&Default::default()));
            queue.submit([encoder.finish()]);
        });
        pollster::block_on(submitted).unwrap();
        let expected: Vec<_> = (0..rows).map(|row| (4 * row + 3) as f32).collect();
        assert!(y.to_vec_blocking().unwrap() == expected);
    }

    #[test]
    fn the_shader_is_valid_on_every_platform() {
        assert_translates(include_str!("../shaders/pool.wgsl"), &[]);
    }
}
