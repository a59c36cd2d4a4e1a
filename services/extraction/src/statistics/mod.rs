//! Statistics of a hook point's activations, made from the f32 numbers while they are written.
//!
//! All sums are exact ([`ExactSum`], integers), and the rest are counts and extremes. Statistics of parts (batches, runs,
//! shards) can therefore be added in any order, and give the same bytes as one run's.

mod exact_sum;
mod histogram;
mod kernels;
mod report;

use serde::{Deserialize, Serialize};

use kernels::{ROUNDER, RowSums, add_rows, count_below, positive_zero};

pub use exact_sum::ExactSum;
pub use histogram::Histogram;
pub use report::{
    Definitions, DimensionsReport, HistogramReport, LargestToken, NormReport, PointReport, Report, report,
};

/// Numbers smaller than this share of the root mean square of their token's vector count as sparse.
pub const SPARSE_SHARE: f64 = 1e-3;
/// Tokens with the largest norms that are listed.
pub const MAX_LARGEST: usize = 16;

/// Sums of numbers of one dimension are made of numbers rounded to multiples of 2 to the power of minus this.
const FRACTION_BITS: i32 = 24;
/// Larger magnitudes are not added to the f64 sums, which would no longer be exact.
const MAX_FAST: f32 = 32_768.0;
/// Rows after which the f64 sums are moved to integers: little more than 2^13 rows of numbers up to 2^15 stay below 2^29,
/// where f64 still has steps of 2^-24.
const MAX_ROWS: u32 = 1 << 13;
/// Rows that are added to the f64 sums at once.
const ROWS: usize = 4;
/// Larger magnitudes count as this in the mean of a dimension.
const MAX_EXACT: f64 = (1u128 << 90) as f64;

/// The token of a row of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPlace {
    /// The index of the sample among all shards' samples.
    pub sample: u64,
    /// The token's position in its sample.
    pub position: u32,
    /// The token's id.
    pub token: u32,
}

/// A token with a large norm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Largest {
    norm: f32,
    place: TokenPlace,
}

/// Sums and means of one dimension, and its largest number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Dimensions {
    /// In units of 2^-24.
    sums: Vec<i128>,
    max: Vec<f32>,
}

/// Statistics of one hook point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointStatistics {
    /// Token vectors.
    tokens: u64,
    /// Finite numbers.
    values: u64,
    /// Numbers that are infinite or not a number. They count nowhere else.
    non_finite: u64,
    /// Of the numbers, their squares, cubes and fourth powers.
    powers: [ExactSum; 4],
    norms: ExactSum,
    max: f32,
    min: f32,
    max_norm: f32,
    min_norm: f32,
    sparse: u64,
    histogram: Histogram,
    norm_histogram: Histogram,
    dimensions: Dimensions,
    /// At most [`MAX_LARGEST`], the largest first.
    largest: Vec<Largest>,
    /// The sums of dimensions since they were last moved to `dimensions`, in units of 1.
    #[serde(skip)]
    recent: Recent,
}

/// Sums that are still f64.
#[derive(Debug, Clone, Default)]
struct Recent {
    sums: Vec<f64>,
    rows: u32,
}

/// They are moved before statistics are compared or written.
impl PartialEq for Recent {
    fn eq(&self, other: &Self) -> bool {
        self.rows == 0 && other.rows == 0
    }
}

impl PointStatistics {
    /// Returns empty statistics of vectors with this many dimensions. Attention has one dimension for each head.
    pub fn new(dimensions: usize) -> Self {
        Self {
            tokens: 0,
            values: 0,
            non_finite: 0,
            powers: <[ExactSum; 4]>::default(),
            norms: ExactSum::default(),
            max: f32::NEG_INFINITY,
            min: f32::INFINITY,
            max_norm: f32::NEG_INFINITY,
            min_norm: f32::INFINITY,
            sparse: 0,
            histogram: Histogram::default(),
            norm_histogram: Histogram::default(),
            dimensions: Dimensions { sums: vec![0; dimensions], max: vec![f32::NEG_INFINITY; dimensions] },
            largest: Vec::new(),
            recent: Recent { sums: vec![0.0; dimensions], rows: 0 },
        }
    }

    /// Returns the number of dimensions.
    pub fn dimensions(&self) -> usize {
        self.dimensions.sums.len()
    }

    /// Adds the vectors of tokens, `[tokens, dimensions]`. `place` returns the place of each.
    pub fn add(&mut self, values: &[f32], place: impl Fn(usize) -> TokenPlace) {
        // Statistics that were read from a file have no recent sums yet.
        self.recent.sums.resize(self.dimensions(), 0.0);
        let width = self.dimensions().max(1);
        let mut fast: Vec<&[f32]> = Vec::with_capacity(ROWS);
        for (index, row) in values.chunks(width).enumerate() {
            let sums = self.add_numbers(place(index), row);
            if sums.is_some_and(|sums| sums.max < MAX_FAST && sums.min > -MAX_FAST) {
                fast.push(row);
                if let [one, two, three, four] = fast[..] {
                    self.add_to_dimensions([one, two, three, four]);
                    fast.clear();
                }
            } else {
                for (dimension, value) in row.iter().enumerate() {
                    self.add_to_dimension(dimension, *value);
                }
            }
        }
        for row in fast {
            self.add_to_dimensions([row]);
        }
    }

    /// Adds a token's scores or weights: `[heads, keys]`, as many heads as there are dimensions. Infinite ones are masked
    /// and count nowhere.
    pub fn add_attention(&mut self, values: &[f32], keys: usize, place: TokenPlace) {
        let finite: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
        self.non_finite += values.iter().filter(|value| value.is_nan()).count() as u64;
        self.add_numbers(place, &finite);
        for (head, values) in values.chunks(keys.max(1)).enumerate() {
            for value in values {
                self.add_to_dimension(head, *value);
            }
        }
    }

    /// Adds numbers to everything but the dimensions. Returns their sums if all of them are finite.
    fn add_numbers(&mut self, place: TokenPlace, values: &[f32]) -> Option<RowSums> {
        let sums = RowSums::of(values);
        if !sums.powers[1].is_finite() {
            let finite: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
            self.non_finite += (values.len() - finite.len()) as u64;
            self.add_finite(place, &finite, RowSums::of(&finite));
            return None;
        }
        self.add_finite(place, values, sums);
        Some(sums)
    }

    fn add_finite(&mut self, place: TokenPlace, values: &[f32], sums: RowSums) {
        self.tokens += 1;
        self.values += values.len() as u64;
        for (sum, power) in self.powers.iter_mut().zip(sums.powers) {
            sum.add(power);
        }
        self.max = self.max.max(sums.max);
        self.min = self.min.min(sums.min);
        self.histogram.add(values);
        let squares = sums.powers[1];
        let limit = (SPARSE_SHARE * (squares / values.len().max(1) as f64).sqrt()) as f32;
        self.sparse += count_below(values, limit);
        let norm = squares.sqrt();
        self.norms.add(norm);
        let norm = norm as f32;
        // A norm beyond f32 is as good as its largest number.
        let norm = norm.min(f32::MAX);
        self.norm_histogram.add(&[norm]);
        self.max_norm = self.max_norm.max(norm);
        self.min_norm = self.min_norm.min(norm);
        self.note_largest(Largest { norm, place });
    }

    fn add_to_dimensions<const COUNT: usize>(&mut self, rows: [&[f32]; COUNT]) {
        add_rows(rows, &mut self.recent.sums, &mut self.dimensions.max);
        self.recent.rows += COUNT as u32;
        if self.recent.rows >= MAX_ROWS {
            self.settle();
        }
    }

    fn add_to_dimension(&mut self, dimension: usize, value: f32) {
        let places = self.dimensions.sums.get_mut(dimension).zip(self.dimensions.max.get_mut(dimension));
        if let Some((sum, max)) = places
            && value.is_finite()
        {
            let value64 = f64::from(value);
            // The same rounding as of rows: a larger number is a multiple of 2^-24 already.
            let rounded = if value.abs() < MAX_FAST { (value64 + ROUNDER) - ROUNDER } else { value64 };
            *sum += units(rounded);
            *max = max.max(positive_zero(value));
        }
    }

    /// Moves the f64 sums of dimensions to integers. Must be called before statistics are compared or written.
    pub fn settle(&mut self) {
        if self.recent.rows == 0 {
            return;
        }
        for (sum, recent) in self.dimensions.sums.iter_mut().zip(&mut self.recent.sums) {
            *sum += units(std::mem::take(recent));
        }
        self.recent.rows = 0;
    }

    fn note_largest(&mut self, largest: Largest) {
        let is_before = |other: &Largest| {
            let key = |largest: &Largest| (largest.place.sample, largest.place.position);
            other.norm.total_cmp(&largest.norm).reverse().then(key(other).cmp(&key(&largest))).is_le()
        };
        let index = self.largest.partition_point(is_before);
        if index < MAX_LARGEST {
            self.largest.insert(index, largest);
            self.largest.truncate(MAX_LARGEST);
        }
    }

    /// Adds the statistics of other vectors of the same point.
    pub fn merge(&mut self, other: &Self) {
        self.settle();
        self.tokens += other.tokens;
        self.values += other.values;
        self.non_finite += other.non_finite;
        for (sum, more) in self.powers.iter_mut().zip(&other.powers) {
            sum.merge(more);
        }
        self.norms.merge(&other.norms);
        self.max = self.max.max(other.max);
        self.min = self.min.min(other.min);
        self.max_norm = self.max_norm.max(other.max_norm);
        self.min_norm = self.min_norm.min(other.min_norm);
        self.sparse += other.sparse;
        self.histogram.merge(&other.histogram);
        self.norm_histogram.merge(&other.norm_histogram);
        for (sum, more) in self.dimensions.sums.iter_mut().zip(&other.dimensions.sums) {
            *sum += more;
        }
        // All zeros if the other statistics are settled.
        for (sum, recent) in self.dimensions.sums.iter_mut().zip(&other.recent.sums) {
            *sum += units(*recent);
        }
        for (max, more) in self.dimensions.max.iter_mut().zip(&other.dimensions.max) {
            *max = max.max(*more);
        }
        for largest in &other.largest {
            self.note_largest(*largest);
        }
    }
}

/// Returns a number in units of 2^-24.
fn units(value: f64) -> i128 {
    (value * f64::from(1 << FRACTION_BITS)).clamp(-MAX_EXACT, MAX_EXACT) as i128
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(sample: u64, position: u32) -> TokenPlace {
        TokenPlace { sample, position, token: position + 100 }
    }

    fn statistics(rows: &[Vec<f32>]) -> PointStatistics {
        let mut statistics = PointStatistics::new(3);
        for (index, row) in rows.iter().enumerate() {
            statistics.add(row, |_| place(index as u64, 0));
        }
        statistics.settle();
        statistics
    }

    #[test]
    fn everything_is_counted() {
        let statistics =
            statistics(&[vec![1.0, -2.0, 2.0], vec![0.0, 0.0001, 3.0], vec![5.0, f32::NAN, 0.0]]);
        assert_eq!((statistics.tokens, statistics.values, statistics.non_finite), (3, 8, 1));
        assert_eq!((statistics.max, statistics.min), (5.0, -2.0));
        assert_eq!(statistics.sparse, 3);
        assert_eq!(statistics.dimensions.max, [5.0, 0.0001, 3.0]);
        assert_eq!(statistics.dimensions.sums[0], 6 << 24);
        assert_eq!(statistics.largest[0].norm, 5.0);
        assert_eq!(statistics.largest[0].place, place(2, 0));
        assert!((statistics.powers[1].value() - (9.0 + 9.0 + 1e-8 + 25.0)).abs() < 1e-9);
    }

    #[test]
    fn large_numbers_are_exact_too() {
        let statistics = statistics(&[vec![1e6, -1e9, 0.5], vec![-1e6, 1e9, 3e38]]);
        assert_eq!(statistics.dimensions.sums[..2], [0, 0]);
        assert!(statistics.powers[3].value().is_finite());
        assert_eq!(statistics.max_norm, 3e38);
    }

    #[test]
    fn masked_scores_do_not_count() {
        let mut statistics = PointStatistics::new(2);
        let scores = [1.0, f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY];
        statistics.add_attention(&scores, 2, place(0, 0));
        assert_eq!((statistics.values, statistics.non_finite), (2, 0));
        assert_eq!(statistics.dimensions.max, [1.0, 3.0]);
    }

    #[test]
    fn the_largest_tokens_are_listed_in_one_order() {
        let mut statistics = PointStatistics::new(1);
        for sample in (0..40).rev() {
            statistics.add(&[(sample / 2) as f32], |_| place(sample, 0));
        }
        let listed: Vec<u64> = statistics.largest.iter().map(|largest| largest.place.sample).collect();
        assert_eq!(listed[..4], [38, 39, 36, 37]);
        assert_eq!(listed.len(), MAX_LARGEST);
    }

    #[test]
    fn many_rows_stay_exact() {
        let row = vec![30_000.123, 1e-5, -7.25];
        let mut rows = PointStatistics::new(3);
        let count = 2 * u64::from(MAX_ROWS) + 5;
        for sample in 0..count {
            rows.add(&row, |_| place(sample, 0));
        }
        rows.settle();
        let one = statistics(&[row]);
        let expected: Vec<i128> = one.dimensions.sums.iter().map(|sum| sum * i128::from(count)).collect();
        assert_eq!(rows.dimensions.sums, expected);
    }

    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![
            4 => -10.0f32..10.0,
            1 => prop::num::f32::NORMAL,
            1 => Just(0.0f32),
            1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(40_000.0f32)],
        ]
    }

    proptest! {
        #[test]
        fn order_and_parts_do_not_matter(
            rows in prop::collection::vec(prop::collection::vec(number(), 3), 0..30),
            order in any::<u64>(),
            cut in 0usize..30,
        ) {
            let whole = statistics(&rows);
            let mut shuffled: Vec<(u64, Vec<f32>)> = (0..).zip(rows).collect();
            shuffled.sort_by_key(|(index, _)| (index + 1).wrapping_mul(order | 1));
            let (left, right) = shuffled.split_at(cut.min(shuffled.len()));
            let part = |rows: &[(u64, Vec<f32>)]| {
                let mut statistics = PointStatistics::new(3);
                for (index, row) in rows {
                    statistics.add(row, |_| place(*index, 0));
                }
                statistics
            };
            let mut merged = part(right);
            merged.merge(&part(left));
            let bytes = postcard::to_stdvec(&merged).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&whole).unwrap());
            let back: PointStatistics = postcard::from_bytes(&bytes).unwrap();
            prop_assert_eq!(postcard::to_stdvec(&back).unwrap(), bytes);
        }
    }
}
