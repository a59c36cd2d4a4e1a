//! Converts one tensor from its mapped bytes to the planned type, a few megabytes at a time, with rows spread over all
//! cores.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::decode::decode_row;
use super::encode::{Unencodable, encode_row};
use crate::error::{Error, Result};
use crate::tensor::{TensorData, TensorInfo};

/// Encoded bytes between two checks of the cancel flag. They take a fraction of a second, and are all that is held.
const CHUNK_BYTES: usize = 2 << 20;

/// The order in which the target's rows are taken from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// The order of the source.
    AsStored,
    /// The two halves of each head of `head_dim` rows interleaved: row `2i` is row `i`, row `2i + 1` is row
    /// `head_dim / 2 + i`. This makes GGUF's rotary pairs of Hugging Face's (`permute` in llama.cpp's converter).
    Interleaved { head_dim: usize },
}

impl RowOrder {
    /// Returns the source's row of a target's row.
    fn source(self, row: usize) -> usize {
        match self {
            Self::AsStored => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                head * head_dim + (within % 2) * (head_dim / 2) + within / 2
            }
        }
    }
}

/// The reason why a tensor was not written.
#[derive(Debug)]
pub(super) enum Failure {
    /// The type cannot hold the tensor's values. A higher scheme might.
    Unencodable { row: usize, why: Unencodable },
    /// Any other error.
    Stopped(Error),
}

/// A tensor to be converted. A tensor that is quantized already is copied: its target is of the same type.
pub(super) struct Conversion<'a> {
    pub source: TensorData<'a>,
    pub target: &'a TensorInfo,
    pub rows: RowOrder,
    /// Added to every value.
    pub offset: f32,
}

impl Conversion<'_> {
    /// Passes the encoded bytes to `write` in order, in pieces.
    pub fn run(
        &self,
        cancel: &AtomicBool,
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<(), Failure> {
        let (rows, columns) = self.layout();
        let row_bytes = self.target.bytes as usize / rows;
        let rows_at_once = (CHUNK_BYTES / row_bytes).clamp(1, rows);
        let mut chunk = vec![0; rows_at_once * row_bytes];
        for first in (0..rows).step_by(rows_at_once) {
            if cancel.load(Ordering::Relaxed) {
                return Err(Failure::Stopped(Error::Cancelled));
            }
            let chunk = &mut chunk[..rows_at_once.min(rows - first) * row_bytes];
            self.encode(first, columns, row_bytes, chunk)?;
            write(chunk).map_err(Failure::Stopped)?;
        }
        Ok(())
    }

    /// Returns the number of rows and columns. A vector is one row, or one column where its elements are reordered.
    fn layout(&self) -> (usize, usize) {
        match (self.target.shape.as_slice(), self.rows) {
            ([.., columns], RowOrder::AsStored) if self.target.shape.len() == 1 => (1, *columns),
            ([elements], RowOrder::Interleaved { .. }) => (*elements, 1),
            (shape, _) => {
                let columns = shape.last().copied().unwrap_or(1);
                (shape[..shape.len().saturating_sub(1)].iter().product(), columns)
            }
        }
    }

    fn encode(
        &self,
        first: usize,
        columns: usize,
        row_bytes: usize,
        chunk: &mut [u8],
    ) -> Result<(), Failure> {
        let ty = self.source.info.ty;
        let source_bytes = columns / ty.block_size() * ty.block_bytes();
        chunk.par_chunks_mut(row_bytes).enumerate().with_min_len(4).try_for_each_init(
            || vec![0.0; columns],
            |scratch, (at, out)| {
                let row = self.rows.source(first + at);
                let bytes = &self.source.bytes[row * source_bytes..(row + 1) * source_bytes];
                if ty.is_quantized() {
                    out.copy_from_slice(bytes);
                    return Ok(());
                }
                decode_row(ty, bytes, scratch);
                if self.offset != 0.0 {
                    for value in &mut *scratch {
                        *value += self.offset;
                    }
                }
                encode_row(self.target.ty, scratch, None, out)
                    .map_err(|why| Failure::Unencodable { row, why })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorType;

    /// llama.cpp's `permute`: reshape to [heads, 2, half, …], swap the middle axes.
    #[test]
    fn rows_interleave_within_heads() {
        let rows = RowOrder::Interleaved { head_dim: 6 };
        let order: Vec<_> = (0..12).map(|row| rows.source(row)).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    fn convert(shape: &[usize], values: &[f32], rows: RowOrder) -> Vec<f32> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let info = TensorInfo {
            name: "t".into(),
            ty: TensorType::F32,
            shape: shape.to_vec(),
            bytes: bytes.len() as u64,
        };
        let conversion = Conversion {
            source: TensorData { info: &info, bytes: &bytes },
            target: &info,
            rows,
            offset: 0.0,
        };
        let mut out = Vec::new();
        conversion
            .run(&AtomicBool::new(false), |piece| {
                out.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        out.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn matrices_and_biases_are_permuted_alike() {
        let rows = RowOrder::Interleaved { head_dim: 4 };
        assert_eq!(convert(&[4], &[0.0, 1.0, 2.0, 3.0], rows), [0.0, 2.0, 1.0, 3.0]);
        let matrix = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5];
        assert_eq!(convert(&[4, 2], &matrix, rows), [0.0, 0.5, 2.0, 2.5, 1.0, 1.5, 3.0, 3.5]);
        assert_eq!(convert(&[4, 2], &matrix, RowOrder::AsStored), matrix);
    }

    #[test]
    fn a_set_flag_stops_before_the_next_piece() {
        let info = TensorInfo { name: "t".into(), ty: TensorType::F32, shape: vec![2], bytes: 8 };
        let conversion = Conversion {
            source: TensorData { info: &info, bytes: &[0; 8] },
            target: &info,
            rows: RowOrder::AsStored,
            offset: 0.0,
        };
        let end = conversion.run(&AtomicBool::new(true), |_| panic!("nothing may be written"));
        assert!(matches!(end, Err(Failure::Stopped(Error::Cancelled))));
    }

    #[test]
    fn bad_values_are_named_by_row() {
        let mut bytes = vec![0_u8; 64 * 4 * 3];
        bytes[64 * 4 * 2 + 12..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let source = TensorInfo { name: "t".into(), ty: TensorType::F32, shape: vec![3, 64], bytes: 768 };
        let target = TensorInfo { ty: TensorType::Q8_0, bytes: 3 * 68, ..source.clone() };
        let conversion = Conversion {
            source: TensorData { info: &source, bytes: &bytes },
            target: &target,
            rows: RowOrder::AsStored,
            offset: 0.0,
        };
        let end = conversion.run(&AtomicBool::new(false), |_| Ok(()));
        assert!(
            matches!(
                end,
                Err(Failure::Unencodable { row: 2, why: Unencodable::NotFinite { column: 3, .. } })
            ),
            "{end:?}"
        );
    }
}
