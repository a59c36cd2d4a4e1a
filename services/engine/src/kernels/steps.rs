//! Rounded activations met with sixteen rows of quantized weights: the heart of decoding.
//!
//! Weights are read once for up to eight rows of activations, so that memory rules the time and eight streams cost
//! little over one. Integer products are exact and the float sums of a row are in one order however many rows there
//! are: an answer in a batch is the answer alone.

#[allow(clippy::wildcard_imports)] // the machine's instructions
use std::arch::x86_64::*;

use super::rounded::{Block32, Block256};
use super::wide::{Header, PART, ROWS, Simple, Super, ask_ahead, byte, vectors};

/// Rows of activations that weights are read for at once, at most.
pub const TALL: usize = 8;

/// Sixteen rows of weights as they lie in memory.
#[derive(Clone, Copy)]
pub struct Group {
    pub blocks: *const u8,
    /// The lone scales, where the type has them.
    pub lone: *const u8,
    /// Blocks in a row.
    pub count: usize,
}

/// The products of `M` rows of activations with sixteen rows of weights.
///
/// # Safety
/// The group is of type `F` and whole, `x` points to `M` rows of as many blocks, and [`super::vectors`] has said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub unsafe fn of_super<F: Super, const M: usize>(group: Group, x: *const Block256) -> [[f32; ROWS]; M] {
    let mut totals = [_mm512_setzero_ps(); M];
    for block in 0..group.count {
        // SAFETY: the block and the rows' blocks are there, by the caller's promise.
        unsafe {
            let words = group.blocks.add(block * F::WORDS * 64);
            let header = F::header(words, group.lone.wrapping_add(block * F::LONE_BYTES * ROWS));
            let mut x = [x.add(block); M];
            let mut sums = [_mm512_setzero_ps(); M];
            let mut mins = [_mm512_setzero_ps(); M];
            for i in 0..M {
                x[i] = x[i].add(i * group.count);
                mins[i] = of_mins::<F>(&header, x[i]);
            }
            part::<F, M, 0>(words, &header, &x, &mut sums);
            part::<F, M, 1>(words, &header, &x, &mut sums);
            part::<F, M, 2>(words, &header, &x, &mut sums);
            part::<F, M, 3>(words, &header, &x, &mut sums);
            part::<F, M, 4>(words, &header, &x, &mut sums);
            part::<F, M, 5>(words, &header, &x, &mut sums);
            part::<F, M, 6>(words, &header, &x, &mut sums);
            part::<F, M, 7>(words, &header, &x, &mut sums);
            for i in 0..M {
                let sum = _mm512_fmsub_ps(sums[i], header.d, _mm512_mul_ps(mins[i], header.dmin));
                totals[i] = _mm512_fmadd_ps(sum, _mm512_set1_ps((*x[i]).scale), totals[i]);
            }
        }
    }
    // SAFETY: sixteen lanes are sixteen floats.
    unsafe { stored(totals) }
}

/// As [`of_super`], for types with blocks of 32.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub unsafe fn of_simple<F: Simple, const M: usize>(group: Group, x: *const Block32) -> [[f32; ROWS]; M] {
    let mut totals = [_mm512_setzero_ps(); M];
    for block in 0..group.count {
        // SAFETY: the block and the rows' blocks are there, by the caller's promise.
        unsafe {
            let words = group.blocks.add(block * F::WORDS * 64);
            let (d, min) = F::scales(words, group.lone.wrapping_add(block * F::LONE_BYTES * ROWS));
            ask_ahead(words, 0..F::WORDS);
            let w = F::codes(words);
            for (i, total) in totals.iter_mut().enumerate() {
                let x = x.add(i * group.count + block);
                let codes = (&raw const (*x).codes).cast::<i8>();
                let (scale, sum) = ((*x).scale, (*x).sum);
                let start = _mm512_set1_epi32(sum * -F::OFFSET);
                let low = four(start, &w, 0, codes);
                let high = four(_mm512_setzero_si512(), &w, 4, codes);
                let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(low, high));
                *total = _mm512_fmadd_ps(dot, _mm512_mul_ps(d, _mm512_set1_ps(scale)), *total);
                if F::HAS_MIN {
                    *total = _mm512_fmadd_ps(min, _mm512_set1_ps(scale * sum as f32), *total);
                }
            }
        }
    }
    // SAFETY: sixteen lanes are sixteen floats.
    unsafe { stored(totals) }
}

/// 32 columns of a block: `sums += scale * Σ code * x`.
///
/// # Safety
/// As for [`of_super`]; `x` points to the block of each row of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn part<F: Super, const M: usize, const P: usize>(
    words: *const u8,
    header: &Header,
    x: &[*const Block256; M],
    sums: &mut [__m512; M],
) {
    // SAFETY: promised by the caller.
    unsafe {
        ask_ahead(words, P * F::WORDS / 8..(P + 1) * F::WORDS / 8);
        let w = F::codes::<P>(words);
        if F::GROUP == PART {
            let scale = byte(header.scales[P / 4], P % 4);
            for i in 0..M {
                let codes = (&raw const (*x[i]).codes).cast::<i8>().add(P * PART);
                let low = four(_mm512_setzero_si512(), &w, 0, codes);
                let high = four(_mm512_setzero_si512(), &w, 4, codes);
                sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(low, high)), scale, sums[i]);
            }
        } else {
            let word = header.scales[P / 2];
            let (first, second) = (byte(word, 2 * P % 4), byte(word, 2 * P % 4 + 1));
            for i in 0..M {
                let codes = (&raw const (*x[i]).codes).cast::<i8>().add(P * PART);
                let low = four(_mm512_setzero_si512(), &w, 0, codes);
                let high = four(_mm512_setzero_si512(), &w, 4, codes);
                sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), first, sums[i]);
                sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), second, sums[i]);
            }
        }
    }
}

vectors! {
    /// `start + Σ w[from + j] * codes[4 (from + j) ..]` of four words.
    unsafe fn four(start: __m512i, w: &[__m512i; 8], from: usize, codes: *const i8) -> __m512i {
        let x = codes.cast::<[u8; 4]>().add(from);
        let x = |j: usize| _mm512_set1_epi32(i32::from_le_bytes(*x.add(j)));
        let sum = _mm512_dpbusd_epi32(start, w[from], x(0));
        let sum = _mm512_dpbusd_epi32(sum, w[from + 1], x(1));
        let sum = _mm512_dpbusd_epi32(sum, w[from + 2], x(2));
        _mm512_dpbusd_epi32(sum, w[from + 3], x(3))
    }

    unsafe fn even_bytes(word: __m512i) -> __m512i {
        _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(word))
    }

    unsafe fn odd_bytes(word: __m512i) -> __m512i {
        _mm512_srai_epi16::<8>(word)
    }
}

/// `Σ min * sum of codes` over the groups of a block.
///
/// # Safety
/// As for [`of_super`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn of_mins<F: Super>(header: &Header, x: *const Block256) -> __m512 {
    let mut sum = _mm512_setzero_si512();
    for word in 0..256 / F::GROUP / 4 {
        let mins = header.mins[word];
        // SAFETY: two words of sums for each word of mins.
        unsafe {
            let pairs = if F::GROUP == PART {
                &raw const (*x).wide[2 * word]
            } else {
                &raw const (*x).narrow[2 * word]
            };
            sum = _mm512_dpwssd_epi32(sum, even_bytes(mins), _mm512_set1_epi32(*pairs));
            sum = _mm512_dpwssd_epi32(sum, odd_bytes(mins), _mm512_set1_epi32(*pairs.add(1)));
        }
    }
    _mm512_cvtepi32_ps(sum)
}

/// # Safety
/// The machine has the instructions.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn stored<const M: usize>(totals: [__m512; M]) -> [[f32; ROWS]; M] {
    let mut out = [[0.0; ROWS]; M];
    for (out, total) in out.iter_mut().zip(totals) {
        // SAFETY: sixteen floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
    }
    out
}
