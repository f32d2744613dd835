//! Which network a file holds: by the names that its tensors have after a common prefix, and by their shapes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use safetensors::SafeTensors;

use crate::adain;
use crate::error::WeightsError;
use crate::net::{ARCHITECTURE, Line};

/// A network that this crate can run, as files have it. A convolution's tensors are called `{conv}{suffix}.weight` and
/// `.bias`.
pub(super) struct Network {
    name: &'static str,
    pub lines: &'static [Line],
    pub suffix: &'static str,
}

pub(super) static TRANSFORMER: Network = Network {
    name: "a style network of PyTorch's fast_neural_style (`conv1.conv2d.weight`, `in1.weight`, … with five residual blocks)",
    lines: &ARCHITECTURE,
    suffix: ".conv2d",
};
pub(super) static ENCODER: Network = Network {
    name: "AdaIn's encoder (`conv0.weight` to `conv41.bias`)",
    lines: &adain::ENCODER,
    suffix: "",
};
pub(super) static DECODER: Network = Network {
    name: "AdaIn's decoder (`conv41.weight` to `conv11.bias`)",
    lines: &adain::DECODER,
    suffix: "",
};

/// What wrappers put into the names of a module's tensors, wherever they wrap one: `torch.compile`,
/// `FullyShardedDataParallel`, and its checkpointing.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A file's tensors by their names without wrappers, without running statistics. Sorted, so that the same file gets the
/// same message.
type Shapes<'a> = BTreeMap<String, Found<'a>>;

/// A tensor in a file.
struct Found<'a> {
    /// Its name there.
    name: &'a str,
    shape: Vec<usize>,
}

/// A tensor's name without what wrappers put into it.
fn unwrapped(name: &str) -> String {
    let kept: Vec<_> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    kept.join(".")
}

/// A tensor of a network of any width.
struct Expected {
    name: String,
    /// Its shape in a network of width 1, and what each unit of width adds to that.
    shape: Vec<usize>,
    step: Vec<usize>,
}

impl Expected {
    fn shape(&self, width: usize) -> Vec<usize> {
        let axes = self.shape.iter().zip(&self.step);
        axes.map(|(one, step)| one.saturating_add(step.saturating_mul(width - 1))).collect()
    }

    /// The width of the network in which this tensor has the shape `found`. A shape that is the same in every network
    /// says nothing.
    fn width(&self, found: &[usize]) -> Option<usize> {
        let axis = self.step.iter().position(|&step| step > 0)?;
        let width = found.get(axis)? / self.step[axis];
        (width > 0 && self.shape(width) == found).then_some(width)
    }
}

/// What the tensors of a network are called in a file, and how wide it is.
pub(super) struct Named {
    /// By their names in the network.
    pub names: HashMap<String, String>,
    pub width: usize,
}

/// How far a file's tensors are those of a network.
struct Fit {
    expected: Vec<Expected>,
    prefix: String,
    /// Tensors of the network whose names are in the file.
    named: usize,
    /// The width of most of these; `None` if no shape is that of a network of any width.
    width: Option<usize>,
    /// Tensors that have the shape that this width gives them.
    shaped: usize,
}

impl Fit {
    /// What the tensor is called in the file, but for wrappers.
    fn place(&self, tensor: &Expected) -> String {
        format!("{}{}", self.prefix, tensor.name)
    }

    /// Two tensors of the network that the file has under different prefixes, if it has most of the network.
    fn two_prefixes<'a>(&self, shapes: &Shapes<'a>) -> Option<[&'a str; 2]> {
        let known: BTreeSet<String> = self.expected.iter().map(|t| self.place(t)).collect();
        let extra = || shapes.iter().filter(|(name, _)| !known.contains(*name));
        let is_it = |name: &str, tensor: &Expected| {
            name.strip_suffix(tensor.name.as_str())
                .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        };
        let missing = self.expected.iter().filter(|t| !shapes.contains_key(&self.place(t)));
        let elsewhere: Vec<_> = missing
            .filter_map(|tensor| extra().find(|(name, _)| is_it(name, tensor)))
            .map(|(_, found)| found.name)
            .collect();
        let there = known.iter().find_map(|name| shapes.get(name))?.name;
        // One may be misnamed.
        let most = 2 * (self.named + elsewhere.len()) >= self.expected.len();
        (most && elsewhere.len() > 1).then(|| [there, elsewhere[0]])
    }
}

impl Network {
    /// Finds the network's tensors in the file, under whatever prefix, and how wide it is.
    ///
    /// # Errors
    /// [`WeightsError::Architecture`] if the file holds another network, [`WeightsError::Missing`] or
    /// [`WeightsError::Unexpected`] if it is this one but for some tensors, [`WeightsError::Ambiguous`] if it has one
    /// twice.
    pub fn find(&self, file: &SafeTensors<'_>) -> Result<Named, WeightsError> {
        let names: BTreeSet<&str> = file.names().into_iter().collect();
        let mut shapes = Shapes::new();
        for name in names.into_iter().filter(|name| !is_of_training(name)) {
            let Ok(view) = file.tensor(name) else { continue };
            let found = Found { name, shape: view.shape().to_vec() };
            if let Some(other) = shapes.insert(unwrapped(name), found) {
                let (tensor, other) = (other.name.to_owned(), name.to_owned());
                return Err(WeightsError::Ambiguous { tensor, other });
            }
        }
        let fit = self.fit(&shapes);
        self.check_architecture(&fit, &shapes)?;
        let width = fit.width.unwrap_or(1);

        let known: BTreeSet<String> = fit.expected.iter().map(|t| fit.place(t)).collect();
        let mut missing = fit.expected.iter().filter(|t| !shapes.contains_key(&*fit.place(t)));
        let mut extra =
            shapes.iter().filter(|(name, _)| !known.contains(*name)).map(|(_, found)| found);
        if let Some(tensor) = missing.next() {
            return Err(WeightsError::Missing {
                tensor: fit.place(tensor),
                expected: tensor.shape(width),
                others: missing.count(),
                instead: extra.next().map(|found| (found.name.to_owned(), found.shape.clone())),
            });
        }
        if let Some(found) = extra.next() {
            let (tensor, found) = (found.name.to_owned(), found.shape.clone());
            return Err(WeightsError::Unexpected { tensor, found, others: extra.count() });
        }
        let name = |tensor: &Expected| shapes[&fit.place(tensor)].name.to_owned();
        let names = fit.expected.iter().map(|tensor| (tensor.name.clone(), name(tensor)));
        Ok(Named { names: names.collect(), width })
    }

    /// Refuses a file that is nearer to another network, or to none.
    fn check_architecture(&self, fit: &Fit, shapes: &Shapes<'_>) -> Result<(), WeightsError> {
        let refused = |found| Err(WeightsError::Architecture { found, expected: self.name });
        let others = [&TRANSFORMER, &ENCODER, &DECODER].into_iter();
        let others = others.filter(|other| !std::ptr::eq(*other, self));
        let others = others.map(|other| (other, other.fit(shapes)));
        if let Some((other, better)) = others.max_by_key(|(_, other)| other.shaped)
            && better.shaped > fit.shaped
            && 2 * better.shaped > better.expected.len()
            && let Some(width) = better.width
        {
            return refused(format!("{} of width {width}", other.name));
        }
        let blocks = (1..).take_while(|number| {
            let first = format!("{}res{number}.conv1{}.weight", fit.prefix, self.suffix);
            shapes.contains_key(first.as_str())
        });
        let blocks = blocks.count();
        let expected = self.lines.iter().filter(|line| line.conv.ends_with(".conv1")).count();
        let frame = |tensor: &&Expected| !tensor.name.starts_with("res");
        let there = |tensor: &&Expected| shapes.contains_key(&*fit.place(tensor));
        let all = fit.expected.iter().filter(frame).count();
        let found = fit.expected.iter().filter(frame).filter(there).count();
        if let Some([one, other]) = fit.two_prefixes(shapes) {
            let about = "tensors of one network under different prefixes";
            return refused(format!("{about}, such as `{one}` and `{other}`"));
        }
        if blocks != expected && 2 * found >= all {
            return refused(format!("a network with {blocks} residual blocks"));
        }
        if 2 * fit.named < fit.expected.len() {
            let bare = Network { name: self.name, lines: self.lines, suffix: "" };
            if 2 * bare.fit(shapes).shaped > fit.expected.len() {
                let (suffix, conv) = (self.suffix, self.lines[0].conv);
                let about = "a network whose convolutions' names lack";
                return refused(format!("{about} `{suffix}` (`{conv}.weight`)"));
            }
            return refused(foreign(shapes));
        }
        if fit.width.is_none()
            && let Some(tensor) = fit.expected.iter().find(there)
        {
            let Found { name, shape } = &shapes[&fit.place(tensor)];
            let about = "tensors of the right names and other shapes";
            return refused(format!("{about}, such as `{name}` of {shape:?}"));
        }
        Ok(())
    }

    fn tensors(&self) -> Vec<Expected> {
        let shapes = |width: usize| {
            self.lines.iter().flat_map(move |line| {
                let g = line.geometry(width);
                let conv = format!("{}{}", line.conv, self.suffix);
                let norm = line.finish.has_norm().then_some(line.norm);
                let weight = vec![g.out_channels, g.in_channels, g.kernel, g.kernel];
                let vectors = [Some(conv.as_str()), norm].into_iter().flatten();
                let vectors = vectors.map(|of| (format!("{of}.bias"), vec![g.out_channels]));
                let scale = norm.map(|norm| (format!("{norm}.weight"), vec![g.out_channels]));
                let all =
                    [(format!("{conv}.weight"), weight)].into_iter().chain(vectors).chain(scale);
                all.collect::<Vec<_>>()
            })
        };
        let step = |one: &[usize], two: &[usize]| one.iter().zip(two).map(|(a, b)| b - a).collect();
        let pairs = shapes(1).zip(shapes(2));
        pairs
            .map(|((name, one), (_, two))| Expected { name, step: step(&one, &two), shape: one })
            .collect()
    }

    fn fit(&self, shapes: &Shapes<'_>) -> Fit {
        let expected = self.tensors();
        // What comes before a name of the network, and how many of them it comes before. (In `res1.in1.weight` the
        // network has a name of its own before `in1.weight`; most names decide.)
        let mut prefixes = HashMap::<&str, usize>::new();
        for name in shapes.keys() {
            for prefix in
                expected.iter().filter_map(|tensor| name.strip_suffix(tensor.name.as_str()))
            {
                *prefixes.entry(prefix).or_default() += 1;
            }
        }
        let most = prefixes
            .into_iter()
            .min_by_key(|&(prefix, count)| (std::cmp::Reverse(count), prefix.len(), prefix));
        let (prefix, named) = most.unwrap_or_default();
        let found = |tensor: &Expected| {
            shapes.get(&format!("{prefix}{}", tensor.name)).map(|found| &found.shape)
        };
        let mut votes = BTreeMap::<usize, usize>::new();
        for width in expected.iter().filter_map(|tensor| tensor.width(found(tensor)?)) {
            *votes.entry(width).or_default() += 1;
        }
        let width =
            votes.into_iter().max_by_key(|&(width, count)| (count, std::cmp::Reverse(width)));
        let width = width.map(|(width, _)| width);
        let shaped = expected.iter().filter(|tensor| {
            width.is_some_and(|width| found(tensor) == Some(&tensor.shape(width)))
        });
        let shaped = shaped.count();
        let prefix = prefix.to_owned();
        Fit { expected, prefix, named, width, shaped }
    }
}

/// Networks that people have under the name of a style, by a tensor that they have.
const FOREIGN: [(&str, &str); 11] = [
    ("features.0.weight", "a classifier in torchvision's names, such as VGG"),
    ("layer1.0.conv1.weight", "a ResNet in torchvision's names"),
    (
        "ConvBlock.0.conv_layer.weight",
        "a style network of another repository (`ConvBlock`, `ResidualBlock`, `DeconvBlock`)",
    ),
    ("conv_block.1.weight", "a generator of CycleGAN or pix2pix"),
    ("diffusion_model.input_blocks.0.0.weight", "a Stable Diffusion checkpoint"),
    (".lora_down.weight", "a LoRA, which changes a diffusion or language model"),
    (".lora_A.weight", "a LoRA, which changes a diffusion or language model"),
    ("embed_tokens.weight", "a language model"),
    ("wte.weight", "a language model"),
    ("0.weight", "the numbered layers of an `nn.Sequential`"),
    ("1.weight", "the numbered layers of an `nn.Sequential`"),
];

/// What a file holds that is none of the networks here.
fn foreign(shapes: &Shapes<'_>) -> String {
    let Some(first) = shapes.values().next() else {
        return "no tensors at all".to_owned();
    };
    let known = FOREIGN.iter().find_map(|(end, about)| {
        let ends = |name: &str| {
            name.strip_suffix(end).is_some_and(|start| {
                start.is_empty() || start.ends_with('.') || end.starts_with('.')
            })
        };
        Some((shapes.iter().find(|(name, _)| ends(name))?.1, *about))
    });
    let (Found { name, shape }, about) = known.unwrap_or((first, "another network"));
    let all = shapes.len();
    format!("{about}: {all} tensors, such as `{name}` of shape {shape:?}")
}

/// Whether only training reads a tensor: running statistics, and how many models `AveragedModel` has averaged.
fn is_of_training(tensor: &str) -> bool {
    let last = tensor.rsplit('.').next();
    let ends = ["running_mean", "running_var", "num_batches_tracked"];
    ends.iter().any(|end| tensor.ends_with(end)) || last == Some("n_averaged")
}
