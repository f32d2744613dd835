//! Networks as data: stages, each a convolution and what follows it. Both executors walk such lists, so that an
//! architecture is written down once. The transformer net's is here, sixteen stages; AdaIn's two are in `adain.rs`.
//!
//! Johnson, Alahi, Fei-Fei 2016 (arXiv:1603.08155) with instance normalization (arXiv:1607.08022) and
//! nearest-neighbour upsampling before the convolution instead of transposed convolutions.

/// Height and width of a picture or of an activation, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Size {
    /// `height` rows of `width` elements.
    pub fn new(height: usize, width: usize) -> Size {
        Size { height, width }
    }

    /// How many elements one channel has.
    pub fn area(self) -> usize {
        self.height * self.width
    }
}

impl std::fmt::Display for Size {
    /// Width first, as people name picture sizes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The shape of a convolution: nearest-neighbour upsampling, then reflection padding by `kernel / 2`, then the
/// convolution with `stride`. The kernel is square and its side odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Side of the kernel: 1, 3 or 9 in these networks.
    pub kernel: usize,
    /// Distance of neighbouring outputs in the (upsampled) input.
    pub stride: usize,
    /// How often each input row and column is repeated before the convolution.
    pub upsample: usize,
}

impl Geometry {
    /// The size that comes out for an input of `size`: `ceil(side · upsample / stride)`.
    pub fn output(&self, size: Size) -> Size {
        let side = |n: usize| (n * self.upsample).div_ceil(self.stride);
        Size::new(side(size.height), side(size.width))
    }

    /// Reflection needs as many elements *beside* the edge as the padding is wide, so the smallest input side is
    /// one more than the padding (before upsampling).
    pub fn smallest_side(&self) -> usize {
        (self.kernel / 2 + 1).div_ceil(self.upsample)
    }

    /// Products summed for one output element.
    pub fn depth(&self) -> usize {
        self.in_channels * self.kernel * self.kernel
    }

    /// Multiplications for an output of `size`: the measure of a stage's work.
    pub fn work(&self, size: Size) -> u64 {
        (self.depth() * self.out_channels) as u64 * size.area() as u64
    }
}

/// What follows a stage's convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Instance norm, then ReLU, fused.
    NormRelu,
    /// Instance norm, plus the input of the residual block (the stage *before* this one read it); no activation.
    NormAddBlockInput,
    /// ReLU.
    Relu,
    /// ReLU, then of each 2x2 elements the largest; a last odd row or column is left out.
    ReluPool,
    /// Nothing.
    Nothing,
}

impl Finish {
    /// Whether an instance norm follows.
    pub fn has_norm(self) -> bool {
        matches!(self, Finish::NormRelu | Finish::NormAddBlockInput)
    }

    /// Whether the convolution's output goes through ReLU directly.
    pub fn has_plain_relu(self) -> bool {
        matches!(self, Finish::Relu | Finish::ReluPool)
    }
}

/// Scale and shift of an instance norm, one value per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct NormWeights {
    /// `in1.weight`, …
    pub weight: Vec<f32>,
    /// `in1.bias`, …
    pub bias: Vec<f32>,
}

/// One stage: a convolution and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The convolution's name in the weights file, without `.conv2d.weight` or `.weight`.
    pub name: &'static str,
    /// Shape of the convolution.
    pub geometry: Geometry,
    /// `(out, in, kernel, kernel)`, rows contiguous.
    pub weight: Vec<f32>,
    /// One value per output channel.
    pub bias: Vec<f32>,
    /// The norm's parameters, exactly where `finish` has a norm.
    pub norm: Option<NormWeights>,
    /// What follows the convolution.
    pub finish: Finish,
}

impl Stage {
    /// The size that comes out for an input of `size`.
    pub fn output(&self, size: Size) -> Size {
        let convolved = self.geometry.output(size);
        match self.finish {
            Finish::ReluPool => Size::new(convolved.height / 2, convolved.width / 2),
            _ => convolved,
        }
    }
}

/// What comes out of a list of stages for an input of `size`.
pub(crate) fn output(stages: &[Stage], size: Size) -> Size {
    stages.iter().fold(size, |size, stage| stage.output(size))
}

/// Whether stage `index` reads what a later stage adds again.
pub(crate) fn opens_block(stages: &[Stage], index: usize) -> bool {
    stages.get(index + 1).is_some_and(|next| next.finish == Finish::NormAddBlockInput)
}

/// A line of the architecture: names, channels as multiples of the width (0 stands for the three colours), shape.
pub(crate) struct Line {
    pub conv: &'static str,
    pub norm: &'static str,
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    upsample: usize,
    pub finish: Finish,
}

impl Line {
    pub fn geometry(&self, width: usize) -> Geometry {
        let channels = |multiple| if multiple == 0 { 3 } else { multiple * width };
        Geometry {
            in_channels: channels(self.channels.0),
            out_channels: channels(self.channels.1),
            kernel: self.kernel,
            stride: self.stride,
            upsample: self.upsample,
        }
    }
}

pub(crate) const fn line(
    (conv, norm): (&'static str, &'static str),
    channels: (usize, usize),
    (kernel, stride, upsample): (usize, usize, usize),
    finish: Finish,
) -> Line {
    Line { conv, norm, channels, kernel, stride, upsample, finish }
}

/// The whole architecture. A residual block is two lines: its input is added after the second one's norm.
#[rustfmt::skip]
pub(crate) const ARCHITECTURE: [Line; 16] = {
    use Finish::{NormAddBlockInput, NormRelu, Nothing};
    [
        line(("conv1", "in1"),           (0, 1), (9, 1, 1), NormRelu),
        line(("conv2", "in2"),           (1, 2), (3, 2, 1), NormRelu),
        line(("conv3", "in3"),           (2, 4), (3, 2, 1), NormRelu),
        line(("res1.conv1", "res1.in1"), (4, 4), (3, 1, 1), NormRelu),
        line(("res1.conv2", "res1.in2"), (4, 4), (3, 1, 1), NormAddBlockInput),
        line(("res2.conv1", "res2.in1"), (4, 4), (3, 1, 1), NormRelu),
        line(("res2.conv2", "res2.in2"), (4, 4), (3, 1, 1), NormAddBlockInput),
        line(("res3.conv1", "res3.in1"), (4, 4), (3, 1, 1), NormRelu),
        line(("res3.conv2", "res3.in2"), (4, 4), (3, 1, 1), NormAddBlockInput),
        line(("res4.conv1", "res4.in1"), (4, 4), (3, 1, 1), NormRelu),
        line(("res4.conv2", "res4.in2"), (4, 4), (3, 1, 1), NormAddBlockInput),
        line(("res5.conv1", "res5.in1"), (4, 4), (3, 1, 1), NormRelu),
        line(("res5.conv2", "res5.in2"), (4, 4), (3, 1, 1), NormAddBlockInput),
        line(("deconv1", "in4"),         (4, 2), (3, 1, 2), NormRelu),
        line(("deconv2", "in5"),         (2, 1), (3, 1, 2), NormRelu),
        line(("deconv3", ""),            (1, 0), (9, 1, 1), Nothing),
    ]
};

/// A network with its weights, of any width. [`TransformerNet::from_safetensors`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerNet {
    pub(crate) width: usize,
    pub(crate) stages: Vec<Stage>,
}

/// The smallest picture side: the first convolution reflects four pixels beside the edge.
pub const SMALLEST_SIDE: usize = 5;

impl TransformerNet {
    /// Channels of the first stage; 32 in the original networks.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The stages in the order they run.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// What comes out for a picture of `size`: each side rounded up to a multiple of four.
    pub fn output(&self, size: Size) -> Size {
        output(&self.stages, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(mut size: Size) -> Vec<Size> {
        let next = |line: &Line| {
            size = line.geometry(8).output(size);
            size
        };
        ARCHITECTURE.iter().map(next).collect()
    }

    #[test]
    fn sides_come_out_rounded_up_to_multiples_of_four() {
        for (height, width) in [(97, 131), (128, 128), (5, 6), (7, 8)] {
            let up = |n: usize| n.div_ceil(4) * 4;
            assert_eq!(
                sizes(Size::new(height, width)).last(),
                Some(&Size::new(up(height), up(width)))
            );
        }
    }

    #[test]
    fn each_line_reads_the_channels_that_the_line_before_wrote() {
        let lines: Vec<_> = ARCHITECTURE.iter().map(|line| line.geometry(8)).collect();
        assert_eq!(lines[0].in_channels, 3);
        assert!(lines.windows(2).all(|pair| pair[0].out_channels == pair[1].in_channels));
        assert_eq!(lines[15].out_channels, 3);
    }

    #[test]
    fn the_smallest_side_is_enough_for_every_stage_and_one_less_is_not() {
        let fits = |side| {
            let inputs = std::iter::once(Size::new(side, side)).chain(sizes(Size::new(side, side)));
            ARCHITECTURE
                .iter()
                .zip(inputs)
                .all(|(line, input)| input.height >= line.geometry(8).smallest_side())
        };
        assert!(fits(SMALLEST_SIDE));
        assert!(!fits(SMALLEST_SIDE - 1));
    }
}
