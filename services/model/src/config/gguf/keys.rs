//! The metadata keys that begin with the architecture's name.

use crate::arch::family::Family;
use crate::arch::kinds::NormKind;
use crate::error::{Error, Result, excerpt};
use crate::formats::gguf::{Array, Metadata, Value};

/// The metadata of a file, and the family that its keys are named after.
pub(super) struct ArchKeys<'a> {
    pub metadata: &'a Metadata,
    pub family: &'static Family,
}

impl<'a> ArchKeys<'a> {
    /// Finds the family of a file.
    pub fn of(metadata: &'a Metadata) -> Result<Self> {
        let architecture = metadata
            .text("general.architecture")?
            .ok_or_else(|| metadata.invalid("general.architecture", "is missing"))?;
        let count = metadata.get(&format!("{architecture}.expert_count")).and_then(Value::as_u64);
        let experts = count.is_some_and(|count| count > 0);
        let family =
            Family::by_gguf_name(architecture, experts).ok_or_else(|| Error::UnsupportedArchitecture {
                architecture: excerpt(architecture),
                supported: Family::supported(),
            })?;
        Ok(Self { metadata, family })
    }

    /// Returns the key with the architecture's name before it.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.gguf.architecture)
    }

    /// Returns a value.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&self.key(key))
    }

    /// Returns a count from 1 to `max`.
    pub fn count(&self, key: &str, max: usize) -> Result<Option<usize>> {
        self.metadata.count(&self.key(key), max)
    }

    /// Returns a count from 1 to `max` that must be present.
    pub fn required(&self, key: &str, max: usize) -> Result<usize> {
        self.metadata.required_count(&self.key(key), max)
    }

    /// Returns a whole number; 1 for a list.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            // A list has a number for each layer.
            Some(Value::Array(_)) => Ok(Some(1)),
            _ => self.metadata.number(&self.key(key)),
        }
    }

    /// Returns a finite float above zero.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.positive(&self.key(key))
    }

    /// Returns whether the value is the float 0.
    pub fn is_zero(&self, key: &str) -> bool {
        self.get(key) == Some(&Value::F32(0.0))
    }

    /// Returns a boolean.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.metadata.flag(&self.key(key))
    }

    /// Returns a string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.metadata.text(&self.key(key))
    }

    /// Returns a flag for each layer, where the key holds a list.
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

    /// Makes an [`Error::InvalidFile`] about a key.
    pub fn invalid(&self, key: &str, why: &str) -> Error {
        self.metadata.invalid(&self.key(key), why)
    }

    /// Makes an [`Error::UnsupportedField`].
    pub fn unsupported(&self, key: &str) -> Error {
        let value = match self.get(key) {
            None => "absent".to_owned(),
            // An array may have millions of elements.
            Some(Value::Array(list)) => format!("an array of {}", list.len()),
            Some(Value::String(text)) => format!("{:?}", excerpt(text)),
            Some(value) => format!("{value:?}"),
        };
        Error::UnsupportedField { field: self.key(key), value }
    }
}

/// Returns the key of the norms' epsilon.
pub(crate) fn norm_key(family: &Family) -> &'static str {
    match family.norm.kind {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    }
}
