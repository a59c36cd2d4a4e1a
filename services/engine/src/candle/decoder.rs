//! The decoder on a GPU: the same spec and the same layers as the host's ([`crate::forward::decoder`]), over candle's
//! tensors.
//!
//! States are f32 between layers. Weights have the type of the file, keys and values that of the cache.

use std::ops::Range;

use candle_core::{D, Device, Tensor};
use millm_model::arch::NormPlace;
use millm_model::{Checkpoint, ModelSpec, RopeLayout, TensorData};

use crate::candle::attention::attend;
use crate::candle::batch_index::{BatchIndex, IndexContext, MAX_WORKING_SET};
use crate::candle::kv_store::{CandleKvStore, LayerKv};
use crate::candle::linear::CandleLinear;
use crate::candle::mlp::MlpObserver;
use crate::candle::norm::CandleNorm;
use crate::candle::observe::{AttentionPattern, show, show_heads};
use crate::error::Result;
use crate::forward::Forward;
use crate::forward::attention::AttentionShape;
use crate::forward::batch::Batch;
use crate::forward::decoder::Layer;
use crate::forward::embedding::Embedding;
use crate::forward::hooks::{Hook, HookPoint, Hooks};
use crate::forward::linear::Weight;
use crate::forward::load::{Backend, LoadProgress, TensorReader};
use crate::forward::norm::Norm;
use crate::forward::observe::Observer;
use crate::forward::rope::Rope;
use crate::kv_cache::{BlockCopy, BlockPool, KvType};

/// A model on a device of candle's.
pub struct CandleDecoder {
    spec: ModelSpec,
    device: Device,
    embedding: Embedding,
    layers: Vec<Layer<CandleLinear, CandleNorm, Tensor>>,
    norm: CandleNorm,
    output: CandleLinear,
    ropes: Vec<Rope>,
    kv_store: CandleKvStore,
    /// See [`MAX_WORKING_SET`].
    pub(super) max_working_set: usize,
    /// The logits of the last pass.
    logits: Vec<f32>,
}

impl Backend for Device {
    type Linear = CandleLinear;
    type Norm = CandleNorm;
    type Vector = Tensor;

    fn table(&self, data: TensorData<'_>, rows: usize, columns: usize) -> Result<Weight> {
        Weight::load_table(data, rows, columns)
    }

    fn linear(&self, data: TensorData<'_>, bias: Option<Vec<f32>>) -> Result<CandleLinear> {
        CandleLinear::load(self, data, bias)
    }

    fn norm(&self, norm: Norm) -> Result<CandleNorm> {
        CandleNorm::new(self, norm)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor> {
        Ok(Tensor::new(values, self)?)
    }
}

impl Forward for CandleDecoder {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Includes the embeddings, which the host holds.
    fn weight_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(Layer::bytes_on_device).sum::<usize>();
        (self.embedding.bytes() + self.output.bytes + self.norm.bytes + layers) as u64
    }

    fn forward(&mut self, batch: &Batch, blocks: &mut BlockPool, hooks: &mut dyn Hooks) -> Result<&[f32]> {
        batch.check(blocks, self.spec.vocabulary_size)?;
        self.logits.clear();
        if batch.is_empty() {
            return Ok(&self.logits);
        }
        let context = IndexContext {
            spec: &self.spec,
            device: &self.device,
            blocks,
            max_working_set: self.max_working_set,
        };
        let index = &BatchIndex::new(&context, &mut self.ropes, batch)?;
        let observer = &mut Observer::new(hooks, batch);
        let mut residual = self.embed(observer)?;
        for (number, layer) in self.layers.iter().enumerate() {
            let (spec, kv) = (&self.spec, self.kv_store.layer(number));
            residual = layer.run(&LayerContext { spec, number, index, blocks, kv }, residual, observer)?;
        }
        self.logits = self.logits_of(&residual, observer)?;
        for segment in batch.segments() {
            blocks.advance(segment.sequence, segment.rows.len());
        }
        Ok(&self.logits)
    }

    /// Runs all layers with the last: a GPU's prefill passes are short.
    fn forward_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        blocks: &mut BlockPool,
        hooks: &mut dyn Hooks,
    ) -> Result<Option<&[f32]>> {
        if layers.end < self.layers.len() {
            return Ok(None);
        }
        self.forward(batch, blocks, hooks).map(Some)
    }

    fn logits(&self) -> &[f32] {
        &self.logits
    }

    fn copy_block(&mut self, copy: BlockCopy) -> Result<()> {
        self.kv_store.copy_block(copy)
    }
}

impl CandleDecoder {
    /// Copies the weights to the device; the checkpoint may be dropped afterwards. There is no KV cache yet, see
    /// [`CandleDecoder::with_kv_cache`].
    ///
    /// # Errors
    /// Returns an error if a tensor is missing or has another shape than the spec says, or if there is too little
    /// memory.
    pub fn load(
        checkpoint: &Checkpoint,
        device: Device,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        let spec = checkpoint.spec().clone();
        let mut reader = TensorReader::new(checkpoint, &device, progress)?;
        let embedding = reader.embedding(&spec)?;
        let layers = reader.layers(&spec)?;
        let norm = reader.norm(&spec, "output_norm")?;
        let output = if spec.tied_embeddings {
            let bias = reader.logit_bias(&spec)?;
            CandleLinear::load(&device, checkpoint.tensor("token_embd.weight")?.data(), bias)?
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
            kv_store: CandleKvStore::empty(),
            max_working_set: MAX_WORKING_SET,
            logits: Vec::new(),
        })
    }

    /// Replaces the KV cache by an empty one with room for `blocks` blocks.
    ///
    /// # Errors
    /// Returns an error if the device has too little memory.
    pub fn with_kv_cache(self, kv_type: KvType, blocks: usize) -> Result<Self> {
        let kv_store = CandleKvStore::new(&self.device, &self.spec, kv_type, blocks)?;
        Ok(Self { kv_store, ..self })
    }

    fn embed(&self, observer: &mut Observer<'_>) -> Result<Tensor> {
        let batch = observer.batch();
        let (rows, hidden) = (batch.tokens().len(), self.spec.hidden_size);
        let mut residual = vec![0.0; rows * hidden];
        self.embedding.embed(batch, &mut residual);
        observer.show(Hook::global(HookPoint::Embed), &residual);
        self.embedding.add_positions(batch, &mut residual, &mut vec![0.0; hidden])?;
        Ok(Tensor::from_vec(residual, (rows, hidden), &self.device)?)
    }

    fn logits_of(&self, residual: &Tensor, observer: &mut Observer<'_>) -> Result<Vec<f32>> {
        let final_norm = Hook::global(HookPoint::FinalNorm);
        if observer.wants(final_norm) {
            show(observer, final_norm, &self.norm.forward(residual)?)?;
        }
        let rows: Vec<u32> = observer.batch().outputs().iter().map(|row| *row as u32).collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let rows = residual.index_select(&Tensor::new(rows, &self.device)?, 0)?;
        let mut logits = scaled(self.output.forward(&self.norm.forward(&rows)?)?, self.spec.logit_scale)?;
        if let Some(cap) = self.spec.logit_soft_cap.map(f64::from) {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        observer.show(Hook::global(HookPoint::Logits), &logits);
        Ok(logits)
    }
}

/// The layer that runs.
struct LayerContext<'a> {
    spec: &'a ModelSpec,
    number: usize,
    index: &'a BatchIndex,
    blocks: &'a BlockPool,
    kv: &'a LayerKv,
}

impl Layer<CandleLinear, CandleNorm, Tensor> {
    /// Returns the residual after the layer for the residual before it, `[rows, hidden]` each.
    fn run(
        &self,
        context: &LayerContext<'_>,
        residual: Tensor,
        observer: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let spec = context.spec;
        let at = |point| Hook::at(point, context.number);
        show(observer, at(HookPoint::ResidPre), &residual)?;
        let attention = self.attention(context, &residual, observer)?;
        show(observer, at(HookPoint::Attn), &attention)?;
        let attention = norm_and_scale(spec, self.post_attention_norm.as_ref(), attention)?;
        show(observer, at(HookPoint::AttnOut), &attention)?;
        let joined = (&residual + attention)?;
        let before_mlp = if spec.parallel_residual {
            residual
        } else {
            show(observer, at(HookPoint::ResidMid), &joined)?;
            joined.clone()
        };
        let mlp = self.mlp_output(context, &before_mlp, observer)?;
        show(observer, at(HookPoint::Mlp), &mlp)?;
        let mlp = norm_and_scale(spec, self.post_mlp_norm.as_ref(), mlp)?;
        show(observer, at(HookPoint::MlpOut), &mlp)?;
        let residual = (joined + mlp)?;
        show(observer, at(HookPoint::ResidPost), &residual)?;
        Ok(residual)
    }

    /// Returns attention's output for the residual, `[rows, hidden]` each, and stores the rows' keys and values.
    fn attention(
        &self,
        context: &LayerContext<'_>,
        residual: &Tensor,
        observer: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let LayerContext { spec, number, index, blocks, kv } = *context;
        let layer = &spec.layer_specs[number];
        let at = |point| Hook::at(point, number);
        let norm = self.attention_norm.as_ref();
        show_before_gain(observer, at(HookPoint::AttnNorm), norm, residual)?;
        let input = normed(norm, residual)?;
        show(observer, at(HookPoint::AttnIn), &input)?;
        let queries = self.query.forward(&input)?;
        show_heads(observer, at(HookPoint::Query), spec, &queries)?;
        let keys = self.key.forward(&input)?;
        show_heads(observer, at(HookPoint::Key), spec, &keys)?;
        let values = self.value.forward(&input)?;
        show(observer, at(HookPoint::Value), &values)?;
        let norm_and_rotate = |states: &Tensor, norm: Option<&CandleNorm>| {
            let states = normed(norm, states)?.reshape((states.dim(0)?, (), spec.head_dim))?;
            match layer.rope {
                Some(rope) => rotated(spec.ropes[rope].layout, &index.rotations[rope], &states),
                None => Ok(states),
            }
        };
        let queries = norm_and_rotate(&queries, self.query_norm.as_ref())?;
        let keys = norm_and_rotate(&keys, self.key_norm.as_ref())?;
        show_heads(observer, at(HookPoint::QueryRotated), spec, &queries)?;
        show_heads(observer, at(HookPoint::KeyRotated), spec, &keys)?;
        let values = values.reshape(keys.shape())?;
        kv.write(&index.slots, &keys.transpose(0, 1)?, &values.transpose(0, 1)?)?;
        let queries = queries.flatten_from(1)?;
        let shape = &AttentionShape::of(spec, layer, self.sinks.as_ref());
        AttentionPattern { shape, layer: number, blocks, kv }.show(&queries, observer)?;
        let attended = attend(shape, index.view(layer.window), kv, &queries)?;
        show(observer, at(HookPoint::HeadOutput), &attended)?;
        self.attention_output.forward(&attended)
    }

    /// Returns the MLP's output for the residual, `[rows, hidden]` each.
    fn mlp_output(
        &self,
        context: &LayerContext<'_>,
        residual: &Tensor,
        observer: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let LayerContext { spec, number: layer, .. } = *context;
        let norm = match spec.norm.place {
            NormPlace::BeforeShared => self.attention_norm.as_ref(),
            _ => self.mlp_norm.as_ref(),
        };
        show_before_gain(observer, Hook::at(HookPoint::MlpNorm, layer), norm, residual)?;
        let input = normed(norm, residual)?;
        show(observer, Hook::at(HookPoint::MlpIn, layer), &input)?;
        self.mlp.run(spec.activation, &input, &mut MlpObserver { layer, observer })
    }

    fn bytes_on_device(&self) -> usize {
        let Self { attention_norm, query_norm, key_norm, mlp_norm, .. } = self;
        let post_norms = [&self.post_attention_norm, &self.post_mlp_norm];
        let norms = [attention_norm, query_norm, key_norm, mlp_norm].into_iter().chain(post_norms);
        let linears = [&self.query, &self.key, &self.value, &self.attention_output];
        norms.flatten().map(|norm| norm.bytes).sum::<usize>()
            + linears.into_iter().map(|linear| linear.bytes).sum::<usize>()
            + self.sinks.as_ref().map_or(0, |sinks| 4 * sinks.elem_count())
            + self.mlp.bytes()
    }
}

/// Returns rows as they are, or normed if there is a norm.
fn normed(norm: Option<&CandleNorm>, rows: &Tensor) -> Result<Tensor> {
    norm.map_or_else(|| Ok(rows.clone()), |norm| norm.forward(rows))
}

/// Shows rows as a norm leaves them before its gain.
fn show_before_gain(
    observer: &mut Observer<'_>,
    hook: Hook,
    norm: Option<&CandleNorm>,
    rows: &Tensor,
) -> Result<()> {
    if let Some(norm) = norm
        && observer.wants(hook)
    {
        show(observer, hook, &norm.before_gain(rows)?)?;
    }
    Ok(())
}

/// Turns a module's output into what is added to the residual.
fn norm_and_scale(spec: &ModelSpec, norm: Option<&CandleNorm>, delta: Tensor) -> Result<Tensor> {
    scaled(normed(norm, &delta)?, spec.residual_scale)
}

fn scaled(values: Tensor, factor: f32) -> Result<Tensor> {
    if factor.to_bits() == 1f32.to_bits() {
        return Ok(values);
    }
    Ok((values * f64::from(factor))?)
}

/// Returns `[rows, heads, head_dim]` with pairs of dimensions rotated by the angles of the given cosines and sines.
fn rotated(layout: RopeLayout, (cos, sin): &(Tensor, Tensor), states: &Tensor) -> Result<Tensor> {
    let (rows, heads, head_dim) = states.dims3()?;
    let pairs = cos.dim(D::Minus1)?;
    let first = states.narrow(2, 0, 2 * pairs)?;
    let (a, b) = match layout {
        RopeLayout::Half => (first.narrow(2, 0, pairs)?, first.narrow(2, pairs, pairs)?),
        RopeLayout::Interleaved => {
            let pairs_last = first.reshape((rows, heads, pairs, 2))?;
            (pairs_last.narrow(3, 0, 1)?.squeeze(3)?, pairs_last.narrow(3, 1, 1)?.squeeze(3)?)
        }
    };
    let rotated_a = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let rotated_b = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    let rotated = match layout {
        RopeLayout::Half => Tensor::cat(&[rotated_a, rotated_b], 2)?,
        RopeLayout::Interleaved => Tensor::stack(&[rotated_a, rotated_b], 3)?.flatten_from(2)?,
    };
    let rest = head_dim - 2 * pairs;
    if rest == 0 {
        return Ok(rotated);
    }
    Ok(Tensor::cat(&[rotated, states.narrow(2, 2 * pairs, rest)?], 2)?)
}
