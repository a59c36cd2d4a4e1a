//! Attention on a GPU: grouped queries over the cache's blocks, in pieces of keys that fit the working set, with the
//! online softmax of Milakov and Gimelshein (2018).

use candle_core::{D, Tensor};

use crate::candle::batch_index::{SegmentGroup, View};
use crate::candle::kv_store::LayerKv;
use crate::error::Result;
use crate::forward::attention::AttentionShape;

/// Returns each row's weighted mean of the values that it attends to; queries and the result are
/// `[rows, heads * head_dim]`.
pub(super) fn attend(
    shape: &AttentionShape<'_, Tensor>,
    view: &View,
    kv: &LayerKv,
    queries: &Tensor,
) -> Result<Tensor> {
    let queries = (queries * f64::from(shape.scale))?;
    let groups = view.groups.iter().map(|group| group.attend(shape, kv, &queries));
    let groups = groups.collect::<Result<Vec<_>>>()?;
    Ok(if groups.len() == 1 { groups[0].clone() } else { Tensor::cat(&groups, 0)? })
}

/// The softmax over the keys so far: each row's largest score, the sum of the weights relative to it, and the values
/// weighted so.
struct OnlineSoftmax {
    max: Tensor,
    sum: Tensor,
    values: Tensor,
}

impl SegmentGroup {
    fn attend(&self, shape: &AttentionShape<'_, Tensor>, kv: &LayerKv, queries: &Tensor) -> Result<Tensor> {
        let (segments, rows) = (self.segments, self.rows);
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        let group = shape.heads / kv_heads;
        // All queries that attend to the same keys are rows of one product.
        let queries = queries
            .narrow(0, self.range.start, self.range.len())?
            .reshape((segments, rows, kv_heads, group, head_dim))?
            .permute((2, 0, 3, 1, 4))?
            .reshape((kv_heads, segments, group * rows, head_dim))?;
        let mut softmax = shape.sinks.map(|sinks| self.with_sinks(sinks, &queries)).transpose()?;
        for piece in &self.pieces {
            let by_segment = (kv_heads, segments, piece.count, head_dim);
            let (keys, values) = kv.read(&piece.rows)?;
            let mut scores = queries.matmul(&keys.reshape(by_segment)?.t()?)?;
            if let Some(cap) = shape.soft_cap.map(f64::from) {
                scores = ((scores / cap)?.tanh()? * cap)?;
            }
            if let Some(mask) = &piece.mask {
                let all = (kv_heads, segments, group, rows, piece.count);
                scores = scores.reshape(all)?.broadcast_add(mask)?.reshape(scores.shape())?;
            }
            softmax = Some(OnlineSoftmax::update(softmax, &scores, &values.reshape(by_segment)?)?);
        }
        let OnlineSoftmax { sum, values, .. } = softmax.expect("a row attends to itself at least");
        Ok(values
            .broadcast_div(&sum)?
            .reshape((kv_heads, segments, group, rows, head_dim))?
            .permute((1, 3, 0, 2, 4))?
            .reshape((segments * rows, shape.heads * head_dim))?)
    }

    /// Returns the softmax over the sinks alone: tokens before all others, with values of zeros. `queries` are
    /// grouped by key head.
    fn with_sinks(&self, sinks: &Tensor, queries: &Tensor) -> Result<OnlineSoftmax> {
        let (kv_heads, segments, group_rows, _) = queries.dims4()?;
        let group = group_rows / self.rows;
        let max = sinks
            .reshape((kv_heads, 1, group, 1))?
            .broadcast_as((kv_heads, segments, group, self.rows))?
            .reshape((kv_heads, segments, group_rows, 1))?;
        Ok(OnlineSoftmax { sum: max.ones_like()?, values: queries.zeros_like()?, max })
    }
}

impl OnlineSoftmax {
    /// Adds the scores and values of more keys.
    fn update(before: Option<Self>, scores: &Tensor, values: &Tensor) -> Result<Self> {
        let mut max = scores.max_keepdim(D::Minus1)?;
        if let Some(before) = &before {
            max = max.maximum(&before.max)?;
        }
        let weights = scores.broadcast_sub(&max)?.exp()?;
        let (mut sum, mut values) = (weights.sum_keepdim(D::Minus1)?, weights.matmul(values)?);
        if let Some(before) = before {
            let shrink = (before.max - &max)?.exp()?;
            sum = (sum + (before.sum * &shrink)?)?;
            values = (values + before.values.broadcast_mul(&shrink)?)?;
        }
        Ok(Self { max, sum, values })
    }
}
