//! The tensors that a model of some specification has.

use super::kinds::{MlpKind, NormPlace, QkNorm};
use super::spec::ModelSpec;
use crate::tensor::{TensorType, elements};

/// A tensor that a model of some specification has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// The canonical name.
    pub name: String,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
}

impl ModelSpec {
    /// Returns every tensor that the decoder reads, in the order in which it needs them.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let mut list = List { tensors: Vec::new() };
        list.add("token_embd.weight".to_owned(), &[self.vocabulary_size, self.hidden_size]);
        if let Some(positions) = self.learned_positions {
            list.add("position_embd.weight".to_owned(), &[positions, self.hidden_size]);
        }
        for layer in 0..self.layers {
            self.attention(layer, &mut list);
            self.mlp(layer, &mut list);
        }
        list.norm("output_norm", self.hidden_size, self.norm.bias);
        if !self.tied_embeddings {
            list.add("output.weight".to_owned(), &[self.vocabulary_size, self.hidden_size]);
        }
        if self.logit_bias {
            list.add("output.bias".to_owned(), &[self.vocabulary_size]);
        }
        list.tensors
    }

    /// Returns the number of parameters of a model of this specification. Tied embeddings count once.
    pub fn parameter_count(&self) -> u64 {
        let tensors = self.expected_tensors();
        let elements = tensors.iter().map(|tensor| elements(&tensor.shape));
        elements.map(|count| count.expect("the config's limits keep products in 64 bits")).sum()
    }

    /// Returns the type that a tensor is probably published in, for when no file has been read yet: half floats, unless
    /// the config says that the tensor is packed.
    pub fn published_type(&self, tensor: &ExpectedTensor) -> TensorType {
        let packed = self.experts.and_then(|experts| experts.packed);
        // `blk.{}.ffn_up.{}.weight`
        let of_expert = tensor.shape.len() == 2 && tensor.name.split('.').count() == 5;
        packed.filter(|_| of_expert).unwrap_or(TensorType::BF16)
    }

    fn attention(&self, layer: usize, list: &mut List) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let hidden = self.hidden_size;
        let (query, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        if self.norm.place.before() {
            list.norm(&name("attn_norm"), hidden, self.norm.bias);
        }
        list.linear(&name("attn_q"), query, hidden, self.qkv_bias);
        list.linear(&name("attn_k"), kv, hidden, self.qkv_bias);
        list.linear(&name("attn_v"), kv, hidden, self.qkv_bias);
        if let Some(kind) = self.qk_norm {
            for (part, width) in [("attn_q_norm", query), ("attn_k_norm", kv)] {
                let shape = match kind {
                    QkNorm::PerHead => vec![self.head_dim],
                    QkNorm::EachHead => vec![width / self.head_dim, self.head_dim],
                    QkNorm::Whole => vec![width],
                };
                list.add(format!("{}.weight", name(part)), &shape);
                if self.norm.bias {
                    list.add(format!("{}.bias", name(part)), &shape);
                }
            }
        }
        if self.attention_sinks {
            list.add(format!("{}.weight", name("attn_sinks")), &[self.heads]);
        }
        list.linear(&name("attn_output"), hidden, query, self.output_bias);
        if self.norm.place.after() {
            list.norm(&name("post_attention_norm"), hidden, self.norm.bias);
        }
    }

    fn mlp(&self, layer: usize, list: &mut List) {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        if matches!(self.norm.place, NormPlace::Before | NormPlace::BeforeAndAfter) {
            list.norm(&name("ffn_norm"), hidden, self.norm.bias);
        }
        if let Some(experts) = self.experts.filter(|_| self.layer_specs[layer].experts) {
            list.linear(&name("ffn_gate_inp"), experts.count, hidden, experts.router_bias);
            let inner = experts.intermediate_size;
            for (part, rows, columns) in
                [("ffn_gate", inner, hidden), ("ffn_up", inner, hidden), ("ffn_down", hidden, inner)]
            {
                for expert in 0..experts.count {
                    list.linear(&name(&format!("{part}.{expert}")), rows, columns, self.mlp_bias);
                }
            }
        } else {
            if self.mlp == MlpKind::Gated {
                list.linear(&name("ffn_gate"), inner, hidden, self.mlp_bias);
            }
            list.linear(&name("ffn_up"), inner, hidden, self.mlp_bias);
            list.linear(&name("ffn_down"), hidden, inner, self.mlp_bias);
        }
        if self.norm.place.after() {
            list.norm(&name("post_ffw_norm"), hidden, self.norm.bias);
        }
    }
}

/// The tensors collected so far.
struct List {
    tensors: Vec<ExpectedTensor>,
}

impl List {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.tensors.push(ExpectedTensor { name, shape: shape.to_vec() });
    }

    fn linear(&mut self, name: &str, rows: usize, columns: usize, bias: bool) {
        self.add(format!("{name}.weight"), &[rows, columns]);
        if bias {
            self.add(format!("{name}.bias"), &[rows]);
        }
    }

    fn norm(&mut self, name: &str, width: usize, bias: bool) {
        self.add(format!("{name}.weight"), &[width]);
        if bias {
            self.add(format!("{name}.bias"), &[width]);
        }
    }
}
