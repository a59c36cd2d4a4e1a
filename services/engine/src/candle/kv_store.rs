//! Keys and values on a GPU: a row for each token of each block.

use candle_core::{DType, Device, Tensor};
use millm_model::ModelSpec;

use crate::error::Result;
use crate::kv_cache::{BLOCK_SIZE, BlockCopy, KvSlot, KvType};

/// Keys and values of all layers.
pub(crate) struct CandleKvStore {
    layers: Vec<LayerKv>,
}

/// Keys and values of one layer, `[kv_heads, blocks * BLOCK_SIZE, head_dim]` each: heads first, so that selected rows
/// can enter a product as they are.
///
/// Attention reads a sequence's own rows only, and all of those were written. So a value that f16 cannot hold does
/// not reach other sequences.
pub(crate) struct LayerKv {
    keys: Tensor,
    values: Tensor,
}

impl CandleKvStore {
    /// Allocates room for `blocks` blocks.
    pub fn new(device: &Device, spec: &ModelSpec, kv_type: KvType, blocks: usize) -> Result<Self> {
        let shape = (spec.kv_heads, blocks.saturating_mul(BLOCK_SIZE), spec.head_dim);
        let ty = match kv_type {
            KvType::F16 => DType::F16,
            KvType::F32 => DType::F32,
        };
        let layer = |_| {
            let keys = Tensor::zeros(shape, ty, device)?;
            Ok(LayerKv { keys, values: Tensor::zeros(shape, ty, device)? })
        };
        Ok(Self { layers: (0..spec.layers).map(layer).collect::<Result<_>>()? })
    }

    /// Returns a store without room.
    pub fn empty() -> Self {
        Self { layers: Vec::new() }
    }

    pub fn layer(&self, index: usize) -> &LayerKv {
        &self.layers[index]
    }

    /// Copies a whole block in all layers.
    pub fn copy_block(&self, copy: BlockCopy) -> Result<()> {
        for tensor in self.layers.iter().flat_map(|layer| [&layer.keys, &layer.values]) {
            // An intermediate copy, because a tensor cannot be written from itself.
            let block = tensor.narrow(1, copy.from * BLOCK_SIZE, BLOCK_SIZE)?.force_contiguous()?;
            tensor.slice_set(&block, 1, copy.to * BLOCK_SIZE)?;
        }
        Ok(())
    }
}

impl LayerKv {
    /// Returns the row of a token.
    pub fn row(slot: KvSlot) -> u32 {
        (slot.block * BLOCK_SIZE + slot.offset) as u32
    }

    /// Stores keys and values, `[kv_heads, rows, head_dim]`. `slots` has the same shape and holds the row that each
    /// number goes to.
    pub fn write(&self, slots: &Tensor, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (to, from) in [(&self.keys, keys), (&self.values, values)] {
            to.scatter_set(slots, &from.to_dtype(to.dtype())?.contiguous()?, 1)?;
        }
        Ok(())
    }

    /// Returns the keys and values of some rows as f32, `[kv_heads, rows, head_dim]` each.
    pub fn read(&self, rows: &Tensor) -> Result<(Tensor, Tensor)> {
        let select = |from: &Tensor| from.index_select(rows, 1)?.to_dtype(DType::F32);
        Ok((select(&self.keys)?, select(&self.values)?))
    }
}
