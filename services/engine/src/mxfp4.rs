//! MXFP4 (OCP Microscaling Formats, version 1.0): floats of four bits, E2M1, and a power of two, E8M0, for each 32 of them.
//! The layout is ggml's; candle has none of it.

/// As a file has it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockMxfp4 {
    scale: u8,
    /// Low nibbles are the first half, high ones the second.
    codes: [u8; 16],
}

pub const COLUMNS: usize = 32;

/// Twice the value of each code: whole numbers.
pub const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl BlockMxfp4 {
    /// Exact: a value has two bits that count.
    pub fn to_float(blocks: &[Self], out: &mut [f32]) {
        let (out, _) = out.as_chunks_mut::<COLUMNS>();
        for (block, out) in blocks.iter().zip(out) {
            let scale = half(block.scale);
            let (low, high) = out.split_at_mut(COLUMNS / 2);
            for ((code, low), high) in block.codes.iter().zip(low).zip(high) {
                *low = scale * f32::from(DOUBLED[usize::from(code & 15)]);
                *high = scale * f32::from(DOUBLED[usize::from(code >> 4)]);
            }
        }
    }
}

/// `2^(scale - 128)`, half of what the byte says. 255, the format's NaN, is a number here as in llama.cpp: nothing that is
/// published holds it.
fn half(scale: u8) -> f32 {
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
        assert_eq!([0, 1, 2, 254].map(half)[..], powers);
    }
}
