//! Quantized weights dequantized to tiles of bf16 for the matrix unit: 16 pairs of columns × 16 rows × 2 columns.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::ops::Range;

use super::amx::TILE;
use super::block_layout::LINE;
use super::repack::RowGroup;
use super::unpack::{Header, PART, SmallBlock, SuperBlock, signed_byte};

avx512! {
    /// Writes the tiles of some blocks of 256 columns of a group, in order: one tile for each 32 columns.
    ///
    /// # Panics
    /// If the group does not have these blocks, or `out` is not as long as their tiles.
    pub fn dequantize_super_blocks<L: SuperBlock>(group: RowGroup<'_>, blocks: Range<usize>, out: &mut [u8]) {
        group.check::<L>();
        assert!(blocks.end <= group.blocks, "blocks of the group");
        let (out, rest) = out.as_chunks_mut::<{ 8 * TILE }>();
        assert!(out.len() == blocks.len() && rest.is_empty(), "tiles of the blocks");
        for (block, out) in blocks.zip(out) {
            let (words, scales) = group.block::<L>(block);
            let (out, _) = out.as_chunks_mut::<TILE>();
            // SAFETY: the group has this block, as was asserted.
            unsafe {
                let header = L::header(words, scales);
                dequantize_part::<L, 0>(words, &header, &mut out[0]);
                dequantize_part::<L, 1>(words, &header, &mut out[1]);
                dequantize_part::<L, 2>(words, &header, &mut out[2]);
                dequantize_part::<L, 3>(words, &header, &mut out[3]);
                dequantize_part::<L, 4>(words, &header, &mut out[4]);
                dequantize_part::<L, 5>(words, &header, &mut out[5]);
                dequantize_part::<L, 6>(words, &header, &mut out[6]);
                dequantize_part::<L, 7>(words, &header, &mut out[7]);
            }
        }
    }

    /// As [`dequantize_super_blocks`], for blocks of 32 columns.
    ///
    /// # Panics
    /// If the group does not have these blocks, or `out` is not as long as their tiles.
    pub fn dequantize_small_blocks<L: SmallBlock>(group: RowGroup<'_>, blocks: Range<usize>, out: &mut [u8]) {
        group.check::<L>();
        assert!(blocks.end <= group.blocks, "blocks of the group");
        let (out, rest) = out.as_chunks_mut::<TILE>();
        assert!(out.len() == blocks.len() && rest.is_empty(), "tiles of the blocks");
        for (block, out) in blocks.zip(out) {
            let (words, scales) = group.block::<L>(block);
            // SAFETY: the group has this block, as was asserted.
            let (codes, (d, min)) = unsafe { (L::codes(words), L::scales(words, scales)) };
            let bias = _mm512_fnmadd_ps(d, _mm512_set1_ps(L::OFFSET as f32), min);
            write_tile(&codes, [(d, bias); 2], out);
        }
    }

    /// Writes the tile of part `P` of a block.
    ///
    /// # Safety
    /// `words` must point to a block of layout `L` of sixteen rows.
    #[inline]
    unsafe fn dequantize_part<L: SuperBlock, const P: usize>(words: *const u8, header: &Header, out: &mut [u8; TILE]) {
        let groups = if L::SCALE_GROUP == PART { [P, P] } else { [2 * P, 2 * P + 1] };
        let scales = [scale_and_bias(header, groups[0]), scale_and_bias(header, groups[1])];
        // SAFETY: the caller guarantees the block.
        let codes = unsafe { L::codes::<P>(words) };
        write_tile(&codes, scales, out);
    }

    /// Returns scale and bias of a scale group.
    #[inline]
    fn scale_and_bias(header: &Header, group: usize) -> (__m512, __m512) {
        let scale = _mm512_mul_ps(header.d, signed_byte(header.scales[group / 4], group % 4));
        let min = signed_byte(header.mins[group / 4], group % 4);
        (scale, _mm512_fnmadd_ps(header.dmin, min, _mm512_setzero_ps()))
    }

    /// Writes a tile of `scale * code + bias`. The first pair of scale and bias belongs to the first four vectors of codes.
    #[inline]
    fn write_tile(codes: &[__m512i; 8], scales: [(__m512, __m512); 2], out: &mut [u8; TILE]) {
        let byte = _mm512_set1_epi32(0xff);
        let (lines, _) = out.as_chunks_mut::<LINE>();
        for (j, code) in codes.iter().enumerate() {
            let (scale, bias) = scales[j / 4];
            let first = _mm512_and_si512(*code, byte);
            let second = _mm512_and_si512(_mm512_srli_epi32::<8>(*code), byte);
            let third = _mm512_and_si512(_mm512_srli_epi32::<16>(*code), byte);
            let fourth = _mm512_srli_epi32::<24>(*code);
            let value = |code: __m512i| _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), scale, bias);
            store_line(&mut lines[2 * j], bf16_pair(value(first), value(second)));
            store_line(&mut lines[2 * j + 1], bf16_pair(value(third), value(fourth)));
        }
    }

    /// Stores a vector.
    #[inline]
    pub(super) fn store_line(line: &mut [u8; LINE], value: __m512i) {
        // SAFETY: a line is as long as a vector.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), value) };
    }

    /// Returns two finite floats of each lane as a pair of bf16, rounded to nearest.
    #[inline]
    pub(super) fn bf16_pair(low: __m512, high: __m512) -> __m512i {
        // Adding half of the last kept bit rounds to nearest.
        let half = _mm512_set1_epi32(0x8000);
        let low = _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_castps_si512(low), half));
        let high = _mm512_add_epi32(_mm512_castps_si512(high), half);
        let top = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        _mm512_ternarylogic_epi32::<0xf8>(low, high, top)
    }
}
