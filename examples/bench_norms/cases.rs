//! What is timed.

use wgnorm::{
    Affine, BatchNorm2d, Context, DType, Error, FusedBatchNorm2d, GroupNorm, InstanceNorm2d,
    LayerNorm, MemoryOrder, Mode, NormLayer, RmsNorm,
};

#[derive(Clone, Copy, PartialEq)]
pub enum Op {
    InstanceNorm,
    InstanceNormBackward,
    BatchNormTrain,
    BatchNormEval,
    FusedBatchNormRelu,
    GroupNorm,
    LayerNormRows,
    RmsNorm,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::InstanceNorm => "in_fwd",
            Op::InstanceNormBackward => "in_bwd",
            Op::BatchNormTrain => "bn_train_fwd",
            Op::BatchNormEval => "bn_eval_fwd",
            Op::FusedBatchNormRelu => "fused_bn_relu_fwd",
            Op::GroupNorm => "gn_fwd",
            Op::LayerNormRows => "ln_fwd_rows",
            Op::RmsNorm => "rms_fwd",
        }
    }
}

pub struct Case {
    pub op: Op,
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
        match self.dtype {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            _ => "f64",
        }
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

    pub fn is_backward(&self) -> bool {
        self.op == Op::InstanceNormBackward
    }

    /// Bytes that must be moved: x and y, or x, dy and dx.
    pub fn floor_bytes(&self) -> usize {
        self.bytes() * if self.is_backward() { 3 } else { 2 }
    }

    pub fn mode(&self) -> Mode {
        if self.op == Op::BatchNormEval { Mode::Eval } else { Mode::Train }
    }

    pub fn layer(&self, context: &Context) -> Result<Box<dyn NormLayer>, Error> {
        let channels = self.shape[1];
        Ok(match self.op {
            Op::InstanceNorm | Op::InstanceNormBackward => {
                Box::new(InstanceNorm2d::config(channels).with_affine(Affine::Both).init(context)?)
            }
            Op::BatchNormTrain | Op::BatchNormEval => {
                Box::new(BatchNorm2d::config(channels).init(context)?)
            }
            Op::FusedBatchNormRelu => Box::new(FusedBatchNorm2d::config(channels).init(context)?),
            Op::GroupNorm => {
                // As many groups as divide the channels, 32 at most.
                let groups = (1..=32).rev().find(|g| channels.is_multiple_of(*g)).unwrap_or(1);
                Box::new(GroupNorm::config(groups, channels).init(context)?)
            }
            Op::LayerNormRows => Box::new(LayerNorm::config([channels]).init(context)?),
            Op::RmsNorm => Box::new(RmsNorm::config([channels]).init(context)?),
        })
    }
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

pub fn cases() -> Vec<Case> {
    let plane_ops = [
        Op::InstanceNorm,
        Op::InstanceNormBackward,
        Op::BatchNormTrain,
        Op::BatchNormEval,
        Op::FusedBatchNormRelu,
        Op::GroupNorm,
    ];
    let plain =
        |op, shape| Case { op, shape, dtype: DType::F32, order: MemoryOrder::ChannelsFirst };
    let mut cases = Vec::new();
    for op in plane_ops {
        cases.extend(PLANES.map(|shape| plain(op, shape)));
    }
    for op in [Op::LayerNormRows, Op::RmsNorm] {
        cases.extend(ROWS.map(|shape| plain(op, shape)));
    }
    for op in plane_ops {
        cases.extend(OTHERS.map(|shape| Case { dtype: DType::F16, ..plain(op, shape) }));
        let order = MemoryOrder::ChannelsLast;
        cases.extend(OTHERS.map(|shape| Case { order, ..plain(op, shape) }));
    }
    cases
}
