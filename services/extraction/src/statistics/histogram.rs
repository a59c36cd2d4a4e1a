//! A histogram with fixed logarithmic bins: the same for all extractions, so that parts can be added.
//!
//! Each power of two between 2^-32 and 2^32 has 16 bins of equal width, for positive and for negative numbers. Smaller
//! magnitudes are in the bins next to zero, larger ones in the outermost bins. A bin's index comes from a number's bits.

use serde::{Deserialize, Serialize, Serializer};

/// Bits of the mantissa that choose the bin within a power of two.
const MANTISSA_BITS: u32 = 4;
/// Bins of a power of two.
const PER_OCTAVE: usize = 1 << MANTISSA_BITS;
/// The exponents' bias in f32's bits.
const BIAS: u32 = 127;
/// Powers of two on each side of 1.
const OCTAVES: u32 = 32;
/// The upper bits of the smallest magnitude with a bin of its own.
const LOW: u32 = (BIAS - OCTAVES) << MANTISSA_BITS;
/// The upper bits of the smallest magnitude beyond the bins.
const HIGH: u32 = (BIAS + OCTAVES) << MANTISSA_BITS;
/// Bins of each sign.
const BINS: usize = (HIGH - LOW) as usize;
/// Bits below those that choose the bin.
const SHIFT: u32 = 23 - MANTISSA_BITS;

/// Counts of numbers by their size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Sparse")]
pub struct Histogram {
    /// From the lowest numbers to the highest.
    counts: Box<[u64; 2 * BINS]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; 2 * BINS]) }
    }
}

impl Histogram {
    /// Counts numbers. NaN must not be among them.
    pub fn add(&mut self, values: &[f32]) {
        // Bins are found for many numbers at once, which compilers vectorize.
        let mut bins = [0u32; 64];
        let (blocks, rest) = values.as_chunks::<64>();
        for block in blocks {
            for (bin, value) in bins.iter_mut().zip(block) {
                *bin = index(*value);
            }
            for bin in &bins {
                self.counts[(*bin as usize) % (2 * BINS)] += 1;
            }
        }
        for value in rest {
            self.counts[index(*value) as usize] += 1;
        }
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count += more;
        }
    }

    /// Returns the numbers counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the number below which the share `quantile` of all numbers lies, interpolated within its bin. `least` and
    /// `most` are the extreme numbers. Returns 0 for no numbers.
    pub fn quantile(&self, quantile: f64, least: f32, most: f32) -> f64 {
        let total = self.total();
        if total == 0 {
            return 0.0;
        }
        let target = quantile * total as f64;
        let mut below = 0u64;
        let mut value = f64::from(most);
        for (index, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            if (below + count) as f64 >= target {
                let (low, high) = (edge(index), edge(index + 1));
                value = low + (high - low) * ((target - below as f64) / *count as f64).clamp(0.0, 1.0);
                break;
            }
            below += count;
        }
        value.clamp(f64::from(least), f64::from(most))
    }

    /// Returns the counts by powers of two, from the lowest numbers to the highest, without empty ones at the ends: the
    /// bins' edges, one more than there are bins, and their counts.
    pub fn by_octave(&self) -> (Vec<f64>, Vec<u64>) {
        let counts: Vec<u64> = self.counts.chunks(PER_OCTAVE).map(|bins| bins.iter().sum()).collect();
        let Some(first) = counts.iter().position(|count| *count > 0) else { return (Vec::new(), Vec::new()) };
        let last = counts.iter().rposition(|count| *count > 0).unwrap_or(first);
        let edges = (first..=last + 1).map(|octave| edge(octave * PER_OCTAVE)).collect();
        (edges, counts[first..=last].to_vec())
    }
}

/// Returns a number's bin.
#[inline]
fn index(value: f32) -> u32 {
    let bits = value.to_bits();
    let magnitude = ((bits & 0x7fff_ffff) >> SHIFT).clamp(LOW, HIGH - 1) - LOW;
    // All ones for a negative number, whose bins are counted down from the middle.
    let sign = 0u32.wrapping_sub(bits >> 31);
    (BINS as u32).wrapping_add(magnitude ^ sign)
}

/// Returns the lower edge of a bin; of the one beyond the last, the upper edge of the last.
fn edge(index: usize) -> f64 {
    let magnitude = index.abs_diff(BINS) as u32;
    let edge = if magnitude == 0 { 0.0 } else { f64::from(f32::from_bits((LOW + magnitude) << SHIFT)) };
    if index < BINS { -edge } else { edge }
}

/// The bins that are not empty.
#[derive(Serialize, Deserialize)]
struct Sparse(Vec<(u16, u64)>);

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Sparse(filled.map(|(index, count)| (index as u16, *count)).collect()).serialize(serializer)
    }
}

impl From<Sparse> for Histogram {
    fn from(sparse: Sparse) -> Self {
        let mut histogram = Self::default();
        for (index, count) in sparse.0 {
            if let Some(place) = histogram.counts.get_mut(usize::from(index)) {
                *place = count;
            }
        }
        histogram
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "the values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_between_the_edges_of_their_bins() {
        let numbers = [0.0f32, 1.0, 1.5, 0.1, 3.999, 65504.0, 1e-9, 4e9, -0.0, -1.0, -0.37, -4e9];
        for value in numbers {
            let index = index(value) as usize;
            let (low, high) = (edge(index), edge(index + 1));
            let value = f64::from(value);
            // The lower edge belongs to the bin of positive numbers, the upper edge to that of negative ones.
            assert!(low <= value && value <= high, "{low} {value} {high}");
        }
        assert_eq!((index(f32::MAX) as usize, index(f32::MIN)), (2 * BINS - 1, 0));
        let smallest = [f32::MIN_POSITIVE, -f32::MIN_POSITIVE].map(|value| index(value) as usize);
        assert_eq!(smallest, [BINS, BINS - 1]);
    }

    #[test]
    fn quantiles_are_close() {
        let mut histogram = Histogram::default();
        let values: Vec<f32> = (0..=10_000).map(|index| index as f32 / 100.0 - 50.0).collect();
        histogram.add(&values);
        for (quantile, expected) in [(0.0, -50.0), (0.01, -49.0), (0.25, -25.0), (0.75, 25.0), (1.0, 50.0)] {
            let found = histogram.quantile(quantile, -50.0, 50.0);
            assert!((found - expected).abs() < 0.02 * expected.abs(), "{quantile}: {found}");
        }
        assert!(histogram.quantile(0.5, -50.0, 50.0).abs() < 0.1);
        assert_eq!(Histogram::default().quantile(0.5, 0.0, 0.0), 0.0);
    }

    #[test]
    fn octaves_have_edges() {
        let mut histogram = Histogram::default();
        histogram.add(&[-1.5, 0.75, 0.6, 3.0]);
        let (edges, counts) = histogram.by_octave();
        assert_eq!((edges.first(), edges.last()), (Some(&-2.0), Some(&4.0)));
        assert_eq!((edges.len(), counts.iter().sum::<u64>()), (counts.len() + 1, 4));
        assert_eq!((counts[0], *counts.last().unwrap()), (1, 1));
        assert!(edges.is_sorted());
        assert_eq!(Histogram::default().by_octave().1.len(), 0);
    }

    proptest! {
        #[test]
        fn parts_add_up(values in prop::collection::vec(prop::num::f32::NORMAL, 0..200), cut in 0usize..200) {
            let count = |values: &[f32]| {
                let mut histogram = Histogram::default();
                histogram.add(values);
                histogram
            };
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut merged = count(right);
            merged.merge(&count(left));
            prop_assert_eq!(&merged, &count(&values));
            let bytes = postcard::to_stdvec(&merged).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Histogram>(&bytes).unwrap(), merged);
        }
    }
}
