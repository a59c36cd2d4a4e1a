//! Splits a model's weights into shards with an index, like large models on the hub.

use fake_hub::{Content, RepoSpec};
use serde_json::{Map, Value, json};

use super::fixture;

/// Returns the trained model as `id`, with its tensors in `count` files.
pub fn sharded(mut spec: RepoSpec, count: usize) -> RepoSpec {
    let bytes = std::fs::read(fixture("tiny-millm/model.safetensors")).expect("it is there");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let data = &bytes[8 + length..];
    let tensors: Vec<_> = header.into_iter().filter(|(name, _)| name != "__metadata__").collect();
    let mut index = Map::new();
    for (number, part) in tensors.chunks(tensors.len().div_ceil(count)).enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        index.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
        spec = spec.file(file, shard(part, data));
    }
    let index = json!({ "metadata": { "total_size": data.len() }, "weight_map": index });
    spec.file("model.safetensors.index.json", index.to_string())
}

fn shard(tensors: &[(String, Value)], data: &[u8]) -> Content {
    let (mut header, mut body) = (Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let offset = |at: usize| tensor["data_offsets"][at].as_u64().expect("an offset") as usize;
        let begin = body.len();
        body.extend_from_slice(&data[offset(0)..offset(1)]);
        let mut moved = tensor.clone();
        moved["data_offsets"] = json!([begin, body.len()]);
        header.insert(name.clone(), moved);
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(text.as_bytes());
    file.append(&mut body);
    Content::from(file)
}
