//! Attention's scores and weights for hooks. Attention itself keeps neither ([`crate::forward::attention`]), so they are
//! computed a second time, from the queries and the keys of the cache: a slow path that runs only when a hook wants it.

use crate::forward::attention::{AttentionShape, KvLayer, scores, soft_capped};
use crate::forward::batch::Segment;
use crate::forward::hooks::{Hook, HookPoint};
use crate::forward::observe::Observer;
use crate::forward::workspace::sized;
use crate::kv_cache::BLOCK_SIZE;
use crate::sys::simd::{exp, max};
use crate::sys::thread_pool::ThreadPool;

/// A layer's attention, for its scores and weights.
pub(crate) struct AttentionPattern<'a> {
    pub pool: &'a ThreadPool,
    pub shape: AttentionShape<'a>,
    pub kv: KvLayer<'a>,
}

impl AttentionPattern<'_> {
    /// Shows scores and weights to hooks that want them; `queries` are `[rows, heads * head_dim]`. The keys of the rows
    /// must be in the cache.
    pub fn show(&self, queries: &[f32], observer: &mut Observer<'_>) {
        let [on_scores, on_pattern] =
            [HookPoint::AttnScores, HookPoint::AttnPattern].map(|point| Hook::at(point, self.kv.layer));
        if !observer.wants(on_scores) && !observer.wants(on_pattern) {
            return;
        }
        let heads = self.shape.heads;
        let mut values = observer.take_scratch();
        for segment in observer.batch().segments() {
            let keys = segment.position + segment.rows.len();
            let values = sized(&mut values, segment.rows.len() * heads * keys);
            self.pool.rows(values, heads * keys, |row, out| self.scores(segment, row, queries, out));
            observer.show_attention(on_scores, segment, values);
            if observer.wants(on_pattern) {
                self.pool.rows(values, heads * keys, |row, values| {
                    for (head, scores) in values.chunks_exact_mut(keys).enumerate() {
                        softmax(&self.shape, segment.position + row, head, scores);
                    }
                });
                observer.show_attention(on_pattern, segment, values);
            }
        }
        observer.keep_scratch(values);
    }

    /// Computes the scores of one of a segment's rows, `[heads, keys]`.
    fn scores(&self, segment: &Segment, row: usize, queries: &[f32], out: &mut [f32]) {
        let Self { shape, kv, .. } = self;
        let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
        let (group, keys) = (heads / kv_heads, out.len() / heads);
        let start = (segment.rows.start + row) * heads * head_dim;
        let scaled: Vec<f32> =
            queries[start..start + heads * head_dim].iter().map(|query| query * shape.scale).collect();
        let mut wide = vec![0.0; 2 * head_dim * BLOCK_SIZE];
        let table = kv.blocks.table(segment.sequence).expect("an open sequence: the batch was checked");
        let position = segment.position + row;
        let attended = shape.attended(position);
        out.fill(f32::NEG_INFINITY);
        for index in attended.start / BLOCK_SIZE..attended.end.div_ceil(BLOCK_SIZE) {
            let (first, visible) = (index * BLOCK_SIZE, shape.visible(position, index));
            let block = table.slot(first).block;
            for kv_head in 0..kv_heads {
                let (block_keys, _) = kv.store.read(kv.layer, block, kv_head).to_f32(&mut wide);
                for head in kv_head * group..(kv_head + 1) * group {
                    let of_block = scores(&scaled[head * head_dim..(head + 1) * head_dim], block_keys);
                    let out = &mut out[head * keys + first..][visible.clone()];
                    for (out, score) in out.iter_mut().zip(&of_block[visible.clone()]) {
                        *out = shape.soft_cap.map_or(*score, |cap| soft_capped(*score, cap));
                    }
                }
            }
        }
    }
}

/// Makes weights of the scores of one row and head.
fn softmax(shape: &AttentionShape<'_>, position: usize, head: usize, scores: &mut [f32]) {
    let attended = shape.attended(position);
    scores[..attended.start].fill(0.0);
    scores[attended.end..].fill(0.0);
    let scores = &mut scores[attended];
    let sink = shape.sinks.map(|sinks| sinks[head]);
    let largest = max(scores).max(sink.unwrap_or(f32::NEG_INFINITY));
    // A sink takes its share of the weight, and no key has it.
    let mut total = sink.map_or(0.0, |sink| exp(sink - largest));
    for score in &mut *scores {
        *score = exp(*score - largest);
        total += *score;
    }
    for score in scores {
        *score /= total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(shape: &AttentionShape<'_>, position: usize, scores: &[f32]) -> Vec<f32> {
        let mut scores = scores.to_vec();
        softmax(shape, position, 0, &mut scores);
        scores
    }

    #[test]
    fn weights_are_zero_outside_the_window_and_sinks_take_their_share() {
        let (window, sinks) = (Some(2), None);
        let shape =
            AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, scale: 1.0, window, soft_cap: None, sinks };
        let masked = f32::NEG_INFINITY;
        let got = weights(&shape, 2, &[masked, 0.0, 3f32.ln(), masked]);
        assert_eq!((got[0], got[3]), (0.0, 0.0));
        assert!((got[1] - 0.25).abs() < 1e-6 && (got[2] - 0.75).abs() < 1e-6, "{got:?}");
        // Four shares, of which the sink takes two.
        let sinks = [2f32.ln()];
        let got = weights(&AttentionShape { sinks: Some(&sinks), ..shape }, 1, &[0.0, 0.0]);
        assert!(got.iter().all(|weight| (weight - 0.25).abs() < 1e-6), "{got:?}");
    }
}
