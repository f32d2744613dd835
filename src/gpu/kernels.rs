//! The shaders of the kernels: source, entry point, constants. Layouts and bind groups derive from
//! [`Kernel::bindings`], and a test holds that table against what naga reflects.

use super::wgsl::wgsl;
use crate::plan::{Access, Kernel, Overrides, Role};

impl Kernel {
    /// Name of the entry point, also the stem of the WGSL file.
    pub fn entry_point(self) -> &'static str {
        match self {
            Kernel::NormRow => "norm_row",
            Kernel::StatsRow => "stats_row",
            Kernel::Apply => "apply",
            Kernel::GatherMoments => "gather_moments",
            Kernel::UpdateRunning => "update_running",
            Kernel::CountStep => "count_step",
            Kernel::GradRow | Kernel::GradRowAddend => "grad_row",
            Kernel::EpilogueGrad => "epilogue_grad",
            Kernel::SumsRow | Kernel::SumsRowAddend => "sums_row",
            Kernel::GatherSums => "gather_sums",
            Kernel::GatherParams => "gather_params",
            Kernel::InputGrad => "input_grad",
            Kernel::MergeEntries => "merge_entries",
            Kernel::StyleTables => "style_tables",
            Kernel::MixRows => "mix_rows",
        }
    }

    /// Whether it loads elements, so that its source depends on [`Access`].
    pub fn has_elements(self) -> bool {
        self.bindings().iter().any(|(role, _)| role.is_data())
    }

    /// Whether `weight` and `bias` are looked up through strides.
    fn has_affine(self) -> bool {
        self.has_epilogue() || self == Kernel::GatherSums
    }

    /// Whether it computes what lies behind the affine part, or its derivative.
    fn has_epilogue(self) -> bool {
        matches!(self, Kernel::NormRow | Kernel::Apply) || self.has_gradient()
    }

    /// Whether it reads saved moments to compute gradients.
    fn has_gradient(self) -> bool {
        use Kernel::*;
        matches!(self, GradRow | GradRowAddend | EpilogueGrad | SumsRow | SumsRowAddend | InputGrad)
    }

    /// Whether it can read x through y's binding.
    fn may_share(self) -> bool {
        matches!(self, Kernel::NormRow | Kernel::Apply)
    }

    fn binds(self, role: Role) -> bool {
        self.bindings().iter().any(|&(bound, _)| bound == role)
    }

    /// The WGSL of the module: files put one after another, nothing generated but their comments taken out.
    pub fn source(self, access: Access) -> String {
        let mut files = vec![wgsl!("prelude")];
        if self.has_elements() {
            files.push(wgsl!("row"));
            files.extend(match access {
                Access::F32x1 => &[wgsl!("elem_f32x1")][..],
                Access::F32x4 => &[wgsl!("elem_f32x4")],
                Access::F16x1 => &[wgsl!("elem_16x1"), wgsl!("half_f16")],
                Access::F16x4 => &[wgsl!("elem_16x4"), wgsl!("half_f16")],
                Access::BF16x1 => &[wgsl!("elem_16x1"), wgsl!("half_bf16")],
                Access::BF16x4 => &[wgsl!("elem_16x4"), wgsl!("half_bf16")],
            });
            files.push(match access {
                _ if !self.may_share() => wgsl!("x_apart"),
                Access::F16x1 | Access::BF16x1 => wgsl!("x_shared_atomic"),
                _ => wgsl!("x_shared"),
            });
        }
        if self.has_affine() {
            files.push(wgsl!("affine"));
        }
        if self.has_epilogue() {
            let pick = |condition, yes, no| if condition { yes } else { no };
            files.extend([
                wgsl!("activation"),
                pick(self.binds(Role::Addend), wgsl!("addend"), wgsl!("addend_none")),
            ]);
            if self.has_gradient() {
                files.push(wgsl!("gradient"));
                files.push(pick(
                    self.binds(Role::Gradient),
                    wgsl!("daddend"),
                    wgsl!("daddend_none"),
                ));
            } else {
                files.push(wgsl!("epilogue"));
            }
        }
        files.push(match self {
            Kernel::NormRow => wgsl!("norm_row"),
            Kernel::StatsRow => wgsl!("stats_row"),
            Kernel::Apply => wgsl!("apply"),
            Kernel::GatherMoments => wgsl!("gather_moments"),
            Kernel::UpdateRunning => wgsl!("update_running"),
            Kernel::CountStep => wgsl!("count_step"),
            Kernel::GradRow | Kernel::GradRowAddend => wgsl!("grad_row"),
            Kernel::EpilogueGrad => wgsl!("epilogue_grad"),
            Kernel::SumsRow | Kernel::SumsRowAddend => wgsl!("sums_row"),
            Kernel::GatherSums => wgsl!("gather_sums"),
            Kernel::GatherParams => wgsl!("gather_params"),
            Kernel::InputGrad => wgsl!("input_grad"),
            Kernel::MergeEntries => wgsl!("merge_entries"),
            Kernel::StyleTables => wgsl!("style_tables"),
            Kernel::MixRows => wgsl!("mix_rows"),
        });
        files
            .iter()
            .map(|file| str::from_utf8(file).expect("comments end at whole characters"))
            .collect()
    }

    /// The constants of this kernel. Only those it declares: an unknown name is an error.
    pub fn constants(self, o: &Overrides) -> Vec<(&'static str, f64)> {
        let flag = |on: bool| f64::from(u8::from(on));
        let mut constants = vec![
            ("WG", f64::from(o.wg)),
            ("ROWS", f64::from(o.rows)),
            ("COLUMNS", flag(o.columns)),
            ("DENSE", flag(o.dense)),
            ("CENTERED", flag(o.centered)),
        ];
        if self.has_elements() {
            constants.push(("MASKED", flag(o.masked)));
        }
        if self.may_share() {
            constants.push(("SHARED", flag(o.shared)));
        }
        if self.has_affine() || self == Kernel::GatherParams {
            constants.extend([("WEIGHT", flag(o.weight)), ("BIAS", flag(o.bias))]);
        }
        if self.has_affine() {
            constants.push(("INSIDE", flag(o.inside)));
        }
        if self.has_epilogue() {
            constants.push(("ACTIVATION", f64::from(o.activation)));
        }
        if self.binds(Role::Addend) {
            constants.push(("ADDEND", flag(o.addend)));
        }
        if self.has_gradient() {
            constants.push(("STATS_INSIDE", flag(o.stats_inside)));
        }
        if self.has_gradient() || self == Kernel::GatherSums {
            constants.push(("PAIRED", flag(o.paired)));
            constants.push(("KIN", f64::from(o.kin.max(1))));
        }
        match self {
            Kernel::NormRow => {
                constants.extend([("TILE", f64::from(o.tile)), ("SAVE", flag(o.save))]);
            }
            Kernel::GradRow | Kernel::GradRowAddend => constants.extend([
                ("TILE", f64::from(o.tile)),
                ("SAVE", flag(o.save)),
                ("CONSTANT", flag(o.constant)),
                ("COLUMN_SUMS", flag(o.column_sums)),
                ("TAKEN", f64::from(o.taken)),
            ]),
            Kernel::Apply | Kernel::GatherMoments => constants.push(("RUNNING", flag(o.running))),
            Kernel::UpdateRunning => constants
                .extend([("CUMULATIVE", flag(o.cumulative)), ("UNBIASED", flag(o.unbiased))]),
            Kernel::GatherParams | Kernel::MergeEntries | Kernel::MixRows => {
                constants.push(("ACCUMULATE", flag(o.accumulate)));
            }
            Kernel::SumsRow | Kernel::SumsRowAddend => {
                constants.push(("WEIGHTED", flag(o.weighted)));
            }
            Kernel::InputGrad => constants.push(("CONSTANT", flag(o.constant))),
            _ => {}
        }
        constants
    }

    /// Bytes of workgroup memory: one vec4 per lane where the row reductions are used.
    pub fn shared_bytes(self, wg: u32) -> u32 {
        use Kernel::*;
        let reduces = matches!(
            self,
            NormRow
                | StatsRow
                | Apply
                | GatherMoments
                | UpdateRunning
                | GradRow
                | GradRowAddend
                | SumsRow
                | SumsRowAddend
                | GatherSums
                | GatherParams
        );
        if reduces { wg * 16 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        STORAGE_BUFFERS, caps_of, device::Device, pipelines::PipelineCache, pipelines::PipelineKey,
    };
    use super::*;
    use crate::plan::{Caps, Keep, Offsets, Plan, Small, Wants};
    use crate::{Activation, DType, Estimator, Momentum, Problem, RunningUpdate, View};
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
                let name = global.name.clone().unwrap_or_default().replace('_', "");
                assert_eq!(used[handle].contains(GlobalUse::WRITE), written, "{name}");
                Some((binding.binding, name, written))
            })
            .collect();
        bindings.sort();
        bindings
    }

    fn tabled(kernel: Kernel) -> Vec<(u32, String, bool)> {
        let roles = [(Role::Task, false)].into_iter().chain(kernel.bindings().iter().copied());
        roles
            .map(|(role, written)| (role as u32, format!("{role:?}").to_lowercase(), written))
            .collect()
    }

    #[test]
    fn the_table_is_what_the_shaders_bind() {
        for kernel in Kernel::ALL {
            for access in Access::ALL {
                assert_eq!(tabled(kernel), reflected(&kernel.source(access)), "{kernel:?}");
            }
            // The planner asks before it takes one that binds more than every device does.
            let storage = kernel.bindings().len() as u32;
            let optional = matches!(kernel, Kernel::GradRowAddend | Kernel::SumsRowAddend);
            assert!(storage <= STORAGE_BUFFERS || optional, "{kernel:?} binds {storage} buffers");
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
        // All that its own kernels bind, and what every device has.
        let most = Kernel::ALL.map(|kernel| kernel.bindings().len() as u32);
        let required_limits = wgpu::Limits {
            max_storage_buffers_per_shader_stage: most.into_iter().fold(0, u32::max),
            ..wgpu::Limits::default()
        };
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor {
            required_limits,
            ..wgpu::DeviceDescriptor::default()
        });
        let most = caps_of(&device.limits()).expect("base limits are enough");
        let least = caps_of(&wgpu::Limits::default()).expect("base limits are enough");
        assert_eq!(least, Caps::WEBGPU);
        let device = Device::foreign(&device, &queue);
        let (cache, mut seen) = (PipelineCache::default(), Vec::new());
        let (momentum, estimator) = (Momentum::Cumulative, Estimator::Biased);
        let offsets = Offsets::default();
        let mut accept = |plan: Result<Plan, crate::PlanError>| {
            for stage in plan.expect("a plan").stages {
                let pipeline = cache.get(&device, PipelineKey::from(&stage));
                assert!(pipeline.is_ok(), "{stage:?}: {pipeline:?}");
                seen.push(stage.kernel);
            }
        };
        for (length, dtype) in [(4, DType::F32), (7, DType::BF16), (1 << 20, DType::F16)] {
            let view = View {
                extent: [2, 3, 1, length],
                data: [3 * length, length, 0, 1],
                param: [0, 1, 0, 0],
                stat: [3, 1, 0, 0],
                mask: [length, 0, 0, 1],
            };
            let problem = Problem {
                weight: true,
                bias: true,
                addend: true,
                masked: true,
                activation: Activation::Gelu,
                update: Some(RunningUpdate { momentum, estimator, counts: true }),
                ..Problem::new(view, dtype, 1e-5)
            };
            let wants = Wants { weight: true, bias: true, ..Wants::default() };
            for caps in [&most, &least] {
                accept(Plan::forward(&problem, caps, &offsets, Keep::Moments));
                accept(Plan::backward(&problem, caps, &offsets, wants));
                let plain = Problem { addend: false, masked: false, ..problem };
                accept(Plan::backward(&plain, caps, &offsets, wants));
            }
        }
        let tables = Small::StyleTables { entries: 6, eps: 1e-5, estimator };
        let mix = Small::Mix { extent: [2, 3, 4], strides: [4, 1], add: true };
        for small in [Small::Merge { entries: 6, add: false }, tables, mix] {
            accept(Plan::small(&small, &least, &offsets));
        }
        assert!(Kernel::ALL.iter().all(|kernel| seen.contains(kernel)), "{seen:?}");
    }
}
