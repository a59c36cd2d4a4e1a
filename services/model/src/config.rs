//! config.json into a `ModelSpec`, as the config classes of transformers read it: in the style of most published
//! models (`rope_theta`, `rope_scaling`) and in the newer one (`rope_parameters`). A key that changes the result
//! is read or refused by name; those that only matter to training are passed over.

mod dimensions;
mod experts;
pub(crate) mod fields;
mod read;
mod refuse;
mod rope;
mod window;
mod wrapper;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::family::Family;
use crate::spec::ModelSpec;
use fields::Fields;
pub use fields::parse_object;
pub(crate) use read::norm_place;

const FILE: &str = "config.json";
pub(crate) const GENERATION_FILE: &str = "generation_config.json";

/// Beyond the largest published models by an order of magnitude; what is over is a broken or hostile file, and
/// products of any of these still fit in 64 bits.
pub(crate) mod cap {
    pub(crate) const LAYERS: usize = 4096;
    pub(crate) const WIDTH: usize = 1 << 20;
    pub(crate) const HEADS: usize = 1 << 14;
    pub(crate) const HEAD_DIM: usize = 1 << 14;
    pub(crate) const VOCABULARY: usize = 1 << 22;
    pub(crate) const CONTEXT: usize = 1 << 26;
    pub(crate) const EXPERTS: usize = 1 << 12;
    /// In all layers.
    pub(crate) const ALL_EXPERTS: usize = 1 << 16;
}

impl ModelSpec {
    /// Reads config.json, joined with generation_config.json where there is one.
    ///
    /// Errors: `InvalidFile` naming the field, `UnsupportedArchitecture`, `UnsupportedField`.
    pub fn from_config_json(config: &str, generation_config: Option<&str>) -> Result<Self> {
        let mut config = parse_object(FILE, config)?;
        let spec = match wrapper::text_model(&mut config)? {
            Some((text, wrapper)) => {
                let spec = read::spec(&Fields::new(wrapper::FILE, &text))?;
                Self { architecture: wrapper.architecture.to_owned(), ..spec }
            }
            None => read::spec(&Fields::new(FILE, &config))?,
        };
        spec.with_generation_config(generation_config.unwrap_or("{}"))
    }

    /// Joins generation_config.json: it wins for the first token and adds to the last ones, since published models
    /// keep the chat terminator in one of the two files, and not always the same.
    pub fn with_generation_config(mut self, text: &str) -> Result<Self> {
        let map = parse_object(GENERATION_FILE, text)?;
        let generation = Fields::new(GENERATION_FILE, &map);
        if let Some(&bos) = generation.token_ids("bos_token_id")?.first() {
            self.bos_token_id = Some(bos);
        }
        for id in generation.token_ids("eos_token_id")? {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        // An id beyond the vocabulary can never come; it must not reach a table lookup either.
        let known = |id: &u32| (*id as usize) < self.vocabulary_size;
        self.bos_token_id = self.bos_token_id.filter(known);
        self.eos_token_ids.retain(known);
        Ok(self)
    }
}

/// Whether the repository wants its own Python to be run (`auto_map`). It never is.
pub fn requires_custom_code(config_json: &str) -> bool {
    let Ok(config) = parse_object(FILE, config_json) else { return false };
    match config.get("auto_map") {
        None | Some(Value::Null) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(_) => true,
    }
}

fn family_of(config: &Fields<'_>) -> Result<(String, &'static Family)> {
    let model_type = config.text("model_type")?;
    let named = match config.get("architectures") {
        None => None,
        Some(Value::Array(names)) => match names.first() {
            None => None,
            Some(Value::String(name)) => Some(name.as_str()),
            Some(_) => return Err(config.invalid("architectures", "expected a list of names")),
        },
        Some(_) => return Err(config.invalid("architectures", "expected a list of names")),
    };
    let unsupported = |architecture: &str| Error::UnsupportedArchitecture {
        architecture: architecture.chars().take(120).collect(),
        supported: Family::supported(),
    };
    let family = match (named, model_type) {
        (Some(name), _) => Family::by_architecture(name).ok_or_else(|| unsupported(name))?,
        (None, Some(model_type)) => {
            Family::by_model_type(model_type).ok_or_else(|| unsupported(model_type))?
        }
        (None, None) => return Err(config.invalid("architectures", "is needed")),
    };
    // The type chooses the config class, and with it the meaning of every key.
    if model_type.is_some_and(|model_type| model_type != family.name) {
        return Err(config.unsupported("model_type"));
    }
    Ok((family.architecture.to_owned(), family))
}

/// What generation_config.json recommends; `None` where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GenerationDefaults {
    /// `false`: greedy, whatever the temperature; absent means the same to transformers.
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl GenerationDefaults {
    pub fn from_json(text: &str) -> Result<Self> {
        let map: Map<String, Value> = parse_object(GENERATION_FILE, text)?;
        let fields = Fields::new(GENERATION_FILE, &map);
        let number = |field: &str| -> Result<Option<f32>> {
            // Zero is said for "off" in published files.
            if fields.get(field).and_then(Value::as_f64) == Some(0.0) {
                return Ok(Some(0.0));
            }
            Ok(fields.positive(field)?.map(|value| value as f32))
        };
        Ok(Self {
            do_sample: fields.flag("do_sample")?,
            temperature: number("temperature")?,
            top_k: number("top_k")?.map(|value| value as u32),
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
        })
    }
}
