//! The normalizations, all wgnorm's: a stage's instance norm with the weights of the file, and AdaIn's with the
//! statistics of a style.

use wgnorm::{AdaIn, Affine, Context, InstanceNorm2d, Tensor};

use crate::error::Error;
use crate::net::Stage;

/// wgnorm's layer; its defaults (eps 1e-5, population variance, no running statistics) are PyTorch's and so the
/// network's.
pub(crate) type Norm = InstanceNorm2d;

/// The stage's norm on `context`, or `None` where the stage has none.
pub(crate) fn norm_of(stage: &Stage, context: &Context) -> Result<Option<Norm>, Error> {
    let Some(weights) = &stage.norm else { return Ok(None) };
    let channels = stage.geometry.out_channels;
    let mut norm = InstanceNorm2d::config(channels).with_affine(Affine::Both).init(context)?;
    norm.set_weight(&Tensor::from_slice([channels], &weights.weight)?)?;
    norm.set_bias(&Tensor::from_slice([channels], &weights.bias)?)?;
    Ok(Some(norm))
}

/// wgnorm's AdaIn towards one style, or part of the way.
pub(crate) struct StyleNorm {
    context: Context,
    layer: AdaIn,
    style: Tables,
    alpha: f32,
}

/// Deviation and mean of each channel of some features.
type Tables = [Vec<f32>; 2];

impl StyleNorm {
    /// `features` are the style's, of shape `(1, C, H, W)`.
    pub async fn new(
        context: &Context,
        features: &Tensor<'_>,
        alpha: f32,
    ) -> Result<StyleNorm, Error> {
        let layer = AdaIn::config().init(context)?;
        let style = tables(&layer, context, features).await?;
        Ok(StyleNorm { context: context.clone(), layer, style, alpha })
    }

    /// The layer itself.
    pub fn layer(&mut self) -> &mut AdaIn {
        &mut self.layer
    }

    /// `alpha · adain(x) + (1 − alpha) · x`. As x is its own normalization times its deviation plus its mean, blending
    /// the features is blending the tables.
    pub async fn forward(&self, x: &Tensor<'_>) -> Result<Tensor<'static>, Error> {
        let own = tables(&self.layer, &self.context, x).await?;
        let blend = |part: usize| {
            let pairs = self.style[part].iter().zip(&own[part]);
            let values = pairs.map(|(style, own)| own + self.alpha * (style - own));
            Tensor::from_vec([1, own[part].len()], values.collect())?.to_context(&self.context)
        };
        Ok(self.layer.forward_tables(&self.context, x, &blend(0)?, &blend(1)?)?)
    }
}

async fn tables(layer: &AdaIn, context: &Context, x: &Tensor<'_>) -> Result<Tables, Error> {
    let (deviations, means) = layer.style_tables(context, x)?;
    Ok([deviations.to_vec().await?, means.to_vec().await?])
}
