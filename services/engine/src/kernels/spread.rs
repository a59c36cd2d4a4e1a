//! Quantized weights widened to tiles of bf16 for the matrix unit: for 16 pairs of columns the pairs of 16 rows.

#[allow(clippy::wildcard_imports)] // the machine's instructions
use std::arch::x86_64::*;
use std::ops::Range;

use super::amx::TILE;
use super::steps::Group;
use super::wide::{Header, PART, ROWS, Simple, Super, byte, vectors};

/// Writes the tiles of some blocks of sixteen rows, in order.
///
/// # Safety
/// As for [`super::steps::of_super`]; `out` has room for a tile for each 32 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub unsafe fn of_super<F: Super>(group: Group, blocks: Range<usize>, out: *mut u8) {
    for (index, block) in blocks.enumerate() {
        // SAFETY: promised by the caller.
        unsafe {
            let words = group.blocks.add(block * F::WORDS * 64);
            let header = F::header(words, group.lone.wrapping_add(block * F::LONE_BYTES * ROWS));
            let out = out.add(index * 8 * TILE);
            part::<F, 0>(words, &header, out);
            part::<F, 1>(words, &header, out);
            part::<F, 2>(words, &header, out);
            part::<F, 3>(words, &header, out);
            part::<F, 4>(words, &header, out);
            part::<F, 5>(words, &header, out);
            part::<F, 6>(words, &header, out);
            part::<F, 7>(words, &header, out);
        }
    }
}

/// As [`of_super`], for types with blocks of 32.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub unsafe fn of_simple<F: Simple>(group: Group, blocks: Range<usize>, out: *mut u8) {
    for (index, block) in blocks.enumerate() {
        // SAFETY: promised by the caller.
        unsafe {
            let words = group.blocks.add(block * F::WORDS * 64);
            let (d, min) = F::scales(words, group.lone.wrapping_add(block * F::LONE_BYTES * ROWS));
            let bias = _mm512_fnmadd_ps(d, _mm512_set1_ps(F::OFFSET as f32), min);
            spread(&F::codes(words), [(d, bias); 2], out.add(index * TILE));
        }
    }
}

/// # Safety
/// As for [`of_super`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn part<F: Super, const P: usize>(words: *const u8, header: &Header, out: *mut u8) {
    // SAFETY: promised by the caller.
    unsafe {
        let groups = if F::GROUP == PART { [P, P] } else { [2 * P, 2 * P + 1] };
        let lines = [line(header, groups[0]), line(header, groups[1])];
        spread(&F::codes::<P>(words), lines, out.add(P * TILE));
    }
}

vectors! {
    /// Scale and bias of a group of columns.
    unsafe fn line(header: &Header, group: usize) -> (__m512, __m512) {
        let scale = _mm512_mul_ps(header.d, byte(header.scales[group / 4], group % 4));
        let min = byte(header.mins[group / 4], group % 4);
        (scale, _mm512_fnmadd_ps(header.dmin, min, _mm512_setzero_ps()))
    }

    /// A tile of `scale * code + bias`; the first four vectors of codes have the first line.
    unsafe fn spread(codes: &[__m512i; 8], lines: [(__m512, __m512); 2], out: *mut u8) {
        let byte = _mm512_set1_epi32(0xff);
        for (j, code) in codes.iter().enumerate() {
            let (scale, bias) = lines[j / 4];
            let first = _mm512_and_si512(*code, byte);
            let second = _mm512_and_si512(_mm512_srli_epi32::<8>(*code), byte);
            let third = _mm512_and_si512(_mm512_srli_epi32::<16>(*code), byte);
            let fourth = _mm512_srli_epi32::<24>(*code);
            let value = |code: __m512i| _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), scale, bias);
            let out = out.add(2 * j * 64);
            _mm512_storeu_si512(out.cast(), pair(value(first), value(second)));
            _mm512_storeu_si512(out.add(64).cast(), pair(value(third), value(fourth)));
        }
    }

    /// Two floats as bf16 beside each other in each lane.
    pub(super) unsafe fn pair(low: __m512, high: __m512) -> __m512i {
        // Half of what is cut off is added first: to nearest. Weights are finite.
        let half = _mm512_set1_epi32(0x8000);
        let low = _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_castps_si512(low), half));
        let high = _mm512_add_epi32(_mm512_castps_si512(high), half);
        let top = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        _mm512_ternarylogic_epi32::<0xf8>(low, high, top)
    }
}
