//! Weights: a safetensors file with the names of PyTorch's `fast_neural_style` example, checked against the
//! architecture before anything runs.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::error::WeightsError;
use crate::net::{ARCHITECTURE, Finish, Line, NormWeights, Stage, TransformerNet};

impl TransformerNet {
    /// Reads a network of any width from the bytes of a safetensors file of f32, f16 or bf16 tensors.
    ///
    /// # Errors
    /// [`WeightsError`] names the tensor that is missing, superfluous or of the wrong shape. Running statistics
    /// (`*.running_mean`, …) are skipped: files from before PyTorch 0.4 hold them, instance norm does not read them.
    pub fn from_safetensors(bytes: &[u8]) -> Result<TransformerNet, WeightsError> {
        let file = SafeTensors::deserialize(bytes)?;
        let width = read_width(&file)?;
        let mut names = Vec::new();
        let mut take = |tensor: String, expected: &[usize]| {
            let values = read(&file, &tensor, expected, width)?;
            names.push(tensor);
            Ok::<_, WeightsError>(values)
        };
        let stages = ARCHITECTURE
            .iter()
            .map(|line| read_stage(line, width, &mut take))
            .collect::<Result<_, _>>()?;
        for (tensor, view) in file.tensors() {
            if !names.contains(&tensor) && !is_running_statistic(&tensor) {
                return Err(WeightsError::Unexpected { tensor, found: view.shape().to_vec() });
            }
        }
        Ok(TransformerNet { width, stages })
    }
}

fn read_width(file: &SafeTensors<'_>) -> Result<usize, WeightsError> {
    let tensor = "conv1.conv2d.weight".to_owned();
    let Ok(view) = file.tensor(&tensor) else {
        // The width is unknown without this tensor; 32 is that of the original networks.
        return Err(WeightsError::Missing { tensor, expected: vec![32, 3, 9, 9] });
    };
    match *view.shape() {
        [width, 3, 9, 9] if width > 0 => Ok(width),
        _ => Err(WeightsError::Width { tensor, found: view.shape().to_vec() }),
    }
}

fn read_stage(
    line: &Line,
    width: usize,
    take: &mut impl FnMut(String, &[usize]) -> Result<Vec<f32>, WeightsError>,
) -> Result<Stage, WeightsError> {
    let geometry = line.geometry(width);
    let channels = geometry.out_channels;
    let shape = [channels, geometry.in_channels, geometry.kernel, geometry.kernel];
    Ok(Stage {
        name: line.conv,
        geometry,
        weight: take(format!("{}.conv2d.weight", line.conv), &shape)?,
        bias: take(format!("{}.conv2d.bias", line.conv), &[channels])?,
        norm: match line.finish {
            Finish::Nothing => None,
            Finish::NormRelu | Finish::NormAddBlockInput => Some(NormWeights {
                weight: take(format!("{}.weight", line.norm), &[channels])?,
                bias: take(format!("{}.bias", line.norm), &[channels])?,
            }),
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

    /// A file of width 2 in the given format, every value 0.5 (0x3800 in f16, 0x3f00 in bf16), after `change`.
    fn file(dtype: Dtype, change: impl FnOnce(&mut BTreeMap<String, Vec<usize>>)) -> Vec<u8> {
        let mut shapes = BTreeMap::new();
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
        let message = |change: fn(&mut BTreeMap<String, Vec<usize>>)| {
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
