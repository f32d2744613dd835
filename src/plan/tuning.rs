//! The numbers behind the planner's decisions, and the few other values of them that a device may like
//! better.

/// Which of the plans of a problem to take: the planner's own, or one that differs from it in a single
/// decision. All of them are right; which is fastest depends on the device, and can be measured
/// ([`Context::set_autotune`](crate::Context::set_autotune)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Tuning {
    /// The planner's own.
    #[default]
    Planned,
    /// More lanes for each group, with fewer values each.
    ManyLanes,
    /// Fewer lanes for each group, with more values each.
    FewLanes,
    /// Workgroups of 64.
    SmallWorkgroups,
    /// Workgroups as large as the device takes them, up to 1024.
    LargeWorkgroups,
    /// Groups are split among workgroups that would fit the registers of one.
    Split,
    /// Split groups in more slices.
    ManySlices,
    /// Split groups in fewer slices.
    FewSlices,
    /// The second pass over all groups behind the first over all, whatever the cache holds.
    WholePasses,
}

impl Tuning {
    /// All of them.
    pub const ALL: [Tuning; 9] = [
        Tuning::Planned,
        Tuning::ManyLanes,
        Tuning::FewLanes,
        Tuning::SmallWorkgroups,
        Tuning::LargeWorkgroups,
        Tuning::Split,
        Tuning::ManySlices,
        Tuning::FewSlices,
        Tuning::WholePasses,
    ];

    pub(super) fn knobs(self) -> Knobs {
        let Knobs { tile_ideal, tile_max, slice_min, workgroups_enough, .. } = PLANNED;
        match self {
            Tuning::Planned => PLANNED,
            Tuning::ManyLanes => Knobs { tile_ideal: tile_ideal / 4, ..PLANNED },
            Tuning::FewLanes => Knobs { tile_ideal: tile_ideal * 2, ..PLANNED },
            Tuning::SmallWorkgroups => Knobs { lanes: 64, ..PLANNED },
            Tuning::LargeWorkgroups => Knobs { lanes: 1024, ..PLANNED },
            Tuning::Split => Knobs { tile_max: tile_max / 4, ..PLANNED },
            Tuning::ManySlices => Knobs {
                slice_min: slice_min / 4,
                workgroups_enough: workgroups_enough * 4,
                ..PLANNED
            },
            Tuning::FewSlices => Knobs {
                slice_min: slice_min * 4,
                workgroups_enough: workgroups_enough / 4,
                ..PLANNED
            },
            Tuning::WholePasses => Knobs { in_runs: false, ..PLANNED },
        }
    }
}

/// What was found out about calls on a device, for the next run of the application
/// ([`Context::tunings`](crate::Context::tunings)). Plain data: with the feature `serde` it goes to a file in
/// any format.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tunings {
    /// The version of this crate: another one plans differently.
    pub made_by: String,
    /// The device and its driver: on others other plans are fast.
    pub device: String,
    /// The calls.
    pub calls: Vec<TunedCall>,
}

/// Which plan of a call is the fastest.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TunedCall {
    /// What it computes, as this version of the crate names it.
    pub call: String,
    /// The plan.
    pub tuning: Tuning,
    /// Nanoseconds with the planner's own plan.
    pub planned_ns: u64,
    /// Nanoseconds with this one.
    pub tuned_ns: u64,
}

/// What the planner decides with.
#[derive(Clone, Copy)]
pub(super) struct Knobs {
    /// Most lanes of a workgroup. 256 is what every WebGPU device offers; devices with fewer get fewer.
    pub lanes: u32,
    /// vec4 steps a lane takes before a group gets more lanes. Fewer lanes mean fewer barrier rounds
    /// and more groups per workgroup; four loads in flight hide latency.
    pub tile_ideal: u32,
    /// vec4 steps of a lane up to which a group stays in registers. More than 16 would spill on GPUs that
    /// give a lane 64 registers at full occupancy.
    pub tile_max: u32,
    /// Smallest slice of a split group: 16 KiB, so that a workgroup's work outweighs its launch.
    pub slice_min: u32,
    /// Workgroups that fill the largest GPUs (about 8 for each of 128 compute units). Beyond, slices
    /// grow instead of their number.
    pub workgroups_enough: u32,
    /// Whether tensors beyond the cache are worked on run by run.
    pub in_runs: bool,
}

const PLANNED: Knobs = Knobs {
    lanes: 256,
    tile_ideal: 4,
    tile_max: 16,
    slice_min: 4096,
    workgroups_enough: 1024,
    in_runs: true,
};
