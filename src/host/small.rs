//! Which loops there are: natively all. In a page's module, which is downloaded before it works, those are left out
//! that others do as well, if slower; and 16 bits, whose loops would be a third of all, are widened to f32 before
//! and narrowed after, both exactly as the loops do it.

use super::Operands;
use crate::tensor::HostData;
use half::{bf16, f16};

/// Whether size counts more than the last tenth of speed.
pub(super) const SMALL: bool = cfg!(target_arch = "wasm32");

/// Runs `$body` with `$values` the typed values of host data that have been widened where they have to be.
macro_rules! each_width {
    ($data:expr, $values:ident => $body:expr) => {
        match $data {
            HostData::F32($values) => $body,
            HostData::F64($values) => $body,
            HostData::F16(_) | HostData::BF16(_) if $crate::host::small::SMALL => {
                unreachable!("these are widened before")
            }
            HostData::F16($values) => $body,
            HostData::BF16($values) => $body,
        }
    };
}
pub(super) use each_width;

/// Operands of 16 bits as f32.
pub(super) struct Widened<'a> {
    x: HostData<'static>,
    addend: Option<HostData<'static>>,
    rest: Operands<'a>,
}

impl<'a> Widened<'a> {
    /// `None` if they have loops of their own.
    pub fn of(operands: &Operands<'a>) -> Option<Self> {
        let is_half = matches!(operands.x, HostData::F16(_) | HostData::BF16(_));
        (SMALL && is_half).then(|| Widened {
            x: widen(operands.x),
            addend: operands.addend.map(widen),
            rest: *operands,
        })
    }

    pub fn operands(&self) -> Operands<'_> {
        Operands { x: &self.x, addend: self.addend.as_ref(), ..self.rest }
    }

    /// A result in the type that x had.
    pub fn narrow(&self, wide: HostData<'static>) -> HostData<'static> {
        match self.rest.x {
            HostData::BF16(_) => HostData::BF16(wide.convert::<bf16>().into()),
            _ => HostData::F16(wide.convert::<f16>().into()),
        }
    }
}

pub(super) fn widen(data: &HostData<'_>) -> HostData<'static> {
    HostData::F32(data.convert::<f32>().into())
}
