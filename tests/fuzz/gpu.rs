//! Calls on a GPU, by software if there is none: a dozen kinds, whose shaders are compiled once, with any numbers.

use crate::calls;
use crate::common::suite::{Case, Family, From, Masking};
use crate::input::Input;
use wgnorm::{
    Activation, Affine, Context, ContextOptions, DType, Error, Extras, LayerNorm, MemoryOrder,
    Mode, NormLayer, OperandError, Preference, RunError, Tensor,
};

/// `None` without an adapter, unless one is required.
pub fn open() -> Option<Context> {
    let options = ContextOptions { preference: Preference::Gpu, ..Default::default() };
    match Context::open_with_blocking(&options) {
        Ok(context) => Some(context),
        Err(reason) if std::env::var("WGNORM_REQUIRE_GPU").is_ok_and(|v| v == "1") => {
            panic!("WGNORM_REQUIRE_GPU is set, but: {reason}")
        }
        Err(reason) => {
            eprintln!("skipped: no adapter ({reason})");
            None
        }
    }
}

pub fn run([gpu, host]: [&Context; 2], bytes: &[u8]) {
    let input = &mut Input(bytes);
    let kind = input.below(12);
    let case = Case {
        eps: if input.flag() { 1e-5 } else { input.float() },
        seed: u16::from_le_bytes(input.bytes()).into(),
        offset: input.of(&[0.5, 0.0, -3.0]),
        ..kinds(kind)
    };
    let rest = input.0;
    calls::check(gpu, &case, &mut Input(rest));
    calls::check(host, &case, &mut Input(rest));
    elsewhere([gpu, host], &case);
}

pub fn misuse([gpu, host]: [&Context; 2], bytes: &[u8]) {
    let [there, here] = [gpu, host].map(|context| crate::misuse::run(context, bytes));
    // What each of them lacks.
    let own = |error: &Error| {
        let no_f64 = matches!(error, Error::Operand(OperandError::NoF64 { .. }));
        no_f64 || matches!(error, Error::Plan(_) | Error::Run(RunError::OutOfMemory { .. }))
    };
    if ![&there, &here].into_iter().flatten().any(own) {
        let words = |error: Option<Error>| error.map(|error| error.to_string());
        assert_eq!(words(there), words(here), "on the GPU and on the host");
    }
}

/// Of each kernel, type, order and kind of operand some; the seventh reads positions that nobody counts.
fn kinds(kind: usize) -> Case {
    use MemoryOrder::ChannelsLast;
    let case = |family, shape| Case { addend: kind.is_multiple_of(2), ..Case::new(family, shape) };
    match kind {
        0 => case(Family::Instance, [2, 3, 49]),
        1 => Case { dtype: DType::F16, ..case(Family::Instance, [1, 2, 20_001]) },
        2 => Case { activation: Activation::Relu, ..case(Family::Batch, [3, 4, 33]) },
        3 => Case { order: ChannelsLast, mode: Mode::Eval, ..case(Family::Batch, [3, 4, 33]) },
        4 => case(Family::FusedBatch, [2, 5, 64]),
        5 => Case { activation: Activation::GeluTanh, ..case(Family::Group(2), [2, 6, 35]) },
        6 => Case { masking: Masking::Some, ..case(Family::Instance, [4, 3, 40]) },
        7 => Case {
            dtype: DType::BF16,
            affine: Affine::Weight,
            ..case(Family::Layer(1), [3, 4, 97])
        },
        8 => Case { order: ChannelsLast, ..case(Family::Rms(2), [1, 3, 16]) },
        9 => case(Family::AdaInStyle, [2, 3, 17]),
        10 => case(Family::Bank(3), [2, 3, 17]),
        _ => {
            Case { from: From::Given { constant: false }, ..case(Family::InstanceAxis, [2, 5, 36]) }
        }
    }
    .fitted()
}

/// Operands of another place are refused, and so is f64.
fn elsewhere([gpu, host]: [&Context; 2], case: &Case) {
    let place = |context: &Context| Tensor::zeros(context, case.tensor_shape()).expect("a tensor");
    let layer = LayerNorm::config(&case.tensor_shape()[2..]).init(gpu).expect("a layer");
    let refused = |result: Result<Tensor<'static>, Error>| {
        let refusal = matches!(result, Err(Error::Operand(OperandError::Elsewhere { .. })));
        assert!(refusal, "{result:?}");
    };
    let [there, here] = [place(gpu), place(host)];
    refused(layer.forward(gpu, &here, Mode::Train));
    refused(layer.forward_with(gpu, &there, &Extras::new().with_addend(&here), Mode::Train));
    let other = layer.forward(host, &here, Mode::Train);
    assert!(matches!(other, Err(Error::Operand(OperandError::OtherContext { .. }))), "{other:?}");
    let double = here.cast(DType::F64).expect("on the host").to_context(gpu);
    assert!(matches!(double, Err(Error::Operand(OperandError::NoF64 { .. }))), "{double:?}");
}
