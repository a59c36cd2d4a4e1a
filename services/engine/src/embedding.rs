//! Where a forward pass begins: a row of the table for each token, on the host whatever the device, so that the table
//! may be of any type and takes no device's memory.

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::linear::Weight;
use crate::vector::add;

pub(crate) struct Embedding {
    pub table: Weight,
    /// Added to the embeddings, a row for each position.
    pub positions: Option<Weight>,
    pub scale: f32,
}

impl Embedding {
    /// Writes the batch's rows, `[rows, hidden]`; `place` has room for one.
    pub fn rows(&self, batch: &Batch, out: &mut [f32], place: &mut [f32]) -> Result<()> {
        let hidden = self.table.columns;
        for (row, token) in out.chunks_exact_mut(hidden).zip(batch.tokens()) {
            self.table.row(*token as usize, row);
        }
        scale(out, self.scale);
        let Some(positions) = &self.positions else { return Ok(()) };
        for (row, position) in out.chunks_exact_mut(hidden).zip(batch.positions()) {
            if *position >= positions.rows {
                let rows = positions.rows;
                return Err(Error::Batch(format!("position {position} is beyond the {rows} learned")));
            }
            positions.row(*position, place);
            add(row, place);
        }
        Ok(())
    }

    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.positions.as_ref().map_or(0, Weight::bytes)
    }
}

pub(crate) fn scale(values: &mut [f32], factor: f32) {
    if factor.to_bits() != 1f32.to_bits() {
        for value in values {
            *value *= factor;
        }
    }
}
