//! For tests of both executors: a convolution written as the textbook has it, in f64, sharing nothing with either.

use crate::net::{Geometry, Size};

const fn geometry(
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    upsample: usize,
) -> Geometry {
    Geometry { in_channels: channels.0, out_channels: channels.1, kernel, stride, upsample }
}

/// Odd sizes, the smallest that can be reflected, channel counts beside every tile, every shape the network has.
pub(crate) const CONVOLUTIONS: [(Geometry, Size); 12] = [
    (geometry((3, 8), 9, 1, 1), Size { height: 5, width: 5 }),
    (geometry((3, 5), 9, 1, 1), Size { height: 17, width: 23 }),
    (geometry((8, 12), 3, 2, 1), Size { height: 13, width: 9 }),
    (geometry((5, 3), 3, 2, 1), Size { height: 2, width: 3 }),
    (geometry((12, 12), 3, 1, 1), Size { height: 7, width: 11 }),
    (geometry((8, 8), 3, 1, 1), Size { height: 2, width: 2 }),
    (geometry((12, 5), 3, 1, 2), Size { height: 1, width: 6 }),
    (geometry((8, 16), 3, 1, 2), Size { height: 9, width: 7 }),
    (geometry((5, 3), 9, 1, 1), Size { height: 20, width: 31 }),
    (geometry((20, 70), 3, 1, 1), Size { height: 12, width: 11 }),
    (geometry((3, 130), 3, 1, 1), Size { height: 10, width: 13 }),
    (geometry((1, 1), 3, 2, 2), Size { height: 6, width: 5 }),
];

pub(crate) struct Case {
    pub geometry: Geometry,
    pub size: Size,
    pub x: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Case {
    /// The same values on every run (xorshift), -1..1.
    pub fn new(geometry: Geometry, size: Size) -> Case {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut values = |n: usize| {
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..n).map(|_| next()).collect::<Vec<_>>()
        };
        let x = values(geometry.in_channels * size.area());
        let weight = values(geometry.out_channels * geometry.depth());
        let bias = values(geometry.out_channels);
        Case { geometry, size, x, weight, bias }
    }
}

/// Upsamples, pads and convolves in three separate steps.
pub(crate) fn textbook(case: &Case) -> Vec<f64> {
    let Geometry { in_channels, out_channels, kernel, stride, upsample } = case.geometry;
    let (rows, columns) =
        ((case.size.height * upsample) as i64, (case.size.width * upsample) as i64);
    let mirrored = |p: i64, n: i64| {
        if p < 0 {
            -p
        } else if p >= n {
            2 * n - 2 - p
        } else {
            p
        }
    };
    let at = |channel: usize, row: i64, column: i64| {
        let (row, column) = (
            mirrored(row, rows) as usize / upsample,
            mirrored(column, columns) as usize / upsample,
        );
        f64::from(case.x[(channel * case.size.height + row) * case.size.width + column])
    };
    let padding = (kernel / 2) as i64;
    let mut y = Vec::new();
    for out in 0..out_channels {
        for row in (0..rows).step_by(stride) {
            for column in (0..columns).step_by(stride) {
                let mut sum = f64::from(case.bias[out]);
                for channel in 0..in_channels {
                    for i in 0..kernel {
                        for j in 0..kernel {
                            let weight = case.weight
                                [((out * in_channels + channel) * kernel + i) * kernel + j];
                            let (row, column) =
                                (row + i as i64 - padding, column + j as i64 - padding);
                            sum += f64::from(weight) * at(channel, row, column);
                        }
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// Sums of up to a few thousand products of values below one: f32 in any order stays well within 1e-3.
pub(crate) fn assert_close(y: &[f32], expected: &[f64], what: &str) {
    assert_eq!(y.len(), expected.len(), "{what}");
    for (index, (&y, &expected)) in y.iter().zip(expected).enumerate() {
        let error = (f64::from(y) - expected).abs();
        assert!(error < 1e-3, "{what}: element {index} is {y}, expected {expected}");
    }
}

#[test]
#[should_panic(expected = "element 3")]
fn a_perturbed_output_is_noticed() {
    let case = Case::new(CONVOLUTIONS[0].0, CONVOLUTIONS[0].1);
    let expected = textbook(&case);
    let mut y: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
    y[3] += 0.01;
    assert_close(&y, &expected, "perturbed");
}
