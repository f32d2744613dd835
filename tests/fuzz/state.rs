//! Any file: a state or an error, and a layer that is whole in either case.

use crate::input::Input;
use std::{fmt::Write, ops::DerefMut};
use wgnorm::{
    Affine, BatchNorm2d, BatchNormConfig, ConditionalInstanceNorm, Context, DType, Error,
    GroupNorm, InstanceNorm1d, InstanceNormAxisConfig, LayerNorm, Lazy, LoadOptions, Names,
    Parameters, RmsNorm, ShapeError, StateDict, StateError,
};

pub fn run(bytes: &[u8]) {
    let input = &mut Input(bytes);
    let options = options(input);
    let which = input.byte();
    let file = if input.flag() { input.0.to_vec() } else { file(input, which) };
    let state = match StateDict::from_safetensors(&file) {
        Ok(state) => state,
        Err(
            Error::State(StateError::Format { .. }) | Error::Shape(ShapeError::TooLarge { .. }),
        ) => return,
        Err(error) => panic!("{error}"),
    };
    let written = round_trip(&state);
    let state = StateDict::from_safetensors(&written).expect("it was written here");
    let context = Context::host();
    load(&mut layer(which, &context), &state, &options);
    lazy(&context, &state, &options);
}

/// Written and read it is the same.
fn round_trip(state: &StateDict) -> Vec<u8> {
    let written = state.to_safetensors().expect("it came of a file");
    let again = StateDict::from_safetensors(&written).expect("it was written here");
    assert_eq!(again.len(), state.len());
    assert!(again.iter().zip(state.iter()).all(|((a, _), (b, _))| a == b));
    assert!(again.to_safetensors().expect("as before") == written, "another file");
    written
}

fn held(parameters: &Parameters) -> Vec<u8> {
    parameters.state_dict_blocking().unwrap().to_safetensors().unwrap()
}

/// All of it or nothing; leniently what the report says.
fn load(layer: &mut Parameters, state: &StateDict, options: &LoadOptions) {
    let before = held(layer);
    match layer.load_state_dict(state, options) {
        Ok(report) => {
            let _ = report.to_string();
            let untouched = report.loaded.is_empty();
            assert!(!untouched || held(layer) == before, "{report} and changed");
            assert!(report.loaded.iter().all(|name| state.get(name).is_some()), "{report:?}");
            // What was loaded is loaded again, and changes nothing more.
            let after = held(layer);
            assert_eq!(layer.load_state_dict(state, options).as_ref(), Ok(&report));
            assert!(held(layer) == after);
        }
        Err(error) => {
            let _ = error.to_string();
            assert!(matches!(error, Error::State(StateError::Load { .. })), "{error}");
            assert!(held(layer) == before, "{error}, and changed");
        }
    }
}

/// The state tells the number of channels, or does not.
fn lazy(context: &Context, state: &StateDict, options: &LoadOptions) {
    let mut batch = Lazy::new(BatchNormConfig::<2>::new(0), context).unwrap();
    let mut axis = Lazy::new(InstanceNormAxisConfig::mxnet(0), context).unwrap();
    for loaded in [batch.load_state_dict(state, options), axis.load_state_dict(state, options)] {
        match loaded {
            Ok(_) | Err(Error::State(StateError::Load { .. }) | Error::Config(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for text in [batch.to_string(), axis.to_string()] {
        assert!(!text.is_empty());
    }
}

fn options(input: &mut Input<'_>) -> LoadOptions {
    let mut options = LoadOptions::strict().with_prefix(input.of(&["", "", "norm1.", "é"]));
    if input.flag() {
        options = options.lenient();
    }
    options.with_names(input.of(&[Names::Torch, Names::Mxnet, Names::Oneflow]))
}

fn layer(which: u8, context: &Context) -> Box<dyn DerefMut<Target = Parameters>> {
    let dtype = [DType::F32, DType::F16, DType::BF16, DType::F64][usize::from(which >> 4) % 4];
    macro_rules! built {
        ($config:expr) => {
            Box::new($config.init(context).unwrap().cast_blocking(dtype).unwrap())
        };
    }
    match which % 8 {
        0 => built!(
            InstanceNorm1d::config(2).with_affine(Affine::Both).with_track_running_stats(true)
        ),
        1 => built!(InstanceNorm1d::config(2).with_affine(Affine::Weight)),
        2 => built!(InstanceNorm1d::config(1)),
        3 => built!(GroupNorm::config(1, 2)),
        4 => built!(LayerNorm::config([2, 2])),
        5 => built!(RmsNorm::config([4])),
        6 => built!(ConditionalInstanceNorm::config(2, 2)),
        _ => built!(BatchNorm2d::config(2)),
    }
}

const NAMES: [&str; 14] = [
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "norm1.weight",
    "norm1.bias",
    "gamma",
    "beta",
    "moving_mean",
    "éweight",
    "",
    "__metadata__",
    "\\u0000\\\"",
];

/// A file as they are written, but for what the bytes say.
fn file(input: &mut Input<'_>, which: u8) -> Vec<u8> {
    const TYPES: [(&str, u64); 12] = [
        ("F32", 4),
        ("F16", 2),
        ("BF16", 2),
        ("F64", 8),
        ("I64", 8),
        ("U64", 8),
        ("BOOL", 1),
        ("F8_E4M3", 1),
        ("F4", 1),
        ("C64", 8),
        ("I128", 16),
        ("f32", 4),
    ];
    const SIZES: [u64; 12] =
        [2, 1, 4, 0, 3, 7, 1 << 16, u32::MAX as u64, 1 << 32, 1 << 62, u64::MAX / 2 + 1, u64::MAX];
    // Most values fit the layer.
    let usual: &[u64] = match which % 8 {
        2 => &[1],
        4 | 6 => &[2, 2],
        5 => &[4],
        _ => &[2],
    };
    let mut header = String::from("{");
    let mut at = 0u64;
    // Now and then so many that quadratic work would show.
    let tensors = if input.byte() == 255 { 200 } else { input.below(8) };
    for i in 0..tensors {
        let fits = input.byte() < 200;
        let (dtype, size) = match i {
            4 if fits => TYPES[4],
            _ if fits => input.of(&TYPES[..4]),
            _ => input.of(&TYPES[..]),
        };
        let shape: Vec<u64> = match i {
            4 if fits => Vec::new(),
            _ if fits => usual.to_vec(),
            _ => (0..input.below(4)).map(|_| input.of(&SIZES)).collect(),
        };
        let bytes = shape.iter().fold(size, |n, &size| n.wrapping_mul(size));
        let bytes = if bytes > 4096 { bytes % 64 } else { bytes };
        let [mut start, mut end] = [at, at.wrapping_add(bytes)];
        at = end;
        match input.byte() {
            250 => start = start.wrapping_sub(u64::from(input.byte())),
            251 => end = u64::from_le_bytes(input.bytes()),
            252 => std::mem::swap(&mut start, &mut end),
            253 => start = u64::MAX,
            _ => {}
        }
        let comma = if i == 0 { "" } else { "," };
        let name = if fits { NAMES[i % 5] } else { input.of(&NAMES) };
        let name = if tensors > 8 { format!("{name}{i}") } else { name.to_owned() };
        let written = write!(
            header,
            r#"{comma}"{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
        );
        written.expect("a string");
    }
    if input.byte() == 255 {
        header.push_str(r#","__metadata__":{"format":"pt"}"#);
    }
    header.push('}');
    let len = match input.byte() {
        254 => u64::from_le_bytes(input.bytes()),
        255 => header.len() as u64 + 1,
        _ => header.len() as u64,
    };
    let mut file = len.to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    let cut = input.byte();
    let data = input.0.iter().chain(std::iter::repeat(&1)).take(at.min(1 << 20) as usize);
    file.extend(data);
    match cut {
        254 => file.truncate(usize::from(input.byte())),
        255 => file.push(0),
        _ => {}
    }
    file
}
