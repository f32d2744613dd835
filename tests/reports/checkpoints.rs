//! Reports about checkpoints and about the count of training steps.

use crate::common::data::read;
use crate::common::device;
use crate::place;
use wgnorm::{
    Affine, BatchNorm1d, DType, FusedBatchNorm1d, InstanceNorm2d, LoadOptions, Mode, Momentum,
    NormLayer, StateDict,
};

/// pytorch 6445: the plain average over all batches, resetting, and states of before the count, which load strictly.
/// inplace_abn 130: states of either kind load into either kind of layer.
#[test]
fn step_counts_are_kept_and_may_be_missing() {
    for device in device::all() {
        let context = &device.context;
        let config = BatchNorm1d::config(1).with_momentum(Momentum::Cumulative);
        let mut layer = config.init(context).unwrap();
        for first in [0.0, 4.0, 8.0] {
            let x = place(context, &[2, 1], DType::F32, &[first, first + 2.0]);
            layer.forward(context, &x, Mode::Train).unwrap();
        }
        // Means 1, 5 and 9; each variance is 2 of two values.
        let [mean, var] = [layer.running_mean(), layer.running_var()]
            .map(|part| read(&part.unwrap()).unwrap()[0]);
        assert!((mean - 5.0).abs() < 1e-5 && (var - 2.0).abs() < 1e-5, "{mean} {var}");
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 3, "{}", device.name);

        let new = layer.state_dict_blocking().unwrap();
        let mut old = new.clone();
        old.remove("num_batches_tracked").unwrap();
        let mut fused = FusedBatchNorm1d::config(1).init(context).unwrap();
        for (state, count) in [(&old, 0), (&new, 3), (&old, 3)] {
            let report = fused.load_state_dict(state, &LoadOptions::strict()).unwrap();
            assert!(report.is_complete(), "{report}");
            assert_eq!(read(&fused.running_mean().unwrap()).unwrap(), [mean]);
            assert_eq!(fused.num_batches_tracked_blocking().unwrap(), count, "{}", device.name);
        }
        layer.reset_running_stats().unwrap();
        assert_eq!(read(&layer.running_mean().unwrap()).unwrap(), [0.0]);
        assert_eq!(read(&layer.running_var().unwrap()).unwrap(), [1.0]);
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 0, "{}", device.name);
    }
}

/// pytorch 110361: an empty state, not strict, leaves the count at 736 839.
#[test]
fn an_empty_state_leaves_the_step_count() {
    for device in device::all() {
        let mut layer = BatchNorm1d::config(2).init(&device.context).unwrap();
        layer.set_running_stats(&[0.5, 1.5], &[2.0, 3.0], 736_839).unwrap();
        let report =
            layer.load_state_dict(&StateDict::new(), &LoadOptions::strict().lenient()).unwrap();
        assert_eq!(report.missing, ["weight", "bias", "running_mean", "running_var"]);
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 736_839, "{}", device.name);
        assert_eq!(read(&layer.running_mean().unwrap()).unwrap(), [0.5, 1.5]);
    }
}

/// pytorch 101107, safetensors 403: files of compiled or parallel models, whose names all start with `_orig_mod.` or
/// `module.`, or both; and two layers that share a weight.
#[cfg(feature = "safetensors")]
#[test]
fn compiled_models_load_by_their_prefix() {
    for device in device::all() {
        let context = &device.context;
        let mut saved = BatchNorm1d::config(2).init(context).unwrap();
        saved.fill_weight(|i| 2.0 + i as f32).unwrap();
        let mut tied = BatchNorm1d::config(2).init(context).unwrap();
        tied.set_weight(&saved.weight().unwrap().clone()).unwrap();
        for wrapper in ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod."] {
            let mut model = StateDict::new();
            model.insert_all(&format!("{wrapper}0."), saved.state_dict_blocking().unwrap());
            model.insert_all(&format!("{wrapper}1."), tied.state_dict_blocking().unwrap());
            let file = model.to_safetensors().unwrap();
            let model = StateDict::from_safetensors(&file).unwrap();
            for at in ["0.", "1."] {
                let mut layer = BatchNorm1d::config(2).init(context).unwrap();
                // Without the wrapper's name, the error has the names that the layer and the state have.
                let strict = LoadOptions::strict();
                let told = layer.load_state_dict(&model, &strict).unwrap_err().to_string();
                assert!(told.contains("missing weight") && told.contains(wrapper), "{told}");
                let strict = strict.with_prefix(format!("{wrapper}{at}"));
                let report = layer.load_state_dict(&model, &strict).unwrap();
                assert_eq!((report.loaded.len(), report.is_complete()), (5, true), "{report}");
                assert_eq!(read(layer.weight().unwrap()).unwrap(), [2.0, 3.0], "{}", device.name);
            }
        }
    }
}

/// pytorch/examples 367: a style of before PyTorch 0.4, whose InstanceNorm2d has running statistics that nothing tracks
/// any more.
#[test]
fn old_styles_have_running_statistics() {
    for device in device::all() {
        let context = &device.context;
        let config = InstanceNorm2d::config(3).with_affine(Affine::Both);
        let mut old = config.clone().with_track_running_stats(true).init(context).unwrap();
        old.fill_weight(|i| 0.5 + i as f32).unwrap();
        let mut state = old.state_dict_blocking().unwrap();
        state.remove("num_batches_tracked").unwrap();
        let mut layer = config.init(context).unwrap();
        let told = layer.load_state_dict(&state, &LoadOptions::strict()).unwrap_err().to_string();
        assert!(told.contains("running_mean, running_var"), "{told}");
        let report = layer.load_state_dict(&state, &LoadOptions::strict().lenient()).unwrap();
        assert_eq!(report.loaded, ["weight", "bias"]);
        assert_eq!(report.unexpected, ["running_mean", "running_var"]);
        assert_eq!(read(layer.weight().unwrap()).unwrap(), [0.5, 1.5, 2.5], "{}", device.name);
    }
}
