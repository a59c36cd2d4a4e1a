//! The quantized types as AVX-512 sees them: sixteen rows side by side, one row in each 32-bit lane.
//!
//! Word i of sixteen rows' blocks lies together (see [`super::interleaved`]), so that one load gives the same four
//! (or eight, or sixteen) columns of sixteen rows. Codes come out as unsigned bytes, 32 columns (a part) at a time:
//! vector j holds columns `4 j ..` of each row. The formats are ggml's (ggml-common.h, ggml-quants.c).

#[allow(clippy::wildcard_imports)] // the machine's instructions
use std::arch::x86_64::*;
use std::ops::Range;

use super::format::{Layout, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::mxfp4::DOUBLED;

/// Rows side by side.
pub const ROWS: usize = 16;
/// Columns that are taken apart together.
pub const PART: usize = 32;

/// What the parts of a block of sixteen rows share: a weight is `d * scale * code - dmin * min`, scale and min the
/// bytes of its group of columns.
#[derive(Clone, Copy)]
pub struct Header {
    pub d: __m512,
    pub dmin: __m512,
    /// Signed; byte b of vector w is of group `4 w + b`.
    pub scales: [__m512i; 4],
    pub mins: [__m512i; 4],
}

/// A type with blocks of 256 columns and integer scales for groups of them.
pub trait Super: Layout {
    /// Columns that share a scale.
    const GROUP: usize;

    /// The codes of part `P`.
    ///
    /// # Safety
    /// `block` points to a block of sixteen rows; the machine has what [`super::Machine::vnni`] says.
    unsafe fn codes<const P: usize>(block: *const u8) -> [__m512i; 8];

    /// # Safety
    /// As above; `lone` points to the lone scales of sixteen rows.
    unsafe fn header(block: *const u8, lone: *const u8) -> Header;
}

/// A type with blocks of 32 columns: a weight is `scale * (code - OFFSET) + min`.
pub trait Simple: Layout {
    const OFFSET: i32;
    const HAS_MIN: bool;

    /// # Safety
    /// As for [`Super::codes`].
    unsafe fn codes(block: *const u8) -> [__m512i; 8];

    /// Scale and min of each row.
    ///
    /// # Safety
    /// As for [`Super::header`].
    unsafe fn scales(block: *const u8, lone: *const u8) -> (__m512, __m512);
}

/// The functions of a trait that run where the machine was asked.
macro_rules! vectors {
    ($($(#[$meta:meta])* $vis:vis unsafe fn $name:ident $(<const $p:ident: usize>)? ($($args:tt)*) $(-> $out:ty)? $body:block)*) => { $(
        $(#[$meta])*
        #[inline]
        #[allow(unused_unsafe)] // some only compute
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        $vis unsafe fn $name $(<const $p: usize>)? ($($args)*) $(-> $out)? {
            // SAFETY: promised by the caller.
            unsafe { $body }
        }
    )* };
}
pub(super) use vectors;

/// How far before their use weights are asked for, in bytes: what the machine asks for by itself comes late.
const AHEAD: usize = 4096;

vectors! {
    /// Asks for the weights that come [`AHEAD`] after these lines of 64 bytes; past the last ones nothing happens.
    pub(super) unsafe fn ask_ahead(start: *const u8, lines: Range<usize>) {
        for line in lines {
            _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(AHEAD + 64 * line).cast());
        }
    }

    /// Word `index` of sixteen rows.
    unsafe fn word(block: *const u8, index: usize) -> __m512i {
        _mm512_loadu_si512(block.add(64 * index).cast())
    }

    /// The f16 in the low half of each lane.
    unsafe fn low_half(word: __m512i) -> __m512 {
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(word))
    }

    /// The f16 in the high half of each lane.
    unsafe fn high_half(word: __m512i) -> __m512 {
        low_half(_mm512_srli_epi32::<16>(word))
    }

    unsafe fn lone_half(lone: *const u8) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(lone.cast()))
    }

    /// `word & mask` in each byte.
    unsafe fn masked(word: __m512i, mask: u8) -> __m512i {
        _mm512_and_si512(word, _mm512_set1_epi8(mask as i8))
    }

    /// `word >> count & mask` in each byte; the mask drops what comes from the byte above.
    unsafe fn shifted(word: __m512i, count: u32, mask: u8) -> __m512i {
        masked(_mm512_srl_epi32(word, _mm_cvtsi32_si128(count as i32)), mask)
    }

    /// The low (`P` even) or high nibbles of eight words.
    unsafe fn nibbles<const P: usize>(words: *const u8) -> [__m512i; 8] {
        let mut codes = [_mm512_setzero_si512(); 8];
        for (j, code) in codes.iter_mut().enumerate() {
            let word = word(words, j);
            *code = if P.is_multiple_of(2) { masked(word, 0x0f) } else { masked(_mm512_srli_epi32::<4>(word), 0x0f) };
        }
        codes
    }

    /// The low and then the high nibbles of four words.
    unsafe fn both_nibbles(words: *const u8) -> [__m512i; 8] {
        let mut codes = [_mm512_setzero_si512(); 8];
        for j in 0..4 {
            let word = word(words, j);
            codes[j] = masked(word, 0x0f);
            codes[j + 4] = masked(_mm512_srli_epi32::<4>(word), 0x0f);
        }
        codes
    }

    /// Adds 16 where bit `j` of each byte (see `Layout::arrange` of the type) is set.
    unsafe fn with_fifth_bits(mut codes: [__m512i; 8], bits: __m512i) -> [__m512i; 8] {
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

    /// `a | b & mask`.
    unsafe fn or_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i {
        _mm512_ternarylogic_epi32::<0xf8>(a, b, mask)
    }

    /// A signed byte of each lane as a float.
    pub(super) unsafe fn byte(word: __m512i, index: usize) -> __m512 {
        let top = _mm512_sll_epi32(word, _mm_cvtsi32_si128(24 - 8 * index as i32));
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(top))
    }

    /// The header of Q4_K and Q5_K: 6-bit scales and mins in twelve bytes (get_scale_min_k4).
    unsafe fn six_bit_header(block: *const u8) -> Header {
        let (d, u0, u1, u2) = (word(block, 0), word(block, 1), word(block, 2), word(block, 3));
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

impl Super for Q4K {
    const GROUP: usize = 32;

    vectors! {
        unsafe fn codes<const P: usize>(block: *const u8) -> [__m512i; 8] {
            nibbles::<P>(block.add(64 * (4 + 8 * (P / 2))))
        }

        unsafe fn header(block: *const u8, _lone: *const u8) -> Header {
            six_bit_header(block)
        }
    }
}

impl Super for Q5K {
    const GROUP: usize = 32;

    vectors! {
        unsafe fn codes<const P: usize>(block: *const u8) -> [__m512i; 8] {
            let mut codes = nibbles::<P>(block.add(64 * (12 + 8 * (P / 2))));
            let sixteen = _mm512_set1_epi8(16);
            for (j, code) in codes.iter_mut().enumerate() {
                let bits = word(block, 4 + j);
                let bit = if P < 4 {
                    _mm512_sll_epi32(bits, _mm_cvtsi32_si128(4 - P as i32))
                } else {
                    _mm512_srl_epi32(bits, _mm_cvtsi32_si128(P as i32 - 4))
                };
                *code = or_masked(*code, bit, sixteen);
            }
            codes
        }

        unsafe fn header(block: *const u8, _lone: *const u8) -> Header {
            six_bit_header(block)
        }
    }
}

impl Super for Q6K {
    const GROUP: usize = 16;

    vectors! {
        unsafe fn codes<const P: usize>(block: *const u8) -> [__m512i; 8] {
            let ql = block.add(64 * (16 * (P / 4) + 8 * (P % 2)));
            let qh = block.add(64 * (32 + 8 * (P / 4)));
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

        unsafe fn header(block: *const u8, lone: *const u8) -> Header {
            let scales = [word(block, 48), word(block, 49), word(block, 50), word(block, 51)];
            let d = lone_half(lone);
            // Codes are stored with 32 added.
            Header { d, dmin: _mm512_mul_ps(d, _mm512_set1_ps(32.0)), scales, mins: scales }
        }
    }
}

impl Super for Q2K {
    const GROUP: usize = 16;

    vectors! {
        unsafe fn codes<const P: usize>(block: *const u8) -> [__m512i; 8] {
            let mut codes = [_mm512_setzero_si512(); 8];
            for (j, code) in codes.iter_mut().enumerate() {
                *code = shifted(word(block, 4 + 8 * (P / 4) + j), 2 * (P % 4) as u32, 0x03);
            }
            codes
        }

        unsafe fn header(block: *const u8, _lone: *const u8) -> Header {
            let d = word(block, 20);
            let words = [word(block, 0), word(block, 1), word(block, 2), word(block, 3)];
            let (mut scales, mut mins) = (words, words);
            for j in 0..4 {
                scales[j] = masked(words[j], 0x0f);
                mins[j] = shifted(words[j], 4, 0x0f);
            }
            Header { d: low_half(d), dmin: high_half(d), scales, mins }
        }
    }
}

impl Super for Q3K {
    const GROUP: usize = 16;

    vectors! {
        unsafe fn codes<const P: usize>(block: *const u8) -> [__m512i; 8] {
            let mut codes = [_mm512_setzero_si512(); 8];
            let four = _mm512_set1_epi8(4);
            for (j, code) in codes.iter_mut().enumerate() {
                let low = shifted(word(block, 8 + 8 * (P / 4) + j), 2 * (P % 4) as u32, 0x03);
                let bits = word(block, j);
                let bit = if P < 2 {
                    _mm512_sll_epi32(bits, _mm_cvtsi32_si128(2 - P as i32))
                } else {
                    _mm512_srl_epi32(bits, _mm_cvtsi32_si128(P as i32 - 2))
                };
                *code = or_masked(low, bit, four);
            }
            codes
        }

        unsafe fn header(block: *const u8, lone: *const u8) -> Header {
            let (u0, u1, high) = (word(block, 24), word(block, 25), word(block, 26));
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
            let d = lone_half(lone);
            // Codes are stored with 4 added.
            Header { d, dmin: _mm512_mul_ps(d, _mm512_set1_ps(4.0)), scales: signed, mins: signed }
        }
    }
}

impl Simple for Q8_0 {
    const OFFSET: i32 = 128;
    const HAS_MIN: bool = false;

    vectors! {
        unsafe fn codes(block: *const u8) -> [__m512i; 8] {
            let mut codes = [_mm512_setzero_si512(); 8];
            for (j, code) in codes.iter_mut().enumerate() {
                *code = word(block, j);
            }
            codes
        }

        unsafe fn scales(_block: *const u8, lone: *const u8) -> (__m512, __m512) {
            (lone_half(lone), _mm512_setzero_ps())
        }
    }
}

impl Simple for Q4_0 {
    const OFFSET: i32 = 8;
    const HAS_MIN: bool = false;

    vectors! {
        unsafe fn codes(block: *const u8) -> [__m512i; 8] {
            both_nibbles(block)
        }

        unsafe fn scales(_block: *const u8, lone: *const u8) -> (__m512, __m512) {
            (lone_half(lone), _mm512_setzero_ps())
        }
    }
}

impl Simple for Q5_0 {
    const OFFSET: i32 = 16;
    const HAS_MIN: bool = false;

    vectors! {
        unsafe fn codes(block: *const u8) -> [__m512i; 8] {
            with_fifth_bits(both_nibbles(block.add(64)), word(block, 0))
        }

        unsafe fn scales(_block: *const u8, lone: *const u8) -> (__m512, __m512) {
            (lone_half(lone), _mm512_setzero_ps())
        }
    }
}

impl Simple for Q4_1 {
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;

    vectors! {
        unsafe fn codes(block: *const u8) -> [__m512i; 8] {
            both_nibbles(block.add(64))
        }

        unsafe fn scales(block: *const u8, _lone: *const u8) -> (__m512, __m512) {
            (low_half(word(block, 0)), high_half(word(block, 0)))
        }
    }
}

impl Simple for Q5_1 {
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;

    vectors! {
        unsafe fn codes(block: *const u8) -> [__m512i; 8] {
            with_fifth_bits(both_nibbles(block.add(128)), word(block, 1))
        }

        unsafe fn scales(block: *const u8, _lone: *const u8) -> (__m512, __m512) {
            (low_half(word(block, 0)), high_half(word(block, 0)))
        }
    }
}

/// The doubled values from 0 on.
const RAISED: [u8; 16] = {
    let mut raised = [0; 16];
    let mut code = 0;
    while code < 16 {
        raised[code] = (DOUBLED[code] + Mxfp4::OFFSET as i8) as u8;
        code += 1;
    }
    raised
};

impl Simple for Mxfp4 {
    const OFFSET: i32 = 12;
    const HAS_MIN: bool = false;

    vectors! {
        unsafe fn codes(block: *const u8) -> [__m512i; 8] {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(RAISED.as_ptr().cast()));
            let mut codes = both_nibbles(block);
            for code in &mut codes {
                *code = _mm512_shuffle_epi8(table, *code);
            }
            codes
        }

        unsafe fn scales(_block: *const u8, lone: *const u8) -> (__m512, __m512) {
            // Half of what the byte says, for codes are doubled.
            let exponent = _mm512_cvtepu8_epi32(_mm_loadu_si128(lone.cast()));
            let exponent = _mm512_cvtepi32_ps(_mm512_sub_epi32(exponent, _mm512_set1_epi32(128)));
            (_mm512_scalef_ps(_mm512_set1_ps(1.0), exponent), _mm512_setzero_ps())
        }
    }
}
