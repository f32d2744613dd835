//! `index.json` and the tensors it names.

use crate::common::data::{self, Layout, rounded};
use crate::common::random;
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
#[cfg(not(target_arch = "wasm32"))]
use std::path::{Path, PathBuf};
use wgnorm::{DType, StateDict, StateValue};

/// A golden directory, all of it in memory.
pub struct Golden {
    /// Whether these are the repository's own vectors, which have a case of every kind that there is.
    pub own: bool,
    pub cases: Vec<Case>,
    pub formula_check: FormulaCheck,
    files: BTreeMap<String, SafeTensors<'static>>,
}

#[derive(Deserialize)]
struct Index {
    formula_check: FormulaCheck,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
pub struct FormulaCheck {
    pub seed: u32,
    pub uniform: Vec<f64>,
    pub gauss4: Vec<f64>,
}

#[derive(Deserialize)]
pub struct Case {
    pub id: String,
    pub op: String,
    pub source: String,
    pub file: Option<String>,
    /// Read by the op's own module, which knows the names.
    #[serde(default)]
    pub params: Value,
    /// Logical: channels after the batch.
    pub shape: Option<Vec<usize>>,
    pub dtype: Option<String>,
    pub param_dtype: Option<String>,
    /// "nchw", "nhwc", "channel axis 2".
    pub layout: Option<String>,
    /// "train", "eval"; "any" or nothing where it makes no difference.
    pub mode: Option<String>,
    pub steps: Option<Vec<String>>,
    #[serde(default)]
    pub inputs: BTreeMap<String, Input>,
    #[serde(default)]
    pub expected: BTreeMap<String, Expected>,
    pub expect: Option<Expect>,
    /// A file of parameters under PyTorch's names.
    pub state_dict: Option<String>,
    /// What a network does, one after the other.
    pub phases: Option<Vec<String>>,
    /// A network's layers: name, class, settings as PyTorch prints them.
    pub layers: Option<Vec<[String; 3]>>,
    /// Of all of a network's values.
    pub tol: Option<Value>,
    /// The stored parameters are the defaults.
    #[serde(default)]
    pub fresh_module: bool,
    pub tier: String,
}

#[derive(Deserialize)]
pub struct Input {
    pub shape: Option<Vec<usize>>,
    pub dtype: Option<String>,
    pub tensor: Option<String>,
    pub formula: Option<Formula>,
}

#[derive(Deserialize)]
pub struct Formula {
    formula: String,
    dist: String,
    seed: u32,
    scale: f64,
    offset: f64,
    shape: Vec<usize>,
}

#[derive(Deserialize)]
pub struct Expected {
    pub value: Option<u64>,
    pub dtype: Option<String>,
    pub shape: Option<Vec<usize>>,
    pub tensor: Option<String>,
    pub truth_f64: Option<String>,
    pub prefer: Option<String>,
    pub sample_index: Option<String>,
    pub sample_f64: Option<String>,
    pub stats: Option<Stats>,
    pub tol: Option<Tolerance>,
}

#[derive(Clone, Copy, Deserialize)]
pub struct Tolerance {
    pub atol: f64,
    pub rtol: f64,
    pub atol_good: f64,
    pub err_f64: f64,
}

/// Of the recorded system's whole output, in f64.
#[derive(Clone, Deserialize)]
pub struct Stats {
    pub count: usize,
    pub sum: f64,
    pub sum_abs: f64,
    pub sum_sq: f64,
    pub min: f64,
    pub max: f64,
}

/// What the recorded system answers to a call that only its behaviour is known of.
#[derive(Deserialize)]
pub struct Expect {
    #[serde(default)]
    pub ok: bool,
    pub message: Option<String>,
    pub output_shape: Option<Vec<usize>>,
    /// Elements, or a word about them.
    pub value: Option<Value>,
    /// A word about running statistics that are spoiled.
    pub running_mean_becomes: Option<String>,
}

/// The repository's vectors.
#[cfg(not(target_arch = "wasm32"))]
pub fn own_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// `WGNORM_GOLDEN_DIR`, or the repository's.
#[cfg(not(target_arch = "wasm32"))]
pub fn directory() -> PathBuf {
    std::env::var_os("WGNORM_GOLDEN_DIR").map_or_else(own_directory, PathBuf::from)
}

impl Golden {
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(directory: &Path) -> Result<Golden, String> {
        let golden = Golden::read(|name| {
            let path = directory.join(name);
            let bytes = std::fs::read(&path);
            // Read once per process, so that the parsed headers can borrow it for good.
            bytes.map(|bytes| &*bytes.leak()).map_err(|e| format!("{}: {e}", path.display()))
        })?;
        Ok(Golden { own: directory == own_directory(), ..golden })
    }

    /// What `read` gives for the files' names: the repository's own.
    pub fn read(read: impl Fn(&str) -> Result<&'static [u8], String>) -> Result<Golden, String> {
        let index: Index = serde_json::from_slice(read("index.json")?)
            .map_err(|error| format!("index.json: {error}"))?;
        let mut files = BTreeMap::new();
        let named = index.cases.iter().flat_map(|case| [&case.file, &case.state_dict]);
        for name in named.flatten() {
            if !files.contains_key(name) {
                let file = SafeTensors::deserialize(read(name)?);
                let file = file.map_err(|e| format!("{name}: {e}"))?;
                files.insert(name.clone(), file);
            }
        }
        Ok(Golden { own: true, cases: index.cases, formula_check: index.formula_check, files })
    }

    pub fn case(&self, id: &str) -> Result<&Case, String> {
        self.cases.iter().find(|case| case.id == id).ok_or_else(|| format!("no case {id}"))
    }

    /// A stored tensor, widened.
    pub fn values(&self, file: &str, name: &str) -> Result<Vec<f64>, String> {
        fn of<const SIZE: usize>(data: &[u8], widen: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
            data.as_chunks().0.iter().map(|&bytes| widen(bytes)).collect()
        }
        let tensor = self.tensor(file, name)?;
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => Ok(of(data, |bytes| f32::from_le_bytes(bytes).into())),
            Dtype::F16 => Ok(of(data, |bytes| f16::from_le_bytes(bytes).into())),
            Dtype::BF16 => Ok(of(data, |bytes| bf16::from_le_bytes(bytes).into())),
            Dtype::F64 => Ok(of(data, f64::from_le_bytes)),
            other => Err(format!("{name} is {other:?}")),
        }
    }

    /// Stored integers.
    pub fn integers(&self, file: &str, name: &str) -> Result<Vec<usize>, String> {
        let tensor = self.tensor(file, name)?;
        if tensor.dtype() != Dtype::I64 {
            return Err(format!("{name} is {:?}", tensor.dtype()));
        }
        let integers = tensor.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes));
        integers.map(|i| i.try_into().map_err(|_| format!("{name} holds {i}"))).collect()
    }

    pub fn tensor(&self, file: &str, name: &str) -> Result<TensorView<'static>, String> {
        self.file(file)?.tensor(name).map_err(|error| format!("{file}: {error}"))
    }

    pub fn file(&self, name: &str) -> Result<&SafeTensors<'static>, String> {
        self.files.get(name).ok_or_else(|| format!("no file {name}"))
    }

    /// A file's values by name. (The crate reads such files by itself with its feature `safetensors`;
    /// tests/checkpoints.rs tests that.)
    pub fn state_dict(&self, file: &str) -> Result<StateDict, String> {
        let mut state = StateDict::new();
        for (name, view) in self.file(file)?.iter() {
            let value = match view.dtype() {
                Dtype::I64 => StateValue::Count(self.integers(file, name)?[0] as u64),
                Dtype::F32 => {
                    let (values, order) = (self.values(file, name)?, Default::default());
                    let tensor = data::host(view.shape(), DType::F32, order, &values);
                    StateValue::Tensor(tensor.map_err(|e| e.to_string())?)
                }
                other => return Err(format!("{name} is {other:?}")),
            };
            state.insert(name, value).map_err(|e| e.to_string())?;
        }
        Ok(state)
    }

    /// An input as stored, else by its formula. `None` if the case has no such input.
    pub fn input(&self, case: &Case, name: &str) -> Result<Option<Array>, String> {
        let Some(input) = case.inputs.get(name) else {
            return Ok(None);
        };
        let shape = input.shape.clone().ok_or_else(|| format!("{name} has no shape"))?;
        let values = match (&input.tensor, &input.formula) {
            (Some(tensor), _) => self.values(case.file()?, tensor)?,
            (None, Some(_)) => input.by_formula(case.is_nhwc())?,
            (None, None) => return Err(format!("input {name} has neither tensor nor formula")),
        };
        Ok(Some(Array { shape, dtype: input.dtype()?, values }))
    }
}

/// Values, as stored.
#[derive(Clone, Debug)]
pub struct Array {
    /// Of the stored array.
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub values: Vec<f64>,
}

impl Input {
    pub fn dtype(&self) -> Result<DType, String> {
        self.dtype.as_deref().unwrap_or("float32").parse::<DType>().map_err(|e| format!("{e}"))
    }

    /// The formula's values in the order and type that the tensor is stored in.
    pub fn by_formula(&self, nhwc: bool) -> Result<Vec<f64>, String> {
        let formula = self.formula.as_ref().ok_or("no formula")?;
        let values = rounded(self.dtype()?, &formula.values()?);
        match formula.shape[..] {
            [n, c, ref space @ ..] if nhwc && !space.is_empty() => {
                Ok(Layout::last([n, c, space.iter().product()]).to_memory(&values))
            }
            _ => Ok(values),
        }
    }
}

impl Case {
    pub fn file(&self) -> Result<&str, String> {
        self.file.as_deref().ok_or_else(|| format!("{} names no file", self.id))
    }

    pub fn mode_is(&self, mode: &str) -> bool {
        self.mode.as_deref() == Some(mode)
    }

    pub fn is_nhwc(&self) -> bool {
        self.layout.as_deref() == Some("nhwc")
    }

    /// Of x and y; float32 where nothing is said.
    pub fn dtype_name(&self) -> &str {
        self.dtype.as_deref().unwrap_or("float32")
    }

    /// What of the case nothing here knows. It would be left out in silence, or taken for something else.
    pub fn unknown(&self) -> Option<String> {
        let known = |what: &str, value: Option<&str>, known: &[&str]| {
            let value = value.filter(|value| !known.contains(value))?;
            Some(format!("{what} {value} is unknown"))
        };
        let layout = self.layout.as_deref().filter(|layout| !layout.starts_with("channel axis "));
        let floats = ["float16", "bfloat16", "float32", "float64"];
        known("layout", layout, &["nchw", "nhwc"])
            .or(known("tier", Some(&self.tier), &["core", "stretch"]))
            .or(known("parameter type", self.param_dtype.as_deref(), &floats))
    }

    /// Of parameters and running statistics.
    pub fn param_dtype(&self) -> DType {
        self.param_dtype.as_deref().and_then(|name| name.parse().ok()).unwrap_or_default()
    }

    pub fn shape(&self) -> Result<&[usize], String> {
        self.shape.as_deref().ok_or_else(|| format!("{} has no shape", self.id))
    }
}

impl Formula {
    /// Not yet rounded to any type, in logical order.
    fn values(&self) -> Result<Vec<f64>, String> {
        let len = self.shape.iter().product();
        match (self.formula.as_str(), self.dist.as_str()) {
            ("hash-v1", "uniform") => {
                Ok(random::uniform_f64(len, self.seed, self.scale, self.offset))
            }
            ("hash-v1", "gauss4") => {
                Ok(random::gauss4_f64(len, self.seed, self.scale, self.offset))
            }
            (formula, dist) => Err(format!("unknown formula {formula}/{dist}")),
        }
    }
}
