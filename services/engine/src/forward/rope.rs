//! Rotary position embedding (Su et al., 2021): pairs of dimensions rotated by an angle that grows with the position.

use std::ops::Range;

use millm_model::arch::{RopeLayout, RopeRegime, RopeSpec};

use crate::forward::batch::{Batch, Segment};

/// Cosines and sines of the rows of one batch, shared by all layers with the same frequencies.
pub(crate) struct Rope {
    spec: RopeSpec,
    /// The last regime other than the original one, with its frequencies.
    other: (RopeRegime, Vec<f32>),
    /// `[rows, pairs]`.
    cos: Vec<f32>,
    /// `[rows, pairs]`.
    sin: Vec<f32>,
}

impl Rope {
    pub fn new(spec: RopeSpec) -> Self {
        Self { spec, other: (RopeRegime::Original, Vec::new()), cos: Vec::new(), sin: Vec::new() }
    }

    /// Computes the tables for the rows of a batch.
    pub fn prepare_batch(&mut self, batch: &Batch) {
        let positions = |segment: &Segment| segment.position..segment.position + segment.rows.len();
        self.prepare(batch.segments().iter().map(|segment| (positions(segment), segment.prompt_length)));
    }

    /// Computes the tables for rows at ranges of positions, each with the length of its prompt.
    pub fn prepare(&mut self, ranges: impl Iterator<Item = (Range<usize>, usize)>) {
        self.cos.clear();
        self.sin.clear();
        for (positions, prompt_length) in ranges {
            for position in positions {
                self.prepare_row(position, self.spec.regime(prompt_length.max(position + 1)));
            }
        }
    }

    fn prepare_row(&mut self, position: usize, regime: RopeRegime) {
        let original = regime == RopeRegime::Original;
        if !original && regime != self.other.0 {
            self.other = (regime, self.spec.frequencies_in(regime));
        }
        let frequencies = if original { &self.spec.inverse_frequencies } else { &self.other.1 };
        for frequency in frequencies {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            self.cos.push(cos * self.spec.attention_factor);
            self.sin.push(sin * self.spec.attention_factor);
        }
    }

    /// Returns the cosines and the sines, `[rows, pairs]` each.
    pub fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }

    /// Rotates all heads of one row, `[heads, head_dim]`.
    pub fn rotate(&self, row: usize, heads: &mut [f32], head_dim: usize) {
        let pairs = self.spec.inverse_frequencies.len();
        let cos = &self.cos[row * pairs..(row + 1) * pairs];
        let sin = &self.sin[row * pairs..(row + 1) * pairs];
        for head in heads.chunks_exact_mut(head_dim) {
            match self.spec.layout {
                RopeLayout::Half => {
                    let (first, second) = head[..2 * pairs].split_at_mut(pairs);
                    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
                RopeLayout::Interleaved => {
                    let (rotated, _) = head[..2 * pairs].as_chunks_mut::<2>();
                    for (([a, b], cos), sin) in rotated.iter_mut().zip(cos).zip(sin) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millm_model::arch::RopeScaling;

    use super::*;

    /// Rotates two pairs, of frequencies 1 and 0.01, at position 3.
    fn rotated(layout: RopeLayout, scaling: RopeScaling, prompt_length: usize, head: &[f32]) -> Vec<f32> {
        let mut rope = Rope::new(RopeSpec::new(layout, 4, 10_000.0, scaling));
        rope.prepare([(0..1, 1), (2..4, prompt_length)].into_iter());
        let mut same = head.to_vec();
        rope.rotate(0, &mut same, head.len());
        assert_eq!(same, head, "position 0 rotates nothing");
        let mut out = head.to_vec();
        rope.rotate(2, &mut out, head.len());
        out
    }

    #[test]
    fn each_layout_rotates_its_pairs_and_keeps_the_other_dimensions() {
        let (s0, c0) = 3f32.sin_cos();
        let (s1, c1) = 0.03f32.sin_cos();
        let half = rotated(RopeLayout::Half, RopeScaling::None, 4, &[1.0, 0.0, 0.0, 2.0, 9.0]);
        assert_eq!(half, [c0, -2.0 * s1, s0, 2.0 * c1, 9.0]);
        let interleaved = rotated(RopeLayout::Interleaved, RopeScaling::None, 4, &[1.0, 0.0, 0.0, 2.0, 9.0]);
        assert_eq!(interleaved, [c0, s0, -2.0 * s1, 2.0 * c1, 9.0]);
    }

    #[test]
    fn long_prompts_are_rotated_by_the_long_frequencies() {
        let scaling = || RopeScaling::LongRope {
            short: vec![1.0, 1.0],
            long: vec![3.0, 1.0],
            original_context: 4,
            attention_factor: 1.0,
        };
        let first =
            |prompt_length| rotated(RopeLayout::Half, scaling(), prompt_length, &[1.0, 0.0, 0.0, 0.0]);
        assert!((first(4)[0] - 3f32.cos()).abs() < 1e-6);
        assert!((first(5)[0] - 1f32.cos()).abs() < 1e-6);
    }
}
