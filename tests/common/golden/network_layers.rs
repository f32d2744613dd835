//! The layers of a network as PyTorch prints them, `["norm1", "InstanceNorm2d", "6, eps=1e-05, …"]`: their settings, or
//! what of them the graph here is not.

use super::index::Case;
use crate::common::oracle::Kind;
use std::collections::BTreeMap;
use std::str::FromStr;
use wgnorm::{Affine, Momentum};

/// The leaves of the graph in `network_graph.rs`, and what each is.
const LEAVES: [(&str, &str); 11] = [
    ("stem", "Conv2d"),
    ("norm1", "InstanceNorm2d"),
    ("block.0", "Conv2d"),
    ("block.1", "BatchNorm2d"),
    ("block.2", "ReLU"),
    ("block.3", "Conv2d"),
    ("block.4", "GroupNorm"),
    ("norm2", "InstanceNorm2d"),
    ("head.0", "LayerNorm"),
    ("head.1", "RMSNorm"),
    ("head.2", "Linear"),
];

/// The settings of a norm.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub kind: Kind,
    pub channels: usize,
    pub eps: f64,
    /// Where running statistics are tracked.
    pub momentum: Option<Momentum>,
    pub affine: Affine,
}

/// The network's norms by name.
pub fn norms(case: &Case) -> Result<BTreeMap<&'static str, Settings>, String> {
    let layers = case.layers.as_deref().ok_or("the network names no layers")?;
    let found = layers.iter().map(|[name, class, _]| (name.as_str(), class.as_str()));
    if !found.clone().eq(LEAVES) {
        let found: Vec<_> = found.collect();
        return Err(format!("a network of {found:?}, known is one of {LEAVES:?}"));
    }
    let mut norms = BTreeMap::new();
    for ((name, class), [_, _, printed]) in LEAVES.into_iter().zip(layers) {
        let settings = settings(class, &Printed::parse(printed));
        let settings = settings.map_err(|error| format!("{name}: {class}({printed}): {error}"))?;
        norms.extend(settings.map(|settings| (name, settings)));
    }
    Ok(norms)
}

/// Returns a norm's settings. For any other layer it checks that the graph has the same one, and returns `None`.
fn settings(class: &str, printed: &Printed<'_>) -> Result<Option<Settings>, String> {
    let kind = match class {
        "InstanceNorm2d" => Kind::Instance,
        "BatchNorm2d" => Kind::Batch,
        "GroupNorm" => Kind::Group(printed.number(0)?),
        "LayerNorm" => Kind::Layer,
        "RMSNorm" => Kind::Rms,
        "Conv2d" => {
            printed.knows(&["kernel_size", "stride", "padding", "bias"])?;
            let side = printed.named("kernel_size").unwrap_or("(1, 1)");
            let sides: Vec<usize> = numbers(side)?;
            let (same, half) = (format!("({0}, {0})", sides[0]), sides[0] / 2);
            let padding = printed.named("padding").unwrap_or("(0, 0)");
            let kept = side == same
                && sides[0] % 2 == 1
                && [format!("({half}, {half})"), "same".to_owned()]
                    .iter()
                    .any(|kept| kept == padding)
                && printed.named("stride") == Some("(1, 1)");
            return if kept { Ok(None) } else { Err("it does not keep the size".into()) };
        }
        "Linear" => return printed.knows(&["in_features", "out_features", "bias"]).map(|()| None),
        _ => return printed.knows(&[]).map(|()| None),
    };
    let known = ["eps", "momentum", "affine", "elementwise_affine", "bias", "track_running_stats"];
    printed.knows(&known)?;
    let flag = |name, default: bool| match printed.named(name) {
        None => Ok(default),
        Some("True") => Ok(true),
        Some("False") => Ok(false),
        Some(other) => Err(format!("{name} is {other}")),
    };
    let scaled = flag("affine", true)? && flag("elementwise_affine", true)?;
    let affine = match (scaled, kind != Kind::Rms && flag("bias", true)?) {
        (false, _) => Affine::None,
        (true, false) => Affine::Weight,
        (true, true) => Affine::Both,
    };
    let momentum = match (flag("track_running_stats", false)?, printed.named("momentum")) {
        (false, _) => None,
        // What the layers of PyTorch do without one.
        (true, Some("None")) if kind == Kind::Batch => Some(Momentum::Cumulative),
        (true, Some("None")) => Some(Momentum::Frozen),
        (true, factor) => Some(Momentum::Factor(parsed(factor.ok_or("no momentum")?)?)),
    };
    let channels = printed.number(usize::from(class == "GroupNorm"))?;
    let eps = match printed.named("eps").ok_or("no eps")? {
        "None" if kind == Kind::Rms => f32::EPSILON.into(), // networks are recorded in f32
        eps => parsed(eps)?,
    };
    Ok(Some(Settings { kind, channels, eps, momentum, affine }))
}

/// A layer's `extra_repr`.
struct Printed<'a> {
    positional: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Printed<'a> {
    fn parse(text: &'a str) -> Printed<'a> {
        let mut depth = 0;
        // Commas in a tuple do not separate arguments.
        let arguments = text.split(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            c == ',' && depth == 0
        });
        let mut printed = Printed { positional: Vec::new(), named: BTreeMap::new() };
        for argument in arguments.map(str::trim).filter(|argument| !argument.is_empty()) {
            match argument.split_once('=') {
                Some((name, value)) => drop(printed.named.insert(name, value)),
                None => printed.positional.push(argument),
            }
        }
        printed
    }

    fn named(&self, name: &str) -> Option<&'a str> {
        self.named.get(name).copied()
    }

    /// A positional argument: a number, or a tuple of one.
    fn number(&self, at: usize) -> Result<usize, String> {
        let text = self.positional.get(at).ok_or("an argument is missing")?;
        match numbers(text)?[..] {
            [number] => Ok(number),
            _ => Err(format!("{text} is not one number")),
        }
    }

    /// A setting that is none of these would be ignored in silence.
    fn knows(&self, known: &[&str]) -> Result<(), String> {
        match self.named.keys().find(|name| !known.contains(name)) {
            Some(name) => Err(format!("{name} is unknown")),
            None => Ok(()),
        }
    }
}

fn numbers(text: &str) -> Result<Vec<usize>, String> {
    let inner = text.trim_matches(['(', ')']).split(',').map(str::trim);
    inner.filter(|number| !number.is_empty()).map(parsed).collect()
}

fn parsed<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}
