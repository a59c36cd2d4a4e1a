//! Weight matrices and their products with activations: the seam beneath which kernels are exchanged.
//!
//! Steps (the one row of a decoding sequence) and chunks (the many rows of a prompt) may take different kernels: steps
//! are ruled by reading weights, chunks by arithmetic. Which of the two a row takes depends on what it is alone, and
//! each kernel sums a row in one order however many rows there are: an answer in a batch is the answer alone.

use std::ops::Range;

use millm_model::TensorType;

use crate::error::Result;
use crate::inputs::{Form, Given, Scratch};
use crate::team::{Arena, Cells, Team};
use crate::{kernels, stored};

/// What rows of activations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Step,
    Chunk,
}

/// A matrix `[rows, columns]`; a linear layer is `[out, in]`.
pub trait Matrix: Send + Sync {
    /// Writes the f32 values of whole rows, from `first` on, as many as `out` has room for.
    fn widen(&self, first: usize, out: &mut [f32]);

    /// How it takes activations.
    fn form(&self, kind: Kind) -> Form;

    /// Rows that are best taken together, a multiple of [`UNIT`]; `None` where that does not matter.
    fn panel(&self, kind: Kind) -> Option<usize>;

    /// `out[i, j] = input[i] · row j` for the rows j of `rows`, which begin at a multiple of [`UNIT`] and end at one or
    /// at the matrix' end. These columns of `out` are this call's alone.
    fn meet(&self, kind: Kind, arena: &mut Arena, input: &Given<'_>, rows: Range<usize>, out: &Cells<'_>);

    /// Memory held; what fills up a last group of rows aside.
    fn bytes(&self) -> usize;
}

/// Work is split between multiples of this many rows.
pub const UNIT: usize = 32;

/// Reads a matrix into the form that this machine multiplies fastest; `bytes` must hold `rows * columns` elements of
/// `ty` (the caller has checked).
pub fn read(
    team: &Team,
    ty: TensorType,
    bytes: &[u8],
    rows: usize,
    columns: usize,
) -> Result<Box<dyn Matrix>> {
    match kernels::read(team, ty, bytes, (rows, columns))? {
        Some(matrix) => Ok(matrix),
        None => stored::read(ty, bytes, rows, columns),
    }
}

/// A matrix and where its products go: `[m, rows]`.
pub struct Product<'a> {
    pub matrix: &'a dyn Matrix,
    pub rows: usize,
    pub out: &'a mut [f32],
}

/// `out = input · matrixᵀ` for matrices that share their input, `[m, columns]`; the first `steps` rows are steps, the
/// others belong to chunks.
pub fn multiply(
    team: &Team,
    steps: usize,
    input: &[f32],
    columns: usize,
    products: &mut [Product<'_>],
    scratch: &mut Scratch,
) {
    let (stepping, chunks) = input.split_at(steps * columns);
    for (kind, input, above) in [(Kind::Step, stepping, 0), (Kind::Chunk, chunks, steps)] {
        if input.is_empty() {
            continue;
        }
        let given =
            scratch.give(team, input, columns, products.iter().map(|product| product.matrix.form(kind)));
        let parts: Vec<Part<'_>> =
            products.iter_mut().map(|product| Part::new(product, above, given.m)).collect();
        run(team, kind, &given, &parts);
    }
}

/// A product's share of the work on rows of one kind.
struct Part<'a> {
    matrix: &'a dyn Matrix,
    rows: usize,
    out: Cells<'a>,
}

impl<'a> Part<'a> {
    fn new(product: &'a mut Product<'_>, above: usize, m: usize) -> Self {
        let rows = product.rows;
        let out = Cells::new(&mut product.out[above * rows..(above + m) * rows], rows);
        Self { matrix: product.matrix, rows, out }
    }

    fn units(&self) -> usize {
        self.rows.div_ceil(UNIT)
    }
}

fn run(team: &Team, kind: Kind, given: &Given<'_>, parts: &[Part<'_>]) {
    let units: usize = parts.iter().map(Part::units).sum();
    let panel = parts.iter().filter_map(|part| part.matrix.panel(kind)).min();
    let share = units.div_ceil(team.threads());
    let grain = panel.map_or(team.grain(units), |rows| (rows / UNIT).min(share));
    team.run(units, grain, |arena, range| {
        let mut before = 0;
        for part in parts {
            let own = range.start.max(before)..range.end.min(before + part.units());
            // One thread alone is given everything at once.
            for start in own.clone().step_by(grain.max(1)) {
                let taken = start - before..own.end.min(start + grain) - before;
                let rows = taken.start * UNIT..part.rows.min(taken.end * UNIT);
                part.matrix.meet(kind, arena, given, rows, &part.out);
            }
            before += part.units();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::GgmlType;
    use candle_core::quantized::k_quants::*;
    use half::{bf16, f16};
    use rand::{Rng, SeedableRng};

    fn random(length: usize, seed: u64) -> Vec<f32> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..length).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// `[m, rows]` products of `steps` steps and then chunks.
    fn products(
        matrix: &dyn Matrix,
        (rows, columns): (usize, usize),
        steps: usize,
        input: &[f32],
    ) -> Vec<f32> {
        let team = Team::new(2).unwrap();
        let mut out = vec![f32::NAN; input.len() / columns * rows];
        let mut products = [Product { matrix, rows, out: &mut out }];
        multiply(&team, steps, input, columns, &mut products, &mut Scratch::default());
        out
    }

    /// Products by every path against sums over the widened rows, for any number of input rows, and each row alone
    /// against the same row among others.
    fn check(matrix: &dyn Matrix, (rows, columns): (usize, usize), tolerance: f32) {
        let mut wide = vec![0.0; rows * columns];
        matrix.widen(0, &mut wide);
        let mut row = vec![0.0; columns];
        matrix.widen(rows - 1, &mut row);
        assert_eq!(row, wide[(rows - 1) * columns..]);
        let input = random(39 * columns, 7);
        let alone: Vec<[Vec<f32>; 2]> = input
            .chunks_exact(columns)
            .map(|x| [1, 0].map(|steps| products(matrix, (rows, columns), steps, x)))
            .collect();
        for (steps, chunks) in [(1, 0), (2, 0), (0, 1), (3, 4), (1, 36), (39, 0), (0, 39)] {
            let m = steps + chunks;
            let out = products(matrix, (rows, columns), steps, &input[..m * columns]);
            for (i, out) in out.chunks_exact(rows).enumerate() {
                assert_eq!(out, alone[i][usize::from(i >= steps)], "row {i} alone and among {m}");
                for (j, out) in out.iter().enumerate() {
                    let products = input[i * columns..].iter().zip(&wide[j * columns..(j + 1) * columns]);
                    let expected: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let error = (f64::from(*out) - expected).abs() as f32;
                    assert!(
                        error < tolerance * (columns as f32).sqrt(),
                        "[{i}, {j}] of {steps} + {chunks} rows: {out}, not {expected}"
                    );
                }
            }
        }
    }

    /// Both paths of a type: this machine's, where it has one, and the portable one; they hold the same weights.
    fn both(ty: TensorType, bytes: &[u8], (rows, columns): (usize, usize), tolerance: f32) {
        let portable = stored::read(ty, bytes, rows, columns).unwrap();
        check(&*portable, (rows, columns), tolerance);
        let team = Team::new(2).unwrap();
        let Some(own) = kernels::read(&team, ty, bytes, (rows, columns)).unwrap() else { return };
        let widened = |matrix: &dyn Matrix| {
            let mut wide = vec![0.0; rows * columns];
            matrix.widen(0, &mut wide);
            wide
        };
        assert_eq!(widened(&*own), widened(&*portable), "{ty:?}");
        check(&*own, (rows, columns), tolerance);
    }

    #[test]
    fn floats_are_exact() {
        for (rows, columns) in [(5, 24), (70, 320), (33, 2080)] {
            let values = random(rows * columns, 1);
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            both(TensorType::F32, &bytes, (rows, columns), 1e-6);
            let bytes: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
            both(TensorType::F16, &bytes, (rows, columns), 5e-6);
            let bytes: Vec<u8> = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
            both(TensorType::BF16, &bytes, (rows, columns), 5e-6);
        }
    }

    fn blocks<T: GgmlType>(ty: TensorType) {
        for (rows, columns) in [(5, 512), (70, 512), (33, 2304)] {
            let mut blocks = vec![T::zeros(); rows * columns / T::BLCK_SIZE];
            T::from_float(&random(rows * columns, 1), &mut blocks);
            // SAFETY: blocks are made of integers and half floats.
            let bytes =
                unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size_of_val(&*blocks)) };
            both(ty, bytes, (rows, columns), 0.01);
        }
    }

    #[test]
    fn blocks_are_as_exact_as_rounded_activations_allow() {
        blocks::<BlockQ4_0>(TensorType::Q4_0);
        blocks::<BlockQ4_1>(TensorType::Q4_1);
        blocks::<BlockQ5_0>(TensorType::Q5_0);
        blocks::<BlockQ5_1>(TensorType::Q5_1);
        blocks::<BlockQ8_0>(TensorType::Q8_0);
        blocks::<BlockQ2K>(TensorType::Q2K);
        blocks::<BlockQ3K>(TensorType::Q3K);
        blocks::<BlockQ4K>(TensorType::Q4K);
        blocks::<BlockQ5K>(TensorType::Q5K);
        blocks::<BlockQ6K>(TensorType::Q6K);
    }

    #[test]
    fn floats_of_four_bits_are_as_exact_as_rounded_activations_allow() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for (rows, columns) in [(5, 32), (70, 512), (33, 2080), (16, 2880)] {
            let block = |_| {
                let mut block: [u8; 17] = random.random();
                block[0] = random.random_range(122..126);
                block
            };
            let bytes: Vec<u8> = (0..rows * columns / 32).flat_map(block).collect();
            both(TensorType::MXFP4, &bytes, (rows, columns), 0.01);
        }
    }
}
