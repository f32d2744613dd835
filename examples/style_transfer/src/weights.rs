//! Weights: a safetensors file with the names of PyTorch's `fast_neural_style` example, checked against the
//! architecture before anything runs.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::adain::{AdaInNet, DECODER, ENCODER};
use crate::error::{Error, WeightsError};
use crate::net::{ARCHITECTURE, Line, NormWeights, Stage, TransformerNet};

impl TransformerNet {
    /// Reads a network of any width from the bytes of a safetensors file of f32, f16 or bf16 tensors.
    ///
    /// # Errors
    /// [`WeightsError`] names the tensor that is missing, superfluous or of the wrong shape. Running statistics
    /// (`*.running_mean`, …) are skipped: files from before PyTorch 0.4 hold them, instance norm does not read them.
    pub fn from_safetensors(bytes: &[u8]) -> Result<TransformerNet, WeightsError> {
        let file = SafeTensors::deserialize(bytes)?;
        // 32 is the width of the original networks.
        let width = read_width(&file, "conv1.conv2d.weight", [32, 3, 9, 9])?;
        let stages = read_stages(&file, &ARCHITECTURE, ".conv2d", width)?;
        Ok(TransformerNet { width, stages })
    }
}

impl AdaInNet {
    /// Reads encoder and decoder, of any width, from the bytes of two safetensors files of f32, f16 or bf16 tensors.
    ///
    /// # Errors
    /// [`Error::Encoder`] or [`Error::Decoder`] with the tensor that is missing, superfluous or of the wrong shape; the
    /// decoder must be of the encoder's width.
    pub fn from_safetensors(encoder: &[u8], decoder: &[u8]) -> Result<AdaInNet, Error> {
        let (width, encoder) = read_encoder(encoder).map_err(Error::Encoder)?;
        let decoder = SafeTensors::deserialize(decoder)
            .map_err(WeightsError::from)
            .and_then(|file| read_stages(&file, &DECODER, "", width));
        Ok(AdaInNet { width, encoder, decoder: decoder.map_err(Error::Decoder)? })
    }
}

fn read_encoder(bytes: &[u8]) -> Result<(usize, Vec<Stage>), WeightsError> {
    let file = SafeTensors::deserialize(bytes)?;
    let width = read_width(&file, "conv11.weight", [64, 3, 3, 3])?;
    Ok((width, read_stages(&file, &ENCODER, "", width)?))
}

/// The first axis of `tensor`, which has as many elements as the network is wide; `usual` is the shape in the original
/// network.
fn read_width(
    file: &SafeTensors<'_>,
    tensor: &str,
    usual: [usize; 4],
) -> Result<usize, WeightsError> {
    let tensor = tensor.to_owned();
    let Ok(view) = file.tensor(&tensor) else {
        return Err(WeightsError::Missing { tensor, expected: usual.to_vec() });
    };
    match *view.shape() {
        [width, ref rest @ ..] if width > 0 && *rest == usual[1..] => Ok(width),
        _ => Err(WeightsError::Width { tensor, kernel: usual[3], found: view.shape().to_vec() }),
    }
}

/// The stages of an architecture, from a file that holds nothing else. A convolution's tensors are called
/// `{conv}{suffix}.weight` and `.bias`.
fn read_stages(
    file: &SafeTensors<'_>,
    lines: &[Line],
    suffix: &str,
    width: usize,
) -> Result<Vec<Stage>, WeightsError> {
    let mut names = Vec::new();
    let mut take = |tensor: String, expected: &[usize]| {
        let values = read(file, &tensor, expected, width)?;
        names.push(tensor);
        Ok::<_, WeightsError>(values)
    };
    let stages = lines
        .iter()
        .map(|line| read_stage(line, suffix, width, &mut take))
        .collect::<Result<_, _>>()?;
    for (tensor, view) in file.tensors() {
        if !names.contains(&tensor) && !is_running_statistic(&tensor) {
            return Err(WeightsError::Unexpected { tensor, found: view.shape().to_vec() });
        }
    }
    Ok(stages)
}

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
        return Err(WeightsError::Missing { tensor, expected: expected.to_vec() });
    };
    if view.shape() != expected {
        let (expected, found) = (expected.to_vec(), view.shape().to_vec());
        return Err(WeightsError::Shape { tensor, expected, found, width });
    }
    widen(&view).ok_or(WeightsError::Dtype { tensor, found: view.dtype() })
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

fn is_running_statistic(tensor: &str) -> bool {
    ["running_mean", "running_var", "num_batches_tracked"].iter().any(|end| tensor.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Shapes = BTreeMap<String, Vec<usize>>;

    /// A transformer net of width 2 in the given format, after `change`.
    fn file(dtype: Dtype, change: impl FnOnce(&mut Shapes)) -> Vec<u8> {
        let mut shapes = Shapes::new();
        for line in &ARCHITECTURE {
            let g = line.geometry(2);
            shapes.insert(
                format!("{}.conv2d.weight", line.conv),
                vec![g.out_channels, g.in_channels, g.kernel, g.kernel],
            );
            shapes.insert(format!("{}.conv2d.bias", line.conv), vec![g.out_channels]);
            if !line.norm.is_empty() {
                shapes.insert(format!("{}.weight", line.norm), vec![g.out_channels]);
                shapes.insert(format!("{}.bias", line.norm), vec![g.out_channels]);
            }
        }
        assert_eq!(shapes.len(), 62, "as many tensors as PyTorch's example writes");
        change(&mut shapes);
        write(dtype, &shapes)
    }

    /// Encoder or decoder of AdaIn, of any width.
    fn adain_file(lines: &[Line], width: usize, change: impl FnOnce(&mut Shapes)) -> Vec<u8> {
        let mut shapes = Shapes::new();
        for line in lines {
            let g = line.geometry(width);
            let kernel = vec![g.out_channels, g.in_channels, g.kernel, g.kernel];
            shapes.insert(format!("{}.weight", line.conv), kernel);
            shapes.insert(format!("{}.bias", line.conv), vec![g.out_channels]);
        }
        change(&mut shapes);
        write(Dtype::F32, &shapes)
    }

    /// Tensors of these shapes, every value 0.5 (0x3800 in f16, 0x3f00 in bf16).
    fn write(dtype: Dtype, shapes: &Shapes) -> Vec<u8> {
        let value: &[u8] = match dtype {
            Dtype::F32 => &[0, 0, 0, 0x3f],
            Dtype::F16 => &[0, 0x38],
            Dtype::BF16 => &[0, 0x3f],
            _ => &[0],
        };
        let data: Vec<Vec<u8>> =
            shapes.values().map(|s| value.repeat(s.iter().product())).collect();
        let views = shapes.iter().zip(&data);
        let views = views.map(|((name, shape), data)| {
            (name.clone(), TensorView::new(dtype, shape.clone(), data).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn all_three_number_formats_load_to_the_same_values() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let net = TransformerNet::from_safetensors(&file(dtype, |_| {})).unwrap();
            assert_eq!((net.width(), net.stages().len()), (2, 16));
            assert!(
                net.stages().iter().all(|stage| stage
                    .weight
                    .iter()
                    .chain(&stage.bias)
                    .all(|&v| v == 0.5))
            );
            assert_eq!(net.stages()[4].norm.as_ref().unwrap().weight, [0.5; 8]);
            assert!(net.stages()[15].norm.is_none());
        }
    }

    #[test]
    fn a_wrong_shape_names_tensor_expected_and_found() {
        let bytes = file(Dtype::F32, |shapes| {
            shapes.insert("res3.conv2.conv2d.weight".to_owned(), vec![8, 8, 5, 5]);
        });
        let message = TransformerNet::from_safetensors(&bytes).unwrap_err().to_string();
        let expected = "tensor `res3.conv2.conv2d.weight` has shape [8, 8, 5, 5], expected [8, 8, 3, 3] in a network of width 2";
        assert_eq!(message, expected);
    }

    #[test]
    fn a_missing_tensor_a_superfluous_one_and_a_wrong_first_one_are_named() {
        let message = |change: fn(&mut Shapes)| {
            TransformerNet::from_safetensors(&file(Dtype::F32, change)).unwrap_err().to_string()
        };
        let missing = message(|shapes| drop(shapes.remove("in4.bias")));
        assert_eq!(missing, "tensor `in4.bias` is missing, expected with shape [4]");
        let extra = message(|shapes| drop(shapes.insert("res6.in1.bias".to_owned(), vec![8])));
        assert_eq!(extra, "tensor `res6.in1.bias` of shape [8] has no place in this network");
        let first = message(|shapes| {
            drop(shapes.insert("conv1.conv2d.weight".to_owned(), vec![2, 1, 9, 9]))
        });
        assert_eq!(
            first,
            "tensor `conv1.conv2d.weight` has shape [2, 1, 9, 9], expected [width, 3, 9, 9]"
        );
    }

    #[test]
    fn running_statistics_of_old_files_are_skipped() {
        let bytes =
            file(Dtype::F16, |shapes| drop(shapes.insert("in1.running_mean".to_owned(), vec![2])));
        assert!(TransformerNet::from_safetensors(&bytes).is_ok());
    }

    #[test]
    fn adain_takes_an_encoder_and_a_decoder_of_one_width() {
        let (encoder, decoder) = (adain_file(&ENCODER, 2, |_| {}), adain_file(&DECODER, 2, |_| {}));
        let net = AdaInNet::from_safetensors(&encoder, &decoder).unwrap();
        assert_eq!((net.width(), net.encoder().len(), net.decoder().len()), (2, 10, 9));
        assert_eq!(net.encoder()[0].weight, [0.5; 9]);
        let message = |encoder: &[u8], decoder: &[u8]| {
            AdaInNet::from_safetensors(encoder, decoder).unwrap_err().to_string()
        };
        assert_eq!(
            message(&encoder, &adain_file(&DECODER, 3, |_| {})),
            "the decoder: tensor `conv41.weight` has shape [12, 24, 3, 3], expected [8, 16, 3, 3] in a network of width 2"
        );
        assert_eq!(
            message(&decoder, &decoder),
            "the encoder: tensor `conv11.weight` has shape [3, 2, 3, 3], expected [width, 3, 3, 3]"
        );
        let without = adain_file(&ENCODER, 2, |shapes| drop(shapes.remove("conv0.bias")));
        assert_eq!(
            message(&without, &decoder),
            "the encoder: tensor `conv0.bias` is missing, expected with shape [3]"
        );
        let more = adain_file(&DECODER, 2, |shapes| drop(shapes.insert("aux".to_owned(), vec![1])));
        assert_eq!(
            message(&encoder, &more),
            "the decoder: tensor `aux` of shape [1] has no place in this network"
        );
    }

    #[test]
    fn integers_and_truncated_files_are_refused() {
        let integers = TransformerNet::from_safetensors(&file(Dtype::I8, |_| {})).unwrap_err();
        assert!(matches!(integers, WeightsError::Dtype { .. }), "{integers}");
        let whole = file(Dtype::F32, |_| {});
        for length in [0, 7, 100, whole.len() - 1] {
            let error = TransformerNet::from_safetensors(&whole[..length]).unwrap_err();
            assert!(matches!(error, WeightsError::Format(_)), "{length}: {error}");
        }
    }
}
