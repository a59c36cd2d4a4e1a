//! The forward pass on a device: the same spec, the same layers as the host's ([`crate::decoder`]), over candle's tensors.
//!
//! Numbers are f32 between layers; weights and the cache are of the types they were stored as.

use std::ops::Range;

use candle_core::{D, Device, Tensor};
use millm_model::spec::{Block, NormPlace};
use millm_model::{Checkpoint, ModelSpec, RopeLayout, TensorData};

use crate::attention::Shape;
use crate::batch::Batch;
use crate::cache::KvCache;
use crate::decoder::Layer;
use crate::embedding::Embedding;
use crate::error::Result;
use crate::linear::Weight;
use crate::load::{LoadProgress, Make, Reader};
use crate::norm;
use crate::rope::Rope;
use crate::taps::{HookPoint, NoTaps, Taps};

use super::attention::attend;
use super::linear::Linear;
use super::norm::Norm;
use super::pass::{AT_A_TIME, Pass};
use super::rows::Rows;

/// A model ready to run on a device.
pub struct Decoder {
    spec: ModelSpec,
    device: Device,
    embedding: Embedding,
    layers: Vec<Layer<Linear, Norm, Tensor>>,
    norm: Norm,
    output: Linear,
    ropes: Vec<Rope>,
    /// Numbers in attention's work at a time, see [`AT_A_TIME`].
    pub(super) at_a_time: usize,
    /// Of the last pass.
    logits: Vec<f32>,
}

impl Make for Device {
    type Linear = Linear;
    type Norm = Norm;
    type Vector = Tensor;

    fn table(&self, data: TensorData<'_>, rows: usize, columns: usize) -> Result<Weight> {
        Weight::as_stored(data, rows, columns)
    }

    fn linear(&self, data: TensorData<'_>, bias: Option<Vec<f32>>) -> Result<Linear> {
        Linear::read(self, data, bias)
    }

    fn norm(&self, norm: norm::Norm) -> Result<Norm> {
        Norm::new(self, norm)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor> {
        Ok(Tensor::new(values, self)?)
    }
}

impl Decoder {
    /// Copies the weights to the device; the checkpoint may go afterwards.
    pub fn load(
        checkpoint: &Checkpoint,
        device: Device,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        let spec = checkpoint.spec().clone();
        let mut reader = Reader::new(checkpoint, &device, progress)?;
        let embedding = reader.embedding(&spec)?;
        let layers = reader.layers(&spec)?;
        let norm = reader.norm(&spec, "output_norm")?;
        let output = if spec.tied_embeddings {
            let bias = reader.logit_bias(&spec)?;
            Linear::read(&device, checkpoint.tensor("token_embd.weight")?.data(), bias)?
        } else {
            reader.linear("output", spec.vocabulary_size, spec.hidden_size, spec.logit_bias)?
        };
        let ropes = spec.ropes.iter().cloned().map(Rope::new).collect();
        Ok(Self {
            spec,
            device,
            embedding,
            layers,
            norm,
            output,
            ropes,
            at_a_time: AT_A_TIME,
            logits: Vec::new(),
        })
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Memory of the weights, the host's for the embeddings included.
    pub fn weight_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(Layer::bytes_held).sum::<usize>();
        (self.embedding.bytes() + self.output.bytes + self.norm.bytes + layers) as u64
    }

    /// As [`crate::decoder::Decoder::forward`]; `cache` is the device's.
    pub fn forward(&mut self, batch: &Batch, cache: &mut KvCache, taps: &mut dyn Taps) -> Result<&[f32]> {
        batch.check(cache, self.spec.vocabulary_size)?;
        self.logits.clear();
        if batch.is_empty() {
            return Ok(&self.logits);
        }
        let pass = Pass::new(&self.spec, &self.device, &mut self.ropes, batch, cache, self.at_a_time)?;
        let mut residual = self.embed(batch)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let (spec, block) = (&self.spec, &self.spec.blocks[index]);
            let attention = layer.attention(spec, block, &pass, cache.rows(index), &residual)?;
            show(HookPoint::Attention, index, &attention, batch, taps)?;
            let attention = finish(spec, layer.attention_after.as_ref(), attention)?;
            let joined = (&residual + attention)?;
            let mlp = layer.mlp_of(spec, if spec.parallel_residual { &residual } else { &joined })?;
            show(HookPoint::Mlp, index, &mlp, batch, taps)?;
            residual = (joined + finish(spec, layer.mlp_after.as_ref(), mlp)?)?;
            show(HookPoint::Residual, index, &residual, batch, taps)?;
        }
        if !batch.outputs().is_empty() {
            self.logits = self.logits_of(batch, &residual)?;
        }
        for segment in batch.segments() {
            cache.advance(segment.sequence, segment.rows.len());
        }
        Ok(&self.logits)
    }

    /// As [`crate::decoder::Decoder::forward_layers`], but all with the last: what a device takes for a chunk is short.
    pub fn forward_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        cache: &mut KvCache,
    ) -> Result<Option<&[f32]>> {
        if layers.end < self.layers.len() {
            return Ok(None);
        }
        self.forward(batch, cache, &mut NoTaps).map(Some)
    }

    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let (rows, hidden) = (batch.tokens().len(), self.spec.hidden_size);
        let mut residual = vec![0.0; rows * hidden];
        self.embedding.rows(batch, &mut residual, &mut vec![0.0; hidden])?;
        Ok(Tensor::from_vec(residual, (rows, hidden), &self.device)?)
    }

    fn logits_of(&self, batch: &Batch, residual: &Tensor) -> Result<Vec<f32>> {
        let rows: Vec<u32> = batch.outputs().iter().map(|row| *row as u32).collect();
        let rows = residual.index_select(&Tensor::new(rows, &self.device)?, 0)?;
        let mut logits = scaled(self.output.forward(&self.norm.forward(&rows)?)?, self.spec.logit_scale)?;
        if let Some(cap) = self.spec.logit_soft_cap.map(f64::from) {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        Ok(logits.flatten_all()?.to_vec1()?)
    }
}

impl Layer<Linear, Norm, Tensor> {
    fn attention(
        &self,
        spec: &ModelSpec,
        block: &Block,
        pass: &Pass,
        cache: &Rows,
        residual: &Tensor,
    ) -> Result<Tensor> {
        let input = given(self.attention_norm.as_ref(), residual)?;
        let place = |linear: &Linear, norm: Option<&Norm>, heads: usize| {
            let states = given(norm, &linear.forward(&input)?)?;
            let states = states.reshape(((), heads, spec.head_dim))?;
            match block.rope {
                Some(rope) => turned(spec.ropes[rope].layout, &pass.turns[rope], &states),
                None => Ok(states),
            }
        };
        let queries = place(&self.query, self.query_norm.as_ref(), spec.heads)?;
        let keys = place(&self.key, self.key_norm.as_ref(), spec.kv_heads)?;
        let values = self.value.forward(&input)?.reshape(keys.shape())?;
        cache.write(&pass.places, &keys.transpose(0, 1)?, &values.transpose(0, 1)?)?;
        let shape = Shape::of(spec, block, self.sinks.as_ref());
        let mixed = attend(&shape, pass.view(block.window), cache, &queries.flatten_from(1)?)?;
        self.attention_output.forward(&mixed)
    }

    fn mlp_of(&self, spec: &ModelSpec, residual: &Tensor) -> Result<Tensor> {
        let norm = match spec.norm.place {
            NormPlace::BeforeShared => &self.attention_norm,
            _ => &self.mlp_norm,
        };
        self.mlp.run(spec.activation, &given(norm.as_ref(), residual)?)
    }

    fn bytes_held(&self) -> usize {
        let Self { attention_norm, query_norm, key_norm, attention_after, mlp_norm, mlp_after, .. } = self;
        let norms = [attention_norm, query_norm, key_norm, attention_after, mlp_norm, mlp_after];
        let linears = [&self.query, &self.key, &self.value, &self.attention_output];
        norms.into_iter().flatten().map(|norm| norm.bytes).sum::<usize>()
            + linears.into_iter().map(|linear| linear.bytes).sum::<usize>()
            + self.sinks.as_ref().map_or(0, |sinks| 4 * sinks.elem_count())
            + self.mlp.bytes()
    }
}

/// Rows as they are, or normed where there is a norm.
fn given(norm: Option<&Norm>, rows: &Tensor) -> Result<Tensor> {
    norm.map_or_else(|| Ok(rows.clone()), |norm| norm.forward(rows))
}

/// Makes of what a module gave what is added to the residual.
fn finish(spec: &ModelSpec, norm: Option<&Norm>, delta: Tensor) -> Result<Tensor> {
    scaled(given(norm, &delta)?, spec.residual_scale)
}

fn scaled(values: Tensor, factor: f32) -> Result<Tensor> {
    if factor.to_bits() == 1f32.to_bits() {
        return Ok(values);
    }
    Ok((values * f64::from(factor))?)
}

/// Pairs of dimensions of `[rows, heads, head_dim]` turned by the angles whose cosines and sines are given.
fn turned(layout: RopeLayout, (cos, sin): &(Tensor, Tensor), states: &Tensor) -> Result<Tensor> {
    let (rows, heads, head_dim) = states.dims3()?;
    let pairs = cos.dim(D::Minus1)?;
    let first = states.narrow(2, 0, 2 * pairs)?;
    let (a, b) = match layout {
        RopeLayout::Half => (first.narrow(2, 0, pairs)?, first.narrow(2, pairs, pairs)?),
        RopeLayout::Interleaved => {
            let of_two = first.reshape((rows, heads, pairs, 2))?;
            (of_two.narrow(3, 0, 1)?.squeeze(3)?, of_two.narrow(3, 1, 1)?.squeeze(3)?)
        }
    };
    let turned_a = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let turned_b = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    let turned = match layout {
        RopeLayout::Half => Tensor::cat(&[turned_a, turned_b], 2)?,
        RopeLayout::Interleaved => Tensor::stack(&[turned_a, turned_b], 3)?.flatten_from(2)?,
    };
    let rest = head_dim - 2 * pairs;
    if rest == 0 {
        return Ok(turned);
    }
    Ok(Tensor::cat(&[turned, states.narrow(2, 2 * pairs, rest)?], 2)?)
}

/// Brings states to the host for who wants them.
fn show(point: HookPoint, layer: usize, states: &Tensor, batch: &Batch, taps: &mut dyn Taps) -> Result<()> {
    if taps.wants(point, layer) {
        taps.take(point, layer, &states.flatten_all()?.to_vec1::<f32>()?, batch);
    }
    Ok(())
}
