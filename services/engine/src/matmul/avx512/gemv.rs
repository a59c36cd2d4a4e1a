//! Quantized activations multiplied with sixteen rows of quantized weights: the kernels of decode.
//!
//! Weights are read once for up to eight rows of activations: decode is limited by memory bandwidth, so eight sequences
//! cost little more than one. Integer products are exact, and the float sums of a row are in one order however many rows
//! there are, so a sequence gets the same values alone and in a batch.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::block_layout::{LINE, ROWS};
use super::repack::RowGroup;
use super::unpack::{Header, PART, SmallBlock, SuperBlock, prefetch_ahead, signed_byte};
use crate::matmul::activations::q8::{Q8Block32, Q8Block256};

/// The maximum number of rows of activations per pass over the weights.
pub const MAX_ROWS: usize = 8;

avx512! {
    /// Returns the products `[M, 16]` of `M` rows of activations with a group of weights in blocks of 256 columns. `x` is
    /// `[M, blocks]`.
    ///
    /// # Panics
    /// If the group or `x` does not have the size of its blocks.
    pub fn gemv_super_blocks<L: SuperBlock, const M: usize>(group: RowGroup<'_>, x: &[Q8Block256]) -> [[f32; ROWS]; M] {
        group.check::<L>();
        assert!(x.len() == M * group.blocks, "rows of as many blocks");
        let x = x.as_ptr();
        let mut totals = [_mm512_setzero_ps(); M];
        for block in 0..group.blocks {
            let (words, scales) = group.block::<L>(block);
            // SAFETY: the group and `x` have this block, as was asserted.
            unsafe {
                let header = L::header(words, scales);
                let mut x = [x.add(block); M];
                let mut sums = [_mm512_setzero_ps(); M];
                let mut mins = [_mm512_setzero_ps(); M];
                for i in 0..M {
                    x[i] = x[i].add(i * group.blocks);
                    mins[i] = dot_mins::<L>(&header, &*x[i]);
                }
                dot_part::<L, M, 0>(words, &header, &x, &mut sums);
                dot_part::<L, M, 1>(words, &header, &x, &mut sums);
                dot_part::<L, M, 2>(words, &header, &x, &mut sums);
                dot_part::<L, M, 3>(words, &header, &x, &mut sums);
                dot_part::<L, M, 4>(words, &header, &x, &mut sums);
                dot_part::<L, M, 5>(words, &header, &x, &mut sums);
                dot_part::<L, M, 6>(words, &header, &x, &mut sums);
                dot_part::<L, M, 7>(words, &header, &x, &mut sums);
                for i in 0..M {
                    let sum = _mm512_fmsub_ps(sums[i], header.d, _mm512_mul_ps(mins[i], header.dmin));
                    totals[i] = _mm512_fmadd_ps(sum, _mm512_set1_ps((*x[i]).scale), totals[i]);
                }
            }
        }
        to_arrays(totals)
    }

    /// As [`gemv_super_blocks`], for blocks of 32 columns.
    ///
    /// # Panics
    /// If the group or `x` does not have the size of its blocks.
    pub fn gemv_small_blocks<L: SmallBlock, const M: usize>(group: RowGroup<'_>, x: &[Q8Block32]) -> [[f32; ROWS]; M] {
        group.check::<L>();
        assert!(x.len() == M * group.blocks, "rows of as many blocks");
        let x = x.as_ptr();
        let mut totals = [_mm512_setzero_ps(); M];
        for block in 0..group.blocks {
            let (words, scales) = group.block::<L>(block);
            // SAFETY: the group and `x` have this block, as was asserted.
            unsafe {
                let (d, min) = L::scales(words, scales);
                prefetch_ahead(words, L::WORDS);
                let w = L::codes(words);
                for (i, total) in totals.iter_mut().enumerate() {
                    let x = &*x.add(i * group.blocks + block);
                    let start = _mm512_set1_epi32(x.sum * -L::OFFSET);
                    let low = dot_16(start, &w, 0, x.codes.as_ptr());
                    let high = dot_16(_mm512_setzero_si512(), &w, 4, x.codes.as_ptr());
                    let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(low, high));
                    *total = _mm512_fmadd_ps(dot, _mm512_mul_ps(d, _mm512_set1_ps(x.scale)), *total);
                    if L::HAS_MIN {
                        *total = _mm512_fmadd_ps(min, _mm512_set1_ps(x.scale * x.sum as f32), *total);
                    }
                }
            }
        }
        to_arrays(totals)
    }

    /// Adds `scale * Σ code * x` of 32 columns, part `P` of a block, to the sums.
    ///
    /// # Safety
    /// `words` must point to a block of layout `L` of sixteen rows, and each pointer of `x` to the same block of a row of
    /// activations.
    #[inline]
    unsafe fn dot_part<L: SuperBlock, const M: usize, const P: usize>(
        words: *const u8,
        header: &Header,
        x: &[*const Q8Block256; M],
        sums: &mut [__m512; M],
    ) {
        // SAFETY: the caller guarantees the blocks; a part is 32 of the 256 codes.
        unsafe {
            let lines = P * L::WORDS / 8..(P + 1) * L::WORDS / 8;
            prefetch_ahead(words.wrapping_add(lines.start * LINE), lines.len());
            let w = L::codes::<P>(words);
            if L::SCALE_GROUP == PART {
                let scale = signed_byte(header.scales[P / 4], P % 4);
                for i in 0..M {
                    let codes = (&raw const (*x[i]).codes).cast::<i8>().add(P * PART);
                    let low = dot_16(_mm512_setzero_si512(), &w, 0, codes);
                    let high = dot_16(_mm512_setzero_si512(), &w, 4, codes);
                    sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(low, high)), scale, sums[i]);
                }
            } else {
                let word = header.scales[P / 2];
                let (first, second) = (signed_byte(word, 2 * P % 4), signed_byte(word, 2 * P % 4 + 1));
                for i in 0..M {
                    let codes = (&raw const (*x[i]).codes).cast::<i8>().add(P * PART);
                    let low = dot_16(_mm512_setzero_si512(), &w, 0, codes);
                    let high = dot_16(_mm512_setzero_si512(), &w, 4, codes);
                    sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), first, sums[i]);
                    sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), second, sums[i]);
                }
            }
        }
    }

    /// Returns `start + Σ w[from + j] * codes[4 (from + j) ..]` for j from 0 to 3: 16 columns.
    ///
    /// # Safety
    /// `codes` must point to 32 codes, and `from` must be 0 or 4.
    #[inline]
    unsafe fn dot_16(start: __m512i, w: &[__m512i; 8], from: usize, codes: *const i8) -> __m512i {
        let codes = codes.cast::<[u8; 4]>();
        // SAFETY: `from + j` is less than 8.
        let x = |j: usize| _mm512_set1_epi32(i32::from_le_bytes(unsafe { *codes.add(from + j) }));
        let sum = _mm512_dpbusd_epi32(start, w[from], x(0));
        let sum = _mm512_dpbusd_epi32(sum, w[from + 1], x(1));
        let sum = _mm512_dpbusd_epi32(sum, w[from + 2], x(2));
        _mm512_dpbusd_epi32(sum, w[from + 3], x(3))
    }

    /// Returns the even bytes of each word as two signed i16.
    #[inline]
    fn even_bytes(word: __m512i) -> __m512i {
        _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(word))
    }

    /// Returns the odd bytes of each word as two signed i16.
    #[inline]
    fn odd_bytes(word: __m512i) -> __m512i {
        _mm512_srai_epi16::<8>(word)
    }

    /// Returns `Σ min * (sum of codes)` over the scale groups of a block.
    #[inline]
    fn dot_mins<L: SuperBlock>(header: &Header, x: &Q8Block256) -> __m512 {
        let mut sum = _mm512_setzero_si512();
        for word in 0..256 / L::SCALE_GROUP / 4 {
            let mins = header.mins[word];
            let sums = if L::SCALE_GROUP == PART { &x.sums_of_32[..] } else { &x.sums_of_16[..] };
            sum = _mm512_dpwssd_epi32(sum, even_bytes(mins), _mm512_set1_epi32(sums[2 * word]));
            sum = _mm512_dpwssd_epi32(sum, odd_bytes(mins), _mm512_set1_epi32(sums[2 * word + 1]));
        }
        _mm512_cvtepi32_ps(sum)
    }

    /// Returns vectors as arrays.
    #[inline]
    fn to_arrays<const M: usize>(totals: [__m512; M]) -> [[f32; ROWS]; M] {
        let mut out = [[0.0; ROWS]; M];
        for (out, total) in out.iter_mut().zip(totals) {
            // SAFETY: the array holds sixteen floats.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
        }
        out
    }
}
