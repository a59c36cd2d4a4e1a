//! Quantized weight matrices: [`super::gemv`] in decode, the matrix unit in prefill where there is one.

use std::ops::Range;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use millm_model::TensorType;

use super::amx::{TILE, TILE_COLUMNS, TileRegisters};
use super::block_layout::ROWS;
use super::block_layout::{self, BlockLayout};
use super::dequantize::{dequantize_small_blocks, dequantize_super_blocks};
use super::gemm_amx::{PANEL_COLUMNS, PANEL_ROWS, Pass, TileColumns, gemm};
use super::gemv::{MAX_ROWS, gemv_small_blocks, gemv_super_blocks};
use super::repack::{RepackedMatrix, RowGroup};
use crate::error::Result;
use crate::matmul::activations::q8::{Q8Block32, Q8Block256};
use crate::matmul::activations::{ActivationFormat, Activations, Q8Format};
use crate::matmul::portable::mxfp4::BlockMxfp4;
use crate::matmul::{Phase, WeightMatrix};
use crate::sys::cpu::{Amx, Avx512};
use crate::sys::pod::copied;
use crate::sys::thread_pool::{Arena, Cells, ThreadPool};

/// Repacks a quantized matrix `[rows, columns]`; returns `None` for the types of floats.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] if the repacked copy cannot be allocated.
pub fn load(
    pool: &ThreadPool,
    avx512: Avx512,
    ty: TensorType,
    bytes: &[u8],
    shape: (usize, usize),
) -> Result<Option<Box<dyn WeightMatrix>>> {
    macro_rules! repacked {
        ($layout:ident) => {
            Box::new(RepackedMatrix::<block_layout::$layout>::new(pool, avx512, bytes, shape)?)
        };
    }
    Ok(Some(match ty {
        TensorType::Q4_0 => repacked!(Q4_0),
        TensorType::Q4_1 => repacked!(Q4_1),
        TensorType::Q5_0 => repacked!(Q5_0),
        TensorType::Q5_1 => repacked!(Q5_1),
        TensorType::Q8_0 => repacked!(Q8_0),
        TensorType::Q2K => repacked!(Q2K),
        TensorType::Q3K => repacked!(Q3K),
        TensorType::Q4K => repacked!(Q4K),
        TensorType::Q5K => repacked!(Q5K),
        TensorType::Q6K => repacked!(Q6K),
        TensorType::MXFP4 => repacked!(Mxfp4),
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => return Ok(None),
    }))
}

/// The kernels of a layout.
pub trait Kernels: BlockLayout {
    /// The blocks of activations that the weights are multiplied with.
    type X: Q8Format;

    /// Dequantizes a row that is stored as in the file.
    fn dequantize_row(row: &[u8], out: &mut [f32]);

    /// Returns the products `[M, 16]` of `M` rows of activations with a group; `x` is `[M, blocks]`.
    fn gemv<const M: usize>(group: RowGroup<'_>, x: &[Self::X]) -> [[f32; ROWS]; M];

    /// Writes the bf16 tiles of some blocks of a group.
    fn dequantize_tiles(group: RowGroup<'_>, blocks: Range<usize>, out: &mut [u8]);
}

macro_rules! kernels {
    ($($x:ident $gemv:ident $dequantize:ident: $($layout:ident $block:ident),*;)*) => { $($(
        impl Kernels for block_layout::$layout {
            type X = $x;

            fn dequantize_row(row: &[u8], out: &mut [f32]) {
                // The copy is a few kilobytes; if it cannot be allocated, nothing can.
                let blocks = copied::<$block>("a row of weights", row).unwrap_or_default();
                $block::to_float(&blocks, out);
            }

            fn gemv<const M: usize>(group: RowGroup<'_>, x: &[$x]) -> [[f32; ROWS]; M] {
                let _proof: Avx512 = group.avx512;
                // SAFETY: the proof says that this CPU has the instructions.
                unsafe { $gemv::<Self, M>(group, x) }
            }

            fn dequantize_tiles(group: RowGroup<'_>, blocks: Range<usize>, out: &mut [u8]) {
                let _proof: Avx512 = group.avx512;
                // SAFETY: as above.
                unsafe { $dequantize::<Self>(group, blocks, out) }
            }
        }
    )*)* };
}

kernels! {
    Q8Block256 gemv_super_blocks dequantize_super_blocks:
        Q2K BlockQ2K, Q3K BlockQ3K, Q4K BlockQ4K, Q5K BlockQ5K, Q6K BlockQ6K;
    Q8Block32 gemv_small_blocks dequantize_small_blocks:
        Q4_0 BlockQ4_0, Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1, Q8_0 BlockQ8_0, Mxfp4 BlockMxfp4;
}

impl<L: Kernels> WeightMatrix for RepackedMatrix<L> {
    fn dequantize(&self, first: usize, out: &mut [f32]) {
        let mut row = vec![0; self.blocks() * L::BYTES];
        for (index, out) in out.chunks_exact_mut(self.columns).enumerate() {
            self.row(first + index, &mut row);
            L::dequantize_row(&row, out);
        }
    }

    fn activation_format(&self, phase: Phase) -> ActivationFormat {
        match phase {
            Phase::Prefill if self.amx.is_some() => ActivationFormat::Bf16Tiles,
            _ => L::X::FORMAT,
        }
    }

    fn panel_rows(&self, phase: Phase) -> Option<usize> {
        (phase == Phase::Prefill).then_some(PANEL_ROWS)
    }

    fn matmul(
        &self,
        phase: Phase,
        arena: &mut Arena,
        input: &Activations<'_>,
        rows: Range<usize>,
        out: &Cells<'_>,
    ) {
        if let Some(amx) = self.amx.filter(|_| phase == Phase::Prefill) {
            return self.matmul_by_tiles(amx, arena, input, rows, out);
        }
        let blocks = self.blocks();
        let x = L::X::of(input).rows(input.m, blocks);
        for group in rows.start / ROWS..rows.end.div_ceil(ROWS) {
            let weights = self.group(group);
            let mut first = 0;
            while first < input.m {
                let x = &x[first * blocks..];
                // SAFETY: the caller has exclusive access to these columns of `out`.
                first += unsafe {
                    match input.m - first {
                        MAX_ROWS.. => gemv::<L, MAX_ROWS>(weights, x, first, group, out),
                        4.. => gemv::<L, 4>(weights, x, first, group, out),
                        2.. => gemv::<L, 2>(weights, x, first, group, out),
                        _ => gemv::<L, 1>(weights, x, first, group, out),
                    }
                };
            }
        }
    }

    fn bytes(&self) -> usize {
        Self::bytes(self)
    }
}

/// Writes the products of `M` rows of activations with group `group` of the weights to the rows `first ..` of `out`; returns
/// `M`. The rows are the first of `x`.
///
/// # Safety
/// No other thread may access these columns of `out` meanwhile.
unsafe fn gemv<L: Kernels, const M: usize>(
    weights: RowGroup<'_>,
    x: &[L::X],
    first: usize,
    group: usize,
    out: &Cells<'_>,
) -> usize {
    let products = L::gemv::<M>(weights, &x[..M * weights.blocks]);
    let columns = group * ROWS..out.width().min((group + 1) * ROWS);
    for (i, products) in products.iter().enumerate() {
        // SAFETY: the caller guarantees exclusive access.
        let cells = unsafe { out.part(first + i, columns.clone()) };
        cells.copy_from_slice(&products[..cells.len()]);
    }
    M
}

impl<L: Kernels> RepackedMatrix<L> {
    /// Multiplies on the matrix unit: dequantizes panels of the weight rows `rows` to tiles of bf16.
    fn matmul_by_tiles(
        &self,
        amx: Amx,
        arena: &mut Arena,
        input: &Activations<'_>,
        rows: Range<usize>,
        out: &Cells<'_>,
    ) {
        let groups = rows.start / ROWS..rows.end.div_ceil(ROWS);
        let width = PANEL_COLUMNS.min(self.columns);
        let registers = TileRegisters::configure(amx);
        for start in (0..self.columns).step_by(width) {
            let columns = start..self.columns.min(start + width);
            let depth = columns.len() / TILE_COLUMNS;
            let blocks = columns.start / L::COLUMNS..columns.end / L::COLUMNS;
            let panel = arena.bytes(groups.len() * depth * TILE);
            for (group, tiles) in groups.clone().zip(panel.chunks_exact_mut(depth * TILE)) {
                L::dequantize_tiles(self.group(group), blocks.clone(), tiles);
            }
            let panel = &*panel;
            let x = TileColumns {
                tiles: &input.tiles().high,
                m: input.m,
                row_tiles: self.columns / TILE_COLUMNS,
                first: columns.start / TILE_COLUMNS,
            };
            let weights = |group: usize| &panel[(group - groups.start) * depth * TILE..][..depth * TILE];
            // SAFETY: the caller has exclusive access to these columns of `out`.
            unsafe { gemm(&registers, &[Pass { x, weights }], groups.clone(), depth, out, start > 0) };
        }
    }
}
