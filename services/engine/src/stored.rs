//! Matrices as files store them: the portable path, and that of f32.
//!
//! Steps: each weight row is read once and met with every activation row; quantized blocks meet activations quantized
//! the same way (candle's dot products), half floats and MXFP4 are widened on the fly. Chunks: panels of weight rows are widened
//! to f32 and go through a GEMM, so a weight is decoded once however many rows there are, and activations are not
//! rounded.

use std::ops::Range;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use millm_model::TensorType;

use crate::error::Result;
use crate::inputs::{Form, Given, Partner};
use crate::matrix::{Kind, Matrix};
use crate::mxfp4::{self, BlockMxfp4};
use crate::panel;
use crate::plain::{Plain, copied};
use crate::team::{Arena, Cells};
use crate::vector::dot;

pub fn read(ty: TensorType, bytes: &[u8], rows: usize, columns: usize) -> Result<Box<dyn Matrix>> {
    Ok(match ty {
        TensorType::F32 => Box::new(Floats::<f32>::read(bytes, rows, columns)?),
        TensorType::F16 => Box::new(Floats::<f16>::read(bytes, rows, columns)?),
        TensorType::BF16 => Box::new(Floats::<bf16>::read(bytes, rows, columns)?),
        TensorType::Q4_0 => Box::new(Blocks::<BlockQ4_0>::read(bytes, rows, columns)?),
        TensorType::Q4_1 => Box::new(Blocks::<BlockQ4_1>::read(bytes, rows, columns)?),
        TensorType::Q5_0 => Box::new(Blocks::<BlockQ5_0>::read(bytes, rows, columns)?),
        TensorType::Q5_1 => Box::new(Blocks::<BlockQ5_1>::read(bytes, rows, columns)?),
        TensorType::Q8_0 => Box::new(Blocks::<BlockQ8_0>::read(bytes, rows, columns)?),
        TensorType::Q2K => Box::new(Blocks::<BlockQ2K>::read(bytes, rows, columns)?),
        TensorType::Q3K => Box::new(Blocks::<BlockQ3K>::read(bytes, rows, columns)?),
        TensorType::Q4K => Box::new(Blocks::<BlockQ4K>::read(bytes, rows, columns)?),
        TensorType::Q5K => Box::new(Blocks::<BlockQ5K>::read(bytes, rows, columns)?),
        TensorType::Q6K => Box::new(Blocks::<BlockQ6K>::read(bytes, rows, columns)?),
        TensorType::MXFP4 => Box::new(Floats::<BlockMxfp4>::read(bytes, rows, columns)?),
    })
}

/// Rows of a panel: small enough to stay in the second-level cache beside the activations.
fn panel_rows(columns: usize) -> usize {
    (512 * 1024 / (4 * columns)).clamp(32, 192).next_multiple_of(96)
}

/// Chunks: rows widened into a panel, and the panel met with all activations.
fn through_panel(
    matrix: &dyn Matrix,
    arena: &mut Arena,
    input: &Given<'_>,
    rows: Range<usize>,
    out: &Cells<'_>,
) {
    let weights = arena.floats(rows.len() * input.columns);
    matrix.widen(rows.start, weights);
    // SAFETY: these columns are the caller's alone.
    unsafe { panel::product(weights, input.floats, input.m, input.columns, out, rows) };
}

/// A float type as stored, or a block of floats.
trait Float: Plain + Copy {
    const COLUMNS: usize = 1;

    fn widen(values: &[Self], out: &mut [f32]);
}

impl Float for f32 {
    fn widen(values: &[Self], out: &mut [f32]) {
        out.copy_from_slice(values);
    }
}

impl Float for f16 {
    fn widen(values: &[Self], out: &mut [f32]) {
        values.convert_to_f32_slice(out);
    }
}

impl Float for bf16 {
    fn widen(values: &[Self], out: &mut [f32]) {
        // half's own conversion looks for NaN in each value, which keeps it from being vectorized.
        for (out, value) in out.iter_mut().zip(values) {
            *out = f32::from_bits(u32::from(value.to_bits()) << 16);
        }
    }
}

impl Float for BlockMxfp4 {
    const COLUMNS: usize = mxfp4::COLUMNS;

    fn widen(blocks: &[Self], out: &mut [f32]) {
        Self::to_float(blocks, out);
    }
}

struct Floats<T> {
    values: Vec<T>,
    columns: usize,
}

impl<T: Float> Floats<T> {
    fn read(bytes: &[u8], rows: usize, columns: usize) -> Result<Self> {
        let values: Vec<T> = copied("weights", bytes)?;
        debug_assert_eq!(values.len() * T::COLUMNS, rows * columns);
        Ok(Self { values, columns })
    }
}

impl<T: Float> Matrix for Floats<T> {
    fn widen(&self, first: usize, out: &mut [f32]) {
        let start = first * self.columns / T::COLUMNS;
        T::widen(&self.values[start..start + out.len() / T::COLUMNS], out);
    }

    fn form(&self, _: Kind) -> Form {
        Form::Floats
    }

    fn panel(&self, kind: Kind) -> Option<usize> {
        (kind == Kind::Chunk).then(|| panel_rows(self.columns))
    }

    fn meet(&self, kind: Kind, arena: &mut Arena, input: &Given<'_>, rows: Range<usize>, out: &Cells<'_>) {
        if kind == Kind::Chunk {
            return through_panel(self, arena, input, rows, out);
        }
        let row = arena.floats(self.columns);
        for j in rows {
            self.widen(j, row);
            for (i, x) in input.floats.chunks_exact(self.columns).enumerate() {
                // SAFETY: these columns are this call's alone.
                unsafe { out.set(i, j, dot(row, x)) };
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.values)
    }
}

struct Blocks<T> {
    blocks: Vec<T>,
    columns: usize,
}

impl<T: GgmlType + Plain> Blocks<T> {
    fn read(bytes: &[u8], rows: usize, columns: usize) -> Result<Self> {
        let blocks: Vec<T> = copied("weights", bytes)?;
        debug_assert_eq!(blocks.len() * T::BLCK_SIZE, rows * columns);
        Ok(Self { blocks, columns })
    }

    fn row(&self, j: usize) -> &[T] {
        let width = self.columns / T::BLCK_SIZE;
        &self.blocks[j * width..(j + 1) * width]
    }
}

impl<T> Matrix for Blocks<T>
where
    T: GgmlType + Plain,
    T::VecDotType: Partner,
{
    fn widen(&self, first: usize, out: &mut [f32]) {
        let start = first * (self.columns / T::BLCK_SIZE);
        T::to_float(&self.blocks[start..start + out.len() / T::BLCK_SIZE], out);
    }

    fn form(&self, kind: Kind) -> Form {
        if kind == Kind::Chunk { Form::Floats } else { T::VecDotType::FORM }
    }

    fn panel(&self, kind: Kind) -> Option<usize> {
        (kind == Kind::Chunk).then(|| panel_rows(self.columns))
    }

    fn meet(&self, kind: Kind, arena: &mut Arena, input: &Given<'_>, rows: Range<usize>, out: &Cells<'_>) {
        if kind == Kind::Chunk {
            return through_panel(self, arena, input, rows, out);
        }
        let width = self.columns / T::BLCK_SIZE;
        let x = &T::VecDotType::of(input)[..input.m * width];
        for j in rows {
            let row = self.row(j);
            for (i, x) in x.chunks_exact(width).enumerate() {
                // SAFETY: these columns are this call's alone.
                unsafe { out.set(i, j, T::vec_dot(self.columns, row, x)) };
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.blocks)
    }
}
