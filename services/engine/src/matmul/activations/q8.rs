//! Activations as signed bytes with a scale for each block of columns, for products with quantized weights.

use crate::sys::pod::resized;
use crate::sys::thread_pool::ThreadPool;

/// 32 columns of a row: value = code * scale.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Q8Block32 {
    pub codes: [i8; 32],
    pub scale: f32,
    /// The sum of the codes, for weights with an offset.
    pub sum: i32,
}

/// 256 columns of a row: value = code * scale.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Q8Block256 {
    pub codes: [i8; 256],
    pub scale: f32,
    /// Sums of the codes of groups of 16 columns, two i16 in each word: groups 4 w and 4 w + 2, then 4 w + 1 and 4 w + 3,
    /// for each w. This is the order of the even and the odd bytes in a word of scales.
    pub sums_of_16: [i32; 8],
    /// Sums of the codes of groups of 32 columns, in the same order.
    pub sums_of_32: [i32; 4],
}

/// A block of quantized activations.
pub trait Q8Block: Clone + Send + Sync {
    /// The number of columns in a block.
    const COLUMNS: usize;
    /// A block of zeros.
    const ZERO: Self;

    /// Quantizes [`Q8Block::COLUMNS`] values.
    fn quantize(x: &[f32]) -> Self;
}

impl Q8Block for Q8Block32 {
    const COLUMNS: usize = 32;
    const ZERO: Self = Self { codes: [0; 32], scale: 0.0, sum: 0 };

    fn quantize(x: &[f32]) -> Self {
        let mut block = Self::ZERO;
        block.scale = round(x, &mut block.codes);
        block.sum = sum(&block.codes);
        block
    }
}

impl Q8Block for Q8Block256 {
    const COLUMNS: usize = 256;
    const ZERO: Self = Self { codes: [0; 256], scale: 0.0, sums_of_16: [0; 8], sums_of_32: [0; 4] };

    fn quantize(x: &[f32]) -> Self {
        let mut block = Self::ZERO;
        block.scale = round(x, &mut block.codes);
        let of_16: [i32; 16] = std::array::from_fn(|g| sum(&block.codes[16 * g..16 * (g + 1)]));
        let of_32: [i32; 8] = std::array::from_fn(|g| of_16[2 * g] + of_16[2 * g + 1]);
        pairs(&of_16, &mut block.sums_of_16);
        pairs(&of_32, &mut block.sums_of_32);
        block
    }
}

/// Rows of quantized activations. Its memory is reused by the next product.
pub struct Q8Rows<B>(Vec<B>);

impl<B> Default for Q8Rows<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<B: Q8Block> Q8Rows<B> {
    /// Replaces the rows by those of `input`, `[m, columns]` in whole blocks.
    pub fn quantize(&mut self, pool: &ThreadPool, input: &[f32], columns: usize) {
        let blocks = input.len() / B::COLUMNS;
        pool.rows(resized(&mut self.0, blocks, B::ZERO), columns / B::COLUMNS, |row, blocks| {
            let x = &input[row * columns..(row + 1) * columns];
            for (block, x) in blocks.iter_mut().zip(x.chunks_exact(B::COLUMNS)) {
                *block = B::quantize(x);
            }
        });
    }

    /// Returns the first `rows` rows, which have `blocks` blocks each.
    pub fn rows(&self, rows: usize, blocks: usize) -> &[B] {
        &self.0[..rows * blocks]
    }
}

/// Writes codes from -127 to 127; returns their scale, which is NaN if a value is not finite.
fn round(x: &[f32], codes: &mut [i8]) -> f32 {
    const LANES: usize = 16;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    // `not_finite` stays 0 for finite values, and is NaN otherwise.
    let (mut largest, mut not_finite) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let size = x[lane].abs();
            largest[lane] = if size > largest[lane] { size } else { largest[lane] };
            not_finite[lane] += x[lane] * 0.0;
        }
    }
    let largest = largest.into_iter().fold(0.0f32, f32::max);
    let not_finite: f32 = not_finite.into_iter().sum();
    // The inverse of smaller values is not finite; they are rounded to 0.
    let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * inverse + SHIFT).to_bits() as i8;
    }
    largest / 127.0 + not_finite
}

fn sum(codes: &[i8]) -> i32 {
    codes.iter().map(|code| i32::from(*code)).sum()
}

/// Packs sums into pairs of i16, in the order of [`Q8Block256::sums_of_16`].
fn pairs(sums: &[i32], out: &mut [i32]) {
    let pair = |low: i32, high: i32| (low & 0xffff) | high << 16;
    for (four, out) in sums.chunks_exact(4).zip(out.chunks_exact_mut(2)) {
        out[0] = pair(four[0], four[2]);
        out[1] = pair(four[1], four[3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_nearest_integers_and_sums_match_them() {
        let x: Vec<f32> = (0..256).map(|i| ((i * 89 + 7) % 256) as f32 / 40.0 - 3.2).collect();
        let block = Q8Block256::quantize(&x);
        for (code, x) in block.codes.iter().zip(&x) {
            assert!((f32::from(*code) * block.scale - x).abs() <= block.scale * 0.5001);
        }
        let of = |group: usize, size: usize| sum(&block.codes[group * size..(group + 1) * size]);
        let halves = |word: i32| (i32::from(word as i16), word >> 16);
        assert_eq!(halves(block.sums_of_16[0]), (of(0, 16), of(2, 16)));
        assert_eq!(halves(block.sums_of_16[7]), (of(13, 16), of(15, 16)));
        assert_eq!(halves(block.sums_of_32[1]), (of(1, 32), of(3, 32)));
        assert_eq!(halves(block.sums_of_32[2]), (of(4, 32), of(6, 32)));
        assert_eq!(Q8Block32::quantize(&x[..32]).sum, sum(&Q8Block32::quantize(&x[..32]).codes));
    }

    #[test]
    fn values_that_are_not_finite_make_the_scale_nan() {
        for odd in [f32::NAN, f32::INFINITY] {
            let mut x = [1.0; 32];
            x[9] = odd;
            assert!(Q8Block32::quantize(&x).scale.is_nan());
        }
        assert_eq!(Q8Block32::quantize(&[0.0; 32]).codes, [0; 32]);
        assert_eq!(Q8Block32::quantize(&[1e-40; 32]).codes, [0; 32]);
    }
}
