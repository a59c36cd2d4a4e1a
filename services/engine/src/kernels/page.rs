//! Queries met with a page of keys and values on AVX-512: the heart of attention.
//!
//! Up to eight queries read a page together. What one query gets does not depend on the others, nor on how many
//! there are.

#[allow(clippy::wildcard_imports)] // the machine's instructions
use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;

use crate::pages::PAGE;

/// Queries that read a page together, at most.
const TALL: usize = 8;
/// Numbers that two vectors hold.
const WIDE: usize = 32;

const _: () = assert!(PAGE == WIDE, "the scores of a page are two vectors");

/// An element of the cache.
pub trait Element: Copy {
    /// 32 numbers, or those of them that `mask` has; zeros for the others.
    ///
    /// # Safety
    /// They are there; [`super::vectors`] has said yes.
    unsafe fn load(from: *const Self, mask: u32) -> [__m512; 2];
}

impl Element for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn load(from: *const Self, mask: u32) -> [__m512; 2] {
        // SAFETY: promised by the caller.
        unsafe {
            [
                _mm512_maskz_loadu_ps(mask as __mmask16, from),
                _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, from.wrapping_add(16)),
            ]
        }
    }
}

impl Element for f16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn load(from: *const Self, mask: u32) -> [__m512; 2] {
        let from = from.cast::<i16>();
        // SAFETY: promised by the caller.
        unsafe {
            [
                _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask as __mmask16, from)),
                _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((mask >> 16) as __mmask16, from.wrapping_add(16))),
            ]
        }
    }
}

/// A page of one head: keys `[head_dim, PAGE]`, values `[PAGE, head_dim]`.
#[derive(Clone, Copy)]
pub struct Page<'a, T> {
    pub keys: &'a [T],
    pub values: &'a [T],
}

/// The running softmax of some queries, all slices as long as there are queries.
pub struct Running<'a> {
    /// `[queries, head_dim]`, scaled.
    pub queries: &'a [f32],
    /// `[queries, head_dim]`: sums of values weighted by e^(score - most).
    pub sums: &'a mut [f32],
    /// Largest scores so far.
    pub most: &'a mut [f32],
    /// Sums of weights so far.
    pub weight: &'a mut [f32],
    pub head_dim: usize,
    pub soft_cap: Option<f32>,
}

/// Lets all queries see the tokens `seen` of a page, which is not empty.
///
/// # Safety
/// [`super::vectors`] has said yes.
pub unsafe fn absorb<T: Element>(running: &mut Running<'_>, page: Page<'_, T>, seen: Range<usize>) {
    let (queries, dim) = (running.most.len(), running.head_dim);
    assert!(
        running.queries.len() == queries * dim && running.sums.len() == queries * dim,
        "queries of a size"
    );
    assert!(running.weight.len() == queries && seen.end <= PAGE && seen.start < seen.end, "tokens of a page");
    assert!(page.keys.len() == dim * PAGE && page.values.len() == dim * PAGE, "a whole page");
    let mut first = 0;
    while first < queries {
        // SAFETY: the queries are there, and so is the page.
        first += unsafe {
            match queries - first {
                TALL.. => some::<T, TALL>(running, first, page, &seen),
                4.. => some::<T, 4>(running, first, page, &seen),
                2.. => some::<T, 2>(running, first, page, &seen),
                _ => some::<T, 1>(running, first, page, &seen),
            }
        };
    }
}

/// [`absorb`] for `Q` queries; gives `Q`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn some<T: Element, const Q: usize>(
    running: &mut Running<'_>,
    first: usize,
    page: Page<'_, T>,
    seen: &Range<usize>,
) -> usize {
    let dim = running.head_dim;
    // SAFETY: all within the slices, whose lengths were checked.
    unsafe {
        let queries = running.queries.as_ptr().add(first * dim);
        let keys = page.keys.as_ptr();
        let mut scores = [[_mm512_setzero_ps(); 2]; Q];
        mix::<T, Q>(&mut scores, u32::MAX, dim, (queries, dim), (keys, PAGE));
        if let Some(cap) = running.soft_cap {
            bend(&mut scores, cap);
        }
        let mask = (u32::MAX >> (PAGE - seen.len())) << seen.start;
        let mut weights = [[0.0f32; PAGE]; Q];
        let mut shrink = [0.0f32; Q];
        for q in 0..Q {
            let (most, weight) = (&mut running.most[first + q], &mut running.weight[first + q]);
            let [low, high] = scores[q];
            let hidden = _mm512_set1_ps(f32::NEG_INFINITY);
            let low = _mm512_mask_mov_ps(hidden, mask as __mmask16, low);
            let high = _mm512_mask_mov_ps(hidden, (mask >> 16) as __mmask16, high);
            let top = _mm512_reduce_max_ps(_mm512_max_ps(low, high)).max(*most);
            let tops = _mm512_set1_ps(top);
            let low = _mm512_maskz_mov_ps(mask as __mmask16, exp(_mm512_sub_ps(low, tops)));
            let high = _mm512_maskz_mov_ps((mask >> 16) as __mmask16, exp(_mm512_sub_ps(high, tops)));
            shrink[q] = crate::vector::exp(*most - top);
            *weight = *weight * shrink[q] + _mm512_reduce_add_ps(_mm512_add_ps(low, high));
            *most = top;
            _mm512_storeu_ps(weights[q].as_mut_ptr(), low);
            _mm512_storeu_ps(weights[q].as_mut_ptr().add(16), high);
        }
        let weights = weights.as_ptr().cast::<f32>().add(seen.start);
        for start in (0..dim).step_by(WIDE) {
            let columns = u32::MAX >> (WIDE - WIDE.min(dim - start));
            let sums = running.sums.as_mut_ptr().add(first * dim + start);
            let values = page.values.as_ptr().add(seen.start * dim + start);
            let mut mixed = [[_mm512_setzero_ps(); 2]; Q];
            for q in 0..Q {
                let [low, high] = f32::load(sums.add(q * dim), columns);
                let shrink = _mm512_set1_ps(shrink[q]);
                mixed[q] = [_mm512_mul_ps(low, shrink), _mm512_mul_ps(high, shrink)];
            }
            mix::<T, Q>(&mut mixed, columns, seen.len(), (weights, PAGE), (values, dim));
            for (q, [low, high]) in mixed.into_iter().enumerate() {
                let to = sums.add(q * dim);
                _mm512_mask_storeu_ps(to, columns as __mmask16, low);
                _mm512_mask_storeu_ps(to.wrapping_add(16), (columns >> 16) as __mmask16, high);
            }
        }
    }
    Q
}

/// `out[q] += Σ factors[q, i] * rows[i]` for `count` rows of up to 32 columns; beside each pointer the distance of its
/// rows.
///
/// # Safety
/// The rows and factors are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn mix<T: Element, const Q: usize>(
    out: &mut [[__m512; 2]; Q],
    columns: u32,
    count: usize,
    (factors, factors_apart): (*const f32, usize),
    (rows, rows_apart): (*const T, usize),
) {
    for i in 0..count {
        // SAFETY: promised by the caller.
        unsafe {
            let [low, high] = T::load(rows.add(i * rows_apart), columns);
            for (q, out) in out.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*factors.add(q * factors_apart + i));
                out[0] = _mm512_fmadd_ps(low, factor, out[0]);
                out[1] = _mm512_fmadd_ps(high, factor, out[1]);
            }
        }
    }
}

/// `cap * tanh(score / cap)`, as [`crate::vector::tanh`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn bend<const Q: usize>(scores: &mut [[__m512; 2]; Q], cap: f32) {
    let (one, two) = (_mm512_set1_ps(1.0), _mm512_set1_ps(2.0));
    for score in scores.iter_mut().flatten() {
        let power = exp(_mm512_mul_ps(_mm512_div_ps(*score, _mm512_set1_ps(cap)), two));
        let tanh = _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(one, power)));
        *score = _mm512_mul_ps(tanh, _mm512_set1_ps(cap));
    }
}

/// As [`crate::vector::exp`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
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
