//! Tensors as files store them: element type, shape and bytes, under canonical names.
//!
//! Canonical names are GGUF's (`token_embd.weight`, `blk.3.attn_q.weight`, `output_norm.weight`), whatever a file calls
//! its tensors: the family's table maps safetensors names to them.

use std::borrow::Cow;

/// The element type of a stored tensor. Quantized types are ggml's and come in blocks along the last dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an F32.
    BF16,
    /// 4 bits, a scale for each 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for each 32.
    Q4_1,
    /// 5 bits, a scale for each 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for each 32.
    Q5_1,
    /// 8 bits, a scale for each 32.
    Q8_0,
    /// 2 bits, super-blocks of 256 with 4-bit scales and minimums.
    Q2K,
    /// 3 bits, super-blocks of 256 with 6-bit scales.
    Q3K,
    /// 4 bits, super-blocks of 256 with 6-bit scales and minimums.
    Q4K,
    /// 5 bits, super-blocks of 256 with 6-bit scales and minimums.
    Q5K,
    /// 6 bits, super-blocks of 256 with 8-bit scales.
    Q6K,
    /// 4-bit floats, a power of two for each 32 (OCP Microscaling Formats, version 1.0).
    MXFP4,
}

/// A tensor's name, type, shape and size, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The canonical name.
    pub name: String,
    /// The element type.
    pub ty: TensorType,
    /// Row-major, outermost dimension first: a linear layer is `[out, in]`, an embedding `[vocab, hidden]`.
    pub shape: Vec<usize>,
    /// Bytes as stored.
    pub bytes: u64,
}

/// A tensor's bytes, borrowed from the mapped file.
#[derive(Debug, Clone, Copy)]
pub struct TensorData<'a> {
    /// The tensor's type and shape.
    pub info: &'a TensorInfo,
    /// Exactly `info.bytes` bytes, little-endian; may be unaligned.
    pub bytes: &'a [u8],
}

/// A tensor as the decoder reads it: borrowed from the file where the file stores it so, and assembled otherwise.
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// The tensor's type and shape.
    pub info: &'a TensorInfo,
    /// Exactly `info.bytes` bytes, little-endian; may be unaligned.
    pub bytes: Cow<'a, [u8]>,
}

impl Tensor<'_> {
    /// Borrows the tensor.
    pub fn data(&self) -> TensorData<'_> {
        TensorData { info: self.info, bytes: &self.bytes }
    }
}

impl TensorType {
    /// All types, in the order of the enum.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::MXFP4,
    ];

    /// Returns the elements in one block, 1 for plain types. Rows are whole blocks.
    pub const fn block_size(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::MXFP4 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Returns the bytes of one block (ggml-common.h's block structs).
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::MXFP4 => 17,
        }
    }

    /// Returns the bytes of a tensor of this type, or `None` where the last dimension is not whole blocks or the product
    /// overflows. A shape without dimensions is one element.
    pub fn bytes_for(self, shape: &[usize]) -> Option<u64> {
        if !shape.last().copied().unwrap_or(1).is_multiple_of(self.block_size()) {
            return None;
        }
        let elements = elements(shape)?;
        (elements / self.block_size() as u64).checked_mul(self.block_bytes() as u64)
    }

    /// Returns ggml's number of the type (`ggml_type`), as GGUF stores it.
    pub const fn gguf_id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::BF16 => 30,
            Self::MXFP4 => 39,
        }
    }

    /// Finds the type with this number of ggml's; `None` for types that are not read.
    pub fn from_gguf_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.gguf_id() == id)
    }

    /// Returns the name that llama.cpp and people write: `Q4_K`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::MXFP4 => "MXFP4",
        }
    }

    /// Returns whether the type comes in blocks of more than one element.
    pub const fn is_quantized(self) -> bool {
        self.block_size() > 1
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

impl TensorInfo {
    /// Returns the number of elements.
    pub fn elements(&self) -> u64 {
        elements(&self.shape).expect("the shape was validated when the header was read")
    }
}

/// Returns the product of the dimensions, or `None` on overflow.
pub fn elements(shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |product, &dimension| product.checked_mul(dimension as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_blocks() {
        let check = |ty: TensorType, shape: &[usize], expected: Option<u64>| {
            assert_eq!(ty.bytes_for(shape), expected, "{ty} {shape:?}");
        };
        check(TensorType::F32, &[3, 5], Some(60));
        check(TensorType::BF16, &[], Some(2));
        check(TensorType::Q4_0, &[2, 64], Some(72));
        check(TensorType::Q4K, &[2, 256], Some(288));
        check(TensorType::Q4K, &[256, 2], None);
        check(TensorType::Q6K, &[2048, 256], Some(430_080));
        check(TensorType::MXFP4, &[2, 64], Some(68));
        check(TensorType::F32, &[usize::MAX, 2], None);
        check(TensorType::F32, &[usize::MAX], None);
    }

    #[test]
    fn gguf_ids_are_unique_and_found() {
        for ty in TensorType::ALL {
            assert_eq!(TensorType::from_gguf_id(ty.gguf_id()), Some(ty));
        }
        assert_eq!(TensorType::from_gguf_id(4), None);
    }
}
