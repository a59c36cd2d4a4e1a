//! Reads a tensor of the decoder out of a stored one, which may be the same tensor, hold it in some of its rows, store it
//! transposed, or keep its scales in another tensor.

use std::borrow::Cow;
use std::ops::Range;

use super::found::{BlockScales, FoundTensor};
use super::packed;
use crate::arch::tensor_location::{RowRuns, TensorLocation};
use crate::formats::mmap::MappedFile;
use crate::tensor::TensorType;

/// The place of a tensor's bytes in a mapped file.
#[derive(Debug)]
pub(super) struct TensorSlice {
    /// The index of the mapped file.
    pub map: usize,
    /// The bytes of the stored tensor.
    range: Range<usize>,
    /// The tensor's part of the stored one, in the unit of `layout`.
    runs: RowRuns,
    layout: Layout,
}

/// The layout of the rows in the file.
#[derive(Debug)]
enum Layout {
    /// In the decoder's layout. Runs count bytes.
    Rows,
    /// Transposed. Runs count rows.
    Transposed(Transposed),
    /// In blocks whose scales are elsewhere, `blocks` to a row. Runs count rows.
    Packed { scales: BlockScales, blocks: usize },
}

/// One or more matrices stored `[in, out]`, one after the other.
#[derive(Debug)]
struct Transposed {
    inputs: usize,
    outputs: usize,
    element: usize,
}

impl TensorSlice {
    /// Finds the part of `found` that holds a tensor of `shape`. An error is the end of a sentence about the tensor.
    pub(super) fn new(
        found: &FoundTensor,
        ty: TensorType,
        shape: &[usize],
        location: &TensorLocation,
    ) -> Result<Self, String> {
        let slice =
            |runs: RowRuns, layout: Layout| Self { map: found.map, range: found.range.clone(), runs, layout };
        let columns = shape.last().copied().unwrap_or(1);
        if let (true, [.., inputs, outputs]) = (location.transposed, location.shape.as_slice()) {
            if ty.is_quantized() {
                return Err(format!("is stored transposed, which {ty} does not allow"));
            }
            let matrices = Transposed { inputs: *inputs, outputs: *outputs, element: ty.block_bytes() };
            return Ok(slice(location.runs, Layout::Transposed(matrices)));
        }
        if let Some(scales) = &found.scales {
            let blocks = columns / ty.block_size();
            return Ok(slice(location.runs, Layout::Packed { scales: scales.clone(), blocks }));
        }
        // A vector is a column: each element is a row.
        let row = match shape {
            [_] if !ty.is_quantized() => ty.block_bytes(),
            [length] if location.shape == [*length] => {
                let bytes = found.range.len();
                return Ok(slice(RowRuns { first: 0, length: bytes, stride: bytes, count: 1 }, Layout::Rows));
            }
            [_] => return Err(format!("is a part of a vector of {ty}")),
            _ => ty
                .bytes_for(&shape[1..])
                .ok_or_else(|| format!("has rows that are not whole blocks of {ty}"))?
                as usize,
        };
        let RowRuns { first, length, stride, count } = location.runs;
        let runs = RowRuns { first: first * row, length: length * row, stride: stride * row, count };
        Ok(slice(runs, Layout::Rows))
    }

    /// Returns the bytes of the file from the first to the last one that belongs to the tensor.
    pub(super) fn span(&self) -> Range<usize> {
        let RowRuns { first, length, stride, count } = self.runs;
        let end = first + (count - 1) * stride + length;
        let (first, end) = match &self.layout {
            Layout::Rows => (first, end),
            Layout::Packed { blocks, .. } => (first * blocks * packed::BODY, end * blocks * packed::BODY),
            Layout::Transposed(matrices) => {
                let matrix = matrices.inputs * matrices.outputs * matrices.element;
                (first / matrices.outputs * matrix, end.div_ceil(matrices.outputs) * matrix)
            }
        };
        self.range.start + first..self.range.start + end
    }

    /// Returns the tensor's bytes as the decoder reads them.
    pub(super) fn bytes<'a>(&self, maps: &'a [MappedFile]) -> Cow<'a, [u8]> {
        let stored = &maps[self.map][self.range.clone()];
        let RowRuns { first, length, stride, count } = self.runs;
        let runs = (0..count).map(|index| first + index * stride..first + index * stride + length);
        let rows = || runs.clone().flatten().collect::<Vec<_>>();
        match &self.layout {
            Layout::Rows if count == 1 => Cow::Borrowed(&stored[first..first + length]),
            Layout::Rows => Cow::Owned(runs.flat_map(|run| &stored[run]).copied().collect()),
            Layout::Transposed(matrices) => Cow::Owned(matrices.rows(stored, &rows())),
            Layout::Packed { scales, blocks } => {
                let scales = &maps[scales.map][scales.range.clone()];
                Cow::Owned(packed::rows(stored, scales, *blocks, &rows()))
            }
        }
    }
}

impl Transposed {
    /// The number of rows written at once, so that the bytes that they are read from stay in the caches.
    const ROWS_AT_ONCE: usize = 32;

    /// Returns these rows of the matrices `[out, in]`.
    fn rows(&self, stored: &[u8], rows: &[usize]) -> Vec<u8> {
        let Self { inputs, outputs, element } = *self;
        let width = inputs * element;
        let mut bytes = vec![0; rows.len() * width];
        for (rows, bytes) in rows.chunks(Self::ROWS_AT_ONCE).zip(bytes.chunks_mut(Self::ROWS_AT_ONCE * width))
        {
            for input in 0..inputs {
                for (row, out) in rows.iter().zip(bytes.chunks_exact_mut(width)) {
                    let from = ((row / outputs * inputs + input) * outputs + row % outputs) * element;
                    out[input * element..][..element].copy_from_slice(&stored[from..from + element]);
                }
            }
        }
        bytes
    }
}
