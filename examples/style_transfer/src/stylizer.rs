//! The one type an application meets: a style on a context, run on picture after picture.

use wgnorm::{Context, Parameters, Tensor};

use crate::adain::{ADAIN_SMALLEST_SIDE, AdaInNet};
use crate::error::{Error, PictureError};
#[cfg(not(target_arch = "wasm32"))]
use crate::executor;
use crate::executor::{Executor, size_of};
use crate::net::{SMALLEST_SIDE, Size, TransformerNet};
use crate::norms::StyleNorm;
#[cfg(not(target_arch = "wasm32"))]
use crate::picture::Picture;
use crate::planes::Planes;

/// How far a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The stage that was finished last.
    pub stage: &'static str,
    /// How many are finished.
    pub done: usize,
    /// How many there are.
    pub total: usize,
}

/// A style, ready to run. Expensive to make (weights are uploaded, kernels compiled), cheap to use again, the more so
/// with pictures of one size, whose buffers are kept.
pub struct Stylizer {
    method: Method,
}

enum Method {
    /// A network that knows one style.
    Transformer(Executor),
    /// Networks that know none, and one style's statistics.
    AdaIn(Box<AdaInParts>),
}

struct AdaInParts {
    encoder: Executor,
    norm: StyleNorm,
    decoder: Executor,
}

impl Stylizer {
    /// Prepares `net` on the back end that `context` stands for.
    pub async fn new(context: &Context, net: &TransformerNet) -> Result<Stylizer, Error> {
        let executor = Executor::new(context, net.stages()).await?;
        Ok(Stylizer { method: Method::Transformer(executor) })
    }

    /// [`adain`](Self::adain) towards a style that is no [`Picture`] but its planes.
    ///
    /// # Errors
    /// [`Error::Alpha`] if `alpha` is not within 0..=1; [`PictureError::TooSmall`] for a style below
    /// [`ADAIN_SMALLEST_SIDE`]; [`crate::GpuError::TooLarge`] for one that exceeds the device's limits.
    pub async fn adain_planes(
        context: &Context,
        net: &AdaInNet,
        style: &Planes,
        alpha: f32,
    ) -> Result<Stylizer, Error> {
        if !(0.0..=1.0).contains(&alpha) {
            return Err(Error::Alpha(alpha));
        }
        check_side(style.size, ADAIN_SMALLEST_SIDE)?;
        let mut encoder = Executor::new(context, net.encoder()).await?;
        let features = encoder.run(unit_tensor(style, style.size)?, |_, _| {}).await?;
        let norm = StyleNorm::new(context, &features, alpha).await?;
        let decoder = Executor::new(context, net.decoder()).await?;
        let parts = Box::new(AdaInParts { encoder, norm, decoder });
        Ok(Stylizer { method: Method::AdaIn(parts) })
    }

    /// Shows every normalization of the networks, in the order in which they run, with the name of its stage: to count
    /// parameters, to watch them ([`Parameters::set_observer`]; on the host, as a GPU runs them recorded), to change
    /// them.
    pub fn visit_norms(&mut self, mut visit: impl FnMut(&'static str, &mut Parameters)) {
        match &mut self.method {
            Method::Transformer(net) => net.norms().for_each(|(name, norm)| visit(name, norm)),
            Method::AdaIn(parts) => {
                parts.encoder.norms().for_each(|(name, norm)| visit(name, norm));
                visit("adain", parts.norm.layer());
                parts.decoder.norms().for_each(|(name, norm)| visit(name, norm));
            }
        }
    }

    /// The networks alone: their raw output, values neither clamped nor rounded; a transformer net's sides are rounded
    /// up to multiples of four, AdaIn's down to multiples of eight.
    ///
    /// # Errors
    /// [`PictureError::TooSmall`] below [`SMALLEST_SIDE`], with AdaIn below [`ADAIN_SMALLEST_SIDE`];
    /// [`crate::GpuError::TooLarge`] before anything runs if an activation exceeds the device's limits;
    /// [`Error::NotFinite`] if activations overflow.
    pub async fn run(
        &mut self,
        input: &Planes,
        mut progress: impl FnMut(Progress),
    ) -> Result<Planes, Error> {
        match &mut self.method {
            Method::Transformer(net) => {
                check_side(input.size, SMALLEST_SIDE)?;
                let total = net.stages();
                let finished = |done, stage| progress(Progress { stage, done, total });
                let shape = [1, 3, input.size.height, input.size.width];
                let output = net.run(Tensor::from_slice(shape, &input.data)?, finished).await?;
                Planes { size: size_of(&output), data: output.to_vec().await? }.finite(net.on_gpu())
            }
            Method::AdaIn(parts) => {
                check_side(input.size, ADAIN_SMALLEST_SIDE)?;
                let AdaInParts { encoder, norm, decoder } = &mut **parts;
                let encoded = encoder.stages() + 1;
                let total = encoded + decoder.stages();
                let mut finished = |done, stage| progress(Progress { stage, done, total });
                let x = unit_tensor(input, AdaInNet::output(input.size))?;
                let features = encoder.run(x, &mut finished).await?;
                let styled = norm.forward(&features).await?;
                finished(encoded, "adain");
                let later = |done, stage| finished(encoded + done, stage);
                let output = decoder.run(styled, later).await?;
                let data = output.to_vec().await?.iter().map(|value| 255.0 * value).collect();
                Planes { size: size_of(&output), data }.finite(decoder.on_gpu())
            }
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Stylizer {
    /// Prepares AdaIn towards the style of a picture, which it looks at once. `alpha` is how much of the style to take:
    /// 1 is all of it, 0 leaves the content's own features.
    ///
    /// # Errors
    /// [`Error::Alpha`] if `alpha` is not within 0..=1; [`PictureError::TooSmall`] for a style below
    /// [`ADAIN_SMALLEST_SIDE`]; [`crate::GpuError::TooLarge`] for one that exceeds the device's limits.
    pub async fn adain(
        context: &Context,
        net: &AdaInNet,
        style: &Picture,
        alpha: f32,
    ) -> Result<Stylizer, Error> {
        Stylizer::adain_planes(context, net, &style.to_planes(), alpha).await
    }

    /// Paints a picture. It comes back in its own size; with AdaIn, sides are cut to multiples of eight, right and
    /// bottom.
    ///
    /// # Errors
    /// As [`run`](Self::run); on the host [`Error::Memory`] if there is less than the network needs.
    pub async fn stylize(
        &mut self,
        picture: &Picture,
        progress: impl FnMut(Progress),
    ) -> Result<Picture, Error> {
        let first = match &self.method {
            Method::Transformer(net) => net,
            Method::AdaIn(parts) => &parts.encoder,
        };
        // Before the planes take their part of it.
        first.check(picture.size())?;
        let output = self.run(&picture.to_planes(), progress).await?;
        let (from, to) = (picture.size(), output.size);
        let size = Size::new(from.height.min(to.height), from.width.min(to.width));
        Ok(Picture::from_planes(&output, size))
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl TransformerNet {
    /// Whether a picture of `size` can be painted on `context`, as far as numbers tell; nothing is prepared.
    ///
    /// # Errors
    /// [`PictureError::TooSmall`] below [`SMALLEST_SIDE`]; [`crate::GpuError::TooLarge`] where the device holds less;
    /// on the host [`Error::Memory`] where there is less.
    pub fn check(&self, context: &Context, size: Size) -> Result<(), Error> {
        check_side(size, SMALLEST_SIDE)?;
        executor::check(context, self.stages(), size)
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl AdaInNet {
    /// Whether a picture of `size` can be painted on `context`, as far as numbers tell; nothing is prepared.
    ///
    /// # Errors
    /// [`PictureError::TooSmall`] below [`ADAIN_SMALLEST_SIDE`]; [`crate::GpuError::TooLarge`] where the device holds
    /// less; on the host [`Error::Memory`] where there is less.
    pub fn check(&self, context: &Context, size: Size) -> Result<(), Error> {
        check_side(size, ADAIN_SMALLEST_SIDE)?;
        // The decoder is the encoder's mirror image and needs no more.
        executor::check(context, self.encoder(), size)
    }
}

fn check_side(size: Size, smallest: usize) -> Result<(), PictureError> {
    if size.height.min(size.width) < smallest {
        return Err(PictureError::TooSmall { size, smallest });
    }
    Ok(())
}

/// The top left `size` of the planes, with values in 0..1 as AdaIn's networks take them.
fn unit_tensor(planes: &Planes, size: Size) -> Result<Tensor<'static>, Error> {
    let rows = planes.data.chunks_exact(planes.size.width).enumerate();
    let kept = rows.filter(|(row, _)| row % planes.size.height < size.height);
    let values = kept.flat_map(|(_, row)| row[..size.width].iter().map(|value| value / 255.0));
    Ok(Tensor::from_vec([1, 3, size.height, size.width], values.collect())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Stage;
    use crate::styles::STYLES;
    use crate::testing::{adain_net, gpu};

    #[test]
    fn a_side_of_four_pixels_is_refused_with_the_smallest_that_works() {
        let net = STYLES[0].net().unwrap();
        let run = |width, height| {
            let input =
                Planes { size: Size::new(height, width), data: vec![0.0; 3 * width * height] };
            pollster::block_on(async {
                Stylizer::new(&Context::host(), &net).await?.run(&input, |_| {}).await
            })
        };
        assert!(run(5, 5).is_ok());
        let message = run(100, 4).unwrap_err().to_string();
        assert_eq!(message, "100x4 pixels are too few: each side needs at least 5");
    }

    #[test]
    fn the_top_left_is_kept_of_every_plane() {
        let size = Size::new(2, 3);
        let planes = Planes { size, data: (0..18).map(|i| 255.0 * i as f32).collect() };
        let kept = unit_tensor(&planes, Size::new(1, 2)).unwrap();
        assert_eq!(kept.as_slice().unwrap(), [0.0, 1.0, 6.0, 7.0, 12.0, 13.0]);
    }

    #[test]
    fn every_norm_is_visited_in_order() {
        let counted = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (mut names, mut parameters) = (Vec::new(), 0);
        pollster::block_on(async {
            let net = STYLES[0].net()?;
            let mut stylizer = Stylizer::new(&Context::host(), &net).await?;
            stylizer.visit_norms(|name, norm| {
                names.push(name);
                parameters += 2 * norm.weight().expect("they all have one").shape()[0];
                let counted = counted.clone();
                norm.set_observer(move |x, _| counted.lock().unwrap().push(x.shape()[1]));
            });
            stylizer.stylize(&waves(16, 16, 3.0), |_| {}).await?;
            let style = waves(16, 16, 3.0);
            let mut adain = Stylizer::adain(&Context::host(), &adain_net(8), &style, 1.0).await?;
            adain.visit_norms(|name, _| names.push(name));
            Ok::<_, Error>(())
        })
        .unwrap();
        assert_eq!(
            (names.len(), names[0], names[14], names[15]),
            (16, "conv1", "deconv2", "adain")
        );
        let channels = counted.lock().unwrap().clone();
        assert_eq!((channels.len(), 2 * channels.iter().sum::<usize>()), (15, parameters));
    }

    /// Waves of a few pixels' length: something to normalize in every channel.
    fn waves(width: usize, height: usize, length: f32) -> Picture {
        let size = Size::new(height, width);
        let value = |i: usize| {
            let (colour, y, x) = (i / size.area(), i / width % height, i % width);
            128.0 + 100.0 * ((x + 2 * y) as f32 / length + colour as f32).sin()
        };
        let data = (0..3 * size.area()).map(value).collect();
        Picture::from_planes(&Planes { size, data }, size)
    }

    fn adain(context: &Context, picture: &Picture, alpha: f32) -> Result<Planes, Error> {
        towards(&waves(29, 18, 2.0), context, picture, alpha)
    }

    fn towards(
        style: &Picture,
        context: &Context,
        picture: &Picture,
        alpha: f32,
    ) -> Result<Planes, Error> {
        pollster::block_on(async {
            let mut stylizer = Stylizer::adain(context, &adain_net(8), style, alpha).await?;
            stylizer.run(&picture.to_planes(), |_| {}).await
        })
    }

    fn largest_difference(a: &Planes, b: &Planes) -> f32 {
        assert_eq!(a.size, b.size);
        a.data.iter().zip(&b.data).fold(0.0, |worst, (a, b)| worst.max((a - b).abs()))
    }

    #[test]
    fn adain_is_the_same_on_both_back_ends() {
        let Some(context) = gpu() else { return };
        let picture = waves(47, 35, 5.0);
        let host = adain(&Context::host(), &picture, 0.7).unwrap();
        assert_eq!(host.size, Size::new(32, 40));
        let spread = largest_difference(
            &host,
            &Planes { size: host.size, data: vec![0.0; host.data.len()] },
        );
        let difference = largest_difference(&adain(&context, &picture, 0.7).unwrap(), &host);
        assert!(spread > 10.0 && difference < 1e-4 * spread, "{difference} of {spread}");
    }

    #[test]
    fn without_any_style_the_decoder_gets_the_contents_own_features() {
        let (context, picture, net) = (Context::host(), waves(32, 24, 5.0), adain_net(8));
        let expected = pollster::block_on(async {
            let mut encoder = Executor::new(&context, net.encoder()).await?;
            let mut decoder = Executor::new(&context, net.decoder()).await?;
            let x = unit_tensor(&picture.to_planes(), picture.size())?;
            let features = encoder.run(x, |_, _| {}).await?;
            Ok::<_, Error>(decoder.run(features, |_, _| {}).await?.to_vec().await?)
        });
        let data = expected.unwrap().iter().map(|value| 255.0 * value).collect();
        let expected = Planes { size: picture.size(), data };
        let none = adain(&context, &picture, 0.0).unwrap();
        assert!(largest_difference(&none, &expected) < 0.01);
        let half = adain(&context, &picture, 0.5).unwrap();
        assert!(largest_difference(&half, &expected) > 1.0);
    }

    #[test]
    fn an_alpha_that_is_no_share_and_sides_that_are_too_small_are_refused() {
        for alpha in [-0.1, 1.1, f32::NAN] {
            let error = adain(&Context::host(), &waves(16, 16, 3.0), alpha).unwrap_err();
            assert!(matches!(error, Error::Alpha(_)), "{error}");
        }
        assert!(adain(&Context::host(), &waves(16, 16, 3.0), 1.0).is_ok());
        let message = adain(&Context::host(), &waves(15, 100, 3.0), 1.0).unwrap_err().to_string();
        assert_eq!(message, "15x100 pixels are too few: each side needs at least 16");
        let (picture, style) = (waves(16, 16, 3.0), waves(100, 15, 3.0));
        let message = towards(&style, &Context::host(), &picture, 1.0).unwrap_err().to_string();
        assert_eq!(message, "100x15 pixels are too few: each side needs at least 16");
    }

    /// Networks whose weights are finite and whose activations are not, or whose squares are not.
    fn overflowing(context: &Context) -> Vec<(&'static str, Result<Planes, Error>)> {
        let picture = waves(24, 20, 5.0).to_planes();
        let style = waves(16, 16, 3.0).to_planes();
        let scaled = |stage: usize, factor: f32| {
            let mut net = STYLES[0].net().unwrap();
            net.stages[stage].weight.iter_mut().for_each(|value| *value *= factor);
            net
        };
        let transformer = |net: TransformerNet| {
            pollster::block_on(async {
                Stylizer::new(context, &net).await?.run(&picture, |_| {}).await
            })
        };
        let towards = |change: fn(&mut AdaInNet)| {
            let mut net = adain_net(8);
            change(&mut net);
            pollster::block_on(async {
                let stylizer = Stylizer::adain_planes(context, &net, &style, 1.0).await;
                stylizer?.run(&picture, |_| {}).await
            })
        };
        vec![
            ("first stage", transformer(scaled(0, 3e38))),
            ("inside", transformer(scaled(4, 3e38))),
            ("last stage", transformer(scaled(15, 3e38))),
            (
                "an encoder that pools",
                towards(|net| net.encoder[2].weight.iter_mut().for_each(|value| *value *= 3e38)),
            ),
            (
                "a decoder's inside",
                towards(|net| net.decoder[3].weight.iter_mut().for_each(|value| *value *= 3e38)),
            ),
            (
                "a decoder's end",
                towards(|net| net.decoder[8].weight.iter_mut().for_each(|value| *value *= 3e38)),
            ),
        ]
    }

    #[test]
    fn a_painting_that_is_not_finite_is_an_error_on_both_back_ends() {
        for context in std::iter::once(Context::host()).chain(gpu()) {
            for (name, painted) in overflowing(&context) {
                let error = painted.err().unwrap_or_else(|| panic!("{name} on {context}: painted"));
                let Error::NotFinite { count, total, value, x, y, .. } = error else {
                    panic!("{name} on {context}: {error}");
                };
                assert!(count > 0 && count <= total && !value.is_finite(), "{name} on {context}");
                assert!(x < 24 && y < 20, "{name} on {context}: {x}, {y}");
            }
        }
    }

    /// A norm takes out what scales its input, as long as the squares of that can be held: on the host always.
    #[test]
    fn a_painting_of_large_activations_is_right_or_an_error() {
        let net = STYLES[0].net().unwrap();
        // Whole tiles of the convolution kernel, none of whose sums is masked.
        let picture = waves(32, 32, 5.0).to_planes();
        let paint = |context: &Context, factor: f32| {
            let mut net = net.clone();
            let Stage { weight, bias, .. } = &mut net.stages[0];
            weight.iter_mut().chain(bias).for_each(|v| *v *= factor);
            pollster::block_on(async {
                Stylizer::new(context, &net).await?.run(&picture, |_| {}).await
            })
        };
        for context in std::iter::once(Context::host()).chain(gpu()) {
            // eps is nothing beside activations of some hundreds.
            let expected = paint(&context, 1e3).unwrap();
            for factor in [1e6, 1e9, 1e12, 1e16, 1e18, 1e19, 1e22, 1e30] {
                match paint(&context, factor) {
                    Ok(painted) => {
                        let difference = largest_difference(&painted, &expected);
                        assert!(difference < 0.1, "{factor} on {context}: {difference}");
                    }
                    Err(Error::NotFinite { on_gpu: true, .. }) if factor > 1e11 => {}
                    Err(error) => panic!("{factor} on {context}: {error}"),
                }
            }
        }
    }
}
