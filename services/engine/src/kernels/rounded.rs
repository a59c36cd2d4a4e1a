//! Activations as signed bytes with a scale for each block of columns: what quantized weights are met with.

use crate::plain::room;
use crate::team::Team;

/// 32 columns of a row.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Block32 {
    pub codes: [i8; 32],
    pub scale: f32,
    /// Of the codes, for weights that are not centred.
    pub sum: i32,
}

/// 256 columns of a row.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Block256 {
    pub codes: [i8; 256],
    pub scale: f32,
    /// Sums of the codes of groups of 16 columns, two in each word: groups 4 w and 4 w + 2, then 4 w + 1 and 4 w + 3,
    /// for each w; the order in which the even and the odd bytes of a word of scales lie.
    pub narrow: [i32; 8],
    /// The same of groups of 32 columns.
    pub wide: [i32; 4],
}

/// A block of activations.
pub trait Block: Clone + Send + Sync {
    const COLUMNS: usize;
    const ZERO: Self;

    fn of(x: &[f32]) -> Self;
}

impl Block for Block32 {
    const COLUMNS: usize = 32;
    const ZERO: Self = Self { codes: [0; 32], scale: 0.0, sum: 0 };

    fn of(x: &[f32]) -> Self {
        let mut block = Self::ZERO;
        block.scale = round(x, &mut block.codes);
        block.sum = sum(&block.codes);
        block
    }
}

impl Block for Block256 {
    const COLUMNS: usize = 256;
    const ZERO: Self = Self { codes: [0; 256], scale: 0.0, narrow: [0; 8], wide: [0; 4] };

    fn of(x: &[f32]) -> Self {
        let mut block = Self::ZERO;
        block.scale = round(x, &mut block.codes);
        let narrow: [i32; 16] = std::array::from_fn(|g| sum(&block.codes[16 * g..16 * (g + 1)]));
        let wide: [i32; 8] = std::array::from_fn(|g| narrow[2 * g] + narrow[2 * g + 1]);
        pairs(&narrow, &mut block.narrow);
        pairs(&wide, &mut block.wide);
        block
    }
}

/// Rows of blocks; kept between products for its memory.
pub struct Rounded<B>(Vec<B>);

impl<B> Default for Rounded<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<B: Block> Rounded<B> {
    /// Takes rows of whole blocks.
    pub fn take(&mut self, team: &Team, input: &[f32], columns: usize) {
        let blocks = input.len() / B::COLUMNS;
        team.rows(room(&mut self.0, blocks, B::ZERO), columns / B::COLUMNS, |row, blocks| {
            let x = &input[row * columns..(row + 1) * columns];
            for (block, x) in blocks.iter_mut().zip(x.chunks_exact(B::COLUMNS)) {
                *block = B::of(x);
            }
        });
    }

    /// The first rows, of `count` blocks each.
    pub fn rows(&self, rows: usize, count: usize) -> &[B] {
        &self.0[..rows * count]
    }
}

/// Codes from -127 to 127 and their scale, which is NaN where a value is no finite number.
fn round(x: &[f32], codes: &mut [i8]) -> f32 {
    const LANES: usize = 16;
    // Adding this leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    let (mut most, mut odd) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let size = x[lane].abs();
            most[lane] = if size > most[lane] { size } else { most[lane] };
            odd[lane] += x[lane] * 0.0;
        }
    }
    let most = most.into_iter().fold(0.0f32, f32::max);
    let odd: f32 = odd.into_iter().sum();
    // Below this its inverse is no finite number, and nothing of such size matters.
    let inverse = if most > 1e-36 { 127.0 / most } else { 0.0 };
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * inverse + SHIFT).to_bits() as i8;
    }
    most / 127.0 + odd
}

fn sum(codes: &[i8]) -> i32 {
    codes.iter().map(|code| i32::from(*code)).sum()
}

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
    fn codes_are_the_nearest_and_sums_are_theirs() {
        let x: Vec<f32> = (0..256).map(|i| ((i * 89 + 7) % 256) as f32 / 40.0 - 3.2).collect();
        let block = Block256::of(&x);
        for (code, x) in block.codes.iter().zip(&x) {
            assert!((f32::from(*code) * block.scale - x).abs() <= block.scale * 0.5001);
        }
        let of = |group: usize, size: usize| sum(&block.codes[group * size..(group + 1) * size]);
        let halves = |word: i32| (i32::from(word as i16), word >> 16);
        assert_eq!(halves(block.narrow[0]), (of(0, 16), of(2, 16)));
        assert_eq!(halves(block.narrow[7]), (of(13, 16), of(15, 16)));
        assert_eq!(halves(block.wide[1]), (of(1, 32), of(3, 32)));
        assert_eq!(halves(block.wide[2]), (of(4, 32), of(6, 32)));
        assert_eq!(Block32::of(&x[..32]).sum, sum(&Block32::of(&x[..32]).codes));
    }

    #[test]
    fn what_is_not_finite_does_not_vanish() {
        for odd in [f32::NAN, f32::INFINITY] {
            let mut x = [1.0; 32];
            x[9] = odd;
            assert!(Block32::of(&x).scale.is_nan());
        }
        assert_eq!(Block32::of(&[0.0; 32]).codes, [0; 32]);
        assert_eq!(Block32::of(&[1e-40; 32]).codes, [0; 32]);
    }
}
