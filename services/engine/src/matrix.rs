//! Weight matrices in the element types of model files, and their products with activations.
//!
//! Steps (the one row of a decoding sequence): each weight row is read once and met with every activation row;
//! quantized blocks meet activations quantized the same way (candle's dot products), half floats are widened on the
//! fly. Chunks (the many rows of a prompt): panels of weight rows are widened to f32 and go through a GEMM, so a
//! weight is decoded once however many rows there are, and activations are not rounded. Which of the two a row
//! takes depends on what it is alone, never on who shares its pass: an answer in a batch is the answer alone. A kernel
//! for one type and machine is exchanged here and nowhere else.

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
    BlockQ8_1, BlockQ8K,
};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use millm_model::TensorType;

use crate::error::Result;
use crate::panel;
use crate::plain::{Plain, copied};
use crate::team::{Cells, Team};
use crate::vector::dot;

/// A matrix `[rows, columns]`; a linear layer is `[out, in]`.
pub trait Matrix: Send + Sync {
    /// Writes the f32 values of whole rows, from `first` on, as many as `out` has room for.
    fn widen(&self, first: usize, out: &mut [f32]);

    /// `out[i, j] = input[i] · row j`, for few rows of input (`[m, columns]`).
    fn meet(&self, team: &Team, input: &[f32], out: &Cells<'_>, rounded: &mut Rounded);

    /// Memory held.
    fn bytes(&self) -> usize;
}

/// Activations rounded to the type that quantized blocks are met with; kept between products for its memory.
#[derive(Default)]
pub struct Rounded {
    q8_0: Vec<BlockQ8_0>,
    q8_1: Vec<BlockQ8_1>,
    q8_k: Vec<BlockQ8K>,
}

/// Reads a matrix; `bytes` must hold `rows * columns` elements of `ty` (the caller has checked).
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
    })
}

/// `out = input · matrixᵀ`, input `[m, columns]`, out `[m, rows]`; the first `steps` rows are steps, the others belong
/// to chunks.
pub fn multiply(
    matrix: &dyn Matrix,
    (rows, columns): (usize, usize),
    team: &Team,
    steps: usize,
    input: &[f32],
    out: &mut [f32],
    rounded: &mut Rounded,
) {
    let (stepping, input) = input.split_at(steps * columns);
    let (stepped, out) = out.split_at_mut(steps * rows);
    if steps > 0 {
        matrix.meet(team, stepping, &Cells::new(stepped, rows), rounded);
    }
    let m = input.len() / columns;
    if m == 0 {
        return;
    }
    let out = Cells::new(out, rows);
    let panel = panel_rows(columns).min(rows.div_ceil(team.threads()).next_multiple_of(6));
    team.run(rows, panel, |arena, range| {
        // One thread alone is given everything at once.
        for start in range.clone().step_by(panel) {
            let part = start..range.end.min(start + panel);
            let weights = arena.floats(part.len() * columns);
            matrix.widen(part.start, weights);
            // SAFETY: `run` gives these columns to one call only.
            unsafe { panel::product(weights, input, m, columns, &out, part) };
        }
    });
}

/// Rows of a panel: small enough to stay in the second-level cache beside the activations.
fn panel_rows(columns: usize) -> usize {
    (512 * 1024 / (4 * columns)).clamp(24, 240).next_multiple_of(24)
}

/// A float type as stored.
trait Float: Plain + Copy {
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

struct Floats<T> {
    values: Vec<T>,
    rows: usize,
    columns: usize,
}

impl<T: Float> Floats<T> {
    fn read(bytes: &[u8], rows: usize, columns: usize) -> Result<Self> {
        Ok(Self { values: copied("weights", bytes)?, rows, columns })
    }
}

impl<T: Float> Matrix for Floats<T> {
    fn widen(&self, first: usize, out: &mut [f32]) {
        let start = first * self.columns;
        T::widen(&self.values[start..start + out.len()], out);
    }

    fn meet(&self, team: &Team, input: &[f32], out: &Cells<'_>, _: &mut Rounded) {
        team.run(self.rows, team.grain(self.rows), |arena, range| {
            let row = arena.floats(self.columns);
            for j in range {
                self.widen(j, row);
                for (i, x) in input.chunks_exact(self.columns).enumerate() {
                    // SAFETY: `run` gives each j to one call only.
                    unsafe { out.set(i, j, dot(row, x)) };
                }
            }
        });
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.values)
    }
}

/// A type that activations are rounded to.
trait Partner: GgmlType + Plain {
    fn room(rounded: &mut Rounded) -> &mut Vec<Self>;
}

impl Partner for BlockQ8_0 {
    fn room(rounded: &mut Rounded) -> &mut Vec<Self> {
        &mut rounded.q8_0
    }
}

impl Partner for BlockQ8_1 {
    fn room(rounded: &mut Rounded) -> &mut Vec<Self> {
        &mut rounded.q8_1
    }
}

impl Partner for BlockQ8K {
    fn room(rounded: &mut Rounded) -> &mut Vec<Self> {
        &mut rounded.q8_k
    }
}

struct Blocks<T> {
    blocks: Vec<T>,
    rows: usize,
    columns: usize,
}

impl<T: GgmlType + Plain> Blocks<T> {
    fn read(bytes: &[u8], rows: usize, columns: usize) -> Result<Self> {
        Ok(Self { blocks: copied("weights", bytes)?, rows, columns })
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

    fn meet(&self, team: &Team, input: &[f32], out: &Cells<'_>, rounded: &mut Rounded) {
        let width = self.columns / T::BLCK_SIZE;
        let m = input.len() / self.columns;
        let room = T::VecDotType::room(rounded);
        if room.len() < m * width {
            room.resize(m * width, T::VecDotType::zeros());
        }
        for (x, blocks) in input.chunks_exact(self.columns).zip(room.chunks_exact_mut(width)) {
            T::VecDotType::from_float(x, blocks);
        }
        let room = &room[..m * width];
        team.run(self.rows, team.grain(self.rows), |_, range| {
            for j in range {
                let row = self.row(j);
                for (i, x) in room.chunks_exact(width).enumerate() {
                    // SAFETY: `run` gives each j to one call only.
                    unsafe { out.set(i, j, T::vec_dot(self.columns, row, x)) };
                }
            }
        });
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    fn random(length: usize, seed: u64) -> Vec<f32> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..length).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// Products by every path against sums over the widened rows, for any number of input rows.
    fn check(matrix: &dyn Matrix, rows: usize, columns: usize, tolerance: f32) {
        let team = Team::new(2).unwrap();
        let mut wide = vec![0.0; rows * columns];
        matrix.widen(0, &mut wide);
        let mut row = vec![0.0; columns];
        matrix.widen(rows - 1, &mut row);
        assert_eq!(row, wide[(rows - 1) * columns..]);
        for (steps, chunks) in [(1, 0), (2, 0), (0, 1), (3, 4), (1, 36), (37, 0)] {
            let m = steps + chunks;
            let input = random(m * columns, m as u64);
            let mut out = vec![f32::NAN; m * rows];
            multiply(matrix, (rows, columns), &team, steps, &input, &mut out, &mut Rounded::default());
            for (i, out) in out.chunks_exact(rows).enumerate() {
                for (j, out) in out.iter().enumerate() {
                    let products = input[i * columns..].iter().zip(&wide[j * columns..(j + 1) * columns]);
                    let expected: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let error = (f64::from(*out) - expected).abs() as f32;
                    assert!(
                        error < tolerance * (columns as f32).sqrt(),
                        "[{i}, {j}] of {m} rows: {out}, not {expected}"
                    );
                }
            }
        }
    }

    fn floats<T: Float>(narrow: impl Fn(f32) -> T) {
        for (rows, columns) in [(5, 24), (70, 320)] {
            let values = random(rows * columns, 1).into_iter().map(&narrow).collect();
            check(&Floats { values, rows, columns }, rows, columns, 1e-6);
        }
    }

    fn blocks<T>()
    where
        T: GgmlType + Plain,
        T::VecDotType: Partner,
    {
        let (rows, columns) = (70, 512);
        let mut blocks = vec![T::zeros(); rows * columns / T::BLCK_SIZE];
        T::from_float(&random(rows * columns, 1), &mut blocks);
        check(&Blocks { blocks, rows, columns }, rows, columns, 0.01);
    }

    #[test]
    fn floats_are_exact() {
        floats(|x| x);
        floats(f16::from_f32);
        floats(bf16::from_f32);
    }

    #[test]
    fn blocks_are_as_exact_as_rounded_activations_allow() {
        blocks::<BlockQ4_0>();
        blocks::<BlockQ4_1>();
        blocks::<BlockQ5_0>();
        blocks::<BlockQ5_1>();
        blocks::<BlockQ8_0>();
        blocks::<BlockQ2K>();
        blocks::<BlockQ3K>();
        blocks::<BlockQ4K>();
        blocks::<BlockQ5K>();
        blocks::<BlockQ6K>();
    }
}
