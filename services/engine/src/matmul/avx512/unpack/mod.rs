//! Unpacks quantized weights into vectors: sixteen rows side by side, one row in each 32-bit lane.
//!
//! Word i of the blocks of sixteen rows is one line (see [`super::repack`]), so one load gives the same four (or eight, or
//! sixteen) columns of sixteen rows. Codes are unpacked to unsigned bytes, 32 columns (a part) at a time: vector j holds
//! columns `4 j ..` of each row. The formats are ggml's (ggml-common.h, ggml-quants.c).

mod small_blocks;
mod super_blocks;

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::block_layout::{BlockLayout, LINE};

/// Columns that are unpacked together.
pub const PART: usize = 32;

/// The scales of a block of sixteen rows. A weight is `d * scale * code - dmin * min`, where scale and min are the bytes of
/// its scale group.
#[derive(Clone, Copy)]
pub struct Header {
    pub d: __m512,
    pub dmin: __m512,
    /// Signed bytes: byte b of vector w belongs to scale group `4 w + b`.
    pub scales: [__m512i; 4],
    /// In the same order.
    pub mins: [__m512i; 4],
}

/// A layout with blocks of 256 columns and integer scales for groups of them: the K-quants.
pub trait SuperBlock: BlockLayout {
    /// Columns that share a scale.
    const SCALE_GROUP: usize;

    /// Returns the codes of part `P`.
    ///
    /// # Safety
    /// `words` must point to the words of a block of sixteen rows; the CPU must have what [`Avx512`](crate::sys::cpu::Avx512)
    /// proves. (Rust allows `#[target_feature]` on the functions of a trait only if they are unsafe.)
    unsafe fn codes<const P: usize>(words: *const u8) -> [__m512i; 8];

    /// Returns the scales of a block.
    ///
    /// # Safety
    /// As for [`SuperBlock::codes`]; `scales` must point to the block's separate scales, if the layout has them.
    unsafe fn header(words: *const u8, scales: *const u8) -> Header;
}

/// A layout with blocks of 32 columns: a weight is `scale * (code - OFFSET) + min`.
pub trait SmallBlock: BlockLayout {
    /// The code of the value 0.
    const OFFSET: i32;
    /// True if a block has a min.
    const HAS_MIN: bool;

    /// Returns the codes of a block.
    ///
    /// # Safety
    /// As for [`SuperBlock::codes`].
    unsafe fn codes(words: *const u8) -> [__m512i; 8];

    /// Returns scale and min of each row.
    ///
    /// # Safety
    /// As for [`SuperBlock::header`].
    unsafe fn scales(words: *const u8, scales: *const u8) -> (__m512, __m512);
}

/// The distance at which weights are prefetched, in bytes. The hardware's prefetcher starts too late at each page.
const AHEAD: usize = 4096;

avx512! {
    /// Prefetches the lines that come [`AHEAD`] after these. A prefetch faults at no address, so none is past the end.
    #[inline]
    pub(super) fn prefetch_ahead(start: *const u8, lines: usize) {
        for line in 0..lines {
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(AHEAD + LINE * line).cast());
        }
    }

    /// Returns word `index` of sixteen rows.
    ///
    /// # Safety
    /// `words` must point to more than `index` lines.
    #[inline]
    unsafe fn word(words: *const u8, index: usize) -> __m512i {
        // SAFETY: the caller guarantees the line.
        unsafe { _mm512_loadu_si512(words.add(LINE * index).cast()) }
    }

    /// Returns the f16 in the low half of each lane.
    #[inline]
    fn low_half(word: __m512i) -> __m512 {
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(word))
    }

    /// Returns the f16 in the high half of each lane.
    #[inline]
    fn high_half(word: __m512i) -> __m512 {
        low_half(_mm512_srli_epi32::<16>(word))
    }

    /// Returns the separate scales of sixteen rows, which are f16.
    ///
    /// # Safety
    /// `scales` must point to sixteen f16.
    #[inline]
    unsafe fn separate_scales(scales: *const u8) -> __m512 {
        // SAFETY: the caller guarantees the scales.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(scales.cast()) })
    }

    /// Returns `word & mask` of each byte.
    #[inline]
    fn masked(word: __m512i, mask: u8) -> __m512i {
        _mm512_and_si512(word, _mm512_set1_epi8(mask as i8))
    }

    /// Returns `word >> count & mask` of each byte; the mask must clear the bits that come from the byte above.
    #[inline]
    fn shifted(word: __m512i, count: u32, mask: u8) -> __m512i {
        masked(_mm512_srl_epi32(word, _mm_cvtsi32_si128(count as i32)), mask)
    }

    /// Returns the low (`P` even) or high nibbles of eight words.
    ///
    /// # Safety
    /// `words` must point to eight lines.
    #[inline]
    unsafe fn nibbles<const P: usize>(words: *const u8) -> [__m512i; 8] {
        let mut codes = [_mm512_setzero_si512(); 8];
        for (j, code) in codes.iter_mut().enumerate() {
            // SAFETY: j is less than 8.
            let word = unsafe { word(words, j) };
            *code = if P.is_multiple_of(2) { masked(word, 0x0f) } else { masked(_mm512_srli_epi32::<4>(word), 0x0f) };
        }
        codes
    }

    /// Returns the low and then the high nibbles of four words.
    ///
    /// # Safety
    /// `words` must point to four lines.
    #[inline]
    unsafe fn both_nibbles(words: *const u8) -> [__m512i; 8] {
        let mut codes = [_mm512_setzero_si512(); 8];
        for j in 0..4 {
            // SAFETY: j is less than 4.
            let word = unsafe { word(words, j) };
            codes[j] = masked(word, 0x0f);
            codes[j + 4] = masked(_mm512_srli_epi32::<4>(word), 0x0f);
        }
        codes
    }

    /// Adds 16 to the codes of vector j where bit j of the byte is set (see `BlockLayout::arrange` of the layout).
    #[inline]
    fn with_fifth_bits(mut codes: [__m512i; 8], bits: __m512i) -> [__m512i; 8] {
        let sixteen = _mm512_set1_epi8(16);
        for (j, code) in codes.iter_mut().enumerate() {
            let bit = if j < 4 {
                _mm512_sll_epi32(bits, _mm_cvtsi32_si128(4 - j as i32))
            } else {
                _mm512_srl_epi32(bits, _mm_cvtsi32_si128(j as i32 - 4))
            };
            *code = or_masked(*code, bit, sixteen);
        }
        codes
    }

    /// Returns `a | b & mask`.
    #[inline]
    fn or_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
        _mm512_ternarylogic_epi32::<0xf8>(a, b, mask)
    }

    /// Returns the signed byte `index` of each lane as a float.
    #[inline]
    pub(super) fn signed_byte(word: __m512i, index: usize) -> __m512 {
        let top = _mm512_sll_epi32(word, _mm_cvtsi32_si128(24 - 8 * index as i32));
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(top))
    }

    /// Returns the header of Q4_K and Q5_K: 6-bit scales and mins in twelve bytes (`get_scale_min_k4`).
    ///
    /// # Safety
    /// `words` must point to four lines.
    #[inline]
    unsafe fn six_bit_header(words: *const u8) -> Header {
        // SAFETY: the caller guarantees the lines.
        let (d, u0, u1, u2) = unsafe { (word(words, 0), word(words, 1), word(words, 2), word(words, 3)) };
        let high = _mm512_set1_epi8(0x30);
        let zero = _mm512_setzero_si512();
        Header {
            d: low_half(d),
            dmin: high_half(d),
            scales: [masked(u0, 0x3f), or_masked(masked(u2, 0x0f), _mm512_srli_epi32::<2>(u0), high), zero, zero],
            mins: [masked(u1, 0x3f), or_masked(shifted(u2, 4, 0x0f), _mm512_srli_epi32::<2>(u1), high), zero, zero],
        }
    }
}
