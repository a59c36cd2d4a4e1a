//! A text model within a multimodal one: its config and its tensors are nested, its logits are the same.

use std::path::Path;

use millm_model::Checkpoint;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::families;
use crate::fixtures::fixture;

/// Writes a fixture as its publisher nests it, with renamed tensors.
fn wrap(family: &str, architecture: &str, folder: &Path, rename: impl Fn(&str) -> String) {
    let from = fixture(&format!("families/{family}"));
    let weights = std::fs::read(from.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    let mut tensors: Vec<_> = weights.iter().map(|(name, view)| (rename(name), view)).collect();
    // Tensors of the vision tower are ignored.
    let (_, other) = weights.iter().next().unwrap();
    tensors.push(("vision_tower.embeddings.weight".to_owned(), other));
    safetensors::serialize_to_file(tensors, None, &folder.join("model.safetensors")).unwrap();

    let mut text: Value =
        serde_json::from_str(&std::fs::read_to_string(from.join("config.json")).unwrap()).unwrap();
    let inner = text.as_object_mut().unwrap();
    inner.remove("architectures");
    let eos = inner.remove("eos_token_id");
    let config = json!({
        "architectures": [architecture],
        "model_type": inner["model_type"].as_str().unwrap().trim_end_matches("_text"),
        "eos_token_id": eos,
        "mm_tokens_per_image": 256,
        "text_config": text,
        "vision_config": { "hidden_size": 16 },
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn gemma3_within_a_multimodal_model() {
    const ARCHITECTURE: &str = "Gemma3ForConditionalGeneration";
    let styles: [fn(&str) -> String; 2] = [
        |name| format!("language_model.{name}"),
        |name| match name.strip_prefix("model.") {
            Some(inner) => format!("model.language_model.{inner}"),
            None => name.to_owned(),
        },
    ];
    for style in styles {
        let folder = tempfile::tempdir().unwrap();
        wrap("gemma3", ARCHITECTURE, folder.path(), style);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.spec().architecture, ARCHITECTURE);
        assert_eq!(checkpoint.spec().eos_token_ids, [2]);
        families::run("gemma3", &checkpoint);
        let ours = folder.path().join("ours.gguf");
        families::convert(&checkpoint, &ours);
        families::run("gemma3", &Checkpoint::open(&ours).unwrap());
    }
}
