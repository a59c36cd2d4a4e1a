//! The numbers of `statistics.json`, from the sums of [`PointStatistics`].

use serde::Serialize;

use super::{PointStatistics, SPARSE_SHARE};

/// Shares of the numbers below a percentile, and its name.
const PERCENTILES: [(&str, f64); 7] =
    [("1", 0.01), ("5", 0.05), ("25", 0.25), ("50", 0.5), ("75", 0.75), ("95", 0.95), ("99", 0.99)];

/// The content of `statistics.json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of the format.
    pub version: u32,
    /// What the numbers mean.
    pub definitions: Definitions,
    /// One for each array, in their order.
    pub points: Vec<PointReport>,
}

/// What the numbers of a report mean.
#[derive(Debug, Serialize)]
pub struct Definitions {
    numbers: &'static str,
    sparsity: String,
    kurtosis: &'static str,
    percentiles: &'static str,
    dimensions: &'static str,
}

/// The statistics of one hook point. Numbers are absent where there were no activations.
#[derive(Debug, Serialize)]
pub struct PointReport {
    /// `resid_post.3`.
    pub point: String,
    /// Token vectors.
    pub tokens: u64,
    /// Finite numbers.
    pub values: u64,
    /// Infinite numbers and NaN.
    pub non_finite: u64,
    /// Of all numbers.
    pub mean: Option<f64>,
    /// Of all numbers.
    pub standard_deviation: Option<f64>,
    /// Of all numbers.
    pub max: Option<f32>,
    /// Of all numbers.
    pub min: Option<f32>,
    /// The share of numbers close to zero.
    pub sparsity: Option<f64>,
    /// Of all numbers.
    pub kurtosis: Option<f64>,
    /// By their names in percent.
    pub percentiles: serde_json::Map<String, serde_json::Value>,
    /// Counts of numbers.
    pub histogram: HistogramReport,
    /// Euclidean norms of token vectors.
    pub norm: NormReport,
    /// By dimension, in the order of the array; of attention, by head.
    pub dimensions: DimensionsReport,
    /// The largest first.
    pub largest_norms: Vec<LargestToken>,
}

/// Counts of numbers between edges.
#[derive(Debug, Serialize)]
pub struct HistogramReport {
    /// One more than counts.
    edges: Vec<f64>,
    counts: Vec<u64>,
}

/// Statistics of the token vectors' norms.
#[derive(Debug, Serialize)]
pub struct NormReport {
    mean: Option<f64>,
    max: Option<f32>,
    min: Option<f32>,
    percentiles: serde_json::Map<String, serde_json::Value>,
}

/// One number for each dimension.
#[derive(Debug, Serialize)]
pub struct DimensionsReport {
    mean: Vec<Option<f32>>,
    max: Vec<Option<f32>>,
}

/// A token with a large norm.
#[derive(Debug, Serialize)]
pub struct LargestToken {
    /// The index among the samples of all shards.
    pub sample: u64,
    /// The token's position in its sample.
    pub position: u32,
    /// The token's id.
    pub token: u32,
    /// The norm of its vector.
    pub norm: f32,
}

/// Returns the content of `statistics.json`. `points` are the names and statistics in the order of the arrays.
pub fn report<'a>(points: impl IntoIterator<Item = (String, &'a PointStatistics)>) -> Report {
    Report {
        version: 1,
        definitions: Definitions {
            numbers: "f32, as computed, before they are rounded to the arrays' type; of real tokens only",
            sparsity: format!(
                "share of numbers whose magnitude is below {SPARSE_SHARE} of the root mean square of their token's vector"
            ),
            kurtosis: "fourth central moment divided by the squared variance: 3 for a normal distribution",
            percentiles: "interpolated in a histogram with 16 bins for each power of two",
            dimensions: "mean of numbers rounded to multiples of 2^-24, and the largest number",
        },
        points: points.into_iter().map(|(name, statistics)| point(name, statistics)).collect(),
    }
}

fn point(point: String, statistics: &PointStatistics) -> PointReport {
    let statistics = {
        let mut settled = statistics.clone();
        settled.settle();
        settled
    };
    let moments = Moments::of(&statistics);
    let some = |value: f32| value.is_finite().then_some(value);
    let (tokens, values) = (statistics.tokens, statistics.values);
    let (edges, counts) = statistics.histogram.by_octave();
    let share = |count: u64| (values > 0).then(|| count as f64 / values as f64);
    PointReport {
        point,
        tokens,
        values,
        non_finite: statistics.non_finite,
        mean: moments.as_ref().map(|moments| moments.mean),
        standard_deviation: moments.as_ref().map(|moments| moments.variance.sqrt()),
        max: some(statistics.max),
        min: some(statistics.min),
        sparsity: share(statistics.sparse),
        kurtosis: moments.as_ref().and_then(Moments::kurtosis),
        percentiles: percentiles(&statistics.histogram, statistics.min, statistics.max),
        histogram: HistogramReport { edges, counts },
        norm: NormReport {
            mean: (tokens > 0).then(|| statistics.norms.value() / tokens as f64),
            max: some(statistics.max_norm),
            min: some(statistics.min_norm),
            percentiles: percentiles(&statistics.norm_histogram, statistics.min_norm, statistics.max_norm),
        },
        dimensions: DimensionsReport {
            mean: statistics.dimensions.sums.iter().map(|sum| dimension_mean(*sum, &statistics)).collect(),
            max: statistics.dimensions.max.iter().map(|max| some(*max)).collect(),
        },
        largest_norms: statistics
            .largest
            .iter()
            .map(|largest| LargestToken {
                sample: largest.place.sample,
                position: largest.place.position,
                token: largest.place.token,
                norm: largest.norm,
            })
            .collect(),
    }
}

/// Returns the mean of a dimension's numbers: each dimension has the same share of them.
fn dimension_mean(sum: i128, statistics: &PointStatistics) -> Option<f32> {
    let dimensions = statistics.dimensions() as f64;
    let count = statistics.values as f64 / dimensions;
    (count > 0.0).then(|| (sum as f64 / f64::from(1 << super::FRACTION_BITS) / count) as f32)
}

fn percentiles(
    histogram: &super::Histogram,
    least: f32,
    most: f32,
) -> serde_json::Map<String, serde_json::Value> {
    if histogram.total() == 0 {
        return serde_json::Map::new();
    }
    let of = |(name, share): (&str, f64)| (name.to_owned(), histogram.quantile(share, least, most).into());
    PERCENTILES.into_iter().map(of).collect()
}

/// Central moments.
struct Moments {
    mean: f64,
    variance: f64,
    fourth: f64,
}

impl Moments {
    fn of(statistics: &PointStatistics) -> Option<Self> {
        let count = statistics.values as f64;
        if count == 0.0 {
            return None;
        }
        let [first, second, third, fourth] =
            [0, 1, 2, 3].map(|power| statistics.powers[power].value() / count);
        let square = first * first;
        let variance = (second - square).max(0.0);
        let fourth = fourth - 4.0 * first * third + 6.0 * square * second - 3.0 * square * square;
        Some(Self { mean: first, variance, fourth: fourth.max(0.0) })
    }

    fn kurtosis(&self) -> Option<f64> {
        let kurtosis = self.fourth / (self.variance * self.variance);
        kurtosis.is_finite().then_some(kurtosis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::TokenPlace;

    #[test]
    fn moments_and_percentiles_are_those_of_the_numbers() {
        let mut statistics = PointStatistics::new(2);
        for sample in 0..1000u64 {
            let value = sample as f32 - 499.5;
            statistics.add(&[value, -value], |_| TokenPlace { sample, position: 1, token: 2 });
        }
        let report = report([("resid_post.0".to_owned(), &statistics)]);
        let point = &report.points[0];
        assert_eq!((point.tokens, point.values, point.max), (1000, 2000, Some(499.5)));
        assert!(point.mean.unwrap().abs() < 1e-9);
        // A uniform distribution's: width / sqrt(12), and 1.8.
        assert!((point.standard_deviation.unwrap() - 288.675).abs() < 0.01);
        assert!((point.kurtosis.unwrap() - 1.8).abs() < 0.001);
        assert!((point.percentiles["75"].as_f64().unwrap() - 250.0).abs() < 5.0);
        assert!(point.dimensions.mean.iter().all(|mean| mean.unwrap().abs() < 1e-6));
        assert_eq!((point.largest_norms[0].sample, point.largest_norms[0].position), (0, 1));
        assert!((point.norm.mean.unwrap() - 250.0 * 2f64.sqrt()).abs() < 0.1);
    }

    #[test]
    fn nothing_has_no_numbers() {
        let report = report([("logits".to_owned(), &PointStatistics::new(1))]);
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["points"][0]["mean"].is_null() && json["points"][0]["max"].is_null());
        assert_eq!(json["points"][0]["dimensions"]["mean"][0], serde_json::Value::Null);
        assert!(json["definitions"]["sparsity"].as_str().unwrap().contains("0.001"));
    }
}
