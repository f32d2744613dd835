//! naga's translations, with the options wgpu's back ends use, and the tools that check them.

use naga::{
    Module, ShaderStage,
    back::{PipelineConstants, glsl, hlsl, msl, pipeline_constants::process_overrides, spv},
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};
use std::{
    error::Error,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// WebGPU with no feature asked for.
pub fn validate(module: &Module) -> Result<ModuleInfo> {
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::default());
    Ok(validator.validate(module)?)
}

/// A module in every language a GPU driver may be given.
pub struct Translations {
    /// 1.3, for Vulkan 1.1.
    pub spirv: Vec<u8>,
    pub msl: String,
    pub hlsl: String,
    /// OpenGL ES 3.1 and 4.3, the oldest with compute shaders.
    pub glsl: [String; 2],
}

/// Sets a valid module's overrides and validates what remains.
pub fn specialize(
    module: &Module,
    info: &ModuleInfo,
    entry_point: &str,
    constants: &[(&str, f64)],
) -> Result<(Module, ModuleInfo)> {
    let constants: PipelineConstants =
        constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let entry = Some((ShaderStage::Compute, entry_point));
    let module = process_overrides(module, info, entry, &constants)?.0.into_owned();
    let info = validate(&module)?;
    Ok((module, info))
}

/// Writes a module without overrides in every language.
pub fn translate(module: &Module, info: &ModuleInfo, entry_point: &str) -> Result<Translations> {
    let entry = (ShaderStage::Compute, entry_point.to_owned());
    let checked = BoundsCheckPolicies {
        index: BoundsCheckPolicy::Restrict,
        buffer: BoundsCheckPolicy::Restrict,
        image_load: BoundsCheckPolicy::Restrict,
        binding_array: BoundsCheckPolicy::Unchecked,
    };
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: checked,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: entry.0, entry_point: entry.1.clone() };
    let words = spv::write_vec(module, info, &options, Some(&pipeline))?;

    let options = msl::Options {
        lang_version: (2, 0),
        bounds_check_policies: checked,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions { entry_point: Some(entry.clone()), ..Default::default() };
    let (metal, names) = msl::write_string(module, info, &options, &pipeline)?;
    for name in names.entry_point_names {
        name?;
    }

    let options = hlsl::Options { zero_initialize_workgroup_memory: false, ..Default::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some(entry.clone()) };
    let mut direct = String::new();
    let names = hlsl::Writer::new(&mut direct, &options, &pipeline).write(module, info, None)?;
    for name in names.entry_point_names {
        name?;
    }

    let glsl = |version| -> Result<String> {
        let options = glsl::Options {
            version,
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        };
        let pipeline = glsl::PipelineOptions {
            shader_stage: entry.0,
            entry_point: entry.1.clone(),
            multiview: None,
        };
        let mut text = String::new();
        glsl::Writer::new(&mut text, module, info, &options, &pipeline, checked)?.write()?;
        Ok(text)
    };

    Ok(Translations {
        spirv: words.into_iter().flat_map(u32::to_le_bytes).collect(),
        msl: metal,
        hlsl: direct,
        glsl: [glsl(glsl::Version::new_gles(310))?, glsl(glsl::Version::Desktop(430))?],
    })
}

/// A checker on the PATH.
pub struct Tool {
    pub program: &'static str,
    pub arguments: &'static [&'static str],
    /// What stands before the name of the entry point, where the tool wants it.
    pub entry_point: Option<&'static str>,
    /// How many files a call may take: starting up takes glslang longer than a shader does.
    pub at_once: usize,
}

pub const SPIRV_VAL: Tool = Tool {
    program: "spirv-val",
    arguments: &["--target-env", "vulkan1.1"],
    entry_point: None,
    at_once: 1,
};
pub const GLSLANG: Tool = Tool {
    program: "glslangValidator",
    arguments: &["-S", "comp"],
    entry_point: None,
    at_once: 64,
};
/// Of HLSL, glslang only compiles to SPIR-V.
pub const GLSLANG_HLSL: Tool = Tool {
    program: "glslangValidator",
    arguments: &["-D", "-S", "comp", "-V", "-o", "/dev/null"],
    entry_point: Some("-e"),
    at_once: 1, // it would link them
};

impl Tool {
    /// Whether the tool is there. Where it is not, says so, or panics if tools are required.
    pub fn is_there(&self) -> bool {
        let found = Command::new(self.program).arg("--version").stdout(Stdio::null()).status();
        let required = std::env::var("WGNORM_REQUIRE_TOOLS").is_ok_and(|v| v == "1");
        match found {
            Ok(_) => true,
            Err(reason) if required => {
                panic!("WGNORM_REQUIRE_TOOLS is set, but {}: {reason}", self.program)
            }
            Err(reason) => {
                eprintln!("skipped: no {} ({reason})", self.program);
                false
            }
        }
    }

    /// What the tool says about these files of one entry point, their names apart.
    pub fn complaint(&self, files: &[PathBuf], entry_point: &str) -> Option<String> {
        let mut command = Command::new(self.program);
        command.args(self.arguments);
        if let Some(option) = self.entry_point {
            command.args([option, entry_point]);
        }
        let output = command.args(files).output().expect("the tool runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let is_name = |line: &str| files.iter().any(|file| Path::new(line) == file);
        let silent =
            output.status.success() && text.lines().all(|line| line.is_empty() || is_name(line));
        (!silent).then(|| format!("{} ({}): {text}", self.program, output.status))
    }
}
