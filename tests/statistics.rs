//! Statistics as data, on both back ends: a picture in tiles, a batch in shards, statistics from
//! elsewhere.

mod common;

use common::data::{self, Layout, read};
use common::layer::Layer;
use common::oracle::{self, Kind, Norm, Source};
use common::tolerance::{self, Bound};
use common::{device, random};
use wgnorm::{
    Activation, Affine, Backend, BatchNorm2d, Context, DType, Error, Extras, GroupNorm, GroupSums,
    InstanceNorm2d, MemoryOrder, Mode, Momentum, NormLayer, Shape, ShapeError, Statistics, Tensor,
};

const ORDERS: [MemoryOrder; 2] = [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast];

#[track_caller]
fn assert_close(got: &[f64], want: &[f64], scale: &[f64], relative: f64, what: &str) {
    let bound = Bound { relative, stored: DType::F32 };
    bound.compare(got, want, scale).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

fn values(len: usize, seed: u32, scale: f64, offset: f64) -> Vec<f64> {
    data::rounded(DType::F32, &random::gauss4_f64(len, seed, scale, offset))
}

/// NCHW values, and rectangles of them.
#[derive(Clone)]
struct Maps {
    shape: [usize; 4],
    values: Vec<f64>,
}

/// Samples, rows, columns from and to.
type Part = [[usize; 2]; 3];

impl Maps {
    fn new(shape: [usize; 4], values: Vec<f64>) -> Maps {
        Maps { shape, values }
    }

    /// Every place of a part, in this and in its own order.
    fn places(&self, part: Part) -> Vec<usize> {
        let [_, c, h, w] = self.shape;
        let mut places = Vec::new();
        for n in part[0][0]..part[0][1] {
            for channel in 0..c {
                for row in part[1][0]..part[1][1] {
                    let line = ((n * c + channel) * h + row) * w;
                    places.extend(line + part[2][0]..line + part[2][1]);
                }
            }
        }
        places
    }

    fn part(&self, part: Part) -> Maps {
        let [n, h, w] = part.map(|[from, to]| to - from);
        let values = self.places(part).into_iter().map(|place| self.values[place]).collect();
        Maps::new([n, self.shape[1], h, w], values)
    }

    fn set(&mut self, part: Part, values: &[f64]) {
        for (place, &v) in self.places(part).into_iter().zip(values) {
            self.values[place] = v;
        }
    }

    fn layout(&self, order: MemoryOrder) -> Layout {
        let [n, c, h, w] = self.shape;
        Layout::of([n, c, h * w], order)
    }

    fn tensor(&self, context: &Context, dtype: DType, order: MemoryOrder) -> Tensor<'static> {
        let memory = self.layout(order).to_memory(&self.values);
        data::place(context, self.shape, dtype, order, &memory).unwrap()
    }

    fn read(&self, tensor: &Tensor<'_>) -> Vec<f64> {
        self.layout(tensor.order()).to_logical(&read(tensor).unwrap())
    }

    fn oracle(&self, kind: Kind) -> Norm<'static> {
        let [n, c, h, w] = self.shape;
        Norm::new(kind, [n, c, h * w])
    }
}

/// Everything about a normalization in parts.
struct Parts<'a> {
    context: &'a Context,
    dtype: DType,
    order: MemoryOrder,
    kind: Kind,
    x: Maps,
    dy: Maps,
    parts: &'a [Part],
    what: String,
}

impl Parts<'_> {
    /// Each part has a layer of its own (a device's, or the same again and again): statistics merged,
    /// each part normalized with them, sums merged, each part's gradients. All of it equals the
    /// whole.
    fn check(&self, layer: impl Fn() -> Box<dyn Layer>) {
        let Parts { context, dtype, order, kind, x, dy, parts, what } = self;
        let layers: Vec<_> = parts.iter().map(|_| layer()).collect();
        let tensors = |maps: &Maps| -> Vec<Tensor<'static>> {
            parts.iter().map(|&part| maps.part(part).tensor(context, *dtype, *order)).collect()
        };
        let (xs, dys) = (tensors(x), tensors(dy));
        let statistics = layers
            .iter()
            .zip(&xs)
            .map(|(layer, x)| layer.statistics(context, x, None).unwrap())
            .reduce(|a, b| a.merge(context, &b).unwrap())
            .unwrap();

        let params = [layers[0].weight(), layers[0].bias()]
            .map(|param| param.map(|param| read(param).unwrap()));
        let running = || -> Option<[Vec<f64>; 2]> {
            Some([layers[0].running_mean().ok()?, layers[0].running_var().ok()?])
                .map(|parts| parts.map(|part| read(&part).unwrap()))
        };
        let before = running();
        let norm = Norm {
            weight: params[0].as_deref(),
            bias: params[1].as_deref(),
            activation: Activation::Silu,
            ..x.oracle(*kind)
        };
        let forward = norm.forward(&x.values);
        let backward = norm.backward(&x.values, &dy.values);

        let extras = Extras::new().with_statistics(&statistics).with_activation(Activation::Silu);
        let mut y = Maps::new(x.shape, vec![f64::NAN; x.values.len()]);
        let mut saved = Vec::new();
        for ((layer, tensor), &part) in layers.iter().zip(&xs).zip(*parts) {
            let (output, save) =
                layer.forward_saved_with(context, tensor, &extras, Mode::Train).unwrap();
            y.set(part, &x.part(part).read(&output));
            saved.push(save);
        }
        let stored = |relative| Bound { relative, stored: *dtype };
        let told = |name: &str| {
            let what = format!("{what}: {name}");
            move |wrong| panic!("{what}{wrong}")
        };
        let bound = stored(tolerance::Y);
        bound.compare(&y.values, &forward.y, &forward.scale).unwrap_or_else(told("y"));

        let sums = layers
            .iter()
            .zip(&saved)
            .zip(&dys)
            .map(|((layer, saved), dy)| layer.group_sums(context, saved, dy).unwrap())
            .reduce(|a, b| a.merge(context, &b).unwrap())
            .unwrap();
        let mut dx = Maps::new(x.shape, vec![f64::NAN; x.values.len()]);
        let mut dparams = [vec![0.0; norm.params()], vec![0.0; norm.params()]];
        for (i, &part) in parts.iter().enumerate() {
            let grads = layers[i].backward_with_sums(context, &saved[i], &dys[i], &sums).unwrap();
            dx.set(part, &x.part(part).read(&grads.dx));
            for (sum, grad) in dparams.iter_mut().zip([grads.dweight, grads.dbias]) {
                let grad = read(&grad.unwrap()).unwrap();
                sum.iter_mut().zip(grad).for_each(|(sum, v)| *sum += v);
            }
        }
        let bound = stored(tolerance::DX);
        bound.compare(&dx.values, &backward.dx, &backward.dx_scale).unwrap_or_else(told("dx"));
        let bound = Bound { relative: tolerance::DPARAM, stored: DType::F32 };
        let [dweight, dbias] = &dparams;
        bound
            .compare(dweight, &backward.dweight, &backward.dweight_scale)
            .unwrap_or_else(told("dweight"));
        bound.compare(dbias, &backward.dbias, &backward.dbias_scale).unwrap_or_else(told("dbias"));

        // Every replica's running statistics are those of the whole, an empty one's too.
        if let Some([mean, var]) = before {
            let want = norm.running(&x.values, 0.1, true, &mean, &var);
            for layer in &layers {
                let mean = read(&layer.running_mean().unwrap()).unwrap();
                let var = read(&layer.running_var().unwrap()).unwrap();
                let bound = Bound { relative: tolerance::RUNNING, stored: DType::F32 };
                bound.compare(&mean, &want.0, &want.0).unwrap_or_else(told("running_mean"));
                bound.compare(&var, &want.1, &want.1).unwrap_or_else(told("running_var"));
            }
        }
    }
}

fn filled(mut layer: impl Layer + 'static) -> Box<dyn Layer> {
    layer.fill_weight(|i| 0.6 + 0.1 * i as f32).unwrap();
    layer.fill_bias(|i| 0.3 - 0.2 * i as f32).unwrap();
    Box::new(layer)
}

/// A picture too large for memory, tile by tile.
#[test]
fn tiles_are_the_whole() {
    let shape = [1, 6, 40, 33];
    let tiles: Vec<Part> = [[0, 16], [16, 32], [32, 40]]
        .into_iter()
        .flat_map(|rows| [[0, 20], [20, 33]].map(|columns| [[0, 1], rows, columns]))
        .collect();
    let len = shape.iter().product();
    for device in device::all() {
        let context = &device.context;
        for (order, dtype) in
            [(ORDERS[0], DType::F32), (ORDERS[1], DType::F32), (ORDERS[0], DType::F16)]
        {
            let offset = if dtype == DType::F16 { 3.0 } else { 500.0 };
            let rounded = |v: Vec<f64>| data::rounded(dtype, &v);
            let parts = |kind| Parts {
                context,
                dtype,
                order,
                kind,
                x: Maps::new(shape, rounded(values(len, 1, 1.5, offset))),
                dy: Maps::new(shape, rounded(values(len, 2, 1.0, 0.2))),
                parts: &tiles,
                what: format!("{} {order:?} {dtype} {kind:?}", device.name),
            };
            parts(Kind::Instance).check(|| {
                let config = InstanceNorm2d::config(6).with_affine(Affine::Both);
                filled(config.init(context).unwrap())
            });
            parts(Kind::Group(3)).check(|| filled(GroupNorm::config(3, 6).init(context).unwrap()));
        }
    }
}

/// Data-parallel training over shards of unequal size, one of them of one value per channel, one
/// empty.
#[test]
fn shards_are_the_whole_batch() {
    let shape = [8, 5, 6, 4];
    let shard = |from, to| [[from, to], [0, 6], [0, 4]];
    let len = shape.iter().product();
    for device in device::all() {
        let context = &device.context;
        for order in ORDERS {
            for shards in [
                vec![shard(0, 5), shard(5, 8)],
                vec![shard(5, 8), shard(0, 1), shard(1, 5)],
                vec![shard(0, 3), shard(3, 3), shard(3, 8)],
            ] {
                let parts = Parts {
                    context,
                    dtype: DType::F32,
                    order,
                    kind: Kind::Batch,
                    x: Maps::new(shape, values(len, 3, 1.5, 20.0)),
                    dy: Maps::new(shape, values(len, 4, 1.0, 0.2)),
                    parts: &shards,
                    what: format!("{} {order:?} {shards:?}", device.name),
                };
                parts.check(|| filled(BatchNorm2d::config(5).init(context).unwrap()));
            }
        }
    }
}

/// Off by one element, the comparison with the whole fails.
#[test]
#[should_panic(expected = "expected")]
fn a_missing_part_is_seen() {
    let shape = [2, 3, 4, 4];
    let parts = Parts {
        context: &Context::host(),
        dtype: DType::F32,
        order: ORDERS[0],
        kind: Kind::Batch,
        x: Maps::new(shape, values(96, 3, 1.5, 0.0)),
        dy: Maps::new(shape, values(96, 4, 1.0, 0.0)),
        // Without the last row.
        parts: &[[[0, 1], [0, 4], [0, 4]], [[1, 2], [0, 3], [0, 4]]],
        what: "a part".into(),
    };
    parts.check(|| filled(BatchNorm2d::config(3).init(&Context::host()).unwrap()));
}

/// `(count, mean, residual, m2)` per group, whatever made them.
fn statistics(context: &Context, rows: &[[f64; 4]]) -> Tensor<'static> {
    entries(context, [rows.len(), 4], rows)
}

fn entries(context: &Context, shape: impl Into<Shape>, rows: &[[f64; 4]]) -> Tensor<'static> {
    let dtype = if context.backend() == Backend::Host { DType::F64 } else { DType::F32 };
    data::place(context, shape, dtype, ORDERS[0], rows.as_flattened()).unwrap()
}

/// What a layer tells of its input is what the oracle finds.
#[test]
fn statistics_are_counts_means_and_squares() {
    for device in device::all() {
        let context = &device.context;
        for order in ORDERS {
            let maps = Maps::new([2, 6, 5, 7], values(420, 5, 1.5, 30.0));
            let x = maps.tensor(context, DType::F32, order);
            let layers: [(Kind, Box<dyn Layer>); 3] = [
                (Kind::Instance, Box::new(InstanceNorm2d::config(6).init(context).unwrap())),
                (Kind::Batch, Box::new(BatchNorm2d::config(6).init(context).unwrap())),
                (Kind::Group(2), Box::new(GroupNorm::config(2, 6).init(context).unwrap())),
            ];
            for (kind, layer) in layers {
                let got = layer.statistics(context, &x, None).unwrap();
                let got = read(got.tensor()).unwrap();
                let of = maps.oracle(kind).moments(&maps.values);
                let what = format!("{} {order:?} {kind:?}", device.name);
                assert_eq!(got.len(), 4 * of.len(), "{what}");
                for (got, of) in got.chunks(4).zip(of) {
                    let got = [got[0], got[1] + got[2], got[3]];
                    let want = [of.count, of.mean, of.var * of.count];
                    assert_close(&got, &want, &want, tolerance::RUNNING, &what);
                }
            }
        }
    }
}

/// A convolution's epilogue, another machine: constants, or part of the graph with the sums that go
/// with them; the mean in two parts.
#[test]
fn statistics_from_elsewhere() {
    for device in device::all() {
        let context = &device.context;
        for order in ORDERS {
            let maps = Maps::new([2, 3, 4, 5], values(120, 6, 1.2, 1.0));
            let dy = Maps::new([2, 3, 4, 5], values(120, 7, 1.0, 0.3));
            let rows = [[50.0, 0.5, 0.25, 80.0], [50.0, 1.0, 0.0, 100.0], [50.0, 2.0, -0.5, 60.0]];
            let moments = rows.map(|[count, mean, rest, m2]| oracle::Moments {
                count,
                mean: mean + rest,
                var: m2 / count,
            });
            let layer = filled(BatchNorm2d::config(3).init(context).unwrap());
            let given = Statistics::from_tensor(statistics(context, &rows)).unwrap();
            let (x, tdy) =
                (maps.tensor(context, DType::F32, order), dy.tensor(context, DType::F32, order));
            let [weight, bias] =
                [layer.weight(), layer.bias()].map(|param| read(param.unwrap()).unwrap());
            for constant in [true, false] {
                let extras = match constant {
                    true => Extras::new().with_constant_statistics(&given),
                    false => Extras::new().with_statistics(&given),
                };
                let norm = Norm {
                    weight: Some(&weight),
                    bias: Some(&bias),
                    source: Source::Given { moments: &moments, constant },
                    ..maps.oracle(Kind::Batch)
                };
                let what = format!("{} {order:?} constant {constant}", device.name);
                for mode in [Mode::Eval, Mode::Train] {
                    let state = || {
                        [layer.running_mean(), layer.running_var()]
                            .map(|part| read(&part.unwrap()).unwrap())
                    };
                    let [mean, var] = state();
                    let (y, saved) = layer.forward_saved_with(context, &x, &extras, mode).unwrap();
                    let forward = norm.forward(&maps.values);
                    let got = maps.read(&y);
                    assert_close(&got, &forward.y, &forward.scale, tolerance::Y, &what);
                    // In training the running statistics move towards the given ones.
                    let want = match mode {
                        Mode::Train => norm.running(&maps.values, 0.1, true, &mean, &var),
                        Mode::Eval => (mean, var),
                    };
                    let [mean, var] = state();
                    assert_close(&mean, &want.0, &want.0, tolerance::RUNNING, &what);
                    assert_close(&var, &want.1, &want.1, tolerance::RUNNING, &what);
                    let grads = layer.backward(context, &saved, &tdy).unwrap();
                    let backward = norm.backward(&maps.values, &dy.values);
                    let got = maps.read(&grads.dx);
                    assert_close(&got, &backward.dx, &backward.dx_scale, tolerance::DX, &what);
                    if constant {
                        continue;
                    }
                    // Sums from elsewhere replace x's own: with zeros there are no mean terms.
                    let zeros = statistics(context, &[[50.0, 0.0, 0.0, 0.0]; 3]);
                    let zeros = GroupSums::from_tensor(zeros).unwrap();
                    let grads = layer.backward_with_sums(context, &saved, &tdy, &zeros).unwrap();
                    let source = Source::Given { moments: &moments, constant: true };
                    let alone = Norm { source, ..norm.clone() }.backward(&maps.values, &dy.values);
                    let got = maps.read(&grads.dx);
                    assert_close(&got, &alone.dx, &alone.dx_scale, tolerance::DX, &what);
                }
            }
        }
    }
}

/// Several entries per group are what their merge is, in every use.
#[test]
fn statistics_of_parts() {
    let merge = |[na, ma, ra, qa]: [f64; 4], [nb, mb, rb, qb]: [f64; 4]| {
        let (n, delta) = (na + nb, (mb + rb) - (ma + ra));
        if n == 0.0 {
            return [0.0; 4];
        }
        [n, ma + ra + delta * nb / n, 0.0, qa + qb + delta * delta * na * nb / n]
    };
    for device in device::all() {
        let context = &device.context;
        // Some, and more than a workgroup has lanes; the last is of nothing.
        for parts in [1, 3, 600] {
            let entry = |i: usize| match i % parts {
                part if part > 0 && part + 1 == parts => [0.0; 4],
                part => [1.0 + (part % 7) as f64, 0.5 + (i % 5) as f64, 0.25, 1.5 * part as f64],
            };
            let all: Vec<[f64; 4]> = (0..3 * parts).map(entry).collect();
            let whole: Vec<[f64; 4]> =
                all.chunks(parts).map(|of| of.iter().copied().fold([0.0; 4], merge)).collect();
            let of_parts = entries(context, [3, parts, 4], &all);
            let of_parts = Statistics::from_tensor(of_parts).unwrap();
            let whole = Statistics::from_tensor(statistics(context, &whole)).unwrap();
            assert_eq!((of_parts.parts(), whole.parts()), (parts as u32, 1));
            let maps = Maps::new([2, 3, 4, 5], values(120, 6, 1.2, 1.0));
            let x = maps.tensor(context, DType::F32, ORDERS[0]);
            let mut results = Vec::new();
            for given in [&of_parts, &whole] {
                let layer = filled(BatchNorm2d::config(3).init(context).unwrap());
                let extras = Extras::new().with_statistics(given);
                let y = layer.forward_with(context, &x, &extras, Mode::Train).unwrap();
                let (again, saved) =
                    layer.forward_saved_with(context, &x, &extras, Mode::Eval).unwrap();
                let grads = layer.backward(context, &saved, &x).unwrap();
                let tensors = [&y, &again, &grads.dx];
                let mut values: Vec<f64> = tensors.iter().flat_map(|t| read(t).unwrap()).collect();
                values.extend(read(&layer.running_mean().unwrap()).unwrap());
                values.extend(read(&layer.running_var().unwrap()).unwrap());
                results.push(values);
            }
            let scale: Vec<f64> = results[1].iter().map(|v| v.abs().max(1.0)).collect();
            let what = format!("{} {parts} parts", device.name);
            assert_close(&results[0], &results[1], &scale, 2e-6, &what);
        }
        let none = Tensor::zeros(context, [3, 0, 4]).unwrap();
        assert!(Statistics::from_tensor(none).is_err());
    }
}

/// Statistics that do not fit are refused.
#[test]
fn statistics_that_do_not_fit() {
    for device in device::all() {
        let context = &device.context;
        let two = Statistics::from_tensor(statistics(context, &[[5.0, 0.0, 0.0, 5.0]; 2])).unwrap();
        let three =
            Statistics::from_tensor(statistics(context, &[[5.0, 0.0, 0.0, 5.0]; 3])).unwrap();
        let operand = |layer, operand| {
            let (expected, got) = ([3, 4].into(), [2, 4].into());
            Error::from(ShapeError::Operand { layer, operand, expected, got })
        };
        assert_eq!(three.merge(context, &two).unwrap_err(), operand("Statistics", "other"));
        let layer = BatchNorm2d::config(3).init(context).unwrap();
        let x = Tensor::zeros(context, [2, 3, 2, 2]).unwrap();
        for extras in
            [Extras::new().with_statistics(&two), Extras::new().with_constant_statistics(&two)]
        {
            let refused = layer.forward_with(context, &x, &extras, Mode::Train).unwrap_err();
            assert_eq!(refused, operand("BatchNorm2d", "statistics"));
        }
        let (_, saved) = layer.forward_saved(context, &x, Mode::Train).unwrap();
        let sums = GroupSums::from_tensor(two.tensor().clone()).unwrap();
        let refused = layer.backward_with_sums(context, &saved, &x, &sums).unwrap_err();
        assert_eq!(refused, operand("BatchNorm2d", "sums"));

        let flat = data::place(context, [8], DType::F32, ORDERS[0], &[0.0; 8]).unwrap();
        assert!(matches!(
            Statistics::from_tensor(flat),
            Err(ShapeError::Rank { .. } | ShapeError::DType { .. })
        ));
    }
}

/// Evaluation uses running statistics whatever x is: statistics are always x's own.
#[test]
fn statistics_move_nothing() {
    for device in device::all() {
        let context = &device.context;
        let layer = BatchNorm2d::config(2).init(context).unwrap();
        let x = data::place(context, [1, 2, 1, 2], DType::F32, ORDERS[0], &[1.0, 3.0, 5.0, 5.0]);
        let got = layer.statistics(context, &x.unwrap(), None).unwrap();
        assert_eq!(read(got.tensor()).unwrap(), [2.0, 2.0, 0.0, 2.0, 2.0, 5.0, 0.0, 0.0]);
        assert_eq!(read(&layer.running_mean().unwrap()).unwrap(), [0.0, 0.0]);
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 0);
    }
}

/// Momentum is a factor, whatever its size: PyTorch's own tests use −1.2.
#[test]
fn any_momentum() {
    for device in device::all() {
        let context = &device.context;
        let x = data::place(context, [1, 1, 1, 2], DType::F32, ORDERS[0], &[1.0, 3.0]).unwrap();
        for factor in [-1.2, 0.0, 0.25, 1.0, 3.0] {
            let config = BatchNorm2d::config(1).with_momentum(Momentum::Factor(factor));
            let layer = config.init(context).unwrap();
            layer.forward(context, &x, Mode::Train).unwrap();
            let got = [layer.running_mean(), layer.running_var()];
            let [mean, var] = got.map(|part| read(&part.unwrap()).unwrap());
            let what = format!("{} momentum {factor}", device.name);
            let want = [2.0 * factor, (1.0 - factor) + 2.0 * factor];
            assert_close(&[mean[0], var[0]], &want, &want, tolerance::RUNNING, &what);
            assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 1);
        }
    }
}

/// In evaluation one statistic serves all samples, yet the sums are each sample's own.
#[test]
fn sums_with_running_statistics_are_per_group() {
    for device in device::all() {
        let context = &device.context;
        let config = InstanceNorm2d::config(1).with_track_running_stats(true);
        let layer = config.with_eps(0.0).init(context).unwrap();
        let place = |values: &[f64]| {
            let order = MemoryOrder::ChannelsFirst;
            data::place(context, [3, 1, 1, 2], DType::F32, order, values).unwrap()
        };
        let x = place(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let (_, saved) = layer.forward_saved(context, &x, Mode::Eval).unwrap();
        let dy = place(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let sums = layer.group_sums(context, &saved, &dy).unwrap();
        let got = read(sums.tensor()).unwrap();
        let want = [2.0, 3.0, 5.0, 0.0, 2.0, 7.0, 25.0, 0.0, 2.0, 11.0, 61.0, 0.0];
        assert_close(&got, &want, &want.map(|v: f64| v.max(1.0)), 1e-6, device.name);
        // They change nothing: the statistics are constants.
        let with = layer.backward_with_sums(context, &saved, &dy, &sums).unwrap();
        let without = layer.backward(context, &saved, &dy).unwrap();
        assert_eq!(read(&with.dx).unwrap(), read(&without.dx).unwrap(), "{}", device.name);
    }
}
