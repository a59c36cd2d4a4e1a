//! Unpacks the layouts with blocks of 32 columns.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::super::block_layout::LINE;
use super::super::block_layout::{Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use super::{SmallBlock, both_nibbles, high_half, low_half, separate_scales, with_fifth_bits, word};
use crate::matmul::portable::mxfp4::DOUBLED;

impl SmallBlock for Q8_0 {
    const OFFSET: i32 = 128;
    const HAS_MIN: bool = false;

    avx512! {
        #[inline]
        unsafe fn codes(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe {
                let mut codes = [_mm512_setzero_si512(); 8];
                for (j, code) in codes.iter_mut().enumerate() {
                    *code = word(words, j);
                }
                codes
            }
        }

        #[inline]
        unsafe fn scales(_words: *const u8, scales: *const u8) -> (__m512, __m512) {
            // SAFETY: the caller guarantees the lines of the block and its separate scales.
            unsafe { (separate_scales(scales), _mm512_setzero_ps()) }
        }
    }
}

impl SmallBlock for Q4_0 {
    const OFFSET: i32 = 8;
    const HAS_MIN: bool = false;

    avx512! {
        #[inline]
        unsafe fn codes(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { both_nibbles(words) }
        }

        #[inline]
        unsafe fn scales(_words: *const u8, scales: *const u8) -> (__m512, __m512) {
            // SAFETY: the caller guarantees the lines of the block and its separate scales.
            unsafe { (separate_scales(scales), _mm512_setzero_ps()) }
        }
    }
}

impl SmallBlock for Q5_0 {
    const OFFSET: i32 = 16;
    const HAS_MIN: bool = false;

    avx512! {
        #[inline]
        unsafe fn codes(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { with_fifth_bits(both_nibbles(words.add(LINE)), word(words, 0)) }
        }

        #[inline]
        unsafe fn scales(_words: *const u8, scales: *const u8) -> (__m512, __m512) {
            // SAFETY: the caller guarantees the lines of the block and its separate scales.
            unsafe { (separate_scales(scales), _mm512_setzero_ps()) }
        }
    }
}

impl SmallBlock for Q4_1 {
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;

    avx512! {
        #[inline]
        unsafe fn codes(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { both_nibbles(words.add(LINE)) }
        }

        #[inline]
        unsafe fn scales(words: *const u8, _scales: *const u8) -> (__m512, __m512) {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { (low_half(word(words, 0)), high_half(word(words, 0))) }
        }
    }
}

impl SmallBlock for Q5_1 {
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;

    avx512! {
        #[inline]
        unsafe fn codes(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { with_fifth_bits(both_nibbles(words.add(2 * LINE)), word(words, 1)) }
        }

        #[inline]
        unsafe fn scales(words: *const u8, _scales: *const u8) -> (__m512, __m512) {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { (low_half(word(words, 0)), high_half(word(words, 0))) }
        }
    }
}

/// The doubled values of the codes, raised so that the smallest is 0.
const RAISED: [u8; 16] = {
    let mut raised = [0; 16];
    let mut code = 0;
    while code < 16 {
        raised[code] = (DOUBLED[code] + Mxfp4::OFFSET as i8) as u8;
        code += 1;
    }
    raised
};

impl SmallBlock for Mxfp4 {
    const OFFSET: i32 = 12;
    const HAS_MIN: bool = false;

    avx512! {
        #[inline]
        unsafe fn codes(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe {
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(RAISED.as_ptr().cast()));
                let mut codes = both_nibbles(words);
                for code in &mut codes {
                    *code = _mm512_shuffle_epi8(table, *code);
                }
                codes
            }
        }

        #[inline]
        unsafe fn scales(_words: *const u8, scales: *const u8) -> (__m512, __m512) {
            // SAFETY: the caller guarantees the lines of the block and its separate scales.
            unsafe {
                // Half of the block's scale, because the codes stand for doubled values.
                let exponent = _mm512_cvtepu8_epi32(_mm_loadu_si128(scales.cast()));
                let exponent = _mm512_cvtepi32_ps(_mm512_sub_epi32(exponent, _mm512_set1_epi32(128)));
                (_mm512_scalef_ps(_mm512_set1_ps(1.0), exponent), _mm512_setzero_ps())
            }
        }
    }
}
