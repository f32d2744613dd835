//! One small enum per phase, each with only what that phase can return. Variants carry data;
//! messages give the name of the thing, both numbers and, where there is one, the way out.

use crate::desc::Shape;
use thiserror::Error;

/// How a layer's settings call the number of its channels.
pub(crate) fn channels(layer: &str) -> &'static str {
    if layer == "GroupNorm" { "num_channels" } else { "num_features" }
}

/// A setting that no layer can be built from. Returned by constructors.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A layer over zero channels normalizes nothing.
    #[error("{layer}: {} must be at least 1", channels(layer))]
    ZeroFeatures {
        /// The layer's name.
        layer: &'static str,
    },
    /// More channels or elements than the 32-bit indices of the kernels can name.
    #[error("{layer}: {setting} is {got}, above the limit of {limit}")]
    TooManyFeatures {
        /// The layer's name.
        layer: &'static str,
        /// The setting, or the product of settings.
        setting: &'static str,
        /// The value given.
        got: usize,
        /// The largest value accepted.
        limit: u32,
    },
    /// Channels that no number of groups, or not this one, divides.
    #[error(
        "{layer}: num_groups must be at least 1 and divide num_channels, got {num_groups} groups of \
         {num_channels} channels"
    )]
    Indivisible {
        /// The layer's name.
        layer: &'static str,
        /// The channels.
        num_channels: usize,
        /// The groups.
        num_groups: usize,
    },
    /// A normalized shape without elements normalizes nothing.
    #[error("{layer}: normalized_shape must have an axis, and none of size 0, got {got}")]
    NormalizedShape {
        /// The layer's name.
        layer: &'static str,
        /// The shape given.
        got: Shape,
    },
    /// The channels cannot be on the batch's axis.
    #[error("{layer}: axis must not be 0, which is the batch; the channels are on another")]
    BatchAxis {
        /// The layer's name.
        layer: &'static str,
    },
    /// A bank without styles.
    #[error("{layer}: num_styles must be at least 1")]
    ZeroStyles {
        /// The layer's name.
        layer: &'static str,
    },
    /// An initializer with numbers that are not finite in f32, or make no distribution.
    #[error("{layer}: {setting} needs finite numbers, low <= high and std >= 0, got {got:?}")]
    Init {
        /// The layer's name.
        layer: &'static str,
        /// `weight_init` or `bias_init`.
        setting: &'static str,
        /// The initializer given.
        got: crate::Init,
    },
    /// `eps` must be finite in f32 and not negative. (PyTorch's BatchNorm refuses a negative one too; its
    /// other layers take the root of `var + eps`, which is NaN where the variance is smaller than that.)
    #[error("{layer}: eps must be finite in f32 and >= 0, got {got:?}")]
    Eps {
        /// The layer's name.
        layer: &'static str,
        /// The value given.
        got: f64,
    },
    /// `momentum` must be finite in f32; values outside 0..=1 are accepted, as in PyTorch.
    #[error("{layer}: momentum must be finite (in f32), got {got}")]
    Momentum {
        /// The layer's name.
        layer: &'static str,
        /// The value given.
        got: f64,
    },
    /// A leaky ReLU's slope must be finite.
    #[error("{layer}: the slope of LeakyRelu must be finite, got {got}")]
    Slope {
        /// The layer's name.
        layer: &'static str,
        /// The value given.
        got: f32,
    },
    /// An element type that tensors here cannot have.
    #[error("element type {name:?} cannot be normalized; float32, float16, bfloat16, float64 can")]
    DType {
        /// The name as given.
        name: String,
    },
}

/// A tensor whose shape or memory order does not fit the call.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The number of axes is wrong.
    #[error("{layer}: expected {expected} axes, got {} in shape {got}", got.len())]
    Rank {
        /// The layer's name.
        layer: &'static str,
        /// The accepted numbers of axes, in words.
        expected: &'static str,
        /// The shape given.
        got: Shape,
    },
    /// The channel axis has another size than the layer was built for.
    #[error("{layer}: axis {axis} must have {expected} channels ({}), got {got}", channels(layer))]
    Channels {
        /// The layer's name.
        layer: &'static str,
        /// The axis that holds the channels.
        axis: usize,
        /// `num_features`, GroupNorm's `num_channels`.
        expected: usize,
        /// The size found.
        got: usize,
    },
    /// Trailing axes of other sizes than the layer normalizes.
    #[error("{layer}: the trailing axes must be {expected} (normalized_shape), got shape {got}")]
    Normalized {
        /// The layer's name.
        layer: &'static str,
        /// `normalized_shape`.
        expected: Shape,
        /// The shape given.
        got: Shape,
    },
    /// An operand with too few positions for its statistics.
    #[error("{layer}: {operand} of shape {got} needs at least {needed} positions per channel")]
    FewValues {
        /// The layer's name.
        layer: &'static str,
        /// Which operand.
        operand: &'static str,
        /// The least number.
        needed: u32,
        /// The shape given.
        got: Shape,
    },
    /// A style that is not in the bank.
    #[error("{layer}: there is no style {got} among {limit}")]
    Style {
        /// The layer's name.
        layer: &'static str,
        /// The index given.
        got: usize,
        /// `num_styles`.
        limit: usize,
    },
    /// Batch statistics over a single value: the variance is 0 and the output only the bias.
    #[error(
        "{layer}: shape {got} has one value per statistic, so its output would be the bias alone; \
         if that is meant use OneValue::Bias, or where the layer keeps running statistics Mode::Eval"
    )]
    OneValue {
        /// The layer's name.
        layer: &'static str,
        /// The shape given.
        got: Shape,
    },
    /// More elements than 32-bit indices can name.
    #[error("shape {shape} has {elements} elements, above the limit of {limit}")]
    TooLarge {
        /// The shape given.
        shape: Shape,
        /// Its number of elements (saturating).
        elements: u64,
        /// The largest number accepted.
        limit: u32,
    },
    /// A slice or buffer that does not hold what its shape says.
    #[error("shape {shape} has {expected} elements, the data {got}")]
    Length {
        /// The shape given.
        shape: Shape,
        /// The elements of that shape.
        expected: u64,
        /// The elements found.
        got: u64,
    },
    /// A second operand that must have the shape of the first.
    #[error("{layer}: {operand} must have shape {expected}, got {got}")]
    Operand {
        /// The layer's name.
        layer: &'static str,
        /// Which operand.
        operand: &'static str,
        /// The shape it must have.
        expected: Shape,
        /// The shape it has.
        got: Shape,
    },
    /// Operands whose element types do not go together: `y`, `dy` and addends have x's; f64 wants f64
    /// parameters and running statistics, the other types f32 or 16-bit ones. A layer is built in another
    /// type by its settings' `with_dtype`, or made from one that is there by `cast`.
    #[error(
        "{layer}: {operand} must be {expected}, got {got}; convert it, or the layer with its method cast"
    )]
    DType {
        /// The layer's name.
        layer: &'static str,
        /// Which operand.
        operand: &'static str,
        /// The element type it must have.
        expected: crate::DType,
        /// The element type it has.
        got: crate::DType,
    },
    /// An axis that is not there, or that cannot be the one asked for.
    #[error("{layer}: shape {got} has no axis {axis} that could be used here")]
    Axis {
        /// The layer's name.
        layer: &'static str,
        /// The axis, as given.
        axis: i64,
        /// The shape given.
        got: Shape,
    },
    /// A mask or lengths that do not fit the input.
    #[error("{layer}: a mask over {expected} (N and the spatial axes) is needed, got {got}")]
    Mask {
        /// The layer's name.
        layer: &'static str,
        /// N and the spatial axes of x.
        expected: Shape,
        /// The mask's.
        got: Shape,
    },
    /// A layer whose groups do not share positions (LayerNorm, RmsNorm) takes no mask, nor does an
    /// input whose memory order hides them.
    #[error("{layer} takes no mask here: its statistics do not run over positions in their order")]
    NoMask {
        /// The layer's name.
        layer: &'static str,
    },
    /// An operand in another memory order than x, or one that this layer does not take.
    #[error("{layer}: {operand} is {got:?}, {expected:?} is needed here")]
    Order {
        /// The layer's name.
        layer: &'static str,
        /// Which operand.
        operand: &'static str,
        /// The order accepted.
        expected: crate::MemoryOrder,
        /// The order found.
        got: crate::MemoryOrder,
    },
}

/// An operand of the right shape that this call cannot use where it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OperandError {
    /// Data on the host where the GPU is wanted, or the reverse, or on another device.
    #[error(
        "{operand} is not on this context's {expected}; bring host data there with \
         Tensor::to_context, data of a GPU to the host with Tensor::to_vec"
    )]
    Elsewhere {
        /// Which operand.
        operand: &'static str,
        /// Where it should be.
        expected: crate::Backend,
    },
    /// WGSL has no f64.
    #[error(
        "{operand} is float64, which no GPU context takes; run it on Context::host(), or cast it to \
         float32 first"
    )]
    NoF64 {
        /// Which operand.
        operand: &'static str,
    },
    /// Recording needs a GPU context.
    #[error("this context runs on the host and cannot record GPU commands; call forward instead")]
    HostContext,
    /// The layer was built on another context.
    #[error("{layer} was built on another context; build it on this one")]
    OtherContext {
        /// The layer's name.
        layer: &'static str,
    },
    /// A buffer that lacks a usage flag.
    #[error("{operand}: the buffer was created without BufferUsages::{missing}")]
    Usage {
        /// Which operand.
        operand: &'static str,
        /// The missing flag.
        missing: &'static str,
    },
    /// A byte offset that the operand cannot start at: elements start at words, entries of
    /// statistics where the device can bind them.
    #[error("{operand}: byte offset {offset} is not a multiple of {alignment}")]
    Misaligned {
        /// Which operand.
        operand: &'static str,
        /// The offset given.
        offset: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A buffer shorter than its shape.
    #[error("{operand}: needs {needed} bytes from offset {offset}, the buffer has {got} in all")]
    TooShort {
        /// Which operand.
        operand: &'static str,
        /// Bytes of the shape.
        needed: u64,
        /// Byte offset of the view.
        offset: u64,
        /// Bytes of the whole buffer.
        got: u64,
    },
    /// An operand other than the input in the output's buffer: WebGPU forbids a buffer that is read and
    /// written in one dispatch, even in disjoint ranges. (x may lie there, at the same place or apart.)
    #[error("{operand} and y are in the same buffer; the output needs a buffer of its own")]
    SharedBuffer {
        /// Which operand shares y's buffer.
        operand: &'static str,
    },
    /// Input and output overlap without being at the same place.
    #[error(
        "x at byte {x} and y at byte {y} of one buffer overlap: each has {bytes}; \
         put them at the same place or apart"
    )]
    Overlap {
        /// Where x starts.
        x: u64,
        /// Where y starts.
        y: u64,
        /// Bytes of either.
        bytes: u64,
    },
}

/// A call that does not fit the device. Found when planning, before any GPU work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Something larger than the device allows.
    #[error("{what} needs {needed}, this device's {limit_name} is {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// What is needed, in the limit's unit.
        needed: u64,
        /// The limit's name in WebGPU.
        limit_name: &'static str,
        /// The limit's value on this device.
        limit: u64,
    },
}

/// Why there is no GPU context; also what [`Context::fallback_reason`](crate::Context) tells.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The crate or wgpu was compiled without any GPU back end.
    #[error(
        "no GPU back end is compiled in; enable one of wgnorm's features vulkan, metal, dx12, gles, webgpu"
    )]
    NoBackend,
    /// wgpu's environment variable `WGPU_BACKEND` allows no back end that was compiled in. Native only.
    #[error(
        "WGPU_BACKEND is {wanted:?}, which names no back end of this build; set it to one or more of {}, separated by \
         commas, or unset it",
        found.join(", ")
    )]
    NoSuchBackend {
        /// The variable's value.
        wanted: String,
        /// The back ends compiled in, as the variable would name them.
        found: Vec<&'static str>,
    },
    /// A scope of JavaScript in which WebGPU cannot be asked for: Node's, a worklet's, an insecure page's, or that of a
    /// browser without it.
    #[error("no WebGPU: {lacks}")]
    NoWebGpu {
        /// What the scope lacks.
        lacks: &'static str,
    },
    /// No adapter answered.
    #[error("no adapter found ({reason})")]
    NoAdapter {
        /// Which were asked for.
        reason: String,
    },
    /// Adapters exist, but none has the name asked for.
    #[error(
        "no adapter's name contains {wanted:?}, which ContextOptions::adapter or WGNORM_ADAPTER asks for; \
         found: {}",
        found.join("; ")
    )]
    NoSuchAdapter {
        /// The part of a name asked for.
        wanted: String,
        /// The adapters found, each with its back end: `Vulkan: llvmpipe`. The part asked for may be of either.
        found: Vec<String>,
    },
    /// Only software adapters, which are many times slower than the host path.
    #[error(
        "only a software adapter found ({name}), slower than the host path; take it with \
         ContextOptions::allow_software or WGNORM_ADAPTER"
    )]
    SoftwareOnly {
        /// The first adapter's back end and name.
        name: String,
    },
    /// The adapter cannot run compute shaders.
    #[error("{name} has no compute shaders")]
    NoCompute {
        /// The adapter's back end and name.
        name: String,
    },
    /// A limit below what the kernels need.
    #[error("{limit_name} is {got}, the kernels need {needed}")]
    Limits {
        /// The limit's name in WebGPU.
        limit_name: &'static str,
        /// The least value that works.
        needed: u64,
        /// The device's value.
        got: u64,
    },
    /// The adapter refused to give a device.
    #[error("adapter {name} refused to create a device: {reason}")]
    NoDevice {
        /// The adapter's back end and name.
        name: String,
        /// What wgpu said.
        reason: String,
    },
}

/// A state that does not fit the layer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StateError {
    /// The layer has no such parameter or buffer.
    #[error("{layer}: there is no {name} in this layer's configuration")]
    Absent {
        /// The layer's name.
        layer: &'static str,
        /// The parameter's name.
        name: &'static str,
    },
    /// A parameter of another shape.
    #[error("{layer}: {name} must have shape {expected}, got {got}")]
    Shape {
        /// The layer's name.
        layer: &'static str,
        /// The parameter's name.
        name: &'static str,
        /// The shape it must have.
        expected: Shape,
        /// The shape given.
        got: Shape,
    },
    /// A lazy layer whose number of channels is not known yet.
    #[error("{layer}: no parameters yet; the first input or a loaded state creates them")]
    Uninitialized {
        /// The layer's name.
        layer: &'static str,
    },
    /// A state that does not fit, refused as a whole.
    #[error("{layer}: the state does not fit: {report}")]
    Load {
        /// The layer's name.
        layer: &'static str,
        /// What does not fit, and how.
        report: Box<crate::LoadReport>,
    },
    /// Bytes that are no safetensors file, or a state that none can hold.
    #[error("not a safetensors state ({reason})")]
    Format {
        /// What the format's library said.
        reason: String,
    },
    /// A count beyond what the device-resident counter holds.
    #[error("{layer}: num_batches_tracked {got} is above {limit}")]
    Count {
        /// The layer's name.
        layer: &'static str,
        /// The count given.
        got: u64,
        /// The largest count held.
        limit: u32,
    },
}

/// Something that went wrong on the device.
///
/// In a browser the device answers after the call has returned: there an error comes from what reads the data that it
/// spoiled, or from the next call that takes them. An error that nobody meets so is logged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The device is gone; tensors on the host are intact.
    #[error("the device was lost ({reason}); open a new context")]
    DeviceLost {
        /// What the driver said.
        reason: String,
    },
    /// The device, or for a layer's parameters the host, has no memory left for this.
    #[error("out of memory for {bytes} bytes")]
    OutOfMemory {
        /// The bytes asked for.
        bytes: u64,
    },
    /// Data could not be brought back to the host.
    #[error("reading back from the device failed ({reason})")]
    Readback {
        /// What wgpu said.
        reason: String,
    },
    /// wgpu or the driver rejected what we asked: a bug here or in the driver.
    #[error("the driver rejected {what} ({reason})")]
    Rejected {
        /// What was asked for.
        what: String,
        /// What wgpu said.
        reason: String,
    },
}

/// Plans measured elsewhere cannot be taken over here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "these tunings are of {got:?}, here is {expected:?}: measure anew with Context::set_autotune"
)]
#[non_exhaustive]
pub struct TuningError {
    /// This version of the crate, or this device.
    pub expected: String,
    /// Theirs.
    pub got: String,
}

/// Any error of this crate, by phase.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// An operand's place.
    #[error(transparent)]
    Operand(#[from] OperandError),
    /// A device limit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Opening a device.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A layer's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The device at work.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Tunings.
    #[error(transparent)]
    Tuning(#[from] TuningError),
}
