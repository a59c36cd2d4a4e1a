//! The hub's descriptions of a model's files: parts of config.json, parameter counts from safetensors headers, and
//! parts of a GGUF header. The hub leaves out what it cannot read.

use serde_json::{Map, Value, json};

use crate::repo::Commit;
use crate::repo::blob::{Blob, Content};

/// No header of a test model is larger.
const HEADER_MOST: u64 = 16 << 20;

/// Returns the parts of config.json that the hub shows.
pub(crate) fn config(commit: &Commit) -> Option<Value> {
    let config = json_file(commit, "config.json")?;
    let mut shown = Map::new();
    for field in ["architectures", "model_type", "auto_map", "quantization_config"] {
        if let Some(value) = config.get(field) {
            shown.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(tokenizer) = json_file(commit, "tokenizer_config.json") {
        let mut part = Map::new();
        for field in ["bos_token", "chat_template", "eos_token", "pad_token", "unk_token"] {
            if let Some(value) = tokenizer.get(field) {
                part.insert(field.to_owned(), value.clone());
            }
        }
        shown.insert("tokenizer_config".to_owned(), Value::Object(part));
    }
    Some(Value::Object(shown))
}

/// Parses a small JSON file.
fn json_file(commit: &Commit, path: &str) -> Option<Value> {
    let blob = commit.files.get(path)?;
    serde_json::from_slice(&blob.content.beginning(HEADER_MOST).ok()?).ok()
}

/// Returns the number of parameters by dtype, over all safetensors files.
pub(crate) fn safetensors(commit: &Commit) -> Option<Value> {
    let mut counts: Map<String, Value> = Map::new();
    let mut total = 0u64;
    for blob in with_extension(commit, ".safetensors") {
        for (dtype, elements) in tensors(&blob.content)? {
            let count = counts.entry(dtype).or_insert(json!(0));
            *count = json!(count.as_u64().unwrap_or(0) + elements);
            total += elements;
        }
    }
    (!counts.is_empty()).then(|| json!({ "parameters": counts, "total": total }))
}

fn with_extension<'a>(commit: &'a Commit, extension: &str) -> impl Iterator<Item = &'a Blob> {
    let files = commit.files.iter().filter(move |(path, _)| path.ends_with(extension));
    files.map(|(_, blob)| blob.as_ref())
}

/// Returns each tensor's dtype and number of elements.
fn tensors(content: &Content) -> Option<Vec<(String, u64)>> {
    let length = content.beginning(8).ok()?;
    let length = u64::from_le_bytes(length.as_ref().try_into().ok()?);
    let header = content.beginning(length.checked_add(8)?.min(HEADER_MOST)).ok()?;
    let header: Map<String, Value> = serde_json::from_slice(header.get(8..)?).ok()?;
    let entries = header.iter().filter(|(name, _)| *name != "__metadata__");
    entries
        .map(|(_, tensor)| {
            let shape = tensor.get("shape")?.as_array()?;
            let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(d.as_u64()?))?;
            Some((tensor.get("dtype")?.as_str()?.to_owned(), elements))
        })
        .collect()
}

/// Returns architecture, context length, template and parameters of the first GGUF file.
pub(crate) fn gguf(commit: &Commit) -> Option<Value> {
    let blob = with_extension(commit, ".gguf").next()?;
    let header = blob.content.beginning(HEADER_MOST).ok()?;
    let mut gguf = Gguf { bytes: &header };
    if gguf.take(4)? != b"GGUF" || gguf.u32()? < 2 {
        return None;
    }
    let (tensors, pairs) = (gguf.u64()?, gguf.u64()?);
    let mut facts = Map::new();
    for _ in 0..pairs {
        let key = gguf.string()?;
        let kind = gguf.u32()?;
        let value = gguf.value(kind)?;
        if key == "general.architecture" {
            facts.insert("architecture".to_owned(), value);
        } else if key.ends_with(".context_length") {
            facts.insert("context_length".to_owned(), value);
        } else if key == "tokenizer.chat_template" {
            facts.insert("chat_template".to_owned(), value);
        }
    }
    let mut total = 0u64;
    for _ in 0..tensors {
        gguf.string()?;
        let dimensions = gguf.u32()?;
        let mut elements = 1u64;
        for _ in 0..dimensions {
            elements = elements.checked_mul(gguf.u64()?)?;
        }
        gguf.take(12)?; // type and offset
        total = total.checked_add(elements)?;
    }
    facts.insert("total".to_owned(), json!(total));
    Some(Value::Object(facts))
}

/// A GGUF header being read: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
struct Gguf<'a> {
    bytes: &'a [u8],
}

impl<'a> Gguf<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<String> {
        let len = usize::try_from(self.u64()?).ok()?;
        Some(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    /// Strings and unsigned 32- and 64-bit numbers; anything else is skipped and null.
    fn value(&mut self, kind: u32) -> Option<Value> {
        let skipped = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4 => return Some(json!(self.u32()?)),
            5 | 6 => 4,
            8 => return Some(json!(self.string()?)),
            9 => {
                let kind = self.u32()?;
                for _ in 0..self.u64()? {
                    self.value(kind)?;
                }
                0
            }
            10 => return Some(json!(self.u64()?)),
            11 | 12 => 8,
            _ => return None,
        };
        self.take(skipped)?;
        Some(Value::Null)
    }
}
