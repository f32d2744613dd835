//! Checkpoints whose values have other types or shapes than the layer's: converted as PyTorch does, or refused
//! with the value; and what a file says about itself.

#![cfg(feature = "safetensors")]

mod common;

use common::device;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use wgnorm::{
    Affine, BatchNorm1d, Context, DType, Error, InstanceNorm1d, InstanceNorm2d,
    InstanceNormAxisConfig, LayerNorm, Lazy, LazyBatchNorm1d, LoadOptions, LoadReport, Names,
    StateDict, StateError, Tensor, bf16, f16,
};

/// A file of these values.
fn file(values: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = values.iter().map(|&(name, dtype, shape, bytes)| {
        (name, TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn state(values: &[(&str, Dtype, &[usize], &[u8])]) -> StateDict {
    StateDict::from_safetensors(&file(values)).unwrap()
}

/// A layer's own state with this count instead of its own.
fn counted(layer: &BatchNorm1d, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> StateDict {
    let mut own = layer.state_dict_blocking().unwrap();
    own.remove("num_batches_tracked");
    let count = state(&[("num_batches_tracked", dtype, shape, bytes)]);
    own.insert_all("", count);
    own
}

fn refused(result: Result<LoadReport, Error>) -> String {
    match result {
        Err(error @ Error::State(StateError::Load { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The number five, or four where there is no five.
fn counts() -> Vec<(Dtype, Vec<u8>, u64)> {
    vec![
        (Dtype::F16, f16::from_f32(5.0).to_le_bytes().to_vec(), 5),
        (Dtype::BF16, bf16::from_f32(5.0).to_le_bytes().to_vec(), 5),
        (Dtype::F32, 5f32.to_le_bytes().to_vec(), 5),
        (Dtype::F64, 5f64.to_le_bytes().to_vec(), 5),
        (Dtype::I8, vec![5], 5),
        (Dtype::U8, vec![5], 5),
        (Dtype::I16, 5i16.to_le_bytes().to_vec(), 5),
        (Dtype::U16, 5u16.to_le_bytes().to_vec(), 5),
        (Dtype::I32, 5i32.to_le_bytes().to_vec(), 5),
        (Dtype::U32, 5u32.to_le_bytes().to_vec(), 5),
        (Dtype::I64, 5i64.to_le_bytes().to_vec(), 5),
        (Dtype::U64, 5u64.to_le_bytes().to_vec(), 5),
        (Dtype::BOOL, vec![1], 1),
        (Dtype::F8_E4M3, vec![0x4A], 5),
        (Dtype::F8_E5M2, vec![0x45], 5),
        (Dtype::F8_E4M3FNUZ, vec![0x52], 5),
        (Dtype::F8_E5M2FNUZ, vec![0x49], 5),
        (Dtype::F8_E8M0, vec![129], 4),
        (Dtype::F32, (-0f32).to_le_bytes().to_vec(), 0),
        (Dtype::U32, u32::MAX.to_le_bytes().to_vec(), u32::MAX.into()),
        (Dtype::F64, 4294967295f64.to_le_bytes().to_vec(), u32::MAX.into()),
    ]
}

/// A whole number is a count whatever its type, with the axis that PyTorch 0.3 gave it, too.
#[test]
fn counts_of_any_type_are_loaded() {
    for device in device::all() {
        for (dtype, bytes, want) in counts() {
            for shape in [&[][..], &[1]] {
                let what = format!("{} {dtype} {shape:?}", device.name);
                let mut layer = BatchNorm1d::config(2).init(&device.context).unwrap();
                let state = counted(&layer, dtype, shape, &bytes);
                let report = layer.load_state_dict(&state, &LoadOptions::strict());
                let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(report.loaded.contains(&"num_batches_tracked".to_owned()), "{what}");
                assert_eq!(layer.num_batches_tracked_blocking().unwrap(), want, "{what}");
            }
        }
    }
}

/// What is no count is refused with its shape, its value or its type; lenient loading reports it, and keeps
/// the layer's.
#[test]
fn what_is_no_count_is_told() {
    let seven = 7i64.to_le_bytes();
    let pair = [seven, seven].concat();
    let whole = "must be a whole number from 0 to 4294967295, got ";
    let number = |value: f32| (Dtype::F32, vec![], value.to_le_bytes().to_vec());
    type Count = (Dtype, Vec<usize>, Vec<u8>);
    let cases: Vec<(Count, String)> = vec![
        ((Dtype::I64, vec![], (-1i64).to_le_bytes().to_vec()), format!("{whole}-1")),
        ((Dtype::I64, vec![1], (-1i64).to_le_bytes().to_vec()), format!("{whole}-1")),
        ((Dtype::I8, vec![], vec![0x80]), format!("{whole}-128")),
        (number(7.5), format!("{whole}7.5")),
        (number(-2.0), format!("{whole}-2.0")),
        (number(f32::NAN), format!("{whole}NaN")),
        (number(f32::INFINITY), format!("{whole}inf")),
        (number(4294967296.0), format!("{whole}4294967296.0")),
        ((Dtype::U64, vec![], u64::MAX.to_le_bytes().to_vec()), format!("{whole}{}", u64::MAX)),
        (
            (Dtype::I64, vec![], (1i64 << 32).to_le_bytes().to_vec()),
            "must be a whole number from 0 to 4294967295, got 4294967296".to_owned(),
        ),
        ((Dtype::F8_E4M3, vec![], vec![0x7F]), format!("{whole}NaN")),
        ((Dtype::I64, vec![2], pair.clone()), "must have shape (), got (2)".to_owned()),
        ((Dtype::I64, vec![1, 1], seven.to_vec()), "must have shape (), got (1, 1)".to_owned()),
        ((Dtype::F32, vec![0], vec![]), "must have shape (), got (0)".to_owned()),
        (
            (Dtype::C64, vec![], vec![0; 8]),
            "must be of a float, integer or boolean type of at least 8 bits, got C64".to_owned(),
        ),
    ];
    let context = Context::host();
    for ((dtype, shape, bytes), want) in cases {
        let mut layer = BatchNorm1d::config(2).init(&context).unwrap();
        layer.set_running_stats(&[1.0; 2], &[2.0; 2], 9).unwrap();
        let state = counted(&layer, dtype, &shape, &bytes);
        let message = refused(layer.load_state_dict(&state, &LoadOptions::strict()));
        let want = format!("num_batches_tracked {want}");
        assert!(message.ends_with(&want), "{message}\nfor {want}");
        let report = layer.load_state_dict(&state, &LoadOptions::strict().lenient()).unwrap();
        assert_eq!(report.mismatched.len(), 1, "{report}");
        assert!(report.to_string().contains(&want) && !report.is_complete(), "{report}");
        assert_eq!(report.loaded.len(), 4, "{report}");
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 9, "{want}");
    }
}

#[derive(serde::Deserialize)]
struct Case {
    dtype: String,
    bytes: Vec<u8>,
    #[serde(flatten)]
    converted: HashMap<String, Vec<Option<u64>>>,
}

/// A value of `dtype` by its bits.
fn of_bits(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F32 => f32::from_bits(bits as u32).into(),
        DType::F16 => f16::from_bits(bits as u16).to_f64(),
        DType::BF16 => bf16::from_bits(bits as u16).to_f64(),
        _ => f64::from_bits(bits),
    }
}

/// Integers, booleans and all 8-bit floats, into layers of every element type, as parameters and as
/// running statistics: the bits that PyTorch's `copy_` gives (torch_values.py).
#[test]
fn values_are_converted_as_by_pytorch() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("torch_values.json")).unwrap();
    assert_eq!(cases.len(), 14);
    let types = [DType::F32, DType::F16, DType::BF16, DType::F64];
    for device in device::all() {
        for case in &cases {
            let name = case.dtype.as_str();
            let stored: Dtype = serde_json::from_value(name.into()).unwrap();
            let len = case.bytes.len() * 8 / stored.bitsize();
            let shape = [len];
            for dtype in types {
                if dtype == DType::F64 && device.name != "host" {
                    continue;
                }
                let config = InstanceNorm1d::config(len).with_affine(Affine::Both);
                let config = config.with_track_running_stats(true);
                let layer = config.init(&device.context).unwrap();
                let mut layer = layer.cast_blocking(dtype).unwrap();
                let names = ["weight", "bias", "running_mean", "running_var"];
                let values: Vec<_> =
                    names.iter().map(|&name| (name, stored, &shape[..], &case.bytes[..])).collect();
                let what = format!("{} {name} to {dtype}", device.name);
                let loaded = layer.load_state_dict(&state(&values), &LoadOptions::strict());
                loaded.unwrap_or_else(|error| panic!("{what}: {error}"));
                let want = &case.converted[&dtype.to_string()];
                assert_eq!(want.len(), len);
                let tensors = layer.named_parameters().map(|(_, tensor)| tensor.clone());
                let tensors = tensors.chain(layer.named_buffers().map(|(_, tensor)| tensor));
                let mut seen = 0;
                for tensor in tensors {
                    seen += 1;
                    let got = tensor.to_vec_of_blocking::<f64>().unwrap();
                    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
                        let same = match *want {
                            None => got.is_nan(),
                            Some(bits) => got.to_bits() == of_bits(dtype, bits).to_bits(),
                        };
                        assert!(same, "{what}, element {i}: {got:e} for {want:x?}");
                    }
                }
                assert_eq!(seen, 4);
            }
        }
    }
}

/// Types that are no real numbers of whole bytes are named; a shape that does not fit, with both shapes.
#[test]
fn other_types_are_named() {
    let mut layer =
        LayerNorm::config([4]).with_affine(Affine::Weight).init(&Context::host()).unwrap();
    for (dtype, bytes) in
        [(Dtype::C64, 32), (Dtype::F4, 2), (Dtype::F6_E2M3, 3), (Dtype::F6_E3M2, 3)]
    {
        let state = state(&[("weight", dtype, &[4], &vec![0; bytes])]);
        let message = refused(layer.load_state_dict(&state, &LoadOptions::strict()));
        let got = format!("boolean type of at least 8 bits, got {dtype}");
        assert!(
            message.contains("weight must be of a float") && message.ends_with(&got),
            "{message}"
        );
    }
    let long = state(&[("weight", Dtype::U8, &[2, 2], &[1; 4])]);
    let message = refused(layer.load_state_dict(&long, &LoadOptions::strict()));
    assert!(message.ends_with("weight must have shape (4), got (2, 2)"), "{message}");
    // A single int64 is a count for who reads the file, and here a weight without axes.
    let count = state(&[("weight", Dtype::I64, &[], &7u64.to_le_bytes())]);
    let message = refused(layer.load_state_dict(&count, &LoadOptions::strict()));
    assert!(message.ends_with("weight must have shape (4), got ()"), "{message}");
}

/// Integer values tell a lazy layer its channels, under other frameworks' names, too.
#[test]
fn integers_tell_a_lazy_layer_its_channels() {
    let context = &Context::host();
    let values = state(&[
        ("gamma", Dtype::I32, &[2], &[3, 0, 0, 0, 4, 0, 0, 0]),
        ("beta", Dtype::BOOL, &[2], &[1, 0]),
    ]);
    let mut lazy = Lazy::new(InstanceNormAxisConfig::mxnet(0), context).unwrap();
    let mxnet = LoadOptions::strict().with_names(Names::Mxnet);
    assert!(lazy.load_state_dict(&values, &mxnet).unwrap().is_complete());
    let layer = lazy.layer().unwrap();
    assert_eq!(layer.weight().unwrap().as_slice().unwrap(), [3.0, 4.0]);
    assert_eq!(layer.bias().unwrap().as_slice().unwrap(), [1.0, 0.0]);

    let values = state(&[
        ("weight", Dtype::F8_E5M2, &[3], &[0x3C, 0x40, 0x44]),
        ("bias", Dtype::I8, &[3], &[0xFF, 0, 1]),
        ("running_mean", Dtype::U8, &[3], &[1, 2, 3]),
        ("running_var", Dtype::I64, &[3], &[4u64, 5, 6].map(u64::to_le_bytes).concat()),
        ("num_batches_tracked", Dtype::F16, &[1], &f16::from_f32(12.0).to_le_bytes()),
    ]);
    let mut lazy = LazyBatchNorm1d::new(BatchNorm1d::config(0), context).unwrap();
    let oneflow = LoadOptions::strict().with_names(Names::Oneflow);
    assert_eq!(lazy.load_state_dict(&values, &oneflow).unwrap().loaded.len(), 5);
    let layer = lazy.layer().unwrap();
    assert_eq!(layer.weight().unwrap().as_slice().unwrap(), [1.0, 2.0, 4.0]);
    assert_eq!(layer.running_var().unwrap().to_vec_blocking().unwrap(), [4.0, 5.0, 6.0]);
    assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 12);

    // Complex numbers tell nothing: the layer stays open.
    let complex = state(&[("weight", Dtype::C64, &[3], &[0; 24])]);
    let mut lazy = LazyBatchNorm1d::new(BatchNorm1d::config(0), context).unwrap();
    assert!(lazy.load_state_dict(&complex, &LoadOptions::strict().lenient()).is_ok());
    assert!(lazy.layer().is_err());
    // What is wrong is the type: the layer would have taken 3 channels, or any other number of them but 0.
    let told = refused(lazy.load_state_dict(&complex, &LoadOptions::strict()));
    assert!(
        told.contains("weight must be of a float") && !told.contains("weight must have"),
        "{told}"
    );
    let none = state(&[("weight", Dtype::F32, &[0], &[])]);
    assert!(lazy.load_state_dict(&none, &LoadOptions::strict().lenient()).is_ok());
    assert!(lazy.layer().is_err());
}

/// What is loaded as numbers goes out again as it came.
#[test]
fn other_types_are_written_as_they_came() {
    let bytes = file(&[
        ("num_batches_tracked", Dtype::I64, &[1], &(-1i64).to_le_bytes()),
        ("weight", Dtype::F8_E4M3, &[2], &[0x38, 0x40]),
    ]);
    let written = StateDict::from_safetensors(&bytes).unwrap().to_safetensors().unwrap();
    let (old, new) =
        (SafeTensors::deserialize(&bytes).unwrap(), SafeTensors::deserialize(&written).unwrap());
    for name in ["num_batches_tracked", "weight"] {
        assert_eq!(old.tensor(name).unwrap(), new.tensor(name).unwrap());
    }
}

/// `__metadata__` of a file.
fn metadata(bytes: &[u8]) -> Vec<(String, String)> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let mut all: Vec<_> = header.metadata().clone().unwrap_or_default().into_iter().collect();
    all.sort();
    all
}

/// A file's metadata are kept, whatever they say; a state without any says what PyTorch's files say.
#[test]
fn metadata_are_kept() {
    let layer = InstanceNorm2d::config(3).with_affine(Affine::Both).init(&Context::host()).unwrap();
    let mut own = layer.state_dict_blocking().unwrap();
    let pt = [("format".to_owned(), "pt".to_owned())];
    assert!(own.metadata().is_empty());
    assert_eq!(metadata(&own.to_safetensors().unwrap()), pt);
    assert_eq!(metadata(&StateDict::new().to_safetensors().unwrap()), pt);

    let texts = [
        ("author", "Ada \"L\" \\ \u{1}\n"),
        ("format", "flax"),
        ("", "no name"),
        ("größe", "✓ 𝄞"),
        ("__metadata__", "{}"),
        ("weight", ""),
    ];
    let theirs: HashMap<String, String> =
        texts.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let values = [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat();
    for tensors in 0..3 {
        let names = ["weight", "x"];
        let view = || TensorView::new(Dtype::F32, vec![2], &values).unwrap();
        let views = names[..tensors].iter().map(|name| (*name, view()));
        let bytes = safetensors::serialize(views, Some(theirs.clone())).unwrap();
        let state = StateDict::from_safetensors(&bytes).unwrap();
        assert_eq!(state.metadata().len(), texts.len());
        let written = state.to_safetensors().unwrap();
        assert_eq!(metadata(&written), metadata(&bytes), "{tensors}");
        // Numbers start where other readers expect them, and are the same.
        let header = u64::from_le_bytes(written[..8].try_into().unwrap());
        assert!(header.is_multiple_of(8));
        let file = SafeTensors::deserialize(&written).unwrap();
        assert_eq!(file.len(), tensors);
        file.tensors().iter().for_each(|(_, view)| assert_eq!(view.data(), values));
        // The same bytes are written every time, also by a state that was read from them.
        for _ in 0..8 {
            let again = StateDict::from_safetensors(&written).unwrap();
            assert_eq!(again.to_safetensors().unwrap(), written);
        }
    }

    own.metadata_mut().insert("step".to_owned(), "12".to_owned());
    let mut network = StateDict::new();
    network.metadata_mut().insert("format".to_owned(), "np".to_owned());
    own.metadata_mut().insert("format".to_owned(), "pt".to_owned());
    network.insert_all("norm.", own);
    let want = [("format", "np"), ("step", "12")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(metadata(&network.to_safetensors().unwrap()), want);
}

/// A header that no reader takes is not written.
#[test]
fn metadata_that_no_file_can_hold() {
    let mut state = StateDict::new();
    state.insert("weight", Tensor::from_slice([1], &[1.0f32]).unwrap()).unwrap();
    state.metadata_mut().insert("text".to_owned(), "a".repeat(100_000_000));
    let refused = state.to_safetensors();
    assert!(matches!(refused, Err(Error::State(StateError::Format { .. }))), "{refused:?}");
}
