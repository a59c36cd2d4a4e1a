//! From a checkpoint to a decoder: each tensor by its canonical name, its shape held against the spec.

use millm_model::{Checkpoint, ModelSpec};

use crate::decoder::{Buffers, Decoder, Layer};
use crate::error::{Error, Result};
use crate::linear::{Linear, Weight, read_vector};
use crate::rope::Rope;
use crate::team::Team;

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadProgress<'a> {
    pub stage: LoadStage,
    /// Of the whole load, 0 to 1, never falling.
    pub fraction: f32,
    /// Canonical name of the tensor just read, while weights are read.
    pub tensor: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStage {
    Weights,
    /// KV cache and activations.
    Cache,
    Ready,
}

/// The weights' part of the whole load.
const WEIGHTS: f32 = 0.98;

impl Decoder {
    /// Copies the weights into memory of its own; the checkpoint may go afterwards. Batches of up to `rows` rows
    /// and `outputs` of logits need no further memory.
    pub fn load(
        checkpoint: &Checkpoint,
        team: Team,
        (rows, outputs): (usize, usize),
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<Self> {
        let spec = checkpoint.spec().clone();
        check(&spec)?;
        let mut reader =
            Reader { checkpoint, team: &team, progress, read: 0, total: spec.expected_tensors().len() };
        let (hidden, vocabulary) = (spec.hidden_size, spec.vocabulary_size);
        let embedding = reader.weight("token_embd.weight", vocabulary, hidden)?;
        let layers = (0..spec.layers).map(|index| reader.layer(&spec, index)).collect::<Result<_>>()?;
        let norm = reader.vector("output_norm.weight", hidden)?;
        let output = if spec.tied_embeddings {
            Linear { weight: embedding.clone(), bias: None }
        } else {
            reader.linear("output", vocabulary, hidden, false)?
        };
        let rope = Rope::new(spec.rope.clone());
        let buffers = Buffers::new(&spec, rows, outputs)?;
        Ok(Self { spec, team, embedding, layers, norm, output, rope, buffers })
    }
}

/// What the kernels rely on; the model crate has checked the same, but a panic here would be in a running server.
fn check(spec: &ModelSpec) -> Result<()> {
    let refuse = |option, value, why| Err(Error::Option { option, value, why });
    if spec.kv_heads == 0 || spec.head_dim == 0 || !spec.heads.is_multiple_of(spec.kv_heads) {
        return refuse("kv_heads", spec.kv_heads, "must divide the number of heads");
    }
    if 2 * spec.rope.inverse_frequencies.len() > spec.head_dim {
        return refuse("rope dimensions", 2 * spec.rope.inverse_frequencies.len(), "must fit the head");
    }
    if spec.sliding_window.len() != spec.layers {
        return refuse("sliding_window", spec.sliding_window.len(), "must have one entry for each layer");
    }
    if spec.sliding_window.contains(&Some(0)) {
        return refuse("sliding_window", 0, "a token sees at least itself");
    }
    Ok(())
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    team: &'a Team,
    progress: &'a mut dyn FnMut(LoadProgress<'_>),
    read: usize,
    total: usize,
}

impl Reader<'_> {
    fn layer(&mut self, spec: &ModelSpec, index: usize) -> Result<Layer> {
        let (hidden, wide) = (spec.hidden_size, spec.intermediate_size);
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let name = |part: &str| format!("blk.{index}.{part}");
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"), hidden)?,
            query: self.linear(&name("attn_q"), queries, hidden, spec.qkv_bias)?,
            key: self.linear(&name("attn_k"), keys, hidden, spec.qkv_bias)?,
            value: self.linear(&name("attn_v"), keys, hidden, spec.qkv_bias)?,
            attention_output: self.linear(&name("attn_output"), hidden, queries, spec.output_bias)?,
            mlp_norm: self.vector(&name("ffn_norm.weight"), hidden)?,
            gate: self.linear(&name("ffn_gate"), wide, hidden, spec.mlp_bias)?,
            up: self.linear(&name("ffn_up"), wide, hidden, spec.mlp_bias)?,
            down: self.linear(&name("ffn_down"), hidden, wide, spec.mlp_bias)?,
        })
    }

    fn linear(&mut self, name: &str, rows: usize, columns: usize, bias: bool) -> Result<Linear> {
        let weight = self.weight(&format!("{name}.weight"), rows, columns)?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), rows)).transpose()?;
        Ok(Linear { weight, bias })
    }

    fn weight(&mut self, name: &str, rows: usize, columns: usize) -> Result<Weight> {
        let weight = Weight::read(self.team, self.checkpoint.tensor(name)?, rows, columns)?;
        self.count(name);
        Ok(weight)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>> {
        let vector = read_vector(self.checkpoint.tensor(name)?, length)?;
        self.count(name);
        Ok(vector)
    }

    fn count(&mut self, name: &str) {
        self.read += 1;
        let fraction = WEIGHTS * self.read as f32 / self.total as f32;
        (self.progress)(LoadProgress { stage: LoadStage::Weights, fraction, tensor: Some(name) });
    }
}
