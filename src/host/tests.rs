//! The host path against plain loops in f64 that share nothing with it but the view.

use super::*;
use crate::Activation;
use crate::problem::{Estimator, Momentum, RunningUpdate};
use crate::{DType, View, bf16, f16};

/// Sizes: samples, channels, groups, and spatial positions in two parts (A before the channels of
/// an any-axis InstanceNorm, B behind them).
#[derive(Clone, Copy, Debug)]
struct Sizes {
    n: u32,
    c: u32,
    g: u32,
    a: u32,
    b: u32,
}

const SIZES: [Sizes; 10] = [
    Sizes { n: 1, c: 1, g: 1, a: 1, b: 1 },
    Sizes { n: 2, c: 6, g: 3, a: 1, b: 5 },
    Sizes { n: 3, c: 4, g: 2, a: 7, b: 1 },
    Sizes { n: 5, c: 1, g: 1, a: 1, b: 1 },
    Sizes { n: 4, c: 6, g: 1, a: 3, b: 11 },
    // Beyond pieces, tiles and blocks.
    Sizes { n: 3, c: 34, g: 17, a: 41, b: 9 },
    Sizes { n: 2, c: 3, g: 3, a: 101, b: 307 },
    // Channels last: several pixels a row, the last ones fewer; pixels longer than a row; cut pixels.
    Sizes { n: 2, c: 33, g: 11, a: 3, b: 177 },
    Sizes { n: 3, c: 513, g: 27, a: 2, b: 5 },
    Sizes { n: 1, c: 1100, g: 100, a: 13, b: 6 },
];

/// Every kind of view, with the length of its parameters.
fn views(sizes: Sizes) -> Vec<(&'static str, View, usize)> {
    let Sizes { n, c, g, a, b } = sizes;
    let (s, q) = (a * b, c / g);
    let instance = View {
        extent: [n, c, 1, s],
        data: [c * s, s, 0, 1],
        param: [0, 1, 0, 0],
        stat: [c, 1, 0, 0],
        mask: [s, 0, 0, 1],
    };
    let batch = View {
        extent: [1, c, n, s],
        data: [0, s, c * s, 1],
        stat: [0, 1, 0, 0],
        mask: [0, 0, s, 1],
        ..instance
    };
    let group = View {
        extent: [n, g, q, s],
        data: [c * s, q * s, s, 1],
        param: [0, q, 1, 0],
        stat: [g, 1, 0, 0],
        mask: [s, 0, 0, 1],
    };
    let layer = View {
        extent: [1, n * a, 1, c * b],
        data: [0, c * b, 0, 1],
        param: [0, 0, 0, 1],
        stat: [0, 1, 0, 0],
        mask: [0; 4],
    };
    let channels = c as usize;
    vec![
        ("instance", instance, channels),
        ("instance last", View { data: [s * c, 1, 0, c], ..instance }, channels),
        (
            "instance any axis",
            View {
                extent: [n, c, a, b],
                data: [a * c * b, b, c * b, 1],
                mask: [s, 0, b, 1],
                ..instance
            },
            channels,
        ),
        ("adain", View { param: [c, 1, 0, 0], ..instance }, (n * c) as usize),
        (
            "adain last",
            View { param: [c, 1, 0, 0], data: [s * c, 1, 0, c], ..instance },
            (n * c) as usize,
        ),
        ("batch", batch, channels),
        (
            "batch last",
            View { extent: [1, c, 1, n * s], data: [0, 1, 0, c], mask: [0, 0, 0, 1], ..batch },
            channels,
        ),
        ("group", group, channels),
        (
            "group last",
            View {
                extent: [n, g, s, q],
                data: [s * c, q, c, 1],
                param: [0, q, 0, 1],
                mask: [s, 0, 1, 0],
                ..group
            },
            channels,
        ),
        ("layer", layer, (c * b) as usize),
    ]
}

fn forward(problem: &Problem, operands: &Operands<'_>) -> (HostData<'static>, Vec<f64>) {
    forward_saved(&Arc::default(), problem, operands).expect("memory")
}

/// Numbers of about unit spread, the same every time.
fn noise(len: usize, seed: u32) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9).wrapping_add(0x7F4A_7C15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) - 0.5
    };
    (0..len).map(|_| 2.0 * (next() + next() + next())).collect()
}

/// One problem with all its operands in f64.
#[derive(Clone)]
struct Case {
    problem: Problem,
    x: Vec<f64>,
    dy: Vec<f64>,
    addend: Option<Vec<f64>>,
    weight: Option<Vec<f64>>,
    bias: Option<Vec<f64>>,
    mask: Option<Vec<u8>>,
    /// Given or saved.
    moments: Option<Vec<f64>>,
}

fn data(values: &[f64], dtype: DType) -> HostData<'static> {
    HostData::narrow(values, dtype)
}

impl Case {
    fn new(view: View, params: usize) -> Self {
        let len = view.elements() as usize;
        let problem = Problem { weight: true, bias: true, ..Problem::new(view, DType::F64, 1e-3) };
        Case {
            problem,
            x: noise(len, 1).iter().map(|v| v + 3.0).collect(),
            dy: noise(len, 2),
            addend: None,
            weight: Some(noise(params, 3)),
            bias: Some(noise(params, 4)),
            mask: None,
            moments: None,
        }
    }

    fn with_addend(mut self) -> Self {
        self.addend = Some(noise(self.x.len(), 5));
        self.problem.addend = true;
        self
    }

    /// Leaves out about every third position, and the first sample of three or more but one.
    fn with_mask(mut self) -> Self {
        let View { extent, mask, .. } = self.problem.view;
        let len = 1 + (0..4).map(|d| (extent[d] - 1) * mask[d]).sum::<u32>() as usize;
        let mut values: Vec<u8> = noise(len, 6).iter().map(|&v| u8::from(v > -0.5)).collect();
        let samples = extent[0].max(extent[2]) as usize;
        if mask[0] != 0 && samples > 2 {
            values[..len / samples].fill(0);
            values[len / samples..2 * (len / samples)].fill(0);
            values[len / samples] = 9;
        }
        self.mask = Some(values);
        self.problem.masked = true;
        self
    }

    fn rounded(mut self, dtype: DType) -> Self {
        let round = |values: &mut Vec<f64>| values.iter_mut().for_each(|v| *v = dtype.round(*v));
        round(&mut self.x);
        round(&mut self.dy);
        self.addend.iter_mut().for_each(round);
        // Parameters of 16-bit tensors are f32.
        let param = if dtype == DType::F64 { dtype } else { DType::F32 };
        let round = |values: &mut Vec<f64>| values.iter_mut().for_each(|v| *v = param.round(*v));
        self.weight.iter_mut().for_each(round);
        self.bias.iter_mut().for_each(round);
        self.problem.dtype = dtype;
        self
    }

    /// The elements of each group, in the order of groups: `(data, param, counts)`.
    fn groups(&self) -> Vec<Vec<(usize, usize, bool)>> {
        let View { extent, data, param, mask, .. } = self.problem.view;
        let at = |strides: [u32; 4], index: [u32; 4]| {
            index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<u32>() as usize
        };
        let mut groups = Vec::new();
        for go in 0..extent[0] {
            for gi in 0..extent[1] {
                let mut elements = Vec::new();
                for ro in 0..extent[2] {
                    for ri in 0..extent[3] {
                        let index = [go, gi, ro, ri];
                        let counts = self.mask.as_ref().is_none_or(|m| m[at(mask, index)] != 0);
                        elements.push((at(data, index), at(param, index), counts));
                    }
                }
                groups.push(elements);
            }
        }
        groups
    }

    /// `(count, mean, m2)` of each group, given ones or its own.
    fn moments(&self) -> Vec<[f64; 3]> {
        if let Some(moments) = &self.moments {
            let statistic = |g| self.problem.view.stat_index(g) as usize * 4;
            let read = |g| &moments[statistic(g)..][..4];
            let groups = 0..self.problem.view.groups();
            return groups.map(read).map(|m| [m[0], m[1] + m[2], m[3]]).collect();
        }
        let moments = |group: &Vec<(usize, usize, bool)>| {
            let values: Vec<f64> =
                group.iter().filter(|(.., counts)| *counts).map(|&(at, ..)| self.x[at]).collect();
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count.max(1.0);
            let mean = if self.problem.centered { mean } else { 0.0 };
            [count, mean, values.iter().map(|v| (v - mean).powi(2)).sum()]
        };
        self.groups().iter().map(moments).collect()
    }

    fn param(&self, of: &Option<Vec<f64>>, at: usize, absent: f64) -> f64 {
        of.as_ref().map_or(absent, |values| values[at])
    }

    /// Every counted element: group, position, parameter, xhat, and what the activation takes.
    fn elements(&self) -> Vec<(usize, usize, usize, f64, f64)> {
        let (groups, moments) = (self.groups(), self.moments());
        let mut elements = Vec::new();
        for (g, (group, [count, mean, m2])) in groups.iter().zip(moments).enumerate() {
            for &(at, p, _) in group.iter().filter(|(.., counts)| *counts) {
                let xhat = (self.x[at] - mean) / (m2 / count + self.problem.eps).sqrt();
                let addend = self.addend.as_ref().map_or(0.0, |a| a[at]);
                let z = xhat * self.param(&self.weight, p, 1.0)
                    + self.param(&self.bias, p, 0.0)
                    + addend;
                elements.push((g, at, p, xhat, z));
            }
        }
        elements
    }

    fn expected_y(&self) -> Vec<f64> {
        let mut y = vec![0.0; self.x.len()];
        for (_, at, _, _, z) in self.elements() {
            y[at] = activate(self.problem.activation, z);
        }
        y
    }

    /// `(count, Σγg, Σγg·xhat, 0)` of each group.
    fn expected_sums(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.problem.view.groups() as usize * 4];
        for (g, at, p, xhat, z) in self.elements() {
            let u =
                self.param(&self.weight, p, 1.0) * self.dy[at] * slope(self.problem.activation, z);
            let sums = &mut sums[g * 4..][..3];
            sums.iter_mut().zip([1.0, u, u * xhat]).for_each(|(sum, v)| *sum += v);
        }
        sums
    }

    /// dx, dweight, dbias, daddend.
    fn expected_gradients(&self, sums: Option<&[f64]>) -> [Vec<f64>; 4] {
        let problem = &self.problem;
        let len = self.weight.as_ref().or(self.bias.as_ref()).map_or(1, Vec::len);
        let [mut dx, mut daddend] = [0; 2].map(|_| vec![0.0; self.x.len()]);
        let [mut dweight, mut dbias] = [0; 2].map(|_| vec![0.0; len]);
        let own = self.expected_sums();
        let moments = self.moments();
        for (g, at, p, xhat, z) in self.elements() {
            let [count, _, m2] = moments[g];
            let rstd = 1.0 / (m2 / count + problem.eps).sqrt();
            let d = self.dy[at] * slope(problem.activation, z);
            let gamma = if problem.weight { self.param(&self.weight, p, 1.0) } else { 1.0 };
            let mut terms = gamma * d;
            if !problem.source.is_constant() {
                let (n, s) = match sums {
                    Some(sums) => (sums[g * 4], &sums[g * 4..]),
                    None => (count, &own[g * 4..]),
                };
                terms -= if problem.centered { s[1] / n } else { 0.0 } + xhat * s[2] / n;
            }
            dx[at] = rstd * terms;
            daddend[at] = d;
            if problem.weight || problem.bias {
                dweight[p] += d * xhat;
                dbias[p] += d;
            }
        }
        [dx, dweight, dbias, daddend]
    }

    /// Calls `f` with the operands as host data of the problem's type.
    fn with_operands<R>(
        &self,
        running: Option<&Mutex<HostRunning>>,
        f: impl FnOnce(&Operands<'_>, &HostData<'_>) -> R,
    ) -> R {
        let dtype = self.problem.dtype;
        let params = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let x = data(&self.x, dtype);
        let addend = self.addend.as_ref().map(|a| data(a, dtype));
        let weight = self.weight.as_ref().map(|w| data(w, params));
        let bias = self.bias.as_ref().map(|b| data(b, params));
        let operands = Operands {
            x: &x,
            addend: addend.as_ref(),
            weight: weight.as_ref(),
            bias: bias.as_ref(),
            running,
            mask: self.mask.as_deref(),
            moments: self.moments.as_deref(),
        };
        f(&operands, &data(&self.dy, dtype))
    }

    fn forward(&self) -> (Vec<f64>, Vec<f64>) {
        self.with_operands(None, |operands, _| {
            let (y, moments) = forward(&self.problem, operands);
            (y.convert(), moments)
        })
    }

    /// This case as its forward pass leaves it.
    fn saved(&self) -> Self {
        let moments = Some(self.forward().1);
        Case { moments, ..self.clone() }
    }

    fn backward(&self, sums: Option<&[f64]>) -> Gradients {
        let wants = [self.weight.is_some(), self.bias.is_some()];
        self.with_operands(None, |operands, dy| {
            let request = Request { wants, sums, ..Request::default() };
            backward(&Arc::default(), &self.problem, operands, dy, request).expect("memory")
        })
    }

    fn check_forward(&self, name: &str, tolerance: f64) {
        let (y, moments) = self.forward();
        close(name, &y, &self.expected_y(), tolerance);
        let expected: Vec<f64> =
            self.moments().iter().flat_map(|&[count, mean, m2]| [count, mean, 0.0, m2]).collect();
        let narrow = self.problem.dtype != DType::F64;
        close(name, &moments, &expected, if narrow { 1e-6 } else { 1e-12 });
    }

    /// Backward with the saved moments of a batch.
    fn check_backward(&self, name: &str, sums: Option<&[f64]>, tolerance: f64) {
        let grads = self.backward(sums);
        let [dx, dweight, dbias, daddend] = self.expected_gradients(sums);
        // Long sums of f32 terms that cancel.
        let of_sums = if self.problem.dtype == DType::F64 { 1e-11 } else { 1e-4 };
        close(&format!("{name} dx"), &grads.dx.convert::<f64>(), &dx, tolerance);
        assert_eq!(grads.dweight.is_some(), self.weight.is_some());
        if let Some(got) = grads.dweight {
            close(&format!("{name} dweight"), &got, &dweight, tolerance.max(of_sums));
        }
        assert_eq!(grads.dbias.is_some(), self.bias.is_some());
        if let Some(got) = grads.dbias {
            close(&format!("{name} dbias"), &got, &dbias, tolerance.max(of_sums));
        }
        let differs = self.problem.activation != Activation::None || self.problem.masked;
        let differs = differs && self.mask.as_ref().is_none_or(|mask| mask.contains(&0));
        assert_eq!(grads.daddend.is_some(), self.problem.addend && differs, "{name}");
        if let Some(got) = grads.daddend {
            close(&format!("{name} daddend"), &got.convert::<f64>(), &daddend, tolerance);
        }
    }
}

/// Equal up to `tolerance`, relative to values above 1.
fn close(name: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got == expected || (got.is_nan() && expected.is_nan());
        let near = (got - expected).abs() <= tolerance * expected.abs().max(1.0);
        assert!(same || near, "{name}[{i}]: {got} for {expected}");
    }
}

fn activate(activation: Activation, z: f64) -> f64 {
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    match activation {
        Activation::None => z,
        Activation::Relu => {
            if z.is_nan() {
                z
            } else {
                z.max(0.0)
            }
        }
        Activation::LeakyRelu(slope) => {
            if z > 0.0 {
                z
            } else {
                f64::from(slope) * z
            }
        }
        Activation::Silu => z * sigmoid(z),
        Activation::Gelu => z / 2.0 * (1.0 + libm::erf(z / 2f64.sqrt())),
        Activation::GeluTanh => {
            z / 2.0
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z.powi(3))).tanh())
        }
        Activation::Tanh => z.tanh(),
        Activation::Sigmoid => sigmoid(z),
    }
}

/// Its derivative, by a difference good to about 1e-12 (exact for the piecewise linear ones).
fn slope(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::None => 1.0,
        Activation::Relu => f64::from(u8::from(z > 0.0)),
        Activation::LeakyRelu(slope) => {
            if z > 0.0 {
                1.0
            } else {
                slope.into()
            }
        }
        _ => {
            let at =
                |h: f64| (activate(activation, z + h) - activate(activation, z - h)) / (2.0 * h);
            // Richardson's extrapolation, twice.
            let (a, b, c) = (at(4e-2), at(2e-2), at(1e-2));
            let (ab, bc) = ((4.0 * b - a) / 3.0, (4.0 * c - b) / 3.0);
            (16.0 * bc - ab) / 15.0
        }
    }
}

const ACTIVATIONS: [Activation; 8] = [
    Activation::None,
    Activation::Relu,
    Activation::LeakyRelu(0.1),
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Tanh,
    Activation::Sigmoid,
];

fn each_view(f: impl Fn(String, View, usize)) {
    for sizes in SIZES {
        for (name, view, params) in views(sizes) {
            f(format!("{name} {sizes:?}"), view, params);
        }
    }
}

/// In f64, and in lanes of f32.
const ARITHMETIC: [(DType, f64); 2] = [(DType::F64, 1e-12), (DType::F32, 5e-6)];

#[test]
fn every_view_forward() {
    for (dtype, tolerance) in ARITHMETIC {
        each_view(|name, view, params| {
            let case = Case::new(view, params).rounded(dtype);
            case.check_forward(&name, tolerance);
            let bare = Problem { weight: false, bias: false, ..case.problem };
            Case { problem: bare, weight: None, bias: None, ..case.clone() }
                .check_forward(&name, tolerance);
            let uncentered = Problem { centered: false, bias: false, ..case.problem };
            let case = Case { problem: uncentered, bias: None, ..case };
            case.check_forward(&name, tolerance);
            case.with_addend().rounded(dtype).check_forward(&name, tolerance);
        });
    }
}

#[test]
fn every_view_backward() {
    for (dtype, tolerance) in ARITHMETIC {
        each_view(|name, view, params| {
            let case = Case::new(view, params).rounded(dtype).saved();
            case.check_backward(&name, None, tolerance);
            let weight = Problem { bias: false, ..case.problem };
            Case { problem: weight, bias: None, ..case.clone() }
                .check_backward(&name, None, tolerance);
            let bias = Problem { weight: false, ..case.problem };
            Case { problem: bias, weight: None, ..case.clone() }
                .check_backward(&name, None, tolerance);
            let problem = Problem { centered: false, ..case.problem };
            Case { problem, ..case }.saved().check_backward(&name, None, tolerance);
        });
    }
}

/// Results of many bytes are written past the caches, from cache lines on that begin anywhere.
#[test]
fn large_results() {
    let all = [(DType::F32, 1e-5), (DType::BF16, 8e-3)];
    for (channels, len, dtypes) in [
        (3, 400_003, &all[..]),
        (1024, 1031, &all),
        // y too, see `STREAM`.
        (3, 1_400_003, &all[..1]),
        (1024, 4111, &all[..1]),
    ] {
        for &(dtype, tolerance) in dtypes {
            let sizes = Sizes { n: 1, c: channels, g: 1, a: 1, b: len };
            for (name, view, params) in views(sizes).into_iter().take(2) {
                let case = Case::new(view, params).rounded(dtype);
                case.check_forward(name, tolerance);
                case.saved().check_backward(name, None, tolerance);
                let with = |activation| {
                    let problem = Problem { activation, ..case.problem };
                    Case { problem, ..case.clone() }.with_addend().rounded(dtype)
                };
                with(Activation::Relu).check_forward(name, tolerance);
                // Among millions one is too near to ReLU's kink.
                with(Activation::Silu).saved().check_backward(name, None, tolerance);
            }
        }
    }
}

#[test]
fn every_activation_with_an_addend() {
    for activation in ACTIVATIONS {
        each_view(|name, view, params| {
            if view.elements() > 20_000 {
                return;
            }
            let name = format!("{activation:?} {name}");
            let mut case = Case::new(view, params).with_addend();
            case.problem.activation = activation;
            case.check_forward(&name, 1e-13);
            case.saved().check_backward(&name, None, 1e-9);
        });
    }
}

#[test]
fn masks_leave_out() {
    each_view(|name, view, params| {
        if view.mask == [0; 4] {
            return;
        }
        let mut case = Case::new(view, params).with_addend().with_mask();
        // What a mask leaves out is never read into a result.
        for group in case.groups() {
            for (at, ..) in group.into_iter().filter(|(.., counts)| !counts) {
                case.x[at] = f64::NAN;
                case.addend.as_mut().unwrap()[at] = f64::INFINITY;
                case.dy[at] = f64::NAN;
            }
        }
        case.check_forward(&name, 1e-13);
        case.saved().check_backward(&name, None, 1e-12);
        case.problem.activation = Activation::Sigmoid;
        case.check_forward(&name, 1e-13);
        case.saved().check_backward(&name, None, 1e-9);

        // One that counts everything changes no bit.
        let full = Case::new(view, params).with_addend();
        let masked = Case {
            problem: Problem { masked: true, ..full.problem },
            mask: case.mask.map(|mask| vec![1; mask.len()]),
            ..full.clone()
        };
        assert_eq!(full.forward(), masked.forward());
        let [full, masked] = [full, masked].map(|case| case.saved().backward(None));
        assert_eq!(full.dx.convert::<f64>(), masked.dx.convert::<f64>());
        assert_eq!((full.dweight, full.dbias), (masked.dweight, masked.dbias));
    });
}

#[test]
fn running_and_given_statistics() {
    each_view(|name, view, params| {
        for (source, stat) in [
            (StatSource::Running, [0, 1, 0, 0]),
            (StatSource::Given { differentiable: true, parts: 1 }, view.stat),
            (StatSource::Given { differentiable: false, parts: 1 }, view.stat),
        ] {
            let mut case = Case::new(View { stat, ..view }, params).with_addend();
            case.problem.source = source;
            case.problem.activation = Activation::Tanh;
            let statistics = case.problem.view.statistics() as usize;
            let given = noise(statistics, 7);
            let moments = |v: &f64| match source {
                StatSource::Running => [1.0, 3.0 + v, 0.0, 1.5 + v.abs()],
                _ => [40.0, 3.0, v * 0.1, 40.0 + v.abs()],
            };
            case.moments = Some(given.iter().flat_map(moments).collect());
            let running = match source {
                StatSource::Running => {
                    let (mean, var) = given.iter().map(moments).map(|m| (m[1], m[3])).unzip();
                    Some(Mutex::new(HostRunning { mean, var, tracked: 0, dtype: DType::F32 }))
                }
                _ => None,
            };
            let (y, moments) = case.with_operands(running.as_ref(), |operands, _| {
                let (y, moments) = forward(&case.problem, operands);
                (y.convert::<f64>(), moments)
            });
            close(&name, &y, &case.expected_y(), 1e-13);
            case.moments = Some(moments);
            close(&name, &case.forward_given_sums(), &case.expected_sums(), 1e-9);
            case.check_backward(&name, None, 1e-9);
            if source == (StatSource::Given { differentiable: true, parts: 1 }) {
                let sums: Vec<f64> = noise(statistics * 4, 8).iter().map(|v| 10.0 + v).collect();
                case.check_backward(&name, Some(&sums), 1e-9);
            }
        }
    });
}

impl Case {
    fn forward_given_sums(&self) -> Vec<f64> {
        self.with_operands(None, |operands, dy| group_sums(&self.problem, operands, dy))
    }
}

#[test]
fn every_element_type() {
    for (dtype, tolerance) in
        [(DType::F32, 5e-6), (DType::F16, 1e-3), (DType::BF16, 8e-3), (DType::F64, 1e-13)]
    {
        // The last two have pixels of more elements than are converted together.
        let wide = [(4200, 1, 2), (4800, 8, 9)].map(|(c, g, b)| Sizes { n: 1, c, g, a: 1, b });
        for sizes in [SIZES[1], SIZES[5], wide[0], wide[1]] {
            for (name, view, params) in views(sizes) {
                let name = format!("{dtype} {name} {sizes:?}");
                let case = Case::new(view, params).rounded(dtype).saved();
                close(&name, &case.forward_given_sums(), &case.expected_sums(), 1e-4);
                case.check_backward(&name, None, tolerance);
                let mut case = Case::new(view, params).with_addend().rounded(dtype);
                case.check_forward(&name, tolerance);
                case.problem.activation = Activation::LeakyRelu(0.5);
                case.saved().check_backward(&name, None, tolerance);
            }
        }
    }
    // And with 16-bit parameters.
    let x = data(&[1.0, 2.0, 3.0, 4.0], DType::F16);
    let weight = HostData::F16(vec![f16::from_f32(2.0)].into());
    let bias = HostData::BF16(vec![bf16::from_f32(0.5)].into());
    let view = View {
        extent: [1, 1, 1, 4],
        data: [4, 4, 0, 1],
        param: [0, 1, 0, 0],
        stat: [1, 1, 0, 0],
        mask: [4, 0, 0, 1],
    };
    let operands = Operands {
        x: &x,
        addend: None,
        weight: Some(&weight),
        bias: Some(&bias),
        running: None,
        mask: None,
        moments: None,
    };
    let problem = Problem { weight: true, bias: true, ..Problem::new(view, DType::F16, 0.0) };
    let (y, _) = forward(&problem, &operands);
    let rstd = 1.0 / 1.25f64.sqrt();
    let expected = [-3.0, -1.0, 1.0, 3.0].map(|v| DType::F16.round(v * rstd + 0.5));
    assert_eq!(y.convert::<f64>(), expected);
}

/// Directions at random, all gradients at once: `Σ dy·(y(θ+hv) − y(θ−hv))/2h = Σ grad·v`.
#[test]
fn gradients_are_those_of_the_forward_pass() {
    for activation in ACTIVATIONS {
        for (name, view, params) in views(SIZES[1]).into_iter().chain(views(SIZES[4])) {
            for masked in [false, true] {
                if masked && view.mask == [0; 4] {
                    continue;
                }
                let mut case = Case::new(view, params).with_addend();
                case.problem.activation = activation;
                if masked {
                    case = case.with_mask();
                }
                let case = case;
                let loss = |case: &Case| {
                    case.forward().0.iter().zip(&case.dy).map(|(y, dy)| y * dy).sum::<f64>()
                };
                let saved = case.saved();
                let grads = saved.backward(None);
                let daddend =
                    grads.daddend.map_or(case.dy.clone(), |daddend| daddend.convert::<f64>());
                let v = [
                    noise(case.x.len(), 11),
                    noise(params, 12),
                    noise(params, 13),
                    noise(case.x.len(), 14),
                ];
                let moved = |h: f64| {
                    let add = |to: &mut Vec<f64>, v: &Vec<f64>| {
                        to.iter_mut().zip(v).for_each(|(to, v)| *to += h * v);
                    };
                    let mut case = case.clone();
                    add(&mut case.x, &v[0]);
                    add(case.weight.as_mut().unwrap(), &v[1]);
                    add(case.bias.as_mut().unwrap(), &v[2]);
                    add(case.addend.as_mut().unwrap(), &v[3]);
                    loss(&case)
                };
                let h = 1e-6;
                let difference = (moved(h) - moved(-h)) / (2.0 * h);
                let all = [
                    grads.dx.convert::<f64>(),
                    grads.dweight.unwrap(),
                    grads.dbias.unwrap(),
                    daddend,
                ];
                let product: f64 =
                    all.iter().flatten().zip(v.iter().flatten()).map(|(g, v)| g * v).sum();
                let scale = all.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
                assert!(
                    (difference - product).abs() < 1e-6 * scale.max(1.0),
                    "{activation:?} {name} masked {masked}: {difference} for {product}"
                );
            }
        }
    }
}

#[test]
fn constants_give_exactly_the_bias() {
    each_view(|name, view, params| {
        for eps in [0.0, 1e-5] {
            let mut case = Case::new(view, params);
            case.problem.eps = eps;
            case.x.fill(0.1);
            let (y, moments) = case.forward();
            for (at, param, _) in case.groups().into_iter().flatten() {
                assert_eq!(y[at], case.bias.as_ref().unwrap()[param], "{name}");
            }
            assert!(moments.chunks(4).all(|m| m[1..] == [0.1, 0.0, 0.0]), "{name}");
            let dx = case.saved().backward(None).dx.convert::<f64>();
            assert!(dx.iter().all(|v| v.is_finite() && (eps > 0.0 || *v == 0.0)), "{name}");
        }
    });
}

#[test]
fn what_is_not_finite_stays_in_its_group() {
    each_view(|name, view, params| {
        for bad in [f64::NAN, f64::INFINITY] {
            let clean = Case::new(view, params).saved();
            let groups = clean.groups();
            let at = groups.len() / 2;
            let mut case = clean.clone();
            let mut spoiled = vec![false; case.x.len()];
            groups[at].iter().for_each(|&(at, ..)| spoiled[at] = true);
            case.x[groups[at][groups[at].len() / 2].0] = bad;
            case.moments = None;
            let (y, moments) = case.forward();
            let (clean_y, _) = Case { moments: None, ..clean.clone() }.forward();
            if bad == f64::INFINITY {
                assert_eq!(moments[at * 4 + 1], bad, "{name}");
            }
            let case = case.saved();
            let [dx, clean_dx] = [case, clean].map(|case| case.backward(None).dx.convert::<f64>());
            for i in 0..y.len() {
                if spoiled[i] {
                    assert!(y[i].is_nan(), "{name}");
                } else {
                    assert_eq!((y[i], dx[i]), (clean_y[i], clean_dx[i]), "{name}");
                }
            }
        }
    });
}

#[test]
fn an_offset_costs_no_digits() {
    for (name, view, params) in views(SIZES[5]).into_iter().chain(views(SIZES[6])) {
        let mut case = Case::new(view, params);
        case.problem.eps = 0.0;
        // Numbers that stay exact when the offset is added.
        case.x.iter_mut().for_each(|v| *v = (*v * 1024.0).round() / 1024.0);
        let (near, _) = case.forward();
        case.x.iter_mut().for_each(|v| *v += 1048576.0);
        let (far, _) = case.forward();
        // Half a unit in the last place of the mean, over the spread.
        close(name, &far, &near, 1e-9);
    }
}

#[test]
fn statistics_of_parts_merge_to_the_whole() {
    let row = |len: u32| View {
        extent: [1, 1, 1, len],
        data: [0, 0, 0, 1],
        param: [0; 4],
        stat: [0, 1, 0, 0],
        mask: [0; 4],
    };
    let of = |x: &[f64]| {
        let case = Case { x: x.to_vec(), ..Case::new(row(x.len() as u32), 1) };
        case.with_operands(None, |operands, _| statistics(&case.problem, operands))
    };
    let x: Vec<f64> = noise(40_000, 21).iter().map(|v| v + 100.0).collect();
    let (a, b) = x.split_at(13_001);
    let merged = merge(&of(a), &of(b), ops::Merge::Moments);
    close("merged", &merged, &of(&x), 1e-14);
    let nothing = [0.0; 4];
    assert_eq!(merge(&of(a), &nothing, ops::Merge::Moments), of(a));
    assert_eq!(merge(&nothing, &of(a), ops::Merge::Moments), of(a));
    let constant = of(&[0.3; 1001]);
    let twice = merge(&constant, &of(&[0.3; 7]), ops::Merge::Moments);
    assert_eq!(twice, [1008.0, 0.3, 0.0, 0.0]);
    // A residual is part of the mean.
    let split = merge(&[1.0, 2.0, 0.25, 0.0], &[1.0, 3.0, -0.75, 0.0], ops::Merge::Moments);
    assert_eq!(split, [2.0, 2.25, 0.0, 0.0]);
    let sums = merge(&[1.0, 2.0, 3.0, 0.0], &[4.0, 5.0, 6.0, 0.0], ops::Merge::Sums);
    assert_eq!(sums, [5.0, 7.0, 9.0, 0.0]);
}

fn updated(case: &Case, update: RunningUpdate, running: HostRunning) -> HostRunning {
    let running = Mutex::new(running);
    let problem = Problem { update: Some(update), ..case.problem };
    case.with_operands(Some(&running), |operands, _| forward(&problem, operands));
    running.into_inner().unwrap()
}

#[test]
fn running_statistics_follow() {
    let (_, view, params) = views(SIZES[4]).swap_remove(0);
    let case = Case::new(view, params).with_mask();
    let fresh = |c: usize| HostRunning {
        mean: vec![0.5; c],
        var: vec![1.0; c],
        tracked: 3,
        dtype: DType::F32,
    };
    for momentum in [Momentum::Factor(0.25), Momentum::Cumulative, Momentum::Frozen] {
        for estimator in [Estimator::Unbiased, Estimator::Biased] {
            for counts in [true, momentum == Momentum::Cumulative] {
                let update = RunningUpdate { momentum, estimator, counts };
                let got = updated(&case, update, fresh(6));
                assert_eq!(got.tracked, 3 + u32::from(counts));
                let factor = match momentum {
                    Momentum::Factor(factor) => factor,
                    Momentum::Cumulative => 0.25,
                    Momentum::Frozen => 0.0,
                };
                for c in 0..6 {
                    // The first sample has nothing, the second one value.
                    let groups: Vec<_> = case
                        .moments()
                        .into_iter()
                        .skip(c)
                        .step_by(6)
                        .filter(|m| m[0] > 0.0)
                        .collect();
                    assert_eq!((groups.len(), groups[0][0]), (3, 1.0));
                    let mean = groups.iter().map(|m| m[1]).sum::<f64>() / 3.0;
                    let var = |&[count, _, m2]: &[f64; 3]| match estimator {
                        Estimator::Biased => m2 / count,
                        Estimator::Unbiased if count == 1.0 => 0.0,
                        Estimator::Unbiased => m2 / (count - 1.0),
                    };
                    let var = groups.iter().map(var).sum::<f64>() / 3.0;
                    let blend = |old, new| f64::from(((1.0 - factor) * old + factor * new) as f32);
                    close("mean", &[got.mean[c]], &[blend(0.5, mean)], 1e-7);
                    close("var", &[got.var[c]], &[blend(1.0, var)], 1e-7);
                    assert_eq!(DType::F32.round(got.mean[c]), got.mean[c]);
                }
            }
        }
    }
    // A channel in which nothing counts stays, and so do all without elements or with none that counts. The
    // step is counted, as PyTorch counts empty batches.
    let nothing = Case { mask: case.mask.as_ref().map(|m| vec![0; m.len()]), ..case.clone() };
    let update = RunningUpdate {
        momentum: Momentum::Factor(0.25),
        estimator: Estimator::Unbiased,
        counts: true,
    };
    let got = updated(&nothing, update, fresh(6));
    assert_eq!((got.mean, got.var, got.tracked), (vec![0.5; 6], vec![1.0; 6], 4));
    let empty = Case::new(View { extent: [0, 6, 1, 33], ..view }, params);
    let got = updated(&empty, update, fresh(6));
    assert_eq!((got.mean, got.var, got.tracked), (vec![0.5; 6], vec![1.0; 6], 4));
}

#[test]
fn nothing_gives_nothing() {
    let (_, view, params) = views(SIZES[1]).swap_remove(0);
    for extent in [[0, 0, 0, 0], [0, 6, 1, 5], [2, 6, 1, 0]] {
        let mut case = Case::new(View { extent, ..view }, params).with_addend();
        case.problem.activation = Activation::Relu;
        let (y, moments) = case.forward();
        assert!(y.is_empty() && moments.iter().all(|v| *v == 0.0));
        let case = case.saved();
        let grads = case.backward(None);
        assert!(grads.dx.convert::<f64>().is_empty());
        assert!(grads.daddend.unwrap().convert::<f64>().is_empty());
        assert_eq!(grads.dweight, Some(vec![0.0; params]));
        assert_eq!(grads.dbias, Some(vec![0.0; params]));
        assert_eq!(case.forward_given_sums(), vec![0.0; case.problem.view.groups() as usize * 4]);
    }
}

#[test]
fn styles_and_their_gradients() {
    for (name, view, _) in views(SIZES[1]).into_iter().take(2) {
        for estimator in [Estimator::Unbiased, Estimator::Biased] {
            let case = Case::new(View { param: [0; 4], ..view }, 1);
            let problem = Problem { weight: false, bias: false, ..case.problem };
            let case = Case { problem, weight: None, bias: None, ..case };
            let groups = view.groups() as usize;
            let (dsigma, dmu) = (noise(groups, 31), noise(groups, 32));
            let tables = |case: &Case| {
                let moments =
                    case.with_operands(None, |operands, _| statistics(&case.problem, operands));
                let tables = style_tables(&moments, problem.eps, estimator);
                (tables, moments)
            };
            let ((sigma, mu), moments) = tables(&case);
            for (g, [count, mean, m2]) in case.moments().into_iter().enumerate() {
                let freedom = if estimator == Estimator::Biased { count } else { count - 1.0 };
                close(name, &[sigma[g], mu[g]], &[(m2 / freedom + 1e-3).sqrt(), mean], 1e-13);
            }
            let loss = |case: &Case| {
                let ((sigma, mu), _) = tables(case);
                let sigma = sigma.iter().zip(&dsigma).map(|(v, d)| v * d).sum::<f64>();
                sigma + mu.iter().zip(&dmu).map(|(v, d)| v * d).sum::<f64>()
            };
            let style = data(&case.x, DType::F64);
            let grad = {
                let tables: [&[f64]; 2] = [&dsigma, &dmu];
                style_gradient(&Arc::default(), &problem, &style, &moments, tables, estimator)
                    .expect("memory")
            };
            for (i, grad) in grad.convert::<f64>().into_iter().enumerate() {
                let moved = |h: f64| {
                    let mut case = case.clone();
                    case.x[i] += h;
                    loss(&case)
                };
                let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((difference - grad).abs() < 1e-8, "{name}: {difference} for {grad}");
            }
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
fn the_number_of_threads_changes_no_bit() {
    let sizes = Sizes { n: 3, c: 40, g: 8, a: 37, b: 29 };
    for (name, view, params) in views(sizes) {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let case = Case::new(view, params);
                let grads = case.saved().backward(None);
                (case.forward(), grads.dx.convert::<f64>(), grads.dweight, grads.dbias)
            })
        };
        assert!(run(1) == run(3), "{name}");
    }
}
