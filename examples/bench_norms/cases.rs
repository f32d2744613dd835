//! What is timed.

use std::ops::DerefMut;
use wgnorm::{
    Activation, Affine, BatchNorm2d, Context, DType, Error, Extras, FusedBatchNorm2d, GroupNorm,
    InstanceNorm2d, LayerNorm, MemoryOrder, Mode, NormLayer, Parameters, RmsNorm, Tensor,
};

/// Of all layers.
pub const EPS: f64 = 1e-5;

#[derive(Clone, Copy, PartialEq)]
pub enum Op {
    InstanceNorm,
    InstanceNormRelu,
    InstanceNormBackward,
    BatchNormTrain,
    BatchNormEval,
    BatchNormBackward,
    FusedBatchNormRelu,
    GroupNorm,
    GroupNormBackward,
    LayerNorm,
    LayerNormBackward,
    RmsNorm,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::InstanceNorm => "in_fwd",
            Op::InstanceNormRelu => "in_relu_fwd",
            Op::InstanceNormBackward => "in_bwd",
            Op::BatchNormTrain => "bn_train_fwd",
            Op::BatchNormEval => "bn_eval_fwd",
            Op::BatchNormBackward => "bn_train_bwd",
            Op::FusedBatchNormRelu => "fused_bn_relu_fwd",
            Op::GroupNorm => "gn_fwd",
            Op::GroupNormBackward => "gn_bwd",
            Op::LayerNorm => "ln_fwd_rows",
            Op::LayerNormBackward => "ln_bwd_rows",
            Op::RmsNorm => "rms_fwd",
        }
    }

    pub fn is_backward(self) -> bool {
        use Op::{BatchNormBackward, GroupNormBackward, InstanceNormBackward, LayerNormBackward};
        matches!(
            self,
            InstanceNormBackward | BatchNormBackward | GroupNormBackward | LayerNormBackward
        )
    }

    pub fn has_relu(self) -> bool {
        matches!(self, Op::InstanceNormRelu | Op::FusedBatchNormRelu)
    }
}

pub struct Case {
    pub op: Op,
    /// (N, C, H, W), or rows of features.
    pub shape: &'static [usize],
    pub dtype: DType,
    pub order: MemoryOrder,
}

impl Case {
    pub fn name(&self) -> String {
        let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let (op, dtype, layout) = (self.op.name(), self.dtype_name(), self.layout_name());
        format!("{op} {} {dtype} {layout}", shape.join("x"))
    }

    pub fn dtype_name(&self) -> &'static str {
        if self.dtype == DType::F16 { "f16" } else { "f32" }
    }

    pub fn layout_name(&self) -> &'static str {
        match (self.order, self.shape.len()) {
            (MemoryOrder::ChannelsLast, _) => "nhwc",
            (_, 4) => "nchw",
            _ => "rows",
        }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Of x.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }

    /// Bytes that must be moved: x and y, or x, dy and dx.
    pub fn floor_bytes(&self) -> usize {
        self.bytes() * if self.op.is_backward() { 3 } else { 2 }
    }

    pub fn mode(&self) -> Mode {
        if self.op == Op::BatchNormEval { Mode::Eval } else { Mode::Train }
    }

    pub fn extras(&self) -> Extras<'static> {
        match self.op {
            Op::InstanceNormRelu => Extras::new().with_activation(Activation::Relu),
            _ => Extras::new(),
        }
    }

    /// Of GroupNorm: as many as divide the channels, 32 at most.
    pub fn groups(&self) -> usize {
        (1..=32).rev().find(|&groups| self.shape[1].is_multiple_of(groups)).unwrap_or(1)
    }

    pub fn layer(&self, context: &Context) -> Result<Box<dyn NormLayer>, Error> {
        let channels = self.shape[1];
        match self.op {
            Op::InstanceNorm | Op::InstanceNormRelu | Op::InstanceNormBackward => {
                let config = InstanceNorm2d::config(channels).with_eps(EPS);
                filled(config.with_affine(Affine::Both).init(context)?)
            }
            Op::BatchNormTrain | Op::BatchNormEval | Op::BatchNormBackward => {
                filled(BatchNorm2d::config(channels).with_eps(EPS).init(context)?)
            }
            Op::FusedBatchNormRelu => {
                filled(FusedBatchNorm2d::config(channels).with_eps(EPS).init(context)?)
            }
            Op::GroupNorm | Op::GroupNormBackward => {
                filled(GroupNorm::config(self.groups(), channels).with_eps(EPS).init(context)?)
            }
            Op::LayerNorm | Op::LayerNormBackward => {
                filled(LayerNorm::config([channels]).with_eps(EPS).init(context)?)
            }
            Op::RmsNorm => filled(RmsNorm::config([channels]).with_eps(EPS).init(context)?),
        }
    }
}

/// A value that tells parameters and channels apart; exact in all element types.
pub fn parameter(name: &str, channel: usize) -> f32 {
    let step = (channel % 8) as f32 / 8.0;
    match name {
        "weight" => 0.5 + step,
        "bias" => step - 0.25,
        "running_mean" => step,
        _ => 1.0 + step,
    }
}

fn filled<L>(mut layer: L) -> Result<Box<dyn NormLayer>, Error>
where
    L: NormLayer + DerefMut<Target = Parameters> + 'static,
{
    for (name, mut values) in layer.named_parameters_mut() {
        values.fill(|channel| parameter(name, channel))?;
    }
    let channels = layer.weight().map_or(0, |weight| weight.shape()[0]);
    for (name, mut values) in layer.named_buffers_mut() {
        let new = (0..channels).map(|channel| parameter(name, channel)).collect();
        values.set(&Tensor::from_vec([channels], new)?)?;
    }
    Ok(Box::new(layer))
}

const PLANES: [&[usize]; 8] = [
    &[1, 32, 256, 256],
    &[1, 64, 128, 128],
    &[4, 128, 64, 64],
    &[8, 256, 32, 32],
    &[20, 100, 35, 45],
    &[1, 3, 1080, 1920],
    &[1, 32, 1024, 1024],
    &[64, 512, 7, 7],
];
const ROWS: [&[usize]; 2] = [&[4096, 768], &[8192, 4096]];
/// Those that are also taken as f16 and channels last.
const OTHERS: [&[usize]; 4] =
    [&[1, 32, 256, 256], &[8, 256, 32, 32], &[1, 32, 1024, 1024], &[64, 512, 7, 7]];

const PLANE_OPS: [Op; 9] = [
    Op::InstanceNorm,
    Op::InstanceNormRelu,
    Op::InstanceNormBackward,
    Op::BatchNormTrain,
    Op::BatchNormEval,
    Op::BatchNormBackward,
    Op::FusedBatchNormRelu,
    Op::GroupNorm,
    Op::GroupNormBackward,
];
const ROW_OPS: [Op; 3] = [Op::LayerNorm, Op::LayerNormBackward, Op::RmsNorm];

pub fn cases() -> Vec<Case> {
    let plain =
        |op, shape| Case { op, shape, dtype: DType::F32, order: MemoryOrder::ChannelsFirst };
    let mut cases = Vec::new();
    for op in PLANE_OPS {
        cases.extend(PLANES.map(|shape| plain(op, shape)));
    }
    for op in ROW_OPS {
        cases.extend(ROWS.map(|shape| plain(op, shape)));
    }
    for op in PLANE_OPS {
        cases.extend(OTHERS.map(|shape| Case { dtype: DType::F16, ..plain(op, shape) }));
        let order = MemoryOrder::ChannelsLast;
        cases.extend(OTHERS.map(|shape| Case { order, ..plain(op, shape) }));
    }
    cases
}
