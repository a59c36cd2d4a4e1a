//! Models of known shapes with random weights, for benches, where only sizes matter. Their answers are noise.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::quantize::{Request, Scheme, quantize};

/// The shape of a Llama.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The name of the shape: `llama-8b`.
    pub name: &'static str,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    tied: bool,
}

/// The shapes of SmolLM-135M, TinyLlama and Llama 3.1 8B.
pub const SHAPES: [Shape; 3] = [
    Shape {
        name: "llama-135m",
        layers: 30,
        hidden: 576,
        intermediate: 1536,
        heads: 9,
        kv_heads: 3,
        vocabulary: 49_152,
        tied: true,
    },
    Shape {
        name: "tinyllama-1.1b",
        layers: 22,
        hidden: 2048,
        intermediate: 5632,
        heads: 32,
        kv_heads: 4,
        vocabulary: 32_000,
        tied: false,
    },
    Shape {
        name: "llama-8b",
        layers: 32,
        hidden: 4096,
        intermediate: 14_336,
        heads: 32,
        kv_heads: 8,
        vocabulary: 128_256,
        tied: false,
    },
];

/// The number of values generated at a time.
const CHUNK_VALUES: usize = 1 << 20;

impl Shape {
    /// Finds a shape by its name.
    pub fn named(name: &str) -> Option<Self> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// Returns the path of a GGUF file of this shape in `folder`. Makes the file unless it exists, and removes the files that
    /// it is made from.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be written, and those of [`quantize`].
    pub fn gguf(self, folder: &Path, scheme: Scheme) -> Result<PathBuf> {
        let path = folder.join(format!("{}-{}.gguf", self.name, scheme.name()));
        if path.is_file() {
            return Ok(path);
        }
        let source = folder.join(format!("{}-source", self.name));
        self.write(&source)?;
        let unfinished = path.with_extension("incomplete");
        let request = Request { scheme, destination: &unfinished, name: self.name, extra: &[] };
        quantize(&Checkpoint::open(&source)?, &request, &AtomicBool::new(false), &mut |_| {})?;
        std::fs::rename(&unfinished, &path).map_err(|error| Error::io(&path, error))?;
        std::fs::remove_dir_all(&source).map_err(|error| Error::io(&source, error))?;
        Ok(path)
    }

    /// Writes config.json, tokenizer.json and model.safetensors (f16) into `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be written.
    pub fn write(self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let config = folder.join("config.json");
        std::fs::write(&config, self.config().to_string()).map_err(|error| Error::io(&config, error))?;
        let tokens = folder.join("tokenizer.json");
        std::fs::write(&tokens, tokenizer().to_string()).map_err(|error| Error::io(&tokens, error))?;
        let weights = folder.join("model.safetensors");
        self.write_weights(&weights).map_err(|error| Error::io(&weights, error))
    }

    fn write_weights(self, path: &Path) -> std::io::Result<()> {
        let tensors = self.tensors();
        let (mut header, mut offset) = (Map::new(), 0);
        for (name, dims) in &tensors {
            let end = offset + 2 * dims.iter().product::<usize>();
            header.insert(
                name.clone(),
                json!({ "dtype": "F16", "shape": dims, "data_offsets": [offset, end] }),
            );
            offset = end;
        }
        let header = Value::Object(header).to_string();
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (seed, (_, dims)) in tensors.iter().enumerate() {
            let length = dims.iter().product();
            let norm = dims.len() == 1;
            for start in (0..length).step_by(CHUNK_VALUES) {
                let piece = values(seed, start, CHUNK_VALUES.min(length - start), norm);
                file.write_all(&piece)?;
            }
        }
        file.flush()
    }

    fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let (hidden, wide) = (self.hidden, self.intermediate);
        let kv = hidden / self.heads * self.kv_heads;
        let mut tensors = vec![
            ("model.embed_tokens".to_owned(), vec![self.vocabulary, hidden]),
            ("model.norm".to_owned(), vec![hidden]),
        ];
        if !self.tied {
            tensors.push(("lm_head".to_owned(), vec![self.vocabulary, hidden]));
        }
        for layer in 0..self.layers {
            for (name, dims) in [
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.down_proj", vec![hidden, wide]),
                ("mlp.gate_proj", vec![wide, hidden]),
                ("mlp.up_proj", vec![wide, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}"), dims));
            }
        }
        tensors.into_iter().map(|(name, dims)| (format!("{name}.weight"), dims)).collect()
    }

    fn config(self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 4096,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "float16",
            "vocab_size": self.vocabulary,
        })
    }
}

/// Returns a tokenizer with a token for each byte in GPT-2's alphabet. The rest of the vocabulary is padding.
fn tokenizer() -> Value {
    let mut hidden = 256..;
    let vocabulary: Map<String, Value> = (0..=255u8)
        .map(|byte| {
            let visible = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let code = if visible { u32::from(byte) } else { hidden.next().unwrap_or_default() };
            (char::from_u32(code).unwrap_or_default().to_string(), json!(byte))
        })
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "decoder": { "type": "ByteLevel" },
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    })
}

/// Generates bell-shaped f16 weights with a standard deviation of 0.02, or a norm's weights near 1.
fn values(tensor: usize, start: usize, length: usize, norm: bool) -> Vec<u8> {
    let mut bytes = vec![0; 2 * length];
    bytes.par_chunks_mut(2 * 4096).enumerate().for_each(|(chunk, bytes)| {
        let mut state = (tensor as u64) << 40 ^ (start + chunk * 4096) as u64;
        for value in bytes.as_chunks_mut::<2>().0 {
            // SplitMix64 (Steele, Lea and Flood, 2014). The sum of four uniform numbers is close enough to a bell.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = state;
            bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^= bits >> 31;
            let sum: u64 = (0..4).map(|part| bits >> (16 * part) & 0xffff).sum();
            let bell = (sum as f32 / 65_535.0 - 2.0) * 1.732;
            let weight = if norm { 1.0 + bell * 0.1 } else { bell * 0.02 };
            *value = half::f16::from_f32(weight).to_le_bytes();
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_becomes_a_model_that_opens() {
        let folder = tempfile::tempdir().unwrap();
        let small = Shape {
            layers: 1,
            hidden: 512,
            intermediate: 512,
            heads: 8,
            kv_heads: 2,
            vocabulary: 300,
            ..SHAPES[1]
        };
        let path = small.gguf(folder.path(), Scheme::Q8).unwrap();
        let made = std::fs::metadata(&path).unwrap().modified().unwrap();
        let model = Checkpoint::open(&path).unwrap();
        assert_eq!((model.spec().layers, model.spec().vocabulary_size), (1, 300));
        assert_eq!(small.gguf(folder.path(), Scheme::Q8).unwrap(), path);
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), made, "made once");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn values_are_bell_shaped() {
        let bytes = values(3, 0, 20_000, false);
        let values: Vec<f32> =
            bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect();
        let square = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
        assert!((square.sqrt() - 0.02).abs() < 0.001, "{square}");
    }
}
