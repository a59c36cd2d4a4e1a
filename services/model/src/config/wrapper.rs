//! Configs of models of several media: the text model's own config is within, and some of its keys are beside.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::error::Result;
use crate::family::{Family, Wrapper};

pub(super) const FILE: &str = "config.json text_config";

/// What the outer config may say of the text model.
const SHARED: [&str; 4] = ["bos_token_id", "eos_token_id", "tie_word_embeddings", "quantization_config"];

/// The config of the text model within, taken out of `config`; `None` where there is no other medium.
pub(super) fn text_model(config: &mut Map<String, Value>) -> Result<Option<(Map<String, Value>, Wrapper)>> {
    let outer = Fields::new(super::FILE, config);
    let architecture = config.get("architectures").and_then(Value::as_array).and_then(|names| names.first());
    let architecture = architecture.and_then(Value::as_str);
    let model_type = config.get("model_type").and_then(Value::as_str);
    let Some((family, wrapper)) = Family::within(architecture, model_type) else { return Ok(None) };
    if model_type.is_some_and(|model_type| model_type != wrapper.name) {
        return Err(outer.unsupported("model_type"));
    }
    if outer.object("text_config")?.is_none() {
        return Err(outer.invalid("text_config", "is needed"));
    }
    let Some(Value::Object(mut text)) = config.swap_remove("text_config") else { return Ok(None) };
    let outer = Fields::new(super::FILE, config);
    text.insert("architectures".to_owned(), Value::from(vec![family.architecture]));
    for key in SHARED {
        match (outer.get(key), text.get(key)) {
            // Only one of the two can be meant.
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
