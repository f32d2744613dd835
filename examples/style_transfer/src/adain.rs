//! AdaIn as data: an encoder, a decoder, and between them one normalization that gives the content's features the mean
//! and the deviation of a style's. Any picture is a style; nothing is trained for it.
//!
//! Huang, Belongie 2017 (arXiv:1703.06868), on the layers of VGG-19 up to relu4_1 and their mirror image.

use crate::net::{Finish, Line, Size, Stage, line};

/// VGG-19 up to relu4_1, after a 1x1 convolution that turns RGB in 0..1 into what VGG was trained on. Channels are
/// multiples of the width, 64 in the original.
#[rustfmt::skip]
pub(crate) const ENCODER: [Line; 10] = {
    use Finish::{Nothing, Relu, ReluPool};
    [
        line(("conv0", ""),  (0, 0), (1, 1, 1), Nothing),
        line(("conv11", ""), (0, 1), (3, 1, 1), Relu),
        line(("conv12", ""), (1, 1), (3, 1, 1), ReluPool),
        line(("conv21", ""), (1, 2), (3, 1, 1), Relu),
        line(("conv22", ""), (2, 2), (3, 1, 1), ReluPool),
        line(("conv31", ""), (2, 4), (3, 1, 1), Relu),
        line(("conv32", ""), (4, 4), (3, 1, 1), Relu),
        line(("conv33", ""), (4, 4), (3, 1, 1), Relu),
        line(("conv34", ""), (4, 4), (3, 1, 1), ReluPool),
        line(("conv41", ""), (4, 8), (3, 1, 1), Relu),
    ]
};

/// The way back, to RGB in about 0..1.
#[rustfmt::skip]
pub(crate) const DECODER: [Line; 9] = {
    use Finish::Relu;
    [
        line(("conv41", ""), (8, 4), (3, 1, 1), Relu),
        line(("conv34", ""), (4, 4), (3, 1, 2), Relu),
        line(("conv33", ""), (4, 4), (3, 1, 1), Relu),
        line(("conv32", ""), (4, 4), (3, 1, 1), Relu),
        line(("conv31", ""), (4, 2), (3, 1, 1), Relu),
        line(("conv22", ""), (2, 2), (3, 1, 2), Relu),
        line(("conv21", ""), (2, 1), (3, 1, 1), Relu),
        line(("conv12", ""), (1, 1), (3, 1, 2), Relu),
        line(("conv11", ""), (1, 0), (3, 1, 1), Relu),
    ]
};

/// The smallest side of a picture or of a style: two elements are left of it at the encoder's end, and the decoder
/// reflects one beside the edge.
pub const ADAIN_SMALLEST_SIDE: usize = 16;

/// Encoder and decoder with their weights, of any width. [`AdaInNet::from_safetensors`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaInNet {
    pub(crate) width: usize,
    pub(crate) encoder: Vec<Stage>,
    pub(crate) decoder: Vec<Stage>,
}

impl AdaInNet {
    /// Channels after the first 3x3 convolution; 64 in the original networks.
    pub fn width(&self) -> usize {
        self.width
    }

    /// From a picture to its features.
    pub fn encoder(&self) -> &[Stage] {
        &self.encoder
    }

    /// From features to a picture.
    pub fn decoder(&self) -> &[Stage] {
        &self.decoder
    }

    /// The part of a picture that is painted: each side cut to a multiple of eight, which is what three poolings keep.
    pub fn output(size: Size) -> Size {
        Size::new(size.height / 8 * 8, size.width / 8 * 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_reads_the_channels_that_the_line_before_wrote() {
        let lines = ENCODER.iter().chain(&DECODER).map(|line| line.geometry(16));
        let lines: Vec<_> = lines.collect();
        assert_eq!((lines[0].in_channels, lines[18].out_channels), (3, 3));
        assert!(lines.windows(2).all(|pair| pair[0].out_channels == pair[1].in_channels));
    }

    #[test]
    fn the_smallest_side_is_enough_for_every_stage_and_a_pooling_less_is_not() {
        let fits = |side: usize| {
            let mut side = side;
            ENCODER.iter().chain(&DECODER).all(|line| {
                let geometry = line.geometry(16);
                let enough = side >= geometry.smallest_side();
                side =
                    side * geometry.upsample / if line.finish == Finish::ReluPool { 2 } else { 1 };
                enough
            })
        };
        assert!(fits(ADAIN_SMALLEST_SIDE));
        assert!(!fits(ADAIN_SMALLEST_SIDE - 1));
    }
}
