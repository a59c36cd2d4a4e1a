//! Weight matrices in the layout of the file: for every machine and every type.
//!
//! Decode: each weight row is read once and multiplied with all rows of activations. Quantized blocks are multiplied with
//! quantized activations by candle's dot products; floats and MXFP4 are dequantized on the fly. Prefill: panels of weight
//! rows are dequantized to f32 and multiplied by a GEMM, so a weight is decoded once however many rows there are, and
//! activations are not rounded.

pub(crate) mod mxfp4;

use std::ops::Range;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use millm_model::TensorType;

use super::activations::{ActivationFormat, Activations, CandleFormat};
use super::sgemm::sgemm;
use super::{Phase, WeightMatrix};
use crate::error::Result;
use crate::sys::cpu::KernelSet;
use crate::sys::pod::{Pod, copied};
use crate::sys::simd::{dot, dot_avx2};
use crate::sys::thread_pool::{Arena, Cells};
use mxfp4::BlockMxfp4;

/// Copies a matrix `[rows, columns]` of any type; `kernels` computes its f32 products.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] if the copy cannot be allocated.
pub fn load(
    kernels: KernelSet,
    ty: TensorType,
    bytes: &[u8],
    rows: usize,
    columns: usize,
) -> Result<Box<dyn WeightMatrix>> {
    let shape = (rows, columns);
    Ok(match ty {
        TensorType::F32 => Box::new(FloatMatrix::<f32>::new(kernels, bytes, shape)?),
        TensorType::F16 => Box::new(FloatMatrix::<f16>::new(kernels, bytes, shape)?),
        TensorType::BF16 => Box::new(FloatMatrix::<bf16>::new(kernels, bytes, shape)?),
        TensorType::Q4_0 => Box::new(QuantizedMatrix::<BlockQ4_0>::new(kernels, bytes, shape)?),
        TensorType::Q4_1 => Box::new(QuantizedMatrix::<BlockQ4_1>::new(kernels, bytes, shape)?),
        TensorType::Q5_0 => Box::new(QuantizedMatrix::<BlockQ5_0>::new(kernels, bytes, shape)?),
        TensorType::Q5_1 => Box::new(QuantizedMatrix::<BlockQ5_1>::new(kernels, bytes, shape)?),
        TensorType::Q8_0 => Box::new(QuantizedMatrix::<BlockQ8_0>::new(kernels, bytes, shape)?),
        TensorType::Q2K => Box::new(QuantizedMatrix::<BlockQ2K>::new(kernels, bytes, shape)?),
        TensorType::Q3K => Box::new(QuantizedMatrix::<BlockQ3K>::new(kernels, bytes, shape)?),
        TensorType::Q4K => Box::new(QuantizedMatrix::<BlockQ4K>::new(kernels, bytes, shape)?),
        TensorType::Q5K => Box::new(QuantizedMatrix::<BlockQ5K>::new(kernels, bytes, shape)?),
        TensorType::Q6K => Box::new(QuantizedMatrix::<BlockQ6K>::new(kernels, bytes, shape)?),
        TensorType::MXFP4 => Box::new(FloatMatrix::<BlockMxfp4>::new(kernels, bytes, shape)?),
    })
}

/// Returns the rows of a prefill panel: few enough that the panel stays in the second-level cache (512 KiB of f32).
fn panel_rows(columns: usize) -> usize {
    (512 * 1024 / (4 * columns)).clamp(32, 192).next_multiple_of(96)
}

/// Multiplies in the prefill phase: dequantizes the weight rows `rows` into a panel and multiplies all activations by it.
fn matmul_by_panel(
    kernels: KernelSet,
    matrix: &dyn WeightMatrix,
    arena: &mut Arena,
    input: &Activations<'_>,
    rows: Range<usize>,
    out: &Cells<'_>,
) {
    let panel = arena.floats(rows.len() * input.columns);
    matrix.dequantize(rows.start, panel);
    // SAFETY: the caller of `matmul` has exclusive access to these columns of `out`.
    unsafe { sgemm(kernels, panel, input.f32, input.columns, out, rows) };
}

/// An element type that is converted to f32 for every product: a float, or a block of floats.
trait Dequantize: Pod + Copy {
    /// Columns in one element.
    const COLUMNS: usize = 1;

    /// Writes the values of `elements`; `out` is [`Dequantize::COLUMNS`] times as long.
    fn dequantize(elements: &[Self], out: &mut [f32]);
}

impl Dequantize for f32 {
    fn dequantize(elements: &[Self], out: &mut [f32]) {
        out.copy_from_slice(elements);
    }
}

impl Dequantize for f16 {
    fn dequantize(elements: &[Self], out: &mut [f32]) {
        elements.convert_to_f32_slice(out);
    }
}

impl Dequantize for bf16 {
    fn dequantize(elements: &[Self], out: &mut [f32]) {
        // The conversion of `half` checks each value for NaN, which keeps it from being vectorized.
        for (out, value) in out.iter_mut().zip(elements) {
            *out = f32::from_bits(u32::from(value.to_bits()) << 16);
        }
    }
}

impl Dequantize for BlockMxfp4 {
    const COLUMNS: usize = mxfp4::COLUMNS;

    fn dequantize(elements: &[Self], out: &mut [f32]) {
        Self::to_float(elements, out);
    }
}

/// A matrix whose products are computed in f32.
struct FloatMatrix<T> {
    elements: Vec<T>,
    columns: usize,
    kernels: KernelSet,
}

impl<T: Dequantize> FloatMatrix<T> {
    fn new(kernels: KernelSet, bytes: &[u8], (rows, columns): (usize, usize)) -> Result<Self> {
        let elements: Vec<T> = copied("weights", bytes)?;
        debug_assert_eq!(elements.len() * T::COLUMNS, rows * columns);
        Ok(Self { elements, columns, kernels })
    }
}

impl<T: Dequantize> WeightMatrix for FloatMatrix<T> {
    fn dequantize(&self, first: usize, out: &mut [f32]) {
        let start = first * self.columns / T::COLUMNS;
        T::dequantize(&self.elements[start..start + out.len() / T::COLUMNS], out);
    }

    fn activation_format(&self, _: Phase) -> ActivationFormat {
        ActivationFormat::F32
    }

    fn panel_rows(&self, phase: Phase) -> Option<usize> {
        (phase == Phase::Prefill).then(|| panel_rows(self.columns))
    }

    fn matmul(
        &self,
        phase: Phase,
        arena: &mut Arena,
        input: &Activations<'_>,
        rows: Range<usize>,
        out: &Cells<'_>,
    ) {
        if phase == Phase::Prefill {
            return matmul_by_panel(self.kernels, self, arena, input, rows, out);
        }
        let avx2 = self.kernels.avx2();
        let row = arena.floats(self.columns);
        for j in rows {
            self.dequantize(j, row);
            for (i, x) in input.f32.chunks_exact(self.columns).enumerate() {
                let product = avx2.map_or_else(|| dot(row, x), |avx2| dot_avx2(avx2, row, x));
                // SAFETY: the caller has exclusive access to these columns of `out`.
                unsafe { out.set(i, j, product) };
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.elements)
    }
}

/// A matrix of candle's blocks.
struct QuantizedMatrix<T> {
    blocks: Vec<T>,
    columns: usize,
    kernels: KernelSet,
}

impl<T: GgmlType + Pod> QuantizedMatrix<T> {
    fn new(kernels: KernelSet, bytes: &[u8], (rows, columns): (usize, usize)) -> Result<Self> {
        let blocks: Vec<T> = copied("weights", bytes)?;
        debug_assert_eq!(blocks.len() * T::BLCK_SIZE, rows * columns);
        Ok(Self { blocks, columns, kernels })
    }

    /// Returns the blocks of row `j`.
    fn row(&self, j: usize) -> &[T] {
        let width = self.columns / T::BLCK_SIZE;
        &self.blocks[j * width..(j + 1) * width]
    }
}

impl<T> WeightMatrix for QuantizedMatrix<T>
where
    T: GgmlType + Pod,
    T::VecDotType: CandleFormat,
{
    fn dequantize(&self, first: usize, out: &mut [f32]) {
        let start = first * (self.columns / T::BLCK_SIZE);
        T::to_float(&self.blocks[start..start + out.len() / T::BLCK_SIZE], out);
    }

    fn activation_format(&self, phase: Phase) -> ActivationFormat {
        if phase == Phase::Prefill { ActivationFormat::F32 } else { T::VecDotType::FORMAT }
    }

    fn panel_rows(&self, phase: Phase) -> Option<usize> {
        (phase == Phase::Prefill).then(|| panel_rows(self.columns))
    }

    fn matmul(
        &self,
        phase: Phase,
        arena: &mut Arena,
        input: &Activations<'_>,
        rows: Range<usize>,
        out: &Cells<'_>,
    ) {
        if phase == Phase::Prefill {
            return matmul_by_panel(self.kernels, self, arena, input, rows, out);
        }
        let width = self.columns / T::BLCK_SIZE;
        let x = &T::VecDotType::of(input)[..input.m * width];
        for j in rows {
            let row = self.row(j);
            for (i, x) in x.chunks_exact(width).enumerate() {
                // SAFETY: the caller has exclusive access to these columns of `out`.
                unsafe { out.set(i, j, T::vec_dot(self.columns, row, x)) };
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.blocks)
    }
}
