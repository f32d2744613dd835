//! A stage's normalization: wgnorm's instance norm with the weights of the file.

use wgnorm::{Affine, Context, InstanceNorm2d, Tensor};

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
