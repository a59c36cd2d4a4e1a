//! Packs levels, scales and factors into the bytes of ggml's blocks, bit for bit.

use half::f16;

/// Packs one block of Q8_0: 2 bytes of `d`, then 32 signed bytes.
#[inline(always)]
pub(super) fn q8_0(d: f16, levels: &[i8; 32], out: &mut [u8]) {
    out[..2].copy_from_slice(&d.to_le_bytes());
    for (byte, level) in out[2..34].iter_mut().zip(levels) {
        *byte = *level as u8;
    }
}

/// Packs one block of Q4_0: `d`, then 16 bytes whose low nibble is element `j` and whose high one is element `j + 16`.
#[inline(always)]
pub(super) fn q4_0(d: f16, levels: &[u8], out: &mut [u8]) {
    out[..2].copy_from_slice(&d.to_le_bytes());
    for j in 0..16 {
        out[2 + j] = levels[j] | (levels[j + 16] << 4);
    }
}

/// Packs one block of Q5_0: `d`, the 32 fifth bits, then the nibbles as in Q4_0.
#[inline(always)]
pub(super) fn q5_0(d: f16, levels: &[u8], out: &mut [u8]) {
    let fifth = (0..32).fold(0_u32, |bits, j| bits | (u32::from(levels[j] >> 4) << j));
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..6].copy_from_slice(&fifth.to_le_bytes());
    for j in 0..16 {
        out[6 + j] = (levels[j] & 15) | ((levels[j + 16] & 15) << 4);
    }
}

/// The factors of a super-block with minimums.
pub(super) struct Factors {
    pub d: f16,
    pub dmin: f16,
}

/// Packs one block of Q2_K: 16 bytes of (scale, minimum) nibbles, 64 of levels, the factors.
#[inline(always)]
pub(super) fn q2_k(
    factors: &Factors,
    scales: &[u8; 16],
    mins: &[u8; 16],
    levels: &[u8; 256],
    out: &mut [u8],
) {
    for j in 0..16 {
        out[j] = scales[j] | (mins[j] << 4);
    }
    bit_pairs(levels, &mut out[16..80]);
    out[80..82].copy_from_slice(&factors.d.to_le_bytes());
    out[82..84].copy_from_slice(&factors.dmin.to_le_bytes());
}

/// Packs one block of Q3_K: 32 bytes of third bits, 64 of low bit pairs, 12 of scales (6 bits, from 0), the factor.
#[inline(always)]
pub(super) fn q3_k(d: f16, scales: &[i8; 16], levels: &[u8; 256], out: &mut [u8]) {
    for j in 0..32 {
        out[j] = (0..8).fold(0, |bits, part| bits | ((levels[part * 32 + j] >> 2) << part));
    }
    bit_pairs(levels, &mut out[32..96]);
    let unsigned: [u8; 16] = std::array::from_fn(|j| (scales[j] + 32) as u8);
    for j in 0..8 {
        out[96 + j] = (unsigned[j] & 15) | ((unsigned[j + 8] & 15) << 4);
    }
    for j in 0..4 {
        out[104 + j] = (0..4).fold(0, |bits, part| bits | ((unsigned[part * 4 + j] >> 4) << (2 * part)));
    }
    out[108..110].copy_from_slice(&d.to_le_bytes());
}

/// Packs one block of Q4_K: the factors, 12 bytes of scales and minimums, 128 of nibbles.
#[inline(always)]
pub(super) fn q4_k(factors: &Factors, scales: &[u8; 8], mins: &[u8; 8], levels: &[u8; 256], out: &mut [u8]) {
    head(factors, scales, mins, out);
    nibbles(levels, &mut out[16..144]);
}

/// Packs one block of Q5_K: as Q4_K, with 32 bytes of fifth bits before the nibbles.
#[inline(always)]
pub(super) fn q5_k(factors: &Factors, scales: &[u8; 8], mins: &[u8; 8], levels: &[u8; 256], out: &mut [u8]) {
    head(factors, scales, mins, out);
    for j in 0..32 {
        out[16 + j] = (0..8).fold(0, |bits, part| bits | ((levels[part * 32 + j] >> 4) << part));
    }
    nibbles(levels, &mut out[48..176]);
}

/// Packs one block of Q6_K: 128 bytes of nibbles, 64 of high bit pairs, 16 scales, the factor.
#[inline(always)]
pub(super) fn q6_k(d: f16, scales: &[i8; 16], levels: &[u8; 256], out: &mut [u8]) {
    for half in 0..2 {
        let levels = &levels[half * 128..(half + 1) * 128];
        for j in 0..32 {
            let [a, b, c, e] = [levels[j], levels[j + 32], levels[j + 64], levels[j + 96]];
            out[half * 64 + j] = (a & 15) | ((c & 15) << 4);
            out[half * 64 + j + 32] = (b & 15) | ((e & 15) << 4);
            out[128 + half * 32 + j] = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((e >> 4) << 6);
        }
    }
    for j in 0..16 {
        out[192 + j] = scales[j] as u8;
    }
    out[208..210].copy_from_slice(&d.to_le_bytes());
}

/// Packs the factors and the 6-bit scales and minimums of Q4_K and Q5_K. The first four of each are in the low six bits of
/// the first eight bytes; the low nibbles of the other four follow, and their high bits are in the top bits of the first.
#[inline(always)]
fn head(factors: &Factors, scales: &[u8; 8], mins: &[u8; 8], out: &mut [u8]) {
    out[..2].copy_from_slice(&factors.d.to_le_bytes());
    out[2..4].copy_from_slice(&factors.dmin.to_le_bytes());
    for j in 0..4 {
        out[4 + j] = scales[j] | ((scales[j + 4] >> 4) << 6);
        out[8 + j] = mins[j] | ((mins[j + 4] >> 4) << 6);
        out[12 + j] = (scales[j + 4] & 15) | ((mins[j + 4] & 15) << 4);
    }
}

/// Packs the low two bits: four runs of 32 elements of each half share their bytes.
#[inline(always)]
fn bit_pairs(levels: &[u8; 256], out: &mut [u8]) {
    for half in 0..2 {
        let levels = &levels[half * 128..(half + 1) * 128];
        for j in 0..32 {
            out[half * 32 + j] = (levels[j] & 3)
                | ((levels[j + 32] & 3) << 2)
                | ((levels[j + 64] & 3) << 4)
                | ((levels[j + 96] & 3) << 6);
        }
    }
}

/// Packs the low four bits: two runs of 32 elements of each quarter share their bytes.
#[inline(always)]
fn nibbles(levels: &[u8; 256], out: &mut [u8]) {
    for quarter in 0..4 {
        let levels = &levels[quarter * 64..(quarter + 1) * 64];
        for j in 0..32 {
            out[quarter * 32 + j] = (levels[j] & 15) | ((levels[j + 32] & 15) << 4);
        }
    }
}
