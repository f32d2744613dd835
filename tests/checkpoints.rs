//! Checkpoints: PyTorch's files in, files for PyTorch out, on every back end; what does not fit is
//! reported by name.

#![cfg(feature = "safetensors")]

mod common;

use common::data::{self, read};
use common::layer::Layer;
use common::{device, random};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use wgnorm::{
    Affine, BatchNorm1d, BatchNorm2d, ConditionalInstanceNorm, Context, DType, Error, GroupNorm,
    InstanceNorm1d, InstanceNorm2d, InstanceNormAxisConfig, LayerNorm, Lazy, LoadOptions,
    LoadReport, MemoryOrder, Mismatch, Mode, Momentum, Names, Parameters, RmsNorm, StateDict,
    StateError, StateValue, Tensor,
};

/// The golden set's file, or nothing where the published package is tested, which has none.
fn file(name: &str) -> Option<Vec<u8>> {
    let directory = std::env::var_os("WGNORM_GOLDEN_DIR").map(PathBuf::from);
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let asked = directory.is_some();
    let path = directory.unwrap_or_else(|| package.join("tests/golden")).join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(reason) if !asked && package.join("Cargo.toml.orig").exists() => {
            eprintln!("skipped: {} ({reason})", path.display());
            None
        }
        Err(reason) => panic!("{}: {reason}", path.display()),
    }
}

/// Name, element type, shape and bytes of everything in a file, by name.
fn contents(bytes: &[u8]) -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut contents: Vec<_> = file
        .iter()
        .map(|(name, view)| {
            (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec())
        })
        .collect();
    contents.sort_by(|a, b| a.0.cmp(&b.0));
    contents
}

/// The elements of a vector in a file.
fn features(bytes: &[u8], name: &str) -> usize {
    SafeTensors::deserialize(bytes).unwrap().tensor(name).unwrap().shape()[0]
}

fn instance_norm(context: &Context) -> InstanceNorm2d {
    let config = InstanceNorm2d::config(5).with_affine(Affine::Both);
    config.with_track_running_stats(true).init(context).unwrap()
}

fn host(shape: &[usize], values: &[f64]) -> Tensor<'static> {
    data::host(shape, DType::F32, MemoryOrder::ChannelsFirst, values).unwrap()
}

/// Everything a layer holds.
fn held(layer: &Parameters) -> Vec<Vec<f64>> {
    let mut held: Vec<Vec<f64>> =
        layer.named_parameters().map(|(_, tensor)| read(tensor).unwrap()).collect();
    held.extend(layer.named_buffers().map(|(_, tensor)| read(&tensor).unwrap()));
    held.extend(layer.num_batches_tracked_blocking().ok().map(|count| vec![count as f64]));
    held
}

/// A file of PyTorch's comes in, and goes out as it was: names, types, shapes, bytes.
#[test]
fn a_pytorch_layer_round_trips() {
    let Some(bytes) = file("state_dict_instancenorm2d.safetensors") else { return };
    for device in device::all() {
        let config = InstanceNorm2d::config(features(&bytes, "weight")).with_affine(Affine::Both);
        let mut layer = config.with_track_running_stats(true).init(&device.context).unwrap();
        let state = StateDict::from_safetensors(&bytes).unwrap();
        let report = layer.load_state_dict(&state, &LoadOptions::strict()).unwrap();
        assert!(report.is_complete(), "{report}");
        let names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"];
        assert_eq!(report.loaded, names);
        let counted = layer.num_batches_tracked_blocking().unwrap();
        let written = layer.state_dict_blocking().unwrap().to_safetensors().unwrap();
        assert_eq!(contents(&written), contents(&bytes), "{}", device.name);
        let count = contents(&written).into_iter().find(|entry| entry.0 == names[4]).unwrap();
        assert_eq!((count.1, count.2), (Dtype::I64, vec![]));
        assert_eq!(count.3, counted.to_le_bytes());
        assert!(counted > 0, "a count of none would say nothing");
    }
}

/// The norms of a network, each behind its name, and the other layers' values beside them: written
/// again, the file is PyTorch's.
#[test]
fn a_pytorch_network_round_trips() {
    let Some(bytes) = file("network_state_dict.safetensors") else { return };
    for device in device::all() {
        let context = &device.context;
        let features = |layer: &str| features(&bytes, &format!("{layer}.weight"));
        let norm1 = InstanceNorm2d::config(features("norm1")).with_affine(Affine::Both);
        let norm1 = norm1.with_track_running_stats(true).init(context).unwrap();
        let layers: [(&str, Box<dyn Layer>); 5] = [
            ("norm1.", Box::new(norm1)),
            ("block.1.", Box::new(BatchNorm2d::config(features("block.1")).init(context).unwrap())),
            // A state says nothing of groups.
            (
                "block.4.",
                Box::new(GroupNorm::config(1, features("block.4")).init(context).unwrap()),
            ),
            ("head.0.", Box::new(LayerNorm::config([features("head.0")]).init(context).unwrap())),
            ("head.1.", Box::new(RmsNorm::config([features("head.1")]).init(context).unwrap())),
        ];
        let file = StateDict::from_safetensors(&bytes).unwrap();
        let mut network = file.clone();
        for (prefix, mut layer) in layers {
            let options = LoadOptions::strict().with_prefix(prefix);
            let report = layer.load_state_dict(&file, &options).unwrap();
            for name in &report.loaded {
                assert!(name.starts_with(prefix), "{name}");
                assert!(network.remove(name).is_some(), "{name} twice");
            }
            network.insert_all(prefix, layer.state_dict_blocking().unwrap());
        }
        assert_eq!(contents(&network.to_safetensors().unwrap()), contents(&bytes));
        // Without its prefix nothing fits, and everything is told.
        let mut layer = BatchNorm2d::config(features("block.1")).init(context).unwrap();
        let report = layer.load_state_dict(&file, &LoadOptions::strict().lenient()).unwrap();
        assert_eq!((report.loaded.len(), report.missing.len()), (0, 4));
        assert_eq!(report.unexpected.len(), file.len());
    }
}

/// A layer that was trained comes back bit for bit, also on another device.
#[test]
fn a_trained_layer_comes_back() {
    let devices = device::all();
    let mut outputs: Vec<Vec<f64>> = Vec::new();
    for device in &devices {
        let context = &device.context;
        let mut layer =
            BatchNorm2d::config(3).with_momentum(Momentum::Cumulative).init(context).unwrap();
        layer.fill_weight(|i| 0.7 + i as f32).unwrap();
        layer.fill_bias(|i| 0.1 * i as f32).unwrap();
        let x = |seed| {
            let values = data::rounded(DType::F32, &random::gauss4_f64(2 * 3 * 20, seed, 1.5, 2.0));
            let order = MemoryOrder::ChannelsFirst;
            data::place(context, [2, 3, 4, 5], DType::F32, order, &values).unwrap()
        };
        use wgnorm::NormLayer;
        for seed in 0..3 {
            layer.forward(context, &x(seed), Mode::Train).unwrap();
        }
        let bytes = layer.state_dict_blocking().unwrap().to_safetensors().unwrap();
        let state = StateDict::from_safetensors(&bytes).unwrap();
        for other in &devices {
            let mut again = BatchNorm2d::config(3).init(&other.context).unwrap();
            again.load_state_dict(&state, &LoadOptions::strict()).unwrap();
            assert_eq!(held(&again), held(&layer), "{} to {}", device.name, other.name);
            assert_eq!(again.num_batches_tracked_blocking().unwrap(), 3);
            let again = again.to_context_blocking(context).unwrap();
            let y = |layer: &BatchNorm2d| {
                read(&layer.forward(context, &x(9), Mode::Eval).unwrap()).unwrap()
            };
            assert!(y(&again) == y(&layer), "{} by {}", device.name, other.name);
            outputs.push(y(&again));
        }
    }
    assert!(!outputs.is_empty());
}

fn refused(got: Result<LoadReport, Error>) -> LoadReport {
    match got {
        Err(Error::State(StateError::Load { layer: "InstanceNorm2d", report })) => *report,
        other => panic!("{other:?}"),
    }
}

/// Strict: everything that does not fit is told, and nothing changes. Lenient: what fits is loaded,
/// the rest told.
#[test]
fn what_does_not_fit_is_told() {
    for device in device::all() {
        let context = &device.context;
        let mut layer = instance_norm(context);
        layer.fill_weight(|i| i as f32).unwrap();
        let before = held(&layer);

        let mut state = layer.state_dict_blocking().unwrap();
        state.insert("weight", host(&[4], &[9.0; 4])).unwrap();
        state.insert("running_mean", host(&[5], &[3.0; 5])).unwrap();
        state.insert("running_var", 5).unwrap();
        state.insert("num_batches_tracked", 1u64 << 32).unwrap();
        state.insert("scale", host(&[5], &[1.0; 5])).unwrap();
        state.remove("bias").unwrap();
        let report = refused(layer.load_state_dict(&state, &LoadOptions::strict()));
        assert_eq!(report.loaded, [""; 0]);
        assert_eq!(report.missing, ["bias"]);
        assert_eq!(report.unexpected, ["scale"]);
        let mismatch = |name: &str| {
            let found = report.mismatched.iter().find(|(of, _)| of == name);
            found.unwrap_or_else(|| panic!("{name} in {report}")).1.clone()
        };
        let shape = Mismatch::Shape { expected: [5].into(), got: [4].into() };
        assert_eq!(mismatch("weight"), shape);
        // An integer may be converted: it is the shape that does not fit.
        let shape = Mismatch::Shape { expected: [5].into(), got: [0; 0].into() };
        assert_eq!(mismatch("running_var"), shape);
        let count = Mismatch::Count { got: 1 << 32, limit: u32::MAX };
        assert_eq!(mismatch("num_batches_tracked"), count);
        assert_eq!(report.mismatched.len(), 3);
        let text = report.to_string();
        for part in ["bias", "scale", "weight", "(5)", "(4)"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(held(&layer), before, "{}", device.name);

        let lenient = LoadOptions::strict().lenient();
        let told = layer.load_state_dict(&state, &lenient).unwrap();
        assert_eq!(told.loaded, ["running_mean"]);
        assert_eq!((&told.missing, &told.unexpected), (&report.missing, &report.unexpected));
        assert_eq!(told.mismatched, report.mismatched);
        let mut want = before.clone();
        want[2] = vec![3.0; 5];
        assert_eq!(held(&layer), want, "{}", device.name);
    }
}

/// A layer without parameters or statistics wants an empty state.
#[test]
fn a_layer_without_values() {
    let context = &Context::host();
    let mut layer = InstanceNorm2d::config(5).init(context).unwrap();
    assert!(layer.state_dict_blocking().unwrap().is_empty());
    layer.load_state_dict(&StateDict::new(), &LoadOptions::strict()).unwrap();
    let state = instance_norm(context).state_dict_blocking().unwrap();
    let report = refused(layer.load_state_dict(&state, &LoadOptions::strict()));
    assert_eq!(report.unexpected.len(), 5);
    assert_eq!((report.missing.len(), report.mismatched.len()), (0, 0));
}

/// Checkpoints from before PyTorch 0.4.1 have no count: it stays.
#[test]
fn a_state_without_a_count() {
    for device in device::all() {
        let mut layer = BatchNorm2d::config(2).init(&device.context).unwrap();
        layer.set_running_stats(&[0.0; 2], &[1.0; 2], 9).unwrap();
        let mut state = layer.state_dict_blocking().unwrap();
        assert!(state.remove("num_batches_tracked").is_some());
        state.insert("running_mean", host(&[2], &[3.0, 4.0])).unwrap();
        let report = layer.load_state_dict(&state, &LoadOptions::strict()).unwrap();
        assert!(report.is_complete() && report.loaded.len() == 4, "{report:?}");
        assert_eq!(layer.running_mean().unwrap().to_vec_blocking().unwrap(), [3.0, 4.0]);
        assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 9, "{}", device.name);
    }
}

/// Other frameworks' names, in and out.
#[test]
fn other_names() {
    for device in device::all() {
        let context = &device.context;
        let values = |k: usize| -> Vec<f64> { (0..5).map(|i| (i + k) as f64).collect() };
        let mut checkpoint = StateDict::new();
        for (k, name) in ["gamma", "beta", "moving_mean", "moving_var"].into_iter().enumerate() {
            checkpoint.insert(format!("net.{name}"), host(&[5], &values(k))).unwrap();
        }
        let mut layer = instance_norm(context);
        let options = LoadOptions::strict().with_prefix("net.");
        let report = refused(layer.load_state_dict(&checkpoint, &options));
        assert_eq!((report.missing.len(), report.unexpected.len()), (4, 4));
        let mxnet = options.with_names(Names::Mxnet);
        layer.load_state_dict(&checkpoint, &mxnet).unwrap();
        assert_eq!(held(&layer)[..4], [0, 1, 2, 3].map(values), "{}", device.name);

        let names = |state: StateDict| -> Vec<String> {
            state.iter().map(|(name, _)| name.to_owned()).collect()
        };
        let state = layer.state_dict_blocking().unwrap();
        let as_mxnet = state.clone().with_names(Names::Mxnet);
        assert_eq!(names(as_mxnet.clone()), ["beta", "gamma", "running_mean", "running_var"]);
        let as_oneflow = state.with_names(Names::Oneflow);
        assert_eq!(names(as_oneflow.clone()), ["bias", "running_mean", "running_var", "weight"]);
        for (state, names) in [(as_mxnet, Names::Mxnet), (as_oneflow, Names::Oneflow)] {
            let mut again = instance_norm(context);
            again.load_state_dict(&state, &LoadOptions::strict().with_names(names)).unwrap();
            assert_eq!(held(&again), held(&layer), "{} {names:?}", device.name);
        }
    }
}

/// Element types go out as they were set, and are converted on the way in.
#[test]
fn types_are_kept_and_converted() {
    for device in device::all() {
        let context = &device.context;
        let layer = instance_norm(context);
        for (dtype, stored) in [(DType::F16, Dtype::F16), (DType::BF16, Dtype::BF16)] {
            let mut half = layer.cast_blocking(dtype).unwrap();
            half.fill_weight(|i| 1.0 / (i + 3) as f32).unwrap();
            let bytes = half.state_dict_blocking().unwrap().to_safetensors().unwrap();
            for (name, dtype, ..) in contents(&bytes) {
                let wanted = if name == "num_batches_tracked" { Dtype::I64 } else { stored };
                assert_eq!(dtype, wanted, "{} {name}", device.name);
            }
            // A layer of f32 takes the rounded values.
            let state = StateDict::from_safetensors(&bytes).unwrap();
            let mut single = instance_norm(context);
            single.load_state_dict(&state, &LoadOptions::strict()).unwrap();
            let want: Vec<f64> =
                (0..5).map(|i| data::round(dtype, f64::from(1.0 / (i + 3) as f32))).collect();
            assert_eq!(held(&single)[0], want, "{}", device.name);
            let bytes = single.state_dict_blocking().unwrap().to_safetensors().unwrap();
            assert!(contents(&bytes).iter().all(|(_, dtype, ..)| *dtype != stored));
        }
    }
}

/// f64 on the host, where it stays f64.
#[test]
fn host_doubles_are_kept() {
    let layer = instance_norm(&Context::host()).cast_blocking(DType::F64).unwrap();
    let mut state = layer.state_dict_blocking().unwrap();
    let third = Tensor::from_vec_of([5], vec![1.0f64 / 3.0; 5]).unwrap();
    for name in ["weight", "running_var"] {
        state.insert(name, third.clone()).unwrap();
    }
    let mut layer = layer;
    layer.load_state_dict(&state, &LoadOptions::strict()).unwrap();
    assert_eq!(held(&layer)[0], [1.0 / 3.0; 5]);
    assert_eq!(held(&layer)[3], [1.0 / 3.0; 5]);
    let bytes = layer.state_dict_blocking().unwrap().to_safetensors().unwrap();
    let running = contents(&bytes).into_iter().find(|entry| entry.0 == "running_var").unwrap();
    assert_eq!((running.1, &running.3[..8]), (Dtype::F64, &(1.0f64 / 3.0).to_le_bytes()[..]));
}

/// What a layer does not have comes in and goes out again.
#[test]
fn other_values_pass_through() {
    let ids = [1i64, -2].map(i64::to_le_bytes);
    let ids =
        safetensors::tensor::TensorView::new(Dtype::I64, vec![2], ids.as_flattened()).unwrap();
    let flags = safetensors::tensor::TensorView::new(Dtype::BOOL, vec![3], &[1, 0, 1]).unwrap();
    let bytes = safetensors::serialize([("weight", ids), ("flags", flags)], None).unwrap();
    let state = StateDict::from_safetensors(&bytes).unwrap();
    assert_eq!(contents(&state.to_safetensors().unwrap()), contents(&bytes));
    assert!(matches!(state.get("flags"), Some(StateValue::Other(_))));
    let config = InstanceNorm1d::config(2).with_affine(Affine::Weight);
    let mut layer = config.init(&Context::host()).unwrap();
    let report = layer.load_state_dict(&state, &LoadOptions::strict().lenient()).unwrap();
    assert_eq!((report.loaded.len(), report.unexpected.len()), (1, 1), "{report}");
    assert_eq!(held(&layer), [[1.0, -2.0]]);
}

/// Bytes that are no file, cut ones, values the format cannot hold.
#[test]
fn files_that_are_none() {
    let state = instance_norm(&Context::host()).state_dict_blocking().unwrap();
    let bytes = state.to_safetensors().unwrap();
    for broken in [&[][..], b"not a file", &bytes[..bytes.len() - 1], &bytes[..20]] {
        let refused = StateDict::from_safetensors(broken);
        assert!(matches!(refused, Err(Error::State(StateError::Format { .. }))), "{refused:?}");
    }
    let mut large = StateDict::new();
    large.insert("num_batches_tracked", u64::MAX).unwrap();
    let refused = large.to_safetensors();
    assert!(matches!(refused, Err(Error::State(StateError::Format { .. }))), "{refused:?}");
}

/// A file of this header with so many bytes behind it.
fn with_header(header: &str, len: u64, data: usize) -> Vec<u8> {
    [&len.to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

/// What is written to break a reader: each is an error, soon, and takes no more memory than the file.
#[test]
fn files_that_lie() {
    let entry = |name: &str, dtype: &str, shape: &str, range: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{range}}}"#)
    };
    let file = |entries: &[String], data| {
        let header = format!("{{{}}}", entries.join(","));
        with_header(&header, header.len() as u64, data)
    };
    let a = || entry("a", "F32", "[2]", "[0,8]");
    let many = (0..100_000).map(|i| entry(&i.to_string(), "F32", "[1]", "[0,4]"));
    let deep = "[".repeat(100_000);
    for (what, bytes) in [
        ("a header of 2^64 bytes", with_header("{}", u64::MAX, 0)),
        ("a header of 8 GiB", with_header("{}", 8 << 30, 100)),
        ("a header that ends in its length", with_header("", 1, 0)),
        ("ranges that overlap", file(&[a(), entry("b", "F32", "[2]", "[4,12]")], 12)),
        ("ranges apart", file(&[a(), entry("b", "F32", "[2]", "[12,20]")], 20)),
        ("a range backwards", file(&[entry("a", "F32", "[2]", "[8,0]")], 8)),
        ("a range beyond the file", file(&[entry("a", "F32", "[2]", "[0,8]")], 4)),
        ("bytes behind all ranges", file(&[a()], 12)),
        ("a shape of other bytes", file(&[entry("a", "F32", "[3]", "[0,8]")], 8)),
        ("another type's bytes", file(&[entry("a", "F64", "[2]", "[0,8]")], 8)),
        ("no type", file(&[entry("a", "F31", "[2]", "[0,8]")], 8)),
        (
            "a shape of 2^128 elements",
            file(&[entry("a", "F32", &format!("[{0},{0}]", u64::MAX), "[0,8]")], 8),
        ),
        ("negative sizes", file(&[entry("a", "F32", "[-2]", "[0,8]")], 8)),
        ("one name twice", file(&[a(), entry("a", "F32", "[2]", "[8,16]")], 16)),
        ("one range for all", file(&many.collect::<Vec<_>>(), 4)),
        ("a name that never ends", with_header(r#"{"aaaaaa"#, 8, 0)),
        ("brackets", with_header(&deep, deep.len() as u64, 0)),
        ("no text", with_header("\u{0}\u{1}", 2, 0)),
    ] {
        let refused = StateDict::from_safetensors(&bytes);
        assert!(
            matches!(refused, Err(Error::State(StateError::Format { .. }))),
            "{what}: {refused:?}"
        );
    }
    // Large in shape alone: tensors of no elements, and of more than can be counted here.
    let empty = format!("[0,{}]", u64::MAX);
    let refused = StateDict::from_safetensors(&file(&[entry("a", "F32", &empty, "[0,0]")], 0));
    assert!(refused.is_ok() || matches!(refused, Err(Error::State(_) | Error::Shape(_))));
    // Many and small is no crime.
    let names = (0..100_000).map(|i| entry(&i.to_string(), "U8", "[0]", "[0,0]"));
    let state = StateDict::from_safetensors(&file(&names.collect::<Vec<_>>(), 0)).unwrap();
    assert_eq!(state.len(), 100_000);
    let mut layer = instance_norm(&Context::host());
    let before = held(&layer);
    let report = refused_load(&mut layer, &state);
    assert_eq!((report.unexpected.len(), held(&layer)), (100_000, before));
}

fn refused_load(layer: &mut Parameters, state: &StateDict) -> LoadReport {
    refused(layer.load_state_dict(state, &LoadOptions::strict()))
}

/// A state tells a lazy layer its channels; a bank of styles is one too.
#[test]
fn other_layers() {
    for device in device::all() {
        let context = &device.context;
        let mut state = StateDict::new();
        state.insert("gamma", host(&[3], &[1.0, 2.0, 3.0])).unwrap();
        state.insert("beta", host(&[3], &[4.0, 5.0, 6.0])).unwrap();
        let config = InstanceNormAxisConfig::mxnet(0).with_axis(-1);
        let mut lazy = Lazy::new(config, context).unwrap();
        let mxnet = LoadOptions::strict().with_names(Names::Mxnet);
        lazy.load_state_dict(&state, &mxnet).unwrap();
        assert_eq!(held(lazy.layer().unwrap()), [vec![1.0, 2.0, 3.0], vec![4.0, 5.0, 6.0]]);

        let mut bank = ConditionalInstanceNorm::config(2, 3).init(context).unwrap();
        bank.fill_weight(|i| i as f32).unwrap();
        let state = bank.state_dict_blocking().unwrap();
        let bytes = state.to_safetensors().unwrap();
        assert!(contents(&bytes).iter().all(|(_, _, shape, _)| *shape == [2, 3]));
        let mut again = ConditionalInstanceNorm::config(2, 3).init(context).unwrap();
        again.load_state_dict(&state, &LoadOptions::strict()).unwrap();
        assert_eq!(held(&again), held(&bank), "{}", device.name);
    }
}

/// The comparison of files can fail.
#[test]
fn a_changed_byte_is_seen() {
    let mut layer = instance_norm(&Context::host());
    let file = |layer: &InstanceNorm2d| {
        contents(&layer.state_dict_blocking().unwrap().to_safetensors().unwrap())
    };
    let before = file(&layer);
    layer.fill_bias(|i| if i == 4 { f32::MIN_POSITIVE } else { 0.0 }).unwrap();
    assert_ne!(file(&layer), before);
}

/// The middle of `torch_round_trip.py`: files that PyTorch has just written are loaded and written
/// again, on every back end, for PyTorch to compare.
#[test]
fn torch_round_trip() {
    let Some(folder) = std::env::var_os("WGNORM_TORCH_DIR").map(PathBuf::from) else {
        eprintln!("skipped: WGNORM_TORCH_DIR is not set (`.ci/run --long` sets it)");
        return;
    };
    for device in device::all() {
        let context = &device.context;
        let layers: [(&str, Box<dyn Layer>); 5] = [
            ("instance_norm", Box::new(instance_norm(context))),
            ("batch_norm", Box::new(BatchNorm1d::config(4).init(context).unwrap())),
            ("group_norm", Box::new(GroupNorm::config(2, 6).init(context).unwrap())),
            ("layer_norm", Box::new(LayerNorm::config([3, 4]).init(context).unwrap())),
            ("rms_norm", Box::new(RmsNorm::config([7]).init(context).unwrap())),
        ];
        for (name, mut layer) in layers {
            let theirs = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
            let state = StateDict::from_safetensors(&theirs).unwrap();
            let report = layer.load_state_dict(&state, &LoadOptions::strict()).unwrap();
            assert_eq!(report.loaded.len(), state.iter().count(), "{name}");
            let ours = layer.state_dict_blocking().unwrap().to_safetensors().unwrap();
            assert_eq!(contents(&ours), contents(&theirs), "{name}");
            std::fs::write(folder.join(format!("{name}.back.safetensors")), ours).unwrap();
        }
    }
}
