//! Loads weight matrices into the layout of a kernel set: the only file that knows all implementations of
//! [`WeightMatrix`].
//!
//! | `kernels` | quantized weights | F16, BF16 | F32 |
//! |---|---|---|---|
//! | `portable`, `avx2` | [`portable`] | [`portable`] | [`portable`] |
//! | `avx512` | `avx512/quantized.rs`, with the kernels of `gemv.rs` | `avx512/half.rs` | [`portable`] |
//! | `amx` | the same, but prefill with `gemm_amx.rs` | the same, but prefill with `gemm_amx.rs` | [`portable`] |
//!
//! F16 and BF16 matrices whose width is no multiple of 32 are [`portable`] in every set. [`portable`] uses the AVX2 or
//! AVX-512 of its set in prefill (`sgemm.rs`), and AVX2 for floats and MXFP4 in decode.

use millm_model::TensorType;

use super::{WeightMatrix, portable};
use crate::error::Result;
use crate::sys::cpu::KernelSet;
use crate::sys::thread_pool::ThreadPool;

/// Copies a matrix `[rows, columns]` into the layout of the pool's kernels. `bytes` must hold `rows * columns` elements of
/// `ty`; the caller has checked that.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] if the copy cannot be allocated.
pub fn load(
    pool: &ThreadPool,
    ty: TensorType,
    bytes: &[u8],
    rows: usize,
    columns: usize,
) -> Result<Box<dyn WeightMatrix>> {
    #[cfg(target_arch = "x86_64")]
    if let Some(matrix) = super::avx512::load(pool, ty, bytes, (rows, columns))? {
        return Ok(matrix);
    }
    portable::load(pool.kernels(), ty, bytes, rows, columns)
}

/// As [`load`], in the layout of the file: for tables of which only rows are read.
///
/// # Errors
/// As for [`load`].
pub fn load_table(
    ty: TensorType,
    bytes: &[u8],
    rows: usize,
    columns: usize,
) -> Result<Box<dyn WeightMatrix>> {
    portable::load(KernelSet::Portable, ty, bytes, rows, columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::activations::Scratch;
    use crate::matmul::{Product, multiply};
    use candle_core::quantized::GgmlType;
    use candle_core::quantized::k_quants::*;
    use half::{bf16, f16};
    use rand::{Rng, SeedableRng};

    fn random(length: usize, seed: u64) -> Vec<f32> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..length).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// Returns `[m, rows]` products of rows of which the first `decode_rows` are in the decode phase.
    fn products(
        pool: &ThreadPool,
        matrix: &dyn WeightMatrix,
        (rows, columns): (usize, usize),
        decode_rows: usize,
        input: &[f32],
    ) -> Vec<f32> {
        let mut out = vec![f32::NAN; input.len() / columns * rows];
        let mut products = [Product { matrix, rows, out: &mut out }];
        multiply(pool, decode_rows, input, columns, &mut products, &mut Scratch::default());
        out
    }

    /// Compares products in both phases with f64 sums over the dequantized rows, for any number of input rows, and each
    /// row alone with the same row among others.
    fn check(pool: &ThreadPool, matrix: &dyn WeightMatrix, (rows, columns): (usize, usize), tolerance: f32) {
        let kernels = pool.kernels();
        let mut weights = vec![0.0; rows * columns];
        matrix.dequantize(0, &mut weights);
        let mut row = vec![0.0; columns];
        matrix.dequantize(rows - 1, &mut row);
        assert_eq!(row, weights[(rows - 1) * columns..]);
        let input = random(39 * columns, 7);
        let alone: Vec<[Vec<f32>; 2]> = input
            .chunks_exact(columns)
            .map(|x| [1, 0].map(|decode_rows| products(pool, matrix, (rows, columns), decode_rows, x)))
            .collect();
        for (decode, prefill) in [(1, 0), (2, 0), (0, 1), (3, 4), (1, 36), (39, 0), (0, 39)] {
            let m = decode + prefill;
            let out = products(pool, matrix, (rows, columns), decode, &input[..m * columns]);
            for (i, out) in out.chunks_exact(rows).enumerate() {
                assert_eq!(out, alone[i][usize::from(i >= decode)], "{kernels}: row {i} alone and among {m}");
                for (j, out) in out.iter().enumerate() {
                    let products = input[i * columns..].iter().zip(&weights[j * columns..(j + 1) * columns]);
                    let expected: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let error = (f64::from(*out) - expected).abs() as f32;
                    assert!(
                        error < tolerance * (columns as f32).sqrt(),
                        "{kernels}: [{i}, {j}] of {decode} + {prefill} rows: {out}, not {expected}"
                    );
                }
            }
        }
    }

    /// Checks a type on each kernel set of this machine: all of them hold the same weights.
    fn on_all_kernels(ty: TensorType, bytes: &[u8], (rows, columns): (usize, usize), tolerance: f32) {
        let dequantized = |matrix: &dyn WeightMatrix| {
            let mut weights = vec![0.0; rows * columns];
            matrix.dequantize(0, &mut weights);
            weights
        };
        let expected = dequantized(&*load_table(ty, bytes, rows, columns).unwrap());
        for kernels in KernelSet::available() {
            let pool = ThreadPool::with_kernels(2, kernels).unwrap();
            let matrix = load(&pool, ty, bytes, rows, columns).unwrap();
            assert_eq!(dequantized(&*matrix), expected, "{kernels}: {ty:?}");
            check(&pool, &*matrix, (rows, columns), tolerance);
        }
    }

    #[test]
    fn floats_are_exact() {
        for (rows, columns) in [(5, 24), (70, 320), (33, 2080)] {
            let values = random(rows * columns, 1);
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            on_all_kernels(TensorType::F32, &bytes, (rows, columns), 1e-6);
            let bytes: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
            on_all_kernels(TensorType::F16, &bytes, (rows, columns), 5e-6);
            let bytes: Vec<u8> = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
            on_all_kernels(TensorType::BF16, &bytes, (rows, columns), 5e-6);
        }
    }

    fn blocks<T: GgmlType>(ty: TensorType) {
        for (rows, columns) in [(5, 512), (70, 512), (33, 2304)] {
            let mut blocks = vec![T::zeros(); rows * columns / T::BLCK_SIZE];
            T::from_float(&random(rows * columns, 1), &mut blocks);
            // SAFETY: blocks consist of integers and half floats, without padding.
            let bytes =
                unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size_of_val(&*blocks)) };
            on_all_kernels(ty, bytes, (rows, columns), 0.01);
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
            on_all_kernels(TensorType::MXFP4, &bytes, (rows, columns), 0.01);
        }
    }
}
