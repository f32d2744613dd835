//! The GPU path, on a device opened here: it shall have timestamps, and be the adapter asked for.

use crate::answer::Answer;
use crate::calls::{Calls, Data};
use crate::cases::Case;
use crate::clock::Clock;
use crate::{Device, Failure, Ready};
use wgnorm::{Context, Tensor};

/// As `copy.wgsl` says.
const COPY_WORKGROUP: u32 = 256;
const VEC4: u64 = 16;

pub struct Gpu {
    context: Context,
    clock: Clock,
    copy: wgpu::ComputePipeline,
    /// Calls in one measurement.
    batched: usize,
}

/// The best adapter with `wanted` in its back end and name, in any case.
pub fn adapter(wanted: &str) -> Result<wgpu::Adapter, Failure> {
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.sort_by_key(rank);
    let names: Vec<_> = adapters.iter().map(|adapter| label(&adapter.get_info())).collect();
    let found = names.iter().position(|name| name.to_lowercase().contains(&wanted.to_lowercase()));
    let at =
        found.ok_or_else(|| format!("no adapter named {wanted:?}; found: {}", names.join("; ")))?;
    Ok(adapters.swap_remove(at))
}

/// As the crate itself names it: the same adapter may be there for several back ends.
fn label(info: &wgpu::AdapterInfo) -> String {
    match info.backend {
        wgpu::Backend::Gl => format!("OpenGL: {}", info.name),
        other => format!("{other:?}: {}", info.name),
    }
}

/// Lower is better, OpenGL the last resort: as the crate itself chooses.
fn rank(adapter: &wgpu::Adapter) -> (Option<usize>, bool) {
    use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other, VirtualGpu};
    let info = adapter.get_info();
    let kinds = [DiscreteGpu, IntegratedGpu, VirtualGpu, Other, Cpu];
    (kinds.iter().position(|kind| *kind == info.device_type), info.backend == wgpu::Backend::Gl)
}

pub fn is_software(adapter: &wgpu::Adapter) -> bool {
    adapter.get_info().device_type == wgpu::DeviceType::Cpu
}

impl Gpu {
    pub fn open(adapter: &wgpu::Adapter, batched: usize) -> Result<Gpu, Failure> {
        let descriptor = wgpu::DeviceDescriptor {
            required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
        let copy = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("copy"),
            layout: None,
            module: &device.create_shader_module(wgpu::include_wgsl!("copy.wgsl")),
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let context = Context::from_device(&device, &queue)?;
        Ok(Gpu { context, clock: Clock::new(device, queue), copy, batched })
    }

    /// Binds a copy from one tensor to another as large.
    fn bind(&self, from: &Tensor<'_>, to: &Tensor<'_>) -> Option<(wgpu::BindGroup, u32)> {
        let buffers = [from.buffer()?.0, to.buffer()?.0];
        let entry = |binding: usize| wgpu::BindGroupEntry {
            binding: binding as u32,
            resource: buffers[binding].as_entire_binding(),
        };
        let group = self.clock.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.copy.get_bind_group_layout(0),
            entries: &[entry(0), entry(1)],
        });
        Some((group, (buffers[0].size() / VEC4).div_ceil(COPY_WORKGROUP.into()) as u32))
    }
}

impl Device for Gpu {
    fn name(&self) -> String {
        self.context.to_string()
    }

    /// What the host gives.
    fn expected(&self, case: &Case, data: &Data) -> Result<Answer, Failure> {
        let mut calls = Calls::new(case, &Context::host(), data, 1)?;
        calls.run(0)?;
        Ok(calls.answer()?)
    }

    fn prepare<'a>(&'a self, case: &Case, data: &Data) -> Result<Box<dyn Ready + 'a>, Failure> {
        let calls = Calls::rotating(case, &self.context, data)?;
        let bound = calls.tensors().into_iter().map(|(from, to)| self.bind(from, to));
        let copies = bound.collect::<Option<_>>().ok_or("a tensor is not on the GPU")?;
        Ok(Box::new(ReadyGpu { gpu: self, calls, copies, recorded: !case.op.is_backward() }))
    }

    fn context(&self) -> &Context {
        &self.context
    }
}

struct ReadyGpu<'a> {
    gpu: &'a Gpu,
    calls: Calls,
    /// Between tensors of the calls: their answers are read before the first copy.
    copies: Vec<(wgpu::BindGroup, u32)>,
    /// Whether calls are recorded into a pass of ours; others submit themselves.
    recorded: bool,
}

impl ReadyGpu<'_> {
    /// The tensors of measurement `i`.
    fn turns(&self, i: usize) -> impl Iterator<Item = usize> + use<> {
        let (batched, count) = (self.gpu.batched, self.calls.len());
        (i * batched..(i + 1) * batched).map(move |turn| turn % count)
    }
}

impl Ready for ReadyGpu<'_> {
    fn calls(&self) -> &Calls {
        &self.calls
    }

    fn norm(&mut self, i: usize) -> Result<f64, Failure> {
        let (clock, mut turns) = (&self.gpu.clock, self.turns(i));
        let ms = if self.recorded {
            clock.pass(true, |pass| turns.try_for_each(|i| self.calls.record(pass, i)))
        } else {
            clock.wall(|| turns.try_for_each(|i| self.calls.run(i)))
        };
        Ok(ms? / self.gpu.batched as f64)
    }

    fn copies(&self) -> usize {
        1
    }

    fn copy(&mut self, _way: usize, i: usize) -> Result<f64, Failure> {
        let turns = self.turns(i);
        let ms = self.gpu.clock.pass(self.recorded, |pass| {
            pass.set_pipeline(&self.gpu.copy);
            for i in turns {
                let (group, workgroups) = &self.copies[i];
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(*workgroups, 1, 1);
            }
            Ok(())
        });
        Ok(ms? / self.gpu.batched as f64)
    }

    fn traffic(&self) -> Result<Option<u64>, Failure> {
        self.gpu.context.caps().map(|caps| self.calls.traffic(&caps)).transpose()
    }
}
