//! Rotary position embedding (Su et al., 2021): pairs of dimensions turned by an angle that grows with the position.

use std::ops::Range;

use millm_model::spec::Regime;
use millm_model::{RopeLayout, RopeSpec};

use crate::batch::{Batch, Segment};

/// Cosines and sines of the rows of one batch, shared by all layers that turn by the same frequencies.
pub struct Rope {
    spec: RopeSpec,
    /// The frequencies of the regime that was last taken beside the usual one.
    other: (Regime, Vec<f32>),
    /// `[rows, pairs]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    pub fn new(spec: RopeSpec) -> Self {
        Self { spec, other: (Regime::Usual, Vec::new()), cos: Vec::new(), sin: Vec::new() }
    }

    /// Prepares for the rows of a batch.
    pub fn prepare_batch(&mut self, batch: &Batch) {
        let run = |segment: &Segment| segment.position..segment.position + segment.rows.len();
        self.prepare(batch.segments().iter().map(|segment| (run(segment), segment.reach)));
    }

    /// Prepares for rows at runs of positions, each of a sequence that is at least so long.
    pub fn prepare(&mut self, runs: impl Iterator<Item = (Range<usize>, usize)>) {
        self.cos.clear();
        self.sin.clear();
        for (positions, reach) in runs {
            for position in positions {
                self.prepare_row(position, self.spec.regime(reach.max(position + 1)));
            }
        }
    }

    fn prepare_row(&mut self, position: usize, regime: Regime) {
        if regime != Regime::Usual && regime != self.other.0 {
            self.other = (regime, self.spec.frequencies_in(regime));
        }
        let usual = regime == Regime::Usual;
        let frequencies = if usual { &self.spec.inverse_frequencies } else { &self.other.1 };
        for frequency in frequencies {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            self.cos.push(cos * self.spec.attention_factor);
            self.sin.push(sin * self.spec.attention_factor);
        }
    }

    /// Cosines and sines, `[rows, pairs]` each.
    pub fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }

    /// Turns all heads of one row, `[heads, head_dim]`.
    pub fn turn(&self, row: usize, heads: &mut [f32], head_dim: usize) {
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
                    let (turned, _) = head[..2 * pairs].as_chunks_mut::<2>();
                    for (([a, b], cos), sin) in turned.iter_mut().zip(cos).zip(sin) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millm_model::spec::RopeScaling;

    use super::*;

    /// By two pairs, of frequencies 1 and 0.01, at position 3.
    fn turned(layout: RopeLayout, scaling: RopeScaling, reach: usize, head: &[f32]) -> Vec<f32> {
        let mut rope = Rope::new(RopeSpec::new(layout, 4, 10_000.0, scaling));
        rope.prepare([(0..1, 1), (2..4, reach)].into_iter());
        let mut same = head.to_vec();
        rope.turn(0, &mut same, head.len());
        assert_eq!(same, head, "position 0 turns nothing");
        let mut out = head.to_vec();
        rope.turn(2, &mut out, head.len());
        out
    }

    #[test]
    fn layouts_pair_other_dimensions_and_leave_the_rest() {
        let (s0, c0) = 3f32.sin_cos();
        let (s1, c1) = 0.03f32.sin_cos();
        let half = turned(RopeLayout::Half, RopeScaling::None, 4, &[1.0, 0.0, 0.0, 2.0, 9.0]);
        assert_eq!(half, [c0, -2.0 * s1, s0, 2.0 * c1, 9.0]);
        let interleaved = turned(RopeLayout::Interleaved, RopeScaling::None, 4, &[1.0, 0.0, 0.0, 2.0, 9.0]);
        assert_eq!(interleaved, [c0, s0, -2.0 * s1, 2.0 * c1, 9.0]);
    }

    #[test]
    fn long_sequences_turn_by_other_frequencies_and_longer() {
        let scaling = || RopeScaling::LongRope {
            short: vec![1.0, 1.0],
            long: vec![3.0, 1.0],
            original_context: 4,
            attention_factor: 1.0,
        };
        let of = |reach| turned(RopeLayout::Half, scaling(), reach, &[1.0, 0.0, 0.0, 0.0]);
        assert!((of(4)[0] - 3f32.cos()).abs() < 1e-6);
        assert!((of(5)[0] - 1f32.cos()).abs() < 1e-6);
    }
}
