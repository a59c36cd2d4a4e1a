//! Models of any size from a seed: a valid Llama checkpoint whose weights are computed as they are served. They serve
//! tests of transfers, of resuming and of memory; their answers make no sense.

use std::io;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::repo::RepoSpec;
use crate::repo::blob::{Content, Pattern, Seeded, Tiled};

/// The size from which weights repeat themselves, because computing them would limit the transfer's speed.
const TILED_LEAST: u64 = 512 << 20;
/// The size above which weights are claimed, not hashed.
const HASHED_MOST: u64 = 16 << 30;

/// The shape of a synthetic model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The seed of the weights.
    pub seed: u64,
    /// The number of layers.
    pub layers: u64,
    /// The width of the residual stream.
    pub hidden: u64,
    /// The width of the MLP.
    pub intermediate: u64,
    /// The number of attention heads.
    pub heads: u64,
    /// The number of key and value heads.
    pub kv_heads: u64,
    /// The number of tokens.
    pub vocabulary: u64,
}

impl Shape {
    /// Returns a shape of about `mib` MiB of bf16 weights, in layers of 5 to 6 MiB. All widths suit k-quants.
    pub fn of_mib(seed: u64, mib: u64) -> Self {
        let mut shape = Self {
            seed,
            layers: 1,
            hidden: 512,
            intermediate: 1024,
            heads: 8,
            kv_heads: 4,
            vocabulary: 2048,
        };
        while shape.weights_bytes() < mib << 20 {
            shape.layers += 1;
        }
        shape
    }

    /// Returns the bytes of all weights in bf16.
    pub fn weights_bytes(&self) -> u64 {
        self.tensors().iter().map(|(_, dims)| 2 * dims.iter().product::<u64>()).sum()
    }

    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let hidden = self.hidden;
        let kv = hidden / self.heads * self.kv_heads;
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        for layer in 0..self.layers {
            for (name, dims) in [
                ("input_layernorm", vec![hidden]),
                ("mlp.down_proj", vec![hidden, self.intermediate]),
                ("mlp.gate_proj", vec![self.intermediate, hidden]),
                ("mlp.up_proj", vec![self.intermediate, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), dims));
            }
        }
        tensors
    }

    /// Returns the content of model.safetensors.
    pub fn safetensors(&self) -> Content {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut offset = 0u64;
        for (name, dims) in self.tensors() {
            let end = offset + 2 * dims.iter().product::<u64>();
            header.insert(name, json!({ "dtype": "BF16", "shape": dims, "data_offsets": [offset, end] }));
            offset = end;
        }
        let mut text = Value::Object(header).to_string();
        // The data begins at a multiple of 8.
        while !text.len().is_multiple_of(8) {
            text.push(' ');
        }
        let mut head = (text.len() as u64).to_le_bytes().to_vec();
        head.extend_from_slice(text.as_bytes());
        Content::Seeded(Seeded {
            size: head.len() as u64 + offset,
            head: Bytes::from(head),
            seed: self.seed,
            pattern: Pattern::Bf16Weights,
        })
    }

    /// Returns the shape of a model of many terabytes, which fits on no disk.
    pub fn enormous() -> Self {
        Self {
            seed: 0,
            layers: 400,
            hidden: 32_768,
            intermediate: 131_072,
            heads: 256,
            kv_heads: 256,
            vocabulary: 2048,
        }
    }

    /// Returns the content of config.json.
    pub fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 2048,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocabulary,
        })
    }

    /// Returns a repository of this model with the tokenizer of a folder, which must have `vocabulary` tokens.
    ///
    /// # Errors
    /// Returns an error if the folder has no tokenizer.json or no tokenizer_config.json.
    pub fn repo(&self, id: &str, tokenizer: &Path) -> io::Result<RepoSpec> {
        let weights = match self.safetensors() {
            Content::Seeded(seeded) if seeded.size > HASHED_MOST => Content::Claimed(seeded),
            Content::Seeded(seeded) if seeded.size >= TILED_LEAST => Content::Tiled(Tiled::weights(&seeded)),
            content => content,
        };
        let mut spec = RepoSpec::new(id)
            .file("config.json", self.config().to_string())
            .file("model.safetensors", weights);
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let path = tokenizer.join(file);
            if !path.is_file() {
                let message = format!("{} is missing", path.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            spec = spec.file(file, path.as_path());
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_enormous_is_only_claimed() {
        assert!(Shape::enormous().weights_bytes() > 10 << 40);
        let fixture = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny-millm"));
        let spec = Shape::enormous().repo("o/n", fixture).unwrap();
        assert!(spec.files.iter().any(|(_, content)| matches!(content, Content::Claimed(_))));
    }

    #[test]
    fn the_header_describes_the_file() {
        let shape = Shape::of_mib(1, 64);
        let Content::Seeded(seeded) = shape.safetensors() else { panic!("computed") };
        assert!((64 << 20..72 << 20).contains(&seeded.size));
        let len = u64::from_le_bytes(seeded.head[..8].try_into().unwrap());
        assert_eq!(len as usize + 8, seeded.head.len());
        let header: Map<String, Value> = serde_json::from_slice(&seeded.head[8..]).unwrap();
        let last = header.values().filter_map(|t| t["data_offsets"][1].as_u64()).max().unwrap();
        assert_eq!(seeded.head.len() as u64 + last, seeded.size);
        assert_eq!(last, shape.weights_bytes());
    }
}
