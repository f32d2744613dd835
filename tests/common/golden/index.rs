//! `index.json` and the tensors it names.

use crate::common::random;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A golden directory, all of it in memory.
pub struct Golden {
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
    pub shape: Option<Vec<usize>>,
    pub dtype: Option<String>,
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
    pub dtype: String,
}

#[derive(Deserialize)]
pub struct Expected {
    pub value: Option<u64>,
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
}

/// `WGNORM_GOLDEN_DIR`, or the repository's.
pub fn directory() -> PathBuf {
    match std::env::var_os("WGNORM_GOLDEN_DIR") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

impl Golden {
    pub fn load(directory: &Path) -> Result<Golden, String> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let index: Index = serde_json::from_slice(&read("index.json")?)
            .map_err(|error| format!("index.json: {error}"))?;
        let mut files = BTreeMap::new();
        let named = index.cases.iter().flat_map(|case| [&case.file, &case.state_dict]);
        for name in named.flatten() {
            if !files.contains_key(name) {
                // Read once per process, so that the parsed headers can borrow it for good.
                let bytes: &'static [u8] = read(name)?.leak();
                let file = SafeTensors::deserialize(bytes).map_err(|e| format!("{name}: {e}"))?;
                files.insert(name.clone(), file);
            }
        }
        Ok(Golden { cases: index.cases, formula_check: index.formula_check, files })
    }

    pub fn case(&self, id: &str) -> Result<&Case, String> {
        self.cases.iter().find(|case| case.id == id).ok_or_else(|| format!("no case {id}"))
    }

    /// The little-endian elements of a tensor, which must be of this type.
    fn elements<const SIZE: usize>(
        &self,
        file: &str,
        name: &str,
        dtype: Dtype,
    ) -> Result<impl Iterator<Item = [u8; SIZE]> + use<SIZE>, String> {
        let tensors = self.files.get(file).ok_or_else(|| format!("no file {file}"))?;
        let tensor = tensors.tensor(name).map_err(|error| format!("{file}: {error}"))?;
        if tensor.dtype() != dtype {
            return Err(format!("{name} is {:?}, not {dtype:?}", tensor.dtype()));
        }
        let bytes = tensor.data().to_vec();
        let (elements, _) = bytes.as_chunks::<SIZE>();
        Ok(elements.to_vec().into_iter())
    }

    pub fn f32s(&self, file: &str, name: &str) -> Result<Vec<f32>, String> {
        Ok(self.elements(file, name, Dtype::F32)?.map(f32::from_le_bytes).collect())
    }

    pub fn f64s(&self, file: &str, name: &str) -> Result<Vec<f64>, String> {
        Ok(self.elements(file, name, Dtype::F64)?.map(f64::from_le_bytes).collect())
    }

    pub fn i64s(&self, file: &str, name: &str) -> Result<Vec<i64>, String> {
        Ok(self.elements(file, name, Dtype::I64)?.map(i64::from_le_bytes).collect())
    }

    /// An input of a float32 case: as stored, else by its formula. `None` if the case has no such
    /// input.
    pub fn input(&self, case: &Case, name: &str) -> Result<Option<Vec<f32>>, String> {
        let Some(input) = case.inputs.get(name) else {
            return Ok(None);
        };
        match (&input.tensor, &input.formula) {
            (Some(tensor), _) => self.f32s(case.file()?, tensor).map(Some),
            (None, Some(formula)) => formula.values().map(Some),
            (None, None) => Err(format!("input {name} has neither tensor nor formula")),
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

    pub fn shape(&self) -> Result<&[usize], String> {
        self.shape.as_deref().ok_or_else(|| format!("{} has no shape", self.id))
    }
}

impl Formula {
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    pub fn values(&self) -> Result<Vec<f32>, String> {
        let len = self.shape.iter().product();
        match (self.formula.as_str(), self.dist.as_str()) {
            ("hash-v1", "uniform") => Ok(random::uniform(len, self.seed, self.scale, self.offset)),
            ("hash-v1", "gauss4") => Ok(random::gauss4(len, self.seed, self.scale, self.offset)),
            (formula, dist) => Err(format!("unknown formula {formula}/{dist}")),
        }
    }
}
