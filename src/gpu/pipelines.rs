//! Pipelines: one per key for the life of a context.

use super::device::Device;
use crate::RunError;
use crate::plan::{Access, Kernel, Overrides, Role, Stage};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// What makes a pipeline different from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PipelineKey {
    kernel: Kernel,
    access: Access,
    overrides: Overrides,
}

impl From<&Stage> for PipelineKey {
    fn from(stage: &Stage) -> Self {
        PipelineKey { kernel: stage.kernel, access: stage.access, overrides: stage.overrides }
    }
}

/// Modules per source and pipelines per key. Bounded by the planner: on one device it chooses
/// among some hundred sets of constants, of which a network meets a handful.
#[derive(Default)]
pub(crate) struct PipelineCache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The application's: what a driver compiled in an earlier run.
    compiled: Option<wgpu::PipelineCache>,
    modules: HashMap<(Kernel, Access), wgpu::ShaderModule>,
    layouts: HashMap<Kernel, (wgpu::BindGroupLayout, wgpu::PipelineLayout)>,
    pipelines: HashMap<PipelineKey, wgpu::ComputePipeline>,
}

impl PipelineCache {
    /// For pipelines that are compiled from here on.
    pub fn set_compiled(&self, compiled: Option<wgpu::PipelineCache>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).compiled = compiled;
    }

    /// Forgets all that were made here.
    #[cfg(target_arch = "wasm32")]
    pub fn clear(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner { compiled: inner.compiled.take(), ..Inner::default() };
    }

    /// The pipeline of a key and its bind group layout, compiled now if it is the first call.
    ///
    /// Not under the lock: a driver that turns out to have lost its device calls the application back from here. Of
    /// threads that compile the same key the first one's is kept.
    pub fn get(
        &self,
        device: &Device,
        key: PipelineKey,
    ) -> Result<(wgpu::ComputePipeline, wgpu::BindGroupLayout), RunError> {
        let kernel = key.kernel;
        let (compiled, module, layouts) = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let layouts = inner.layouts.get(&kernel);
            if let (Some(pipeline), Some((layout, _))) = (inner.pipelines.get(&key), layouts) {
                return Ok((pipeline.clone(), layout.clone()));
            }
            let module = inner.modules.get(&(kernel, key.access));
            (inner.compiled.clone(), module.cloned(), layouts.cloned())
        };
        let name = kernel.entry_point();
        let label = format!("wgnorm {name}");
        // Nothing enters a table before the whole group has been accepted by the driver.
        let (module, layouts, pipeline) = device.scoped(name, 0, || {
            let layouts = layouts.unwrap_or_else(|| create_layout(device, kernel));
            let module = module.unwrap_or_else(|| {
                device.count();
                device.wgpu().create_shader_module(wgpu::ShaderModuleDescriptor {
                    label: Some(&label),
                    source: wgpu::ShaderSource::Wgsl(kernel.source(key.access).into()),
                })
            });
            device.count();
            let pipeline =
                device.wgpu().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(&label),
                    layout: Some(&layouts.1),
                    module: &module,
                    entry_point: Some(name),
                    compilation_options: wgpu::PipelineCompilationOptions {
                        constants: &kernel.constants(&key.overrides),
                        // Every slot is written before it is read; zeroing by one thread, as some
                        // back ends do it, costs more than the reduction.
                        zero_initialize_workgroup_memory: false,
                    },
                    cache: compiled.as_ref(),
                });
            (module, layouts, pipeline)
        })?;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.modules.entry((kernel, key.access)).or_insert(module);
        let (layout, _) = inner.layouts.entry(kernel).or_insert(layouts).clone();
        Ok((inner.pipelines.entry(key).or_insert(pipeline).clone(), layout))
    }
}

fn create_layout(device: &Device, kernel: Kernel) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
    let buffer = |binding: Role, ty| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let mut entries = vec![buffer(Role::Task, wgpu::BufferBindingType::Uniform)];
    for &(role, written) in kernel.bindings() {
        entries.push(buffer(role, wgpu::BufferBindingType::Storage { read_only: !written }));
    }
    let label = format!("wgnorm {}", kernel.entry_point());
    let name = Some(label.as_str());
    device.count();
    let layout = device.wgpu().create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: name,
        entries: &entries,
    });
    device.count();
    let pipeline_layout = device.wgpu().create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: name,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    (layout, pipeline_layout)
}
