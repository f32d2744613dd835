//! Any problem on any device.

use super::invariants::{check, problem, running, view};
use proptest::{prelude::*, sample};
use wgnorm::plan::{Caps, Keep, Offsets, Plan, Tuning, Wants};
use wgnorm::{Activation, DType, Estimator, Momentum, PlanError, RunningUpdate};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every kernel touches every element once, inside its binding and every limit, forward and
    /// backward.
    #[test]
    fn every_element_is_touched_once(
        kind in 0usize..7,
        n in 1u32..5,
        c in prop_oneof![1u32..9, Just(40)],
        s in prop_oneof![1u32..100, 1u32..5000, 16_000u32..40_000],
        lanes in prop_oneof![Just(1u32), Just(7), Just(64), Just(256), Just(1024)],
        // From windows that hold a few slices to windows that hold everything.
        max_binding in prop_oneof![2048u64..9000, 9000u64..100_000, Just(128 << 20)],
        max_grid in prop_oneof![Just(40_000u32), Just(65535)],
        alignment in prop_oneof![Just(32u64), Just(256)],
        offsets in (0u64..100, 0u64..100),
        [eval, update, relu, addend, half, masked] in any::<[bool; 6]>(),
        storage_buffers in 8u32..11,
        cache in prop_oneof![Just(0u64), 1u64 << 8..1 << 20, Just(u64::MAX)],
        tuning in sample::select(&Tuning::ALL[..]),
    ) {
        let c = if s > 5000 { c.min(4) } else { c };
        let mut problem = problem(view(kind, [n, c, s]));
        if half {
            problem.dtype = DType::F16;
        }
        problem.masked = masked && kind < 4;
        problem.addend = addend;
        if relu {
            problem.activation = Activation::Relu;
        }
        if update && kind < 4 {
            problem.update = Some(RunningUpdate {
                momentum: Momentum::Cumulative,
                estimator: Estimator::Biased,
                counts: true,
            });
        }
        if eval && kind < 4 {
            problem = running(problem);
            problem.update = None;
        }
        let max_binding = max_binding & !255;
        let offset_alignment = alignment;
        let caps = Caps {
            lanes,
            max_binding,
            max_grid,
            offset_alignment,
            storage_buffers,
            cache,
            tuning,
        };
        let (x, y) = (offsets.0 * 4, offsets.1 * 4);
        let offsets = Offsets { x, y, dy: x, ..Offsets::default() };
        let wants = Wants { weight: true, bias: true, ..Wants::default() };
        let in_place = Offsets { y: x, shared: true, ..offsets };
        let beside = Offsets { shared: true, ..offsets };
        for (plan, offsets) in [
            (Plan::forward(&problem, &caps, &offsets, Keep::Nothing), offsets),
            (Plan::forward(&problem, &caps, &offsets, Keep::Moments), offsets),
            (Plan::forward(&problem, &caps, &in_place, Keep::Nothing), in_place),
            (Plan::forward(&problem, &caps, &beside, Keep::Nothing), beside),
            (Plan::backward(&problem, &caps, &offsets, wants), offsets),
        ] {
            match plan {
                Ok(plan) => check(&plan, &caps, &offsets, &problem).map_err(TestCaseError::fail)?,
                // Bindings as small as these tests' may not hold everything.
                Err(PlanError::Limit { needed, limit, .. }) => {
                    prop_assert!(needed > limit && limit == caps.max_binding && limit < 1 << 20);
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
    }
}
