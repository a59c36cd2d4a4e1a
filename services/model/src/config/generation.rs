//! generation_config.json: the tokens that begin and end a sequence, and the sampling that the publisher recommends.

use serde_json::Value;

use super::fields::{Fields, GENERATION_FILE};
use crate::arch::spec::ModelSpec;
use crate::error::Result;
use crate::formats::json::parse_object;

impl ModelSpec {
    /// Joins generation_config.json. Its first token replaces the config's, and its last tokens are added to the config's:
    /// published models keep the chat terminator in one of the two files, and not always in the same one.
    ///
    /// # Errors
    /// [`Error::InvalidFile`](crate::Error::InvalidFile) naming the field that is wrong.
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
        // An id beyond the vocabulary is never generated, and it must not reach a table lookup.
        let known = |id: &u32| (*id as usize) < self.vocabulary_size;
        self.bos_token_id = self.bos_token_id.filter(known);
        self.eos_token_ids.retain(known);
        Ok(self)
    }
}

/// The sampling that generation_config.json recommends. `None` for each value that the file does not state.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GenerationDefaults {
    /// `false`: greedy, whatever the temperature. transformers takes an absent value for `false` too.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// The number of most probable tokens to sample from; 0 for all.
    pub top_k: Option<u32>,
    /// The cumulative probability of the tokens to sample from.
    pub top_p: Option<f32>,
    /// The smallest probability to sample, relative to the most probable token's.
    pub min_p: Option<f32>,
    /// Divides the positive logits of tokens that have occurred, and multiplies the negative ones.
    pub repetition_penalty: Option<f32>,
}

impl GenerationDefaults {
    /// Reads the text of generation_config.json.
    ///
    /// # Errors
    /// [`Error::InvalidFile`](crate::Error::InvalidFile) naming the field that is wrong.
    pub fn from_json(text: &str) -> Result<Self> {
        let map = parse_object(GENERATION_FILE, text)?;
        let fields = Fields::new(GENERATION_FILE, &map);
        let number = |field: &str| -> Result<Option<f32>> {
            // Published files say 0 for "off".
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
