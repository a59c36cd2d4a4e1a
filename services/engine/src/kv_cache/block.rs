//! A block of the KV cache: how many tokens it holds, the type of its elements, and the memory that blocks take.

use millm_model::ModelSpec;

/// Tokens in a block.
pub const BLOCK_SIZE: usize = 32;

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// Half the memory and traffic of F32. Keys and values are rounded to 11 significant bits.
    #[default]
    F16,
    /// Exactly the values that the model computed.
    F32,
}

impl KvType {
    /// Returns the size of an element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Returns the bytes that the keys and values of `blocks` blocks take in all layers together.
pub(crate) fn kv_bytes(spec: &ModelSpec, kv_type: KvType, blocks: usize) -> u64 {
    ((2 * spec.layers * spec.kv_heads * spec.head_dim * BLOCK_SIZE * kv_type.bytes()) as u64)
        .saturating_mul(blocks as u64)
}
