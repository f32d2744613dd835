//! The table of kernels: source, entry point, bindings. Layouts and bind groups derive from it, and
//! a test holds it against what naga reflects.

use crate::plan::{Access, Kernel, Overrides};

/// What a binding number means, in every kernel alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(crate) enum Role {
    Task = 0,
    X = 1,
    Y = 2,
    Addend = 3,
    Weight = 4,
    Bias = 5,
    Moments = 6,
    Running = 7,
    Tracked = 8,
}

use Role::*;

impl Kernel {
    /// All kernels.
    pub const ALL: [Kernel; 5] = [
        Kernel::NormRow,
        Kernel::StatsRow,
        Kernel::Apply,
        Kernel::UpdateRunning,
        Kernel::CountStep,
    ];

    /// Name of the entry point, also the stem of the WGSL file.
    pub fn entry_point(self) -> &'static str {
        match self {
            Kernel::NormRow => "norm_row",
            Kernel::StatsRow => "stats_row",
            Kernel::Apply => "apply",
            Kernel::UpdateRunning => "update_running",
            Kernel::CountStep => "count_step",
        }
    }

    /// Whether the kernel reads the uniform task, at binding 0.
    pub fn has_task(self) -> bool {
        self != Kernel::CountStep
    }

    /// Storage bindings, and whether each is written.
    pub(crate) fn bindings(self) -> &'static [(Role, bool)] {
        match self {
            Kernel::NormRow => &[
                (X, false),
                (Y, true),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, true),
            ],
            Kernel::StatsRow => &[(X, false), (Moments, true)],
            Kernel::Apply => &[
                (X, false),
                (Y, true),
                (Addend, false),
                (Weight, false),
                (Bias, false),
                (Moments, false),
                (Running, false),
            ],
            Kernel::UpdateRunning => &[(Moments, false), (Running, true), (Tracked, false)],
            Kernel::CountStep => &[(Tracked, true)],
        }
    }

    /// The WGSL of the module: files put one after another, nothing generated.
    pub fn source(self, access: Access) -> String {
        let elements = match access {
            Access::F32x1 => include_str!("../../shaders/elem_f32x1.wgsl"),
            Access::F32x4 => include_str!("../../shaders/elem_f32x4.wgsl"),
        };
        let prelude = include_str!("../../shaders/prelude.wgsl");
        let affine = include_str!("../../shaders/affine.wgsl");
        let files: &[&str] = match self {
            Kernel::NormRow => {
                &[prelude, elements, affine, include_str!("../../shaders/norm_row.wgsl")]
            }
            Kernel::StatsRow => &[prelude, elements, include_str!("../../shaders/stats_row.wgsl")],
            Kernel::Apply => &[prelude, elements, affine, include_str!("../../shaders/apply.wgsl")],
            Kernel::UpdateRunning => &[prelude, include_str!("../../shaders/update_running.wgsl")],
            Kernel::CountStep => &[include_str!("../../shaders/count_step.wgsl")],
        };
        files.concat()
    }

    /// The constants of this kernel. Only those it declares: an unknown name is an error.
    pub fn constants(self, o: &Overrides) -> Vec<(&'static str, f64)> {
        if self == Kernel::CountStep {
            return Vec::new();
        }
        let flag = |on: bool| f64::from(u8::from(on));
        let mut constants = vec![("WG", f64::from(o.wg)), ("ROWS", f64::from(o.rows))];
        if matches!(self, Kernel::NormRow | Kernel::Apply) {
            constants.extend([
                ("WEIGHT", flag(o.weight)),
                ("BIAS", flag(o.bias)),
                ("ADDEND", flag(o.addend)),
                ("ACTIVATION", f64::from(o.activation)),
            ]);
        }
        match self {
            Kernel::NormRow => {
                constants.extend([("TILE", f64::from(o.tile)), ("SAVE", flag(o.save))]);
            }
            Kernel::StatsRow | Kernel::CountStep => {}
            Kernel::Apply => constants.push(("RUNNING", flag(o.running))),
            Kernel::UpdateRunning => constants
                .extend([("CUMULATIVE", flag(o.cumulative)), ("UNBIASED", flag(o.unbiased))]),
        }
        constants
    }

    /// Bytes of workgroup memory: one vec4 per lane where the row reductions are used.
    pub fn shared_bytes(self, wg: u32) -> u32 {
        if self == Kernel::CountStep { 0 } else { wg * 16 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        STORAGE_BUFFERS, caps_of, device::Device, pipelines::PipelineCache, pipelines::PipelineKey,
    };
    use super::*;
    use crate::plan::{Offsets, Plan};
    use crate::{Activation, Estimator, Momentum, Problem, RunningUpdate, StatSource, View};
    use naga::valid::{Capabilities, GlobalUse, ValidationFlags, Validator};
    use naga::{AddressSpace, StorageAccess};

    /// Number, name and whether it is written, of what the entry point uses.
    fn reflected(source: &str) -> Vec<(u32, String, bool)> {
        let module = naga::front::wgsl::parse_str(source).expect("the shader parses");
        let info = Validator::new(ValidationFlags::all(), Capabilities::default())
            .validate(&module)
            .expect("the shader is valid");
        let used = info.get_entry_point(0);
        let mut bindings: Vec<_> = module
            .global_variables
            .iter()
            .filter(|(handle, _)| !used[*handle].is_empty())
            .filter_map(|(handle, global)| {
                let binding = global.binding.as_ref()?;
                assert_eq!(binding.group, 0);
                let written = match global.space {
                    AddressSpace::Storage { access } => access.contains(StorageAccess::STORE),
                    _ => false,
                };
                let name = global.name.clone().unwrap_or_default();
                assert_eq!(used[handle].contains(GlobalUse::WRITE), written, "{name}");
                Some((binding.binding, name, written))
            })
            .collect();
        bindings.sort();
        bindings
    }

    fn tabled(kernel: Kernel) -> Vec<(u32, String, bool)> {
        let task = kernel.has_task().then_some((Role::Task, false));
        let roles = task.into_iter().chain(kernel.bindings().iter().copied());
        roles
            .map(|(role, written)| (role as u32, format!("{role:?}").to_lowercase(), written))
            .collect()
    }

    #[test]
    fn the_table_is_what_the_shaders_bind() {
        for kernel in Kernel::ALL {
            for access in [Access::F32x1, Access::F32x4] {
                assert_eq!(tabled(kernel), reflected(&kernel.source(access)), "{kernel:?}");
            }
            let storage = kernel.bindings().len() as u32;
            assert!(storage <= STORAGE_BUFFERS, "{kernel:?} binds {storage} buffers");
        }
        // The comparison can fail.
        assert_ne!(tabled(Kernel::Apply), reflected(&Kernel::NormRow.source(Access::F32x1)));
        let source = Kernel::CountStep.source(Access::F32x1);
        let statement =
            source.lines().find(|line| line.contains("tracked[0] +=")).expect("it counts");
        let unused = source.replace(statement, "");
        assert_ne!(tabled(Kernel::CountStep), reflected(&unused));
    }

    /// wgpu's own checks of layouts and pipelines, at WebGPU's base limits. Nothing runs.
    #[test]
    fn the_noop_device_accepts_every_kernel() {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let caps = caps_of(&device.limits()).expect("base limits are enough");
        let device = Device::foreign(&device, &queue);
        let (cache, mut seen) = (PipelineCache::default(), Vec::new());
        let update = RunningUpdate { momentum: Momentum::Cumulative, estimator: Estimator::Biased };
        for length in [4, 1 << 20] {
            let problem = Problem {
                view: View {
                    extent: [2, 3, 1, length],
                    data: [3 * length, length, 0, 1],
                    param: [0, 1, 0, 0],
                    stat: [3, 1, 0, 0],
                },
                source: StatSource::Batch,
                eps: 1e-5,
                weight: true,
                bias: true,
                addend: true,
                activation: Activation::Relu,
                update: Some(update),
            };
            let plan = Plan::forward(&problem, &caps, &Offsets::default()).expect("a plan");
            for stage in &plan.stages {
                let pipeline = cache.get(&device, PipelineKey::from(stage));
                assert!(pipeline.is_ok(), "{stage:?}: {pipeline:?}");
                seen.push(stage.kernel);
            }
        }
        assert!(Kernel::ALL.iter().all(|kernel| seen.contains(kernel)), "{seen:?}");
    }
}
