//! A sample has the same bits alone as in a batch of any size, forward and backward. A model that decodes one token after a
//! prefill, or serves requests in batches of changing size, gives the same answer each time.

mod common;

use common::device;
use common::suite::{ACTIVATIONS, Case, Data, Family, From, run};
use std::ops::Range;
use wgnorm::{Context, DType, MemoryOrder, Mode};

const ORDERS: [MemoryOrder; 2] = [MemoryOrder::ChannelsFirst, MemoryOrder::ChannelsLast];
const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];

/// The numbers of some samples of a case.
fn cut(case: &Case, data: &Data, samples: &Range<usize>) -> (Case, Data) {
    let [n, c, s] = case.shape;
    let part = |values: &[f64], len: usize| values[samples.start * len..samples.end * len].to_vec();
    let mut cut = data.clone();
    for values in [&mut cut.x, &mut cut.addend, &mut cut.dy, &mut cut.other] {
        *values = part(values, c * s);
    }
    if case.family.is_styled() {
        // Tables and styles belong to a sample; the parameters of the other layers serve all samples.
        cut.weight = part(&cut.weight, c);
        cut.bias = part(&cut.bias, c);
        cut.style = part(&cut.style, c * case.style_len());
        cut.blend = part(&cut.blend, data.blend.len() / n);
    }
    cut.mask = data.mask[samples.start * s..samples.end * s].to_vec();
    (Case { shape: [samples.len(), c, s], ..case.clone() }, cut)
}

/// What differs between some samples of a batch and the same samples on their own.
fn differences(context: &Context, case: Case) -> Vec<String> {
    let case = case.fitted();
    let data = Data::new(&case);
    let [n, c, s] = case.shape;
    let outputs = |case: &Case, data: &Data| {
        let outcome = run(context, case, data).unwrap_or_else(|e| panic!("{case:?}: {e}"));
        let daddend = outcome.daddend.unwrap_or_else(|| vec![0.0; outcome.y.len()]);
        [outcome.y, outcome.unsaved, outcome.dx, daddend]
    };
    let batch = outputs(&case, &data);
    let mut differences = Vec::new();
    for samples in [0..1, n / 2..n / 2 + 1, n - 1..n, n - 2..n] {
        let (alone, numbers) = cut(&case, &data, &samples);
        let alone = outputs(&alone, &numbers);
        for (i, name) in
            ["y", "y of a call that saves nothing", "dx", "daddend"].into_iter().enumerate()
        {
            let of_batch = &batch[i][samples.start * c * s..samples.end * c * s];
            assert_eq!(of_batch.len(), alone[i].len());
            let other = |(a, b): &(&f64, &f64)| a.to_bits() != b.to_bits();
            let count = of_batch.iter().zip(&alone[i]).filter(other).count();
            if count > 0 {
                differences
                    .push(format!("{name}, {count} elements of samples {samples:?}: {case:?}"));
            }
        }
    }
    differences
}

fn check(context: &Context, cases: impl IntoIterator<Item = Case>) {
    let all: Vec<_> = cases.into_iter().flat_map(|case| differences(context, case)).collect();
    assert!(all.is_empty(), "{} outputs depend on their batch:\n{}", all.len(), all.join("\n"));
}

/// The layers whose samples do not depend on each other.
fn families(channels: usize) -> Vec<Family> {
    let mut all = Family::all(channels);
    all.retain(|family| !matches!(family, Family::Batch | Family::FusedBatch));
    all
}

/// Rows of one group per sample: every width up to 255, then those around the sizes at which the host changes its way.
#[test]
fn host_rows_alone_and_in_a_batch() {
    let wide = [
        256, 257, 511, 513, 768, 1023, 1024, 2049, 4096, 4097, 8193, 16_383, 16_384, 16_385,
        32_768, 65_536,
    ];
    let wide = wide.into_iter().chain([131_072, 131_073, 300_004]);
    let families = [Family::Layer(1), Family::Instance, Family::Rms(1), Family::Group(1)];
    let cases = (2..256).chain(wide).flat_map(|s| {
        let n = if s < 1024 { 300 } else { 5 };
        // All families and types meet every kind of width, since four and three have no common divisor.
        let family = families[s % 4];
        let dtypes = if s < 256 { vec![DTYPES[s % 3]] } else { DTYPES.to_vec() };
        let families = if s < 256 { vec![family, families[0]] } else { families.to_vec() };
        families.into_iter().flat_map(move |family| {
            dtypes
                .clone()
                .into_iter()
                .map(move |dtype| Case { dtype, ..Case::new(family, [n, 1, s]) })
        })
    });
    check(&Context::host(), cases);
}

/// Samples of several channels, in both memory orders, with every setting that a call may have.
fn settings() -> impl Iterator<Item = Case> {
    let shapes = [[5, 6, 3], [7, 6, 49], [4, 6, 256], [3, 6, 4099]];
    shapes.into_iter().flat_map(|shape| {
        let each = families(shape[1]).into_iter().enumerate();
        each.flat_map(move |(i, family)| {
            (0..8).map(move |j| Case {
                order: ORDERS[j % 2],
                dtype: DTYPES[(i + j / 2) % 4],
                mode: if (i + j) % 5 == 4 { Mode::Eval } else { Mode::Train },
                activation: ACTIVATIONS[(i + j) % 8],
                addend: (i + j) % 3 == 1,
                ..Case::new(family, shape)
            })
        })
    })
}

#[test]
fn host_samples_alone_and_in_a_batch() {
    check(&Context::host(), settings());
}

/// Channels last, where the host cuts a sample into blocks of 65 536 elements and a single pixel is left.
#[test]
fn host_a_pixel_after_the_last_block() {
    let shapes = [[2, 4, 16_385], [2, 6, 10_923], [3, 8, 8_193], [3, 16, 4_097], [3, 64, 1_025]];
    let cases = shapes.into_iter().flat_map(|shape| {
        let froms = [From::Mode, From::Given { constant: false }, From::Given { constant: true }];
        froms.into_iter().flat_map(move |from| {
            let families = [Family::Group(1), Family::Group(2), Family::Instance, Family::Layer(2)];
            families.into_iter().enumerate().map(move |(i, family)| Case {
                from,
                // A batch is not normalized as one row where it is channels last.
                order: if i == 3 { MemoryOrder::ChannelsFirst } else { MemoryOrder::ChannelsLast },
                dtype: if from == From::Mode { DType::F32 } else { DTYPES[i % 3] },
                activation: ACTIVATIONS[i % 2],
                ..Case::new(family, shape)
            })
        })
    });
    check(&Context::host(), cases);
}

#[test]
fn gpu_samples_alone_and_in_a_batch() {
    for device in device::all().into_iter().skip(1) {
        let cases = settings().filter(|case| case.dtype != DType::F64);
        // A prime, so that the cases that are taken go through all settings: drivers in software compile for long.
        check(&device.context, cases.step_by(11));
        let rows = [3, 64, 255, 1024, 16_385, 65_536];
        let of =
            |s| [Family::Layer(1), Family::Instance].map(|family| Case::new(family, [20, 1, s]));
        check(&device.context, rows.into_iter().flat_map(of));
    }
}
