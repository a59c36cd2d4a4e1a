//! Rotary position embedding (Su et al., 2021): pairs of dimensions turned by an angle that grows with the position.

use millm_model::{RopeLayout, RopeSpec};

/// Cosines and sines of the rows of one batch, shared by all layers.
pub struct Rope {
    spec: RopeSpec,
    /// `[rows, pairs]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    pub fn new(spec: RopeSpec) -> Self {
        Self { spec, cos: Vec::new(), sin: Vec::new() }
    }

    /// Prepares for rows at these positions.
    pub fn prepare(&mut self, positions: &[usize]) {
        self.cos.clear();
        self.sin.clear();
        for position in positions {
            for frequency in &self.spec.inverse_frequencies {
                let (sin, cos) = (*position as f32 * frequency).sin_cos();
                self.cos.push(cos * self.spec.attention_factor);
                self.sin.push(sin * self.spec.attention_factor);
            }
        }
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
    use super::*;

    fn turned(layout: RopeLayout, head: &[f32]) -> Vec<f32> {
        let spec = RopeSpec { layout, inverse_frequencies: vec![1.0, 0.5], attention_factor: 1.0 };
        let mut rope = Rope::new(spec);
        rope.prepare(&[0, 3]);
        let mut same = head.to_vec();
        rope.turn(0, &mut same, head.len());
        assert_eq!(same, head, "position 0 turns nothing");
        let mut out = head.to_vec();
        rope.turn(1, &mut out, head.len());
        out
    }

    #[test]
    fn layouts_pair_other_dimensions_and_leave_the_rest() {
        let (s0, c0) = 3f32.sin_cos();
        let (s1, c1) = 1.5f32.sin_cos();
        assert_eq!(turned(RopeLayout::Half, &[1.0, 0.0, 0.0, 2.0, 9.0]), [c0, -2.0 * s1, s0, 2.0 * c1, 9.0]);
        assert_eq!(
            turned(RopeLayout::Interleaved, &[1.0, 0.0, 0.0, 2.0, 9.0]),
            [c0, s0, -2.0 * s1, 2.0 * c1, 9.0]
        );
    }
}
