//! Norms on a GPU.

use candle_core::{D, Device, Tensor};
use millm_model::arch::NormKind;

use crate::error::Result;
use crate::forward::norm::Norm;

/// A norm of spans of rows, as [`Norm`].
pub(crate) struct CandleNorm {
    kind: NormKind,
    eps: f64,
    span: usize,
    /// `[spans, span]`, or `[1, span]` if all spans have the same weights.
    weight: Tensor,
    bias: Option<Tensor>,
    pub bytes: usize,
}

impl CandleNorm {
    /// Copies a norm to a device.
    pub fn new(device: &Device, norm: Norm) -> Result<Self> {
        let bytes = norm.bytes();
        let Norm { kind, eps, span, weight, bias } = norm;
        let spans = (weight.len() / span, span);
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, spans, device);
        let bias = bias.map(tensor).transpose()?;
        Ok(Self { kind, eps: f64::from(eps), span, weight: tensor(weight)?, bias, bytes })
    }

    /// Returns rows, `[rows, width]`, with all spans normed.
    pub fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let normed = self.spans(rows)?.broadcast_mul(&self.weight)?;
        let normed = match &self.bias {
            Some(bias) => normed.broadcast_add(bias)?,
            None => normed,
        };
        Ok(normed.reshape(rows.shape())?)
    }

    /// Returns rows, `[rows, width]`, with all spans normed, without weights and bias.
    pub fn before_gain(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(self.spans(rows)?.reshape(rows.shape())?)
    }

    /// Returns the normed spans of rows without weights and bias, `[rows, spans, span]`.
    fn spans(&self, rows: &Tensor) -> Result<Tensor> {
        let (count, width) = rows.dims2()?;
        let mut spans = rows.reshape((count, width / self.span, self.span))?;
        if self.kind == NormKind::Layer {
            spans = spans.broadcast_sub(&spans.mean_keepdim(D::Minus1)?)?;
        }
        let scale = (spans.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        Ok(spans.broadcast_div(&scale)?)
    }
}
