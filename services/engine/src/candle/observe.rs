//! Copies a GPU's states to the host for hooks that want them, and computes what only hooks need: attention's scores and
//! weights, which attention itself does not keep.

use candle_core::{D, Tensor};
use millm_model::ModelSpec;

use crate::candle::kv_store::LayerKv;
use crate::error::Result;
use crate::forward::attention::AttentionShape;
use crate::forward::batch::Segment;
use crate::forward::hooks::{Hook, HookPoint};
use crate::forward::observe::Observer;
use crate::kv_cache::BlockPool;

/// Shows states to hooks that want them.
pub(super) fn show(observer: &mut Observer<'_>, hook: Hook, states: &Tensor) -> Result<()> {
    if observer.wants(hook) {
        observer.show(hook, &numbers(states)?);
    }
    Ok(())
}

/// Shows queries or keys to hooks that want them, `[rows, heads * head_dim]` or `[rows, heads, head_dim]`.
pub(super) fn show_heads(
    observer: &mut Observer<'_>,
    hook: Hook,
    spec: &ModelSpec,
    states: &Tensor,
) -> Result<()> {
    if observer.wants(hook) {
        observer.show_heads(hook, spec, &numbers(states)?);
    }
    Ok(())
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// A layer's attention, for its scores and weights.
pub(super) struct AttentionPattern<'a> {
    pub shape: &'a AttentionShape<'a, Tensor>,
    pub layer: usize,
    pub blocks: &'a BlockPool,
    pub kv: &'a LayerKv,
}

impl AttentionPattern<'_> {
    /// Shows scores and weights to hooks that want them; `queries` are `[rows, heads * head_dim]`. The keys of the rows
    /// must be in the cache.
    pub fn show(&self, queries: &Tensor, observer: &mut Observer<'_>) -> Result<()> {
        let [on_scores, on_pattern] =
            [HookPoint::AttnScores, HookPoint::AttnPattern].map(|point| Hook::at(point, self.layer));
        if !observer.wants(on_scores) && !observer.wants(on_pattern) {
            return Ok(());
        }
        for segment in observer.batch().segments() {
            let scores = self.scores(segment, queries)?;
            if observer.wants(on_scores) {
                observer.show_attention(on_scores, segment, &by_row(&scores)?);
            }
            if observer.wants(on_pattern) {
                observer.show_attention(on_pattern, segment, &by_row(&self.weights(&scores)?)?);
            }
        }
        Ok(())
    }

    /// Returns the scores of a segment, `[heads, rows, keys]`.
    fn scores(&self, segment: &Segment, queries: &Tensor) -> Result<Tensor> {
        let &AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (rows, keys) = (segment.rows.len(), segment.position + segment.rows.len());
        let table = self.blocks.table(segment.sequence).expect("an open sequence: the batch was checked");
        let slots: Vec<u32> = (0..keys).map(|position| LayerKv::row(table.slot(position))).collect();
        let (of_keys, _) = self.kv.read(&Tensor::from_vec(slots, keys, queries.device())?)?;
        // The query heads of a key head are rows of one product.
        let queries = (queries.narrow(0, segment.rows.start, rows)? * f64::from(self.shape.scale))?
            .reshape((rows, heads, head_dim))?
            .transpose(0, 1)?
            .reshape((kv_heads, heads / kv_heads * rows, head_dim))?;
        let mut scores = queries.matmul(&of_keys.t()?)?.reshape((heads, rows, keys))?;
        if let Some(cap) = self.shape.soft_cap.map(f64::from) {
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        let window = self.shape.window;
        let mask: Vec<f32> = (segment.position..keys)
            .flat_map(|row| {
                let visible = move |key| key <= row && window.is_none_or(|window| key + window > row);
                (0..keys).map(move |key| if visible(key) { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        Ok(scores.broadcast_add(&Tensor::from_vec(mask, (1, rows, keys), scores.device())?)?)
    }

    /// Returns the weights that scores give, `[heads, rows, keys]` each.
    fn weights(&self, scores: &Tensor) -> Result<Tensor> {
        let sinks = self.shape.sinks.map(|sinks| sinks.reshape((self.shape.heads, 1, 1))).transpose()?;
        let mut largest = scores.max_keepdim(D::Minus1)?;
        if let Some(sinks) = &sinks {
            largest = largest.broadcast_maximum(sinks)?;
        }
        let weights = scores.broadcast_sub(&largest)?.exp()?;
        let mut total = weights.sum_keepdim(D::Minus1)?;
        if let Some(sinks) = &sinks {
            // A sink takes its share of the weight, and no key has it.
            total = (total + sinks.broadcast_sub(&largest)?.exp()?)?;
        }
        Ok(weights.broadcast_div(&total)?)
    }
}

/// Returns numbers `[heads, rows, keys]` in the order `[rows, heads, keys]`.
fn by_row(of: &Tensor) -> Result<Vec<f32>> {
    numbers(&of.transpose(0, 1)?)
}
