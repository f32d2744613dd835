//! Masks on both back ends: lengths, by hand, at their edges. Every layer with masks against the oracle
//! is in tests/parity.rs.

mod common;

use common::data::{self, read};
use common::{device, random};
use wgnorm::{
    Affine, BatchNorm1d, BatchNorm2d, DType, Error, Extras, GroupNorm, InstanceNorm1d,
    InstanceNorm2d, LayerNorm, Mask, MemoryOrder, Mode, Momentum, NormLayer, OneValue, ShapeError,
    Tensor,
};

const FIRST: MemoryOrder = MemoryOrder::ChannelsFirst;

/// Lengths are masks, along any spatial axis.
#[test]
fn lengths_are_masks() {
    let shape = [3, 4, 2, 5];
    for device in device::all() {
        let context = &device.context;
        let x =
            data::place(context, shape, DType::F32, FIRST, &random::gauss4_f64(120, 8, 1.0, 0.0))
                .unwrap();
        let layer = InstanceNorm2d::config(4).init(context).unwrap();
        let run = |mask: &Mask| {
            let extras = Extras::new().with_mask(&mask.to_context(context).unwrap());
            let (y, saved) = layer.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
            let grads = layer.backward(context, &saved, &x).unwrap();
            (read(&y).unwrap(), read(&grads.dx).unwrap())
        };
        let spatial = [3, 2, 5];
        for (axis, lengths) in [(1, [2, 1, 0]), (2, [5, 3, 1])] {
            let counts =
                |n: usize, h: usize, w: usize| u8::from([h, w][axis - 1] < lengths[n] as usize);
            let mut bytes = Vec::new();
            for n in 0..3 {
                for h in 0..2 {
                    bytes.extend((0..5).map(|w| counts(n, h, w)));
                }
            }
            let by_lengths = Mask::from_lengths(spatial, axis, &lengths).unwrap();
            let by_bytes = Mask::from_slice(spatial, &bytes).unwrap();
            assert!(run(&by_lengths) == run(&by_bytes), "{} axis {axis}", device.name);
        }
    }
}

/// By hand: two counted values of four, one, none.
#[test]
fn masked_statistics_by_hand() {
    for device in device::all() {
        let context = &device.context;
        let nan = f64::NAN;
        let x = [1.0, 3.0, nan, nan, 7.0, nan, nan, nan, nan, nan, nan, nan];
        let mask = Mask::from_slice([3, 4], &[1, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let extras = Extras::new().with_mask(&mask.to_context(context).unwrap());
        let mut layer = InstanceNorm1d::config(1)
            .with_affine(Affine::Both)
            .with_eps(0.0)
            .with_track_running_stats(true)
            .with_momentum(Momentum::Factor(0.5))
            .with_one_value(OneValue::Bias)
            .init(context)
            .unwrap();
        layer.fill_weight(|_| 2.0).unwrap();
        layer.fill_bias(|_| 10.0).unwrap();
        let place = |v: &[f64]| data::place(context, [3, 1, 4], DType::F32, FIRST, v).unwrap();
        let (y, saved) =
            layer.forward_saved_with(context, &place(&x), &extras, Mode::Train).unwrap();
        // One value gives the bias, what does not count 0.
        let zeros = [0.0; 12];
        let mut want = zeros;
        want[0] = 8.0;
        want[1] = 12.0;
        want[4] = 10.0;
        assert_eq!(read(&y).unwrap(), want, "{}", device.name);
        // Means 2 and 7; variances 2 (of two values) and 0 (of one). The third sample has none.
        assert_eq!(read(&layer.running_mean().unwrap()).unwrap(), [2.25]);
        assert_eq!(read(&layer.running_var().unwrap()).unwrap(), [1.0]);

        let dy = [1.0, 3.0, nan, nan, 5.0, nan, nan, nan, nan, nan, nan, nan];
        let grads = layer.backward(context, &saved, &place(&dy)).unwrap();
        // Of two values nothing is left of dx; one value does not depend on itself.
        assert_eq!(read(&grads.dx).unwrap(), zeros, "{}", device.name);
        assert_eq!(read(&grads.dweight.unwrap()).unwrap(), [2.0]);
        assert_eq!(read(&grads.dbias.unwrap()).unwrap(), [9.0]);
    }
}

/// A batch of which nothing counts leaves the running statistics as they were; it is a training step all
/// the same, as an empty batch is.
#[test]
fn a_mask_without_positions() {
    for device in device::all() {
        let context = &device.context;
        let layer = BatchNorm2d::config(2).init(context).unwrap();
        let x = data::place(context, [2, 2, 2, 3], DType::F32, FIRST, &[f64::NAN; 24]).unwrap();
        let mask = Mask::from_slice([2, 2, 3], &[0; 12]).unwrap().to_context(context).unwrap();
        let extras = Extras::new().with_mask(&mask).with_addend(&x);
        let (y, saved) = layer.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
        let grads = layer.backward(context, &saved, &x).unwrap();
        for tensor in [&y, &grads.dx, grads.daddend.as_ref().unwrap()] {
            assert_eq!(read(tensor).unwrap(), [0.0; 24], "{}", device.name);
        }
        for grad in [grads.dweight, grads.dbias] {
            assert_eq!(read(&grad.unwrap()).unwrap(), [0.0; 2], "{}", device.name);
        }
        assert_eq!(read(&layer.running_mean().unwrap()).unwrap(), [0.0; 2]);
        assert_eq!(read(&layer.running_var().unwrap()).unwrap(), [1.0; 2]);
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 1, "{}", device.name);
    }
}

/// A cumulative average moves with the steps in which something counted, whichever sample it was in; by
/// how much, all steps before tell, as with PyTorch's empty batches.
#[test]
fn steps_of_nothing_are_counted() {
    for device in device::all() {
        let context = &device.context;
        let config = InstanceNorm1d::config(2).with_track_running_stats(true);
        let layer = config.with_momentum(Momentum::Cumulative).init(context).unwrap();
        for (lengths, x) in [([0, 0], 9.0), ([0, 2], 1.0), ([0, 0], 9.0), ([3, 0], 4.0)] {
            let mask = Mask::from_lengths([2, 3], 1, &lengths).unwrap();
            let extras = Extras::new().with_mask(&mask.to_context(context).unwrap());
            let x = data::place(context, [2, 2, 3], DType::F32, FIRST, &[x; 12]).unwrap();
            layer.forward_with(context, &x, &extras, Mode::Train).unwrap();
        }
        assert_eq!(read(&layer.running_mean().unwrap()).unwrap(), [1.375; 2], "{}", device.name);
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 4, "{}", device.name);
    }
}

/// Statistics of what counts, to be merged: the valid parts of padded shards.
#[test]
fn masked_statistics_are_data_too() {
    for device in device::all() {
        let context = &device.context;
        let x = [1.0, 2.0, f64::NAN, 3.0, f64::NAN, 6.0];
        let x = data::place(context, [1, 1, 1, 6], DType::F32, FIRST, &x).unwrap();
        let mask = Mask::from_slice([1, 1, 6], &[1, 1, 0, 1, 0, 1]).unwrap();
        let layer = BatchNorm2d::config(1).init(context).unwrap();
        let mask = mask.to_context(context).unwrap();
        let got = layer.statistics(context, &x, Some(&mask)).unwrap();
        let got = read(got.tensor()).unwrap();
        assert_eq!((got[0], got[1] + got[2], got[3]), (4.0, 3.0, 14.0), "{}", device.name);
    }
}

/// An unbatched input has one sample's mask.
#[test]
fn a_mask_of_an_unbatched_input() {
    for device in device::all() {
        let context = &device.context;
        let layer = InstanceNorm1d::config(2).with_eps(0.0).init(context).unwrap();
        let x = [1.0, 3.0, f64::NAN, -5.0, 5.0, f64::NAN];
        let x = data::place(context, [2, 3], DType::F32, FIRST, &x).unwrap();
        let mask = Mask::from_lengths([1, 3], 1, &[2]).unwrap().to_context(context).unwrap();
        let extras = Extras::new().with_mask(&mask);
        let y = layer.forward_with(context, &x, &extras, Mode::Eval).unwrap();
        assert_eq!(read(&y).unwrap(), [-1.0, 1.0, 0.0, -1.0, 1.0, 0.0], "{}", device.name);
    }
}

#[test]
fn masks_that_do_not_fit() {
    let axis = |axis| ShapeError::Axis { layer: "Mask", axis, got: [2, 5].into() };
    assert_eq!(Mask::from_lengths([2, 5], 0, &[1, 2]).unwrap_err(), axis(0).into());
    assert_eq!(Mask::from_lengths([2, 5], 2, &[1, 2]).unwrap_err(), axis(2).into());
    let length = |expected, got| ShapeError::Length { shape: [2, 5].into(), expected, got };
    assert_eq!(Mask::from_lengths([2, 5], 1, &[1]).unwrap_err(), length(2, 1).into());
    assert_eq!(Mask::from_lengths([2, 5], 1, &[1, 6]).unwrap_err(), length(5, 6).into());
    assert_eq!(Mask::from_slice([2, 5], &[1; 9]).unwrap_err(), length(10, 9));
    for device in device::all() {
        let context = &device.context;
        let x = Tensor::zeros(context, [2, 3, 5]).unwrap();
        let mask = Mask::from_slice([2, 4], &[1; 8]).unwrap().to_context(context).unwrap();
        let extras = Extras::new().with_mask(&mask);
        let layer = InstanceNorm1d::config(3).init(context).unwrap();
        let refused = layer.forward_with(context, &x, &extras, Mode::Train).unwrap_err();
        let (expected, got) = ([2, 5].into(), [2, 4].into());
        let layer = "InstanceNorm1d";
        assert_eq!(refused, ShapeError::Mask { layer, expected, got }.into());
        let layer = LayerNorm::config([5]).init(context).unwrap();
        let refused = layer.forward_with(context, &x, &extras, Mode::Train).unwrap_err();
        assert_eq!(refused, ShapeError::NoMask { layer: "LayerNorm" }.into());
    }
}

/// A group that keeps one value is as an input of one value per statistic.
#[test]
fn one_counted_value_is_one_value() {
    for device in device::all() {
        let context = &device.context;
        let run = |one_value, mask: &Mask, mode| {
            let x = data::place(context, [2, 3, 4], DType::F32, FIRST, &[1.0; 24]).unwrap();
            let extras = Extras::new().with_mask(&mask.to_context(context).unwrap());
            let instance = InstanceNorm1d::config(3).with_one_value(one_value);
            let batch = BatchNorm1d::config(3).with_one_value(one_value);
            let group = GroupNorm::config(1, 3).init(context).unwrap();
            [
                instance.init(context).unwrap().forward_with(context, &x, &extras, mode),
                batch.init(context).unwrap().forward_with(context, &x, &extras, mode),
                group.forward_with(context, &x, &extras, mode),
            ]
            .map(|result| match result {
                Ok(_) => true,
                Err(Error::Shape(ShapeError::OneValue { .. })) => false,
                Err(error) => panic!("{error}"),
            })
        };
        let lengths = |of: &[u32]| Mask::from_lengths([2, 4], 1, of).unwrap();
        let train = |of: &[u32]| run(OneValue::Error, &lengths(of), Mode::Train);
        assert_eq!(train(&[3, 1]), [false, true, true]);
        assert_eq!(train(&[0, 1]), [false, false, true]);
        assert_eq!(train(&[1, 1]), [false, true, true]);
        assert_eq!(train(&[2, 0]), [true; 3]);
        assert_eq!(run(OneValue::Bias, &lengths(&[0, 1]), Mode::Train), [true; 3]);
        assert_eq!(run(OneValue::Error, &lengths(&[0, 1]), Mode::Eval), [false, true, true]);
    }
}
