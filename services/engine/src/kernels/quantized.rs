//! Quantized matrices on this machine's vectors and matrix unit.

use std::ops::Range;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use millm_model::TensorType;

use super::amx::{self, DEPTH, TILE};
use super::format::{self, Layout};
use super::gemm::{self, Activations, Pass};
use super::interleaved::Interleaved;
use super::rounded::{Block32, Block256};
use super::spread;
use super::steps::{self, Group, TALL};
use super::wide::ROWS;
use crate::error::Result;
use crate::inputs::{Bytes, Form, Given};
use crate::matrix::{Kind, Matrix};
use crate::mxfp4::BlockMxfp4;
use crate::plain::copied;
use crate::team::{Arena, Cells, Team};

pub fn read(
    team: &Team,
    ty: TensorType,
    bytes: &[u8],
    (rows, columns): (usize, usize),
) -> Result<Option<Box<dyn Matrix>>> {
    macro_rules! of {
        ($format:ident) => {
            Box::new(Interleaved::<format::$format>::new(team, bytes, rows, columns)?)
        };
    }
    Ok(Some(match ty {
        TensorType::Q4_0 => of!(Q4_0),
        TensorType::Q4_1 => of!(Q4_1),
        TensorType::Q5_0 => of!(Q5_0),
        TensorType::Q5_1 => of!(Q5_1),
        TensorType::Q8_0 => of!(Q8_0),
        TensorType::Q2K => of!(Q2K),
        TensorType::Q3K => of!(Q3K),
        TensorType::Q4K => of!(Q4K),
        TensorType::Q5K => of!(Q5K),
        TensorType::Q6K => of!(Q6K),
        TensorType::MXFP4 => of!(Mxfp4),
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => return Ok(None),
    }))
}

/// A type with its kernels.
///
/// # Safety of its functions
/// As [`steps::of_super`] and [`spread::of_super`] say.
pub trait Format: Layout {
    /// What it is met with.
    type Partner: Bytes;

    /// A row as a file has it.
    fn widen(row: &[u8], out: &mut [f32]);

    unsafe fn meet<const M: usize>(group: Group, x: *const Self::Partner) -> [[f32; ROWS]; M];

    unsafe fn spread(group: Group, blocks: Range<usize>, out: *mut u8);
}

macro_rules! formats {
    ($($kernel:ident $partner:ident: $($name:ident $block:ident),*;)*) => { $($(
        impl Format for format::$name {
            type Partner = $partner;

            fn widen(row: &[u8], out: &mut [f32]) {
                // A row is some kilobytes: what does not fit then fits nowhere.
                let blocks = copied::<$block>("a row of weights", row).unwrap_or_default();
                $block::to_float(&blocks, out);
            }

            unsafe fn meet<const M: usize>(group: Group, x: *const $partner) -> [[f32; ROWS]; M] {
                // SAFETY: promised by the caller.
                unsafe { steps::$kernel::<Self, M>(group, x) }
            }

            unsafe fn spread(group: Group, blocks: Range<usize>, out: *mut u8) {
                // SAFETY: promised by the caller.
                unsafe { spread::$kernel::<Self>(group, blocks, out) }
            }
        }
    )*)* };
}

formats! {
    of_super Block256: Q2K BlockQ2K, Q3K BlockQ3K, Q4K BlockQ4K, Q5K BlockQ5K, Q6K BlockQ6K;
    of_simple Block32: Q4_0 BlockQ4_0, Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1, Q8_0 BlockQ8_0, Mxfp4 BlockMxfp4;
}

impl<F: Format> Matrix for Interleaved<F> {
    fn widen(&self, first: usize, out: &mut [f32]) {
        let mut row = vec![0; self.blocks() * F::BYTES];
        for (index, out) in out.chunks_exact_mut(self.columns).enumerate() {
            self.row(first + index, &mut row);
            F::widen(&row, out);
        }
    }

    fn form(&self, kind: Kind) -> Form {
        match kind {
            Kind::Chunk if amx::usable() => Form::Tiles,
            _ => F::Partner::FORM,
        }
    }

    fn panel(&self, kind: Kind) -> Option<usize> {
        (kind == Kind::Chunk).then_some(gemm::PANEL)
    }

    fn meet(&self, kind: Kind, arena: &mut Arena, input: &Given<'_>, rows: Range<usize>, out: &Cells<'_>) {
        if self.form(kind) == Form::Tiles {
            return self.through_tiles(arena, input, rows, out);
        }
        let x = F::Partner::of(input).rows(input.m, self.blocks()).as_ptr();
        for group in rows.start / ROWS..rows.end.div_ceil(ROWS) {
            let of = self.group(group);
            let mut first = 0;
            while first < input.m {
                // SAFETY: the group is of this type; `input` holds `m` rows of as many columns, rounded in these
                // blocks; `kernels::read` has asked the machine. The columns of `out` are this call's.
                first += unsafe {
                    match input.m - first {
                        TALL.. => met::<F, TALL>(of, x, first, group, out),
                        4.. => met::<F, 4>(of, x, first, group, out),
                        2.. => met::<F, 2>(of, x, first, group, out),
                        _ => met::<F, 1>(of, x, first, group, out),
                    }
                };
            }
        }
    }

    fn bytes(&self) -> usize {
        Self::bytes(self)
    }
}

/// Writes the products of `M` rows of activations, of those at `x` from `first` on, with a group; gives `M`.
///
/// # Safety
/// As for [`steps::of_super`]; nobody else touches these columns of `out`.
unsafe fn met<F: Format, const M: usize>(
    of: Group,
    x: *const F::Partner,
    first: usize,
    group: usize,
    out: &Cells<'_>,
) -> usize {
    // SAFETY: promised by the caller.
    let products = unsafe { F::meet::<M>(of, x.add(first * of.count)) };
    let columns = group * ROWS..out.width().min((group + 1) * ROWS);
    for (i, products) in products.iter().enumerate() {
        // SAFETY: as above.
        let cells = unsafe { out.part(first + i, columns.clone()) };
        cells.copy_from_slice(&products[..cells.len()]);
    }
    M
}

impl<F: Format> Interleaved<F> {
    fn through_tiles(&self, arena: &mut Arena, input: &Given<'_>, rows: Range<usize>, out: &Cells<'_>) {
        let groups = rows.start / ROWS..rows.end.div_ceil(ROWS);
        let width = gemm::COLUMNS.min(self.columns);
        let panel = arena.bytes(groups.len() * width / DEPTH * TILE).as_mut_ptr();
        // SAFETY: the form is `Tiles` only where the unit is usable.
        let tiles = unsafe { amx::Tiles::configure() };
        for start in (0..self.columns).step_by(width) {
            let columns = start..self.columns.min(start + width);
            let depth = columns.len() / DEPTH;
            let blocks = columns.start / F::COLUMNS..columns.end / F::COLUMNS;
            let place = |group: usize| (group - groups.start) * depth * TILE;
            for group in groups.clone() {
                // SAFETY: the panel has room for the tiles of all groups; `kernels::read` has asked the machine.
                unsafe { F::spread(self.group(group), blocks.clone(), panel.add(place(group))) };
            }
            let x = Activations {
                piece: &input.tiles().high,
                m: input.m,
                depth: self.columns / DEPTH,
                from: columns.start / DEPTH,
            };
            let weights = |group: usize| panel.wrapping_add(place(group)).cast_const();
            // SAFETY: the tiles were just written; these columns of `out` are this call's.
            unsafe { gemm::product(&tiles, &[Pass { x, weights }], groups.clone(), depth, out, start > 0) };
        }
    }
}
