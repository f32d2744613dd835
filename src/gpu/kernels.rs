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
