//! f32 products of a panel of weight rows, still in cache, with many rows of activations.
//!
//! A product is summed in the same order however many rows there are, so a prompt's values are the same, bit for bit,
//! alone and beside others. Both operands lie along the inner dimension, so nothing is packed: a tile of sums (4 × 6 with
//! AVX-512, 4 × 3 with AVX2) runs along it in registers. Other kernel sets and odd widths use dot products.

use std::ops::Range;

use crate::sys::cpu::KernelSet;
use crate::sys::simd::dot;
use crate::sys::thread_pool::Cells;

/// Computes `out[.., part] = input · weightsᵀ`: input `[m, columns]`, weights `[part.len(), columns]`.
///
/// # Safety
/// No other thread may access these columns of `out` meanwhile.
///
/// # Panics
/// If the shapes do not match.
pub unsafe fn sgemm(
    kernels: KernelSet,
    weights: &[f32],
    input: &[f32],
    columns: usize,
    out: &Cells<'_>,
    part: Range<usize>,
) {
    assert!(
        weights.len() == part.len() * columns && input.len().is_multiple_of(columns),
        "operands of these shapes"
    );
    assert!(input.len() / columns <= out.rows() && part.end <= out.width(), "within the matrix");
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(avx512) = kernels.avx512().filter(|_| columns.is_multiple_of(avx512::LANES)) {
            // SAFETY: the caller guarantees exclusive access to these columns of `out`.
            return unsafe { avx512::sgemm(avx512, weights, input, columns, out, part.start) };
        }
        if let Some(avx2) = kernels.avx2().filter(|_| columns.is_multiple_of(avx2::LANES)) {
            // SAFETY: as above.
            return unsafe { avx2::sgemm(avx2, weights, input, columns, out, part.start) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = kernels;
    for (i, x) in input.chunks_exact(columns).enumerate() {
        for (j, w) in weights.chunks_exact(columns).enumerate() {
            // SAFETY: as above.
            unsafe { out.set(i, part.start + j, dot(w, x)) };
        }
    }
}

/// Writes the tiled GEMM for one width of vectors. The loops over a tile are written out: only sums with constant indices
/// stay in registers.
#[cfg(target_arch = "x86_64")]
macro_rules! tiled_sgemm {
    (
        mod $name:ident: $proof:ident, $feature:meta, $lanes:literal lanes;
        tile [$($row:literal)*; $tall:literal] x [$($column:literal $w:ident)*; $wide:literal];
        $zero:ident $load:ident $fmadd:ident $reduce:path
    ) => {
        mod $name {
            use std::arch::x86_64::{$load, $fmadd, $zero};
            use std::array::from_fn;

            use crate::sys::cpu::$proof;
            use crate::sys::thread_pool::Cells;

            pub const LANES: usize = $lanes;
            /// The sums of a tile leave registers for a column of weights and one vector of activations.
            const TILE_ROWS: usize = $tall;
            const TILE_COLUMNS: usize = $wide;
            /// Columns at a time, so that a tile's activations stay in the first-level cache.
            const DEPTH: usize = 2048;

            /// As [`super::sgemm`]; `columns` is a multiple of [`LANES`], `first` the first column of `out`.
            ///
            /// # Safety
            /// As for [`super::sgemm`].
            pub unsafe fn sgemm(
                _: $proof,
                weights: &[f32],
                input: &[f32],
                columns: usize,
                out: &Cells<'_>,
                first: usize,
            ) {
                let (m, n) = (input.len() / columns, weights.len() / columns);
                // Equal parts: a short last part would cost as many final sums as a whole one.
                let depth = columns.div_ceil(columns.div_ceil(DEPTH)).next_multiple_of(LANES);
                for start in (0..columns).step_by(depth) {
                    let inner = start..columns.min(start + depth);
                    for i in (0..m).step_by(TILE_ROWS) {
                        // Past the end the last row is repeated, and its sums are dropped.
                        let x = from_fn(|a| &input[(i + a).min(m - 1) * columns..][inner.clone()]);
                        for j in (0..n).step_by(TILE_COLUMNS) {
                            let w = from_fn(|b| &weights[(j + b).min(n - 1) * columns..][inner.clone()]);
                            // SAFETY: the first argument proves that this CPU has the instructions.
                            let sums = unsafe { tile(x, w) };
                            for (a, sums) in sums.iter().enumerate().take(m - i) {
                                let taken = TILE_COLUMNS.min(n - j);
                                // SAFETY: the caller guarantees exclusive access to these columns of `out`.
                                let cells = unsafe { out.part(i + a, first + j..first + j + taken) };
                                for (cell, sum) in cells.iter_mut().zip(sums) {
                                    *cell = if start == 0 { *sum } else { *cell + sum };
                                }
                            }
                        }
                    }
                }
            }

            /// Returns the dot products of the slices of `x` with those of `w`. All slices have the same length, a
            /// multiple of [`LANES`].
            #[$feature]
            fn tile(x: [&[f32]; TILE_ROWS], w: [&[f32]; TILE_COLUMNS]) -> [[f32; TILE_COLUMNS]; TILE_ROWS] {
                let depth = w[0].len();
                assert!(
                    depth.is_multiple_of(LANES) && x.iter().chain(&w).all(|slice| slice.len() == depth),
                    "equal lengths"
                );
                let (x, w) = (x.map(<[f32]>::as_ptr), w.map(<[f32]>::as_ptr));
                let mut sums = [[$zero(); TILE_COLUMNS]; TILE_ROWS];
                let mut step = 0;
                while step < depth {
                    macro_rules! load {
                        ($pointer:expr) => {
                            // SAFETY: `step + LANES` is at most `depth`, the length of each slice.
                            unsafe { $load($pointer.add(step)) }
                        };
                    }
                    $(let $w = load!(w[$column]);)*
                    macro_rules! row {
                        ($a:literal) => {
                            let x = load!(x[$a]);
                            $(sums[$a][$column] = $fmadd(x, $w, sums[$a][$column]);)*
                        };
                    }
                    $(row!($row);)*
                    step += LANES;
                }
                let mut out = [[0.0; TILE_COLUMNS]; TILE_ROWS];
                for (out, sums) in out.iter_mut().zip(sums) {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = $reduce(sum);
                    }
                }
                out
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
tiled_sgemm! {
    mod avx512: Avx512, target_feature(enable = "avx512f"), 16 lanes;
    tile [0 1 2 3; 4] x [0 w0 1 w1 2 w2 3 w3 4 w4 5 w5; 6];
    _mm512_setzero_ps _mm512_loadu_ps _mm512_fmadd_ps std::arch::x86_64::_mm512_reduce_add_ps
}

#[cfg(target_arch = "x86_64")]
tiled_sgemm! {
    mod avx2: Avx2, target_feature(enable = "avx2,fma"), 8 lanes;
    tile [0 1 2 3; 4] x [0 w0 1 w1 2 w2; 3];
    _mm256_setzero_ps _mm256_loadu_ps _mm256_fmadd_ps super::sum_of_lanes
}

/// Returns the sum of the eight lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn sum_of_lanes(sums: std::arch::x86_64::__m256) -> f32 {
    use std::arch::x86_64::{
        _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_castps256_ps128,
        _mm256_extractf128_ps,
    };
    let four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}
