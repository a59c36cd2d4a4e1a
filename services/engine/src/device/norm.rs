//! Norms on a device.

use candle_core::{D, Device, Tensor};
use millm_model::spec::NormKind;

use crate::error::Result;
use crate::norm;

/// Of spans of rows, as [`norm::Norm`].
pub(crate) struct Norm {
    kind: NormKind,
    eps: f64,
    span: usize,
    /// `[spans, span]`, or `[1, span]` where all have the same.
    weight: Tensor,
    bias: Option<Tensor>,
    pub bytes: usize,
}

impl Norm {
    pub fn new(device: &Device, norm: norm::Norm) -> Result<Self> {
        let bytes = norm.bytes();
        let norm::Norm { kind, eps, span, weight, bias } = norm;
        let spans = (weight.len() / span, span);
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, spans, device);
        let bias = bias.map(tensor).transpose()?;
        Ok(Self { kind, eps: f64::from(eps), span, weight: tensor(weight)?, bias, bytes })
    }

    /// All spans of rows, `[rows, width]`.
    pub fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let (count, width) = rows.dims2()?;
        let mut spans = rows.reshape((count, width / self.span, self.span))?;
        if self.kind == NormKind::Layer {
            spans = spans.broadcast_sub(&spans.mean_keepdim(D::Minus1)?)?;
        }
        let scale = (spans.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        let normed = spans.broadcast_div(&scale)?.broadcast_mul(&self.weight)?;
        let normed = match &self.bias {
            Some(bias) => normed.broadcast_add(bias)?,
            None => normed,
        };
        Ok(normed.reshape((count, width))?)
    }
}
