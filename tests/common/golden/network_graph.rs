//! The network of op `network` around its norms: convolutions, ReLU, a linear layer, in plain f64
//! loops.
//!
//! stem → norm1 → ReLU (skip) → block.0 → block.1 → block.2 (ReLU) → block.3 → block.4 → + skip →
//! norm2 → mean of squares over space → head.0 → head.1 → head.2

use super::index::Golden;
use crate::common::data;
use std::collections::BTreeMap;
use wgnorm::{DType, Mode};

/// Values under the names that the recording has for them: `norm1.in`, `grad.stem.weight`.
pub type Values = BTreeMap<String, Vec<f64>>;

/// The gradients that a norm's backward pass gives: of its input, and as far as it has them of weight
/// and bias.
pub struct Gradients {
    pub dx: Vec<f64>,
    pub dweight: Option<Vec<f64>>,
    pub dbias: Option<Vec<f64>>,
}

/// The norms of a network, by name. They remember their latest forward pass.
pub trait Norms {
    fn forward(&mut self, name: &'static str, x: &[f64], mode: Mode) -> Result<Vec<f64>, String>;
    fn backward(&self, name: &'static str, dy: &[f64]) -> Result<Gradients, String>;
    /// `after.norm1.running_mean`, and so on.
    fn state(&self) -> Result<Values, String>;
}

/// What a leaf is given instead of an input that was computed.
pub type Given<'a> = &'a dyn Fn(&str, Vec<f64>) -> Result<Vec<f64>, String>;

/// Everything but the norms.
pub struct Graph {
    /// Shapes and values of the convolutions' and the linear layer's parameters.
    parameters: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    pub samples: usize,
    /// Height and width of the maps.
    pub space: [usize; 2],
    /// What every leaf's output is rounded to.
    stored: DType,
}

/// A forward pass: every leaf's input, what it was given instead, its output.
pub struct Pass {
    pub leaves: Values,
    given: Values,
}

impl Graph {
    pub fn load(golden: &Golden, file: &str, x: &[usize], stored: DType) -> Result<Graph, String> {
        let mut parameters = BTreeMap::new();
        let [samples, mut channels, h, w] = *x else { return Err("x is not NCHW".into()) };
        let trunk = ["stem", "block.0", "block.3", "head.2"];
        for leaf in trunk {
            for part in ["weight", "bias"] {
                let name = format!("{leaf}.{part}");
                if golden.file(file)?.names().contains(&&*name) {
                    let shape = golden.tensor(file, &name)?.shape().to_vec();
                    parameters.insert(name.clone(), (shape, golden.values(file, &name)?));
                }
            }
            // Each reads what the one before wrote.
            let weight = parameters.get(&format!("{leaf}.weight")).ok_or(format!("no {leaf}"))?;
            channels = match weight.0[..] {
                [outputs, inputs, height, width] if inputs == channels && height == width => {
                    outputs
                }
                [outputs, inputs] if inputs == channels => outputs,
                ref shape => {
                    return Err(format!("{leaf} of shape {shape:?} reads {channels} channels"));
                }
            };
        }
        if parameters["stem.weight"].0[0] != parameters["block.3.weight"].0[0] {
            return Err("what is added has other channels".into());
        }
        Ok(Graph { parameters, samples, space: [h, w], stored })
    }

    fn conv(&self, leaf: &str) -> Conv<'_> {
        let (shape, weight) = &self.parameters[&format!("{leaf}.weight")];
        let (n, [h, w]) = (self.samples, self.space);
        Conv { n, inputs: shape[1], outputs: shape[0], h, w, side: shape[2], weight }
    }

    fn bias(&self, leaf: &str) -> Option<&[f64]> {
        self.parameters.get(&format!("{leaf}.bias")).map(|(_, values)| values.as_slice())
    }

    /// Every leaf's input and output, and the result.
    pub fn forward(
        &self,
        norms: &mut dyn Norms,
        given: Given<'_>,
        x: &[f64],
        mode: Mode,
    ) -> Result<Pass, String> {
        let (mut leaves, mut inputs) = (Values::new(), Values::new());
        let mut leaf = |name: &'static str, input: Vec<f64>| -> Result<Vec<f64>, String> {
            let own = data::rounded(self.stored, &input);
            let x = given(name, own.clone())?;
            let output = match name {
                "stem" | "block.0" | "block.3" => self.conv(name).forward(&x, self.bias(name)),
                "block.2" => relu(&x),
                "head.2" => self.linear(&x),
                norm => norms.forward(norm, &x, mode)?,
            };
            let output = data::rounded(self.stored, &output);
            leaves.insert(format!("{name}.in"), own);
            leaves.insert(format!("{name}.out"), output.clone());
            inputs.insert(name.to_owned(), x);
            Ok(output)
        };
        let stem = leaf("stem", x.to_vec())?;
        let skip = relu(&leaf("norm1", stem)?);
        let mut d = skip.clone();
        for name in ["block.0", "block.1", "block.2", "block.3", "block.4"] {
            d = leaf(name, d)?;
        }
        // The skip as block.0 was given it.
        let skip = given("block.0", skip)?;
        let norm2 = leaf("norm2", d.iter().zip(&skip).map(|(a, b)| a + b).collect())?;
        let [h, w] = self.space;
        let squares = |plane: &[f64]| plane.iter().map(|v| v * v).sum::<f64>() / plane.len() as f64;
        d = norm2.chunks(h * w).map(squares).collect();
        for name in ["head.0", "head.1", "head.2"] {
            d = leaf(name, d)?;
        }
        leaves.insert("out".into(), d);
        Ok(Pass { leaves, given: inputs })
    }

    /// The gradients of Σ out·dout.
    pub fn backward(&self, norms: &dyn Norms, pass: &Pass, dout: &[f64]) -> Result<Values, String> {
        let mut gradients = Values::new();
        let mut back = |name: &'static str, dy: &[f64]| -> Result<Vec<f64>, String> {
            let x = &pass.given[name];
            let Gradients { dx, dweight, dbias } = match name {
                "stem" | "block.0" | "block.3" => self.conv(name).backward(x, dy),
                "block.2" => relu_backward(x, dy),
                "head.2" => self.linear_backward(x, dy),
                norm => norms.backward(norm, dy)?,
            };
            let is_conv = matches!(name, "stem" | "block.0" | "block.3");
            let has_bias = !is_conv || self.bias(name).is_some();
            for (part, gradient) in [("weight", dweight), ("bias", dbias.filter(|_| has_bias))] {
                if let Some(gradient) = gradient {
                    gradients.insert(format!("grad.{name}.{part}"), gradient);
                }
            }
            Ok(dx)
        };
        let mut d = dout.to_vec();
        for name in ["head.2", "head.1", "head.0"] {
            d = back(name, &d)?;
        }
        // Through the mean of squares.
        let positions = self.space[0] * self.space[1];
        let of_square = |(i, v): (usize, &f64)| 2.0 * v * d[i / positions] / positions as f64;
        let d: Vec<f64> = pass.leaves["norm2.out"].iter().enumerate().map(of_square).collect();
        let dsum = back("norm2", &d)?;
        let mut d = dsum.clone();
        for name in ["block.4", "block.3", "block.2", "block.1", "block.0"] {
            d = back(name, &d)?;
        }
        let dskip: Vec<f64> = d.iter().zip(&dsum).map(|(a, b)| a + b).collect();
        let d = relu_backward(&pass.leaves["norm1.out"], &dskip).dx;
        let d = back("norm1", &d)?;
        let d = back("stem", &d)?;
        gradients.insert("grad.x".into(), d);
        Ok(gradients)
    }

    fn linear(&self, x: &[f64]) -> Vec<f64> {
        let (shape, weight) = &self.parameters["head.2.weight"];
        let bias = self.bias("head.2").map_or_else(|| vec![0.0; shape[0]], <[f64]>::to_vec);
        let mut out = Vec::new();
        for row in x.chunks(shape[1]) {
            for (weights, bias) in weight.chunks(shape[1]).zip(&bias) {
                out.push(bias + row.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>());
            }
        }
        out
    }

    fn linear_backward(&self, x: &[f64], dy: &[f64]) -> Gradients {
        let (shape, weight) = &self.parameters["head.2.weight"];
        let (outputs, features) = (shape[0], shape[1]);
        let mut dx = vec![0.0; x.len()];
        let mut dweight = vec![0.0; weight.len()];
        let mut dbias = vec![0.0; outputs];
        for (i, dy) in dy.iter().enumerate() {
            let (row, output) = (i / outputs, i % outputs);
            dbias[output] += dy;
            for feature in 0..features {
                dweight[output * features + feature] += dy * x[row * features + feature];
                dx[row * features + feature] += dy * weight[output * features + feature];
            }
        }
        let dbias = self.bias("head.2").map(|_| dbias);
        Gradients { dx, dweight: Some(dweight), dbias }
    }
}

fn relu(x: &[f64]) -> Vec<f64> {
    x.iter().map(|v| v.max(0.0)).collect()
}

fn relu_backward(x: &[f64], dy: &[f64]) -> Gradients {
    let dx = x.iter().zip(dy).map(|(&v, &d)| if v > 0.0 { d } else { 0.0 }).collect();
    Gradients { dx, dweight: None, dbias: None }
}

/// A convolution that keeps the size: stride 1, odd square kernel, padded with zeros.
struct Conv<'a> {
    n: usize,
    inputs: usize,
    outputs: usize,
    h: usize,
    w: usize,
    side: usize,
    weight: &'a [f64],
}

impl Conv<'_> {
    /// Every product: indices of y, of the weight, of x.
    fn products(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let &Conv { n, inputs, outputs, h, w, side, .. } = self;
        let kernel = side * side;
        (0..n * outputs * h * w * inputs * kernel).filter_map(move |i| {
            let (y, tap) = (i / (inputs * kernel), i % (inputs * kernel));
            let (input, row, column) = (tap / kernel, tap % kernel / side, tap % side);
            let (sample, output, at) = (y / (outputs * h * w), y / (h * w) % outputs, y % (h * w));
            let row = (at / w + row).checked_sub(side / 2).filter(|&row| row < h)?;
            let column = (at % w + column).checked_sub(side / 2).filter(|&column| column < w)?;
            let x = ((sample * inputs + input) * h + row) * w + column;
            Some((y, output * inputs * kernel + tap, x))
        })
    }

    fn forward(&self, x: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
        let plane = self.h * self.w;
        let bias = |y: usize| bias.map_or(0.0, |bias| bias[y / plane % self.outputs]);
        let mut out: Vec<f64> = (0..self.n * self.outputs * plane).map(bias).collect();
        for (y, weight, input) in self.products() {
            out[y] += self.weight[weight] * x[input];
        }
        out
    }

    fn backward(&self, x: &[f64], dy: &[f64]) -> Gradients {
        let mut dx = vec![0.0; x.len()];
        let mut dweight = vec![0.0; self.weight.len()];
        let mut dbias = vec![0.0; self.outputs];
        for (y, weight, input) in self.products() {
            dx[input] += self.weight[weight] * dy[y];
            dweight[weight] += x[input] * dy[y];
        }
        for (y, d) in dy.iter().enumerate() {
            dbias[y / (self.h * self.w) % self.outputs] += d;
        }
        Gradients { dx, dweight: Some(dweight), dbias: Some(dbias) }
    }
}
