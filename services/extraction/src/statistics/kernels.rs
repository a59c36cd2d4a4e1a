//! The loops over numbers, written so that compilers vectorize them. They add in lanes of a fixed number and order, without
//! fused operations: the results are the same on every machine.

/// Adding this number and subtracting it again rounds a smaller one to a multiple of 2^-24: f64 has no finer steps here.
pub(super) const ROUNDER: f64 = (1u64 << 28) as f64 * 1.5;

/// Lanes of a sum.
const LANES: usize = 16;
/// Numbers that are added as f32 before their sum is added as f64.
const BLOCK: usize = 512;

/// Sums of one vector's numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowSums {
    /// Of the numbers, their squares, cubes and fourth powers.
    pub powers: [f64; 4],
    pub max: f32,
    pub min: f32,
}

impl RowSums {
    /// Adds numbers. The sum of squares is finite exactly where all numbers are.
    pub fn of(values: &[f32]) -> Self {
        let mut sums = Self { powers: [0.0; 4], max: f32::NEG_INFINITY, min: f32::INFINITY };
        for block in values.chunks(BLOCK) {
            sums.add_block(block);
        }
        // Squares beyond f32 are added again as f64.
        if sums.powers.iter().all(|power| power.is_finite()) { sums } else { Self::wide(values) }
    }

    fn add_block(&mut self, block: &[f32]) {
        let mut lanes = Lanes::default();
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            lanes.add(chunk);
            lanes.note_extremes(chunk);
        }
        // Zeros in place of missing numbers change no sum.
        let mut last = [0f32; LANES];
        last[..rest.len()].copy_from_slice(rest);
        lanes.add(&last);
        if let Some(first) = rest.first() {
            last[rest.len()..].fill(*first);
            lanes.note_extremes(&last);
        }
        let sum = |lanes: [f32; LANES]| lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
        self.powers[0] += sum(lanes.ones);
        self.powers[1] += sum(lanes.squares);
        self.powers[2] += lanes.cubes.iter().sum::<f64>();
        self.powers[3] += lanes.fourths.iter().sum::<f64>();
        self.max = lanes.max.into_iter().fold(self.max, f32::max);
        self.min = lanes.min.into_iter().fold(self.min, f32::min);
    }

    /// The same, slowly, for numbers of any size.
    fn wide(values: &[f32]) -> Self {
        let mut sums = Self { powers: [0.0; 4], max: f32::NEG_INFINITY, min: f32::INFINITY };
        for value in values {
            let x = f64::from(*value);
            let square = x * x;
            for (power, more) in sums.powers.iter_mut().zip([x, square, square * x, square * square]) {
                *power += more;
            }
            sums.max = sums.max.max(positive_zero(*value));
            sums.min = sums.min.min(positive_zero(*value));
        }
        sums
    }
}

/// Sums of a block's numbers, by their place modulo [`LANES`].
struct Lanes {
    ones: [f32; LANES],
    squares: [f32; LANES],
    cubes: [f64; LANES],
    fourths: [f64; LANES],
    max: [f32; LANES],
    min: [f32; LANES],
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            ones: [0.0; LANES],
            squares: [0.0; LANES],
            cubes: [0.0; LANES],
            fourths: [0.0; LANES],
            max: [f32::NEG_INFINITY; LANES],
            min: [f32::INFINITY; LANES],
        }
    }
}

impl Lanes {
    #[inline]
    fn add(&mut self, chunk: &[f32; LANES]) {
        for (lane, value) in chunk.iter().enumerate() {
            let square = value * value;
            self.ones[lane] += value;
            self.squares[lane] += square;
            let (value, square) = (f64::from(*value), f64::from(square));
            self.cubes[lane] += square * value;
            self.fourths[lane] += square * square;
        }
    }

    #[inline]
    fn note_extremes(&mut self, chunk: &[f32; LANES]) {
        for (lane, value) in chunk.iter().enumerate() {
            let value = positive_zero(*value);
            self.max[lane] = if value > self.max[lane] { value } else { self.max[lane] };
            self.min[lane] = if value < self.min[lane] { value } else { self.min[lane] };
        }
    }
}

/// Returns how many numbers are closer to zero than `limit`.
pub(super) fn count_below(values: &[f32], limit: f32) -> u64 {
    // A piece has too few numbers to overflow: checks would only keep the loop from being vectorized.
    let count = |values: &[f32]| {
        values.iter().fold(0u32, |count, value| count.wrapping_add(u32::from(value.abs() < limit)))
    };
    values.chunks(1 << 16).map(|values| u64::from(count(values))).sum()
}

/// Adds rows of numbers to sums, each rounded to a multiple of 2^-24, and notes the largest ones.
pub(super) fn add_rows<const ROWS: usize>(rows: [&[f32]; ROWS], sums: &mut [f64], max: &mut [f32]) {
    let width = rows.iter().map(|row| row.len()).fold(sums.len().min(max.len()), usize::min);
    let rows = rows.map(|row| &row[..width]);
    let (sums, max) = (&mut sums[..width], &mut max[..width]);
    #[allow(clippy::needless_range_loop, reason = "all slices have this length, so no access is checked")]
    for index in 0..width {
        let (mut sum, mut largest) = (sums[index], max[index]);
        for row in rows {
            sum += (f64::from(row[index]) + ROUNDER) - ROUNDER;
            let value = positive_zero(row[index]);
            largest = if value > largest { value } else { largest };
        }
        sums[index] = sum;
        max[index] = largest;
    }
}

/// Makes 0 of -0: which of the two is the larger would depend on their order.
#[inline]
pub(super) fn positive_zero(value: f32) -> f32 {
    value + 0.0
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(found: f64, expected: f64, scale: f64) -> bool {
        (found - expected).abs() <= 1e-6 * scale + f64::MIN_POSITIVE
    }

    proptest! {
        #[test]
        fn sums_are_close_to_the_wide_ones(
            values in prop::collection::vec(prop_oneof![-100f32..100.0, prop::num::f32::NORMAL], 0..1200),
        ) {
            let (sums, wide) = (RowSums::of(&values), RowSums::wide(&values));
            prop_assert_eq!((sums.max, sums.min), (wide.max, wide.min));
            for (index, (found, expected)) in sums.powers.iter().zip(wide.powers).enumerate() {
                let scale: f64 = values.iter().map(|value| f64::from(value.abs()).powi(index as i32 + 1)).sum();
                prop_assert!(close(*found, expected, scale), "{} {} {}", index, found, expected);
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_show() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 17, 599] {
                let mut values = vec![1.0; 600];
                values[place] = bad;
                assert!(!RowSums::of(&values).powers[1].is_finite(), "{bad} {place}");
            }
        }
        assert!(RowSums::of(&[f32::MAX; 600]).powers[1].is_finite());
        assert_eq!(RowSums::of(&[]).powers, [0.0; 4]);
        assert_eq!(RowSums::of(&[-0.0]).max.to_bits(), 0);
    }

    #[test]
    fn rows_are_added_by_dimension() {
        let (mut sums, mut max) = (vec![1.0; 3], vec![f32::NEG_INFINITY; 3]);
        add_rows([&[1.0, 2.0, -0.0], &[0.25, 3.0, -1.0]], &mut sums, &mut max);
        assert_eq!((sums, max), (vec![2.25, 6.0, 0.0], vec![1.0, 3.0, 0.0]));
        assert_eq!(count_below(&[0.1, -0.1, 0.5, f32::NAN], 0.2), 2);
    }
}
