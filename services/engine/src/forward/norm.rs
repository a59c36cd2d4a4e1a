//! Norms: RMSNorm (Zhang and Sennrich, 2019) and LayerNorm (Ba et al., 2016), of whole rows or of the heads within
//! them.

use millm_model::arch::NormKind;

use crate::sys::simd::{add, dot};
use crate::sys::thread_pool::ThreadPool;

/// A norm over `span` values at a time.
#[derive(Clone)]
pub(crate) struct Norm {
    pub kind: NormKind,
    pub eps: f32,
    pub span: usize,
    /// `[span]`, the same for all spans of a row, or `[spans, span]`.
    pub weight: Vec<f32>,
    /// The bias, as long as `weight`.
    pub bias: Option<Vec<f32>>,
}

impl Norm {
    /// Computes `out[row] = norm(x[row])` for rows of `width` values, which is a multiple of the span.
    pub fn rows(&self, pool: &ThreadPool, width: usize, out: &mut [f32], x: &[f32]) {
        pool.rows(out, width, |row, out| {
            out.copy_from_slice(&x[row * width..(row + 1) * width]);
            self.row(out);
        });
    }

    /// Norms rows of `width` values in place.
    pub fn rows_in_place(&self, pool: &ThreadPool, width: usize, rows: &mut [f32]) {
        pool.rows(rows, width, |_, row| self.row(row));
    }

    /// Computes `out[row] = norm(x[row])` without weights and bias, for rows of one span.
    pub fn rows_before_gain(&self, pool: &ThreadPool, out: &mut [f32], x: &[f32]) {
        pool.rows(out, self.span, |row, out| {
            out.copy_from_slice(&x[row * self.span..(row + 1) * self.span]);
            let scale = self.center(out);
            for value in out {
                *value *= scale;
            }
        });
    }

    /// Norms all spans of a row in place.
    pub fn row(&self, row: &mut [f32]) {
        for (index, values) in row.chunks_exact_mut(self.span).enumerate() {
            // The same weights for each span, or its own.
            let start = index * self.span % self.weight.len();
            let scale = self.center(values);
            for (value, weight) in values.iter_mut().zip(&self.weight[start..]) {
                *value = *value * scale * weight;
            }
            if let Some(bias) = &self.bias {
                add(values, &bias[start..]);
            }
        }
    }

    /// Subtracts the mean of a span where the kind of norm does. Returns the factor that norms it.
    #[inline]
    fn center(&self, values: &mut [f32]) -> f32 {
        if self.kind == NormKind::Layer {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            for value in &mut *values {
                *value -= mean;
            }
        }
        1.0 / (dot(values, values) / values.len() as f32 + self.eps).sqrt()
    }

    /// Returns the bytes that the weights take.
    pub fn bytes(&self) -> usize {
        4 * (self.weight.len() + self.bias.as_ref().map_or(0, Vec::len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normed(kind: NormKind, span: usize, weight: &[f32], bias: Option<&[f32]>, row: &[f32]) -> Vec<f32> {
        let norm = Norm { kind, eps: 0.0, span, weight: weight.to_vec(), bias: bias.map(<[f32]>::to_vec) };
        let mut row = row.to_vec();
        norm.row(&mut row);
        row
    }

    fn close(got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{got} is not {expected}");
        }
    }

    #[test]
    fn norms_of_rows_and_heads_match_hand_computed_values() {
        let third = 1.0 / 3f64.sqrt();
        close(
            &normed(NormKind::Rms, 3, &[1.0, 1.0, 0.5], None, &[1.0, 2.0, 2.0]),
            &[third, 2.0 * third, third],
        );
        close(
            &normed(NormKind::Layer, 2, &[1.0, 2.0], Some(&[0.5, 0.0]), &[3.0, 5.0, 10.0, 0.0]),
            &[-0.5, 2.0, 1.5, -2.0],
        );
        close(&normed(NormKind::Rms, 1, &[1.0, 2.0, 3.0], None, &[4.0, -5.0, 6.0]), &[1.0, -2.0, 3.0]);
    }
}
