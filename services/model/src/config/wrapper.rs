//! Configs of multimodal models: the text model's config is within, and some of its keys are in the outer object.

use serde_json::{Map, Value};

use super::fields::{CONFIG_FILE, Fields};
use crate::arch::family::{Family, Wrapper};
use crate::error::Result;

/// The text model's config, for messages.
pub(super) const FILE: &str = "config.json text_config";

/// The text model's keys that the outer config may hold.
const SHARED: [&str; 4] = ["bos_token_id", "eos_token_id", "tie_word_embeddings", "quantization_config"];

/// Takes the config of the text model out of `config`. Returns `None` where the model is not multimodal.
pub(super) fn text_model(config: &mut Map<String, Value>) -> Result<Option<(Map<String, Value>, Wrapper)>> {
    let outer = Fields::new(CONFIG_FILE, config);
    let architecture = config.get("architectures").and_then(Value::as_array).and_then(|names| names.first());
    let architecture = architecture.and_then(Value::as_str);
    let model_type = config.get("model_type").and_then(Value::as_str);
    let Some((family, wrapper)) = Family::within(architecture, model_type) else { return Ok(None) };
    if model_type.is_some_and(|model_type| model_type != wrapper.name) {
        return Err(outer.unsupported("model_type"));
    }
    if outer.object("text_config")?.is_none() {
        return Err(outer.invalid("text_config", "is required"));
    }
    let Some(Value::Object(mut text)) = config.swap_remove("text_config") else { return Ok(None) };
    let outer = Fields::new(CONFIG_FILE, config);
    text.insert("architectures".to_owned(), Value::from(vec![family.architecture]));
    for key in SHARED {
        match (outer.get(key), text.get(key)) {
            // The two contradict each other.
            (Some(Value::Bool(shared)), Some(Value::Bool(own))) if shared != own => {
                return Err(outer.unsupported(key));
            }
            (Some(shared), _) => {
                text.insert(key.to_owned(), shared.clone());
            }
            (None, _) => {}
        }
    }
    Ok(Some((text, wrapper)))
}
