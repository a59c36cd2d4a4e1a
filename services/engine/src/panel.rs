//! f32 products of a panel of weight rows, still in cache, with many rows of activations: the heart of prefill.
//!
//! Each product is summed in the same order however many rows there are, so that a prompt's values are the same
//! to the bit alone and beside others. Both sides lie along the inner dimension, so nothing is packed: a tile of
//! 4 × 6 sums runs along it in registers. That is written for AVX-512; elsewhere, and for odd widths, dot products
//! do it.

use std::ops::Range;

use crate::team::Cells;
use crate::vector::dot;

/// `out[.., part] = input · weightsᵀ`: input `[m, columns]`, weights `[part.len(), columns]`.
///
/// # Safety
/// While this runs nobody else may touch these columns of `out`.
pub unsafe fn product(
    weights: &[f32],
    input: &[f32],
    m: usize,
    columns: usize,
    out: &Cells<'_>,
    part: Range<usize>,
) {
    assert!(weights.len() == part.len() * columns && input.len() == m * columns, "inputs of these shapes");
    assert!(m <= out.rows() && part.end <= out.width(), "within the matrix");
    #[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
    if columns.is_multiple_of(wide::LANES) {
        // SAFETY: promised by the caller.
        return unsafe { wide::product(weights, input, columns, out, part.start) };
    }
    for (i, x) in input.chunks_exact(columns).enumerate() {
        for (j, w) in weights.chunks_exact(columns).enumerate() {
            // SAFETY: the columns are this call's alone.
            unsafe { out.set(i, part.start + j, dot(w, x)) };
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
mod wide {
    use std::arch::x86_64::{
        __m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_reduce_add_ps, _mm512_setzero_ps,
    };
    use std::array::from_fn;

    use crate::team::Cells;

    pub const LANES: usize = 16;
    /// Sums of a tile, with a register left for each operand in flight: 24 + 6 + 1 of 32.
    const TALL: usize = 4;
    const WIDE: usize = 6;
    /// Inner steps at a time, so that a tile's activations stay in the first-level cache.
    const DEPTH: usize = 2048;

    /// As the outer `product`; `columns` is a multiple of [`LANES`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn product(weights: &[f32], input: &[f32], columns: usize, out: &Cells<'_>, first: usize) {
        let (m, n) = (input.len() / columns, weights.len() / columns);
        // Even parts: a short last one would cost as many final sums as a whole one.
        let depth = columns.div_ceil(columns.div_ceil(DEPTH)).next_multiple_of(LANES);
        for start in (0..columns).step_by(depth) {
            let inner = start..columns.min(start + depth);
            for i in (0..m).step_by(TALL) {
                // Past the end the last row is taken again, and its sums are dropped.
                let x = from_fn(|a| &input[(i + a).min(m - 1) * columns..][inner.clone()]);
                for j in (0..n).step_by(WIDE) {
                    let w = from_fn(|b| &weights[(j + b).min(n - 1) * columns..][inner.clone()]);
                    let sums = tile(x, w);
                    for (a, sums) in sums.iter().enumerate().take(m - i) {
                        let taken = WIDE.min(n - j);
                        // SAFETY: the caller promises these columns to this call.
                        let cells = unsafe { out.part(i + a, first + j..first + j + taken) };
                        for (cell, sum) in cells.iter_mut().zip(sums) {
                            *cell = if start == 0 { *sum } else { *cell + sum };
                        }
                    }
                }
            }
        }
    }

    /// All sums of products of the slices of `x` with those of `w`, all of one length, a multiple of [`LANES`].
    fn tile(x: [&[f32]; TALL], w: [&[f32]; WIDE]) -> [[f32; WIDE]; TALL] {
        let depth = w[0].len();
        assert!(
            depth.is_multiple_of(LANES) && x.iter().chain(&w).all(|slice| slice.len() == depth),
            "equal lengths"
        );
        // SAFETY: `sums` reads `depth` values of each; AVX-512 is there, or this module would not be compiled.
        let sums = unsafe { sums(x.map(<[f32]>::as_ptr), w.map(<[f32]>::as_ptr), depth) };
        // SAFETY: as above.
        sums.map(|sums| sums.map(|sum| unsafe { _mm512_reduce_add_ps(sum) }))
    }

    /// The tile's sums, lane by lane. Written out by macros: only sums with constant indices stay in registers.
    ///
    /// # Safety
    /// Each pointer is to `depth` values, a multiple of [`LANES`].
    #[target_feature(enable = "avx512f")]
    unsafe fn sums(x: [*const f32; TALL], w: [*const f32; WIDE], depth: usize) -> [[__m512; WIDE]; TALL] {
        let mut sums = [[_mm512_setzero_ps(); WIDE]; TALL];
        let mut step = 0;
        while step < depth {
            macro_rules! load {
                ($pointer:expr) => {
                    // SAFETY: `step + LANES` is at most `depth`.
                    unsafe { _mm512_loadu_ps($pointer.add(step)) }
                };
            }
            let (w0, w1, w2) = (load!(w[0]), load!(w[1]), load!(w[2]));
            let (w3, w4, w5) = (load!(w[3]), load!(w[4]), load!(w[5]));
            macro_rules! row {
                ($a:literal) => {
                    let x = load!(x[$a]);
                    sums[$a][0] = _mm512_fmadd_ps(x, w0, sums[$a][0]);
                    sums[$a][1] = _mm512_fmadd_ps(x, w1, sums[$a][1]);
                    sums[$a][2] = _mm512_fmadd_ps(x, w2, sums[$a][2]);
                    sums[$a][3] = _mm512_fmadd_ps(x, w3, sums[$a][3]);
                    sums[$a][4] = _mm512_fmadd_ps(x, w4, sums[$a][4]);
                    sums[$a][5] = _mm512_fmadd_ps(x, w5, sums[$a][5]);
                };
            }
            row!(0);
            row!(1);
            row!(2);
            row!(3);
            step += LANES;
        }
        sums
    }
}
