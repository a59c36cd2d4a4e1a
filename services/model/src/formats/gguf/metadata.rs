//! GGUF's typed key-value pairs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A value of one of GGUF's types.
#[allow(missing_docs, reason = "the variants are named after the types that they hold")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A list of values of one type. Lists of lists are not read: no model uses them.
#[allow(missing_docs, reason = "the variants are named after the types that they hold")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
}

impl Value {
    /// Returns a whole number that is not negative, whatever its width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// Returns a float of either width.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(n) => Some(n.into()),
            Self::F64(n) => Some(n),
            _ => None,
        }
    }

    /// Returns about how many bytes the value takes in a file.
    pub fn size(&self) -> usize {
        match self {
            Self::Array(Array::String(list)) => list.iter().map(|text| text.len() + 8).sum(),
            Self::Array(list) => list.len() * 8,
            Self::String(text) => text.len() + 8,
            _ => 8,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Array(_) => "an array",
            Self::String(_) => "a string",
            Self::Bool(_) => "a boolean",
            Self::F32(_) | Self::F64(_) => "a float",
            _ => "an integer",
        }
    }
}

impl Array {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(list) => list.len(),
            Self::I8(list) => list.len(),
            Self::U16(list) => list.len(),
            Self::I16(list) => list.len(),
            Self::U32(list) => list.len(),
            Self::I32(list) => list.len(),
            Self::F32(list) => list.len(),
            Self::U64(list) => list.len(),
            Self::I64(list) => list.len(),
            Self::F64(list) => list.len(),
            Self::Bool(list) => list.len(),
            Self::String(list) => list.len(),
        }
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All key-value pairs of a file. Getters return `Ok(None)` for an absent key, and an error that names the key for a value
/// of another type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The file's name, for messages.
    pub(crate) file: String,
    pub(crate) pairs: BTreeMap<String, Value>,
}

impl Metadata {
    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.get(key)
    }

    /// Returns the pairs whose keys begin with `prefix`.
    #[must_use]
    pub fn only(&self, prefix: &str) -> Self {
        let pairs = self.pairs.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Self {
            file: self.file.clone(),
            pairs: pairs.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// Replaces the value of `key`; `None` removes the pair.
    pub fn set(&mut self, key: &str, value: Option<Value>) {
        match value {
            Some(value) => self.pairs.insert(key.to_owned(), value),
            None => self.pairs.remove(key),
        };
    }

    /// Iterates over all pairs in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Makes an [`Error::InvalidFile`] about one key.
    pub fn invalid(&self, key: &str, why: &str) -> Error {
        Error::invalid(&*self.file, format!("{key}: {why}"))
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|value| {
                get(value)
                    .ok_or_else(|| self.invalid(key, &format!("expected {wanted}, is {}", value.kind())))
            })
            .transpose()
    }

    /// Returns a string.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns a boolean.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "a boolean", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// Returns a whole number of any width.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a negative number or a value of another type.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number", Value::as_u64)
    }

    /// Returns a float of either width that is finite and above zero.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for any other number or a value of another type.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        let Some(number) = self.read(key, "a float", Value::as_f64)? else { return Ok(None) };
        if number.is_finite() && number > 0.0 {
            Ok(Some(number))
        } else {
            Err(self.invalid(key, &format!("{number} is not a finite number above 0")))
        }
    }

    /// Returns an array of strings.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.read(key, "an array of strings", |value| match value {
            Value::Array(Array::String(list)) => Some(list.as_slice()),
            _ => None,
        })
    }

    /// Returns an array of 32-bit floats.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        self.read(key, "an array of floats", |value| match value {
            Value::Array(Array::F32(list)) => Some(list.as_slice()),
            _ => None,
        })
    }

    /// Returns an array of integers of most widths.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for a value of another type.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.read(key, "an array of integers", |value| match value {
            Value::Array(Array::I32(list)) => Some(list.iter().map(|&n| n.into()).collect()),
            Value::Array(Array::U32(list)) => Some(list.iter().map(|&n| n.into()).collect()),
            Value::Array(Array::I8(list)) => Some(list.iter().map(|&n| n.into()).collect()),
            Value::Array(Array::U8(list)) => Some(list.iter().map(|&n| n.into()).collect()),
            Value::Array(Array::I64(list)) => Some(list.clone()),
            _ => None,
        })
    }

    /// Returns a count from 1 to `max`. A list that holds the same count for each layer is that count.
    pub(crate) fn count(&self, key: &str, max: usize) -> Result<Option<usize>> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(_)) => {
                let list = self.integers(key)?.unwrap_or_default();
                let first = list.first().copied().ok_or_else(|| self.invalid(key, "is an empty list"))?;
                if list.iter().any(|&other| other != first) {
                    return Err(Error::UnsupportedField {
                        field: key.to_owned(),
                        value: "differs between layers".to_owned(),
                    });
                }
                u64::try_from(first).ok()
            }
            Some(_) => self.number(key)?,
        };
        number
            .filter(|number| (1..=max as u64).contains(number))
            .map(|number| Some(number as usize))
            .ok_or_else(|| self.invalid(key, &format!("expected a whole number from 1 to {max}")))
    }

    pub(crate) fn required_count(&self, key: &str, max: usize) -> Result<usize> {
        self.count(key, max)?.ok_or_else(|| self.invalid(key, "is missing"))
    }
}
