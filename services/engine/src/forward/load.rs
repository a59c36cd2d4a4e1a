//! From a checkpoint to a decoder: each tensor by its canonical name, its shape checked against the spec.

use millm_model::arch::{MlpKind, NormPlace, NormSpec, QkNorm};
use millm_model::{Checkpoint, ModelSpec, TensorData};

use crate::error::{Error, Result};
use crate::forward::batch::BatchCapacity;
use crate::forward::decoder::{Decoder, Layer};
use crate::forward::embedding::Embedding;
use crate::forward::linear::{Linear, Weight, check_shape, read_vector};
use crate::forward::mlp::{FeedForward, MixtureOfExperts, Mlp};
use crate::forward::norm::Norm;
use crate::forward::rope::Rope;
use crate::forward::workspace::Workspace;
use crate::kv_cache::{HostKvStore, KvType};
use crate::sys::thread_pool::ThreadPool;

/// The progress of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadProgress<'a> {
    /// The present stage.
    pub stage: LoadStage,
    /// Share of the whole load, from 0 to 1, never falling.
    pub fraction: f32,
    /// Canonical name of the tensor just read, while weights are read.
    pub tensor: Option<&'a str>,
}

/// The stages of a load, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStage {
    /// Weights are read.
    Weights,
    /// The KV cache is allocated.
    Cache,
    /// The engine takes requests.
    Ready,
}

/// The weights' share of the whole load.
const WEIGHTS: f32 = 0.98;

impl Decoder {
    /// Copies the weights; the checkpoint may be dropped afterwards. Batches of up to `capacity` need no further
    /// memory. There is no KV cache yet, see [`Decoder::with_kv_cache`].
    ///
    /// # Errors
    /// Returns an error if a tensor is missing or has another shape than the spec says, or if there is too little
    /// memory.
    pub fn load(
        checkpoint: &Checkpoint,
        pool: ThreadPool,
        capacity: BatchCapacity,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        let spec = checkpoint.spec().clone();
        let mut reader = TensorReader::new(checkpoint, &pool, progress)?;
        let embedding = reader.embedding(&spec)?;
        let layers = reader.layers(&spec)?;
        let norm = reader.norm(&spec, "output_norm")?;
        let output = if spec.tied_embeddings {
            Linear { weight: embedding.tokens.clone(), bias: reader.logit_bias(&spec)? }
        } else {
            reader.linear("output", spec.vocabulary_size, spec.hidden_size, spec.logit_bias)?
        };
        let ropes = spec.ropes.iter().cloned().map(Rope::new).collect();
        let workspace = Workspace::new(&spec, capacity)?;
        let kv_store = HostKvStore::new(&spec, KvType::default(), 0)?;
        Ok(Self { spec, pool, embedding, layers, norm, output, ropes, kv_store, workspace, logit_count: 0 })
    }
}

/// Turns tensors into the parts of a model on a device.
pub(crate) trait Backend {
    type Linear;
    type Norm;
    type Vector;

    /// Loads a table, `[rows, columns]`, of which the host reads rows.
    fn table(&self, data: TensorData<'_>, rows: usize, columns: usize) -> Result<Weight>;

    /// Loads a linear layer. `data` has the shape `[out, in]`.
    fn linear(&self, data: TensorData<'_>, bias: Option<Vec<f32>>) -> Result<Self::Linear>;

    fn norm(&self, norm: Norm) -> Result<Self::Norm>;

    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
}

type LayerOf<B> = Layer<<B as Backend>::Linear, <B as Backend>::Norm, <B as Backend>::Vector>;

impl Backend for ThreadPool {
    type Linear = Linear;
    type Norm = Norm;
    type Vector = Vec<f32>;

    fn table(&self, data: TensorData<'_>, rows: usize, columns: usize) -> Result<Weight> {
        Weight::load(self, data, rows, columns)
    }

    fn linear(&self, data: TensorData<'_>, bias: Option<Vec<f32>>) -> Result<Linear> {
        // The reader has checked that the tensor is a matrix.
        let (rows, columns) = (data.info.shape[0], data.info.shape[1]);
        Ok(Linear { weight: Weight::load(self, data, rows, columns)?, bias })
    }

    fn norm(&self, norm: Norm) -> Result<Norm> {
        Ok(norm)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
}

/// Checks what the kernels rely on. The model crate has checked the same, but a panic would be in a running server.
fn check(spec: &ModelSpec) -> Result<()> {
    let refuse = |option, value, why| Err(Error::Option { option, value, why });
    if spec.kv_heads == 0 || spec.head_dim == 0 || !spec.heads.is_multiple_of(spec.kv_heads) {
        return refuse("kv_heads", spec.kv_heads, "must divide the number of heads");
    }
    if let Some(rope) = spec.ropes.iter().find(|rope| rope.dimensions() > spec.head_dim) {
        return refuse("rope dimensions", rope.dimensions(), "must fit the head");
    }
    if spec.layer_specs.len() != spec.layers {
        return refuse("layers", spec.layer_specs.len(), "must have one spec each");
    }
    for layer in &spec.layer_specs {
        if layer.window == Some(0) {
            return refuse("window", 0, "must be at least 1");
        }
        if let Some(rope) = layer.rope.filter(|rope| *rope >= spec.ropes.len()) {
            return refuse("rope", rope, "must be one of the spec's");
        }
    }
    if let Some(experts) = spec.experts.filter(|experts| experts.used == 0 || experts.used > experts.count) {
        return refuse("experts used", experts.used, "must be at least 1 and at most their number");
    }
    Ok(())
}

/// Reads a checkpoint's tensors one by one.
pub(crate) struct TensorReader<'a, B> {
    checkpoint: &'a Checkpoint,
    backend: &'a B,
    progress: &'a mut dyn FnMut(LoadProgress<'_>),
    read: usize,
    total: usize,
}

impl<'a, B: Backend> TensorReader<'a, B> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        backend: &'a B,
        progress: &'a mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        check(checkpoint.spec())?;
        let total = checkpoint.spec().expected_tensors().len();
        Ok(Self { checkpoint, backend, progress, read: 0, total })
    }

    pub fn embedding(&mut self, spec: &ModelSpec) -> Result<Embedding> {
        let tokens = self.table("token_embd.weight", spec.vocabulary_size, spec.hidden_size)?;
        let positions = |rows: usize| self.table("position_embd.weight", rows, spec.hidden_size);
        let positions = spec.learned_positions.map(positions).transpose()?;
        Ok(Embedding { tokens, positions, scale: spec.embedding_scale })
    }

    pub fn layers(&mut self, spec: &ModelSpec) -> Result<Vec<LayerOf<B>>> {
        (0..spec.layers).map(|index| self.layer(spec, index)).collect()
    }

    pub fn logit_bias(&mut self, spec: &ModelSpec) -> Result<Option<Vec<f32>>> {
        spec.logit_bias.then(|| self.vector("output.bias", spec.vocabulary_size)).transpose()
    }

    fn layer(&mut self, spec: &ModelSpec, index: usize) -> Result<LayerOf<B>> {
        let (queries, keys, hidden) =
            (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.hidden_size);
        let name = |part: &str| format!("blk.{index}.{part}");
        let place = spec.norm.place;
        let own_mlp_norm = place.before() && place != NormPlace::BeforeShared;
        Ok(Layer {
            attention_norm: self.norm_if(place.before(), spec, &name("attn_norm"))?,
            query: self.linear(&name("attn_q"), queries, hidden, spec.qkv_bias)?,
            key: self.linear(&name("attn_k"), keys, hidden, spec.qkv_bias)?,
            value: self.linear(&name("attn_v"), keys, hidden, spec.qkv_bias)?,
            query_norm: self.head_norm(spec, &name("attn_q_norm"), spec.heads)?,
            key_norm: self.head_norm(spec, &name("attn_k_norm"), spec.kv_heads)?,
            sinks: self.sinks(spec, &name("attn_sinks.weight"))?,
            attention_output: self.linear(&name("attn_output"), hidden, queries, spec.output_bias)?,
            post_attention_norm: self.norm_if(place.after(), spec, &name("post_attention_norm"))?,
            mlp_norm: self.norm_if(own_mlp_norm, spec, &name("ffn_norm"))?,
            mlp: self.mlp(spec, index)?,
            post_mlp_norm: self.norm_if(place.after(), spec, &name("post_ffw_norm"))?,
        })
    }

    fn mlp(&mut self, spec: &ModelSpec, index: usize) -> Result<Mlp<B::Linear>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let Some(experts_spec) = spec.experts.filter(|_| spec.layer_specs[index].experts) else {
            return Ok(Mlp::Dense(self.feed_forward(spec, spec.intermediate_size, &name)?));
        };
        let (count, inner) = (experts_spec.count, experts_spec.intermediate_size);
        let router = self.linear(&name("ffn_gate_inp"), count, spec.hidden_size, experts_spec.router_bias)?;
        let one = |expert| self.feed_forward(spec, inner, &|part| name(&format!("{part}.{expert}")));
        let experts = (0..count).map(one).collect::<Result<_>>()?;
        Ok(Mlp::MixtureOfExperts(MixtureOfExperts { router, experts, spec: experts_spec }))
    }

    fn feed_forward(
        &mut self,
        spec: &ModelSpec,
        inner: usize,
        name: &dyn Fn(&str) -> String,
    ) -> Result<FeedForward<B::Linear>> {
        let (hidden, bias) = (spec.hidden_size, spec.mlp_bias);
        let gated = spec.mlp == MlpKind::Gated;
        Ok(FeedForward {
            gate: gated.then(|| self.linear(&name("ffn_gate"), inner, hidden, bias)).transpose()?,
            up: self.linear(&name("ffn_up"), inner, hidden, bias)?,
            down: self.linear(&name("ffn_down"), hidden, inner, bias)?,
        })
    }

    fn sinks(&mut self, spec: &ModelSpec, name: &str) -> Result<Option<B::Vector>> {
        let sinks = spec.attention_sinks.then(|| self.vector(name, spec.heads)).transpose()?;
        sinks.map(|sinks| self.backend.vector(sinks)).transpose()
    }

    fn norm_if(&mut self, exists: bool, spec: &ModelSpec, name: &str) -> Result<Option<B::Norm>> {
        exists.then(|| self.norm(spec, name)).transpose()
    }

    pub fn norm(&mut self, spec: &ModelSpec, name: &str) -> Result<B::Norm> {
        self.norm_of_spans(spec, name, spec.hidden_size, spec.hidden_size)
    }

    /// Reads the norm of queries or keys, if the model has one.
    fn head_norm(&mut self, spec: &ModelSpec, name: &str, heads: usize) -> Result<Option<B::Norm>> {
        let all = heads * spec.head_dim;
        Ok(match spec.qk_norm {
            None => None,
            Some(QkNorm::PerHead) => Some(self.norm_of_spans(spec, name, spec.head_dim, spec.head_dim)?),
            Some(QkNorm::EachHead) => Some(self.norm_of_spans(spec, name, spec.head_dim, all)?),
            Some(QkNorm::Whole) => Some(self.norm_of_spans(spec, name, all, all)?),
        })
    }

    fn norm_of_spans(&mut self, spec: &ModelSpec, name: &str, span: usize, length: usize) -> Result<B::Norm> {
        let NormSpec { kind, eps, bias, offset, .. } = spec.norm;
        let mut weight = self.vector(&format!("{name}.weight"), length)?;
        for weight in &mut weight {
            *weight += offset;
        }
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), length)).transpose()?;
        self.backend.norm(Norm { kind, eps: eps as f32, span, weight, bias })
    }

    pub fn linear(&mut self, name: &str, rows: usize, columns: usize, bias: bool) -> Result<B::Linear> {
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), rows)).transpose()?;
        let name = format!("{name}.weight");
        let tensor = self.checkpoint.tensor(&name)?;
        check_shape(tensor.data(), &[rows, columns])?;
        let linear = self.backend.linear(tensor.data(), bias)?;
        self.count(&name);
        Ok(linear)
    }

    fn table(&mut self, name: &str, rows: usize, columns: usize) -> Result<Weight> {
        let table = self.backend.table(self.checkpoint.tensor(name)?.data(), rows, columns)?;
        self.count(name);
        Ok(table)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>> {
        let vector = read_vector(self.checkpoint.tensor(name)?.data(), length)?;
        self.count(name);
        Ok(vector)
    }

    fn count(&mut self, name: &str) {
        self.read += 1;
        let fraction = WEIGHTS * self.read as f32 / self.total as f32;
        (self.progress)(LoadProgress { stage: LoadStage::Weights, fraction, tensor: Some(name) });
    }
}
