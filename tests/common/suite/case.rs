//! Everything about a call but its numbers.

use crate::common::data::{self, Layout, read};
use crate::common::oracle::{Kind, Norm};
use wgnorm::{Activation, Affine, Context, DType, Error, MemoryOrder, Mode, Tensor};

/// The layers, over (N, C, S).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    Instance,
    /// Over axis 2 of (N, A, C, B), where A·B is S.
    InstanceAxis,
    Batch,
    /// With ReLU, if the case has no activation.
    FusedBatch,
    Group(usize),
    /// Rows of so many trailing axes.
    Layer(usize),
    Rms(usize),
    /// With a table per sample and channel.
    AdaIn,
    /// With a style of another size.
    AdaInStyle,
    /// Blends of so many styles.
    Bank(usize),
}

impl Family {
    /// Those that fit so many channels.
    pub fn all(channels: usize) -> Vec<Family> {
        use Family::{
            AdaIn, AdaInStyle, Bank, Batch, FusedBatch, Group, Instance, InstanceAxis, Layer, Rms,
        };
        let mut all = vec![Instance, InstanceAxis, Batch, FusedBatch];
        all.extend((1..=channels).filter(|g| channels.is_multiple_of(*g)).map(Group));
        all.extend([Layer(1), Layer(2), Rms(1), Rms(2), AdaIn, AdaInStyle, Bank(3)]);
        all
    }

    /// Whether it keeps running statistics.
    pub fn tracks(self) -> bool {
        matches!(self, Family::Instance | Family::Batch | Family::FusedBatch)
    }

    pub fn takes_masks(self) -> bool {
        !matches!(self, Family::Layer(_) | Family::Rms(_))
    }

    /// Whether weights and biases come with the call, per sample.
    pub fn is_styled(self) -> bool {
        matches!(self, Family::AdaIn | Family::AdaInStyle | Family::Bank(_))
    }
}

/// Which positions count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Masking {
    /// No mask.
    None,
    /// A mask that counts everything.
    All,
    /// About two in three; of every fourth sample none, of the one after that one.
    Some,
}

/// Which statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum From {
    /// As the mode says.
    Mode,
    /// Handed in, constant or part of the graph.
    Given { constant: bool },
}

/// Everything about a call but its numbers.
#[derive(Clone, Debug)]
pub struct Case {
    pub family: Family,
    /// N, C, S.
    pub shape: [usize; 3],
    pub order: MemoryOrder,
    pub dtype: DType,
    /// Of parameters and running statistics.
    pub param_dtype: DType,
    pub mode: Mode,
    pub affine: Affine,
    pub activation: Activation,
    pub addend: bool,
    pub masking: Masking,
    pub from: From,
    /// Of x; its spread is 1.5.
    pub offset: f64,
    pub eps: f64,
    pub seed: u32,
}

/// Every activation.
pub const ACTIVATIONS: [Activation; 8] = [
    Activation::None,
    Activation::Relu,
    Activation::LeakyRelu(0.1),
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Tanh,
    Activation::Sigmoid,
];

impl Case {
    /// In training, f32, channels first, with weight and bias.
    pub fn new(family: Family, shape: [usize; 3]) -> Case {
        Case {
            family,
            shape,
            order: MemoryOrder::ChannelsFirst,
            dtype: DType::F32,
            param_dtype: DType::F32,
            mode: Mode::Train,
            affine: Affine::Both,
            activation: Activation::None,
            addend: false,
            masking: Masking::None,
            from: From::Mode,
            offset: 0.5,
            eps: 1e-5,
            seed: 1,
        }
    }

    /// As the layer will do it, whatever was asked: f64 is one type throughout, 16-bit parameters go
    /// with their own type alone, and not every layer takes a mask, has two modes, or parameters of
    /// its own.
    pub fn fitted(mut self) -> Case {
        if self.dtype == DType::F64 || self.param_dtype == DType::F64 {
            self.dtype = DType::F64;
            self.param_dtype = DType::F64;
        }
        if self.param_dtype != DType::F32 {
            self.param_dtype = self.dtype;
        }
        if self.family.is_styled() {
            self.affine = Affine::Both;
            if self.dtype != DType::F64 {
                self.param_dtype = DType::F32;
            }
        }
        if !self.family.takes_masks() || self.from != From::Mode {
            self.masking = Masking::None;
        }
        if !self.family.tracks() {
            self.mode = Mode::Train;
        }
        self
    }

    /// The logical shape of x.
    pub fn tensor_shape(&self) -> Vec<usize> {
        let [n, c, s] = self.shape;
        match self.family {
            Family::InstanceAxis => {
                let before = self.before();
                vec![n, before, c, s / before]
            }
            _ => vec![n, c, s],
        }
    }

    /// The largest divisor of S up to its root.
    fn before(&self) -> usize {
        let s = self.shape[2];
        (1..=s).take_while(|d| d * d <= s).filter(|d| s.is_multiple_of(*d)).last().unwrap_or(1)
    }

    /// Where the elements of (N, C, S) lie. Over an axis in the middle, the order is fixed here.
    pub fn layout(&self) -> Layout {
        let [n, c, s] = self.shape;
        match self.family {
            Family::InstanceAxis => {
                let before = self.before();
                Layout { n, before, c, after: s / before }
            }
            _ => Layout::of(self.shape, self.order),
        }
    }

    /// Memory order of the tensor.
    pub fn tensor_order(&self) -> MemoryOrder {
        match self.family {
            Family::InstanceAxis => MemoryOrder::ChannelsFirst,
            _ => self.order,
        }
    }

    /// The axis that a mask leaves out.
    pub fn channel_axis(&self) -> usize {
        if self.family == Family::InstanceAxis { 2 } else { 1 }
    }

    /// What the oracle calls it.
    pub fn kind(&self) -> Kind {
        match self.family {
            Family::Batch | Family::FusedBatch => Kind::Batch,
            Family::Group(groups) => Kind::Group(groups),
            Family::Layer(_) => Kind::Layer,
            Family::Rms(_) => Kind::Rms,
            Family::Instance | Family::InstanceAxis => Kind::Instance,
            Family::AdaIn | Family::AdaInStyle | Family::Bank(_) => Kind::Instance,
        }
    }

    /// The oracle's normalization, without parameters and extras.
    pub fn norm(&self) -> Norm<'static> {
        let [n, c, s] = self.shape;
        let shape = match self.family {
            Family::Layer(1) | Family::Rms(1) => [n * c, 1, s],
            Family::Layer(_) | Family::Rms(_) => [n, 1, c * s],
            _ => self.shape,
        };
        Norm { eps: self.eps, tables: self.family.is_styled(), ..Norm::new(self.kind(), shape) }
    }

    /// Of weight and bias.
    pub fn param_shape(&self) -> Vec<usize> {
        let [n, c, s] = self.shape;
        match self.family {
            Family::Layer(1) | Family::Rms(1) => vec![s],
            Family::Layer(_) | Family::Rms(_) => vec![c, s],
            family if family.is_styled() => vec![n, c],
            _ => vec![c],
        }
    }

    /// Positions of a style.
    pub fn style_len(&self) -> usize {
        self.shape[2] / 2 + 2
    }

    pub fn effective_activation(&self) -> Activation {
        match (self.family, self.activation) {
            (Family::FusedBatch, Activation::None) => Activation::Relu,
            (_, activation) => activation,
        }
    }

    pub fn tensor(&self, context: &Context, logical: &[f64]) -> Result<Tensor<'static>, Error> {
        let memory = self.layout().to_memory(logical);
        data::place(context, self.tensor_shape(), self.dtype, self.tensor_order(), &memory)
    }

    /// A tensor's values, in logical order.
    pub fn read(&self, tensor: &Tensor<'_>) -> Result<Vec<f64>, Error> {
        Ok(self.layout().to_logical(&read(tensor)?))
    }

    /// The layout of a style.
    pub fn style_layout(&self) -> Layout {
        let [n, c, _] = self.shape;
        Layout::of([n, c, self.style_len()], self.order)
    }
}
