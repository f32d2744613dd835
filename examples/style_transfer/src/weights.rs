//! Weights: a safetensors file with the names of PyTorch's `fast_neural_style` example, checked against the
//! architecture before anything runs.

mod content;
mod network;

pub use content::Content;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::adain::AdaInNet;
use crate::error::{Error, WeightsError};
use crate::net::{Line, NormWeights, Stage, TransformerNet};
use network::{DECODER, ENCODER, Named, Network, TRANSFORMER};

impl TransformerNet {
    /// Reads a network of any width from the bytes of a safetensors file of f32, f16 or bf16 tensors. The names may
    /// have any prefix in common, such as the `module.` of `DataParallel`; what `torch.compile` and FSDP put into names
    /// is left out wherever it stands.
    ///
    /// # Errors
    /// [`WeightsError`] names the tensor that is missing, superfluous, of the wrong shape or not finite, the network that
    /// is in the file instead of this one, or what the bytes are if they are no safetensors file. Running statistics
    /// (`*.running_mean`, …) are skipped: files from before PyTorch 0.4 hold them, instance norm does not read them; so is
    /// `n_averaged` of `AveragedModel`.
    pub fn from_safetensors(bytes: &[u8]) -> Result<TransformerNet, WeightsError> {
        let (width, stages) = read_network(bytes, &TRANSFORMER)?;
        Ok(TransformerNet { width, stages })
    }
}

impl AdaInNet {
    /// Reads encoder and decoder, of any width, from the bytes of two safetensors files of f32, f16 or bf16 tensors. The
    /// names in each file may have any prefix in common.
    ///
    /// # Errors
    /// [`Error::Encoder`] or [`Error::Decoder`] with what [`TransformerNet::from_safetensors`] would say; the decoder
    /// must be of the encoder's width.
    pub fn from_safetensors(encoder: &[u8], decoder: &[u8]) -> Result<AdaInNet, Error> {
        let (width, encoder) = read_network(encoder, &ENCODER).map_err(Error::Encoder)?;
        let decoder = read_network(decoder, &DECODER).and_then(|(found, stages)| {
            if found == width {
                return Ok(stages);
            }
            Err(WeightsError::Width { found, expected: width })
        });
        Ok(AdaInNet { width, encoder, decoder: decoder.map_err(Error::Decoder)? })
    }
}

/// The width and the stages of `network`, from a file that holds nothing else.
fn read_network(bytes: &[u8], network: &Network) -> Result<(usize, Vec<Stage>), WeightsError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| match Content::of(bytes) {
        Some(found) => WeightsError::Content { found },
        None => WeightsError::Format(error),
    })?;
    let Named { names, width } = network.find(&file)?;
    let mut take = |tensor: String, expected: &[usize]| {
        let name = names.get(&tensor).unwrap_or(&tensor);
        read(&file, name, expected, width)
    };
    let stages = network
        .lines
        .iter()
        .map(|line| read_stage(line, network.suffix, width, &mut take))
        .collect::<Result<_, _>>()?;
    Ok((width, stages))
}

/// A convolution's tensors are called `{conv}{suffix}.weight` and `.bias`.
fn read_stage(
    line: &Line,
    suffix: &str,
    width: usize,
    take: &mut impl FnMut(String, &[usize]) -> Result<Vec<f32>, WeightsError>,
) -> Result<Stage, WeightsError> {
    let geometry = line.geometry(width);
    let channels = geometry.out_channels;
    let shape = [channels, geometry.in_channels, geometry.kernel, geometry.kernel];
    Ok(Stage {
        name: line.conv,
        geometry,
        weight: take(format!("{}{suffix}.weight", line.conv), &shape)?,
        bias: take(format!("{}{suffix}.bias", line.conv), &[channels])?,
        norm: if line.finish.has_norm() {
            let weight = take(format!("{}.weight", line.norm), &[channels])?;
            Some(NormWeights { weight, bias: take(format!("{}.bias", line.norm), &[channels])? })
        } else {
            None
        },
        finish: line.finish,
    })
}

fn read(
    file: &SafeTensors<'_>,
    tensor: &str,
    expected: &[usize],
    width: usize,
) -> Result<Vec<f32>, WeightsError> {
    let tensor = tensor.to_owned();
    let Ok(view) = file.tensor(&tensor) else {
        return Err(WeightsError::Missing {
            tensor,
            expected: expected.to_vec(),
            others: 0,
            instead: None,
        });
    };
    if view.shape() != expected {
        let (expected, found) = (expected.to_vec(), view.shape().to_vec());
        return Err(WeightsError::Shape { tensor, expected, found, width });
    }
    let Some(values) = widen(&view) else {
        return Err(WeightsError::Dtype { tensor, found: view.dtype() });
    };
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(first) => Err(WeightsError::NotFinite {
            tensor,
            value: values[first],
            index: index_of(first, expected),
            count: values.iter().filter(|value| !value.is_finite()).count(),
            total: values.len(),
            half: view.dtype() == Dtype::F16,
        }),
    }
}

/// Where element `position` of a tensor of this shape lies.
fn index_of(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<_> = shape
        .iter()
        .rev()
        .map(|&length| {
            let along = position % length;
            position /= length;
            along
        })
        .collect();
    index.reverse();
    index
}

/// The values as f32, or `None` for a number format that is no float of 16 or 32 bits. The file is little-endian and
/// its tensors need not be aligned, hence the copies by chunks.
fn widen(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let halves = |f: fn(u16) -> f32| {
        let pairs = view.data().chunks_exact(2);
        pairs.map(|b| f(u16::from_le_bytes([b[0], b[1]]))).collect()
    };
    match view.dtype() {
        Dtype::F32 => {
            let words = view.data().chunks_exact(4);
            Some(words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        Dtype::F16 => Some(halves(|bits| half::f16::from_bits(bits).to_f32())),
        Dtype::BF16 => Some(halves(|bits| half::bf16::from_bits(bits).to_f32())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
