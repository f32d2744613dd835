use super::*;
use crate::adain::{DECODER, ENCODER};
use crate::net::ARCHITECTURE;
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

/// A file's tensors, each name with this before it.
fn prefixed(prefix: &str) -> impl FnOnce(&mut Shapes) {
    let prefix = prefix.to_owned();
    move |shapes| {
        let named = std::mem::take(shapes).into_iter();
        *shapes = named.map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect();
    }
}

/// Tensors of these shapes, every value 0.5 (0x3800 in f16, 0x3f00 in bf16).
fn write(dtype: Dtype, shapes: &Shapes) -> Vec<u8> {
    let value: &[u8] = match dtype {
        Dtype::F32 => &[0, 0, 0, 0x3f],
        Dtype::F16 => &[0, 0x38],
        Dtype::BF16 => &[0, 0x3f],
        _ => &[0],
    };
    let data: Vec<Vec<u8>> = shapes.values().map(|s| value.repeat(s.iter().product())).collect();
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
    let first =
        message(|shapes| drop(shapes.insert("conv1.conv2d.weight".to_owned(), vec![2, 1, 9, 9])));
    assert_eq!(
        first,
        "tensor `conv1.conv2d.weight` has shape [2, 1, 9, 9], expected [2, 3, 9, 9] in a network of width 2"
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
        "the decoder: it is of width 3, expected 2 as the encoder is: take two that were trained together"
    );
    assert_eq!(
        message(&decoder, &decoder),
        "the encoder: the file holds AdaIn's decoder (`conv41.weight` to `conv11.bias`) of width 2, \
         expected AdaIn's encoder (`conv0.weight` to `conv41.bias`)"
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
    for length in [1, 7, 100, whole.len() - 1] {
        let error = TransformerNet::from_safetensors(&whole[..length]).unwrap_err();
        assert!(matches!(error, WeightsError::Format(_)), "{length}: {error}");
    }
}

#[test]
fn names_may_have_any_prefix_in_common() {
    let plain = TransformerNet::from_safetensors(&file(Dtype::F32, |_| {})).unwrap();
    let prefixes = [
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.",
        "net.",
        "state_dict.generator.module.",
        "res1.",
        "style/transformer_",
    ];
    for prefix in prefixes {
        let bytes = file(Dtype::F32, prefixed(prefix));
        let net = TransformerNet::from_safetensors(&bytes);
        assert_eq!(net.unwrap_or_else(|e| panic!("{prefix}: {e}")), plain, "{prefix}");
    }
    let adain = |prefix: &str| {
        let encoder = adain_file(&ENCODER, 2, prefixed(prefix));
        AdaInNet::from_safetensors(&encoder, &adain_file(&DECODER, 2, prefixed("decoder.")))
    };
    assert_eq!(adain("encoder.").unwrap(), adain("").unwrap());
}

/// `torch.compile` or FSDP around any part of a network.
#[test]
fn what_wrappers_put_into_names_is_left_out_wherever_it_stands() {
    let plain = TransformerNet::from_safetensors(&file(Dtype::F32, |_| {})).unwrap();
    let renamed = |change: fn(&str) -> String| {
        file(Dtype::F32, |shapes| {
            let named = std::mem::take(shapes).into_iter();
            *shapes = named.map(|(name, shape)| (change(&name), shape)).collect();
        })
    };
    let ways: [fn(&str) -> String; 6] = [
        |name| name.replace("res1.", "res1._orig_mod."),
        |name| name.replace(".conv2d", "._orig_mod.conv2d"),
        |name| format!("_fsdp_wrapped_module.{}", name.replace('.', "._fsdp_wrapped_module.")),
        |name| name.replace("res", "_checkpoint_wrapped_module.res"),
        |name| format!("module.{}", name.replace("res3.", "res3._orig_mod.")),
        |name| format!("model._orig_mod.{}", name.replace("in4.", "in4._orig_mod.")),
    ];
    for (at, way) in ways.into_iter().enumerate() {
        let net = TransformerNet::from_safetensors(&renamed(way));
        assert_eq!(net.unwrap_or_else(|e| panic!("{at}: {e}")), plain, "{at}");
    }
    let message = |change: fn(&mut Shapes)| {
        TransformerNet::from_safetensors(&file(Dtype::F32, change)).unwrap_err().to_string()
    };
    let twice = message(|shapes| drop(shapes.insert("in4._orig_mod.bias".to_owned(), vec![4])));
    assert_eq!(
        twice,
        "tensors `in4._orig_mod.bias` and `in4.bias` have the same place in the network: leave one of them out"
    );
    let shape = message(|shapes| {
        shapes.remove("in4.bias");
        shapes.insert("in4._orig_mod.bias".to_owned(), vec![5]);
    });
    assert_eq!(
        shape,
        "tensor `in4._orig_mod.bias` has shape [5], expected [4] in a network of width 2"
    );
    // `AveragedModel` counts what it has averaged.
    let averaged = file(Dtype::F32, |shapes| {
        prefixed("module.")(shapes);
        shapes.insert("n_averaged".to_owned(), vec![]);
    });
    assert_eq!(TransformerNet::from_safetensors(&averaged).unwrap(), plain);
}

#[test]
fn names_under_different_prefixes_are_called_so() {
    for part in ["res", "in", "conv", "deconv", "e"] {
        for prefix in ["module.", "model.net."] {
            let bytes = file(Dtype::F32, |shapes| {
                let named = std::mem::take(shapes).into_iter();
                let named = named.map(|(name, shape)| match name.contains(part) {
                    true => (format!("{prefix}{name}"), shape),
                    false => (name, shape),
                });
                *shapes = named.collect();
            });
            let message = TransformerNet::from_safetensors(&bytes).unwrap_err().to_string();
            assert!(!message.contains("a network with"), "{part}: {message}");
            assert!(message.contains(&format!("`{prefix}")), "{part}: {message}");
            let start = "the file holds tensors of one network under different prefixes, such as `";
            assert!(message.starts_with(start), "{part}: {message}");
        }
    }
}

#[test]
fn under_a_prefix_every_message_has_the_names_of_the_file() {
    let message = |change: fn(&mut Shapes)| {
        let change = |shapes: &mut Shapes| {
            prefixed("module.")(shapes);
            change(shapes);
        };
        TransformerNet::from_safetensors(&file(Dtype::F32, change)).unwrap_err().to_string()
    };
    let missing = message(|shapes| drop(shapes.remove("module.in4.bias")));
    assert_eq!(missing, "tensor `module.in4.bias` is missing, expected with shape [4]");
    let more = message(|shapes| drop(shapes.insert("step".to_owned(), vec![1])));
    assert_eq!(more, "tensor `step` of shape [1] has no place in this network");
    let unprefixed = message(|shapes| {
        let shape = shapes.remove("module.in4.bias").unwrap();
        shapes.insert("in4.bias".to_owned(), shape);
    });
    assert_eq!(
        unprefixed,
        "tensor `module.in4.bias` is missing, expected with shape [4]; \
         the file has `in4.bias` of shape [4], which has no place in this network"
    );
    let shape = message(|shapes| drop(shapes.insert("module.in1.bias".to_owned(), vec![5])));
    let expected = "tensor `module.in1.bias` has shape [5], expected [2] in a network of width 2";
    assert_eq!(shape, expected);
    // Two copies: none is taken in silence.
    let copies = message(|shapes| {
        let again = shapes.clone().into_iter();
        shapes.extend(again.map(|(name, shape)| (format!("ema.{name}"), shape)));
    });
    assert_eq!(
        copies,
        "tensor `ema.module.conv1.conv2d.bias` of shape [2] (and 61 others) has no place in this network"
    );
}

/// A file of f32 tensors with these names, each of this shape.
fn foreign(names: &[&str], shape: &[usize]) -> Vec<u8> {
    let shapes = names.iter().map(|name| ((*name).to_owned(), shape.to_vec()));
    write(Dtype::F32, &shapes.collect())
}

#[test]
fn another_architecture_is_named_with_what_was_found_and_expected() {
    let blocks = |number: usize| {
        move |shapes: &mut Shapes| {
            shapes.retain(|name, _| !name.starts_with("res"));
            for block in 1..=number {
                for half in [1, 2] {
                    let (conv, norm) =
                        (format!("res{block}.conv{half}.conv2d"), format!("res{block}.in{half}"));
                    shapes.insert(format!("{conv}.weight"), vec![8, 8, 3, 3]);
                    for vector in
                        [format!("{conv}.bias"), format!("{norm}.weight"), format!("{norm}.bias")]
                    {
                        shapes.insert(vector, vec![8]);
                    }
                }
            }
        }
    };
    let renamed = |from: &'static str, to: &'static str| {
        move |shapes: &mut Shapes| {
            let named = std::mem::take(shapes).into_iter();
            *shapes = named.map(|(name, shape)| (name.replace(from, to), shape)).collect();
        }
    };
    let kernels = |shapes: &mut Shapes| {
        shapes.values_mut().for_each(|shape| shape.insert(0, 1));
    };
    let files: [(Vec<u8>, &str); 14] = [
        (
            foreign(&["classifier.0.bias", "features.0.weight", "features.2.weight"], &[2]),
            "a classifier in torchvision's names, such as VGG: 3 tensors, such as `features.0.weight` of shape [2]",
        ),
        (foreign(&["layer1.0.conv1.weight", "fc.bias"], &[2]), "a ResNet in torchvision's names"),
        (foreign(&["0.weight", "2.weight"], &[2]), "the numbered layers of an `nn.Sequential`"),
        (foreign(&["lora_unet_mid.lora_down.weight"], &[2]), "a LoRA"),
        (
            foreign(&["anything"], &[2, 1]),
            "another network: 1 tensors, such as `anything` of shape [2, 1]",
        ),
        (foreign(&[], &[]), "no tensors at all"),
        (
            adain_file(&DECODER, 3, |_| {}),
            "AdaIn's decoder (`conv41.weight` to `conv11.bias`) of width 3",
        ),
        (
            adain_file(&ENCODER, 3, prefixed("encoder.")),
            "AdaIn's encoder (`conv0.weight` to `conv41.bias`) of width 3",
        ),
        (file(Dtype::F32, blocks(6)), "a network with 6 residual blocks"),
        (file(Dtype::F32, blocks(0)), "a network with 0 residual blocks"),
        (
            file(Dtype::F32, |shapes| {
                prefixed("module.")(shapes);
                shapes.retain(|name, _| !name.starts_with("module.res5"));
            }),
            "a network with 4 residual blocks",
        ),
        (
            file(Dtype::F32, renamed(".conv2d", "")),
            "a network whose convolutions' names lack `.conv2d` (`conv1.weight`)",
        ),
        (
            file(Dtype::F32, renamed("conv2d", "conv_layer")),
            "another network: 62 tensors, such as `conv1.conv_layer.bias` of shape [2]",
        ),
        (
            file(Dtype::F32, kernels),
            "tensors of the right names and other shapes, such as `conv1.conv2d.weight` of [1, 2, 3, 9, 9]",
        ),
    ];
    for (bytes, found) in files {
        let error = TransformerNet::from_safetensors(&bytes).unwrap_err();
        let WeightsError::Architecture { .. } = error else { panic!("{found}: {error}") };
        let message = error.to_string();
        let start = format!("the file holds {found}");
        assert!(message.starts_with(&start), "{start:?} is not in {message}");
        let end = "expected a style network of PyTorch's fast_neural_style (`conv1.conv2d.weight`, `in1.weight`, … with five residual blocks)";
        assert!(message.ends_with(end), "{message}");
    }
    // Norms or convolutions under other names: the first that is missing, and what is there in its place.
    for (from, to, missing, found) in [
        ("in4", "norm4", "in4.bias", "norm4.bias"),
        ("deconv1", "up1", "deconv1.conv2d.weight", "up1.conv2d.bias"),
    ] {
        let error = TransformerNet::from_safetensors(&file(Dtype::F32, renamed(from, to)));
        let message = error.unwrap_err().to_string();
        let start = format!("tensor `{missing}` is missing");
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains(" (and another one)"), "{message}");
        let end =
            format!("; the file has `{found}` of shape [4], which has no place in this network");
        assert!(message.ends_with(&end), "{message}");
    }
    let (encoder, style) = (adain_file(&ENCODER, 2, |_| {}), file(Dtype::F32, |_| {}));
    let message = |encoder: &[u8], decoder: &[u8]| {
        AdaInNet::from_safetensors(encoder, decoder).unwrap_err().to_string()
    };
    let wrong = message(&encoder, &encoder);
    assert!(wrong.starts_with("the decoder: the file holds AdaIn's encoder"), "{wrong}");
    let wrong = message(&style, &encoder);
    assert!(wrong.starts_with("the encoder: the file holds a style network"), "{wrong}");
}

#[test]
fn the_width_is_that_of_most_tensors() {
    // A network of width 2 whose first stage is of width 3.
    let bytes = file(Dtype::F32, |shapes| {
        shapes.insert("conv1.conv2d.weight".to_owned(), vec![3, 3, 9, 9]);
        for vector in ["conv1.conv2d.bias", "in1.weight", "in1.bias"] {
            shapes.insert(vector.to_owned(), vec![3]);
        }
    });
    let message = TransformerNet::from_safetensors(&bytes).unwrap_err().to_string();
    assert_eq!(
        message,
        "tensor `conv1.conv2d.weight` has shape [3, 3, 9, 9], expected [2, 3, 9, 9] in a network of width 2"
    );
}

#[test]
fn values_that_are_not_finite_are_refused_with_tensor_and_place() {
    let shapes_of = |bytes: &[u8]| SafeTensors::deserialize(bytes).unwrap().names().len();
    for (dtype, width, spoiled) in [
        (Dtype::F32, 4, vec![0, 0, 0xc0, 0x7f]),
        (Dtype::F32, 4, vec![0, 0, 0x80, 0xff]),
        (Dtype::F16, 2, vec![0, 0x7c]),
        (Dtype::BF16, 2, vec![0xc0, 0x7f]),
    ] {
        let bytes = file(dtype, |_| {});
        let names: Vec<String> = {
            let read = SafeTensors::deserialize(&bytes).unwrap();
            read.names().into_iter().map(str::to_owned).collect()
        };
        assert_eq!(names.len(), shapes_of(&bytes));
        for name in names {
            let mut bytes = bytes.clone();
            let (start, length) = {
                let read = SafeTensors::deserialize(&bytes).unwrap();
                let data = read.tensor(&name).unwrap().data();
                (data.as_ptr() as usize - bytes.as_ptr() as usize, data.len())
            };
            // The last value of the tensor.
            bytes[start + length - width..start + length].copy_from_slice(&spoiled);
            let error = TransformerNet::from_safetensors(&bytes).unwrap_err();
            let WeightsError::NotFinite { tensor, value, index, count, total, half } = &error
            else {
                panic!("{dtype:?} {name}: {error}");
            };
            assert_eq!((tensor, *count, *total), (&name, 1, length / width));
            assert!(!value.is_finite());
            assert_eq!(*half, dtype == Dtype::F16);
            assert_eq!(error.to_string().contains("save as F32"), *half);
            let read = SafeTensors::deserialize(&bytes).unwrap();
            let shape = read.tensor(&name).unwrap().shape().to_vec();
            let last: Vec<_> = shape.iter().map(|length| length - 1).collect();
            assert_eq!(*index, last);
            let text = error.to_string();
            assert!(text.contains(&format!("`{name}` holds {value} at {last:?}")), "{text}");
        }
    }
    let mut encoder = adain_file(&ENCODER, 2, |_| {});
    let end = encoder.len() - 4;
    encoder[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    let refused = AdaInNet::from_safetensors(&encoder, &adain_file(&DECODER, 2, |_| {}));
    let message = refused.unwrap_err().to_string();
    assert!(
        message.starts_with("the encoder: tensor `conv41.weight` holds NaN at [15, 7, 2, 2]"),
        "{message}"
    );
    let mut decoder = adain_file(&DECODER, 2, |_| {});
    let end = decoder.len() - 4;
    decoder[end..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let refused = AdaInNet::from_safetensors(&adain_file(&ENCODER, 2, |_| {}), &decoder);
    let message = refused.unwrap_err().to_string();
    assert!(message.starts_with("the decoder: tensor `conv41.weight` holds inf at"), "{message}");
}

#[test]
fn files_of_other_kinds_are_named_with_what_to_do() {
    let mut tar = vec![b'a'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let zip = |name: &str| [b"PK\x03\x04\x14\0\0\0", name.as_bytes(), b"\0\x01"].concat();
    let legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    let state_dict =
        b"\x80\x02ccollections\nOrderedDict\nq\0ctorch._utils\n_rebuild_tensor_v2".to_vec();
    let text = |text: &str| text.as_bytes().to_vec();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    };
    let files: [(Vec<u8>, &str, &str); 43] = [
        (
            b"<html><title>Acc\xe8s refus\xe9</title>".to_vec(),
            "a web page",
            "the link of the file itself",
        ),
        (
            b"\r\n<!DOCTYPE html>\x93quoted\x94".to_vec(),
            "a web page",
            "the link of the file itself",
        ),
        (
            b"Fichier supprim\xe9 !".to_vec(),
            "a text that begins “Fichier supprimé !”",
            "fetch it again",
        ),
        (utf16("\u{feff}<html>", u16::to_le_bytes), "a web page", "the link of the file itself"),
        (
            utf16("\u{feff}\r\n<html>", u16::to_be_bytes),
            "a web page",
            "the link of the file itself",
        ),
        (utf16("<html>", u16::to_le_bytes), "a web page", "the link of the file itself"),
        (utf16("<html>", u16::to_be_bytes), "a web page", "the link of the file itself"),
        (vec![], "an empty file", "fetch it again"),
        (vec![0; 4096], "a file of zeros", "fetch it again"),
        (
            zip("archive/data.pkl"),
            "a PyTorch checkpoint (.pth)",
            "safetensors.torch.save_file(torch.load(",
        ),
        (zip("style/data.pkl and style/constants.pkl"), "a TorchScript archive", "torch.jit.load("),
        (zip("weights.npy"), "a file of NumPy's arrays", "safetensors.numpy.save_file("),
        (zip("readme.txt"), "a zip archive", "unpack it"),
        (b"PK\x05\x06\0\0".to_vec(), "a zip archive", "unpack it"),
        (legacy, "a PyTorch checkpoint (.pth)", "safetensors.torch.save_file(torch.load("),
        (state_dict, "a PyTorch checkpoint (.pth)", "safetensors.torch.save_file(torch.load("),
        (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}\x94.".to_vec(), "a Python pickle", "save_file"),
        (
            b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x0d\0\0\0nn.Sequential".to_vec(),
            "a model of Lua Torch (.t7)",
            "fast_neural_style",
        ),
        (text(lfs), "a Git LFS pointer", "`git lfs pull`"),
        (
            text("/annex/objects/SHA256E-s12--ab.safetensors\n"),
            "a git-annex pointer",
            "`git annex get`",
        ),
        (text("<!DOCTYPE html><html lang=\"en\">"), "a web page", "the link of the file itself"),
        (text("\u{feff}\r\n  <html><head>"), "a web page", "the link of the file itself"),
        (text("<!doctype HTML>"), "a web page", "the link of the file itself"),
        (
            text("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>"),
            "a web page",
            "the link of the file itself",
        ),
        (text("{\"error\": \"Repository not found\"}"), "JSON", "the file that holds the tensors"),
        (text("[1, 2]"), "JSON", "the file that holds the tensors"),
        (
            text("{\n \"metadata\": {}, \"weight_map\": {}}"),
            "the index (JSON)",
            "the file that holds the tensors",
        ),
        (text("404: Not Found"), "a text that begins “404: Not Found”", "fetch it again"),
        (text(&"no end ".repeat(200)), "a text that begins “no end no end", "fetch it again"),
        (text(&"ä".repeat(300)), "a text that begins “ää", "fetch it again"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), "a gzip archive", "unpack it"),
        (b"\xfd7zXZ\0\0\x04".to_vec(), "a xz archive", "unpack it"),
        (b"\x28\xb5\x2f\xfd\x04\x58".to_vec(), "a zstd archive", "unpack it"),
        (b"BZh91AY&SY".to_vec(), "a bzip2 archive", "unpack it"),
        (tar, "a tar archive", "unpack it"),
        (b"\x08\x07\x12\x07pytorch\x1a\x032.1".to_vec(), "a model in the format ONNX", "save_file"),
        (b"\x08\x0a:\xff\x01".to_vec(), "a model in the format ONNX", "save_file"),
        (b"GGUF\x03\0\0\0\x23\x01\0\0".to_vec(), "a model in the format GGUF", "save_file"),
        (b"\x89HDF\r\n\x1a\n\0\0".to_vec(), "a model in the format HDF5 (Keras)", "save_file"),
        (b"\x1c\0\0\0TFL3\x14\0".to_vec(), "a model in the format TensorFlow Lite", "save_file"),
        (
            b"\x93NUMPY\x01\0v\0".to_vec(),
            "a file of NumPy's arrays",
            "safetensors.numpy.save_file(",
        ),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "a picture", "--adain"),
        (b"RIFF\x24\0\0\0WEBPVP8 ".to_vec(), "a picture", "--adain"),
    ];
    for (bytes, what, remedy) in files {
        let error = TransformerNet::from_safetensors(&bytes).unwrap_err();
        let WeightsError::Content { .. } = error else { panic!("{what}: {error}") };
        let message = error.to_string();
        assert!(message.starts_with(&format!("this is {what}")), "{what}: {message}");
        assert!(message.contains("not a safetensors file: "), "{message}");
        assert!(message.contains(remedy), "{remedy:?} is not in {message}");
    }
    let encoder = adain_file(&ENCODER, 2, |_| {});
    let message = AdaInNet::from_safetensors(&encoder, lfs.as_bytes()).unwrap_err().to_string();
    assert!(message.starts_with("the decoder: this is a Git LFS pointer"), "{message}");
    // What may be a damaged safetensors file is called that.
    for bytes in [&b"\x10\0\0\0\0\0\0\0{\"a\": 1}"[..], b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7"] {
        let error = TransformerNet::from_safetensors(bytes).unwrap_err();
        assert!(matches!(error, WeightsError::Format(_)), "{error}");
    }
}
