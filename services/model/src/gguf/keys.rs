//! The metadata keys that begin with the architecture's name.

use super::metadata::{Array, Metadata, Value};
use crate::error::{Error, Result, shown};
use crate::family::Family;

pub(super) struct Keys<'a> {
    pub metadata: &'a Metadata,
    pub family: &'static Family,
}

impl<'a> Keys<'a> {
    pub fn of(metadata: &'a Metadata) -> Result<Self> {
        let architecture = metadata
            .text("general.architecture")?
            .ok_or_else(|| metadata.invalid("general.architecture", "is missing"))?;
        let count = metadata.get(&format!("{architecture}.expert_count")).and_then(Value::as_u64);
        let experts = count.is_some_and(|count| count > 0);
        let family =
            Family::by_gguf_name(architecture, experts).ok_or_else(|| Error::UnsupportedArchitecture {
                architecture: architecture.chars().take(120).collect(),
                supported: Family::supported(),
            })?;
        Ok(Self { metadata, family })
    }

    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.gguf.architecture)
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&self.key(key))
    }

    pub fn count(&self, key: &str, most: usize) -> Result<Option<usize>> {
        self.metadata.count(&self.key(key), most)
    }

    pub fn required(&self, key: &str, most: usize) -> Result<usize> {
        self.metadata.required_count(&self.key(key), most)
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            // A list has one for each layer.
            Some(Value::Array(_)) => Ok(Some(1)),
            _ => self.metadata.number(&self.key(key)),
        }
    }

    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.positive(&self.key(key))
    }

    pub fn is_zero(&self, key: &str) -> bool {
        self.get(key) == Some(&Value::F32(0.0))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.metadata.flag(&self.key(key))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.metadata.text(&self.key(key))
    }

    /// One for each layer, where that is what the key holds.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        match self.get(key) {
            Some(Value::Array(Array::Bool(flags))) => Ok(Some(flags.clone())),
            Some(Value::Array(_)) => {
                let flags = self.metadata.integers(&self.key(key))?.unwrap_or_default();
                Ok(Some(flags.into_iter().map(|flag| flag != 0).collect()))
            }
            _ => Ok(None),
        }
    }

    pub fn invalid(&self, key: &str, why: &str) -> Error {
        self.metadata.invalid(&self.key(key), why)
    }

    pub fn unsupported(&self, key: &str) -> Error {
        let value = match self.get(key) {
            None => "absent".to_owned(),
            // Not shown whole: it may have millions of elements.
            Some(Value::Array(list)) => format!("an array of {}", list.len()),
            Some(Value::String(text)) => format!("{:?}", shown(text)),
            Some(value) => format!("{value:?}"),
        };
        Error::UnsupportedField { field: self.key(key), value }
    }
}
