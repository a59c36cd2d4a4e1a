//! Queries attending to one block of the KV cache: the kernel of attention.
//!
//! Up to eight queries read a block together. The result of a query does not depend on the other queries, nor on how many
//! there are.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;

use crate::kv_cache::block::BLOCK_SIZE;
use crate::sys::cpu::Avx512;

/// The maximum number of queries that read a block together.
const MAX_QUERIES: usize = 8;
/// Floats in two vectors.
const WIDE: usize = 32;

const _: () = assert!(BLOCK_SIZE == WIDE, "the scores of a block are two vectors");

/// An element type of the KV cache.
pub trait Element: Copy {
    /// Loads those of 32 elements whose bit is set in `mask`, as f32; the others are 0.
    ///
    /// # Safety
    /// `from` must point to the elements whose bit is set; the CPU must have what [`Avx512`] proves.
    unsafe fn load(from: *const Self, mask: u32) -> [__m512; 2];
}

impl Element for f32 {
    avx512! {
        #[inline]
        unsafe fn load(from: *const Self, mask: u32) -> [__m512; 2] {
            // SAFETY: the caller guarantees the elements.
            unsafe {
                [
                    _mm512_maskz_loadu_ps(mask as __mmask16, from),
                    _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, from.wrapping_add(16)),
                ]
            }
        }
    }
}

impl Element for f16 {
    avx512! {
        #[inline]
        unsafe fn load(from: *const Self, mask: u32) -> [__m512; 2] {
            let from = from.cast::<i16>();
            // SAFETY: the caller guarantees the elements.
            unsafe {
                [
                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask as __mmask16, from)),
                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((mask >> 16) as __mmask16, from.wrapping_add(16))),
                ]
            }
        }
    }
}

/// A block of one head: keys `[head_dim, BLOCK_SIZE]`, values `[BLOCK_SIZE, head_dim]`.
#[derive(Clone, Copy)]
pub struct KvBlock<'a, T> {
    pub keys: &'a [T],
    pub values: &'a [T],
}

/// The running softmax of some queries (Milakov and Gimelshein, 2018).
pub struct RunningSoftmax<'a> {
    /// `[queries, head_dim]`, multiplied by the attention scale.
    pub queries: &'a [f32],
    /// `[queries, head_dim]`: Σ e^(score - max) * value.
    pub sums: &'a mut [f32],
    /// `[queries]`: the largest scores so far.
    pub max: &'a mut [f32],
    /// `[queries]`: Σ e^(score - max).
    pub weight: &'a mut [f32],
    pub head_dim: usize,
    /// Scores are limited to `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// Updates the softmax of all queries with the tokens `visible` of a block.
///
/// # Panics
/// If the lengths do not match, or if `visible` is empty.
pub fn attend_block<T: Element>(
    _: Avx512,
    softmax: &mut RunningSoftmax<'_>,
    block: KvBlock<'_, T>,
    visible: Range<usize>,
) {
    let (queries, dim) = (softmax.max.len(), softmax.head_dim);
    assert!(
        softmax.queries.len() == queries * dim && softmax.sums.len() == queries * dim,
        "queries of the head's size"
    );
    assert!(softmax.weight.len() == queries, "a weight for each query");
    assert!(visible.end <= BLOCK_SIZE && visible.start < visible.end, "tokens of a block");
    assert!(block.keys.len() == dim * BLOCK_SIZE && block.values.len() == dim * BLOCK_SIZE, "a whole block");
    let mut first = 0;
    while first < queries {
        // SAFETY: the first argument proves that this CPU has the instructions; all lengths were asserted.
        first += unsafe {
            match queries - first {
                MAX_QUERIES.. => attend::<T, MAX_QUERIES>(softmax, first, block, &visible),
                4.. => attend::<T, 4>(softmax, first, block, &visible),
                2.. => attend::<T, 2>(softmax, first, block, &visible),
                _ => attend::<T, 1>(softmax, first, block, &visible),
            }
        };
    }
}

avx512! {
    /// [`attend_block`] for `Q` queries from `first` on; returns `Q`.
    ///
    /// # Safety
    /// `first + Q` must be at most the number of queries, and the lengths must match as [`attend_block`] asserts.
    unsafe fn attend<T: Element, const Q: usize>(
        softmax: &mut RunningSoftmax<'_>,
        first: usize,
        block: KvBlock<'_, T>,
        visible: &Range<usize>,
    ) -> usize {
        let dim = softmax.head_dim;
        // SAFETY: all offsets are within the slices, whose lengths the caller guarantees.
        unsafe {
            let queries = softmax.queries.as_ptr().add(first * dim);
            let keys = block.keys.as_ptr();
            let mut scores = [[_mm512_setzero_ps(); 2]; Q];
            add_products::<T, Q>(&mut scores, u32::MAX, dim, (queries, dim), (keys, BLOCK_SIZE));
            if let Some(cap) = softmax.soft_cap {
                soft_cap(&mut scores, cap);
            }
            let mask = (u32::MAX >> (BLOCK_SIZE - visible.len())) << visible.start;
            let mut weights = [[0.0f32; BLOCK_SIZE]; Q];
            let mut shrink = [0.0f32; Q];
            for q in 0..Q {
                let (max, weight) = (&mut softmax.max[first + q], &mut softmax.weight[first + q]);
                let [low, high] = scores[q];
                let hidden = _mm512_set1_ps(f32::NEG_INFINITY);
                let low = _mm512_mask_mov_ps(hidden, mask as __mmask16, low);
                let high = _mm512_mask_mov_ps(hidden, (mask >> 16) as __mmask16, high);
                let top = _mm512_reduce_max_ps(_mm512_max_ps(low, high)).max(*max);
                let tops = _mm512_set1_ps(top);
                let low = _mm512_maskz_mov_ps(mask as __mmask16, exp(_mm512_sub_ps(low, tops)));
                let high = _mm512_maskz_mov_ps((mask >> 16) as __mmask16, exp(_mm512_sub_ps(high, tops)));
                shrink[q] = crate::sys::simd::exp(*max - top);
                *weight = *weight * shrink[q] + _mm512_reduce_add_ps(_mm512_add_ps(low, high));
                *max = top;
                _mm512_storeu_ps(weights[q].as_mut_ptr(), low);
                _mm512_storeu_ps(weights[q].as_mut_ptr().add(16), high);
            }
            let weights = weights.as_ptr().cast::<f32>().add(visible.start);
            for start in (0..dim).step_by(WIDE) {
                let columns = u32::MAX >> (WIDE - WIDE.min(dim - start));
                let sums = softmax.sums.as_mut_ptr().add(first * dim + start);
                let values = block.values.as_ptr().add(visible.start * dim + start);
                let mut mixed = [[_mm512_setzero_ps(); 2]; Q];
                for q in 0..Q {
                    let [low, high] = f32::load(sums.add(q * dim), columns);
                    let shrink = _mm512_set1_ps(shrink[q]);
                    mixed[q] = [_mm512_mul_ps(low, shrink), _mm512_mul_ps(high, shrink)];
                }
                add_products::<T, Q>(&mut mixed, columns, visible.len(), (weights, BLOCK_SIZE), (values, dim));
                for (q, [low, high]) in mixed.into_iter().enumerate() {
                    let to = sums.add(q * dim);
                    _mm512_mask_storeu_ps(to, columns as __mmask16, low);
                    _mm512_mask_storeu_ps(to.wrapping_add(16), (columns >> 16) as __mmask16, high);
                }
            }
        }
        Q
    }

    /// Computes `out[q] += Σ factors[q, i] * rows[i]` for `count` rows of up to 32 columns, those that are set in `columns`.
    /// Each pointer has the distance of its rows beside it.
    ///
    /// # Safety
    /// `factors` must point to `Q` rows of `count` factors, `rows` to `count` rows of these columns.
    #[inline]
    unsafe fn add_products<T: Element, const Q: usize>(
        out: &mut [[__m512; 2]; Q],
        columns: u32,
        count: usize,
        (factors, factor_stride): (*const f32, usize),
        (rows, row_stride): (*const T, usize),
    ) {
        for i in 0..count {
            // SAFETY: the caller guarantees rows and factors.
            unsafe {
                let [low, high] = T::load(rows.add(i * row_stride), columns);
                for (q, out) in out.iter_mut().enumerate() {
                    let factor = _mm512_set1_ps(*factors.add(q * factor_stride + i));
                    out[0] = _mm512_fmadd_ps(low, factor, out[0]);
                    out[1] = _mm512_fmadd_ps(high, factor, out[1]);
                }
            }
        }
    }

    /// Limits scores to `cap * tanh(score / cap)`, as [`crate::sys::simd::tanh`] computes it.
    #[inline]
    fn soft_cap<const Q: usize>(scores: &mut [[__m512; 2]; Q], cap: f32) {
        let (one, two) = (_mm512_set1_ps(1.0), _mm512_set1_ps(2.0));
        for score in scores.iter_mut().flatten() {
            let power = exp(_mm512_mul_ps(_mm512_div_ps(*score, _mm512_set1_ps(cap)), two));
            let tanh = _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(one, power)));
            *score = _mm512_mul_ps(tanh, _mm512_set1_ps(cap));
        }
    }

    /// Returns e^x, as [`crate::sys::simd::exp`] computes it.
    #[inline]
    fn exp(x: __m512) -> __m512 {
        let set = |value: f32| _mm512_set1_ps(value);
        let x = _mm512_min_ps(_mm512_max_ps(x, set(-87.0)), set(88.0));
        let n = _mm512_roundscale_ps::<0x08>(_mm512_mul_ps(x, set(std::f32::consts::LOG2_E)));
        let r = _mm512_fnmadd_ps(n, set(0.693_359_4), x);
        let r = _mm512_fnmadd_ps(n, set(-2.121_944_4e-4), r);
        let mut p = set(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
            p = _mm512_fmadd_ps(p, r, set(coefficient));
        }
        let y = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, set(1.0)));
        _mm512_scalef_ps(y, n)
    }
}
