//! Keys and values of one layer on a device: a row for each token of each page, so that a sequence's are found by its
//! pages' numbers alone.

use candle_core::{DType, Device, Tensor};
use millm_model::ModelSpec;

use crate::cache::KvType;
use crate::error::Result;
use crate::pages::PAGE;

/// `[kv_heads, pages * PAGE, head_dim]` each: heads first, so that what is taken of them goes into a product as it is.
///
/// Attention takes a sequence's own rows only, and all of those were written: what a number is that f16 cannot hold
/// hurts nobody else.
pub(crate) struct Rows {
    keys: Tensor,
    values: Tensor,
}

impl Rows {
    pub fn new(device: &Device, spec: &ModelSpec, kv_type: KvType, pages: usize) -> Result<Self> {
        let shape = (spec.kv_heads, pages.saturating_mul(PAGE), spec.head_dim);
        let ty = match kv_type {
            KvType::F16 => DType::F16,
            KvType::F32 => DType::F32,
        };
        Ok(Self { keys: Tensor::zeros(shape, ty, device)?, values: Tensor::zeros(shape, ty, device)? })
    }

    /// Of `page`'s first token.
    pub fn first(page: usize) -> usize {
        page * PAGE
    }

    /// Stores keys and values, `[kv_heads, rows, head_dim]` as `places` is, which says for each number in which row.
    pub fn write(&self, places: &Tensor, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (to, from) in [(&self.keys, keys), (&self.values, values)] {
            to.scatter_set(places, &from.to_dtype(to.dtype())?.contiguous()?, 1)?;
        }
        Ok(())
    }

    /// Keys and values of some rows as floats, `[kv_heads, rows, head_dim]`.
    pub fn read(&self, rows: &Tensor) -> Result<(Tensor, Tensor)> {
        let take = |from: &Tensor| from.index_select(rows, 1)?.to_dtype(DType::F32);
        Ok((take(&self.keys)?, take(&self.values)?))
    }

    /// Copies a whole page.
    pub fn copy_page(&self, from: usize, to: usize) -> Result<()> {
        for of in [&self.keys, &self.values] {
            // A copy of its own: a tensor cannot be written from itself.
            let page = of.narrow(1, Self::first(from), PAGE)?.force_contiguous()?;
            of.slice_set(&page, 1, Self::first(to))?;
        }
        Ok(())
    }
}
