//! Attention on a device: grouped queries over the cache's pages, as many keys at a time as there is memory set aside
//! for, with the running softmax of Milakov and Gimelshein (2018).

use candle_core::{D, Tensor};

use crate::attention::Shape;
use crate::error::Result;

use super::pass::{Group, View};
use super::rows::Rows;

/// What each row makes of the values that it sees; queries and the answer are `[rows, heads * head_dim]`.
pub(super) fn attend(
    shape: &Shape<'_, Tensor>,
    view: &View,
    cache: &Rows,
    queries: &Tensor,
) -> Result<Tensor> {
    let queries = (queries * f64::from(shape.scale))?;
    let mixed = view.groups.iter().map(|group| group.attend(shape, cache, &queries));
    let mixed = mixed.collect::<Result<Vec<_>>>()?;
    Ok(if mixed.len() == 1 { mixed[0].clone() } else { Tensor::cat(&mixed, 0)? })
}

/// Of the keys met so far: each row's highest score, the sum of the weights relative to that, and the values so weighed.
struct Mixed {
    most: Tensor,
    sum: Tensor,
    values: Tensor,
}

impl Group {
    fn attend(&self, shape: &Shape<'_, Tensor>, cache: &Rows, queries: &Tensor) -> Result<Tensor> {
        let (segments, rows) = (self.segments, self.rows);
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        let each = shape.heads / kv_heads;
        // All queries that meet the same keys are rows of one product.
        let queries = queries
            .narrow(0, self.range.start, self.range.len())?
            .reshape((segments, rows, kv_heads, each, head_dim))?
            .permute((2, 0, 3, 1, 4))?
            .reshape((kv_heads, segments, each * rows, head_dim))?;
        let mut mixed = shape.sinks.map(|sinks| self.seen_first(sinks, &queries)).transpose()?;
        for keys in &self.keys {
            let by_segment = (kv_heads, segments, keys.count, head_dim);
            let (some, values) = cache.read(&keys.rows)?;
            let mut scores = queries.matmul(&some.reshape(by_segment)?.t()?)?;
            if let Some(cap) = shape.soft_cap.map(f64::from) {
                scores = ((scores / cap)?.tanh()? * cap)?;
            }
            if let Some(unseen) = &keys.unseen {
                let all = (kv_heads, segments, each, rows, keys.count);
                scores = scores.reshape(all)?.broadcast_add(unseen)?.reshape(scores.shape())?;
            }
            mixed = Some(Mixed::add(mixed, &scores, &values.reshape(by_segment)?)?);
        }
        let Mixed { sum, values, .. } = mixed.expect("a row sees itself at least");
        Ok(values
            .broadcast_div(&sum)?
            .reshape((kv_heads, segments, each, rows, head_dim))?
            .permute((1, 3, 0, 2, 4))?
            .reshape((segments * rows, shape.heads * head_dim))?)
    }
}

impl Group {
    /// A token of this score and a value of zeros, before all others. `queries` are grouped by key.
    fn seen_first(&self, sinks: &Tensor, queries: &Tensor) -> Result<Mixed> {
        let (kv_heads, segments, of_each, _) = queries.dims4()?;
        let each = of_each / self.rows;
        let most = sinks
            .reshape((kv_heads, 1, each, 1))?
            .broadcast_as((kv_heads, segments, each, self.rows))?
            .reshape((kv_heads, segments, of_each, 1))?;
        Ok(Mixed { sum: most.ones_like()?, values: queries.zeros_like()?, most })
    }
}

impl Mixed {
    fn add(before: Option<Self>, scores: &Tensor, values: &Tensor) -> Result<Self> {
        let mut most = scores.max_keepdim(D::Minus1)?;
        if let Some(before) = &before {
            most = most.maximum(&before.most)?;
        }
        let weights = scores.broadcast_sub(&most)?.exp()?;
        let (mut sum, mut values) = (weights.sum_keepdim(D::Minus1)?, weights.matmul(values)?);
        if let Some(before) = before {
            let less = (before.most - &most)?.exp()?;
            sum = (sum + (before.sum * &less)?)?;
            values = (values + before.values.broadcast_mul(&less)?)?;
        }
        Ok(Self { most, sum, values })
    }
}
