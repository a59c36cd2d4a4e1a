//! Unpacks the layouts with blocks of 256 columns (the K-quants).

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::super::block_layout::LINE;
use super::super::block_layout::{Q2K, Q3K, Q4K, Q5K, Q6K};
use super::{
    Header, SuperBlock, high_half, low_half, masked, nibbles, or_masked, separate_scales, shifted,
    six_bit_header, word,
};

impl SuperBlock for Q4K {
    const SCALE_GROUP: usize = 32;

    avx512! {
        #[inline]
        unsafe fn codes<const P: usize>(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { nibbles::<P>(words.add(LINE * (4 + 8 * (P / 2)))) }
        }

        #[inline]
        unsafe fn header(words: *const u8, _scales: *const u8) -> Header {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { six_bit_header(words) }
        }
    }
}

impl SuperBlock for Q5K {
    const SCALE_GROUP: usize = 32;

    avx512! {
        #[inline]
        unsafe fn codes<const P: usize>(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe {
                let mut codes = nibbles::<P>(words.add(LINE * (12 + 8 * (P / 2))));
                let sixteen = _mm512_set1_epi8(16);
                for (j, code) in codes.iter_mut().enumerate() {
                    let bits = word(words, 4 + j);
                    let bit = if P < 4 {
                        _mm512_sll_epi32(bits, _mm_cvtsi32_si128(4 - P as i32))
                    } else {
                        _mm512_srl_epi32(bits, _mm_cvtsi32_si128(P as i32 - 4))
                    };
                    *code = or_masked(*code, bit, sixteen);
                }
                codes
            }
        }

        #[inline]
        unsafe fn header(words: *const u8, _scales: *const u8) -> Header {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe { six_bit_header(words) }
        }
    }
}

impl SuperBlock for Q6K {
    const SCALE_GROUP: usize = 16;

    avx512! {
        #[inline]
        unsafe fn codes<const P: usize>(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe {
                let ql = words.add(LINE * (16 * (P / 4) + 8 * (P % 2)));
                let qh = words.add(LINE * (32 + 8 * (P / 4)));
                // The nibble changes with every second part, the pair of high bits with each.
                let mut codes = if P % 4 < 2 { nibbles::<0>(ql) } else { nibbles::<1>(ql) };
                let high = _mm512_set1_epi8(0x30);
                for (j, code) in codes.iter_mut().enumerate() {
                    let bits = word(qh, j);
                    let bits = match P % 4 {
                        0 => _mm512_slli_epi32::<4>(bits),
                        1 => _mm512_slli_epi32::<2>(bits),
                        2 => bits,
                        _ => _mm512_srli_epi32::<2>(bits),
                    };
                    *code = or_masked(*code, bits, high);
                }
                codes
            }
        }

        #[inline]
        unsafe fn header(words: *const u8, scales: *const u8) -> Header {
            // SAFETY: the caller guarantees the lines of the block and its separate scales.
            unsafe {
                let d = separate_scales(scales);
                let scales = [word(words, 48), word(words, 49), word(words, 50), word(words, 51)];
                // Codes are stored with 32 added.
                Header { d, dmin: _mm512_mul_ps(d, _mm512_set1_ps(32.0)), scales, mins: scales }
            }
        }
    }
}

impl SuperBlock for Q2K {
    const SCALE_GROUP: usize = 16;

    avx512! {
        #[inline]
        unsafe fn codes<const P: usize>(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe {
                let mut codes = [_mm512_setzero_si512(); 8];
                for (j, code) in codes.iter_mut().enumerate() {
                    *code = shifted(word(words, 4 + 8 * (P / 4) + j), 2 * (P % 4) as u32, 0x03);
                }
                codes
            }
        }

        #[inline]
        unsafe fn header(words: *const u8, _scales: *const u8) -> Header {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe {
                let d = word(words, 20);
                let words = [word(words, 0), word(words, 1), word(words, 2), word(words, 3)];
                let (mut scales, mut mins) = (words, words);
                for j in 0..4 {
                    scales[j] = masked(words[j], 0x0f);
                    mins[j] = shifted(words[j], 4, 0x0f);
                }
                Header { d: low_half(d), dmin: high_half(d), scales, mins }
            }
        }
    }
}

impl SuperBlock for Q3K {
    const SCALE_GROUP: usize = 16;

    avx512! {
        #[inline]
        unsafe fn codes<const P: usize>(words: *const u8) -> [__m512i; 8] {
            // SAFETY: the caller guarantees the lines of the block.
            unsafe {
                let mut codes = [_mm512_setzero_si512(); 8];
                let four = _mm512_set1_epi8(4);
                for (j, code) in codes.iter_mut().enumerate() {
                    let low = shifted(word(words, 8 + 8 * (P / 4) + j), 2 * (P % 4) as u32, 0x03);
                    let bits = word(words, j);
                    let bit = if P < 2 {
                        _mm512_sll_epi32(bits, _mm_cvtsi32_si128(2 - P as i32))
                    } else {
                        _mm512_srl_epi32(bits, _mm_cvtsi32_si128(P as i32 - 2))
                    };
                    *code = or_masked(low, bit, four);
                }
                codes
            }
        }

        #[inline]
        unsafe fn header(words: *const u8, scales: *const u8) -> Header {
            // SAFETY: the caller guarantees the lines of the block and its separate scales.
            unsafe {
                let d = separate_scales(scales);
                let (u0, u1, high) = (word(words, 24), word(words, 25), word(words, 26));
                let thirty_two = _mm512_set1_epi8(32);
                let two = _mm512_set1_epi8(0x30);
                let scales = [
                    or_masked(masked(u0, 0x0f), _mm512_slli_epi32::<4>(high), two),
                    or_masked(masked(u1, 0x0f), _mm512_slli_epi32::<2>(high), two),
                    or_masked(shifted(u0, 4, 0x0f), high, two),
                    or_masked(shifted(u1, 4, 0x0f), _mm512_srli_epi32::<2>(high), two),
                ];
                let mut signed = scales;
                for scale in &mut signed {
                    *scale = _mm512_sub_epi8(*scale, thirty_two);
                }
                // Codes are stored with 4 added.
                Header { d, dmin: _mm512_mul_ps(d, _mm512_set1_ps(4.0)), scales: signed, mins: signed }
            }
        }
    }
}
