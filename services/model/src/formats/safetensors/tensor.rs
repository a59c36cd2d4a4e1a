//! One tensor of a safetensors file: its type, shape and place.

use std::ops::Range;

use crate::tensor::{TensorType, elements};

/// An element type of the format. Only some can be weights ([`Dtype::tensor_type`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtype {
    name: &'static str,
    bits: u64,
}

/// All types of the format, with the bits of one element.
const DTYPES: &[Dtype] = &[
    Dtype { name: "BOOL", bits: 8 },
    Dtype { name: "F4", bits: 4 },
    Dtype { name: "F6_E2M3", bits: 6 },
    Dtype { name: "F6_E3M2", bits: 6 },
    Dtype { name: "U8", bits: 8 },
    Dtype { name: "I8", bits: 8 },
    Dtype { name: "F8_E5M2", bits: 8 },
    Dtype { name: "F8_E4M3", bits: 8 },
    Dtype { name: "F8_E8M0", bits: 8 },
    Dtype { name: "I16", bits: 16 },
    Dtype { name: "U16", bits: 16 },
    Dtype { name: "F16", bits: 16 },
    Dtype { name: "BF16", bits: 16 },
    Dtype { name: "I32", bits: 32 },
    Dtype { name: "U32", bits: 32 },
    Dtype { name: "F32", bits: 32 },
    Dtype { name: "F64", bits: 64 },
    Dtype { name: "I64", bits: 64 },
    Dtype { name: "U64", bits: 64 },
    Dtype { name: "C64", bits: 64 },
];

impl Dtype {
    /// Returns the name in the header.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Finds the type with this name.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        DTYPES.iter().find(|known| known.name == name).copied()
    }

    /// Returns the type of weights that it is, or `None` for types that the engine does not compute with.
    pub fn tensor_type(self) -> Option<TensorType> {
        match self.name {
            "F32" => Some(TensorType::F32),
            "F16" => Some(TensorType::F16),
            "BF16" => Some(TensorType::BF16),
            _ => None,
        }
    }
}

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsTensor {
    /// The file's name of the tensor.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// The tensor's place, in bytes from the start of the file.
    pub range: Range<u64>,
}

impl SafetensorsTensor {
    /// Checks a tensor. `offsets` count from `data_start`, where the file's data begins.
    pub(super) fn new(
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        [start, end]: [usize; 2],
        data_start: u64,
    ) -> Result<Self, String> {
        let bits = elements(&shape)
            .and_then(|count| count.checked_mul(dtype.bits))
            .ok_or("size of the shape overflows")?;
        if !bits.is_multiple_of(8) {
            return Err(format!("{bits} bits are not whole bytes"));
        }
        let held = end.checked_sub(start).ok_or("data_offsets end before they start")? as u64;
        if held != bits / 8 {
            return Err(format!("data_offsets hold {held} bytes, the shape {shape:?} needs {}", bits / 8));
        }
        let place = |offset: usize| data_start.checked_add(offset as u64).ok_or("data_offsets overflow");
        Ok(Self { name, dtype, shape, range: place(start)?..place(end)? })
    }
}
