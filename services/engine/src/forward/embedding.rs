//! The embedding: a row of the table for each token. It is on the host whatever the device, so that the table may be
//! of any type and takes no device memory.

use crate::error::{Error, Result};
use crate::forward::batch::Batch;
use crate::forward::linear::Weight;
use crate::sys::simd::add;

/// The tables of token and position embeddings.
pub(crate) struct Embedding {
    /// `[vocabulary, hidden]`.
    pub tokens: Weight,
    /// Added to the tokens' embeddings, `[positions, hidden]`.
    pub positions: Option<Weight>,
    /// Multiplies the tokens' embeddings.
    pub scale: f32,
}

impl Embedding {
    /// Writes the embeddings of a batch's rows, `[rows, hidden]`, without positions.
    pub fn embed(&self, batch: &Batch, out: &mut [f32]) {
        for (row, token) in out.chunks_exact_mut(self.tokens.columns).zip(batch.tokens()) {
            self.tokens.row(*token as usize, row);
        }
        scale(out, self.scale);
    }

    /// Adds the positions of a batch's rows where the model has a table of them. `scratch` has room for one row.
    pub fn add_positions(&self, batch: &Batch, out: &mut [f32], scratch: &mut [f32]) -> Result<()> {
        let Some(positions) = &self.positions else { return Ok(()) };
        for (row, position) in out.chunks_exact_mut(self.tokens.columns).zip(batch.positions()) {
            if *position >= positions.rows {
                let rows = positions.rows;
                return Err(Error::Batch(format!("position {position} is beyond the {rows} learned")));
            }
            positions.row(*position, scratch);
            add(row, scratch);
        }
        Ok(())
    }

    /// Returns the bytes that the tables take.
    pub fn bytes(&self) -> usize {
        self.tokens.bytes() + self.positions.as_ref().map_or(0, Weight::bytes)
    }
}

/// Multiplies values by a factor. A factor of 1 costs nothing.
pub(crate) fn scale(values: &mut [f32], factor: f32) {
    if factor.to_bits() != 1f32.to_bits() {
        for value in values {
            *value *= factor;
        }
    }
}
