//! MXFP4 (OCP Microscaling Formats, version 1.0): blocks of 32 four-bit floats (E2M1) that share a power of two (E8M0).
//! The layout of a block is ggml's `block_mxfp4`; candle has no such type.

use crate::sys::pod::Pod;

/// A block as it is stored in files.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockMxfp4 {
    scale: u8,
    /// The low nibbles are columns 0 to 15, the high nibbles columns 16 to 31.
    codes: [u8; 16],
}

// SAFETY: the type consists of bytes only.
unsafe impl Pod for BlockMxfp4 {}

/// The number of columns in a block.
pub const COLUMNS: usize = 32;

/// Twice the value of each code, which is an integer.
pub const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl BlockMxfp4 {
    /// Writes the values of `blocks` to `out`, exactly: a value has two significant bits.
    pub fn to_float(blocks: &[Self], out: &mut [f32]) {
        let (out, _) = out.as_chunks_mut::<COLUMNS>();
        for (block, out) in blocks.iter().zip(out) {
            let scale = half_scale(block.scale);
            let (low, high) = out.split_at_mut(COLUMNS / 2);
            for ((code, low), high) in block.codes.iter().zip(low).zip(high) {
                *low = scale * f32::from(DOUBLED[usize::from(code & 15)]);
                *high = scale * f32::from(DOUBLED[usize::from(code >> 4)]);
            }
        }
    }
}

/// Returns `2^(scale - 128)`, half of the block's scale. 255, the format's NaN, is a number here as in llama.cpp: no
/// published model contains it.
fn half_scale(scale: u8) -> f32 {
    match scale {
        0 | 1 => f32::from_bits(0x0020_0000 << scale),
        _ => f32::from_bits((u32::from(scale) - 1) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_powers_of_two_times_small_floats() {
        let codes = std::array::from_fn(|index| (index as u8) | (15 - index as u8) << 4);
        let mut out = [f32::NAN; 2 * COLUMNS];
        BlockMxfp4::to_float(&[BlockMxfp4 { scale: 127, codes }, BlockMxfp4 { scale: 130, codes }], &mut out);
        let positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        assert_eq!(out[..8], positive);
        assert_eq!(out[8..16], positive.map(|value| -value));
        assert_eq!(out[16..24], [-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0]);
        assert_eq!(out[32..40], positive.map(|value| 8.0 * value));
        let powers = [-128.0, -127.0, -126.0, 126.0].map(f32::exp2);
        assert_eq!([0, 1, 2, 254].map(half_scale)[..], powers);
    }
}
