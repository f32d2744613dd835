//! Layers print as PyTorch prints them, and errors call settings by their names.

use serde_json::Value;
use wgnorm::{
    AdaIn, Affine, BatchNormConfig, ConditionalInstanceNorm, ConfigError, Context, Error,
    FusedBatchNorm1d, GroupNorm, Init, InstanceNorm, InstanceNorm2d, InstanceNormConfig, LayerNorm,
    Lazy, LazyConfig, Mode, Momentum, NormLayer, RmsNorm, Shape, Tensor,
};

fn text(init: Result<impl ToString, Error>) -> String {
    init.unwrap().to_string()
}

/// A lazy layer's text, and that after its first input, of 3 channels.
fn lazy_texts<C: LazyConfig>(config: C, axes: usize) -> (String, String) {
    let context = Context::host();
    let lazy = Lazy::new(config, &context).unwrap();
    let before = lazy.to_string();
    let shape: Vec<usize> = [2, 3].into_iter().chain(vec![4; axes]).collect();
    let x = Tensor::zeros(&context, &shape[..]).unwrap();
    lazy.forward(&context, &x, Mode::Train).unwrap();
    (before, lazy.to_string())
}

/// The settings of a line of `torch_repr.jsonl`.
struct Line(Value);

impl Line {
    fn eps(&self) -> Option<f64> {
        self.0["eps"].as_f64()
    }

    fn momentum(&self, none: Momentum) -> Momentum {
        match self.0.get("momentum") {
            None => Momentum::Factor(0.1),
            Some(Value::Null) => none,
            Some(factor) => Momentum::Factor(factor.as_f64().unwrap()),
        }
    }

    fn affine(&self, default: Affine) -> Affine {
        let weight = self.0.get("affine").or_else(|| self.0.get("elementwise_affine"));
        match (weight.and_then(Value::as_bool), self.0["bias"].as_bool()) {
            (None, None) => default,
            (Some(false), _) => Affine::None,
            (_, Some(false)) => Affine::Weight,
            _ => Affine::Both,
        }
    }

    fn sizes(&self) -> Vec<usize> {
        serde_json::from_value(self.0["args"][0].clone()).unwrap()
    }

    fn number(&self, i: usize) -> usize {
        self.0["args"][i].as_u64().unwrap_or(0) as usize
    }

    fn instance<const D: usize>(&self) -> InstanceNormConfig<D> {
        let config = InstanceNormConfig::new(self.number(0));
        let track = self.0["track_running_stats"].as_bool().unwrap_or(false);
        config
            .with_eps(self.eps().unwrap_or(1e-5))
            .with_momentum(self.momentum(Momentum::Frozen))
            .with_affine(self.affine(Affine::None))
            .with_track_running_stats(track)
    }

    fn batch<const D: usize>(&self) -> BatchNormConfig<D> {
        let config = BatchNormConfig::new(self.number(0));
        let track = self.0["track_running_stats"].as_bool().unwrap_or(true);
        config
            .with_eps(self.eps().unwrap_or(1e-5))
            .with_momentum(self.momentum(Momentum::Cumulative))
            .with_affine(self.affine(Affine::Both))
            .with_track_running_stats(track)
    }

    /// Our texts for it.
    fn texts(&self) -> (String, Option<String>) {
        let context = &Context::host();
        let lazy = |(before, after): (String, String)| {
            // Where nothing is created by it, PyTorch goes on with 0 features.
            (before, self.0.get("after").map(|_| after))
        };
        let text = match self.0["layer"].as_str().unwrap() {
            "InstanceNorm1d" => text(self.instance::<1>().init(context)),
            "InstanceNorm2d" => text(self.instance::<2>().init(context)),
            "InstanceNorm3d" => text(self.instance::<3>().init(context)),
            "BatchNorm1d" => text(self.batch::<1>().init(context)),
            "BatchNorm2d" => text(self.batch::<2>().init(context)),
            "BatchNorm3d" => text(self.batch::<3>().init(context)),
            "LazyInstanceNorm1d" => return lazy(lazy_texts(self.instance::<1>(), 1)),
            "LazyInstanceNorm2d" => return lazy(lazy_texts(self.instance::<2>(), 2)),
            "LazyInstanceNorm3d" => return lazy(lazy_texts(self.instance::<3>(), 3)),
            "LazyBatchNorm1d" => return lazy(lazy_texts(self.batch::<1>(), 1)),
            "LazyBatchNorm2d" => return lazy(lazy_texts(self.batch::<2>(), 2)),
            "LazyBatchNorm3d" => return lazy(lazy_texts(self.batch::<3>(), 3)),
            "GroupNorm" => {
                let config = GroupNorm::config(self.number(0), self.number(1));
                let config = config.with_eps(self.eps().unwrap_or(1e-5));
                text(config.with_affine(self.affine(Affine::Both)).init(context))
            }
            "LayerNorm" => {
                let config = LayerNorm::config(self.sizes()).with_eps(self.eps().unwrap_or(1e-5));
                text(config.with_affine(self.affine(Affine::Both)).init(context))
            }
            "RMSNorm" => {
                let affine = match self.0["elementwise_affine"].as_bool() {
                    Some(false) => Affine::None,
                    _ => Affine::Weight,
                };
                let config = RmsNorm::config(self.sizes()).with_eps(self.eps());
                text(config.with_affine(affine).init(context))
            }
            other => panic!("{other}"),
        };
        (text, None)
    }
}

/// Every class of PyTorch with every kind of setting, lazy ones before and after the first input: the
/// texts of PyTorch 2.15 (torch_repr.py).
#[test]
fn layers_print_as_in_pytorch() {
    let mut layers = std::collections::BTreeSet::new();
    for line in include_str!("torch_repr.jsonl").lines() {
        let line = Line(serde_json::from_str(line).unwrap());
        layers.insert(line.0["layer"].as_str().unwrap().to_owned());
        let (text, after) = line.texts();
        assert_eq!(Some(&*text), line.0["repr"].as_str());
        assert_eq!(after.as_deref(), line.0["after"].as_str());
    }
    assert_eq!(layers.len(), 15, "{layers:?}");
}

/// What PyTorch has not: a bias alone, other frameworks' layers, other momenta.
#[test]
fn other_layers_print_alike() {
    let context = &Context::host();
    assert_eq!(
        text(FusedBatchNorm1d::config(6).with_momentum(Momentum::Cumulative).init(context)),
        "FusedBatchNorm1d(6, eps=1e-05, momentum=None, affine=True, bias=True, \
         track_running_stats=True)"
    );
    assert_eq!(
        text(InstanceNorm2d::config(3).with_affine(Affine::Bias).init(context)),
        "InstanceNorm2d(3, eps=1e-05, momentum=0.1, affine=False, bias=True, \
         track_running_stats=False)"
    );
    assert_eq!(
        text(InstanceNorm2d::config(3).with_momentum(Momentum::Cumulative).init(context)),
        "InstanceNorm2d(3, eps=1e-05, momentum=cumulative, affine=False, bias=False, \
         track_running_stats=False)"
    );
    assert_eq!(
        text(LayerNorm::config([3, 5]).with_affine(Affine::Bias).init(context)),
        "LayerNorm((3, 5), eps=1e-05, elementwise_affine=False, bias=True)"
    );
    assert_eq!(
        text(RmsNorm::config([6]).with_affine(Affine::Both).init(context)),
        "RMSNorm((6,), eps=None, elementwise_affine=True, bias=True)"
    );
    assert_eq!(
        text(InstanceNorm::config(3).with_axis(-1).init(context)),
        "InstanceNorm(eps=1e-05, axis=-1, center=True, scale=False, in_channels=3)"
    );
    assert_eq!(text(AdaIn::config().init(context)), "AdaIn(eps=1e-05)");
    assert_eq!(
        text(ConditionalInstanceNorm::config(4, 3).init(context)),
        "ConditionalInstanceNorm(4, 3, eps=1e-05)"
    );
}

/// An error about a setting calls it as the settings do, and says what was given.
#[test]
fn errors_name_the_setting() {
    let context = &Context::host();
    macro_rules! refused {
        ($config:expr) => {
            match $config.init(context).map(drop) {
                Err(Error::Config(refused)) => refused.to_string(),
                other => panic!("{other:?}"),
            }
        };
    }
    for (refused, want) in [
        (refused!(InstanceNorm2d::config(0)), "InstanceNorm2d: num_features must be at least 1"),
        (refused!(GroupNorm::config(1, 0)), "GroupNorm: num_channels must be at least 1"),
        (refused!(GroupNorm::config(0, 0)), "GroupNorm: num_channels must be at least 1"),
        (
            refused!(GroupNorm::config(0, 6)),
            "GroupNorm: num_groups must be at least 1 and divide num_channels, got 0 groups of 6 channels",
        ),
        (
            refused!(GroupNorm::config(4, 6)),
            "GroupNorm: num_groups must be at least 1 and divide num_channels, got 4 groups of 6 channels",
        ),
        (
            refused!(ConditionalInstanceNorm::config(0, 3)),
            "ConditionalInstanceNorm: num_styles must be at least 1",
        ),
        (
            refused!(ConditionalInstanceNorm::config(3, 0)),
            "ConditionalInstanceNorm: num_features must be at least 1",
        ),
        (
            refused!(LayerNorm::config([0])),
            "LayerNorm: normalized_shape must have an axis, and none of size 0, got (0)",
        ),
        (
            refused!(InstanceNorm::config(3).with_axis(0)),
            "InstanceNorm: axis must not be 0, which is the batch; the channels are on another",
        ),
        (
            refused!(LayerNorm::config([3]).with_eps(-1.0)),
            "LayerNorm: eps must be finite in f32 and >= 0, got -1.0",
        ),
        (
            refused!(LayerNorm::config([3]).with_eps(1e300)),
            "LayerNorm: eps must be finite in f32 and >= 0, got 1e300",
        ),
        (
            refused!(InstanceNorm2d::config(3).with_momentum(Momentum::Factor(f64::NAN))),
            "InstanceNorm2d: momentum must be finite (in f32), got NaN",
        ),
    ] {
        assert_eq!(refused, want);
    }
    let wild = Init::Constant(f64::NAN);
    let affine = || InstanceNorm2d::config(3).with_affine(Affine::Both);
    for (refused, setting) in [
        (refused!(affine().with_weight_init(wild)), "InstanceNorm2d: weight_init needs finite"),
        (refused!(affine().with_bias_init(wild)), "InstanceNorm2d: bias_init needs finite"),
    ] {
        assert!(
            refused.starts_with(setting) && refused.ends_with("got Constant(NaN)"),
            "{refused}"
        );
    }
    let many = 1 << 32;
    let above = "4294967296, above the limit of 4294967295";
    for (refused, setting) in [
        (refused!(InstanceNorm2d::config(many)), "num_features is"),
        (refused!(GroupNorm::config(1, many)), "num_channels is"),
        (refused!(LayerNorm::config([1 << 16, 1 << 16])), "the product of normalized_shape is"),
        (refused!(RmsNorm::config([1 << 16, 1 << 16])), "the product of normalized_shape is"),
        (
            refused!(ConditionalInstanceNorm::config(1 << 16, 1 << 16)),
            "num_styles times num_features is",
        ),
    ] {
        assert!(refused.ends_with(&format!(": {setting} {above}")), "{refused}");
    }

    // So do errors about an input.
    let x = Tensor::zeros(context, [1, 3, 4]).unwrap();
    let norm = GroupNorm::config(2, 4).init(context).unwrap();
    assert_eq!(
        norm.forward(context, &x, Mode::Eval).unwrap_err().to_string(),
        "GroupNorm: axis 1 must have 4 channels (num_channels), got 3"
    );
    let shape = ConfigError::NormalizedShape { layer: "RmsNorm", got: Shape::default() };
    assert_eq!(refused!(RmsNorm::config(Shape::default())), shape.to_string());
}
